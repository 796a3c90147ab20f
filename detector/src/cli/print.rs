//! `--format`, the same for every command that prints rows: a table for people is each command's own; for programs a row
//! is an object, as JSON or as a line of CSV. Bound: a sheet holds its rows.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::{Exit, Failure, printable};
use crate::sheet::{self, Sheet};

/// What help says may stand behind `--format`.
pub(super) const CHOICE: &str = "table|json|csv";

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON object a line
    Json,
    /// For spreadsheets: a header, then the same values as JSON
    Csv,
}

impl Format {
    /// Where none was asked for: a table for a terminal, JSON for a program.
    #[must_use]
    pub fn of_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Table } else { Self::Json }
    }
}

/// One JSON object, one line.
pub(super) fn json(value: &impl Serialize, out: &mut impl Write) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    Ok(writeln!(out, "{}", printable::json(&text))?)
}

/// Rows for programs; as a table they are not printed here. What a terminal obeys is escaped. A sheet has these columns
/// whatever the rows have, and others behind them where rows have more.
pub(super) fn rows<T: Serialize>(
    rows: &[T],
    columns: &[&str],
    format: Format,
    out: &mut impl Write,
) -> Result<(), Failure> {
    match format {
        Format::Table => Ok(()),
        Format::Json => rows.iter().try_for_each(|row| json(row, out)),
        Format::Csv => {
            let rows: Vec<_> = rows.iter().map(sheet::fields).collect::<io::Result<_>>()?;
            let mut columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            for (key, _) in rows.iter().flatten() {
                if !columns.contains(key) {
                    columns.push(key.clone());
                }
            }
            let mut sheet = Sheet::new(out, columns);
            for row in rows {
                sheet.fields(row.into_iter().map(|(key, text)| (key, printable::line(&text))).collect())?;
            }
            Ok(sheet.end()?)
        }
    }
}

/// The same of one, whose columns are its keys.
pub(super) fn row(row: &impl Serialize, format: Format, out: &mut impl Write) -> Result<(), Failure> {
    rows(std::slice::from_ref(row), &[], format, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_other_keys_share_their_columns() {
        let all = [serde_json::json!({"a": 1}), serde_json::json!({"a": 2, "b": "x\u{1b}"})];
        let printed = |format| {
            let mut out = Vec::new();
            rows(&all, &["c"], format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(Format::Csv), "c,a,b\r\n,1,\r\n,2,x\\u{1b}\r\n");
        assert_eq!(printed(Format::Json), "{\"a\":1}\n{\"a\":2,\"b\":\"x\\u001b\"}\n");
        assert_eq!(printed(Format::Table), "");
    }
}
