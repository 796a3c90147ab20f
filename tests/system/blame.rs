//! Proxies before the web server. threats.md T7: what a client writes into X-Forwarded-For moves no blame, and of a trusted
//! proxy no packet is dropped, whatever is ordered. One that nobody configured is found, and told.

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::process::output;
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;

const SIGNALS: &str = "[signals]\ngroup = \"www-data\"\n";

/// Asks over a few connections, each request with the headers that a line of its own makes of its number.
const CLIENT: &str = "\
import http.client, ssl, sys
address, count, header, values = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4].split('|')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
connections = [http.client.HTTPSConnection(address, 443, timeout=20, context=context) for _ in range(10)]
for number in range(count):
    value = values[number % len(values)].replace('A', str(number // 250)).replace('B', str(number % 250))
    connection = connections[number % len(connections)]
    connection.request('GET', f'/{number}', headers={header: value})
    answer = connection.getresponse()
    assert answer.read() == b'hello\\n' and answer.status == 200, answer.status
";

fn start(config: &'static str) -> Result<(Lab, Daemon, Reporter)> {
    let lab = Lab::new(LabOptions::default())?;
    // It counts when the daemon makes its socket: no report gets lost.
    lab.sysctl(lab.server(), "net.unix.max_dgram_qlen=1024")?;
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let nginx = Reporter::nginx(&lab, false)?;
    Ok((lab, daemon, nginx))
}

/// So many requests with a header.
fn ask(lab: &Lab, count: usize, header: &str, values: &str) -> Result<()> {
    let mut command = lab.client().command("/usr/bin/python3");
    output(command.args(["-c", CLIENT, &SERVER_V4.to_string(), &count.to_string(), header, values])).map(drop)
}

fn outcome(lab: &Lab, daemon: &Daemon, outcome: &str) -> Result<f64> {
    Ok(daemon.metrics(lab)?.sum("detector_join_reports_total", &[("outcome", outcome)]))
}

/// Runs a command that must be refused: what it says.
fn refused(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let done = control(lab, arguments)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(1), "`{}` exited {:?}: {said}", arguments.join(" "), done.status);
    Ok(said)
}

#[test]
fn ten_thousand_forged_headers_move_no_blame() -> Result<()> {
    const FORGED: usize = 10_000;
    let (lab, daemon, _nginx) = start(SIGNALS)?;
    ask(&lab, FORGED, "X-Forwarded-For", "198.18.A.B|198.18.A.B, 203.0.113.7|::ffff:198.18.A.B")?;
    until("a report of each request", PATIENCE, || {
        Ok((outcome(&lab, &daemon, "joined")? == FORGED as f64).then_some(()))
    })?;
    show(&format!("{FORGED} forged X-Forwarded-For: each report is of the client's own address"));
    let metrics = daemon.metrics(&lab)?;
    ensure!(outcome(&lab, &daemon, "forwarded")? == 0.0, "a stranger's header was believed");
    ensure!(metrics.sum("detector_table_entries", &[("table", "sessions")]) == 1.0, "{}", daemon.counted(&lab)?);
    // A client that asks 10,000 times is judged by that; none of the values in its headers is.
    let listed = control_ok(&lab, &["list", "--format", "json"])?;
    let own = CLIENT_V4.to_string();
    ensure!(listed.lines().all(|verdict| verdict.contains(&own)) && listed.lines().count() <= 1, "{listed}");
    ensure!(!listed.contains("198.18.") && !listed.contains("203.0.113."), "{listed}");
    // Who is blocked by one of those values isn't this client.
    control_ok(&lab, &["block", "198.18.0.7"])?;
    ask(&lab, 10, "X-Forwarded-For", "198.18.0.7")?;
    let drops = daemon.metrics(&lab)?.sum("detector_kernel_packets_total", &[("verdict", "drop")]);
    ensure!(drops == 0.0, "{drops} packets dropped");
    Ok(())
}

#[test]
fn of_a_trusted_proxy_no_packet_is_dropped() -> Result<()> {
    const ASKED: usize = 200;
    let config = format!("{SIGNALS}trusted_proxies = [\"{CLIENT_V4}\"]\n[enforce]\nmode = \"enforce\"\n");
    let (lab, daemon, _nginx) = start(config.leak())?;
    let (proxy, around) = (CLIENT_V4.to_string(), "10.77.0.0/24");
    for order in [&["block", &proxy][..], &["block", &proxy, "--force"], &["block", &proxy, "--automatic"]] {
        let said = refused(&lab, order)?;
        ensure!(
            said.contains("in `signals.trusted_proxies`) is never blocked") && said.contains("--at inline"),
            "{said}"
        );
    }
    // What else would hit it spares it: a prefix, a client's address behind it, and its own fingerprint.
    let said = control_ok(&lab, &["block", around])?;
    ensure!(said.contains(&format!("{proxy} (in `signals.trusted_proxies`)")), "{said}");
    ask(&lab, ASKED, "X-Forwarded-For", "198.18.A.B")?;
    let ja4 = daemon.events()?.last().and_then(|hello| Some(hello["ja4"].as_str()?.to_owned())).context("no hello")?;
    control_ok(&lab, &["block", "--ja4", &ja4])?;
    control_ok(&lab, &["block", &format!("{OTHER_CLIENT_V4}"), "--ja4", &ja4, "--automatic"])?;
    control_ok(&lab, &["block", "198.18.0.7"])?;
    ask(&lab, ASKED, "X-Forwarded-For", "198.18.A.B")?;
    until("a report of each request", PATIENCE, || {
        Ok((outcome(&lab, &daemon, "forwarded")? > ASKED as f64).then_some(()))
    })?;
    let metrics = daemon.metrics(&lab)?;
    let packets = |labels: &[(&str, &str)]| metrics.sum("detector_kernel_packets_total", labels);
    ensure!(packets(&[("verdict", "drop")]) == 0.0, "{}", daemon.counted(&lab)?);
    ensure!(packets(&[("reason", "never_block")]) > 0.0, "no verdict would have hit it: {}", daemon.counted(&lab)?);
    // The other client has the block around it.
    let mut other = lab.client().command("curl");
    other.args(["-sk", "--noproxy", "*", "--max-time", "1", "--interface", &OTHER_CLIENT_V4.to_string()]);
    let url = format!("https://{SERVER_NAME}/");
    let done = other.args(["--resolve", &format!("{SERVER_NAME}:443:{SERVER_V4}"), &url]).output()?;
    ensure!(!done.status.success(), "{done:?}");
    Ok(())
}

#[test]
fn a_proxy_that_nobody_configured_is_found() -> Result<()> {
    let (lab, daemon, _nginx) = start(SIGNALS)?;
    let suspected = || {
        Ok::<_, anyhow::Error>(daemon.metrics(&lab)?.sum("detector_table_entries", &[("table", "suspected_proxies")]))
    };
    let proxy = CLIENT_V4.to_string();
    let agents =
        |from: usize, to: usize| (from..to).map(|number| format!("program{number}/1.0")).collect::<Vec<_>>().join("|");
    ask(&lab, 70, "User-Agent", &agents(1, 8))?;
    until("the reports", PATIENCE, || Ok((outcome(&lab, &daemon, "joined")? == 70.0).then_some(())))?;
    ensure!(suspected()? == 0.0, "seven kinds of programs");
    control_ok(&lab, &["block", &proxy, "--ttl", "1s", "--at", "inline"])?;
    ask(&lab, 10, "User-Agent", &agents(8, 9))?;
    until("the proxy to be suspected", PATIENCE, || Ok((suspected()? == 1.0).then_some(())))?;

    let said = refused(&lab, &["block", &proxy])?;
    ensure!(said.contains("may be a proxy") && said.contains("--force"), "{said}");
    ensure!(refused(&lab, &["block", "10.77.0.0/24"])?.contains(&proxy));
    let said = refused(&lab, &["block", &proxy, "--automatic"])?;
    ensure!(said.contains("no automatic verdict"), "{said}");
    control_ok(&lab, &["block", &OTHER_CLIENT_V4.to_string()])?;
    control_ok(&lab, &["block", &proxy, "--at", "inline"])?;
    let said = control_ok(&lab, &["block", &proxy, "--force"])?;
    ensure!(said.contains("may be a proxy"), "{said}");
    let refusals = daemon.metrics(&lab)?.sum("detector_enforce_orders_total", &[("outcome", "proxy_suspected")]);
    ensure!(refusals == 3.0, "{refusals}");

    let config = configuration(&lab).display().to_string();
    let said = String::from_utf8(control(&lab, &["doctor", "--config", &config])?.stdout)?;
    for part in [
        "100.0 % of 80 reports found their ClientHello",
        &format!("warning join       {proxy} may be a proxy"),
        &format!("trusted_proxies = [\"{proxy}\"] in [signals]"),
    ] {
        ensure!(said.contains(part), "no `{part}`: {said}");
    }
    show(&said);
    Ok(())
}
