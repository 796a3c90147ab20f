//! The decision endpoint, asked by real web servers with the snippets of `dist/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{
    daemon::{Daemon, DaemonOptions, control, control_ok},
    deadline::{PATIENCE, until},
    lab::{CLIENT_V4, CLIENT_V6, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4, SERVER_V6},
    process::{Process, output},
    server::{Certificate, SERVER_NAME},
};
use nix::sys::signal::Signal;

/// What the daemon is told; the socket is in the lab's directory.
const CONFIG: &str = "[inline]\nlisten = \"127.0.0.1:9466\"\n[inline.sites.\"shop.example\"]\nchallenge_status = 401\n";

/// Two sites that ask, one with a status of its own for challenges, before an application that logs what it is told. Each
/// worker takes its share of the connections.
const NGINX: &str = "\
daemon off;
worker_processes 2;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 1024; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    default_type text/plain;
    access_log off;
    log_format asked '$pid|$msec|$request_time|$asked|$request_uri';
    log_format told '$http_x_detector_decision|$http_x_detector_ja4|$http_x_detector_id|$http_x_detector_score|$request_uri';
    include SNIPPETS/detector-decision-http.conf;
    server {
        listen 443 ssl http2 reuseport; listen [::]:443 ssl http2 ipv6only=on reuseport;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        server_name shop.example other.example;
        include SNIPPETS/detector-decision-server.conf;
        include SNIPPETS/detector-decision-location.conf;
        auth_request_set $asked $upstream_addr;
        access_log asked.log asked;
        location / {
            include SNIPPETS/detector-decision-proxy.conf;
            proxy_pass http://127.0.0.1:8081;
        }
    }
    server {
        listen 127.0.0.1:8081;
        access_log told.log told;
        return 200 'page\\n';
    }
}
";

/// Its answer is what it would tell an application.
const HAPROXY: &str = "\
global
    lua-load DIRECTORY/detector.lua
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend site
    bind :443,:::443 v6only ssl crt DIRECTORY/both.pem alpn h2,http/1.1
LINES
    http-request return status 200 content-type text/plain lf-string \"%[req.hdr(x-detector-decision)]|%[req.hdr(x-detector-ja4)]|%[req.hdr(x-detector-id)]|%[req.hdr(x-detector-score)]\"
";

const CADDY: &str = "\
{
    admin off
    auto_https off
}
import detector-decision.caddyfile
https://shop.example, https://other.example {
    tls certificate.pem key.pem
    route {
        import detector_decision
        respond \"{header.X-Detector-Decision}|{header.X-Detector-JA4}|{header.X-Detector-Id}|{header.X-Detector-Score}\"
    }
}
";

struct Scene {
    daemon: Option<Daemon>,
    _server: Process,
    told: PathBuf,
    lab: Lab,
}

/// One answer to a client.
#[derive(Debug)]
struct Answer {
    body: String,
    status: String,
    seconds: f64,
}

impl Scene {
    /// nginx as its users set it up, but for the socket's path.
    fn nginx() -> Result<Self> {
        Self::nginx_backed("127.0.0.1:9467")
    }

    /// The same, with whoever is at `backup` to answer when the daemon doesn't.
    fn nginx_backed(backup: &str) -> Result<Self> {
        Self::start(|lab| {
            let directory = directory(lab)?;
            let snippets = directory.join("snippets");
            fs::create_dir(&snippets)?;
            for name in ["http", "server", "location", "proxy"] {
                let name = format!("detector-decision-{name}.conf");
                let text = shipped(&format!("nginx/{name}"))?;
                let socket = lab.file("decision.sock");
                let text = text.replace("/run/detector/decision.sock", &socket.to_string_lossy());
                fs::write(snippets.join(name), text.replace("server 127.0.0.1:9467", &format!("server {backup}")))?;
            }
            let configuration = directory.join("nginx.conf");
            fs::write(&configuration, NGINX.replace("SNIPPETS", &snippets.to_string_lossy()))?;
            let mut command = lab.server().command("nginx");
            command.arg("-p").arg(&directory).arg("-c").arg(&configuration).args(["-e", "error.log"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(directory.join("stderr"))?);
            Ok((Process::start("nginx", &mut command)?, directory.join("told.log")))
        })
    }

    /// HAProxy likewise; its answers are what it would tell an application.
    fn haproxy() -> Result<Self> {
        Self::start(|lab| {
            let directory = directory(lab)?;
            fs::write(directory.join("detector.lua"), shipped("haproxy/detector.lua")?)?;
            let both = ["certificate.pem", "key.pem"].map(|name| fs::read_to_string(directory.join(name)));
            let [certificate, key] = both;
            fs::write(directory.join("both.pem"), certificate? + &key?)?;
            let configuration = directory.join("haproxy.cfg");
            let text = HAPROXY.replace("DIRECTORY", &directory.to_string_lossy());
            fs::write(&configuration, text.replace("LINES", &shipped("haproxy/detector-decision.cfg")?))?;
            let mut command = lab.server().command("haproxy");
            command.arg("-db").arg("-f").arg(&configuration);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(directory.join("stderr"))?);
            Ok((Process::start("haproxy", &mut command)?, directory))
        })
    }

