//! Envoy and Traefik with what `dist/` has for them, as its users put it into their own configuration: both ask before they
//! answer, and Envoy tells of each request.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok, control_socket, signal_socket};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, SERVER_V4};
use detector_tests::process::{Process, output};
use detector_tests::programs;
use detector_tests::reporters::shipped;
use detector_tests::server::{Certificate, SERVER_NAME};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CONFIG: &str = "[inline]\nlisten = \"127.0.0.1:9466\"\n";

/// The application: it answers what it was told of a request.
const APPLICATION: &str = "\
daemon off;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 256; }
http {
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    access_log off;
    default_type text/plain;
    server {
        listen 127.0.0.1:8081;
        return 200 '$http_x_detector_decision|$http_x_detector_ja4|$http_x_detector_id|$http_x_detector_score';
    }
}
";

struct Scene {
    daemon: Daemon,
    /// The application, the gateway and what it needs.
    _processes: Vec<Process>,
    lab: Lab,
}

impl Scene {
    /// The daemon, the application, and what `gateway` starts in a directory with a certificate.
    fn start(gateway: impl FnOnce(&Lab, &Path) -> Result<Vec<Process>>) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let daemon = Daemon::start(&lab, DaemonOptions { config: CONFIG, ..DaemonOptions::default() })?;
        let directory = lab.file("gateway");
        fs::create_dir(&directory)?;
        // Its workers are nobody's.
        fs::set_permissions(lab.file(""), fs::Permissions::from_mode(0o755))?;
        Certificate::make(&directory)?;
        fs::write(directory.join("nginx.conf"), APPLICATION)?;
        let mut nginx = lab.server().command("nginx");
        nginx.arg("-p").arg(&directory).args(["-c", "nginx.conf", "-e", "error.log"]);
        let mut processes = vec![run("nginx", nginx, &directory)?];
        processes.extend(gateway(&lab, &directory)?);
        let scene = Self { daemon, _processes: processes, lab };
        until("the gateway to answer", PATIENCE, || {
            Ok(scene.ask("/ready", &[]).ok().filter(|(status, _)| status == "200"))
        })
        .with_context(|| fs::read_to_string(directory.join("gateway.log")).unwrap_or_default())?;
        Ok(scene)
    }

    /// Asks for a page over a connection of its own: status, and what the application was told.
    fn ask(&self, path: &str, more: &[&str]) -> Result<(String, Vec<String>)> {
        let mut command = self.lab.client().command("curl");
        command.args(["-sk", "--noproxy", "*", "--max-time", "10", "-w", "\n%{http_code}"]);
        command.args(["--resolve", &format!("{SERVER_NAME}:443:{SERVER_V4}")]);
        let printed = output(command.args(more).arg(format!("https://{SERVER_NAME}{path}")))?;
        let (told, status) = printed.rsplit_once('\n').context("no status")?;
        Ok((status.to_owned(), told.split('|').map(str::to_owned).collect()))
    }

    fn last_ja4(&self) -> Result<String> {
        let ja4 = self.daemon.events()?.last().and_then(|hello| Some(hello["ja4"].as_str()?.to_owned()));
        ja4.context("no hello")
    }

    /// An allowed client gets its page, a denied one 403; the application learns what was decided, and not from the client.
    fn asks_first(&self, ja4_is_known: bool) -> Result<()> {
        let lies =
            ["-H", "X-Detector-Decision: deny", "-H", "X-Detector-Score: 1", "-H", "X-Detector-Client: 192.0.2.1"];
        for more in [&lies[..], &["-H", "X-Forwarded-For: 192.0.2.1"]] {
            let (status, told) = self.ask("/first", more)?;
            let ja4 = if ja4_is_known { self.last_ja4()? } else { "-".to_owned() };
            ensure!(status == "200" && told[0] == "allow" && told[1] == ja4 && told[2].len() > 17, "{status} {told:?}");
            // Detector's own, where it knows whom; never the client's.
            let score = told[3].parse::<f64>().ok();
            let own =
                if ja4_is_known { score.is_some_and(|score| 0.0 < score && score < 1.0) } else { score != Some(1.0) };
            ensure!(own, "a client's own word: {told:?}");
        }
        let client = CLIENT_V4.to_string();
        control_ok(&self.lab, &["block", &client, "--at", "inline"])?;
        ensure!(self.ask("/denied", &[])?.0 == "403");
        ensure!(self.ask("/denied", &["-H", "X-Forwarded-For: 192.0.2.1"])?.0 == "403", "it named another one");
        control_ok(&self.lab, &["unblock", &client])?;
        control_ok(&self.lab, &["block", "192.0.2.1", "--at", "inline"])?;
        ensure!(self.ask("/other", &["-H", "X-Forwarded-For: 192.0.2.1"])?.0 == "200", "the blame was moved");
        if ja4_is_known {
            let ja4 = self.last_ja4()?;
            control_ok(&self.lab, &["block", "--ja4", &ja4, "--at", "inline"])?;
            ensure!(self.ask("/denied", &[])?.0 == "403");
            control_ok(&self.lab, &["unblock", "--ja4", &ja4])?;
        }
        ensure!(self.ask("/again", &[])?.0 == "200");
        Ok(())
    }
}

