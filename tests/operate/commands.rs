//! What operators are told to type: `detector` understands each of these lines.

use anyhow::{Result, ensure};
use clap::Parser as _;
use detector::cli::Cli;

use crate::{alerts, read};

/// The pages on which each line of code is to be typed as it stands.
const PAGES: [&str; 4] = ["SECURITY.md", "docs/incidents.md", "docs/install.md", "docs/privacy.md"];

/// Commands of `detector` in a text, in backticks or on indented lines, without what a shell makes of the rest.
fn commands(text: &str) -> Vec<String> {
    let indented = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
    let inline =
        text.lines().filter(|line| !line.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2));
    let simple =
        indented.chain(inline).flat_map(|line| line.split(" # ").take(1)).flat_map(|line| line.split(['|', ';', '>']));
    simple.map(str::trim).filter(|command| command.starts_with("detector ")).map(str::to_owned).collect()
}

fn ensure_understood(from: &str, text: &str) -> Result<usize> {
    let commands = commands(text);
    for command in &commands {
        if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
            ensure!(!error.use_stderr(), "{from}: `{command}`: {error}");
        }
    }
    Ok(commands.len())
}

#[test]
fn every_command_of_the_pages_is_understood() -> Result<()> {
    ensure!(ensure_understood("here", "`detector block nonsense --ttl`").is_err(), "anything is understood");
    for page in PAGES {
        ensure!(ensure_understood(page, &read(page)?)? > 0, "no command in {page}");
    }
    Ok(())
}

#[test]
fn every_command_of_the_alerts_is_understood() -> Result<()> {
    for rule in alerts::rules()? {
        let description = rule["annotations"]["description"].as_str().unwrap_or_default();
        ensure_understood(&rule["alert"].to_string(), description)?;
    }
    Ok(())
}