    /// Caddy likewise.
    fn caddy() -> Result<Self> {
        Self::start(|lab| {
            let directory = directory(lab)?;
            let socket = lab.file("decision.sock");
            let snippet = shipped("caddy/detector-decision.caddyfile")?;
            let snippet = snippet.replace("/run/detector/decision.sock", &socket.to_string_lossy());
            fs::write(directory.join("detector-decision.caddyfile"), snippet)?;
            fs::write(directory.join("Caddyfile"), CADDY)?;
            let mut command = lab.server().command("caddy");
            command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]).current_dir(&directory);
            command.env("HOME", &directory).env("XDG_DATA_HOME", &directory).env("XDG_CONFIG_HOME", &directory);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(directory.join("stderr"))?);
            Ok((Process::start("caddy", &mut command)?, directory))
        })
    }

    fn start(server: impl FnOnce(&Lab) -> Result<(Process, PathBuf)>) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let config = format!("{CONFIG}[enforce]\n")
            .replace("[inline]\n", &format!("[inline]\nsocket = {:?}\ngroup = \"root\"\n", lab.file("decision.sock")));
        let config: &'static str = config.leak();
        let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
        // Its workers may ask: nginx' are nobody's.
        output(lab.server().command("chmod").arg("0666").arg(lab.file("decision.sock")))?;
        output(lab.server().command("chmod").arg("0755").arg(lab.file("")))?;
        let (server, told) = server(&lab)?;
        let scene = Self { daemon: Some(daemon), _server: server, told, lab };
        until("the server to answer", PATIENCE, || {
            let answer = scene.ask("/ready", &["--max-time", "2"]);
            Ok(answer.is_ok().then_some(()))
        })
        .with_context(|| fs::read_to_string(scene.lab.file("server").join("stderr")).unwrap_or_default())?;
        Ok(scene)
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the daemon was killed")
    }

    /// Asks for a page over a connection of its own.
    fn ask(&self, path: &str, more: &[&str]) -> Result<Answer> {
        self.ask_as(SERVER_NAME, path, more)
    }

    fn ask_as(&self, name: &str, path: &str, more: &[&str]) -> Result<Answer> {
        let mut command = self.lab.client().command("curl");
        command.args(["-sk", "--noproxy", "*", "--max-time", "10"]);
        command.args(["-w", "\n%{http_code} %{time_total} %{time_appconnect}"]);
        command.args(["--resolve", &format!("{name}:443:{SERVER_V4},[{SERVER_V6}]")]);
        let printed = output(command.args(more).arg(format!("https://{name}{path}")))?;
        let (body, figures) = printed.rsplit_once('\n').context("no figures")?;
        let mut words = figures.split(' ');
        let (status, total, before) = (words.next(), words.next(), words.next());
        let seconds = |text: Option<&str>| Ok::<f64, anyhow::Error>(text.context("too few words")?.parse()?);
        let (body, status) = (body.to_owned(), status.unwrap_or_default().to_owned());
        Ok(Answer { body, status, seconds: seconds(total)? - seconds(before)? })
    }

    /// What the application was told of the request for `path`.
    fn told(&self, path: &str) -> Result<Vec<String>> {
        until("the application's log line", PATIENCE, || {
            let log = fs::read_to_string(&self.told)?;
            let line = log.lines().find(|line| line.ends_with(&format!("|{path}")));
            Ok(line.map(|line| line.split('|').map(str::to_owned).collect()))
        })
    }

    fn fingerprints(&self, outcome: &str) -> Result<f64> {
        Ok(self.daemon()?.metrics(&self.lab)?.sum("detector_inline_fingerprints_total", &[("outcome", outcome)]))
    }
}

