//! `cargo xtask bench [NAME]`: each benchmark's figures beside their targets.
//!
//! In: what each benchmark tells of itself when run with `--json PATH`: figures as JSON objects with `id` (P5), `what`,
//! `value`, `unit`, `against`, `ratio`, `target` and `met` (absent or null for a peer or a floor), either a list of them
//! in that file, `target/bench/NAME.json`, or one a line on standard output. Out: one table. A missed target is told, not failed, since it depends
//! on the machine; a benchmark that can't run, or has no figure, is a failure. Exit code 1 with a missed target is how a
//! benchmark tells of that.

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{arguments::Arguments, shell};

const HEADER: [&str; 6] = ["id", "what", "figure", "against", "target", ""];

const MISSED: &str = "NOT MET";

/// A line of the table.
type Row = [String; 6];

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
        rows.extend(measure(bench)?);
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

/// Runs one benchmark and reads its figures.
fn measure(bench: &str) -> Result<Vec<Row>> {
    let directory = shell::tools()?.with_file_name("bench");
    let path = directory.join(format!("{bench}.json"));
    fs::create_dir_all(&directory)?;
    if path.exists() {
        fs::remove_file(&path)?;
    }
    let mut cargo = shell::cargo(&["bench", "--package", "detector", "--bench", bench, "--", "--json"]);
    let output = cargo.arg(&path).stderr(Stdio::inherit()).output().context("can't run cargo bench")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let rows = match fs::read_to_string(&path) {
        Ok(list) => rows_of_list(&list)?,
        Err(_) => rows_of_lines(&printed),
    };
    let missed = rows.iter().any(|row| row[5] == MISSED);
    if rows.is_empty() || !(output.status.success() || missed) {
        bail!("the benchmark `{bench}` failed ({}), with {} figures: {}", output.status, rows.len(), printed.trim());
    }
    Ok(rows)
}

fn rows_of_list(text: &str) -> Result<Vec<Row>> {
    let figures: Vec<Value> = serde_json::from_str(text).context("a benchmark wrote no list of figures")?;
    Ok(figures.iter().map(row).collect())
}

fn rows_of_lines(printed: &str) -> Vec<Row> {
    let figures = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    figures.filter(Value::is_object).map(|figure| row(&figure)).collect()
}

fn row(figure: &Value) -> Row {
    let text = |key: &str| figure[key].as_str().unwrap_or_default().to_owned();
    let value = figure["value"].as_f64().map_or_else(String::new, |value| format!("{value:.2} {}", text("unit")));
    let ratio = figure["ratio"].as_f64();
    let against = ratio.map_or_else(|| text("against"), |ratio| format!("{ratio:.2}x {}", text("against")));
    let met = figure["met"].as_bool().map_or("", |met| if met { "met" } else { MISSED });
    [text("id"), text("what"), value, against, text("target"), met.into()]
}

fn table(rows: &[Row]) -> String {
    let header = HEADER.map(str::to_owned);
    let all = || [&header].into_iter().chain(rows);
    let widths: [usize; 6] =
        std::array::from_fn(|column| all().map(|row| row[column].chars().count()).max().unwrap_or_default());
    let line = |row: &Row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_a_table_whichever_way_they_come() {
        let lines = "warming up\n\
            {\"id\":\"P5\",\"what\":\"JA4 of a Chrome hello\",\"value\":0.612,\"unit\":\"us\",\"against\":\"huginn\",\
             \"ratio\":0.068,\"target\":\"<= 0.75\",\"met\":true}\n\
            {\"id\":\"P5\",\"what\":\"huginn\",\"value\":8.9,\"unit\":\"us\",\"met\":null}\n\
            {\"id\":\"P6\",\"what\":\"lost\",\"value\":3,\"unit\":\"\",\"target\":\"0\",\"met\":false}\n";
        let list = format!("[{}]", lines.lines().skip(1).collect::<Vec<_>>().join(","));
        let rows = rows_of_lines(lines);
        assert_eq!(rows, rows_of_list(&list).unwrap());
        let expected = "\
id  what                   figure   against       target\n\
P5  JA4 of a Chrome hello  0.61 us  0.07x huginn  <= 0.75  met\n\
P5  huginn                 8.90 us\n\
P6  lost                   3.00                   0        NOT MET\n";
        assert_eq!(table(&rows), expected);
        assert!(rows_of_list("nothing").is_err());
    }
}
