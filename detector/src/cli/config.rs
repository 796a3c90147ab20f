//! `detector config`: the configuration before it is in force. `check` refuses all that a start or a reload would refuse;
//! `show` tells each value and where it comes from; `diff` compares the running daemon with the file. `detector reload`
//! puts it in force. Bound: a table holds all keys to align them.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{Client, ControlArgs};
use super::list::bare_table;
use super::print::{self, Format};
use super::{Exit, Failure, figures, printable};
use crate::admin::protocol::{Outcome, Reloaded, Request, Response, Settings};
use crate::config::{Loaded, Origin, Overrides, Setting, is_live};

const EXAMPLES: &str = "\
Examples:
  detector config check new.toml        what is wrong with it, and where
  detector config show --changed        what isn't as it comes
  detector config diff                  what `detector reload` would change

Each key can be said in the environment too: DETECTOR_POLICY_BLOCK_TTL=2h is
block_ttl in [policy]. A flag wins over that, that over the file.
Exit codes: 0 fine, 2 the daemon and the file differ, 64 the file is wrong";

const CHECK_EXAMPLES: &str = "\
Examples:
  detector config check                          the one in /etc/detector
  detector config check new.toml
  detector config check new.toml && echo fine

Exit codes: 0 fine, 64 wrong, with file, line and what to type";

const SHOW_EXAMPLES: &str = "\
Examples:
  detector config show --changed                 what isn't as it comes
  detector config show policy capture.ports      a section, and a key
  detector config show --running --format json";

const DIFF_EXAMPLES: &str = "\
Examples:
  detector config diff                           what a reload or a restart would change
  detector config diff --config new.toml
  detector config diff --format json | jq -r .key

Exit codes: 0 the same, 2 they differ, 64 the file is wrong";

const RELOAD_EXAMPLES: &str = "\
Examples:
  detector config diff && echo same     what would change
  detector reload                       checked, then in force as a whole, or not at all
  systemctl reload detector             the same

Blocks, sessions and connections stay. What needs a restart is told, and left.
Exit codes: 0 done, 64 the file is wrong and nothing has changed";

/// Longer values are cut in a table.
const WIDTH: usize = 60;

/// `detector config`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Say what is wrong with a configuration, and where
    Check(CheckArgs),
    /// Show each value, and where it comes from
    Show(ShowArgs),
    /// Compare the running daemon with the file
    Diff(DiffArgs),
}

