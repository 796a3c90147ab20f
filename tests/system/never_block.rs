//! T43: what the host lives by and its operator comes from is never blocked, by command or socket: a block of just that is
//! refused, a block around it spares it. Protocols below TCP and UDP pass whatever is blocked.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use detector_tests::clients::{Kind, Report, batch};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_INTERFACE, CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4};
use detector_tests::process::output;
use detector_tests::programs;
use detector_tests::server::Nginx;
use serde_json::{Value, json};

use crate::scene::{ensure_answered, ensure_refused, from};

const CONFIG: &str = "[enforce]\nnever_block = [\"192.0.2.10\", \"198.51.100.0/24\"]\nresolv_conf = [\"RESOLV\"]\n";

/// Sends an echo request (RFC 792, RFC 4443) and waits for its reply.
const ECHO: &str = "
import socket, struct, sys
source, address = sys.argv[1:]
six = ':' in address
kind, protocol = (128, socket.IPPROTO_ICMPV6) if six else (8, socket.IPPROTO_ICMP)
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol)
s.settimeout(5)
s.bind((source, 0))
body = struct.pack('!HH', 7, 7)
checksum = 0xffff - (kind * 256 + 14)
s.sendto(struct.pack('!BBH', kind, 0, checksum) + body, (address, 0))
while True:
    reply, sender = s.recvfrom(999)
    if (reply if six else reply[20:])[0] == (129 if six else 0):
        break
";

/// A lab with routes and resolvers, and its daemon.
fn protected() -> Result<(Lab, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let server = lab.server();
    server.ip("route add default via 10.77.0.254")?;
    server.ip("route add 203.0.113.0/24 nexthop via 10.77.0.252 nexthop via 10.77.0.253")?;
    server.ip(&format!("-6 route add default via fe80::9 dev {SERVER_INTERFACE}"))?;
    let resolv = lab.file("resolv.conf");
    fs::write(&resolv, "nameserver 10.77.0.53\nnameserver fd77::53\n")?;
    let config = CONFIG.replace("RESOLV", &resolv.display().to_string());
    // The options of a daemon live as long as the test.
    let config: &'static str = config.leak();
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    Ok((lab, daemon))
}

/// Asks over the socket, as any program may.
fn ask(lab: &Lab, request: &Value) -> Result<Value> {
    let mut stream = BufReader::new(UnixStream::connect(control_socket(lab))?);
    stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn block(subject: &str) -> Value {
    json!({ "verb": "block", "subject": subject, "ttl": "1h" })
}

/// By command, from within an SSH session.
fn command(lab: &Lab, subject: &str) -> Result<(bool, String)> {
    let mut command = lab.server().command(programs::detector()?);
    command.args(["block", subject]).env("DETECTOR_CONTROL_SOCKET", control_socket(lab));
    let done = command.env("SSH_CONNECTION", "10.77.0.22 50000 10.77.0.1 22").output()?;
    Ok((done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()))
}

#[test]
fn twelve_protected_things_are_refused_by_command_and_socket() -> Result<()> {
    let (lab, daemon) = protected()?;
    let things = [
        ("own address", "10.77.0.1"),
        ("own IPv6 address", "fd77::1"),
        ("own loopback", "127.0.0.1"),
        ("gateway", "10.77.0.254"),
        ("gateway of several", "10.77.0.253"),
        ("IPv6 gateway", "fe80::9"),
        ("resolver", "10.77.0.53"),
        ("IPv6 resolver", "fd77::53"),
        ("configured health check", "192.0.2.10"),
        ("configured prefix", "198.51.100.0/24"),
        ("address in it", "198.51.100.7"),
        ("the operator's SSH client", "10.77.0.22"),
    ];
    let mut refused = 0;
    for (what, subject) in things {
        let (done, said) = command(&lab, subject)?;
        ensure!(!done && said.contains("is never blocked"), "{what} by command: {said}");
        let answer = ask(&lab, &block(subject))?;
        ensure!(answer["response"] == "refused", "{what} by socket: {answer}");
        refused += 2;
    }
    show(&format!("never-block: {refused} of 24 blocks of protected things refused"));
    assert_eq!(daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "never_block")]), 24.0);
    assert_eq!(daemon.metrics(&lab)?.sum("detector_enforce_verdicts", &[]), 0.0);

    // In a list one of them refuses all, or is left out.
    let list = lab.file("list.txt").display().to_string();
    fs::write(&list, "192.0.2.77\n10.77.0.254\n")?;
    let done = detector_tests::daemon::control(&lab, &["block", "--from", &list])?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(1) && said.contains("line 2: 10.77.0.254"), "{said}");
    let said = control_ok(&lab, &["block", "--from", &list, "--skip-bad"])?;
    ensure!(said.contains("blocked 1 entries") && said.contains("line 2"), "{said}");

    // Around them a block is put in force, and says what it spares.
    let (done, said) = command(&lab, "10.77.0.0/24")?;
    ensure!(done && said.contains("never blocked in it: 10.77.0.1 (an address of this host)"), "{said}");
    Ok(())
}

