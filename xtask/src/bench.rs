//! `cargo xtask bench [NAME]`: each benchmark's figures beside their targets.
//!
//! In: what the benchmarks print when asked with `--json`: one JSON object a line, `{"id", "what", "figure", "target",
//! "met"}`. `id` is the target's (P5), `figure` and `target` are text or numbers with their unit, `met` is `true`,
//! `false` or absent (a peer, a floor). Other lines pass through. Out: one table. A missed target is told, not failed:
//! it depends on the machine; a benchmark that can't run, or prints no figure, is a failure.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{arguments::Arguments, shell};

const HEADER: [&str; 5] = ["id", "what", "figure", "target", ""];

/// The verb.
pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let only = arguments.word();
    arguments.finish()?;
    let metadata = shell::output(&mut shell::cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let benches: Vec<String> =
        benches_in(&metadata).into_iter().filter(|name| only.as_ref().is_none_or(|only| only == name)).collect();
    if benches.is_empty() {
        bail!("there is no such benchmark: `ls detector/benches`");
    }
    let mut rows = Vec::new();
    for bench in &benches {
        eprintln!("running {bench} …");
        let printed =
            shell::output(&mut shell::cargo(&["bench", "--package", "detector", "--bench", bench, "--", "--json"]))?;
        let figures = rows_of(&printed);
        if figures.is_empty() {
            bail!("the benchmark `{bench}` printed no figure");
        }
        rows.extend(figures);
    }
    print!("{}", table(&rows));
    Ok(())
}

fn benches_in(metadata: &Value) -> Vec<String> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let detector = list(metadata, "packages").into_iter().filter(|package| package["name"] == "detector");
    let targets = detector.flat_map(|package| list(&package, "targets"));
    let benches = targets.filter(|target| list(target, "kind").contains(&"bench".into()));
    benches.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect()
}

/// The figures among what a benchmark printed; its other lines go to standard error.
fn rows_of(printed: &str) -> Vec<[String; 5]> {
    let mut rows = Vec::new();
    for line in printed.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(figure) if figure.is_object() => {
                let text = |key: &str| match &figure[key] {
                    Value::String(text) => text.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                let met = figure["met"].as_bool().map_or("", |met| if met { "met" } else { "NOT MET" });
                rows.push([text("id"), text("what"), text("figure"), text("target"), met.into()]);
            }
            _ => eprintln!("{line}"),
        }
    }
    rows
}

fn table(rows: &[[String; 5]]) -> String {
    let header = HEADER.map(str::to_owned);
    let all = || [&header].into_iter().chain(rows);
    let widths: [usize; 5] =
        std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_a_table() {
        let printed = "warming up\n\
            {\"id\":\"P5\",\"what\":\"JA4 of a Chrome hello\",\"figure\":\"0.61 us\",\"target\":\"<= 0.75 us\",\"met\":true}\n\
            {\"id\":\"P5\",\"what\":\"huginn-net-tls\",\"figure\":8.9}\n\
            {\"id\":\"P6\",\"what\":\"lost\",\"figure\":3,\"target\":\"0\",\"met\":false}\n";
        let table = table(&rows_of(printed));
        let expected = "\
id  what                   figure   target\n\
P5  JA4 of a Chrome hello  0.61 us  <= 0.75 us  met\n\
P5  huginn-net-tls         8.9\n\
P6  lost                   3        0           NOT MET\n";
        assert_eq!(table, expected);
    }
}
