//! nginx behind HAProxy (issue 5, "Done when" 1): its requests are the client's whom HAProxy names, and never carry HAProxy's
//! own fingerprint; no verdict falls on the hop. What is told where, docs/reports.md has in a table.

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::{ask, curl_in};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::mixed::{Reports, Seen};
use detector_tests::process::Process;
use detector_tests::reporters::{self, Reporter};
use detector_tests::server::SERVER_NAME;

/// On nginx' own host: HAProxy terminates TLS and speaks the PROXY protocol, or passes TLS on with it, or writes a header.
pub(crate) const HERE: &str = "\
defaults
    timeout connect 5s
    timeout client 75s
    timeout server 75s
frontend terminates
    mode http
    bind :8443 ssl crt DIRECTORY/both.pem alpn h2,http/1.1
    default_backend told
backend told
    mode http
    server nginx 127.0.0.1:8081 send-proxy
frontend passes
    mode tcp
    bind :8444
    default_backend passed
backend passed
    mode tcp
    server nginx 127.0.0.1:8445 send-proxy
frontend forwards
    mode http
    bind :8446 ssl crt DIRECTORY/both.pem alpn h2,http/1.1
    option forwardfor
    default_backend forwarded
backend forwarded
    mode http
    server nginx 127.0.0.1:8080
";

/// On another host, here the client's own; over TLS to nginx.
pub(crate) const ELSEWHERE: &str = "\
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
frontend site
    bind 10.77.0.3:8443 ssl crt DIRECTORY/both.pem alpn h2,http/1.1
    option forwardfor
    default_backend nginx
backend nginx
    source 10.77.0.3
    server nginx 10.77.0.1:443 ssl verify none sni str(shop.example)
";

const REQUESTS: usize = 5;

struct Scene {
    reports: Reports,
    _proxy: Process,
    _nginx: Reporter,
    daemon: Daemon,
    lab: Lab,
    /// Where the client finds HAProxy.
    place: &'static str,
}

impl Scene {
    fn here() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let config = "[capture]\nports = [443, 8443, 8444, 8446]\n[signals]\ngroup = \"www-data\"\n\
                      trusted_proxies = [\"127.0.0.1\"]\n";
        let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
        let nginx = Reporter::nginx(&lab, false)?;
        let proxy = reporters::proxy(&lab, lab.server(), HERE)?;
        Self::ready(lab, daemon, nginx, proxy, "10.77.0.1")
    }

    fn elsewhere() -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let config = "[signals]\ngroup = \"www-data\"\ntrusted_proxies = [\"10.77.0.3\"]\n";
        let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
        let nginx = Reporter::nginx(&lab, false)?;
        let proxy = reporters::proxy(&lab, lab.client(), ELSEWHERE)?;
        Self::ready(lab, daemon, nginx, proxy, "10.77.0.3")
    }

    fn ready(lab: Lab, daemon: Daemon, nginx: Reporter, proxy: Process, place: &'static str) -> Result<Self> {
        let reports = Reports::follow(&lab, "reports")?;
        let scene = Self { reports, _proxy: proxy, _nginx: nginx, daemon, lab, place };
        until("HAProxy to answer", PATIENCE, || Ok(scene.ask(8443, "/ready-too", &[]).is_ok().then_some(())))?;
        Ok(scene)
    }

    /// Some requests over one connection with HAProxy at this port: their paths, and the connection's port.
    fn ask(&self, port: u16, path: &str, more: &[&str]) -> Result<(Vec<String>, u16)> {
        let mut command = curl_in(self.lab.client(), &format!("{SERVER_NAME}:{port}:{}", self.place));
        command
            .args(["--fail", "--interface", &CLIENT_V4.to_string(), "--write-out", "%{stderr}%{local_port}\n"])
            .args(more);
        let paths: Vec<String> = (0..REQUESTS).map(|number| format!("{path}/{number}")).collect();
        for path in &paths {
            command.args(["--output", "/dev/null", &format!("https://{SERVER_NAME}:{port}{path}")]);
        }
        let run = command.output()?;
        ensure!(run.status.success(), "{run:?}");
        let used = String::from_utf8(run.stderr)?.lines().next().context("no port")?.parse()?;
        Ok((paths, used))
    }

    fn told(&self, paths: &[String]) -> Result<Vec<Seen>> {
        self.reports.of(&paths.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What was judged is the client's own address with its own hello, and no packet was dropped.
    fn nothing_happened(&self) -> Result<()> {
        let metrics = self.daemon.metrics(&self.lab)?;
        let (listed, own) =
            (control_ok(&self.lab, &["list", "--format", "json"])?, format!("\"subject\":\"{CLIENT_V4}+"));
        ensure!(listed.lines().all(|verdict| verdict.contains(&own)), "{listed}");
        ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0);
        Ok(())
    }

    /// An operator's order against the hop is refused, with the reason.
    fn refuses(&self, address: &str, why: &str) -> Result<()> {
        let refused = control(&self.lab, &["block", address])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains(why), "{said}");
        Ok(())
    }
}