/// A directory for a server's files, with a certificate.
fn directory(lab: &Lab) -> Result<PathBuf> {
    let directory = lab.file("server");
    fs::create_dir(&directory)?;
    Certificate::make(&directory)?;
    Ok(directory)
}

fn shipped(name: &str) -> Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn last_ja4(daemon: &Daemon) -> Result<String> {
    let ja4 = daemon.events()?.last().and_then(|hello| Some(hello["ja4"].as_str()?.to_owned()));
    ja4.context("no hello")
}

/// A denied client gets 403, an allowed one its page; the application learns what was decided, and not from the client.
#[test]
fn nginx_refuses_whom_an_operator_blocks_and_tells_the_application_the_rest() -> Result<()> {
    let scene = Scene::nginx()?;
    let lab = &scene.lab;
    let lies = ["-H", "X-Detector-Decision: deny", "-H", "X-Detector-Score: 1", "-H", "X-Detector-Client: 192.0.2.1"];
    assert_eq!(scene.ask("/first", &lies)?.status, "200");
    let ja4 = last_ja4(scene.daemon()?)?;
    let told = scene.told("/first")?;
    assert_eq!((told[0].as_str(), told[1].as_str()), ("allow", ja4.as_str()), "{told:?}");
    ensure!(told[3].parse::<f64>().is_ok_and(|score| score > 0.0 && score < 1.0), "detector's score: {told:?}");
    assert_eq!(scene.ask("/second", &["-6"])?.status, "200");
    let other = scene.told("/second")?;
    ensure!(other[2] != told[2] && other[2].len() > 17, "ids are unique: {told:?} {other:?}");
    assert_eq!(other[1], ja4, "over IPv6");

    let other_client = OTHER_CLIENT_V4.to_string();
    let [own, others] = [&[][..], &["--interface", &other_client][..]];
    for subject in [&["--ja4", ja4.as_str()][..], &["10.77.0.2"], &["10.77.0.2", "--ja4", &ja4]] {
        control_ok(lab, &[&["block"], subject, &["--at", "inline"]].concat())?;
        assert_eq!(scene.ask("/blocked", own)?.status, "403", "{subject:?}");
        let expected = if subject.len() == 2 && subject[0] == "--ja4" { "403" } else { "200" };
        assert_eq!(scene.ask("/other", others)?.status, expected, "{subject:?}");
        control_ok(lab, &[&["unblock"], subject].concat())?;
        assert_eq!(scene.ask("/unblocked", own)?.status, "200", "{subject:?}");
    }
    ensure!(!fs::read_to_string(&scene.told)?.contains("/blocked"), "the application saw a refused request");

    control_ok(lab, &["challenge", "10.77.0.2", "--at", "inline"])?;
    assert_eq!(scene.ask("/challenged", own)?.status, "401", "the site wants that");
    assert_eq!(scene.ask_as("other.example", "/challenged-here", own)?.status, "200", "the application challenges");
    assert_eq!(scene.told("/challenged-here")?[0], "challenge");
    let metrics = scene.daemon()?.metrics(lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0, "packets were dropped");
    ensure!(metrics.sum("detector_inline_decisions_total", &[("decision", "deny")]) >= 3.0);
    Ok(())
}