/// The set follows the host: a route, an address, a resolver that comes is never blocked, one that goes is like any other.
#[test]
fn the_set_follows_the_host() -> Result<()> {
    let (lab, daemon) = protected()?;
    let server = lab.server();
    let is_refused = |subject: &str| -> Result<bool> {
        let answer = ask(&lab, &block(subject))?;
        ask(&lab, &json!({ "verb": "unblock", "subject": subject }))?;
        Ok(answer["response"] == "refused")
    };
    let becomes = |subject: &str, refused: bool| {
        let what = format!("{subject} to be refused: {refused}");
        until(&what, PATIENCE, || Ok((is_refused(subject)? == refused).then_some(())))
    };
    ensure!(!is_refused("10.77.0.77")? && !is_refused("10.77.0.54")? && !is_refused("10.77.0.9")?);
    server.ip("route add 100.64.0.0/10 via 10.77.0.77")?;
    becomes("10.77.0.77", true)?;
    server.ip("route del 100.64.0.0/10 via 10.77.0.77")?;
    becomes("10.77.0.77", false)?;
    server.ip(&format!("address add 10.77.0.9/24 dev {SERVER_INTERFACE}"))?;
    becomes("10.77.0.9", true)?;
    fs::write(lab.file("resolv.conf"), "nameserver 10.77.0.54 # moved\n")?;
    becomes("10.77.0.54", true)?;
    becomes("10.77.0.53", false)?;
    assert_eq!(daemon.metrics(&lab)?.sum("detector_table_entries", &[("table", "never_block_resolver")]), 1.0);
    Ok(())
}

/// With all of IPv4 blocked the operator's SSH session goes on, even on a protected port; others get nothing. ARP,
/// neighbour discovery and ICMP pass.
#[test]
fn with_everything_blocked_the_operator_gets_in() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let _daemon = Daemon::start(
        &lab,
        DaemonOptions { arguments: &["--port", "22", "--port", "443"], ..DaemonOptions::default() },
    )?;
    let listener = "import socket\ns = socket.create_server(('', 22))\nprint('up', flush=True)\n\
                    while True:\n c, _ = s.accept()\n c.sendall(b'SSH-2.0-lab\\r\\n')\n c.close()\n";
    let mut command = lab.server().command(programs::python()?);
    command.args(["-c", listener]).stdout(std::process::Stdio::piped());
    let mut sshd = detector_tests::process::Process::start("a listener on port 22", &mut command)?;
    BufReader::new(sshd.child().stdout.take().context("no pipe")?).read_line(&mut String::new())?;
    let ssh_from = |source: std::net::IpAddr| -> Result<bool> {
        let script = format!(
            "import socket\ns = socket.create_connection(('{SERVER_V4}', 22), 1, ('{source}', 0))\nassert s.recv(99)"
        );
        Ok(lab.client().command(programs::python()?).args(["-c", &script]).output()?.status.success())
    };
    ensure!(ssh_from(CLIENT_V4)? && ssh_from(OTHER_CLIENT_V4)?, "before any block");

    let operator = json!({ "ssh_client": CLIENT_V4.to_string() });
    for half in ["0.0.0.0/1", "128.0.0.0/1", "2000::/3", "fc00::/7"] {
        let answer = ask(&lab, &json!({ "verb": "block", "subject": half, "ttl": "1h", "care": operator }))?;
        ensure!(answer["response"] == "changed", "{answer}");
    }
    ensure!(ssh_from(CLIENT_V4)?, "the operator is locked out");
    ensure!(!ssh_from(OTHER_CLIENT_V4)?, "somebody else gets in");
    ensure_answered(&lab, &from(CLIENT_V4), "never blocked on any port")?;
    ensure_refused(&lab, &from(OTHER_CLIENT_V4), "everything is blocked")?;
    lab.client().ip(&format!("neigh flush dev {CLIENT_INTERFACE}"))?;
    lab.server().ip(&format!("neigh flush dev {SERVER_INTERFACE}"))?;
    for (address, source) in [("10.77.0.1", "10.77.0.3"), ("fd77::1", "fd77::2")] {
        output(lab.client().command(programs::python()?).args(["-c", ECHO, source, address]))?;
    }
    let reports = batch(&lab, &from(OTHER_CLIENT_V4), &[Kind::Python], 1)?;
    ensure!(!reports.iter().all(Report::answered));
    Ok(())
}
