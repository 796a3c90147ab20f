//! The dashboard for Grafana: documented metrics only, queries that Prometheus reads, panels that explain themselves, and
//! nothing that Grafana's own schema has no place for.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use detector_tests::programs;
use serde_json::{Value, json};

use crate::queries::Documented;
use crate::{path, promtool, read};

const DASHBOARD: &str = "dist/grafana/detector.json";
/// Grafana's own, with what they may stand for.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "5m"), ("$__range", "1h"), ("$job", "detector"), ("$instance", "edge:9464")];

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read(DASHBOARD)?)?)
}

/// Its panels but for the rows' headings.
fn panels(dashboard: &Value) -> Result<Vec<&Value>> {
    let panels = dashboard["panels"].as_array().context("no panels")?;
    Ok(panels.iter().filter(|panel| panel["type"] != "row").collect())
}

fn queries(panel: &Value) -> Result<Vec<(&str, &str)>> {
    let targets = panel["targets"].as_array().with_context(|| format!("no targets in {}", panel["title"]))?;
    targets
        .iter()
        .map(|target| {
            let expression = target["expr"].as_str().context("a target without a query")?;
            Ok((expression, target["legendFormat"].as_str().unwrap_or_default()))
        })
        .collect()
}

#[test]
fn it_belongs_to_nobody_and_every_panel_says_what_it_shows() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64() >= Some(39), "{}", dashboard["id"]);
    ensure!(dashboard["templating"]["list"][0]["type"] == "datasource", "no variable for the data source");
    for panel in panels(&dashboard)? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        ensure!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title}: no description");
        for source in [panel].into_iter().chain(panel["targets"].as_array().into_iter().flatten()) {
            ensure!(source["datasource"]["uid"] == "${datasource}", "{title}: a data source of its own");
        }
    }
    Ok(())
}

#[test]
fn no_panel_lies_on_another() -> Result<()> {
    let dashboard = dashboard()?;
    let mut taken = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(u64::MAX));
        ensure!(w <= 24 && x <= 24 - w && h <= 24, "{}: beyond the edge", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(taken.insert(cell), "{} lies on another at {cell:?}", panel["title"]);
        }
        ensure!(ids.insert(panel["id"].as_u64().context("no id")?), "{}: another has its id", panel["title"]);
    }
    Ok(())
}

#[test]
fn every_query_names_documented_metrics_and_prometheus_reads_it() -> Result<()> {
    let (documented, dashboard) = (Documented::load()?, dashboard()?);
    let mut rules = Vec::new();
    for panel in panels(&dashboard)? {
        for (expression, legend) in queries(panel)? {
            let query = documented.check(expression).with_context(|| panel["title"].to_string())?;
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim) {
                ensure!(label == "instance" || query.labels.contains(label), "`{legend}` of `{expression}`");
            }
            let plain = VARIABLES.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
            ensure!(!plain.contains('$'), "an unknown variable in `{expression}`");
            rules.push(json!({ "record": format!("query:{}", rules.len()), "expr": plain }));
        }
    }
    ensure!(rules.len() > 40, "only {} queries", rules.len());
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("queries.yml");
    // JSON is YAML.
    fs::write(&file, json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string())?;
    promtool(&["check", "rules"], &file)?;
    Ok(())
}

/// What Grafana's schema says against a dashboard, a line each.
fn against_the_schema(dashboard: &Value) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("dashboard.json");
    fs::write(&file, dashboard.to_string())?;
    let mut command = Command::new(programs::python()?);
    let said = command.arg("-B").arg(path("tests/operate/schema.py")).arg(&file).output()?;
    let errors = String::from_utf8_lossy(&said.stderr);
    ensure!(errors.is_empty(), "schema.py fails; run `cargo xtask setup`, which brings Grafana's schema: {errors}");
    let found = String::from_utf8(said.stdout)?.trim().to_owned();
    ensure!(said.status.success() == found.is_empty(), "schema.py: {} and {found:?}", said.status);
    Ok(found)
}

#[test]
fn grafana_s_schema_knows_every_key_and_value() -> Result<()> {
    assert_eq!(against_the_schema(&dashboard()?)?, "");
    Ok(())
}

/// Each of these is a mistake that Grafana would pass over, and show something else.
#[test]
fn a_mistake_in_it_is_found() -> Result<()> {
    let whole = dashboard()?;
    let stat = |panel: &Value| panel["type"] == "stat";
    let place = whole["panels"].as_array().context("no panels")?.iter().position(stat).context("no such panel")?;
    let panel = |rest: &str| format!("/panels/{place}{rest}");
    for (pointer, wrong, told) in [
        (panel("/options"), json!({ "colourMode": "value" }), "colourMode: the schema has no such key"),
        (panel("/options/colorMode"), json!("values"), "color_mode: 'values' is no"),
        (panel("/gridPos/w"), json!("4"), "grid_pos.w: '4' is no"),
        (panel("/type"), json!("number"), "a panel of a kind that the schema doesn't know"),
        (panel("/targets/0"), json!({ "refId": "A", "query": "up" }), "query: the schema has no such key"),
        (panel("/datasource/type"), json!("influx"), "a query of a kind that the schema doesn't know"),
        ("/graphTooltip".to_owned(), json!(7), "graph_tooltip: 7 is no"),
    ] {
        let mut mistaken = whole.clone();
        *mistaken.pointer_mut(&pointer).with_context(|| format!("nothing at {pointer}"))? = wrong;
        let found = against_the_schema(&mistaken)?;
        ensure!(found.contains(told), "{pointer}: {found:?}");
    }
    Ok(())
}
