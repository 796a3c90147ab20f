//! P12 of the performance targets: 100 copies of all captures, each with clients of its own, through
//! `detector fingerprint --format json`; beside it, over the same file, huginn-net-tls, tshark and a program that only
//! reads. Each is a process of its own on one core that writes what it finds into a file; its cost is the CPU time of
//! user and kernel, since the machine is shared. Every hello that one of them tells of is compared with
//! `expected.json`. `--json PATH` writes the figures too.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read as _, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Instant,
};

use huginn_net_tls::HuginnNetTls;
use md5::{Digest as _, Md5};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::{TimeVal, TimeValLike as _},
    },
    unistd::Pid,
};
use serde_json::json;

#[path = "../../tests/support/copies.rs"]
pub mod copies;
#[expect(dead_code, reason = "the hello of Chrome is for the other benchmarks")]
mod figure;
use copies::{Captures, Tally};
use figure::{Figure, median};

const COPIES: usize = 100;
const ROUNDS: usize = 5;
const CPU_SECONDS: f64 = 1.0;
const MEGABYTES: f64 = 80.0;
const TIMES_BEST_PEER: f64 = 5.0;
/// Connections that huginn-net-tls may remember. It has no default; none of its documentation's examples has more.
const HUGINN_CONNECTIONS: usize = 10_000;

/// What a process cost.
struct Cost {
    cpu: f64,
    wall: f64,
    /// Of the largest child so far, this one included, in bytes.
    peak: f64,
}

/// Runs `command`, its standard output and error into the files named so, to its end.
fn run(command: &mut Command, out: &Path) -> io::Result<Cost> {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("a process knows its children's use");
        let micros = |time: TimeVal| time.num_microseconds() as f64;
        ((micros(usage.user_time()) + micros(usage.system_time())) / 1e6, usage.max_rss() as f64 * 1024.0)
    };
    let (before, begun) = (cpu().0, Instant::now());
    let files = (File::create(out)?, File::create(out.with_extension("notes"))?);
    let status = command.stdin(Stdio::null()).stdout(files.0).stderr(files.1).status()?;
    let (wall, (after, peak)) = (begun.elapsed(), cpu());
    if !status.success() {
        return Err(io::Error::other(format!("{command:?}: {status}")));
    }
    Ok(Cost { cpu: after - before, wall: wall.as_secs_f64(), peak })
}

/// `ROUNDS` runs: the median of CPU and wall time, and the highest peak.
fn rounds(command: &mut Command, out: &Path) -> Cost {
    let costs: Vec<Cost> = (0..ROUNDS).map(|_| run(command, out).expect("a program that runs")).collect();
    let middle = |of: fn(&Cost) -> f64| median(&mut costs.iter().map(of).collect::<Vec<_>>());
    let peak = costs.iter().map(|cost| cost.peak).fold(0.0, f64::max);
    Cost { cpu: middle(|cost| cost.cpu), wall: middle(|cost| cost.wall), peak }
}

/// Pins this process, and so its children, to one core of those it may use: the last.
fn pin() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a process knows its cores");
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).expect("a core");
    let mut set = CpuSet::new();
    set.set(last).expect("a core there is");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a core this process may use");
}

/// This program as one of the peers.
fn peer(name: &str, capture: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program knows its name"));
    command.arg("--peer").arg(name).arg(capture);
    command
}

/// Hello lines of a program that doesn't say which hello of its connection one is: they come in order.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    told: HashMap<(&'static str, IpAddr, u16), u32>,
}

impl Lines {
    fn add(&mut self, transport: &'static str, client: (IpAddr, u16), values: &[(&str, &str)]) {
        let (src_ip, src_port) = client;
        let count = self.told.entry((transport, src_ip, src_port)).or_default();
        let mut line = json!({ "transport": transport, "src_ip": src_ip, "src_port": src_port, "hello": *count });
        values.iter().for_each(|(key, value)| line[*key] = (*value).into());
        *count += 1;
        writeln!(self.text, "{line}").expect("memory");
    }
}

