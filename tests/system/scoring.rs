//! Scoring on real traffic: real clients, nginx that reports, the kernel that drops; `detector explain` says why.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_INTERFACE};
use detector_tests::metrics::ASSESSED;
use detector_tests::pins::{BpfMount, pins_ok};
use detector_tests::process::{Process, output};
use detector_tests::programs::detector;
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;
use nix::sys::signal::Signal;
use serde_json::Value;

/// What is for real clients of the lab: a trap, and reports from nginx's user.
const CONFIG: &str = "[signals]\ngroup = \"www-data\"\n[behaviour]\ntrap_paths = [\"/trap\"]\n";

/// A crawler that is nobody's: its operator publishes ranges, and the lab is in none of them.
const FORGED: &str = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";

/// A program that says nothing of itself that is known.
const READER: &str = "Reader/1.0";

struct Scene {
    daemon: Daemon,
    _server: Reporter,
    lab: Lab,
}

impl Scene {
    fn start(arguments: &'static [&'static str], config: &str) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let config = format!("{CONFIG}{config}").leak();
        let daemon = Daemon::start(&lab, DaemonOptions { arguments, config, ..DaemonOptions::default() })?;
        let server = Reporter::nginx(&lab, true)?;
        Ok(Self { daemon, _server: server, lab })
    }

    /// Asks for a page, and whether it came.
    fn ask(&self, source: IpAddr, agent: &str, path: &str, more: &[&str]) -> Result<bool> {
        let mut command = curl(&self.lab);
        command.args(["--interface", &source.to_string(), "--user-agent", agent, "--max-time", "2"]).args(more);
        command.args(["--output", "/dev/null", &format!("https://{SERVER_NAME}{path}")]);
        Ok(command.stdin(Stdio::null()).output()?.status.success())
    }

    fn explain(&self, of: &str) -> Result<Option<Value>> {
        let done = control(&self.lab, &["explain", of, "--format", "json"])?;
        match done.status.code() {
            Some(0) => Ok(Some(serde_json::from_slice(&done.stdout)?)),
            Some(2) => Ok(None),
            _ => anyhow::bail!("{done:?}"),
        }
    }

    /// The explanation once it says that.
    fn explained(&self, of: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, PATIENCE, || Ok(self.explain(of)?.filter(&holds)))
            .with_context(|| format!("{:?}", self.explain(of)))
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self.daemon.metrics(&self.lab)?.sum(name, labels))
    }
}

/// Two axes: it says to be a crawler and isn't, and it walks into a trap. Another client at its address does neither.
#[test]
fn what_two_axes_condemn_is_dropped_and_an_operator_can_lift_it() -> Result<()> {
    let scene = Scene::start(&["--enforce"], "")?;
    let client = CLIENT_V4.to_string();
    ensure!(scene.ask(CLIENT_V4, FORGED, "/trap", &[])?, "nothing is known of it yet");
    let known = scene.explained(&client, "the verdict", |known| known["action"] == "block")?;
    assert_eq!(
        (known["confidence"].as_str(), known["reach"].as_str()),
        (Some("definitely_bot"), Some("packets")),
        "{known}"
    );
    ensure!(known.get("only_counts").is_none(), "it is in force: {known}");
    until("the kernel to refuse it", PATIENCE, || Ok((!scene.ask(CLIENT_V4, FORGED, "/", &[])?).then_some(())))?;
    // Another address; and at its own address another program.
    ensure!(scene.ask(OTHER_CLIENT_V4, FORGED, "/", &[])?, "the same fingerprint elsewhere is not blocked");
    ensure!(scene.ask(CLIENT_V4, READER, "/", &["--tls-max", "1.2"])?, "another fingerprint there is not blocked");

    let screen = control_ok(&scene.lab, &["explain", &client])?;
    golden(&screen, &known)?;
    control_ok(&scene.lab, &["allow", &client, "--ttl", "1h"])?;
    ensure!(scene.ask(CLIENT_V4, FORGED, "/", &[])?, "an operator lifts it");
    scene.explained(&client, "the welcome", |known| known["settled_by"] == "allow-listed")?;
    Ok(())
}

