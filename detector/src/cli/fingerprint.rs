//! `detector fingerprint FILE|-`: a capture in, its ClientHellos out, as a table, as JSON lines or as CSV. The same
//! pipeline as live, without root and without configuration; or live, from an interface ([`live`]). Memory: the pipeline's limits; the table is held until it
//! is printed; a line waits for those before it, as long as [`connection::Limits`] lets a hello wait.

mod live;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use comfy_table::{Table, presets};

use super::print::{self, Format};
use super::{Exit, Failure};
use crate::capture::Packet;
use crate::capture::frame::{self, Frame};
use crate::capture::pcap::{self, CaptureError, ReadSummary};
use crate::clock::Timestamp;
use crate::connection::{self, Connections, Event, Settled};
use crate::line::{self, HelloLine};
use crate::pipeline::{Limits, Outcome, Pipeline};
use crate::sheet::Sheet;

/// Fingerprint the TLS clients in a capture file, or on an interface
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  detector fingerprint capture.pcap
  detector fingerprint --format json --port 443 capture.pcapng | jq -r .ja4
  tcpdump -w - port 443 | detector fingerprint -
  sudo detector fingerprint --interface eth0 --port 443 --count 10

Exit codes: 0 hellos were found, 1 the capture can't be read, 2 no hello in it,
64 wrong usage, 77 no permission")]
pub struct FingerprintArgs {
    /// A pcap or pcapng file, or `-` for standard input
    #[arg(required_unless_present = "interfaces")]
    pub file: Option<PathBuf>,

    /// Look at this interface instead, until Ctrl-C; drops nothing
    #[arg(long = "interface", value_name = "NAME", conflicts_with = "file")]
    pub interfaces: Vec<String>,

    /// With --interface: end after so many hellos
    #[arg(long, value_name = "N", requires = "interfaces")]
    pub count: Option<u64>,

    /// How to print [default: table on a terminal, else json]
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true)]
    pub format: Option<Format>,

    /// Only this server port; may be given more than once [default: every port]
    #[arg(long = "port", value_name = "N")]
    pub ports: Vec<u16>,
}

/// Runs the command on the standard streams.
pub fn run(args: &FingerprintArgs) -> Exit {
    read(args).unwrap_or_else(|error| Failure::new(Exit::Failed, format!("{error:#}")).report())
}

fn read(args: &FingerprintArgs) -> anyhow::Result<Exit> {
    let out = io::stdout().lock();
    let format = args.format.unwrap_or_else(Format::of_stdout);
    let notes = io::stderr().lock();
    let Some(path) = &args.file else { return live::run(args, format, out, notes) };
    if path.as_os_str() == "-" {
        return print(io::stdin().lock(), format, &args.ports, out, notes).context("reading standard input");
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("can't open `{name}`"))?;
    print(file, format, &args.ports, out, notes).with_context(|| format!("reading `{name}`"))
}

/// Prints the hellos of the capture `input` on `out` and what is to be said about it on `notes`.
///
/// # Errors
/// `out` or `notes` can't be written to. A reader that went away is no error.
pub fn print(
    input: impl Read,
    format: Format,
    ports: &[u16],
    out: impl Write,
    mut notes: impl Write,
) -> anyhow::Result<Exit> {
    let mut reading = Reading::new(Printer::new(format, BufWriter::with_capacity(64 * 1024, out)));
    let mut pipeline = Pipeline::new(Limits::default());
    let mut skipped = BTreeMap::new();
    let mut frames = 0;
    let read = pcap::read(input, |frame| {
        frames += 1;
        reading.now = frame.at;
        match packet(frame, ports) {
            Ok(packet) => pipeline.take(&packet, &mut |outcome| reading.take(outcome)),
            Err(why) => count(&mut skipped, why),
        }
    });
    pipeline.finish(&mut |outcome| reading.take(outcome));
    let (mut counts, written) = reading.finish();
    counts.skipped = skipped;
    counts.frames = frames;
    let code = conclude(&read, &counts, &mut notes)?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("writing the result"),
        _ => Ok(code),
    }
}