/// HAProxy on nginx' host: the client's own hello was seen here, and the PROXY protocol says which. A header doesn't.
#[test]
fn behind_haproxy_on_this_host_the_client_is_known_by_the_proxy_protocol() -> Result<()> {
    let scene = Scene::here()?;
    for (port, name) in [(8443, "terminates"), (8444, "passes")] {
        for (more, kind) in [(&["--http2"][..], "new"), (&["--http1.1", "--tls-max", "1.2"], "old")] {
            let (paths, used) = scene.ask(port, &format!("/{name}/{kind}"), more)?;
            let own = scene.daemon.hello_from(used)?.forms.ja4;
            for seen in scene.told(&paths)? {
                ensure!(seen.join == "joined" && seen.ja4.as_deref() == Some(&*own), "{name}: not {own}: {seen:?}");
            }
        }
    }
    let (paths, _) = scene.ask(8446, "/forwards", &["--http2"])?;
    for seen in scene.told(&paths)? {
        ensure!(seen.join == "forwarded" && seen.ja4.is_none() && seen.report["xff"] == "10.77.0.2", "{seen:?}");
    }
    scene.nothing_happened()
}

/// Blocked by its JA4, a client is refused where it connects, at HAProxy; others still get their pages by the same hop.
#[test]
fn behind_haproxy_on_this_host_a_block_hits_the_client_and_never_the_hop() -> Result<()> {
    let scene = Scene::here()?;
    let (_, used) = scene.ask(8443, "/before", &["--http2"])?;
    let ja4 = scene.daemon.hello_from(used)?.forms.ja4;
    control_ok(&scene.lab, &["block", "--ja4", &ja4])?;
    for port in [8443, 8444, 8446] {
        let blocked = scene.ask(port, "/blocked", &["--http2", "--max-time", "1"]);
        ensure!(blocked.is_err(), "{port}: {blocked:?}");
        let other = format!("/other{port}");
        let (paths, _) = scene.ask(port, &other, &["--http1.1", "--tls-max", "1.2"])?;
        scene.told(&paths)?;
    }
    scene.refuses("127.0.0.1", "never blocked")?;
    scene.refuses(&SERVER_V4.to_string(), "never blocked")?;
    control_ok(&scene.lab, &["unblock", "--ja4", &ja4])?;
    scene.ask(8443, "/after", &["--http2"])?;
    Ok(())
}

/// HAProxy on another host: the only hello that comes here is its own, and says nothing about anybody. Whatever is ordered, none
/// of its packets is dropped.
#[test]
fn behind_haproxy_on_another_host_its_own_hello_is_nobodys() -> Result<()> {
    let scene = Scene::elsewhere()?;
    for (more, kind) in [(&["--http2"][..], "new"), (&["--http1.1", "--tls-max", "1.2"], "old")] {
        let (paths, _) = scene.ask(8443, &format!("/{kind}"), more)?;
        for seen in scene.told(&paths)? {
            let report = &seen.report;
            ensure!(seen.join == "forwarded" && seen.ja4.is_none(), "{seen:?}");
            ensure!(report["ip"] == "10.77.0.3" && report["xff"] == "10.77.0.2", "{seen:?}");
        }
    }
    scene.nothing_happened()?;
    let hop = scene.daemon.wait_for("HAProxy's hello", PATIENCE, |hellos| {
        let hello = hellos.iter().find(|hello| hello["src_ip"] == "10.77.0.3")?;
        Some(hello["ja4"].as_str()?.to_owned())
    })?;
    let signals = control(&scene.lab, &["signals", &hop])?;
    ensure!(signals.status.code() == Some(2), "of it no request is told: {signals:?}");
    scene.refuses("10.77.0.3", "trusted_proxies")?;
    control_ok(&scene.lab, &["block", "--ja4", &hop])?;
    control_ok(&scene.lab, &["block", &CLIENT_V4.to_string()])?;
    control_ok(&scene.lab, &["block", "10.77.0.2/31"])?;
    let (paths, _) = scene.ask(8443, "/whatever", &["--http2"])?;
    scene.told(&paths)?;
    let dropped = scene.daemon.metrics(&scene.lab)?.sum("detector_kernel_packets_total", &[("verdict", "drop")]);
    ensure!(dropped == 0.0, "{dropped} packets of the hop were dropped");
    // Anybody else with that hello is refused: the client's own requests, past HAProxy.
    ensure!(ask(&scene.lab, &["/direct"], &["--max-time", "1"]).is_err(), "the client itself is blocked");
    Ok(())
}

/// The proxy's own JA4 is told of nowhere, and each client behind it is one of its own.
#[test]
fn clients_behind_a_trusted_proxy_are_told_apart() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let config = "[signals]\ngroup = \"www-data\"\ntrusted_proxies = [\"10.77.0.2\"]\n";
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let _nginx = Reporter::nginx(&lab, false)?;
    let paths = ["/a", "/b", "/c"];
    for client in 1..=5 {
        let header = format!("X-Forwarded-For: 198.51.100.{client}");
        ask(&lab, &paths, &["--http1.1", "--header", &header])?;
    }
    // From elsewhere the header is anybody's word.
    let header = "X-Forwarded-For: 198.51.100.9";
    ask(&lab, &paths, &["--http1.1", "--header", header, "--interface", &OTHER_CLIENT_V4.to_string()])?;
    let counted = |outcome: &str| {
        let metrics = daemon.metrics(&lab)?;
        Ok::<f64, anyhow::Error>(metrics.sum("detector_join_reports_total", &[("outcome", outcome)]))
    };
    until("the reports", PATIENCE, || {
        let both = (counted("forwarded")?, counted("joined")?);
        Ok((both == (5.0 * paths.len() as f64, paths.len() as f64)).then_some(()))
    })?;
    let clients = daemon.metrics(&lab)?.sum("detector_table_entries", &[("table", "sessions")]);
    ensure!(clients == 6.0, "{clients} clients");
    Ok(())
}