/// What was decided before a restart holds after it, is listed and explained as before, and can be lifted; what nobody can
/// explain any more doesn't hold.
#[test]
fn a_restart_forgets_no_verdict_that_it_keeps() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let _mount = BpfMount::new(&lab)?;
    fs::write(configuration(&lab), CONFIG)?;
    pins_ok(&lab, &detector()?, &["attach", "--interface", SERVER_INTERFACE])?;
    let options = || DaemonOptions { arguments: &["--enforce"], config: CONFIG, ..DaemonOptions::default() };
    let mut scene = Scene { daemon: Daemon::start(&lab, options())?, _server: Reporter::nginx(&lab, true)?, lab };
    let client = CLIENT_V4.to_string();
    let another = "198.51.100.9";
    let restart = |scene: Scene, signal, between: &dyn Fn(&Lab) -> Result<()>| -> Result<Scene> {
        let Scene { daemon, _server, lab } = scene;
        daemon.stop(signal)?;
        between(&lab)?;
        Ok(Scene { daemon: Daemon::start(&lab, options())?, _server, lab })
    };
    let automatic = |scene: &Scene| -> Result<Vec<String>> {
        let listed = control_ok(&scene.lab, &["list", "--format", "json"])?;
        let entries = listed.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let automatic = entries.iter().filter(|entry| entry["origin"] == "automatic");
        automatic.map(|entry| Ok(entry["subject"].as_str().with_context(|| listed.clone())?.to_owned())).collect()
    };

    ensure!(scene.ask(CLIENT_V4, FORGED, "/trap", &[])?, "nothing is known of it yet");
    let known = scene.explained(&client, "the verdict", |known| known["action"] == "block")?;
    until("the kernel to refuse it", PATIENCE, || Ok((!scene.ask(CLIENT_V4, FORGED, "/", &[])?).then_some(())))?;
    control_ok(&scene.lab, &["block", another, "--automatic", "--ttl", "1h"])?;
    let before = automatic(&scene)?;
    assert_eq!(before.len(), 2, "{before:?}");

    scene = restart(scene, Signal::SIGTERM, &|_| Ok(()))?;
    assert_eq!(automatic(&scene)?, before);
    ensure!(!scene.ask(CLIENT_V4, FORGED, "/", &[])?, "it holds after the restart");
    let after = scene.explain(&client)?.context("nothing is known of who is blocked")?;
    for key in ["id", "action", "confidence", "score", "signals", "layers", "axes", "unit", "reach", "lift", "at"] {
        assert_eq!(after[key], known[key], "{key}");
    }
    ensure!(after.get("only_counts").is_none(), "it is in force: {after}");
    control_ok(&scene.lab, &["unblock", another])?;

    // Killed, once that was written: what is in force automatically is told of, or is not in force.
    let handover = |lab: &Lab| -> Result<Option<PathBuf>> {
        let directories = fs::read_dir(lab.file("state"))?.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(directories.map(|directory| directory.join("handover")).find(|file| file.exists()))
    };
    until("the end of the other verdict on the disk", PATIENCE, || {
        let file = handover(&scene.lab)?.context("no file")?;
        Ok((!fs::read_to_string(file)?.contains(another)).then_some(()))
    })?;
    scene = restart(scene, Signal::SIGKILL, &|_| Ok(()))?;
    assert_eq!(automatic(&scene)?.len(), 1);
    ensure!(!scene.ask(CLIENT_V4, FORGED, "/", &[])?, "it holds after the daemon was killed");
    let lost = |lab: &Lab| fs::remove_file(handover(lab)?.context("no file")?).context("can't remove it");
    scene = restart(scene, Signal::SIGKILL, &lost)?;
    assert_eq!(automatic(&scene)?, Vec::<String>::new());
    ensure!(scene.ask(CLIENT_V4, FORGED, "/", &[])?, "nobody can tell why it was blocked");
    Ok(())
}

