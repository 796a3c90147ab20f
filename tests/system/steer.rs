//! Done when 5 of part 3: a client under a challenge meets the challenge listener at the site's own URL, and the site again
//! when it is lifted; nobody else does; and with a listener or a daemon that is dead or frozen nobody does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok, control_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{
    CLIENT_V4, CLIENT_V6, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE, SERVER_V4, SERVER_V6,
};
use detector_tests::process::{Process, output};
use detector_tests::programs;
use detector_tests::server::{Nginx, SERVER_NAME};
use nix::sys::signal::Signal;
use serde_json::Value;

const SITE: &str = "hello\n";
const CHALLENGE: &str = "challenge\n";

/// T37: after it nobody may meet a listener that is dead or frozen.
const FAILS_OPEN: Duration = Duration::from_secs(2);

/// Hellos of one family, of an address, that make it exclusive.
const EXCLUSIVE: usize = 20;

/// A listener with the site's certificate, for both families, and its answer from the daemon.
fn listener(lab: &Lab, more: &[&str]) -> Result<(Process, Value)> {
    let nginx = lab.file("nginx");
    let mut command = lab.server().command(programs::python()?);
    command.arg("-B").arg(programs::clients().with_file_name("challenger.py"));
    command.arg("--control").arg(control_socket(lab)).args(more);
    command.arg("--certificate").arg(nginx.join("certificate.pem")).arg("--key").arg(nginx.join("key.pem"));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Process::start("challenger.py", &mut command)?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("no pipe")?).read_line(&mut line)?;
    let answer = serde_json::from_str(&line).with_context(|| format!("challenger.py printed `{line}`"))?;
    Ok((process, answer))
}

/// One that has its place, and is healthy.
fn healthy_listener(lab: &Lab, daemon: &Daemon) -> Result<Process> {
    let (process, answer) = listener(lab, &[])?;
    ensure!(answer["response"] == "listening" && answer["ports"] == serde_json::json!([443]), "{answer}");
    until_listeners(lab, daemon, "healthy", 1)?;
    Ok(process)
}

fn until_listeners(lab: &Lab, daemon: &Daemon, health: &str, count: u32) -> Result<()> {
    until(&format!("{count} {health} listener"), PATIENCE, || {
        let listeners = daemon.metrics(lab)?.sum("detector_challenge_listeners", &[("health", health)]);
        Ok((listeners == f64::from(count)).then_some(()))
    })
    .with_context(|| daemon.log())
}

/// A visitor: curl from an address, with these further arguments.
#[derive(Clone, Copy)]
struct Visitor(IpAddr, &'static [&'static str]);

const V4: Visitor = Visitor(CLIENT_V4, &[]);
const V6: Visitor = Visitor(CLIENT_V6, &[]);
const NEIGHBOUR: Visitor = Visitor(OTHER_CLIENT_V4, &[]);
/// At the address of [`V4`], with another JA4.
const SECOND_FAMILY: Visitor = Visitor(CLIENT_V4, &["--no-alpn"]);