fn packet<'a>(frame: &Frame<'a>, ports: &[u16]) -> Result<Packet<'a>, &'static str> {
    let packet = frame::packet(frame).map_err(frame::Skipped::label)?;
    let flow = packet.flow();
    let ours = ports.contains(&flow.destination.port()) || ports.contains(&flow.source.port());
    if ports.is_empty() || ours { Ok(packet) } else { Err("other_port") }
}

#[derive(Default)]
struct Counts {
    frames: u64,
    hellos: u64,
    lost: BTreeMap<&'static str, u64>,
    ignored: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<&'static str, u64>,
    confirmed: u64,
    unconfirmed: u64,
    void: BTreeMap<&'static str, u64>,
}

/// What is done with the pipeline's outcomes.
struct Reading<W: Write> {
    connections: Connections,
    lines: Lines<W>,
    /// When the packet came that is read.
    now: Timestamp,
}

impl<W: Write> Reading<W> {
    fn new(printer: Printer<W>) -> Self {
        let lines = Lines { printer, counts: Counts::default(), waiting: BTreeMap::new(), next: 0 };
        // What is said of packets doesn't depend on this host's sockets.
        let connections = Connections::new(connection::Limits { asks: 0, ..connection::Limits::default() });
        Self { connections, lines, now: Timestamp::default() }
    }

    /// Tells what time alone settles.
    fn expire(&mut self, now: Timestamp) {
        let Self { connections, lines, .. } = self;
        connections.expire(now, usize::MAX, &mut |event| lines.take(event));
    }

    fn take(&mut self, outcome: Outcome) {
        let Self { connections, lines, now } = self;
        let now = *now;
        let counts = &mut lines.counts;
        match outcome {
            Outcome::Lost { cause, .. } => return count(&mut counts.lost, cause.label()),
            Outcome::Ignored(why) => return count(&mut counts.ignored, why.label()),
            Outcome::Hello(_) => counts.hellos += 1,
            Outcome::Proven { .. } | Outcome::Answer(_) | Outcome::Void { .. } => {}
        }
        let out = &mut |event: Event<'_>| lines.take(event);
        match outcome {
            Outcome::Hello(hello) => connections.hello(hello, now, out),
            Outcome::Proven { flow, stream, proof } => connections.proven(flow, stream, proof, now, out),
            Outcome::Void { flow, stream, why } => connections.void((flow, stream), why, now, out),
            Outcome::Answer(answer) => {
                // One that no hello waits for says nothing: it came twice, or too late.
                let _ = connections.answer(*answer, now, out);
            }
            Outcome::Lost { .. } | Outcome::Ignored(_) => {}
        }
    }

    fn finish(mut self) -> (Counts, io::Result<()>) {
        self.connections.finish(&mut |event| self.lines.take(event));
        (self.lines.counts, self.lines.printer.end())
    }
}

/// Puts hellos back in the order they were completed in.
struct Lines<W: Write> {
    printer: Printer<W>,
    counts: Counts,
    /// Those that came later than one that isn't settled.
    waiting: BTreeMap<u64, Box<Settled>>,
    next: u64,
}

impl<W: Write> Lines<W> {
    fn take(&mut self, event: Event<'_>) {
        let Event::Settled(settled) = event else { return };
        match settled.standing.proof() {
            Some(_) => self.counts.confirmed += 1,
            None => self.counts.unconfirmed += 1,
        }
        if let Some(why) = settled.void {
            count(&mut self.counts.void, why.label());
        }
        self.waiting.insert(settled.number, settled);
        while let Some(settled) = self.waiting.remove(&self.next) {
            self.printer.hello(&settled);
            self.next += 1;
        }
    }
}

fn count(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    *counts.entry(label).or_default() += 1;
}