/// As other orders: listed, kept over a restart, ended by their time, overruled by the allow list and what is never
/// blocked; one subject has one block.
#[test]
fn orders_about_requests_are_kept_and_taken_back_as_others() -> Result<()> {
    let mut scene = Scene::nginx()?;
    let client = CLIENT_V4.to_string();
    control_ok(&scene.lab, &["block", &client, "--at", "inline", "--ttl", "forever"])?;
    assert_eq!(scene.ask("/a", &[])?.status, "403");
    let listed = control_ok(&scene.lab, &["list"])?;
    ensure!(listed.contains("block inline  10.77.0.2"), "{listed}");
    let daemon = scene.daemon.take().context("it runs")?;
    daemon.stop(Signal::SIGTERM)?;
    let config: &'static str = fs::read_to_string(detector_tests::daemon::configuration(&scene.lab))?.leak();
    scene.daemon = Some(Daemon::start(&scene.lab, DaemonOptions { config, ..DaemonOptions::default() })?);
    output(scene.lab.server().command("chmod").arg("0666").arg(scene.lab.file("decision.sock")))?;
    until("the restarted daemon to refuse", PATIENCE, || Ok((scene.ask("/b", &[])?.status == "403").then_some(())))?;

    control_ok(&scene.lab, &["allow", "10.77.0.0/24"])?;
    assert_eq!(scene.ask("/allowed", &[])?.status, "200");
    control_ok(&scene.lab, &["unallow", "10.77.0.0/24"])?;
    assert_eq!(scene.ask("/c", &[])?.status, "403");

    let moved = control_ok(&scene.lab, &["block", &client])?;
    ensure!(!moved.contains("about requests"), "{moved}");
    let listed = control_ok(&scene.lab, &["list"])?;
    ensure!(listed.contains("block   10.77.0.2") && !listed.contains("inline"), "one block, on packets: {listed}");
    control_ok(&scene.lab, &["block", &client, "--at", "inline", "--ttl", "2s"])?;
    let answer = scene.ask("/d", &[])?;
    assert_eq!(answer.status, "403", "its packets pass again: {answer:?}");
    until("the end of the block", PATIENCE, || Ok((scene.ask("/e", &[])?.status == "200").then_some(())))?;
    let none = control(&scene.lab, &["unblock", &client])?;
    assert_eq!(none.status.code(), Some(2), "nothing is left of it");
    let own = control(&scene.lab, &["block", &SERVER_V4.to_string(), "--at", "inline"])?;
    ensure!(String::from_utf8_lossy(&own.stderr).contains("never blocked"), "{own:?}");
    Ok(())
}

/// A request as nginx logged it.
#[derive(Debug)]
struct Served {
    worker: String,
    /// Seconds since 1970.
    began: f64,
    /// What it took, in seconds.
    took: f64,
    /// Whether the daemon was asked.
    asked: bool,
}

impl Served {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split('|');
        let (worker, ended, took) = (words.next()?.to_owned(), words.next()?, words.next()?);
        let (ended, took): (f64, f64) = (ended.parse().ok()?, took.parse().ok()?);
        Some(Self { worker, began: ended - took, took, asked: words.next()?.contains("decision.sock") })
    }
}

/// Requests one after another over connections of their own for so long, none of which may fail.
fn keep_asking(scene: &Scene, lasts: Duration) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < lasts {
        let answer = scene.ask("/frozen", &[])?;
        ensure!(answer.status == "200", "it fails open: {answer:?}");
    }
    Ok(())
}

/// Frozen, the daemon costs a request 50 ms at most: those that are under way, then one of each worker in ten seconds.
/// Killed, it costs nothing.
#[test]
fn nginx_goes_on_without_the_daemon() -> Result<()> {
    let mut scene = Scene::nginx()?;
    control_ok(&scene.lab, &["block", "10.77.0.2", "--at", "inline"])?;
    assert_eq!(scene.ask("/refused", &[])?.status, "403");
    scene.daemon()?.signal(Signal::SIGSTOP)?;
    // Several at a time, so that each worker has some; long enough for the daemon to be tried again.
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| keep_asking(&scene, Duration::from_secs(23)))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })?;
    scene.daemon()?.signal(Signal::SIGCONT)?;
    check_frozen(&fs::read_to_string(scene.lab.file("server").join("asked.log"))?)?;
    until("the daemon to be asked again", PATIENCE, || Ok((scene.ask("/again", &[])?.status == "403").then_some(())))?;

    let daemon = scene.daemon.take().context("it runs")?;
    daemon.stop(Signal::SIGKILL)?;
    for number in 0..20 {
        let answer = scene.ask(&format!("/killed-{number}"), &[])?;
        assert_eq!(answer.status, "200", "no error without the daemon");
    }
    assert_eq!(scene.told("/killed-7")?[0], "-", "nobody decided");
    Ok(())
}

