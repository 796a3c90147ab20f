//! The command line: arguments in, one command run, an [`Exit`] out. An error is at most three lines on stderr: what
//! is wrong, where, what to type. Nothing here waits longer than five seconds for the daemon, and a minute for a load.

pub mod attach;
mod bulk;
pub mod challenge;
pub mod change;
pub mod client;
mod colour;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod families;
pub mod feeds;
mod figures;
pub mod fingerprint;
pub mod list;
pub mod log;
pub mod mode;
pub mod pages;
mod print;
pub mod printable;
pub mod relay;
pub mod replay;
pub mod reports;
pub mod run;
pub mod signals;
pub mod sockets;
pub mod status;
pub mod top;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use print::Format;

const EXAMPLES: &str = "\
Examples:
  detector block 192.0.2.7 --ttl 1h     drop what it sends to a protected port
  detector block --ja4 t13d1516h2_8daaf6152771_e5627efa2ab1
  detector status --format json         counters, and the JA4 values seen most
Exit: 0 done, 1 failed, 2 nothing there, 64 usage, 69 no daemon, 77 may not";

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "detector", version, about = "Packet-level bot detection for edge hosts", after_help = EXAMPLES)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// Which command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch interfaces: a line for each ClientHello, and verdicts
    Run(run::RunArgs),
    /// Attach and pin the programs: they outlive the daemon
    Attach(attach::AttachArgs),
    /// Detach the programs, and remove what is pinned
    Detach(attach::DetachArgs),
    /// Read the ClientHellos of a capture file, or on an interface
    Fingerprint(fingerprint::FingerprintArgs),
    /// Drop what addresses, prefixes or clients with a JA4 value send
    Block(change::BlockArgs),
    /// Let addresses or prefixes pass, whatever else is said
    Allow(change::AllowArgs),
    /// Keep what was blocked with --commit-confirm
    Confirm(change::ConfirmArgs),
    /// Take a block back
    Unblock(change::UnblockArgs),
    /// Take an allow entry back
    Unallow(change::UnallowArgs),
    /// Steer addresses or JA4 values to the challenge listener
    Challenge(challenge::ChallengeArgs),
    /// Take a challenge back
    Unchallenge(challenge::UnchallengeArgs),
    /// Show what is blocked and allowed, until when, with hits
    List(list::ListArgs),
    /// Let rules drop, or only count
    Mode(mode::ModeArgs),
    /// Show interfaces, counters and the JA4 values seen most
    Status(status::StatusArgs),
    /// Open Internet sockets for a daemon that may not: a service manager starts it
    #[command(hide = true)]
    Sockets(sockets::SocketsArgs),
    /// Watch the JA4 values that come now; keys explain, block, allow
    Top(top::TopArgs),
    /// Show the last requests that web servers told of
    Reports(reports::ReportsArgs),
    /// Try a policy on a capture and an access log; nothing is blocked
    Replay(replay::ReplayArgs),
    /// Send lines to the signal socket, for web servers that can't
    Relay(relay::RelayArgs),
    /// Say what is in the way, and what to type about it
    Doctor(doctor::DoctorArgs),
    /// Show how a JA4 value stands among all, by what web servers told
    Signals(signals::SignalsArgs),
    /// Make the catalogue of client families
    #[command(hide = true)]
    Families(families::FamiliesArgs),
    /// Say why a client is treated as it is
    Explain(explain::ExplainArgs),
    /// Fetch and show lists of addresses
    Feeds(feeds::FeedsArgs),
    /// Write man pages and completions, for packages
    #[command(hide = true)]
    Pages(pages::PagesArgs),
    /// Check, show and compare the configuration
    Config(config::ConfigArgs),
    /// Have the daemon read its configuration again
    Reload(config::ReloadArgs),
    /// Show or change what the daemon logs
    Log(log::LogArgs),
}

/// How a command ended (sysexits.h from 64 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Asked, and the answer is no: nothing found, nothing to take back.
    Negative = 2,
    /// Wrong arguments or configuration.
    Usage = 64,
    /// The daemon can't be reached.
    Unavailable = 69,
    /// Not permitted.
    Permission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A command that failed: how it ends and what it says, at most three lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What stands after `error: `.
    pub message: String,
}

impl Failure {
    /// One that ends with `exit`.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Says it on stderr, with nothing in it that a terminal obeys.
    pub fn report(&self) -> Exit {
        // A reader that left (`| head`) has what it wanted.
        if self.exit != Exit::Done {
            complain(&format!("error: {}", self.message));
        }
        self.exit
    }
}