fn run(name: &str, mut command: Command, directory: &Path) -> Result<Process> {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("gateway.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Process::start(name, &mut command)
}

/// A file of `dist/` that is YAML, with another path in it.
fn yaml(file: &str, path: &str, by: &Path) -> Result<Value> {
    let text = shipped(file)?;
    ensure!(text.contains(path), "dist/{file} has no `{path}`");
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program, &text.replace(path, &by.display().to_string())]);
    Ok(serde_json::from_str(&output(&mut python)?)?)
}

/// Envoy's listener on port 443, the application behind it, with the lines of `dist/` in their places.
fn envoys_configuration(directory: &Path, decision: &Path, pipe: &Path) -> Result<Value> {
    let asks = yaml("envoy/detector-decision.yaml", "/run/detector/decision.sock", decision)?;
    let tells = yaml("envoy/access-log.yaml", "/run/envoy/detector.fifo", pipe)?;
    let types = "type.googleapis.com/envoy.extensions";
    let file = |name: &str| json!({ "filename": directory.join(name) });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{types}.filters.http.router.v3.Router") },
    });
    let with = |list: &Value, last: Value| -> Vec<Value> {
        list.as_array().into_iter().flatten().cloned().chain([last]).collect()
    };
    let manager = json!({
        "@type": format!("{types}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "site",
        "early_header_mutation_extensions": asks["early_header_mutation_extensions"],
        "access_log": tells["access_log"],
        "http_filters": with(&asks["http_filters"], router),
        "route_config": { "virtual_hosts": [{
            "name": "site", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "application" } }],
        }]},
    });
    let tls = json!({
        "@type": format!("{types}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{ "certificate_chain": file("certificate.pem"), "private_key": file("key.pem") }],
        },
    });
    let at = |address: &str, port: u16| json!({ "socket_address": { "address": address, "port_value": port } });
    let application = json!({
        "name": "application", "connect_timeout": "5s",
        "load_assignment": { "cluster_name": "application", "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": at("127.0.0.1", 8081) } }],
        }]},
    });
    Ok(json!({ "static_resources": {
        "listeners": [{ "name": "site", "address": at("0.0.0.0", 443), "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }]}],
        "clusters": with(&asks["clusters"], application),
    }}))
}

fn decision_socket(lab: &Lab) -> PathBuf {
    control_socket(lab).with_extension("decision.sock")
}

fn envoy() -> Result<Scene> {
    Scene::start(|lab, directory| {
        let pipe = directory.join("reports.fifo");
        output(Command::new("mkfifo").args(["-m", "0620"]).arg(&pipe))?;
        let mut relay = lab.server().command(programs::detector()?);
        relay.arg("relay").arg("--socket").arg(signal_socket(lab));
        // As `<>` of a shell does.
        let ends = OpenOptions::new().read(true).write(true).open(&pipe)?;
        relay.stdin(ends).stdout(Stdio::null()).stderr(File::create(directory.join("relay.log"))?);
        let relay = Process::start("detector relay", &mut relay)?;
        let file = directory.join("envoy.json");
        fs::write(&file, envoys_configuration(directory, &decision_socket(lab), &pipe)?.to_string())?;
        let mut command = lab.server().command(programs::gateway("envoy")?);
        command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        // As the lines of dist/ say.
        command.args(["--file-flush-interval-msec", "100"]);
        Ok(vec![relay, run("envoy", command, directory)?])
    })
}

fn traefik() -> Result<Scene> {
    Scene::start(|lab, directory| {
        let mut dynamic = yaml("traefik/detector-decision.yml", "127.0.0.1:9466", Path::new("127.0.0.1:9466"))?;
        let routers = json!({ "site": {
            "rule": "PathPrefix(`/`)", "entryPoints": ["site"], "service": "application", "tls": {},
            "middlewares": ["detector-strip", "detector"],
        }});
        let servers = json!([{ "url": "http://127.0.0.1:8081" }]);
        dynamic["http"]["routers"] = routers;
        dynamic["http"]["services"] = json!({ "application": { "loadBalancer": { "servers": servers } } });
        let file = |name: &str| directory.join(name);
        dynamic["tls"] =
            json!({ "certificates": [{ "certFile": file("certificate.pem"), "keyFile": file("key.pem") }] });
        // JSON is YAML, too.
        fs::write(file("dynamic.yml"), dynamic.to_string())?;
        let mut command = lab.server().command(programs::gateway("traefik")?);
        command.args(["--entryPoints.site.address=:443", "--log.level=WARN", "--global.checkNewVersion=false"]);
        command.arg(format!("--providers.file.filename={}", file("dynamic.yml").display()));
        command.env("HOME", directory);
        Ok(vec![run("traefik", command, directory)?])
    })
}

#[test]
fn envoy_asks_before_it_answers() -> Result<()> {
    let scene = envoy()?;
    scene.asks_first(true)?;
    scene.daemon.signal(Signal::SIGSTOP)?;
    ensure!(scene.ask("/frozen", &[])?.0 == "200", "it waits for a daemon that is frozen");
    scene.daemon.signal(Signal::SIGKILL)?;
    ensure!(scene.ask("/down", &[])?.0 == "200", "it fails since the daemon does");
    Ok(())
}

/// Its lines come some time after the request; the ClientHello is found all the same.
#[test]
fn envoy_tells_of_each_request() -> Result<()> {
    const ASKED: usize = 20;
    let scene = envoy()?;
    for number in 0..ASKED {
        let (status, _) = scene.ask(&format!("/told/{number}"), &[])?;
        ensure!(status == "200", "{status}");
    }
    let joined = || {
        Ok::<_, anyhow::Error>(
            scene.daemon.metrics(&scene.lab)?.sum("detector_join_reports_total", &[("outcome", "joined")]),
        )
    };
    until("a report of each request", PATIENCE, || Ok((joined()? >= ASKED as f64).then_some(())))
        .with_context(|| scene.daemon.counted(&scene.lab).unwrap_or_default())?;
    ensure!(scene.daemon.metrics(&scene.lab)?.unread() == 0.0, "{}", scene.daemon.counted(&scene.lab)?);
    Ok(())
}

/// As its lines say, it judges by the address alone, and refuses while the daemon is down.
#[test]
fn traefik_asks_before_it_answers() -> Result<()> {
    let scene = traefik()?;
    scene.asks_first(false)?;
    scene.daemon.signal(Signal::SIGKILL)?;
    let refused = || Ok::<_, anyhow::Error>(scene.ask("/down", &[])?.0);
    until("the daemon's end", PATIENCE, || Ok(refused()?.starts_with('5').then_some(())))
}
