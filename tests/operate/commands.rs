//! What operators are told to type: `detector` understands each of these lines.

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use clap::error::ErrorKind;
use detector::cli::Cli;
use detector_tests::pages::{self, Page, commands};

use crate::alerts;

/// In backticks within a text, these are the beginnings of commands, and nobody is to type them so.
const BEGINNINGS: [&str; 1] = ["detector block --from"];

/// How many of these commands detector understands: all, or it is an error. In a text a command may stand by its name alone,
/// or with a word in capitals for a value.
fn ensure_understood(from: &str, lines: &[String], in_text: bool) -> Result<usize> {
    let simple = lines.iter().flat_map(|line| commands(line)).filter(|command| command.starts_with("detector "));
    let mut understood = 0;
    for command in simple.filter(|command| !(in_text && BEGINNINGS.contains(command))) {
        if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
            let has_gap =
                || command.split(' ').any(|word| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase()));
            let is_name = match error.kind() {
                ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
                ErrorKind::ValueValidation => has_gap(),
                _ => false,
            };
            ensure!(!error.use_stderr() || in_text && is_name, "{from}: `{command}`: {error}");
        }
        understood += 1;
    }
    Ok(understood)
}

/// What is to be typed is run besides, on a fresh Debian: `package/pages.rs`.
#[test]
fn every_command_of_the_pages_is_understood() -> Result<()> {
    let nonsense = ["detector block nonsense --ttl", "detector lits", "detector status --format yaml"];
    for line in nonsense {
        ensure!(ensure_understood("here", &[line.to_owned()], true).is_err(), "`{line}` is understood");
    }
    ensure!(ensure_understood("here", &["detector explain".to_owned()], false).is_err(), "a name is a command");
    let mut understood = 0;
    for page in pages::all()? {
        understood += ensure_understood(&page.name, &page.lines(), false)?;
        understood += ensure_understood(&page.name, &page.inline(), true)?;
    }
    ensure!(understood > 150, "only {understood} commands on all pages");
    Ok(())
}

#[test]
fn the_quick_start_has_ten_lines_at_most() -> Result<()> {
    let readme = pages::all()?.into_iter().next().context("no page")?;
    let install = readme.text.split("\n## ").find_map(|section| section.strip_prefix("Install\n"));
    let install = Page { text: install.context("README says nothing about installing")?.to_owned(), ..readme };
    let lines = install.lines();
    ensure!(lines.len() <= 10 && lines.iter().any(|line| line == "detector status"), "{lines:#?}");
    Ok(())
}

#[test]
fn every_command_of_the_alerts_is_understood() -> Result<()> {
    for rule in alerts::rules()? {
        let description = rule["annotations"]["description"].as_str().unwrap_or_default();
        let typed: Vec<String> = description.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        ensure_understood(&rule["alert"].to_string(), &typed, false)?;
    }
    Ok(())
}
