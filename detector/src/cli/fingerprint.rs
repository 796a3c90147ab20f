//! `detector fingerprint FILE|-`: a capture in, its ClientHellos out, as a table or as JSON lines. The same pipeline as
//! live, without root and without configuration. Memory: the pipeline's limits; the table is held until it is
//! printed, a JSON line is not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use comfy_table::{Table, presets};

use super::{Exit, Failure, Format};
use crate::capture::Packet;
use crate::capture::frame::{self, Frame};
use crate::capture::pcap::{self, CaptureError, ReadSummary};
use crate::pipeline::{Hello, Limits, Outcome, Pipeline};
use crate::report::{self, HelloLine};

/// Fingerprint the TLS clients in a capture file
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  detector fingerprint capture.pcap
  detector fingerprint --format json --port 443 capture.pcapng | jq -r .ja4 | sort | uniq -c
  tcpdump -w - port 443 | detector fingerprint -

Exit codes: 0 hellos were found, 1 the capture can't be read, 2 no hello in it, 64 wrong usage")]
pub struct FingerprintArgs {
    /// A pcap or pcapng file, or `-` for standard input
    pub file: PathBuf,

    /// How to print [default: table on a terminal, else json]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Only connections to this server port; may be given more than once [default: every port]
    #[arg(long = "port", value_name = "N")]
    pub ports: Vec<u16>,
}

/// Runs the command on the standard streams.
pub fn run(args: &FingerprintArgs) -> Exit {
    read(args).unwrap_or_else(|error| Failure::new(Exit::Failed, format!("{error:#}")).report())
}

fn read(args: &FingerprintArgs) -> anyhow::Result<Exit> {
    let format = args.format.unwrap_or_else(Format::of_stdout);
    let out = io::stdout().lock();
    let notes = io::stderr().lock();
    if args.file.as_os_str() == "-" {
        return print(io::stdin().lock(), format, &args.ports, out, notes).context("reading standard input");
    }
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("can't open `{name}`"))?;
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
    let mut printer = Printer::new(format, BufWriter::with_capacity(64 * 1024, out));
    let mut counts = Counts::default();
    let mut pipeline = Pipeline::new(Limits::default());
    let mut take = |outcome: Outcome| match outcome {
        Outcome::Hello(hello) => {
            counts.hellos += 1;
            printer.hello(&hello);
        }
        Outcome::Lost { cause, .. } => count(&mut counts.lost, cause.label()),
        Outcome::Ignored(why) => count(&mut counts.ignored, why.label()),
        Outcome::Proven { .. } | Outcome::Answer(_) | Outcome::Void { .. } => {}
    };
    let mut skipped = BTreeMap::new();
    let mut frames = 0;
    let read = pcap::read(input, |frame| {
        frames += 1;
        match packet(frame, ports) {
            Ok(packet) => pipeline.take(&packet, &mut take),
            Err(why) => count(&mut skipped, why),
        }
    });
    pipeline.finish(&mut take);
    counts.skipped = skipped;
    counts.frames = frames;
    let written = printer.end();
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
        "hellos: {}; lost: {}; frames: {}; ignored: {}; skipped: {}",
        counts.hellos,
        list(&counts.lost),
        counts.frames,
        list(&counts.ignored),
        list(&counts.skipped)
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
    out: BufWriter<W>,
    table: Option<Table>,
    failed: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    fn new(format: Format, out: BufWriter<W>) -> Self {
        let table = (format == Format::Table).then(|| {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(report::COLUMNS);
            table
        });
        Self { out, table, failed: None }
    }

    fn hello(&mut self, hello: &Hello) {
        if let Some(table) = &mut self.table {
            table.add_row(report::row(hello));
            return;
        }
        if self.failed.is_some() {
            return;
        }
        let line = HelloLine::from(hello);
        let written = serde_json::to_writer(&mut self.out, &line)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        self.failed = written.err();
    }

    fn end(mut self) -> io::Result<()> {
        if let Some(table) = &self.table
            && !table.is_empty()
        {
            self.failed = writeln!(self.out, "{table}").err();
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}
