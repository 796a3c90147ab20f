//! What Prometheus makes of a live daemon: Debian's own server scrapes it beside real traffic, and every query of the
//! dashboard and every alert rule gets its series from that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use detector_tests::curl::curl;
use detector_tests::daemon::{Daemon, DaemonOptions, control_ok};
use detector_tests::deadline::until;
use detector_tests::figures::show;
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::process::{Process, output};
use detector_tests::reporters::Reporter;
use detector_tests::server::SERVER_NAME;
use serde_json::{Value, json};

const DASHBOARD: &str = include_str!("../../dist/grafana/detector.json");
/// Where the server is asked, in the namespace of the lab.
const API: &str = "http://127.0.0.1:9090/api/v1";
/// Two scrapes and more: a rate needs two points.
const PATIENCE: Duration = Duration::from_secs(60);
/// Grafana's variables, with what Grafana would put there for a lab that is some seconds old.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "30s"), ("$__range", "1m"), ("$job", "detector"), ("$instance", "127.0.0.1:9464")];

/// The queries of all panels.
fn queries() -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let plain = |text: &str| VARIABLES.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    Ok(targets.filter_map(|target| target["expr"].as_str()).map(plain).collect())
}

/// Debian's Prometheus, which scrapes the daemon every second and reads the shipped rules.
fn prometheus(lab: &Lab) -> Result<Process> {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/prometheus/detector.rules.yml");
    let configuration = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": [rules],
        "scrape_configs": [{ "job_name": "detector", "static_configs": [{ "targets": ["127.0.0.1:9464"] }] }],
    });
    // JSON is YAML.
    let file = lab.file("prometheus.yml");
    fs::write(&file, configuration.to_string())?;
    let mut command = lab.server().command("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", lab.file("tsdb").display()));
    command.args(["--web.listen-address=127.0.0.1:9090", "--log.level=warn"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(lab.file("prometheus.log"))?);
    Process::start("prometheus", &mut command).context("is it there? `cargo xtask setup` installs it")
}

fn api(lab: &Lab, path: &str, query: Option<&str>) -> Result<Value> {
    let mut command = lab.server().command("curl");
    command.args(["-sS", "--noproxy", "*", "--max-time", "10", "--get"]);
    if let Some(query) = query {
        command.args(["--data-urlencode", &format!("query={query}")]);
    }
    let answer: Value = serde_json::from_str(&output(command.arg(format!("{API}/{path}")))?)?;
    ensure!(answer["status"] == "success", "{query:?}: {answer}");
    Ok(answer["data"].clone())
}

/// How many series a query gives.
fn series(lab: &Lab, query: &str) -> Result<usize> {
    Ok(api(lab, "query", Some(query))?["result"].as_array().context("no result")?.len())
}

/// The selectors of a rule's query: what it asks of the server, before it compares anything.
fn selectors(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let starts = ["detector_", "process_", "up"];
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(is_name) {
        let word = &rest[at..];
        let end = word.find(|c| !is_name(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        if starts.iter().any(|start| name.starts_with(start)) {
            let labels = after.strip_prefix('{').and_then(|labels| labels.split_once('}'));
            found.insert(labels.map_or_else(|| name.to_owned(), |(labels, _)| format!("{name}{{{labels}}}")));
        }
    }
    found
}

#[test]
fn every_query_and_rule_gets_its_series_from_a_live_daemon() -> Result<()> {
    let lab = Lab::new(LabOptions::default())?;
    let config = "[signals]\ngroup = \"www-data\"\n";
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let _server = Reporter::nginx(&lab, true)?;
    let _prometheus = prometheus(&lab)?;
    control_ok(&lab, &["block", "192.0.2.7"])?;
    let ask = || {
        let mut command = curl(&lab);
        command.args(["--max-time", "5", "--output", "/dev/null", &format!("https://{SERVER_NAME}/page")]);
        output(command.stdin(Stdio::null()))
    };
    let log = || fs::read_to_string(lab.file("prometheus.log")).unwrap_or_default();

    let mut waiting = queries()?;
    let (count, mut tries) = (waiting.len(), 0);
    ensure!(count > 40, "only {count} queries");
    until("every query to give a series", PATIENCE, || {
        ask()?;
        tries += 1;
        // Until it listens nobody answers.
        if tries < 3 || series(&lab, "up").is_err() {
            return Ok(None);
        }
        let mut empty = Vec::new();
        for query in &waiting {
            if series(&lab, query)? == 0 {
                empty.push(query.clone());
            }
        }
        waiting = empty;
        Ok(waiting.is_empty().then_some(()))
    })
    .with_context(|| format!("without a series:\n{}\n{}\n{}", waiting.join("\n"), log(), daemon.log()))?;

    let groups = api(&lab, "rules", None)?;
    let groups = groups["groups"].as_array().context("no groups")?;
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    let (mut asked, shipped) = (0, 40);
    ensure!(rules.len() >= shipped, "only {} rules", rules.len());
    for rule in &rules {
        let (name, expression) = (&rule["name"], rule["query"].as_str().context("no query")?);
        ensure!(rule["health"] == "ok", "{name}: {rule}");
        let selectors = selectors(expression);
        ensure!(!selectors.is_empty(), "{name} asks for nothing: {expression}");
        for selector in selectors {
            if series(&lab, &selector)? == 0 {
                bail!("{name}: `{selector}` has no series");
            }
            asked += 1;
        }
    }
    show(&format!("prometheus: {count} queries and {asked} selectors of {} rules, each with a series", rules.len()));
    Ok(())
}