/// Says what was wrong with the capture, and last, on one line, what was in it.
fn conclude(read: &Result<ReadSummary, CaptureError>, counts: &Counts, notes: &mut impl Write) -> io::Result<Exit> {
    let mut code = if counts.hellos > 0 { Exit::Done } else { Exit::Negative };
    match read {
        Ok(summary) => {
            if let Some(at) = summary.cut_at {
                writeln!(notes, "warning: the capture is cut off in the block at byte {at}; all before it was read")?;
            }
            if summary.unreadable > 0 {
                let packets = summary.unreadable;
                writeln!(notes, "warning: {packets} packets of interfaces whose link type is not read here")?;
            }
        }
        Err(error) => {
            writeln!(notes, "error: {error}")?;
            code = Exit::Failed;
        }
    }
    writeln!(
        notes,
        "hellos: {}; lost: {}; frames: {}; ignored: {}; skipped: {}; confirmed: {}; unconfirmed: {}; void: {}",
        counts.hellos,
        list(&counts.lost),
        counts.frames,
        list(&counts.ignored),
        list(&counts.skipped),
        counts.confirmed,
        counts.unconfirmed,
        list(&counts.void)
    )?;
    Ok(code)
}

/// `3 (duplicate 1, no_payload 2)`
fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    let sum: u64 = counts.values().sum();
    if sum == 0 {
        return "0".to_owned();
    }
    let parts: Vec<String> = counts.iter().map(|(label, count)| format!("{label} {count}")).collect();
    format!("{sum} ({})", parts.join(", "))
}

/// Prints until the reader goes away.
struct Printer<W: Write> {
    form: Form<W>,
    failed: Option<io::Error>,
}

enum Form<W: Write> {
    Table(Table, BufWriter<W>),
    /// A table whose lines can't wait for its end.
    Rows(BufWriter<W>),
    /// With room for one line.
    Json(BufWriter<W>, Vec<u8>),
    Csv(Sheet<BufWriter<W>>),
}

impl<W: Write> Printer<W> {
    fn new(format: Format, out: BufWriter<W>) -> Self {
        let form = match format {
            Format::Table => {
                let mut table = Table::new();
                table.load_style(presets::NOTHING).set_header(line::COLUMNS);
                Form::Table(table, out)
            }
            Format::Json => Form::Json(out, Vec::new()),
            Format::Csv => Form::Csv(Sheet::new(out, HelloLine::KEYS)),
        };
        Self { form, failed: None }
    }

    /// Each line as soon as it is known.
    fn streaming(format: Format, mut out: BufWriter<W>) -> Self {
        if format != Format::Table {
            return Self::new(format, out);
        }
        let failed = columns(&mut out, &line::COLUMNS).err();
        Self { form: Form::Rows(out), failed }
    }

    /// Lets the reader have what was printed so far.
    fn flush(&mut self) {
        let flushed = match &mut self.form {
            Form::Table(..) => Ok(()),
            Form::Rows(out) | Form::Json(out, _) => out.flush(),
            Form::Csv(sheet) => sheet.flush(),
        };
        self.failed = self.failed.take().or(flushed.err());
    }

    fn hello(&mut self, settled: &Settled) {
        if self.failed.is_some() {
            return;
        }
        let line = HelloLine::from(settled);
        let written = match &mut self.form {
            Form::Table(table, _) => {
                table.add_row(line::row(&settled.hello));
                Ok(())
            }
            Form::Rows(out) => columns(out, &line::row(&settled.hello)),
            Form::Json(out, text) => {
                text.clear();
                let made = serde_json::to_writer(&mut *text, &line).map_err(io::Error::from);
                text.push(b'\n');
                made.and_then(|()| out.write_all(text))
            }
            Form::Csv(sheet) => sheet.row(&line),
        };
        self.failed = written.err();
    }

    fn end(self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.form {
            Form::Table(table, mut out) => {
                if !table.is_empty() {
                    writeln!(out, "{table}")?;
                }
                out.flush()
            }
            Form::Rows(mut out) | Form::Json(mut out, _) => out.flush(),
            Form::Csv(sheet) => sheet.end(),
        }
    }
}

/// One line of a table whose widths are fixed: addresses of IPv4 and JA4 values fit, longer ones push the rest.
fn columns(out: &mut impl Write, cells: &[impl AsRef<str>; 7]) -> io::Result<()> {
    let [client, server, hello, ja4, family, name, alpn] = cells.each_ref().map(AsRef::as_ref);
    writeln!(out, "{client:<21} {server:<21} {hello:<5} {ja4:<36} {family:<17} {name:<24} {alpn}")
}
