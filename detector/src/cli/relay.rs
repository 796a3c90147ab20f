//! `detector relay`: lines on standard input out as datagrams to a signal socket, for web servers that write their log to a
//! program or a pipe. It reads as fast as they write: what the socket can't take at once is dropped and counted, so that no
//! server ever waits for the daemon. It says of each report that it was relayed. Bound: one line of 64 KiB.

use std::io::{self, BufRead, Read as _, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Exit, Failure, printable};
use crate::clock::{Timestamp, monotonic};
use crate::config::DEFAULT_SIGNAL_SOCKET;
use crate::report::FRAME_MAX;

const EXAMPLES: &str = "\
Examples:
  CustomLog \"|/usr/bin/detector relay\" detector     Apache (dist/apache)
  detector relay < /run/envoy/detector.fifo          Envoy (dist/envoy)
  tail -F access.json | detector relay               what writes to a file

What can't be sent at once is dropped, and told on standard error once a minute.";

/// What is put in place of a line's first byte: the key that says so.
const RELAYED: &[u8] = b"{\"relayed\":1,";

/// Between two tries to find the daemon.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);
/// Between two lines about what was dropped.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// `detector relay`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RelayArgs {
    /// The signal socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SIGNAL_SOCKET)]
    socket: PathBuf,
}

/// Relays until the end of its input.
///
/// # Errors
/// When it can't read.
pub fn run(args: &RelayArgs, _: &mut impl Write) -> Result<Exit, Failure> {
    relay(io::stdin().lock(), &args.socket, |line| drop(writeln!(io::stderr(), "{}", printable::line(line))))
}

fn relay(mut lines: impl BufRead, path: &Path, mut tell: impl FnMut(&str)) -> Result<Exit, Failure> {
    let mut sender = Sender { path, socket: None, tried: None };
    let (mut line, mut dropped, mut told) = (Vec::new(), 0_u64, None::<Timestamp>);
    while next(&mut lines, &mut line).map_err(|error| Failure::new(Exit::Failed, format!("can't read: {error}")))? {
        let now = monotonic();
        if let Err(error) = sender.send(&line, now) {
            dropped += 1;
            if told.is_none_or(|told| now.since(told) >= TELL_AGAIN) {
                tell(&format!("{dropped} reports to `{}` were dropped so far: {error}", path.display()));
                told = Some(now);
            }
        }
    }
    Ok(Exit::Done)
}

/// The next line, with [`RELAYED`], without its end and cut off behind what no report may have; `false` at the input's end.
fn next(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if lines.by_ref().take(FRAME_MAX as u64 + 1).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > FRAME_MAX {
        lines.skip_until(b'\n')?;
    }
    if line.starts_with(b"{\"") {
        line.splice(..1, RELAYED.iter().copied());
    }
    Ok(true)
}

/// The socket, as far as there is somebody.
struct Sender<'a> {
    path: &'a Path,
    socket: Option<UnixDatagram>,
    tried: Option<Timestamp>,
}

impl Sender<'_> {
    fn send(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let absent = || io::Error::new(io::ErrorKind::NotConnected, "nobody is there");
        if self.socket.is_none() && self.tried.is_none_or(|tried| now.since(tried) >= CONNECT_AGAIN) {
            self.tried = Some(now);
            self.socket = Some(connect(self.path)?);
        }
        let sent = self.socket.as_ref().ok_or_else(absent)?.send(line);
        // A full queue passes; a daemon that is gone has another socket when it comes back.
        if sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            self.socket = None;
        }
        sent.map(drop)
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_datagrams() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let long = "x".repeat(FRAME_MAX + 500);
        let input = format!("{{\"a\":1}}\n{long}\nend");
        assert_eq!(relay(input.as_bytes(), &path, |line| panic!("{line}")), Ok(Exit::Done));
        let mut bytes = vec![0; 2 * FRAME_MAX];
        let mut receive = || socket.recv(&mut bytes).map(|length| bytes[..length].to_vec()).unwrap();
        assert_eq!(receive(), b"{\"relayed\":1,\"a\":1}");
        assert_eq!(receive().len(), FRAME_MAX + 1, "the daemon sees that it is too long");
        assert_eq!(receive(), b"end");
    }

    /// Nobody reads the socket: the writer isn't held up, and one line tells.
    #[test]
    fn what_cant_be_sent_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let mut told = Vec::new();
        relay("a\nb\n".as_bytes(), &path, |line| told.push(line.to_owned())).unwrap();
        assert_eq!(told.len(), 1);
        let _socket = UnixDatagram::bind(&path).unwrap();
        told.clear();
        relay("a\n".repeat(100_000).as_bytes(), &path, |line| told.push(line.to_owned())).unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
