//! What web servers tell: each one's lines of `dist/`, with the real server, to the live daemon's signal socket; who may
//! tell (threats.md T26); what is told of losses, while no server waits.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, configuration, control, control_ok, signal_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::figures::show;
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, SERVER_V4};
use detector_tests::process::{Process, output};
use detector_tests::reporters::{Reporter, shipped};
use detector_tests::server::SERVER_NAME;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What a browser's text may have.
const AGENT: &str = "Mozilla/5.0 \"quoted\" \\back é";
/// Headers that every server tells of, by their keys; sent in this order.
const HEADERS: [(&str, &str, &str); 13] = [
    ("Sec-CH-UA", "ch", "\"Chromium\";v=\"136\", \"Not.A/Brand\";v=\"99\""),
    ("Sec-CH-UA-Mobile", "ch_mobile", "?0"),
    ("Sec-CH-UA-Platform", "ch_platform", "\"Linux\""),
    ("Accept", "acc", "text/html,application/xml;q=0.9,*/*;q=0.8"),
    ("Sec-Fetch-Site", "sf_site", "same-origin"),
    ("Sec-Fetch-Mode", "sf_mode", "navigate"),
    ("Sec-Fetch-User", "sf_user", "?1"),
    ("Sec-Fetch-Dest", "sf_dest", "document"),
    ("Referer", "ref", "https://shop.example/a?b=\"c\""),
    ("Accept-Encoding", "enc", "gzip, br"),
    ("Accept-Language", "lang", "de-DE,de;q=0.9"),
    ("X-Forwarded-For", "xff", "198.51.100.9, 198.51.100.10"),
    ("Cookie", "cookie", "a=b; c=d"),
];

/// Starts a web server.
type Server = fn(&Lab) -> Result<Reporter>;

/// A daemon that members of www-data may report to.
fn start() -> Result<(Lab, Daemon)> {
    let lab = Lab::new(LabOptions::default())?;
    let daemon =
        Daemon::start(&lab, DaemonOptions { config: "[signals]\ngroup = \"www-data\"\n", ..DaemonOptions::default() })?;
    Ok((lab, daemon))
}

/// A client of the real server: the port it used.
fn ask(lab: &Lab, path: &str, more: &[&OsStr]) -> Result<u16> {
    let mut command = curl(lab);
    command.args(["--output", "/dev/null", "--write-out", "%{local_port}"]).args(more);
    Ok(output(command.arg(format!("https://{SERVER_NAME}{path}")))?.parse()?)
}

/// The reports kept, as `detector reports` prints them.
fn reports(lab: &Lab) -> Result<Vec<Value>> {
    let printed = control(lab, &["reports", "--lines", "4096", "--format", "json"])?;
    let lines = String::from_utf8(printed.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["report"].clone())).collect()
}

/// The report of a path.
fn report_of(lab: &Lab, daemon: &Daemon, path: &str) -> Result<Value> {
    until(&format!("the report of {path}"), PATIENCE, || {
        Ok(reports(lab)?.into_iter().find(|report| report["path"] == path))
    })
    .with_context(|| daemon.log())
}

