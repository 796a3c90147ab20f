//! A real terminal for a program: a pseudo-terminal of a size, and what stands on its screen.
//!
//! In: a command, and what is typed. Out: the screen as text. The program is killed with its value. Memory: one screen.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use vt100::Parser;

use crate::deadline::{PATIENCE, until};

/// A program on a terminal of its own.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Parser>>,
    /// The program's end, for its settings.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Starts `command` on a terminal of so many columns and lines.
    ///
    /// # Errors
    /// When the kernel has no terminal left, or the program can't be started.
    pub fn start(mut command: Command, (columns, lines): (u16, u16)) -> Result<Self> {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None)?;
        let before = tcgetattr(pty.slave.as_fd())?;
        let end = || Ok::<_, std::io::Error>(Stdio::from(pty.slave.try_clone()?));
        command.stdin(end()?).stdout(end()?).stderr(end()?).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.spawn().with_context(|| format!("can't start {command:?}"))?;
        let screen = Arc::new(Mutex::new(Parser::new(lines, columns, 100)));
        let (mut printed, sink) = (File::from(pty.master.try_clone()?), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with the last of those who have the other end.
            while let Ok(count @ 1..) = printed.read(&mut bytes) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).process(bytes.get(..count).unwrap_or_default());
            }
        });
        Ok(Self { child, keyboard: File::from(pty.master), screen, line: pty.slave, before })
    }

    /// Types keys.
    ///
    /// # Errors
    /// When nobody reads them any more.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// What stands on the screen.
    #[must_use]
    pub fn text(&self) -> String {
        self.parser().screen().contents()
    }

    /// Whether the program has the screen for itself: what stood there before comes back.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.parser().screen().alternate_screen()
    }

    /// Whether anything on the screen has a colour.
    #[must_use]
    pub fn is_coloured(&self) -> bool {
        let parser = self.parser();
        let (lines, columns) = parser.screen().size();
        let cells = (0..lines).flat_map(|line| (0..columns).map(move |column| (line, column)));
        let colours = cells.filter_map(|(line, column)| Some(parser.screen().cell(line, column)?.fgcolor()));
        colours.into_iter().any(|colour| colour != vt100::Color::Default)
    }

    fn parser(&self) -> MutexGuard<'_, Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a text on the screen.
    ///
    /// # Errors
    /// When it doesn't come; the error shows the screen.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        until(&format!("`{text}` on the screen"), PATIENCE, || Ok(self.text().contains(text).then_some(())))
            .with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Waits for its end, after which the terminal must be as it was before.
    ///
    /// # Errors
    /// When it goes on, or leaves the terminal in another state.
    pub fn end(&mut self) -> Result<ExitStatus> {
        let status = until("the program to end", PATIENCE, || Ok(self.child.try_wait()?))
            .with_context(|| format!("the screen:\n{}", self.text()))?;
        until("the screen to be given back", PATIENCE, || Ok((!self.is_taken()).then_some(())))?;
        if self.parser().screen().hide_cursor() {
            bail!("the cursor is still hidden");
        }
        let after = tcgetattr(self.line.as_fd())?;
        let modes = |termios: &Termios| (termios.input_flags, termios.output_flags, termios.local_flags);
        if modes(&after) != modes(&self.before) {
            bail!("the terminal is left in another mode: {after:?}");
        }
        Ok(status)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
