//! Lines of one stream: bytes as they come in, whole lines out. Bound: one line of 64 KiB, two seconds from its first
//! byte to its last (threats.md T27).

use std::{io::Read as _, os::unix::net::UnixStream, time::Duration};

use super::peer::Peer;
use crate::{clock::Timestamp, report::FRAME_MAX};

/// For a line, from its first byte to its last.
const LINE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a stream is closed before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Neither root nor a member of the group.
    Peer,
    /// There are as many as there may be, in all or of its user.
    Full,
    /// A line that was begun and not ended in two seconds.
    Slow,
    /// A line over 64 KiB.
    Long,
}

impl Closed {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Peer, Self::Full, Self::Slow, Self::Long];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Long => "long",
        }
    }
}

/// What a look at a stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Open,
    /// Its peer hung up.
    Ended,
    /// It is to be closed.
    Close(Closed),
}

/// One stream.
pub(super) struct Stream {
    pub(super) socket: UnixStream,
    pub(super) peer: Peer,
    lines: Lines,
}

impl Stream {
    pub(super) fn new(socket: UnixStream, peer: Peer) -> Self {
        Self { socket, peer, lines: Lines::default() }
    }

    /// Whether its line takes too long.
    pub(super) fn is_late(&self, now: Timestamp) -> bool {
        self.is_begun() && now.since(self.lines.begun) >= LINE_DEADLINE
    }

    pub(super) fn is_begun(&self) -> bool {
        !self.lines.line.is_empty()
    }

    /// Reads once, so that no stream keeps the others waiting; `take` gets each line.
    pub(super) fn read(&mut self, scratch: &mut [u8], now: Timestamp, take: impl FnMut(&[u8])) -> Next {
        let read = match self.socket.read(scratch) {
            Ok(0) => {
                self.lines.end(take);
                return Next::Ended;
            }
            Ok(read) => read,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                return Next::Open;
            }
            Err(_) => return Next::Ended,
        };
        let fits = self.lines.push(scratch.get(..read).unwrap_or_default(), now, take);
        if fits { Next::Open } else { Next::Close(Closed::Long) }
    }
}

/// Whole lines out of pieces of a stream.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The line that was begun.
    line: Vec<u8>,
    begun: Timestamp,
}

impl Lines {
    /// A piece, of [`FRAME_MAX`] bytes at most; `take` gets each line that ends in it. `false`: the line that goes on is
    /// too long.
    pub(crate) fn push(&mut self, mut rest: &[u8], now: Timestamp, mut take: impl FnMut(&[u8])) -> bool {
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                take(line);
            } else {
                self.line.extend_from_slice(line);
                take(&self.line);
                self.line.clear();
            }
        }
        if self.line.is_empty() {
            self.begun = now;
        }
        self.line.extend_from_slice(rest);
        self.line.len() <= FRAME_MAX
    }

    /// The stream has ended: its last line needs no end of line.
    pub(crate) fn end(&mut self, mut take: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            take(&self.line);
            self.line.clear();
        }
    }
}