/// Prints all that huginn-net-tls finds, as the example of its documentation does.
fn huginn(capture: &str) {
    let (sender, receiver) = mpsc::channel();
    HuginnNetTls::new(HUGINN_CONNECTIONS).analyze_pcap(capture, sender, None).expect("a capture of ours");
    let mut out = BufWriter::new(io::stdout().lock());
    for told in receiver {
        writeln!(out, "{told}").expect("a file to write to");
    }
    out.flush().expect("a file to write to");
}

/// What huginn-net-tls printed, as hello lines.
fn huginn_lines(print: &str) -> Vec<u8> {
    let mut lines = Lines::default();
    let mut client = None;
    for line in print.lines() {
        if let Some((source, _server)) = line.strip_prefix("[TLS Client] ").and_then(|line| line.split_once(" → ")) {
            let parts = source.rsplit_once(':');
            client = parts.and_then(|(ip, port)| Some((ip.parse().ok()?, port.parse().ok()?)));
        } else if let (Some(ja4), Some(client)) = (line.strip_prefix("JA4:"), client) {
            lines.add("tcp", client, &[("ja4", ja4.trim())]);
        }
    }
    lines.text
}

/// Reads, and nothing else.
fn floor(capture: &str) {
    let mut file = File::open(capture).expect("a capture of ours");
    let mut buffer = vec![0; 256 * 1024];
    while file.read(&mut buffer).expect("a capture of ours") > 0 {}
}

/// The JA3 string of each of our lines, and the line, one pair a line.
fn pairs(lines: &str) -> String {
    let ja3 = |line: &str| Some(line.split_once("\"ja3_raw\":\"")?.1.split_once('"')?.0.to_owned());
    lines.lines().map(|line| format!("{}\t{line}\n", ja3(line).unwrap_or_default())).collect()
}

/// What nobody who prints our lines can leave out: the MD5 of each JA3 string, which changes with each connection of a
/// browser, and the writing.
fn lines_floor(pairs: &str) {
    let pairs = std::fs::read_to_string(pairs).expect("a file of ours");
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    for (ja3, line) in pairs.lines().filter_map(|pair| pair.split_once('\t')) {
        std::hint::black_box(Md5::digest(ja3));
        out.write_all(line.as_bytes()).expect("a file to write to");
        out.write_all(b"\n").expect("a file to write to");
    }
    out.flush().expect("a file to write to");
}

/// tshark, told to print every hello's client and JA3.
fn tshark(capture: &Path) -> Command {
    let fields = ["ip.src", "ipv6.src", "tcp.srcport", "udp.srcport", "tls.handshake.ja3", "tls.handshake.ja3_full"];
    let mut command = Command::new("tshark");
    command.args(["-n", "-Y", "tls.handshake.type==1", "-T", "fields"]);
    command.args(fields.iter().flat_map(|field| ["-e", field])).arg("-r").arg(capture);
    command
}

/// What tshark printed, as hello lines.
fn tshark_lines(print: &str) -> Vec<u8> {
    let mut lines = Lines::default();
    for line in print.lines() {
        let [v4, v6, tcp, udp, ja3, ja3_raw] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
        let (Ok(ip), Ok(port)) = ([v4, v6].concat().parse(), [tcp, udp].concat().parse()) else { continue };
        let transport = if udp.is_empty() { "tcp" } else { "quic" };
        lines.add(transport, (ip, port), &[("ja3", ja3), ("ja3_raw", ja3_raw)]);
    }
    lines.text
}

/// Hellos that detector's last line counts as told or lost.
fn counted(notes: &str) -> usize {
    let count = |name: &str| {
        let rest = notes.lines().last()?.split_once(name)?.1;
        rest.split([';', ' ']).next()?.parse::<usize>().ok()
    };
    count("hellos: ").zip(count("lost: ")).map_or(0, |(told, lost)| told + lost)
}