/// A browser's request over one version of HTTP, and all that must be told of it but for what `absent` names.
fn tells_of_a_request(lab: &Lab, daemon: &Daemon, version: &str, absent: &[&str]) -> Result<()> {
    let path = format!("/page{version}?q=%22a%22&b=c");
    let lines: Vec<String> = HEADERS.iter().map(|(name, _, value)| format!("{name}: {value}")).collect();
    let mut more = vec![OsStr::new(version), OsStr::new("--user-agent"), OsStr::new(AGENT)];
    more.extend(lines.iter().flat_map(|line| ["--header", line].map(OsStr::new)));
    let port = ask(lab, &path, &more)?;
    let told = report_of(lab, daemon, &path)?;
    let protocol = if version == "--http2" { "HTTP/2.0" } else { "HTTP/1.1" };
    let mut expected = json!({
        "v": 1, "ip": CLIENT_V4.to_string(), "port": port, "sip": SERVER_V4.to_string(), "sport": 443, "n": 1,
        "host": SERVER_NAME, "method": "GET", "path": path, "proto": protocol, "status": 200, "ua": AGENT,
    });
    for (_, key, value) in HEADERS {
        expected[key] = if key == "cookie" { true.into() } else { value.into() };
    }
    // As curl sends them: its own come first, those of an HTTP/2 request in small letters.
    let names =
        ["Host", "User-Agent"].into_iter().chain(HEADERS.map(|(name, _, _)| name)).collect::<Vec<_>>().join(",");
    expected["hdr"] = names.to_lowercase().into();
    for key in absent {
        ensure!(told[key].is_null(), "{key} is told: {told}");
        expected[key] = Value::Null;
    }
    for (key, value) in expected.as_object().context("an object")? {
        let shown = &told[key];
        let same = match key.as_str() {
            "hdr" if !value.is_null() => {
                let names = shown.as_str().unwrap_or_default().to_lowercase();
                // A request of HTTP/2 has its host beside the headers; servers write it in front of them, or not.
                names.trim_start_matches("host,") == names_without_host(value)
            }
            _ => shown == value,
        };
        ensure!(same, "{key} is {shown}, not {value}, in {told}");
    }
    for key in ["t", "dur", "age", "bytes"].into_iter().filter(|key| !absent.contains(key)) {
        ensure!(told[key].as_f64().is_some_and(|number| number >= 0.0), "{key} in {told}");
    }
    Ok(())
}

fn names_without_host(names: &Value) -> &str {
    names.as_str().unwrap_or_default().trim_start_matches("host,")
}

/// Texts that are no text: whatever a client sends, its request is told of.
fn tells_of_hostile_texts(lab: &Lab, daemon: &Daemon) -> Result<()> {
    let texts: [&[u8]; 5] = [b"\xff\xfe", b"\xed\xa0\xbd", "\u{1f600}".as_bytes(), b"\\x41 \\ud83d", b"\"},{\"v\":1"];
    for (number, text) in texts.into_iter().enumerate() {
        let path = format!("/hostile{number}");
        ask(lab, &path, &[OsStr::new("--user-agent"), OsStr::from_bytes(text)])?;
        report_of(lab, daemon, &path)?;
    }
    ensure!(daemon.metrics(lab)?.unread() == 0.0, "{}", daemon.counted(lab)?);
    Ok(())
}

/// A request without any of the headers: none of them is told, and none as empty.
fn tells_of_a_bare_request(lab: &Lab, daemon: &Daemon) -> Result<()> {
    ask(lab, "/bare", &["--user-agent", "", "--header", "Accept:"].map(OsStr::new))?;
    let told = report_of(lab, daemon, "/bare")?;
    for key in HEADERS.iter().map(|(_, key, _)| *key).filter(|key| *key != "cookie").chain(["ua", "cache", "sid"]) {
        ensure!(told[key].is_null(), "{key} in {told}");
    }
    // Caddy tells of a cookie only if there is one.
    ensure!(told["cookie"] == false || told["cookie"].is_null(), "{told}");
    Ok(())
}

fn tells_everything_but(reporter: Server, absent: &[&str], over_http2: &[&str]) -> Result<()> {
    let (lab, daemon) = start()?;
    let _reporter = reporter(&lab)?;
    tells_of_a_request(&lab, &daemon, "--http1.1", absent)?;
    tells_of_a_request(&lab, &daemon, "--http2", &[absent, over_http2].concat())?;
    tells_of_a_bare_request(&lab, &daemon)?;
    tells_of_hostile_texts(&lab, &daemon)
}

#[test]
fn nginx_tells_everything_with_njs() -> Result<()> {
    tells_everything_but(|lab| Reporter::nginx(lab, true), &[], &[])
}

#[test]
fn nginx_tells_all_but_the_headers_order_without_njs() -> Result<()> {
    tells_everything_but(|lab| Reporter::nginx(lab, false), &["hdr"], &[])
}

#[test]
fn haproxy_tells_from_its_chroot() -> Result<()> {
    tells_everything_but(Reporter::haproxy, &[], &[])
}