#[derive(Clone, Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
struct CheckArgs {
    /// The file [default: /etc/detector/detector.toml, if it exists]
    #[arg(value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct ShowArgs {
    /// Only these, like `policy` or `policy.block_ttl` [default: all]
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Leave out what is as it comes
    #[arg(long)]
    changed: bool,
    /// What the running daemon works by, its flags included
    #[arg(long)]
    running: bool,
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
struct DiffArgs {
    /// Another file than the daemon's own
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector reload`.
#[derive(Clone, Debug, Args)]
#[command(after_help = RELOAD_EXAMPLES)]
pub struct ReloadArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// Checks, shows or compares.
///
/// # Errors
/// When the configuration is wrong, or the daemon can't be asked.
pub fn run(args: &ConfigArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    match &args.command {
        Command::Check(args) => check(args, out),
        Command::Show(args) => show(args, out),
        Command::Diff(args) => diff(args, out),
    }
}

fn load(file: Option<&PathBuf>) -> Result<Loaded, Failure> {
    let overrides = Overrides { file: file.cloned(), ..Overrides::default() };
    Loaded::read(&overrides).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

fn check(args: &CheckArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let loaded = load(args.config.as_ref())?;
    let settings = loaded.settings();
    let said = settings.iter().filter(|setting| setting.origin != Origin::Default).count();
    let name =
        loaded.file.map_or("no file, the defaults".to_owned(), |path| printable::line(&path.display().to_string()));
    writeln!(out, "{name}: fine; {said} of {} keys are set", settings.len())?;
    Ok(Exit::Done)
}

fn show(args: &ShowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let settings = match args.running {
        true => running(&mut Client::reader(&args.control)?)?.settings,
        false => load(args.config.as_ref())?.settings(),
    };
    for key in &args.keys {
        if !settings.iter().any(|setting| is_in(setting, key)) {
            return Err(Failure::new(Exit::Usage, unknown(key, &settings)));
        }
    }
    // The file of the packages says each default: what is typed is not what is changed.
    let defaults = if args.changed { Loaded::defaults() } else { Vec::new() };
    let as_it_comes =
        |setting: &Setting| defaults.iter().any(|known| known.key == setting.key && known.value == setting.value);
    let wanted = |setting: &&Setting| {
        let named = args.keys.is_empty() || args.keys.iter().any(|key| is_in(setting, key));
        named && !as_it_comes(setting)
    };
    let shown: Vec<&Setting> = settings.iter().filter(wanted).collect();
    if args.format != Format::Table {
        print::rows(&shown, &["key", "value", "origin", "from"], args.format, out)?;
        return Ok(Exit::Done);
    }
    if shown.is_empty() {
        writeln!(out, "every value is the default")?;
        return Ok(Exit::Done);
    }
    let mut table = bare_table(["KEY", "VALUE", "FROM"]);
    for setting in shown {
        table.add_row([printable::line(&setting.key), cut(&setting.value), from(setting)]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    Ok(Exit::Done)
}

/// Whether a setting is, or is in the section, called `key`.
fn is_in(setting: &Setting, key: &str) -> bool {
    setting.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn unknown(key: &str, settings: &[Setting]) -> String {
    let sections = settings.iter().filter_map(|setting| setting.key.split('.').next());
    let names = settings.iter().map(|setting| setting.key.as_str()).chain(sections);
    let near = names.map(|name| (strsim::jaro_winkler(name, key), name)).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let near = near.map(|(_, near)| near).unwrap_or_default();
    format!("there is no key or section `{key}`; did you mean `{near}`?\nsee all of them: detector config show")
}

/// A flag or a variable is known by its name; `-` stands for nobody's word.
fn from(setting: &Setting) -> String {
    match setting.origin {
        Origin::Default => "default".to_owned(),
        _ => printable::line(&setting.from),
    }
}

fn cut(value: &str) -> String {
    let value = printable::line(value);
    match value.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", value.get(..at).unwrap_or_default()),
        None => value,
    }
}

/// What the daemon works by.
pub(super) fn running(client: &mut Client) -> Result<Settings, Failure> {
    let mut all = Settings::default();
    loop {
        let Response::Settings(page) = client.ask(&Request::Config { skip: all.settings.len() })? else {
            return Err(another_version());
        };
        let Settings { settings, total, file, since_s } = page;
        let last = settings.is_empty();
        all.settings.extend(settings);
        (all.total, all.file, all.since_s) = (total, file, since_s);
        if last || all.settings.len() >= total {
            return Ok(all);
        }
    }
}

fn another_version() -> Failure {
    Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")
}

/// A key of which the file says something else than is in force.
#[derive(Debug, Serialize)]
pub(super) struct Difference<'a> {
    pub(super) key: &'a str,
    running: &'a str,
    file: &'a str,
    /// `reload`, `restart`, or `nothing`: what overrules the file.
    pub(super) takes: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    overruled_by: &'a str,
}

/// Of what the daemon works by, to what a file says.
pub(super) fn differences<'a>(running: &'a [Setting], wanted: &'a [Setting]) -> Vec<Difference<'a>> {
    let mut found = Vec::new();
    for new in wanted {
        let Some(old) = running.iter().find(|old| old.key == new.key) else { continue };
        // What this command's own environment says is nothing to the daemon.
        let own = matches!(new.origin, Origin::Environment | Origin::Flag);
        if old.value == new.value || own {
            continue;
        }
        let overruled = matches!(old.origin, Origin::Environment | Origin::Flag);
        if overruled && new.origin == Origin::Default {
            continue;
        }
        let takes = match (overruled, is_live(&new.key)) {
            (true, _) => "nothing",
            (false, true) => "reload",
            (false, false) => "restart",
        };
        let overruled_by = if overruled { old.from.as_str() } else { "" };
        found.push(Difference { key: &new.key, running: &old.value, file: &new.value, takes, overruled_by });
    }
    found
}

fn diff(args: &DiffArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let running = running(&mut Client::reader(&args.control)?)?;
    let file = args.config.as_ref().or(running.file.as_ref());
    let (name, wanted) = match file {
        Some(path) => (printable::line(&path.display().to_string()), load(Some(path))?.settings()),
        None => ("the defaults".to_owned(), load(None)?.settings()),
    };
    let found = differences(&running.settings, &wanted);
    if args.format != Format::Table {
        print::rows(&found, &["key", "running", "file", "takes", "overruled_by"], args.format, out)?;
    } else if found.is_empty() {
        writeln!(out, "the daemon works by {name}, for {}", figures::seconds(running.since_s))?;
    } else {
        let mut table = bare_table(["KEY", "RUNNING", "FILE", "TAKES"]);
        for Difference { key, running, file, takes, overruled_by } in &found {
            let takes = match *takes {
                "nothing" => format!("nothing: {} overrules it", printable::line(overruled_by)),
                takes => format!("a {takes}"),
            };
            table.add_row([printable::line(key), cut(running), cut(file), takes]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        if found.iter().any(|difference| difference.takes == "reload") && args.config.is_none() {
            writeln!(out, "take it over: detector reload{}", args.control.suffix())?;
        }
    }
    // What is overruled is as somebody wants it: a package's unit says where the pins are.
    let differs = found.iter().any(|difference| difference.takes != "nothing");
    Ok(if differs { Exit::Negative } else { Exit::Done })
}

/// Has the daemon read its configuration again.
///
/// # Errors
/// When that is wrong, or the daemon can't be asked.
pub fn reload(args: &ReloadArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let Response::Reloaded(reloaded) = Client::connect(&args.control)?.ask(&Request::Reload)? else {
        return Err(another_version());
    };
    let Reloaded { outcome, file, changed, restart, error } = reloaded;
    if let (Outcome::Refused, Some(error)) = (outcome, error) {
        return Err(Failure::new(Exit::Usage, format!("{error}\nnothing has changed: the daemon goes on as before")));
    }
    let name = file.map_or("the defaults".to_owned(), |path| printable::line(&path.display().to_string()));
    let keys = |keys: &[String]| keys.iter().map(|key| printable::line(key)).collect::<Vec<_>>().join(", ");
    match changed.as_slice() {
        [] => writeln!(out, "nothing to change: the daemon works by {name}")?,
        changed => writeln!(out, "the daemon works by {name}: {} changed", keys(changed))?,
    }
    if !restart.is_empty() {
        writeln!(out, "needs a restart, until which the old value holds: {}", keys(&restart))?;
    }
    Ok(Exit::Done)
}
