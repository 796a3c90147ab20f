//! `detector top`: which JA4 values come just now, who sends them, what is done about them, and keys that change that. In:
//! the daemon's status once a second, and keys. Out: a screen ([`draw()`] of a [`View`]), and what was changed, with its
//! undo, when it is over. Memory: one status, and [`HISTORY`](view::HISTORY) seconds of a few numbers.

mod draw;
mod panel;
pub mod view;

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

pub use draw::draw;
pub use view::View;

use self::view::Wish;
use super::client::{Client, ControlArgs};
use super::{Exit, Failure, colour, printable};
use crate::admin::protocol::{Request, Response, Status};
use crate::clock::{Timestamp, monotonic};

const EXAMPLES: &str = "\
Examples:
  detector top
  detector top --control-socket /tmp/c.sock
  NO_COLOR=1 detector top

Keys: ↑ ↓ move, e explain, b block, u unblock, a allow the last client, s sort,
p pause, q quit. What changes something is asked once more.

Exit codes: 0 quit, 64 no terminal, 69 no daemon, 77 may not";

/// Between two looks at the daemon.
const EVERY: Duration = Duration::from_secs(1);
/// How long a key is waited for before signals are looked at.
const KEY: Duration = Duration::from_millis(100);

/// `detector top`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TopArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// Shows it until `q`.
///
/// # Errors
/// When this is no terminal, or the daemon can't be asked, or no longer.
pub fn run(args: &TopArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let what = "`detector top` draws on a terminal, and this is none";
        return Err(Failure::new(Exit::Usage, format!("{what}\nfor programs: detector status --format json")));
    }
    let mut view = View::new(colour::wanted(), args.control.suffix());
    // Before the screen is taken: what is wrong stands where the command was typed.
    view.told(status(&args.control)?, monotonic());
    let signals = blocked().map_err(io::Error::from)?;
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut view, args, &mut terminal, &signals);
    ratatui::try_restore()?;
    // The screen is gone; what was done on it, and how to undo it, stays to be read.
    write!(out, "{}", printable::lines(&view.changes()))?;
    ended
}

/// Signals that end it: the terminal must be put right before.
fn blocked() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn watch(view: &mut View, args: &TopArgs, terminal: &mut DefaultTerminal, signals: &SignalFd) -> Result<Exit, Failure> {
    let mut asked = monotonic();
    loop {
        terminal.draw(|frame| draw(view, frame))?;
        if signals.read_signal().map_err(io::Error::from)?.is_some() {
            return Ok(Exit::Done);
        }
        if event::poll(KEY)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match view.key(key) {
                Some(Wish::Quit) => return Ok(Exit::Done),
                Some(Wish::Ask(request)) => {
                    view.answered(&request, ask(&args.control, &request)?);
                    asked = Timestamp::default();
                }
                None => {}
            }
        }
        let now = monotonic();
        if now.since(asked) >= EVERY {
            asked = now;
            view.told(status(&args.control)?, now);
        }
    }
}

fn status(control: &ControlArgs) -> Result<Box<Status>, Failure> {
    match Client::reader(control)?.ask(&Request::Top)? {
        Response::Status(status) => Ok(status),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    }
}

/// A daemon that says no goes on being watched; one that is gone doesn't.
fn ask(control: &ControlArgs, request: &Request) -> Result<Result<Response, String>, Failure> {
    let client = if request.is_write() { Client::connect(control) } else { Client::reader(control) };
    match client.and_then(|mut client| client.ask(request)) {
        Ok(response) => Ok(Ok(response)),
        Err(failure) if matches!(failure.exit, Exit::Failed | Exit::Permission) => Ok(Err(failure.message)),
        Err(failure) => Err(failure),
    }
}