impl From<io::Error> for Failure {
    /// Of writing to stdout.
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Done } else { Exit::Failed };
        Self::new(exit, format!("can't write to standard output: {error}"))
    }
}

/// Reads the arguments. When there is no command to run (wrong arguments, `--help`, `--version`), says so and returns
/// how to end.
///
/// # Errors
/// How to end.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match write!(io::stdout(), "{}", error.render()) {
            Ok(()) => Exit::Done,
            Err(error) => Failure::from(error).report(),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain(error.render().to_string().trim_end());
            Exit::Usage
        }
        _ => {
            complain(&condense(&error.render().to_string()));
            Exit::Usage
        }
    })
}

/// Runs a command.
pub fn execute(command: Command) -> Exit {
    let command = match command {
        Command::Run(args) => return run::run(args),
        Command::Fingerprint(args) => return fingerprint::run(&args),
        command => command,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match &command {
        Command::Run(_) | Command::Fingerprint(_) => Ok(Exit::Done),
        Command::Attach(args) => attach::attach(args, &mut out),
        Command::Detach(args) => attach::detach(args, &mut out),
        Command::Block(args) => change::block(args, &mut out),
        Command::Allow(args) => change::allow(args, &mut out),
        Command::Confirm(args) => change::confirm(args, &mut out),
        Command::Unblock(args) => change::unblock(args, &mut out),
        Command::Unallow(args) => change::unallow(args, &mut out),
        Command::Challenge(args) => challenge::challenge(args, &mut out),
        Command::Unchallenge(args) => challenge::unchallenge(args, &mut out),
        Command::List(args) => list::run(args, &mut out),
        Command::Mode(args) => mode::run(args, &mut out),
        Command::Status(args) => status::run(args, &mut out),
        Command::Sockets(args) => sockets::run(args, &mut out),
        Command::Top(args) => top::run(args, &mut out),
        Command::Reports(args) => reports::run(args, &mut out),
        Command::Replay(args) => replay::run(args, &mut out),
        Command::Relay(args) => relay::run(args, &mut out),
        Command::Doctor(args) => doctor::run(args, &mut out),
        Command::Signals(args) => signals::run(args, &mut out),
        Command::Families(args) => families::run(args, &mut out),
        Command::Explain(args) => explain::run(args, &mut out),
        Command::Feeds(args) => feeds::run(args, &mut out),
        Command::Pages(args) => pages::run(args, &mut out),
        Command::Config(args) => config::run(args, &mut out),
        Command::Reload(args) => config::reload(args, &mut out),
        Command::Log(args) => log::run(args, &mut out),
    };
    let done = done.and_then(|exit| Ok(out.flush().map(|()| exit)?));
    done.unwrap_or_else(|failure| failure.report())
}

fn complain(text: &str) {
    // When stderr is gone there is nobody left to tell; the exit code still does.
    drop(writeln!(io::stderr(), "{}", printable::lines(text)));
}

/// clap says in ten lines what fits into three: the error, the tip, the usage.
fn condense(rendered: &str) -> String {
    let mut paragraphs = rendered.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut lines = vec![paragraphs.next().unwrap_or_default()];
    let (mut tips, mut usage) = (Vec::new(), None);
    for paragraph in paragraphs {
        if let Some(tip) = paragraph.strip_prefix("tip: ") {
            tips.push(tip.to_owned());
        } else if let Some(text) = paragraph.strip_prefix("Usage: ") {
            usage = Some(format!("usage: {text}"));
        }
    }
    if !tips.is_empty() {
        lines.push(format!("tip: {}", tips.join("; ")));
    }
    lines.extend(usage);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn condensed(args: &[&str]) -> String {
        let args = std::iter::once("detector").chain(args.iter().copied());
        condense(&Cli::try_parse_from(args).unwrap_err().render().to_string())
    }

    #[test]
    fn definitions_hold() {
        Cli::command().debug_assert();
    }

    /// Every command, as it is typed, commands of commands too.
    fn verbs() -> Vec<(Vec<String>, clap::Command)> {
        fn below(typed: &[String], command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
            all.push((typed.to_vec(), command.clone()));
            for command in command.get_subcommands() {
                below(&[typed, &[command.get_name().to_owned()]].concat(), command, all);
            }
        }
        let mut all = Vec::new();
        let mut command = Cli::command().term_width(80);
        command.build();
        below(&[], &command, &mut all);
        all
    }

    fn typed(words: &[String], more: &[&str]) -> clap::Error {
        let words = ["detector"].into_iter().chain(words.iter().map(String::as_str)).chain(more.iter().copied());
        Cli::command().term_width(80).try_get_matches_from(words).unwrap_err()
    }

    #[test]
    fn help_fits_a_screen_and_has_three_examples() {
        for (verb, _) in verbs() {
            for flag in ["-h", "--help"] {
                let help = typed(&verb, &[flag]);
                assert_eq!(help.kind(), ErrorKind::DisplayHelp);
                let help = help.render().to_string();
                assert!(help.lines().count() <= 40, "{help}");
                let examples = help.lines().skip_while(|line| *line != "Examples:").skip(1);
                let examples =
                    examples.take_while(|line| line.starts_with("  ")).filter(|line| line.contains("detector "));
                assert!(examples.count() >= 3, "{help}");
            }
        }
    }

    /// Each flag of each command, and each value of a choice, with its last letter twice.
    #[test]
    fn what_is_mistyped_is_answered_with_what_was_meant() {
        let doubled = |word: &str| word.chars().chain(word.chars().last()).collect::<String>();
        let mut tried = 0;
        for (verb, command) in verbs() {
            for argument in command.get_arguments() {
                let Some(long) = argument.get_long().filter(|_| !argument.is_hide_set()) else { continue };
                let mut mistakes = vec![(vec![format!("--{}", doubled(long))], format!("'--{long}'"))];
                for value in argument.get_possible_values().iter().filter(|_| argument.get_action().takes_values()) {
                    let wrong = doubled(value.get_name());
                    mistakes.push((vec![format!("--{long}"), wrong], format!("'{}'", value.get_name())));
                }
                for (mistake, meant) in mistakes {
                    let mistake: Vec<&str> = mistake.iter().map(String::as_str).collect();
                    let error = typed(&verb, &mistake);
                    let text = condense(&error.render().to_string());
                    assert!(text.contains(&meant) && text.lines().count() <= 3, "{verb:?} {mistake:?}: {text}");
                    assert!(!matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion), "{mistake:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 100, "{tried}");
    }

    /// `--format` is one thing: where it is, it takes the same words.
    #[test]
    fn every_format_takes_the_same_words() {
        let mut found = Vec::new();
        for (verb, command) in verbs() {
            let Some(format) = command.get_arguments().find(|argument| argument.get_long() == Some("format")) else {
                continue;
            };
            let values: Vec<String> =
                format.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            assert_eq!(values, ["table", "json", "csv"], "{verb:?}");
            found.push(verb.join(" "));
        }
        found.sort_unstable();
        let wanted = [
            "config diff",
            "config show",
            "doctor",
            "explain",
            "feeds list",
            "feeds update",
            "fingerprint",
            "list",
            "replay",
            "reports",
            "run",
            "signals",
            "status",
        ];
        assert_eq!(found, wanted, "every command that prints rows");
    }

    #[test]
    fn usage_errors_are_three_lines_with_a_tip() {
        let text = condensed(&["list", "--fromat", "json"]);
        let expected = "error: unexpected argument '--fromat' found\ntip: a similar argument exists: '--format'\n\
                        usage: detector list --format <table|json|csv>";
        assert_eq!(text, expected);
        let text = condensed(&["blok", "192.0.2.7"]);
        assert!(text.starts_with("error: unrecognized subcommand 'blok'\ntip: "), "{text}");
        assert!(text.contains("'block'"), "{text}");
        let text = condensed(&["status", "--format", "yaml"]);
        assert!(text.starts_with(
            "error: invalid value 'yaml' for '--format <table|json|csv>' [possible values: table, json, csv]"
        ));
        let text = condensed(&["block"]);
        assert!(text.starts_with("error: the following required arguments were not provided: "), "{text}");
        for args in [&["block", "1.1.1.1", "--from", "x"][..], &["allow"], &["unblock", "a", "b"], &["list", "x"]] {
            assert!(condensed(args).lines().count() <= 3);
        }
    }

    #[test]
    fn exit_codes() {
        let code = |args: &[&str]| parse(["detector"].iter().chain(args).map(OsString::from)).map(drop);
        assert_eq!(code(&["--help"]), Err(Exit::Done));
        assert_eq!(code(&["--version"]), Err(Exit::Done));
        assert_eq!(code(&["block", "--help"]), Err(Exit::Done));
        assert_eq!(code(&["frobnicate"]), Err(Exit::Usage));
        assert_eq!(code(&[]), Err(Exit::Usage));
        assert_eq!(code(&["status"]), Ok(()));
    }
}