/// Nor does it cost anything if its second server gives no answer either, as on a host that is too busy for both.
#[test]
fn nginx_lets_a_request_pass_that_nobody_answers_for() -> Result<()> {
    // Nobody is there.
    let mut scene = Scene::nginx_backed("127.0.0.1:9468")?;
    control_ok(&scene.lab, &["block", "10.77.0.2", "--at", "inline"])?;
    assert_eq!(scene.ask("/refused", &[])?.status, "403");
    scene.daemon.take().context("it runs")?.stop(Signal::SIGKILL)?;
    for number in 0..20 {
        assert_eq!(scene.ask(&format!("/passed-{number}"), &[])?.status, "200");
    }
    assert_eq!(scene.told("/passed-7")?[0], "-", "nobody decided");
    Ok(())
}

/// What nginx logged while the daemon was frozen.
fn check_frozen(log: &str) -> Result<()> {
    let lines = log.lines().filter(|line| line.ends_with("|/frozen"));
    let served: Vec<Served> =
        lines.map(|line| Served::read(line).context("a line of another format")).collect::<Result<_>>()?;
    let workers: BTreeSet<&str> = served.iter().map(|request| request.worker.as_str()).collect();
    ensure!(workers.len() == 2, "one worker alone did it all");
    let mut waited: Vec<&Served> = served.iter().filter(|request| request.asked).collect();
    waited.sort_by(|a, b| a.began.total_cmp(&b.began));
    let (first, last) = (waited.first().context("the daemon was never asked")?, waited.last().context("never")?);
    let others: Vec<f64> = served.iter().filter(|request| !request.asked).map(|request| request.took).collect();
    eprintln!("{} requests with the daemon frozen, {} of them waited: {waited:?}", served.len(), waited.len());
    for request in &waited {
        ensure!(request.took <= 0.050 + mean(&others), "{request:?}");
    }
    ensure!(last.began - first.began >= 10.0, "the daemon was never tried again");
    // What was under way when the first of them had waited, waited too.
    let later = waited.iter().filter(|request| request.began > first.began + first.took);
    let mut before: BTreeMap<&str, f64> = workers.iter().map(|worker| (*worker, first.began)).collect();
    for request in later {
        let last = before.insert(&request.worker, request.began).unwrap_or_default();
        ensure!(request.began - last >= 10.0, "a worker asked twice within ten seconds: {waited:?}");
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[test]
fn haproxy_asks_and_obeys_and_goes_on_without_the_daemon() -> Result<()> {
    asks_and_obeys(Scene::haproxy()?, "|||")
}

#[test]
fn caddy_asks_and_obeys_and_goes_on_without_the_daemon() -> Result<()> {
    asks_and_obeys(Scene::caddy()?, "allow|-|-|-")
}

/// With a server that answers what it would tell an application; `undecided` while the daemon doesn't answer.
fn asks_and_obeys(mut scene: Scene, undecided: &str) -> Result<()> {
    let lab = &scene.lab;
    let lies = ["-H", "X-Detector-Decision: deny", "-H", "X-Detector-Score: 1", "-H", "X-Detector-Client: 192.0.2.1"];
    for more in [&lies[..], &["-6", "--http1.1"]] {
        let answer = scene.ask("/", more)?;
        let ja4 = last_ja4(scene.daemon()?)?;
        let told: Vec<&str> = answer.body.split('|').collect();
        ensure!(answer.status == "200" && told[..2] == ["allow", &ja4] && told[3].contains("0."), "{answer:?}");
    }
    control_ok(lab, &["block", "10.77.0.2", "--at", "inline"])?;
    assert_eq!(scene.ask("/", &[])?.status, "403");
    control_ok(lab, &["unblock", "10.77.0.2"])?;
    control_ok(lab, &["challenge", "10.77.0.2", "--at", "inline"])?;
    assert_eq!(scene.ask("/", &[])?.status, "401", "the site wants that");
    let answer = scene.ask_as("other.example", "/", &[])?;
    ensure!(answer.status == "200" && answer.body.starts_with("challenge|"), "{answer:?}");

    scene.daemon()?.signal(Signal::SIGSTOP)?;
    let answers = (0..20).map(|_| scene.ask("/", &lies)).collect::<Result<Vec<_>>>()?;
    ensure!(answers.iter().all(|answer| answer.status == "200" && answer.body == undecided), "{answers:?}");
    let slow: Vec<&Answer> = answers.iter().filter(|answer| answer.seconds >= 0.040).collect();
    ensure!(slow.len() <= 2 && slow.iter().all(|answer| answer.seconds <= 0.120), "{slow:?}");
    scene.daemon()?.signal(Signal::SIGCONT)?;
    until("the daemon to be asked again", PATIENCE, || Ok((scene.ask("/", &[])?.status == "401").then_some(())))?;
    scene.daemon.take().context("it runs")?.stop(Signal::SIGKILL)?;
    for _ in 0..5 {
        let answer = scene.ask("/", &lies)?;
        ensure!(answer.status == "200" && answer.body == undecided, "an error without the daemon: {answer:?}");
    }
    Ok(())
}

/// What a connection's hello said is known for as long as it lives, and some seconds for what is written at its end.
#[test]
fn a_hello_is_forgotten_with_its_connection() -> Result<()> {
    let scene = Scene::nginx()?;
    let known = || {
        Ok::<_, anyhow::Error>(
            scene.daemon()?.metrics(&scene.lab)?.sum("detector_table_entries", &[("table", "known_connections")]),
        )
    };
    for path in ["/one", "/two", "/three"] {
        assert_eq!(scene.ask(path, &[])?.status, "200");
    }
    ensure!(known()? >= 3.0, "they ended just now");
    until("the end of what is known of ended connections", PATIENCE, || Ok((known()? == 0.0).then_some(())))?;
    let metrics = scene.daemon()?.metrics(&scene.lab)?;
    ensure!(metrics.sum("detector_queue_items_total", &[("queue", "known"), ("outcome", "dropped")]) == 0.0);
    Ok(())
}

/// A request whose connection gave no hello is answered, late by a few milliseconds once, by the address alone.
#[test]
fn a_question_without_a_hello_is_answered_by_its_address() -> Result<()> {
    let scene = Scene::nginx()?;
    let mut socket = BufReader::new(UnixStream::connect(scene.lab.file("decision.sock"))?);
    socket.get_ref().set_read_timeout(Some(PATIENCE))?;
    let mut ask = |lines: &str| -> Result<Vec<String>> {
        socket.get_mut().write_all(format!("GET / HTTP/1.1\r\nhost: d\r\n{lines}\r\n").as_bytes())?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line)?;
            match line.trim_end() {
                "" => return Ok(head),
                line => head.push(line.to_owned()),
            }
        }
    };
    let question = |client: &str| {
        format!(
            "x-detector-client: {client}\r\nx-detector-client-port: 7\r\nx-detector-server: {SERVER_V4}\r\nx-detector-server-port: 443\r\n"
        )
    };
    let has = |head: &[String], line: &str| head.iter().any(|found| found == line);
    for _ in 0..2 {
        let head = ask(&question("192.0.2.7"))?;
        ensure!(head[0].ends_with("200 OK") && has(&head, "x-detector-ja4: -"), "{head:?}");
    }
    assert_eq!(scene.fingerprints("no_hello")?, 2.0);
    control_ok(&scene.lab, &["block", "192.0.2.0/24", "--at", "inline"])?;
    let head = ask(&question("192.0.2.7"))?;
    ensure!(head[0].ends_with("403 Forbidden") && has(&head, "x-detector-decision: deny"), "{head:?}");
    let head = ask("x-detector-client: nonsense\r\n")?;
    ensure!(head[0].ends_with("200 OK"), "{head:?}");
    ensure!(scene.fingerprints("no_tuple")? >= 1.0);
    let hello = scene.ask("/v6", &["-6", "--interface", &CLIENT_V6.to_string()])?;
    assert_eq!(hello.status, "200");
    Ok(())
}
