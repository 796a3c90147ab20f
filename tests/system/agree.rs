//! What a web server's application is told of a request, and what `detector explain` says of the same decision, agree
//! (issue 6, "Done when" 5): of a person's browser, of clients that are challenged and refused, of what an operator ordered;
//! behind a proxy as well.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use detector_tests::curl::curl_in;
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{CLIENT_V4, Lab, LabOptions, OTHER_CLIENT_V4, SERVER_V4};
use detector_tests::reporters::{self, Reporter};
use detector_tests::server::SERVER_NAME;
use detector_tests::site;
use detector_tests::visits::{Plan, Visits};
use serde::Deserialize;
use serde_json::Value;

use crate::proxies::{ELSEWHERE, HERE};

/// A crawler that is nobody's: its operator publishes ranges, and the lab is in none of them.
const FORGED: &str = "Mozilla/5.0 (compatible; GPTBot/1.2; +https://openai.com/gptbot)";
/// A program that says nothing of itself that is known.
const READER: &str = "Reader/1.0";

/// A line of nginx's log, or of the application's behind it.
#[derive(Clone, Debug, Deserialize)]
struct Logged {
    path: String,
    status: String,
    decision: String,
    confidence: String,
    score: String,
    ja4: String,
    reasons: String,
    id: String,
}

struct Scene {
    _server: Reporter,
    daemon: Daemon,
    lab: Lab,
}

impl Scene {
    /// `trusted`: a proxy's address.
    fn start(trusted: &str) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        let (pages, decision) = (lab.file("site"), lab.file("decision.sock"));
        site::write(&pages)?;
        let config = format!(
            "[capture]\nports = [443, 8443]\n[signals]\ngroup = \"www-data\"\ntrusted_proxies = [{trusted}]\n\
             [behaviour]\ntrap_paths = [\"/trap\"]\n[inline]\nsocket = {decision:?}\ngroup = \"www-data\"\n"
        );
        let options = DaemonOptions { arguments: &["--enforce"], config: config.leak(), ..DaemonOptions::default() };
        let daemon = Daemon::start(&lab, options)?;
        let server = Reporter::nginx_asking(&lab, &pages, &decision)?;
        Ok(Self { _server: server, daemon, lab })
    }

    /// Asks for paths over one connection with this place, and returns the statuses.
    fn ask(&self, place: &str, agent: &str, paths: &[&str], more: &[&str]) -> Result<Vec<String>> {
        let port = place.rsplit_once(':').context("a place has a port")?.1;
        let (address, _) = place.split_once(':').context("a place has an address")?;
        let mut command = curl_in(self.lab.client(), &format!("{SERVER_NAME}:{port}:{address}"));
        command.args(["--write-out", "%{http_code}\n", "--user-agent", agent, "--max-time", "5"]).args(more);
        for path in paths {
            command.args(["--output", "/dev/null", &format!("https://{SERVER_NAME}:{port}{path}")]);
        }
        let printed = command.stdin(Stdio::null()).output()?.stdout;
        Ok(String::from_utf8(printed)?.lines().map(str::to_owned).collect())
    }

    /// Lines of a log about a path.
    fn logged(&self, log: &str, path: &str) -> Result<Vec<Logged>> {
        let text = fs::read_to_string(self.lab.file(log))?;
        let lines = text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        let all: Vec<Logged> = lines.collect::<Result<_>>()?;
        Ok(all.into_iter().filter(|line| line.path == path).collect())
    }

    /// The last of them, once there is one that is so.
    fn last(&self, log: &str, path: &str, is_so: impl Fn(&Logged) -> bool) -> Result<Logged> {
        until(&format!("a line about {path} in {log}"), PATIENCE, || {
            Ok(self.logged(log, path)?.into_iter().rfind(&is_so))
        })
        .with_context(|| format!("{:?}\n{}", self.logged("asked.log", path), self.daemon.log()))
    }

    fn explain(&self, of: &str) -> Result<Value> {
        Ok(serde_json::from_str(&control_ok(&self.lab, &["explain", of, "--format", "json"])?)?)
    }

    /// What is explained of the decision says the same as the headers.
    fn agrees(&self, told: &Logged) -> Result<Value> {
        let known = self.explain(&told.id)?;
        let score = format!("{:.3}", known["score"].as_f64().context("a score")?);
        let for_a_program = known["signals"].as_array().into_iter().flatten();
        let heaviest: Vec<&str> = for_a_program
            .filter(|signal| signal["weight"].as_f64() > Some(0.0) && signal["counts"] == true)
            .filter_map(|signal| signal["signal"].as_str())
            .take(3)
            .collect();
        let reasons = if heaviest.is_empty() { "-".to_owned() } else { heaviest.join(",") };
        let by_operator = known["orders"].as_array().is_some_and(|orders| !orders.is_empty());
        let decision = match known["action"].as_str() {
            _ if by_operator => told.decision.as_str(),
            Some("block") => "deny",
            Some("challenge") => "challenge",
            _ => "allow",
        };
        let ja4 = known["ja4"].as_str().unwrap_or("-");
        let explained = (decision, known["confidence"].as_str(), score.as_str(), ja4, reasons.as_str());
        let headers = (&*told.decision, Some(&*told.confidence), &*told.score, &*told.ja4, &*told.reasons);
        ensure!(explained == headers && known["id"] == *told.id, "{explained:?} {headers:?} {known}");
        Ok(known)
    }
}