fn measure() -> Vec<Figure> {
    let fixtures: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures/captures"].iter().collect();
    let captures = Captures::read(&fixtures).expect("the captures among the fixtures");
    let capture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("offline.pcap");
    let out = capture.with_extension("out");
    let file = BufWriter::new(File::create(&capture).expect("a directory of cargo's"));
    let packets = captures.write(COPIES, file).expect("room for 250 MB");
    let name = capture.to_str().expect("a path that is text");
    println!("P12: {packets} packets with {} hellos, {COPIES} copies of all captures", captures.hellos(COPIES));
    let text = |path: &Path| std::fs::read_to_string(path).expect("a file of ours");
    let share = |tally: &Tally| tally.right as f64 * 100.0 / tally.expected as f64;

    pin();
    // First of all: the peak is that of the largest child so far.
    let mut detector = Command::new(env!("CARGO_BIN_EXE_detector"));
    let ours = rounds(detector.args(["fingerprint", "--format", "json", name]), &out);
    let notes = text(&out.with_extension("notes"));
    println!("{}", notes.trim());
    let lines = File::open(&out).expect("a file of ours");
    let tally = captures.check(COPIES, BufReader::new(lines)).expect("detector prints hello lines");
    println!("detector: {tally}");
    let told_pairs = capture.with_extension("pairs");
    std::fs::write(&told_pairs, pairs(&text(&out))).expect("room for 250 MB");
    let read = rounds(&mut peer("floor", name), &out);
    let written = rounds(&mut peer("lines", told_pairs.to_str().expect("a path that is text")), &out);
    let huginn = run(&mut peer("huginn", name), &out).expect("a program that runs");
    let huginn_tally = captures.check(COPIES, &huginn_lines(&text(&out))[..]).expect("hello lines of ours");
    println!("huginn-net-tls: {huginn_tally}");
    let tshark = match run(&mut tshark(&capture), &out) {
        Ok(cost) => {
            let tally = captures.check(COPIES, &tshark_lines(&text(&out))[..]).expect("hello lines of ours");
            println!("tshark: {tally}");
            Some((cost, tally))
        }
        Err(error) => {
            println!("tshark is left out: {error}");
            None
        }
    };
    let best = tshark.as_ref().map_or(huginn.cpu, |(cost, _)| huginn.cpu.min(cost.cpu));

    let uncounted = captures.hellos(COPIES).abs_diff(counted(&notes)) as f64;
    let good = tally.right == tally.expected && tally.extra == 0 && tally.unknown == COPIES;
    let told = |what, value, unit| Figure {
        id: "P12.peer",
        what,
        value,
        unit,
        against: "-",
        ratio: None,
        target: "-".to_owned(),
        met: None,
    };
    let figure =
        |id, what, value, unit, target: String, met| Figure { id, target, met: Some(met), ..told(what, value, unit) };
    let mut figures = vec![
        figure("P12.right", "hellos with every value right", share(&tally), "%", "100 %".to_owned(), good),
        figure(
            "P12.counted",
            "hellos neither told nor counted as lost",
            uncounted,
            "",
            "0".to_owned(),
            uncounted == 0.0,
        ),
        figure("P12.cpu", "CPU time", ours.cpu, "s", format!("<= {CPU_SECONDS} s"), ours.cpu <= CPU_SECONDS),
        Figure {
            against: "our CPU time",
            ratio: Some(best / ours.cpu),
            ..figure(
                "P12.best_peer",
                "CPU time of the best peer",
                best,
                "s",
                format!(">= {TIMES_BEST_PEER}x"),
                best / ours.cpu >= TIMES_BEST_PEER,
            )
        },
        figure(
            "P12.memory",
            "peak memory",
            ours.peak / 1e6,
            "MB",
            format!("<= {MEGABYTES} MB"),
            ours.peak <= MEGABYTES * 1e6,
        ),
        Figure { id: "P12.wall", ..told("the same run, by the clock on the wall", ours.wall, "s") },
        Figure { id: "P12.floor", ..told("CPU time to read the file", read.cpu, "s") },
        Figure {
            id: "P12.floor",
            ..told("CPU time for the MD5 of each JA3, and to write the lines", written.cpu, "s")
        },
        told("huginn-net-tls, CPU time", huginn.cpu, "s"),
        told("huginn-net-tls, hellos with the right JA4", share(&huginn_tally), "%"),
    ];
    if let Some((cost, tally)) = tshark {
        figures.push(told("tshark, CPU time", cost.cpu, "s"));
        figures.push(told("tshark, hellos with the right JA3", share(&tally), "%"));
    }
    figures
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--peer").skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("huginn"), Some(capture)) => huginn(&capture),
        (Some("floor"), Some(capture)) => floor(&capture),
        (Some("lines"), Some(pairs)) => lines_floor(&pairs),
        _ => figure::print(&measure()),
    }
}
