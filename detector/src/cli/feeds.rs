//! `detector feeds`: lists of addresses from their publishers to the disk, where the daemon reads them; and what is there.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::list::bare_table;
use super::{Exit, Failure, Format, figures, print, printable};
use crate::clock::wall;
use crate::config::{Config, FeedList, FeedSource, Overrides};
use crate::feeds::{Fetcher, Patience, store, update};

const EXAMPLES: &str = "\
Lists stand in [feeds] of the configuration. One that is not to be believed (too
wide, too long, too much of it changed) is refused, and what was there stays.
The daemon reads what is fetched within seconds.

Examples:
  detector feeds update                 fetch all; detector-feeds.timer does it
  detector feeds update drop --accept   that one, however much of it changed
  detector feeds list                   what is on the disk, and how old

Exit codes: 0 all is well, 1 a list was refused or could not be fetched";

const UPDATE_EXAMPLES: &str = "\
Examples:
  detector feeds update                 all of them
  detector feeds update drop firehol    these two
  detector feeds update drop --accept   that one, however much of it changed

Exit codes: 0 all is well, 1 a list was refused or could not be fetched";

const LIST_EXAMPLES: &str = "\
Examples:
  detector feeds list
  detector feeds list --config /etc/detector/test.toml
  detector feeds list --format json | jq 'select(.age_s > 86400) | .list'";

/// `detector feeds`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct FeedsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Fetch lists from their publishers
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(UpdateArgs),
    /// Show the lists, and what is on the disk of them
    #[command(after_help = LIST_EXAMPLES)]
    List(Common),
}

#[derive(Clone, Debug, Args)]
struct UpdateArgs {
    /// Their names in [feeds] [default: all]
    names: Vec<String>,
    /// Take them however much of them changed
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
}

/// Of a [`Row`], also those which it may lack.
const COLUMNS: &[&str] = &["list", "class", "prefixes", "added", "removed", "left_out", "age_s", "error"];

/// How a list stands.
#[derive(Debug, Serialize)]
struct Row {
    list: String,
    class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefixes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When there is no configuration, no such list, or no certificate to know a publisher by.
pub fn run(args: &FeedsArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let (common, rows) = match &args.command {
        Command::Update(update) => (&update.common, fetch(update)?),
        Command::List(common) => (common, listed(&load(common)?)),
    };
    match common.format {
        Format::Table if rows.is_empty() => writeln!(out, "no lists; name some in [feeds] of the configuration")?,
        Format::Table => writeln!(out, "{}", table(&rows))?,
        format => print::rows(&rows, COLUMNS, format, out)?,
    }
    Ok(if rows.iter().any(|row| row.error.is_some()) { Exit::Failed } else { Exit::Done })
}

fn load(common: &Common) -> Result<Config, Failure> {
    let overrides = Overrides { file: common.config.clone(), ..Overrides::default() };
    Config::load(&overrides).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn row(name: &str, list: &FeedList) -> Row {
    Row {
        list: name.to_owned(),
        class: list.class.label(),
        prefixes: None,
        added: None,
        removed: None,
        left_out: None,
        age_s: None,
        error: None,
    }
}

fn fetch(args: &UpdateArgs) -> Result<Vec<Row>, Failure> {
    let feeds = load(&args.common)?.feeds;
    if let Some(unknown) = args.names.iter().find(|name| !feeds.lists.contains_key(*name)) {
        let known: Vec<&str> = feeds.lists.keys().map(String::as_str).collect();
        let message = format!("no list `{unknown}` in [feeds]; there are: {}", known.join(", "));
        return Err(Failure::new(Exit::Usage, message));
    }
    let wanted = |name: &String| args.names.is_empty() || args.names.contains(name);
    let lists: Vec<_> = feeds.lists.iter().filter(|(name, _)| wanted(name)).collect();
    let mut fetcher = None;
    let mut rows = Vec::new();
    for (name, list) in lists {
        let FeedSource::Url { url, checksum } = &list.source else { continue };
        let fetcher = match &mut fetcher {
            Some(fetcher) => fetcher,
            none => {
                let made = Fetcher::new(&feeds.certificates, feeds.max_bytes, Patience::default());
                none.insert(made.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?)
            }
        };
        let row = row(name, list);
        rows.push(match update(fetcher, &feeds, (name, list), (url, checksum.as_ref()), args.accept, wall()) {
            Ok(done) => Row {
                prefixes: Some(done.entries),
                added: Some(done.added),
                removed: Some(done.removed),
                left_out: Some(done.left_out),
                ..row
            },
            Err(error) => Row { error: Some(error.to_string()), ..row },
        });
    }
    Ok(rows)
}

fn listed(config: &Config) -> Vec<Row> {
    let feeds = &config.feeds;
    let lists = feeds.lists.iter().map(|(name, list)| {
        let stamp = store::stamp(&store::path(feeds, name, list));
        let age_s = stamp.map(|(modified, _)| wall().duration_since(modified).unwrap_or_default().as_secs());
        match (store::read(feeds, name, list), &list.source, stamp) {
            (Ok(read), ..) => Row { prefixes: Some(read.prefixes.len()), age_s, ..row(name, list) },
            (Err(_), FeedSource::Url { .. }, None) => {
                Row { error: Some("not fetched yet; do: detector feeds update".to_owned()), ..row(name, list) }
            }
            (Err(error), ..) => Row { age_s, error: Some(error.to_string()), ..row(name, list) },
        }
    });
    lists.collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = bare_table(["LIST", "CLASS", "PREFIXES", "CHANGED", "AGE"]);
    let mut errors = String::new();
    for row in rows {
        let count = |count: Option<usize>| count.map_or("-".to_owned(), |count| figures::count(count as u64));
        let changed =
            row.added.zip(row.removed).map_or("-".to_owned(), |(added, removed)| format!("+{added} -{removed}"));
        let age = row.age_s.map_or("-".to_owned(), figures::seconds);
        table.add_row([row.list.clone(), row.class.to_owned(), count(row.prefixes), changed, age]);
        if let Some(error) = &row.error {
            errors.push_str(&format!("\n{}: {}", row.list, printable::line(error)));
        }
    }
    format!("{}{errors}", table.trim_fmt())
}
