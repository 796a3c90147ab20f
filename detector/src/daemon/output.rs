//! Lines of hellos on standard output, on a thread of its own: a slow reader never holds up the packet path. Memory: the
//! queue's bound; what doesn't fit is counted by the sender.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use serde::Serialize;

use super::core::{Line, action};
use crate::{line::HelloLine, sheet::Sheet, telemetry::Metrics};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns, for a person.
    Table,
    /// One JSON object a line.
    Json,
    /// A sheet: a header, then a line for each.
    Csv,
}

/// So many lines are flushed though more are waiting: until then it isn't known whether they can be written.
const BULK: u64 = 64;

/// Writes until every sender is gone.
pub(super) fn write(lines: &Receiver<Line>, format: Format, metrics: &Arc<Metrics>) {
    let mut out = Out::new(format, BufWriter::new(io::stdout().lock()));
    let (mut open, mut unflushed) = (true, 0);
    let flush = |out: &mut Out<_>, open: &mut bool, unflushed: &mut u64| {
        *open = *open && out.flush().is_ok();
        let counts = &metrics.resources;
        if *open { &counts.lines_written } else { &counts.lines_dropped }.add(std::mem::take(unflushed));
    };
    loop {
        // Flushed when nothing more is waiting: at once for one hello, in bulk under load.
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(_) => {
                flush(&mut out, &mut open, &mut unflushed);
                match lines.recv_timeout(Duration::from_secs(3600)) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        // Whoever read standard output may go; the daemon's work is elsewhere.
        open = open && out.one(&line).is_ok();
        unflushed += 1;
        if unflushed == BULK {
            flush(&mut out, &mut open, &mut unflushed);
        }
    }
}

/// A hello's line with what was done about it.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    action: &'static str,
    #[serde(flatten)]
    hello: HelloLine<'a>,
}

fn header() -> String {
    format!("{:<7} {:<24} {:<36} {:<24} {}", "ACTION", "CLIENT", "JA4", "SERVER NAME", "ALPN")
}

/// Where lines go, and how they look.
enum Out<W: Write> {
    Columns(W),
    Objects(W),
    Sheet(Box<Sheet<W>>),
}

impl<W: Write> Out<W> {
    fn new(format: Format, mut out: W) -> Self {
        match format {
            Format::Table => {
                // Whoever isn't there to read it doesn't miss it.
                let _ = writeln!(out, "{}", header());
                Self::Columns(out)
            }
            Format::Json => Self::Objects(out),
            Format::Csv => {
                Self::Sheet(Box::new(Sheet::new(out, ["event", "action"].into_iter().chain(HelloLine::KEYS))))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Columns(out) | Self::Objects(out) => out.flush(),
            Self::Sheet(sheet) => sheet.flush(),
        }
    }

    fn one(&mut self, line: &Line) -> io::Result<()> {
        let action = action(line.decision, line.enforcing);
        let event = || Event { event: "hello", action, hello: HelloLine::from(&*line.settled) };
        match self {
            Self::Objects(out) => {
                serde_json::to_writer(&mut *out, &event())?;
                writeln!(out)
            }
            Self::Sheet(sheet) => sheet.row(&event()),
            Self::Columns(out) => {
                let hello = &line.settled.hello;
                let fingerprint = &hello.fingerprint;
                let name = fingerprint.server_name.as_deref().unwrap_or("-");
                let alpn = if fingerprint.alpn.is_empty() { "-".to_owned() } else { fingerprint.alpn.join(",") };
                let client = hello.flow.source.to_string();
                writeln!(out, "{action:<7} {client:<24} {:<36} {name:<24} {alpn}", fingerprint.ja4)
            }
        }
    }
}
