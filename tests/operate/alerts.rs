//! The alert rules: known metrics only, each with what to do, each shown to fire and to be silent.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::queries::{Documented, Query};
use crate::{path, promtool, read, yaml};

const RULES: &str = "dist/prometheus/detector.rules.yml";
const TESTS: &str = "tests/operate/alerts.test.yml";

/// All rules of all groups.
pub(crate) fn rules() -> Result<Vec<Value>> {
    let file = yaml(RULES)?;
    let groups = file["groups"].as_array().context("no groups")?.iter();
    Ok(groups.flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no `{key}` in {value}"))
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_as_they_should() -> Result<()> {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &path(RULES))?;
    promtool(&["test", "rules"], &path(TESTS))?;
    Ok(())
}

#[test]
fn every_rule_names_documented_metrics_and_says_what_to_do() -> Result<()> {
    let (documented, guide) = (Documented::load()?, read("docs/incidents.md")?);
    for rule in rules()? {
        let name = text(&rule, "alert")?;
        // Those of the books say one thing, and the guide calls them by their common name.
        let called = if name.starts_with("DetectorBook") { "DetectorBook…" } else { name };
        ensure!(guide.contains(&format!("`{called}`")), "{name}: docs/incidents.md has nothing about it");
        documented.check(text(&rule, "expr")?).context(name.to_owned())?;
        let severity = text(&rule["labels"], "severity")?;
        ensure!(["critical", "warning", "info"].contains(&severity), "{name}: severity `{severity}`");
        text(&rule["annotations"], "summary")?;
        let description = text(&rule["annotations"], "description")?;
        ensure!(description.contains('`'), "{name}: nothing to type in `{description}`");
    }
    Ok(())
}

/// A scene names what fires in it, and nothing else does; the first one has series of all that is looked at, and nothing
/// fires.
#[test]
fn every_alert_is_shown_to_fire_and_to_be_silent() -> Result<()> {
    let scenes = yaml(TESTS)?;
    let scenes = scenes["tests"].as_array().context("no scenes")?;
    let healthy = scenes.first().context("no scene")?;
    let series = healthy["input_series"].as_array().into_iter().flatten();
    let series = series.map(|series| Query::read(text(series, "series")?)).collect::<Result<Vec<_>>>()?;
    let looked = healthy["promql_expr_test"].as_array().into_iter().flatten();
    let silent = |look: &Value| look["expr"] == "ALERTS" && look["exp_samples"].as_array().is_some_and(Vec::is_empty);
    ensure!(looked.clone().count() > 0 && looked.clone().all(silent), "the first scene is not that all is well");
    let fired = scenes.iter().skip(1).flat_map(|scene| scene["promql_expr_test"].as_array().into_iter().flatten());
    let fired = fired.flat_map(|look| look["exp_samples"].as_array().into_iter().flatten());
    let fired = fired.map(|sample| text(sample, "labels")).collect::<Result<BTreeSet<_>>>()?;
    for rule in rules()? {
        let name = text(&rule, "alert")?;
        ensure!(fired.contains(format!("{{alertname=\"{name}\"}}").as_str()), "{name} is not shown to fire");
        for chosen in Query::read(text(&rule, "expr")?)?.selectors {
            let there = series.iter().flat_map(|series| &series.selectors).any(|series| chosen.chooses(series));
            ensure!(there, "{name}: `{chosen:?}` is absent while all is well");
        }
    }
    Ok(())
}