const DIRECT: &str = "10.77.0.1:443";

#[test]
fn what_the_application_is_told_is_what_is_explained() -> Result<()> {
    let scene = Scene::start("")?;
    person(&scene)?;
    refused(&scene)?;
    challenged(&scene)?;
    ordered(&scene)
}

/// A person's browser: each of its pages.
fn person(scene: &Scene) -> Result<()> {
    let visits = Visits::new(&scene.lab, &scene.lab.file("nginx").join("certificate.pem"), 1)?;
    let plan = Plan { kind: "chromium-reader", number: 0, pages: 3, pace: 0.05 };
    let visit = visits.make(&plan)?;
    ensure!(visit.error.is_none() && visit.pages == 3, "{visit:?}");
    let first = scene.last("told.log", "/", |_| true)?;
    let style = scene.last("told.log", "/style.css", |_| true)?;
    for told in [&first, &style] {
        ensure!(told.decision == "allow" && told.ja4.len() == 36, "{told:?}");
        let known = scene.agrees(told)?;
        ensure!(known["address"] == plan.address().to_string(), "{known}");
    }
    let last = scene.explain(&plan.address().to_string())?;
    ensure!(last["action"] == "allow" && last["ja4"] == *first.ja4, "{last}");
    Ok(())
}

/// Two axes against it: refused on the connection that it has, and not answered on others.
fn refused(scene: &Scene) -> Result<()> {
    let source = CLIENT_V4.to_string();
    // What a client says of itself by these names is nobody's word.
    let lies = [
        "X-Detector-Decision: allow",
        "X-Detector-Confidence: definitely_human",
        "X-Detector-Score: 0",
        "X-Detector-JA4: lie",
        "X-Detector-Reasons: lie",
        "X-Detector-Id: lie",
        "X-Detector-Client: 192.0.2.1",
        "X-Detector-Proxied-Client: 192.0.2.1",
        "X-Detector-Header-Names: lie",
    ];
    let lies = lies.iter().flat_map(|lie| ["--header", lie]);
    let more: Vec<&str> = ["--interface", &source, "--rate", "20/s"].into_iter().chain(lies).collect();
    let paths: Vec<String> = (0..30).map(|number| format!("/trap?{number}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let statuses = scene.ask(DIRECT, FORGED, &paths, &more)?;
    ensure!(statuses.len() == 30 && statuses[29] == "403", "{statuses:?}");
    let told = scene.last("told.log", paths[0], |_| true)?;
    ensure!(told.status == "200" && told.reasons.starts_with("false-bot"), "{told:?}");
    scene.agrees(&told)?;
    let denied = scene.last("asked.log", paths[29], |line| line.status == "403")?;
    ensure!(denied.decision == "deny" && denied.confidence == "definitely_bot", "{denied:?}");
    let known = scene.agrees(&denied)?;
    let whole = scene.explain(&source)?;
    // Its report came after the question, and told more.
    for same in ["action", "unit", "address", "ja4", "confidence"] {
        ensure!(whole[same] == known[same], "{same}: {whole} {known}");
    }
    ensure!(whole["action"] == "block" && whole["unit"].as_str().is_some_and(|unit| unit.starts_with(&source)));
    ensure!(scene.logged("told.log", paths[29])?.is_empty(), "the application saw a refused request");
    Ok(())
}

/// One axis is no more than a challenge, which the application gives.
fn challenged(scene: &Scene) -> Result<()> {
    let source = OTHER_CLIENT_V4.to_string();
    let more = ["--interface", &source];
    ensure!(scene.ask(DIRECT, FORGED, &["/challenge"], &more)? == ["200"]);
    let told = scene.last("told.log", "/challenge", |_| true)?;
    ensure!(told.decision == "challenge" && told.confidence == "likely_bot", "{told:?}");
    let known = scene.agrees(&told)?;
    ensure!(known["action"] == "challenge" && known["address"] == source, "{known}");
    ensure!(scene.explain(&source)?["action"] == "challenge");
    Ok(())
}

/// What an operator ordered is told with the command that lifts it.
fn ordered(scene: &Scene) -> Result<()> {
    let (source, more) = (OTHER_CLIENT_V4.to_string(), ["--interface", "10.77.0.3", "--tls-max", "1.2"]);
    for (verb, path, decision, lift) in [
        ("block", "/ordered-block", "deny", "detector unblock 10.77.0.0/24"),
        ("challenge", "/ordered-challenge", "challenge", "detector unchallenge 10.77.0.0/24"),
    ] {
        control_ok(&scene.lab, &[verb, "10.77.0.0/24", "--at", "inline"])?;
        scene.ask(DIRECT, READER, &[path], &more)?;
        let answered = scene.last("asked.log", path, |_| true)?;
        ensure!(answered.decision == decision, "{answered:?}");
        let known = scene.agrees(&answered)?;
        let order = &known["orders"][0];
        ensure!(order["action"] == verb && order["at"] == "inline" && order["lift"] == lift, "{known}");
        let screen = control_ok(&scene.lab, &["explain", &answered.id])?;
        let line = format!("  ordered {verb} 10.77.0.0/24 --at inline, ");
        ensure!(screen.contains(&line) && screen.contains(&format!(" left\n  lift    {lift}\n")), "{screen}");
        let undone: Vec<&str> = lift.split(' ').skip(1).collect();
        control_ok(&scene.lab, &undone)?;
        ensure!(scene.explain(&source)?.get("orders").is_none(), "it is lifted");
    }
    Ok(())
}

/// Behind a proxy on another host each client is one of its own, by what it sends: refused in answers, while no packet of
/// the proxy's is dropped.
#[test]
fn clients_behind_a_trusted_proxy_are_assessed_and_answered_each_for_itself() -> Result<()> {
    let scene = Scene::start("\"10.77.0.3\"")?;
    let _proxy = reporters::proxy(&scene.lab, scene.lab.client(), ELSEWHERE)?;
    let (place, source) = ("10.77.0.3:8443", CLIENT_V4.to_string());
    let more = ["--interface", source.as_str()];
    until("HAProxy to answer", PATIENCE, || {
        Ok((scene.ask(place, READER, &["/ready"], &more)? == ["200"]).then_some(()))
    })?;
    ensure!(scene.ask(place, FORGED, &["/trap"], &more)? == ["200"], "a challenge at most");
    let refused = || Ok((scene.ask(place, FORGED, &["/again"], &more)? == ["403"]).then_some(()));
    until("the refusal", PATIENCE, refused).with_context(|| format!("{:?}", scene.explain(&source)))?;
    let denied = scene.last("asked.log", "/again", |line| line.status == "403")?;
    ensure!(denied.decision == "deny" && denied.ja4 == "-" && denied.confidence == "definitely_bot", "{denied:?}");
    let known = scene.agrees(&denied)?;
    ensure!(known["reach"] == "inline" && known["ja4"].is_null() && known["address"] == source, "{known}");
    ensure!(known["layers"].as_array().is_some() && known["axes"].as_array().is_some_and(|axes| axes.len() >= 2));
    let own = known["signals"].as_array().into_iter().flatten().any(|signal| {
        let axis = signal["axis"].as_str();
        axis == Some("tls") || axis == Some("syn")
    });
    ensure!(!own, "the proxy's hello is held against its client: {known}");
    let screen = control_ok(&scene.lab, &["explain", &source])?;
    for line in ["  unit    10.77.0.2 behind a proxy, with this User-Agent", "  where   in answers to web servers only"]
    {
        ensure!(screen.contains(line), "{screen}");
    }
    // At the same address another program; and by the same proxy the proxy's own host.
    ensure!(scene.ask(place, READER, &["/other"], &more)? == ["200"], "another program there is refused");
    let other = scene.last("told.log", "/other", |_| true)?;
    ensure!(other.decision == "allow", "{other:?}");
    scene.agrees(&other)?;
    let lift = known["lift"].as_str().and_then(|lift| lift.strip_prefix("detector ")).context("a lift")?;
    control_ok(&scene.lab, &lift.split(' ').collect::<Vec<_>>())?;
    ensure!(scene.ask(place, FORGED, &["/lifted"], &more)? == ["200"], "an operator lifts it");
    let metrics = scene.daemon.metrics(&scene.lab)?;
    ensure!(metrics.sum("detector_kernel_packets_total", &[("verdict", "drop")]) == 0.0, "packets were dropped");
    Ok(())
}

/// A proxy on this host that speaks the PROXY protocol: the client's own hello is known, to questions as to reports.
#[test]
fn behind_the_proxy_protocol_on_this_host_questions_know_the_client() -> Result<()> {
    let scene = Scene::start("\"127.0.0.1\"")?;
    let _proxy = reporters::proxy(&scene.lab, scene.lab.server(), HERE)?;
    let (place, source) = (format!("{SERVER_V4}:8443"), CLIENT_V4.to_string());
    let more = ["--interface", source.as_str(), "--header", "X-Forwarded-For: 192.0.2.1"];
    until("HAProxy to answer", PATIENCE, || {
        Ok((scene.ask(&place, READER, &["/ready"], &more)? == ["200"]).then_some(()))
    })?;
    ensure!(scene.ask(&place, FORGED, &["/challenge"], &more)? == ["200"]);
    let told = scene.last("told.log", "/challenge", |_| true)?;
    let own = scene.daemon.events()?.last().and_then(|hello| Some(hello["ja4"].as_str()?.to_owned()));
    ensure!(told.decision == "challenge" && Some(&told.ja4) == own.as_ref(), "{told:?} {own:?}");
    let known = scene.agrees(&told)?;
    ensure!(known["address"] == source && known["reach"] == "packets", "{known}");
    Ok(())
}
