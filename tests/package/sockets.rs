//! The socket broker of the package (threats.md T61): a daemon that can't make an Internet socket serves its metrics page and
//! the decision endpoint, asks resolvers of other hosts, sees whether a challenge listener is healthy, and goes on when the
//! broker is killed; what a taken-over daemon would make of a socket that it has stays on this host, and what it may not
//! have it doesn't get.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    deadline::{PATIENCE, until},
    lab::{CLIENT_V4, Lab, OTHER_CLIENT_V4, SERVER_V4},
    process::{Process, output},
    programs,
    server::{Nginx, SERVER_NAME},
};
use nix::sys::signal::Signal;

use crate::{
    VERSION,
    installed::{ensure_blocked, field, install, lab, property, status},
    journal::metrics,
    machine::Machine,
    privileges::probe,
};

/// Where web servers ask over TCP.
const DECISION: &str = "127.0.0.1:9466";
/// A trusted proxy, which isn't there.
const PROXY: &str = "10.77.0.250";
const GOOGLE: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

/// What a process of the daemon's user gets of the broker, and makes of it.
const TAKEN_OVER: &str = "package/taken_over.pl";

/// A DNS server on another host than the daemon's, which says that a client is a crawler's.
fn resolver(lab: &Lab) -> Result<Process> {
    let mut command = lab.client().command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon"]);
    command.args([&format!("--listen-address={CLIENT_V4}"), "--bind-interfaces", "--user=root", "--pid-file="]);
    command.args(["--local=//", "--log-queries", "--ptr-record=3.0.77.10.in-addr.arpa,crawl-1.googlebot.com"]);
    command.arg(format!("--host-record=crawl-1.googlebot.com,{OTHER_CLIENT_V4}"));
    let log = File::create(lab.file("dns.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Process::start("dnsmasq", &mut command)
}

/// A web server's question about a client behind [`PROXY`]: the status that answers it.
fn ask(lab: &Lab) -> Result<String> {
    let mut command = lab.server().command("curl");
    command.args(["-sS", "--noproxy", "*", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    command.args(["-A", GOOGLE, "-H", &format!("x-detector-client: {PROXY}"), "-H", "x-detector-uri: /"]);
    command.args(["-H", &format!("x-forwarded-for: {OTHER_CLIENT_V4}")]);
    output(command.arg(format!("http://{DECISION}/")))
}

fn serves(lab: &Lab, when: &str) -> Result<()> {
    ensure!(metrics(lab)?.sum("detector_kernel_interfaces", &[]) > 0.0, "{when}: no metrics page");
    ensure!(ask(lab)? == "200", "{when}: web servers are not answered");
    Ok(())
}

/// A unit's state, by its name.
fn state(machine: &Machine, unit: &str) -> Result<String> {
    Ok(machine.run(&format!("systemctl show --property SubState --value {unit}"))?.trim().to_owned())
}

#[test]
fn the_daemon_serves_and_asks_without_a_right_to_internet_sockets() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let _dns = resolver(&lab)?;
    let machine = Machine::boot(&lab)?;
    machine.run(&format!("echo nameserver {CLIENT_V4} >/etc/resolv.conf"))?;
    install(&machine, VERSION)?;
    let listen = format!("sed -i 's/^listen = \"off\"/listen = \"{DECISION}\"/' /etc/detector/detector.toml");
    let proxy =
        format!("sed -i 's/^trusted_proxies = .*/trusted_proxies = [\"{PROXY}\"]/' /etc/detector/detector.toml");
    machine.run(&format!("{listen} && {proxy} && systemctl restart detector"))?;
    serves(&lab, "started")?;

    // Over the network, to a host that no line of the unit names.
    until("DNS to say", PATIENCE, || {
        ask(&lab)?;
        let confirmed = [("check", "crawler"), ("outcome", "confirmed")];
        Ok((metrics(&lab)?.sum("detector_checks_total", &confirmed) == 1.0).then_some(()))
    })
    .with_context(|| fs::read_to_string(lab.file("dns.log")).unwrap_or_default())?;

    // Killed, the broker takes nothing with it, and is there for the next request.
    machine.run(&format!("detector block {OTHER_CLIENT_V4} --ttl 1h"))?;
    let (pid, daemon) = (broker(&machine)?, property(&machine, "MainPID")?);
    machine.run("systemctl kill --signal KILL --kill-whom main detector-sockets.service")?;
    until("the broker to be gone", PATIENCE, || Ok((broker(&machine)? != pid).then_some(())))?;
    serves(&lab, "with the broker killed")?;
    ensure_blocked(&lab, "with the broker killed")?;
    machine.run("systemctl stop detector-sockets.socket detector-sockets.service")?;
    serves(&lab, "without a broker")?;
    assert_eq!(property(&machine, "MainPID")?, daemon, "it was started again");

    // Without a broker it starts all the same, says what is missing, and has it as soon as there is one.
    machine.run("systemctl mask --runtime --now detector-sockets.socket && systemctl restart detector")?;
    ensure!(status(&machine).is_ok(), "the daemon doesn't start");
    ensure_blocked(&lab, "started without a broker")?;
    ensure!(serves(&lab, "").is_err(), "something is served");
    let log = machine.run("journalctl --unit detector --output cat --no-pager")?;
    ensure!(log.contains("can't be served yet") && log.contains("systemctl status detector-sockets"), "{log}");
    machine.run("systemctl unmask --runtime detector-sockets.socket && systemctl start detector-sockets.socket")?;
    until("the page and the endpoint", PATIENCE, || Ok(serves(&lab, "").is_ok().then_some(())))?;

    // It goes with the daemon, and is there again with it.
    machine.run("systemctl stop detector")?;
    assert_eq!(state(&machine, "detector-sockets.service")?, "dead");
    machine.run("systemctl start detector")?;
    serves(&lab, "started again")
}

/// A challenge listener with the web server's certificate, registered with the machine's daemon.
fn challenger(lab: &Lab, machine: &Machine) -> Result<Process> {
    let mut command = lab.server().command(programs::python()?);
    command.arg("-B").arg(programs::clients().with_file_name("challenger.py"));
    command.arg("--control").arg(machine.file("/run/detector/control.sock"));
    let certificate = lab.file("nginx");
    command.arg("--certificate").arg(certificate.join("certificate.pem")).arg("--key").arg(certificate.join("key.pem"));
    let mut process = Process::start("challenger.py", command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut answer = String::new();
    BufReader::new(process.child().stdout.take().context("no pipe")?).read_line(&mut answer)?;
    ensure!(answer.contains("listening"), "the daemon answers a challenge listener: {answer}");
    Ok(process)
}

/// What a challenged client gets at the site's URL.
fn page(lab: &Lab) -> Result<String> {
    let mut command = lab.client().command("curl");
    command.args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "5"]);
    command.args(["--interface", &CLIENT_V4.to_string(), "--resolve", &format!("{SERVER_NAME}:443:{SERVER_V4}")]);
    output(command.arg(format!("https://{SERVER_NAME}/")))
}

/// The daemon makes no connection itself to see whether a challenge listener is healthy.
#[test]
fn a_challenge_listener_is_checked_through_the_broker() -> Result<()> {
    let lab = lab()?;
    let _nginx = Nginx::start(&lab)?;
    let machine = Machine::boot(&lab)?;
    install(&machine, VERSION)?;
    machine.run(&format!("detector challenge {CLIENT_V4} --ttl 1h"))?;
    assert_eq!(page(&lab)?, "hello\n", "nobody listens");
    let listener = challenger(&lab, &machine)?;
    let until_health = |health: &str| {
        until(&format!("a listener that is {health}"), PATIENCE, || {
            let listeners = metrics(&lab)?.sum("detector_challenge_listeners", &[("health", health)]);
            Ok((listeners == 1.0).then_some(()))
        })
        .with_context(|| machine.look("journalctl --no-pager --unit detector --unit detector-sockets --lines 40"))
    };
    until_health("healthy")?;
    assert_eq!(page(&lab)?, "challenge\n");
    // One that hangs is found out, and its clients meet the site.
    listener.signal(Signal::SIGSTOP)?;
    until_health("unhealthy")?;
    assert_eq!(page(&lab)?, "hello\n", "the listener hangs");
    listener.signal(Signal::SIGCONT)?;
    until_health("healthy")?;
    assert_eq!(page(&lab)?, "challenge\n");
    // Without a broker nobody knows whether it is.
    machine.run("systemctl mask --runtime --now detector-sockets.socket detector-sockets.service")?;
    until_health("unhealthy")?;
    assert_eq!(page(&lab)?, "hello\n", "nobody knows whether the listener is healthy");
    Ok(())
}

/// The broker's process.
fn broker(machine: &Machine) -> Result<String> {
    machine.run("systemctl show --property MainPID --value detector-sockets.service")
}

/// What somebody would try who has taken over the daemon: with its user, its sandbox, and the broker's socket.
#[test]
fn what_a_taken_over_daemon_gets_stays_on_this_host() -> Result<()> {
    let lab = lab()?;
    let machine = Machine::boot(&lab)?;
    install(&machine, VERSION)?;
    // Somebody who would answer.
    let mut outside = lab.client().command("/usr/bin/python3");
    outside.args(["-c", "import socket\ns = socket.create_server(('10.77.0.2', 7000))\nwhile True: s.accept()"]);
    let _outside = Process::start("a server elsewhere", outside.stdin(Stdio::null()))?;
    until("the server elsewhere", PATIENCE, || {
        let mut look = lab.client().command("ss");
        Ok(output(look.args(["-Hlnt", "sport = :7000"]))?.contains("7000").then_some(()))
    })?;

    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(TAKEN_OVER);
    machine.bring(&script, "/usr/local/taken_over.pl")?;
    let said = machine.run("perl /usr/local/taken_over.pl 10.77.0.2 7000 direct")?;
    ensure!(said.contains("reached"), "nobody can be reached at all: {said}");
    let unit = fs::read_to_string(machine.file("/lib/systemd/system/detector.service"))?;
    let attempts = probe(&unit, "/usr/local/taken_over.pl 10.77.0.2 7000 broker", "/root/taken_over");
    fs::write(machine.file("/etc/systemd/system/taken-over.service"), attempts)?;
    machine.run("systemctl daemon-reload && systemctl start taken-over")?;
    let said = machine.run("cat /root/taken_over")?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 8, "{said}");
    for (line, outcome) in
        lines.iter().zip(["got", "kept", "kept", "refused", "refused", "refused", "refused", "refused"])
    {
        ensure!(line.starts_with(outcome), "`{line}` and not {outcome}: {said}");
    }
    let log = machine.run("journalctl --unit detector-sockets --output cat --no-pager")?;
    ensure!(log.contains("the daemon asked for a socket that it may not have"), "{log}");

    // Another user isn't let in; root is, and isn't answered.
    let other = "runuser --user nobody -- perl /usr/local/taken_over.pl 10.77.0.2 7000 broker";
    ensure!(!machine.try_run(other)?.status.success(), "nobody gets sockets");
    ensure!(!machine.try_run("perl /usr/local/taken_over.pl 10.77.0.2 7000 broker")?.status.success(), "root does");
    let mode = machine.run("stat --format '%U %a' /run/detector-sockets.sock")?;
    assert_eq!(mode.trim(), "detector 600");

    // It has no more than it needs itself.
    let pid = broker(&machine)?.trim().to_owned();
    let own = machine.run(&format!("cat /proc/{pid}/status"))?;
    let value = |name: &str| own.lines().find_map(|line| line.strip_prefix(name)).context("no such line");
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
        assert_eq!(u64::from_str_radix(value(set)?.trim(), 16)?, 0, "{set}");
    }
    let uid = field(&machine, "Uid")?;
    ensure!(value("Uid:")?.trim() != uid && value("Seccomp:")?.trim() == "2", "{own}");
    Ok(())
}
