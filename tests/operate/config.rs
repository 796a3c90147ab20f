//! What is promised of the configuration: none is needed, a few lines will do, each example loads, and each value says
//! whose it is. That a reload refuses what `config check` does is in `system/config.rs`.

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use detector_tests::{figures::show, pages, programs};
use serde_json::Value;

use crate::path;

/// A host that forwards to its servers, behind a load balancer, that enforces: more than most change.
const USUAL: &str = r#"[capture]
interfaces = ["lo"]
addresses = "any"
[enforce]
mode = "enforce"
never_block = ["192.0.2.10"]
[signals]
trusted_proxies = ["198.51.100.1"]
[feeds]
lists.office = { class = "trusted", file = "/etc/detector/office.txt" }
"#;

/// `detector config …` of a file with this text, with nothing in the environment.
fn config(text: &str, arguments: &[&str]) -> Result<Output> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("detector.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::detector()?);
    command.env_clear().env("DETECTOR_CONFIG", &file).arg("config").args(arguments);
    Ok(command.output()?)
}

fn ensure_loads(what: &str, text: &str) -> Result<()> {
    let done = config(text, &["check"])?;
    ensure!(done.status.success(), "{what}: {}\n{text}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Key, value, origin and place of each setting.
fn settings(text: &str, arguments: &[&str]) -> Result<Vec<Value>> {
    let done = config(text, &[&["show", "--format", "json"], arguments].concat())?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn none_is_needed_and_ten_lines_will_do() -> Result<()> {
    ensure_loads("nothing", "")?;
    ensure!(USUAL.lines().count() <= 10, "{} lines", USUAL.lines().count());
    ensure_loads("the usual", USUAL)?;

    let shipped = fs::read_to_string(path("dist/detector.toml"))?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        ensure_loads("the shipped file", &shipped)?;
        times.push(began.elapsed());
    }
    times.sort();
    let (median, count) = (times[times.len() / 2].as_millis(), times.len());
    show(&format!("`detector config check` of the shipped file: {median} ms, the median of {count} (100)"));
    Ok(())
}

/// Files in TOML, blocks of the pages, and what stands within a text as `section.key = value`.
#[test]
fn every_example_loads() -> Result<()> {
    let mut examples = vec![("dist/detector.toml".to_owned(), fs::read_to_string(path("dist/detector.toml"))?)];
    for page in pages::all()? {
        let name = |text: &str| format!("{}: `{text}`", page.name);
        examples.extend(page.toml().into_iter().map(|text| (page.name.clone(), text)));
        for text in page.inline() {
            let section = text.split_once(" = ").and_then(|(key, _)| key.split_once('.')).map(|(section, _)| section);
            if section.is_some_and(|section| section.bytes().all(|letter| letter.is_ascii_lowercase())) {
                examples.push((name(&text), text));
            }
        }
    }
    ensure!(examples.len() > 4, "only {} examples", examples.len());
    for (name, text) in &examples {
        ensure_loads(name, text)?;
    }
    show(&format!("examples of the configuration that load: {}", examples.len()));
    Ok(())
}

#[test]
fn each_value_says_whose_it_is_and_what_is_changed_is_told_alone() -> Result<()> {
    let find = |all: &[Value], key: &str| all.iter().find(|setting| setting["key"] == key).cloned();
    let all = settings(USUAL, &[])?;
    let typed = find(&all, "enforce.mode").context("no mode")?;
    ensure!(typed["value"] == "\"enforce\"" && typed["origin"] == "file", "{typed}");
    ensure!(typed["from"].as_str().is_some_and(|from| from.ends_with("detector.toml:5")), "{typed}");
    let default = find(&all, "admin.metrics").context("no metrics")?;
    ensure!(default["value"] == "\"127.0.0.1:9464\"" && default["origin"] == "default", "{default}");

    let shipped = fs::read_to_string(path("dist/detector.toml"))?;
    ensure!(settings(&shipped, &["--changed"])?.is_empty(), "the shipped file changes nothing");
    let changed = shipped.replace("block_ttl = \"1h\"", "block_ttl = \"2h\"");
    let told = settings(&changed, &["--changed"])?;
    ensure!(told.len() == 1 && told[0]["key"] == "policy.block_ttl", "{told:?}");
    let told = settings(USUAL, &["--changed"])?;
    ensure!(told.len() == 6, "{told:?}");
    Ok(())
}