#[test]
fn caddy_tells_in_its_own_format() -> Result<()> {
    tells_everything_but(Reporter::caddy, &["sip", "sport", "age", "n", "conn", "hdr"], &[])
}

#[test]
fn apache_tells_through_the_relay() -> Result<()> {
    tells_everything_but(Reporter::apache, &["age", "n", "conn", "hdr"], &[])
}

/// Its lines have keys of the schema only; `gateways.rs` has Envoy itself tell.
#[test]
fn envoys_lines_are_wellformed() -> Result<()> {
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::start("python3", &mut python)?;
    process.child().stdin.take().context("no pipe")?.write_all(shipped("envoy/access-log.yaml")?.as_bytes())?;
    let read: Value = serde_json::from_reader(process.child().stdout.take().context("no pipe")?)?;
    let config = &read["access_log"][0]["typed_config"];
    ensure!(config["@type"] == "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "{read}");
    let fields = config["log_format"]["json_format"].as_object().context("a format")?;
    let docs = fs::read_to_string(format!("{}/../docs/reports.md", env!("CARGO_MANIFEST_DIR")))?;
    for (key, value) in fields {
        ensure!(docs.contains(&format!("\n| `{key}` |")), "{key} is not in the schema");
        let value = value.as_str().context("a command operator is text")?;
        ensure!(key == "v" || value.starts_with('%') && value.ends_with('%'), "{key}: {value}");
    }
    for key in
        ["v", "ip", "port", "sip", "sport", "t", "dur_ms", "host", "method", "path", "proto", "status", "bytes", "ua"]
    {
        ensure!(fields.contains_key(key), "no {key}");
    }
    Ok(())
}

/// A process of that user: sends datagrams, and prints how many the kernel took.
fn send_as(lab: &Lab, user: &str, count: u32) -> Result<u32> {
    let program = "import socket, sys\n\
        s, took = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), 0\n\
        for _ in range(int(sys.argv[2])):\n    \
            try: s.sendto(b'{\"v\":1,\"path\":\"/forged\"}', sys.argv[1]); took += 1\n    \
            except PermissionError: pass\n\
        print(took)";
    let mut command = lab.server().command("setpriv");
    command
        .args([&format!("--reuid={user}"), "--init-groups"])
        .arg(format!("--regid={}", if user == "nobody" { "nogroup" } else { user }));
    command.args(["/usr/bin/python3", "-c", program]).arg(signal_socket(lab)).arg(count.to_string());
    Ok(output(&mut command)?.trim().parse()?)
}

/// threats.md T26: the file's mode keeps others out; where it doesn't, the kernel's word of who sent each datagram does.
#[test]
fn nobody_else_may_report() -> Result<()> {
    let (lab, daemon) = start()?;
    let socket = signal_socket(&lab);
    fs::set_permissions(socket.parent().context("a directory")?, fs::Permissions::from_mode(0o711))?;
    ensure!(fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o660);
    assert_eq!(send_as(&lab, "nobody", 1000)?, 0, "the mode is no obstacle");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    assert_eq!(send_as(&lab, "nobody", 1000)?, 1000);
    assert_eq!(send_as(&lab, "www-data", 10)?, 10);
    let counted =
        |family: &str, labels: &[(&str, &str)]| Ok::<_, anyhow::Error>(daemon.metrics(&lab)?.sum(family, labels));
    until("all of them to be counted", PATIENCE, || {
        let reports = counted("detector_intake_frames_total", &[("outcome", "report")])?;
        Ok((reports == 10.0).then_some(()))
    })?;
    assert_eq!(counted("detector_intake_frames_total", &[("outcome", "peer")])?, 1000.0);
    ensure!(reports(&lab)?.len() == 10);
    Ok(())
}

/// A client that asks over one connection, as often as it is told to: the seconds that each request took.
struct Steady(Process, BufReader<std::process::ChildStdout>);

impl Steady {
    fn start(lab: &Lab) -> Result<Self> {
        let program = "import http.client, sys, time\n\
            c = http.client.HTTPConnection(sys.argv[1], 8080)\n\
            for line in sys.stdin:\n    \
                for _ in range(int(line)):\n        \
                    begun = time.monotonic(); c.request('GET', '/steady'); c.getresponse().read()\n        \
                    print(time.monotonic() - begun, end=' ')\n    \
                print(flush=True)";
        let mut command = lab.client().command("/usr/bin/python3");
        command.args(["-c", program, &SERVER_V4.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("steady client", &mut command)?;
        let answers = BufReader::new(process.child().stdout.take().context("no pipe")?);
        Ok(Self(process, answers))
    }

    /// The median.
    fn ask(&mut self, count: u32) -> Result<f64> {
        writeln!(self.0.child().stdin.as_mut().context("no pipe")?, "{count}")?;
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        let mut times: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(times.len() == count as usize, "{line}");
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

/// threats.md T27: with the daemon stopped, and its queue full, servers answer as before.
#[test]
fn a_stopped_daemon_holds_no_server_up() -> Result<()> {
    const ASKED: u32 = 1000;
    let servers: [(&str, Server); 3] =
        [("nginx", |lab| Reporter::nginx(lab, true)), ("haproxy", Reporter::haproxy), ("apache", Reporter::apache)];
    for (name, reporter) in servers {
        let (lab, daemon) = start()?;
        let _reporter = reporter(&lab)?;
        let mut client = Steady::start(&lab)?;
        let before = client.ask(ASKED)?;
        report_of(&lab, &daemon, "/steady")?;
        daemon.signal(Signal::SIGSTOP)?;
        let stopped = client.ask(ASKED)?;
        daemon.signal(Signal::SIGCONT)?;
        show(&format!("{name}: {:.0} us, with the daemon stopped {:.0} us", before * 1e6, stopped * 1e6));
        ensure!(stopped - before < 1e-3, "{name}: {before} s, and {stopped} s with the daemon stopped");
    }
    Ok(())
}

/// What nginx dropped since the queue was full is estimated, and the doctor says why.
#[test]
fn losses_are_estimated() -> Result<()> {
    const ASKED: u32 = 300;
    let (lab, daemon) = start()?;
    let _nginx = Reporter::nginx(&lab, false)?;
    let told = || {
        let metrics = daemon.metrics(&lab)?;
        let told = metrics.sum("detector_intake_frames_total", &[("outcome", "report")]);
        Ok::<_, anyhow::Error>((told, metrics.sum("detector_intake_lost_reports_estimate", &[])))
    };
    // Of the question whether nginx answers.
    let (before_all, _) = until("the first report", PATIENCE, || Ok(Some(told()?).filter(|(told, _)| *told > 0.0)))?;
    let mut client = Steady::start(&lab)?;
    client.ask(ASKED)?;
    daemon.signal(Signal::SIGSTOP)?;
    client.ask(ASKED)?;
    daemon.signal(Signal::SIGCONT)?;
    client.ask(ASKED)?;
    // The last one may be lost too: once one comes, all before it have come or never will.
    let mut asked = 3 * ASKED;
    let (reported, estimate) = until("the last report", PATIENCE, || {
        client.ask(1)?;
        asked += 1;
        let last = reports(&lab)?.pop().is_some_and(|report| report["n"] == asked);
        if last { told().map(Some) } else { Ok(None) }
    })?;
    let lost = f64::from(asked) - (reported - before_all);
    show(&format!("{lost} of {asked} reports lost, {estimate} estimated"));
    ensure!(lost > f64::from(ASKED) / 2.0, "{lost} lost: is the queue longer than the default?");
    ensure!((estimate / lost - 1.0).abs() <= 0.1, "{estimate} estimated, {lost} lost");

    let config = configuration(&lab);
    let doctor = control(&lab, &["doctor", "--config", &config.display().to_string()])?;
    let said = String::from_utf8(doctor.stdout)?;
    ensure!(doctor.status.code() == Some(1), "{said}");
    for part in [
        "ok      reports    the group www-data exists",
        "warning reports    net.unix.max_dgram_qlen is 10:",
        "reports came",
        "problem reports    some ",
        "reports got lost",
    ] {
        ensure!(said.contains(part), "no `{part}`: {said}");
    }
    ensure!(control_ok(&lab, &["status"])?.contains("told by web servers"));
    Ok(())
}