impl Visitor {
    /// What it gets at the site's URL.
    fn page(self, lab: &Lab) -> Result<String> {
        let Self(source, more) = self;
        let server = if source.is_ipv4() { SERVER_V4.to_string() } else { format!("[{SERVER_V6}]") };
        let mut command = lab.client().command("curl");
        command.args(["--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "5"]);
        command.args(["--interface", &source.to_string(), "--resolve", &format!("{SERVER_NAME}:443:{server}")]);
        output(command.args(more).arg(format!("https://{SERVER_NAME}/")))
    }

    fn meets(self, lab: &Lab, expected: &str, why: &str) -> Result<()> {
        for _ in 0..3 {
            let page = self.page(lab)?;
            ensure!(page == expected, "{why}: {} got {page:?}, not {expected:?}", self.0);
        }
        Ok(())
    }

    /// Comes again and again until it gets that page: how long that took.
    fn comes_until(self, lab: &Lab, expected: &str, limit: Duration) -> Result<Duration> {
        let since = Instant::now();
        until(&format!("{} to get {expected:?}", self.0), limit, || Ok((self.page(lab)? == expected).then_some(())))?;
        Ok(since.elapsed())
    }

    /// Its JA4, of a hello of its own.
    fn ja4(self, lab: &Lab, daemon: &Daemon) -> Result<String> {
        let known = daemon.events()?.len();
        self.page(lab)?;
        daemon.wait_for("a visitor's line", PATIENCE, |events| {
            events.get(known).map(|event| event["ja4"].as_str().unwrap_or_default().to_owned())
        })
    }
}

fn start(arguments: &'static [&'static str]) -> Result<(Lab, Nginx, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let nginx = Nginx::start(&lab)?;
    let config = "[challenge]\nserver_name = \"shop.example\"\n";
    let daemon = Daemon::start(&lab, DaemonOptions { arguments, config, ..DaemonOptions::default() })?;
    Ok((lab, nginx, daemon))
}

fn outcomes(lab: &Lab, daemon: &Daemon, outcome: &str) -> Result<f64> {
    Ok(daemon.metrics(lab)?.sum("detector_kernel_responses_total", &[("response", "steer"), ("outcome", outcome)]))
}

/// Over both families, by address and by prefix: the listener's page, then the site's, at one URL.
#[test]
fn a_challenged_address_meets_the_listener_and_then_the_site() -> Result<()> {
    let (lab, _nginx, daemon) = start(&[])?;
    let said = control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    ensure!(said.contains("note: no challenge listener is healthy"), "{said}");
    V4.meets(&lab, SITE, "challenged, without a listener")?;
    let _listener = healthy_listener(&lab, &daemon)?;
    V4.meets(&lab, CHALLENGE, "challenged, with a listener")?;
    assert_eq!(outcomes(&lab, &daemon, "steered")?, 3.0, "each connection is counted once");
    NEIGHBOUR.meets(&lab, SITE, "another address")?;
    V6.meets(&lab, SITE, "another family")?;
    let status = control_ok(&lab, &["status"])?;
    ensure!(status.contains("[::]:18443 for 443 healthy; 3 steered"), "{status}");

    control_ok(&lab, &["allow", &CLIENT_V4.to_string()])?;
    V4.meets(&lab, SITE, "challenged and allowed")?;
    assert_eq!(outcomes(&lab, &daemon, "spared")?, 3.0);
    control_ok(&lab, &["unallow", &CLIENT_V4.to_string()])?;
    V4.meets(&lab, CHALLENGE, "no longer allowed")?;

    let said = control_ok(&lab, &["unchallenge", &CLIENT_V4.to_string()])?;
    ensure!(said.contains("undo: detector challenge 10.77.0.2 --ttl "), "{said}");
    V4.meets(&lab, SITE, "lifted")?;
    assert_eq!(control(&lab, &["unchallenge", &CLIENT_V4.to_string()])?.status.code(), Some(2));

    for subject in [CLIENT_V6.to_string(), "fd77::/64".to_owned(), "fd77::/48".to_owned()] {
        control_ok(&lab, &["challenge", &subject])?;
        V6.meets(&lab, CHALLENGE, &subject)?;
        V4.meets(&lab, SITE, "another family")?;
        control_ok(&lab, &["unchallenge", &subject])?;
        V6.meets(&lab, SITE, "lifted")?;
    }
    control_ok(&lab, &["challenge", "10.77.0.0/30"])?;
    V4.meets(&lab, CHALLENGE, "a challenged prefix")?;
    NEIGHBOUR.meets(&lab, CHALLENGE, "a challenged prefix")?;
    control_ok(&lab, &["challenge", "10.77.0.2", "--ttl", "1s"])?;
    control_ok(&lab, &["unchallenge", "10.77.0.0/30"])?;
    V4.comes_until(&lab, SITE, PATIENCE)?;
    Ok(())
}

/// A JA4 is steered where its clients are alone, and no longer when somebody else comes.
#[test]
fn a_ja4_is_steered_only_where_it_is_alone() -> Result<()> {
    let (lab, _nginx, daemon) = start(&["--enforce"])?;
    let _listener = healthy_listener(&lab, &daemon)?;
    let (ja4, second) = (V4.ja4(&lab, &daemon)?, SECOND_FAMILY.ja4(&lab, &daemon)?);
    ensure!(ja4 != second, "both have {ja4}");
    control_ok(&lab, &["challenge", "--ja4", &ja4])?;
    for _ in 0..EXCLUSIVE + 5 {
        SECOND_FAMILY.meets(&lab, SITE, "the neighbour behind the address")?;
        V4.meets(&lab, SITE, "challenged, and not alone at its address")?;
    }
    assert_eq!(outcomes(&lab, &daemon, "steered")?, 0.0);

    // The same client alone, at another address.
    for _ in 0..EXCLUSIVE {
        ensure!(NEIGHBOUR.page(&lab)? == SITE, "steered before it was known to be alone");
    }
    let since = NEIGHBOUR.comes_until(&lab, CHALLENGE, PATIENCE)?;
    NEIGHBOUR.meets(&lab, CHALLENGE, "alone at its address")?;
    V4.meets(&lab, SITE, "not alone at its address")?;
    let listed = control_ok(&lab, &["list", "--format", "json"])?;
    ensure!(listed.contains(&OTHER_CLIENT_V4.to_string()) && listed.contains("automatic"), "{listed}");

    // Somebody else comes: the first one's new connections reach the site again.
    Visitor(OTHER_CLIENT_V4, &["--no-alpn"]).page(&lab)?;
    let lifted = NEIGHBOUR.comes_until(&lab, SITE, Duration::from_secs(1))?;
    NEIGHBOUR.meets(&lab, SITE, "no longer alone")?;
    show(&format!("steered {since:?} after the {EXCLUSIVE}th hello; no longer {lifted:?} after a second family's"));

    control_ok(&lab, &["unchallenge", "--ja4", &ja4])?;
    assert_eq!(control(&lab, &["unchallenge", "--ja4", &ja4])?.status.code(), Some(2));
    Ok(())
}

/// What follows from a JA4's challenge nobody ordered for that address: in mode observe it only counts. When the
/// challenge is taken back, it goes at once.
#[test]
fn a_ja4s_challenge_is_carried_out_only_while_enforcing() -> Result<()> {
    let (lab, _nginx, daemon) = start(&[])?;
    let _listener = healthy_listener(&lab, &daemon)?;
    let ja4 = V4.ja4(&lab, &daemon)?;
    control_ok(&lab, &["challenge", "--ja4", &ja4])?;
    for _ in 0..EXCLUSIVE + 5 {
        ensure!(V4.page(&lab)? == SITE, "steered in mode observe");
    }
    until("the verdict", PATIENCE, || {
        let verdicts = daemon.metrics(&lab)?.sum("detector_enforce_verdicts", &[("kind", "automatic")]);
        Ok((verdicts == 1.0).then_some(()))
    })?;
    control_ok(&lab, &["unchallenge", "--ja4", &ja4])?;
    assert_eq!(daemon.metrics(&lab)?.sum("detector_enforce_verdicts", &[("kind", "automatic")]), 0.0);
    Ok(())
}

/// Waits until the site answers a challenged client, at most as long as it may take to fail open; then it always does.
fn fails_open(lab: &Lab, since: Instant, what: &str) -> Result<()> {
    // Before that a client may wait in vain for a listener that is frozen.
    while Instant::now() < since + FAILS_OPEN {
        let mut command = lab.client().command("curl");
        command.args(["-sk", "--noproxy", "*", "--max-time", "0.2", &format!("https://{SERVER_V4}/")]);
        if command.stdin(Stdio::null()).output()?.stdout == SITE.as_bytes() {
            break;
        }
    }
    let open = since.elapsed();
    ensure!(open < FAILS_OPEN, "{what}: after {open:?} the site had not answered");
    for _ in 0..20 {
        V4.meets(lab, SITE, what)?;
    }
    show(&format!("{what}: the site answered {open:?} later, and then 60 of 60 times"));
    Ok(())
}

#[test]
fn a_dead_or_frozen_listener_gets_nobody() -> Result<()> {
    let (lab, _nginx, daemon) = start(&[])?;
    control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    let frozen = healthy_listener(&lab, &daemon)?;
    V4.meets(&lab, CHALLENGE, "before")?;
    frozen.signal(Signal::SIGSTOP)?;
    fails_open(&lab, Instant::now(), "listener frozen")?;
    until_listeners(&lab, &daemon, "unhealthy", 1)?;
    let status = control_ok(&lab, &["status"])?;
    ensure!(status.contains("NOT HEALTHY: no TLS handshake in time"), "{status}");
    frozen.signal(Signal::SIGCONT)?;
    until_listeners(&lab, &daemon, "healthy", 1)?;
    V4.meets(&lab, CHALLENGE, "thawed")?;
    frozen.signal(Signal::SIGKILL)?;
    fails_open(&lab, Instant::now(), "listener killed")?;
    until_listeners(&lab, &daemon, "unhealthy", 0)?;
    // Its place is free again.
    let _next = healthy_listener(&lab, &daemon)?;
    V4.meets(&lab, CHALLENGE, "the next listener")
}

/// Neither the listener's health nor its death needs the daemon to be noticed.
#[test]
fn a_frozen_daemon_steers_nobody() -> Result<()> {
    let (lab, _nginx, daemon) = start(&[])?;
    control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    let listener = healthy_listener(&lab, &daemon)?;
    V4.meets(&lab, CHALLENGE, "before")?;
    daemon.signal(Signal::SIGSTOP)?;
    fails_open(&lab, Instant::now(), "daemon frozen")?;
    daemon.signal(Signal::SIGCONT)?;
    V4.comes_until(&lab, CHALLENGE, PATIENCE)?;

    // At once: the kernel lets go of the socket with its last descriptor.
    daemon.signal(Signal::SIGSTOP)?;
    listener.signal(Signal::SIGKILL)?;
    V4.comes_until(&lab, SITE, Duration::from_millis(500))?;
    daemon.signal(Signal::SIGCONT)?;
    until_listeners(&lab, &daemon, "healthy", 0)
}

/// A socket is taken from those who may use the control socket, if it is what it should be.
#[test]
fn only_listeners_of_the_operators_are_taken() -> Result<()> {
    let (lab, _nginx, daemon) = start(&[])?;
    // Its directory is everybody's, so that it is the socket that keeps them out.
    let directory = control_socket(&lab).parent().context("a directory")?.to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
    let (nobody, answer) = listener(&lab, &["--uid", "65534"])?;
    assert_eq!(answer["errno"], "EACCES", "{answer}");
    drop(nobody);
    for (more, reason) in [
        (&["--send", "nothing"][..], "no descriptor came along"),
        (&["--send", "connected"], "no TCP socket"),
        (&["--send", "bound"], "not listening"),
        (&["--ports", "[444]"], "port 444 isn't protected"),
    ] {
        let (_process, answer) = listener(&lab, more)?;
        let said = answer["reason"].as_str().unwrap_or_default();
        ensure!(answer["response"] == "refused" && said.contains(reason), "{more:?}: {answer}");
    }
    let _first = healthy_listener(&lab, &daemon)?;
    let (_second, answer) = listener(&lab, &["--address", "127.0.0.1", "--port", "18444"])?;
    ensure!(answer["response"] == "refused", "a second listener for the same port: {answer}");
    Ok(())
}

/// A socket that the service manager handed over is steered to as long as somebody serves it.
#[test]
fn a_service_managers_socket_is_a_listeners() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let (config, nginx) = (lab.file("detector.toml"), lab.file("nginx"));
    fs::write(&config, "")?;
    let mut command = lab.server().command(programs::python()?);
    command.arg("-B").arg(programs::clients().with_file_name("challenger.py"));
    command.arg("--certificate").arg(nginx.join("certificate.pem")).arg("--key").arg(nginx.join("key.pem"));
    command.arg("--").arg(programs::detector()?).args(["run", "--interface", SERVER_INTERFACE, "--metrics", "off"]);
    command.arg("--config").arg(config).arg("--control-socket").arg(control_socket(&lab));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(lab.file("log"))?);
    let _daemon = Process::start("detector run", &mut command)?;
    until("a healthy listener", PATIENCE, || {
        let done = control(&lab, &["status"])?;
        Ok(String::from_utf8_lossy(&done.stdout).contains("[::]:18443 for 443 healthy").then_some(()))
    })
    .with_context(|| fs::read_to_string(lab.file("log")).unwrap_or_default())?;
    control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    V4.meets(&lab, CHALLENGE, "challenged")?;
    NEIGHBOUR.meets(&lab, SITE, "another address")
}

/// A certificate that isn't the site's: the listener is never healthy, and nobody is steered.
#[test]
fn a_listener_without_the_sites_certificate_gets_nobody() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _nginx = Nginx::start(&lab)?;
    let config = "[challenge]\nserver_name = \"other.example\"\n";
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    control_ok(&lab, &["challenge", &CLIENT_V4.to_string()])?;
    let (_listener, answer) = listener(&lab, &[])?;
    ensure!(answer["response"] == "listening", "{answer}");
    until("two failed checks", PATIENCE, || {
        let failed = daemon
            .metrics(&lab)?
            .sum("detector_checks_total", &[("check", "challenge_listener"), ("outcome", "failed")]);
        Ok((failed >= 2.0).then_some(()))
    })?;
    V4.meets(&lab, SITE, "the listener isn't the site's")?;
    assert_eq!(outcomes(&lab, &daemon, "unhealthy")?, 3.0);
    let status = control_ok(&lab, &["status"])?;
    if !status.contains("not valid for name") {
        bail!("{status}");
    }
    Ok(())
}
