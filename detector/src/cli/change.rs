//! `detector block`, `allow`, `unblock`, `unallow`, `confirm`: a subject in, what was done, until when and how to undo
//! it out.

use std::io::Write;
use std::path::PathBuf;

use super::bulk::{self, Bulk};
use super::client::{Client, ControlArgs, ssh_client};
use super::{Exit, Failure, figures, printable};
use crate::admin::protocol::{Care, Change, Changed, List, Request, Response};
use crate::policy::subject::{Subject, SubjectError};
use crate::policy::terms::{Layer, Measure, RateLimit, Terms};
use crate::policy::ttl::Ttl;

const BLOCK_EXAMPLES: &str = "\
Examples:
  detector block 192.0.2.7 --at inline
  detector block --ja4 t13d1516h2_8daaf6152771_e5627efa2ab1 --ttl forever
  detector block 192.0.2.0/24 --limit 10/s
  detector block 10.0.0.0/8 --commit-confirm 120   then `detector confirm`
  detector block --from feed.txt --ttl 1d";
const ALLOW_EXAMPLES: &str = "\
Examples:
  detector allow 198.51.100.7
  detector allow 198.51.100.0/24 --ttl 2h
  detector allow --from offices.txt";
const UNBLOCK_EXAMPLES: &str = "\
Examples:
  detector unblock 192.0.2.7
  detector unblock 2001:db8::/48
  detector unblock --ja4 t13d1516h2_8daaf6152771_e5627efa2ab1";
const CONFIRM_EXAMPLES: &str = "\
Examples:
  detector block 10.0.0.0/8 --commit-confirm 120
  detector confirm                    within two minutes
  detector list; detector confirm     see first what there is to keep";
const UNALLOW_EXAMPLES: &str = "\
Examples:
  detector unallow 198.51.100.7
  detector unallow 198.51.100.0/24
  detector list                       shows what there is to take back";

/// An address, a prefix or a JA4 value; an address and a JA4 value.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Target {
    /// IPv4 or IPv6 address, or prefix
    #[arg(value_name = "ADDRESS|CIDR")]
    pub source: Option<String>,
    /// Every client whose ClientHello has this JA4 value
    #[arg(long, value_name = "JA4|JA4_R")]
    pub ja4: Option<String>,
}

/// The same, or a list of them.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Targets {
    /// IPv4 or IPv6 address, or prefix
    #[arg(value_name = "ADDRESS|CIDR")]
    source: Option<String>,
    /// Clients with this JA4 value, of that address if one is given
    #[arg(long, value_name = "JA4|JA4_R")]
    ja4: Option<String>,
    /// A list, a line each, with a TIME of its own if it has one; `-`: stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "ja4"])]
    from: Option<PathBuf>,
}