/// The screen names the unit, both axes, what weighs most, the end and the command.
fn golden(screen: &str, known: &Value) -> Result<()> {
    let text = |key: &str| known[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {known}"));
    let ja4 = text("ja4")?;
    let unit = text("unit")?;
    let stable = unit.rsplit(' ').next().context("a unit names a fingerprint")?;
    let lines: Vec<String> = screen.lines().map(|line| line.replace(&ja4, "JA4").replace(stable, "JA4")).collect();
    for expected in [
        "10.77.0.2  JA4",
        ": block",
        "  unit    10.77.0.2 with JA4",
        "  expires in 59m ",
        "  lift    detector allow 10.77.0.2 --ttl 1d",
        "  axes ",
        "behaviour",
        "reputation",
        "trap-path",
        "asked for a path that no page links to",
        "false-bot",
        "says that it is a crawler, and its address says that it isn't",
    ] {
        ensure!(lines.iter().any(|line| line.contains(expected)), "no `{expected}` in:\n{screen}");
    }
    ensure!(lines.iter().all(|line| line.chars().count() <= 100), "too wide:\n{screen}");
    Ok(())
}

/// threats.md T48: as it is installed it looks, and says what it would do.
#[test]
fn in_mode_observe_nothing_is_dropped_and_all_is_told() -> Result<()> {
    let scene = Scene::start(&[], "")?;
    for _ in 0..20 {
        ensure!(scene.ask(CLIENT_V4, FORGED, "/trap", &[])?, "it is answered");
    }
    let known = scene.explained(&CLIENT_V4.to_string(), "the verdict", |known| known["action"] == "block")?;
    assert_eq!(known["only_counts"], "the mode is observe", "{known}");
    until("the kernel to count", PATIENCE, || {
        ensure!(scene.ask(CLIENT_V4, FORGED, "/", &[])?, "it is answered");
        Ok((scene.sum("detector_kernel_packets_total", &[("reason", "observed")])? > 0.0).then_some(()))
    })?;
    assert_eq!(scene.sum("detector_kernel_packets_total", &[("verdict", "drop")])?, 0.0);
    ensure!(scene.sum("detector_score_decisions_total", &[("action", "block")])? >= 1.0);
    let report = control(&scene.lab, &["explain", "192.0.2.99"])?;
    assert_eq!(report.status.code(), Some(2), "{report:?}");
    Ok(())
}

/// threats.md T38, T43: what an operator says is never blocked isn't, whatever lists and signals say.
#[test]
fn what_is_never_blocked_is_welcome_whatever_lists_say() -> Result<()> {
    let denied = std::env::temp_dir().join(format!("detector-denied-{}.txt", std::process::id()));
    fs::write(&denied, "10.77.0.0/24\n")?;
    let lists = format!("[feeds]\nlists.own = {{ class = \"denied\", file = \"{}\" }}\n", denied.display());
    let scene = Scene::start(&["--enforce"], &format!("{lists}[enforce]\nnever_block = [\"10.77.0.2\"]\n"))?;
    fs::remove_file(&denied)?;
    for _ in 0..5 {
        ensure!(scene.ask(CLIENT_V4, FORGED, "/trap", &[])?, "it is never blocked");
    }
    let spared = scene.explained(&CLIENT_V4.to_string(), "an assessment", |_| true)?;
    assert_eq!(
        (spared["action"].as_str(), spared["settled_by"].as_str()),
        (Some("allow"), Some("allow-listed")),
        "{spared}"
    );
    ensure!(scene.ask(OTHER_CLIENT_V4, READER, "/", &[])?, "nothing is known of it yet");
    let other = OTHER_CLIENT_V4.to_string();
    let known = scene.explained(&other, "the verdict of a list", |known| known["action"] == "block")?;
    assert_eq!(
        (known["settled_by"].as_str(), known["lists"][0].as_str()),
        (Some("deny-listed"), Some("own")),
        "{known}"
    );
    until("the kernel to refuse it", PATIENCE, || Ok((!scene.ask(OTHER_CLIENT_V4, READER, "/", &[])?).then_some(())))?;
    ensure!(scene.ask(CLIENT_V4, FORGED, "/", &[])?, "it is never blocked");
    Ok(())
}

/// A DNS server of the lab's, which writes down each query.
fn resolver(lab: &Lab, records: &[&str]) -> Result<Process> {
    let mut command = lab.server().command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-daemon"]);
    command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file=", "--log-queries"]);
    command.args(["--local=//"]).args(records);
    let log = File::create(lab.file("dns.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Process::start("dnsmasq", &mut command)
}

fn queries(lab: &Lab) -> Result<usize> {
    Ok(fs::read_to_string(lab.file("dns.log"))?.matches(" query[").count())
}

const GOOGLE: &str = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";

/// threats.md T6: a name proves nothing until it leads back.
#[test]
fn a_crawler_is_who_dns_says_it_is() -> Result<()> {
    let resolv_conf = std::env::temp_dir().join(format!("detector-resolv-{}.conf", std::process::id()));
    fs::write(&resolv_conf, "nameserver 127.0.0.1\n")?;
    let config = format!("[enforce]\nresolv_conf = [\"{}\"]\n", resolv_conf.display());
    let scene = Scene::start(&[], &config)?;
    let _dns = resolver(
        &scene.lab,
        &[
            "--ptr-record=2.0.77.10.in-addr.arpa,crawl-1.googlebot.com",
            "--host-record=crawl-1.googlebot.com,10.77.0.2",
            "--ptr-record=3.0.77.10.in-addr.arpa,crawl-2.googlebot.com",
            "--host-record=crawl-2.googlebot.com,192.0.2.1",
        ],
    )?;
    let answers = |outcome| scene.sum("detector_checks_total", &[("check", "crawler"), ("outcome", outcome)]);
    for (address, outcome) in [(CLIENT_V4, "confirmed"), (OTHER_CLIENT_V4, "denied")] {
        until("DNS to say", PATIENCE, || {
            ensure!(scene.ask(address, GOOGLE, "/", &[])?, "nobody waits for DNS");
            Ok((answers(outcome)? == 1.0).then_some(()))
        })?;
        ensure!(scene.ask(address, GOOGLE, "/", &[])?);
    }
    let welcome =
        scene.explained(&CLIENT_V4.to_string(), "the welcome", |known| known["settled_by"] == "verified-bot")?;
    assert_eq!((welcome["action"].as_str(), welcome["score"].as_f64()), (Some("allow"), Some(0.0)), "{welcome}");
    let has = |known: &Value, signal: &str| {
        known["signals"].as_array().is_some_and(|all| all.iter().any(|one| one["signal"] == signal))
    };
    scene.explained(&OTHER_CLIENT_V4.to_string(), "the lie", |known| has(known, "false-bot"))?;
    fs::remove_file(&resolv_conf)?;

    // From very many addresses: as many claims as one likes, and few queries.
    let (lab, many) = (&scene.lab, 300);
    lab.client().ip("route add local 10.77.4.0/22 dev lo")?;
    lab.server().ip("route add 10.77.4.0/22 via 10.77.0.2")?;
    let (before, began) = (queries(lab)?, std::time::Instant::now());
    let url = format!("https://{SERVER_NAME}/");
    let script = "for n in $(seq 1 $0); do a=10.77.$((4 + n / 250)).$((1 + n % 250)); \
                  curl -sk --noproxy '*' --max-time 5 -o /dev/null -A \"$1\" --resolve \"$2:443:10.77.0.1\" --interface $a \"$3\" || echo $a; done";
    let mut flood = lab.client().command("sh");
    let failed = output(flood.args(["-c", script, &many.to_string(), GOOGLE, SERVER_NAME, &url]))?;
    ensure!(failed.is_empty(), "a claim alone stops nobody: {failed}");
    let (asked, took) = (queries(lab)? - before, began.elapsed());
    ensure!(asked as f64 <= 10.0 * (took + Duration::from_secs(1)).as_secs_f64(), "{asked} queries in {took:?}");
    until("the assessments", PATIENCE, || {
        let assessed = scene.sum("detector_score_requests_total", &[("outcome", ASSESSED)])?;
        Ok((assessed >= f64::from(many)).then_some(()))
    })?;
    let human = scene.sum("detector_score_requests_total", &[("outcome", "definitely_human")])?;
    let confirmed = answers("confirmed")?;
    ensure!(confirmed == 1.0, "{confirmed} confirmed, {human} welcome");
    Ok(())
}
