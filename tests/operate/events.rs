//! What is logged: docs/events.md names each event, by its message, with its level and its fields, and names no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{path, read};

/// The macros that log, longest name first where one is the end of another.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The events of a source file, as rows of the table.
fn events(source: &str) -> Result<Vec<String>> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    // Examples in comments log nothing.
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut found = Vec::new();
    for level in LEVELS {
        let call = format!("{level}!(");
        for (at, _) in code.match_indices(&call) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let arguments = arguments(&code[at + call.len()..]).with_context(|| format!("`{call}` without an end"))?;
            found.push(row(level, &arguments)?);
        }
    }
    Ok(found)
}

/// The arguments of a call, from after its parenthesis to its end.
fn arguments(text: &str) -> Option<Vec<String>> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut all = vec![String::new()];
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => return Some(all.into_iter().map(|one| one.trim().to_owned()).collect()),
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut()?.push(c);
    }
    None
}

/// `| level | message | fields |`. What stands after a message are the values that it has in it.
fn row(level: &str, arguments: &[String]) -> Result<String> {
    let is_message = |argument: &&String| argument.starts_with('"');
    let message = arguments.iter().find(is_message).with_context(|| format!("no message: {arguments:?}"))?;
    let fields =
        arguments.iter().take_while(|argument| !is_message(argument)).filter(|field| !field.starts_with("target:"));
    let name = |field: &String| field.split(" =").next().unwrap_or_default().trim_start_matches(['%', '?']).to_owned();
    let fields: Vec<String> = fields.map(|field| format!("`{}`", name(field))).collect();
    // A line that goes on begins with a backslash at its end.
    let message = message.trim_matches('"').split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
    Ok(format!("| {level} | {message} | {} |", fields.join(" ")).replace("  ", " "))
}

fn sources(directory: &Path, out: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?.path();
        if entry.is_dir() {
            sources(&entry, out)?;
        } else if entry.extension().is_some_and(|kind| kind == "rs") && !entry.ends_with("tests.rs") {
            out.push(fs::read_to_string(&entry)?);
        }
    }
    Ok(())
}

#[test]
fn every_event_is_documented_and_no_other() -> Result<()> {
    let mut texts = Vec::new();
    sources(&path("detector/src"), &mut texts)?;
    let mut logged = BTreeSet::new();
    for text in &texts {
        logged.extend(events(text)?);
    }
    ensure!(logged.len() > 50, "only {} events are found", logged.len());
    let page = read("docs/events.md")?;
    let documented: BTreeSet<String> = page
        .lines()
        .filter(|line| LEVELS.iter().any(|level| line.starts_with(&format!("| {level} |"))))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = logged.difference(&documented).map(String::as_str).collect();
    let gone: Vec<_> = documented.difference(&logged).map(String::as_str).collect();
    ensure!(missing.is_empty(), "docs/events.md lacks\n{}", missing.join("\n"));
    ensure!(gone.is_empty(), "docs/events.md has what nothing logs\n{}", gone.join("\n"));
    Ok(())
}

#[test]
fn an_event_is_read_from_the_code() -> Result<()> {
    let source = "fn f() {\n    // warn!(\"in a comment\");\n    warn!(target: \"a::b\", %error, count = list.len(), \"it, \\\"so\\\"; \\\n        goes on\");\n    \
                  info!(\"ready\")\n}\n#[cfg(test)]\nerror!(\"a test's\")";
    assert_eq!(events(source)?, ["| warn | it, \\\"so\\\"; goes on | `error` `count` |", "| info | ready | |"]);
    Ok(())
}