/// What can be allowed.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Sources {
    /// IPv4 or IPv6 address, or prefix
    #[arg(value_name = "ADDRESS|CIDR")]
    source: Option<String>,
    /// A list, a line each, with a TIME of its own if it has one; `-`: stdin
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// `detector block`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = BLOCK_EXAMPLES)]
pub struct BlockArgs {
    #[command(flatten)]
    target: Targets,
    /// For how long: 90s, 1h, 7d or forever
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: String,
    /// It ends after so long, unless `detector confirm` comes before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    commit_confirm: Option<u32>,
    /// Also if it would have hit many of the browsers seen lately
    #[arg(long)]
    force: bool,
    /// Drop only new connections beyond 10/s, 100/m; 10/s:50: 50 at once
    #[arg(long, value_name = "RATE", conflicts_with_all = ["observe", "from"])]
    limit: Option<RateLimit>,
    /// Count what it would drop, and drop nothing
    #[arg(long, conflicts_with = "from")]
    observe: bool,
    /// `inline`: drop no packet, refuse requests of web servers that ask
    #[arg(long, value_enum, default_value_t, hide_default_value = true, hide_possible_values = true, conflicts_with_all = ["limit", "from", "automatic"])]
    at: Layer,
    /// For programs: in mode enforce only, a day at most, not kept
    #[arg(long, conflicts_with_all = ["from", "commit_confirm", "force"])]
    automatic: bool,
    /// Leave out wrong and never-blocked lines, rather than refuse all
    #[arg(long, requires = "from")]
    skip_bad: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector allow`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = ALLOW_EXAMPLES)]
pub struct AllowArgs {
    #[command(flatten)]
    target: Sources,
    /// For how long: 90s, 1h, 7d or forever
    #[arg(long, value_name = "TIME", default_value = "forever")]
    ttl: String,
    /// Leave out wrong lines, rather than refuse all
    #[arg(long, requires = "from")]
    skip_bad: bool,
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector confirm`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = CONFIRM_EXAMPLES)]
pub struct ConfirmArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector unblock`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = UNBLOCK_EXAMPLES)]
pub struct UnblockArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    control: ControlArgs,
}

/// `detector unallow`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = UNALLOW_EXAMPLES)]
pub struct UnallowArgs {
    /// IPv4 or IPv6 address, or prefix
    #[arg(value_name = "ADDRESS|CIDR")]
    source: String,
    #[command(flatten)]
    control: ControlArgs,
}

impl Target {
    pub(super) fn subject(&self) -> Result<Subject, Failure> {
        subject(self.source.as_deref(), self.ja4.as_deref())
    }
}

fn subject(source: Option<&str>, ja4: Option<&str>) -> Result<Subject, Failure> {
    let subject = match (source, ja4) {
        (Some(source), Some(ja4)) => Subject::pair(source, ja4),
        (None, Some(ja4)) => Subject::ja4(ja4),
        (source, None) => Subject::source(source.unwrap_or_default()),
    };
    subject.map_err(|error| wrong(&error))
}

fn source(text: &str) -> Result<Subject, Failure> {
    Subject::source(text).map_err(|error| wrong(&error))
}

pub(super) fn ttl(text: &str) -> Result<Ttl, Failure> {
    text.parse().map_err(|error: crate::policy::ttl::TtlError| Failure::new(Exit::Usage, error.to_string()))
}

/// What is wrong and what to type; what was typed; carets under the wrong characters.
fn wrong(error: &SubjectError) -> Failure {
    let width = |text: &str| printable::line(text).chars().count();
    let part = |range: std::ops::Range<usize>| error.text.get(range).unwrap_or_default();
    let (indent, carets) = (width(part(0..error.span.start)), width(part(error.span.clone())).max(1));
    let text = printable::line(&error.text);
    // The message may repeat what was typed: one line, whatever that holds.
    let message = printable::line(&error.to_string());
    Failure::new(Exit::Usage, format!("{message}\n  {text}\n  {}{}", " ".repeat(indent), "^".repeat(carets)))
}

/// Blocks.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn block(args: &BlockArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let BlockArgs { target, ttl: time, commit_confirm, force, limit, observe, at, automatic, skip_bad, control } = args;
    let (list, ttl) = (List::Block, ttl(time)?);
    let care = Care { force: *force, confirm_within_s: *commit_confirm, ssh_client: ssh_client() };
    if let Some(from) = &target.from {
        return bulk::load(Bulk { from, list, ttl, care, skip_bad: *skip_bad }, control, out);
    }
    let subject = subject(target.source.as_deref(), target.ja4.as_deref())?;
    let measure = match limit {
        Some(rate) => Measure::RateLimit(*rate),
        None if *observe => Measure::Observe,
        None => Measure::Block,
    };
    let terms = Terms { measure, at: *at, automatic: *automatic };
    change(&Request::Block { subject, ttl, care, terms }, control, out)
}

/// Allows.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn allow(args: &AllowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let AllowArgs { target, ttl: time, skip_bad, control } = args;
    let (list, ttl) = (List::Allow, ttl(time)?);
    if let Some(from) = &target.from {
        return bulk::load(Bulk { from, list, ttl, care: Care::default(), skip_bad: *skip_bad }, control, out);
    }
    change(&Request::Allow { subject: source(target.source.as_deref().unwrap_or_default())?, ttl }, control, out)
}

/// Keeps what would take itself back.
///
/// # Errors
/// When nothing would, or the daemon doesn't do it.
pub fn confirm(args: &ConfirmArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    match Client::connect(&args.control)?.ask(&Request::Confirm)? {
        Response::Confirmed { entries } => {
            writeln!(out, "confirmed {} entries", figures::count(entries as u64))?;
            Ok(Exit::Done)
        }
        Response::NotFound => {
            let hint = "what isn't confirmed in time takes itself back, and may be over";
            Err(Failure::new(Exit::Negative, format!("nothing waits to be confirmed\n{hint}")))
        }
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    }
}

/// Takes a block back.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn unblock(args: &UnblockArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    change(&Request::Unblock { subject: args.target.subject()? }, &args.control, out)
}

/// Takes an allow entry back.
///
/// # Errors
/// When the arguments are wrong, or the daemon doesn't do it.
pub fn unallow(args: &UnallowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    change(&Request::Unallow { subject: source(&args.source)? }, &args.control, out)
}

pub(super) fn change(request: &Request, control: &ControlArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    match Client::connect(control)?.ask(request)? {
        Response::Changed(changed) => {
            write!(out, "{}", printable::lines(&describe(&changed, &control.suffix())))?;
            Ok(Exit::Done)
        }
        Response::NotFound => {
            let state = match request {
                Request::Unallow { .. } => "on the allow list",
                Request::Unchallenge { .. } => "challenged",
                _ => "blocked",
            };
            let subject = request.subject().map(ToString::to_string).unwrap_or_default();
            let hint = format!("`detector list{}` shows what there is", control.suffix());
            Err(Failure::new(Exit::Negative, format!("`{subject}` is not {state} by itself\n{hint}")))
        }
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    }
}

/// What, until when, the undo, a note if there is one.
pub(super) fn describe(changed: &Changed, suffix: &str) -> String {
    let Changed { action, subject, until, expires_in_s, undo, note } = changed;
    let left = expires_in_s.map(figures::seconds);
    let first = match (action, left) {
        (Change::Blocked, Some(left)) => format!("blocked {subject} until {until} ({left})"),
        (Change::Blocked, None) => format!("blocked {subject} forever"),
        (Change::Limited, Some(left)) => format!("limited new connections of {subject} until {until} ({left})"),
        (Change::Limited, None) => format!("limited new connections of {subject} forever"),
        (Change::Observed, Some(left)) => format!("observed {subject} until {until} ({left}): counted, not dropped"),
        (Change::Observed, None) => format!("observed {subject} forever: counted, not dropped"),
        (Change::Allowed, Some(left)) => format!("allowed {subject} until {until} ({left})"),
        (Change::Allowed, None) => format!("allowed {subject} forever"),
        (Change::Unblocked, Some(left)) => format!("unblocked {subject}, {left} before its end"),
        (Change::Unblocked, None) => format!("unblocked {subject}, which was blocked forever"),
        (Change::Unallowed, Some(left)) => format!("unallowed {subject}, {left} before its end"),
        (Change::Challenged, Some(left)) => format!("challenged {subject} until {until} ({left})"),
        (Change::Challenged, None) => format!("challenged {subject} forever"),
        (Change::Unchallenged, Some(left)) => format!("unchallenged {subject}, {left} before its end"),
        (Change::Unchallenged, None) => format!("unchallenged {subject}, which was challenged forever"),
        (Change::Unallowed, None) => format!("unallowed {subject}, which was allowed forever"),
    };
    let note = note.as_ref().map(|note| format!("note: {note}\n")).unwrap_or_default();
    format!("{first}\nundo: {undo}{suffix}\n{note}")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_until_when_and_the_undo() {
        let changed = |action, ttl: &str| {
            Changed::new(action, "192.0.2.7".parse().unwrap(), ttl.parse().unwrap(), SystemTime::UNIX_EPOCH)
        };
        let text = describe(&changed(Change::Blocked, "1h"), "");
        assert_eq!(text, "blocked 192.0.2.7 until 1970-01-01T01:00:00Z (1h)\nundo: detector unblock 192.0.2.7\n");
        let text = describe(&changed(Change::Unblocked, "59m3s"), " --control-socket /tmp/c");
        let undo = "undo: detector block 192.0.2.7 --ttl 59m3s --control-socket /tmp/c";
        assert_eq!(text, format!("unblocked 192.0.2.7, 59m 3s before its end\n{undo}\n"));
        let noted = Changed { note: Some("n".to_owned()), ..changed(Change::Allowed, "forever") };
        assert_eq!(describe(&noted, ""), "allowed 192.0.2.7 forever\nundo: detector unallow 192.0.2.7\nnote: n\n");
    }

    #[test]
    fn wrong_subjects_get_carets() {
        let failure = source("10.0.0.256").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.ends_with("\n  10.0.0.256\n         ^^^"), "{failure}");
        let failure = source("a\n\u{1b}b").unwrap_err();
        assert_eq!(failure.message.lines().count(), 3);
        assert!(!failure.message.contains('\u{1b}'));
    }

    #[test]
    fn wrong_times_say_what_to_type() {
        assert!(ttl("10").is_err_and(|failure| failure.exit == Exit::Usage && failure.message.contains("`90s`")));
    }
}
