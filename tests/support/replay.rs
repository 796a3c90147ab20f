//! A capture and an access log made of recorded hellos, for `detector replay`.
//!
//! In: connections and requests as a test tells them, with times of its own. Out: what the real `detector replay` says of
//! each request. A connection is the beginning of a recorded one (`tests/fixtures/captures`), from its SYN to its whole
//! ClientHello, with other addresses, ports and times; checksums are made anew. Memory: one test's packets.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::output;
use crate::programs;

/// 2026-01-01, in seconds since 1970.
const BEGIN: f64 = 1_767_225_600.0;
const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// Ethernet without tags.
const IP: usize = 14;
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
const PORT: u16 = 443;

/// The beginnings of recorded connections of one client: those that it makes, in turn.
#[derive(Clone, Debug)]
pub struct Recorded(Vec<Frames>);

/// Of one connection; whether each is the client's.
type Frames = Vec<(bool, Vec<u8>)>;

/// A connection of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    client: Ipv4Addr,
    port: u16,
}

/// What a test tells, seconds from its beginning.
#[derive(Debug, Default)]
pub struct Scene {
    packets: Vec<(u64, Vec<u8>)>,
    log: Vec<Value>,
    port: u16,
}

/// What `detector replay` says of a request by one policy.
#[derive(Clone, Debug, Deserialize)]
pub struct Judged {
    /// 0 to 1.
    pub score: f32,
    /// As one of five words.
    pub confidence: String,
    /// What is done.
    pub action: String,
    /// What weighed most.
    pub reason: Option<String>,
    /// What it rests on.
    pub axes: Vec<String>,
    /// What was found, the heaviest first.
    pub signals: Vec<Found>,
}

/// What a signal found.
#[derive(Clone, Debug, Deserialize)]
pub struct Found {
    /// The signal's name.
    pub name: String,
    /// Log-odds.
    pub weight: f32,
    /// What was seen.
    pub observed: String,
}

/// A request and what two policies say of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// The client's address.
    pub ip: Ipv4Addr,
    /// Its path.
    pub path: Option<String>,
    /// By the old policy.
    pub old: Judged,
    /// By the new one.
    pub new: Judged,
}

impl Recorded {
    /// The TCP connections of the capture `name`, `chromium-h2` for example.
    ///
    /// # Errors
    /// There is no such capture, or no whole hello over IPv4 in its first one.
    pub fn read(name: &str) -> Result<Self> {
        let Self(mut connections) = Self::nth(name, 0)?;
        let others = (1..).map_while(|before| Self::nth(name, before).ok());
        connections.extend(others.flat_map(|Self(connection)| connection));
        Ok(Self(connections))
    }

    /// The bytes of the first one's ClientHello, as its records have them.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let client = self.0.iter().take(1).flatten().filter(|(from_client, _)| *from_client);
        let payload = |frame: &[u8]| Segment::of(frame).map(|segment| frame[segment.payload..segment.end].to_vec());
        client.filter_map(|(_, frame)| payload(frame)).flatten().collect()
    }

    /// The TCP connection that began after so many others.
    ///
    /// # Errors
    /// There is no such capture or connection, or no whole hello over IPv4 in it.
    pub fn nth(name: &str, before: usize) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/captures/pcaps/{name}.pcap"));
        let bytes = fs::read(&path).with_context(|| format!("can't read `{}`", path.display()))?;
        let (mut left, mut begun, mut packets, mut hello) = (before, None, Vec::new(), Vec::new());
        for frame in frames(&bytes) {
            let Some(segment) = Segment::of(frame) else { continue };
            let client = match begun {
                None if segment.flags & 0x12 == 0x02 && left > 0 => {
                    left -= 1;
                    continue;
                }
                None if segment.flags & 0x12 == 0x02 => *begun.insert(segment.ports.0),
                None => continue,
                Some(client) => client,
            };
            if segment.ports != (client, PORT) && segment.ports != (PORT, client) {
                continue;
            }
            let from_client = segment.ports.0 == client;
            packets.push((from_client, frame.to_vec()));
            if from_client {
                hello.extend_from_slice(&frame[segment.payload..segment.end]);
            }
            // RFC 8446 section 5.1: the record's length stands in its fourth and fifth byte.
            if hello.len() >= 5 && hello.len() >= 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])) {
                return Ok(Self(vec![packets]));
            }
        }
        anyhow::bail!("no whole ClientHello over IPv4 and TCP in `{name}`")
    }
}

impl Recorded {
    /// The first with other bytes, as many, in place of `from`, which one segment has whole.
    ///
    /// # Errors
    /// They aren't there.
    pub fn replaced(&self, from: &[u8], to: &[u8]) -> Result<Self> {
        ensure!(from.len() == to.len(), "other lengths would contradict the message's own");
        let mut packets = self.0.first().cloned().unwrap_or_default();
        let place = |frame: &[u8]| frame.windows(from.len()).position(|bytes| bytes == from);
        let found = packets.iter_mut().find_map(|(_, frame)| place(frame).map(|at| (frame, at)));
        let (frame, at) = found.context("no segment has these bytes")?;
        frame[at..at + to.len()].copy_from_slice(to);
        Ok(Self(vec![packets]))
    }
}

impl Scene {
    /// A client connects, as the recorded one did: once like this, once like that.
    pub fn connect(&mut self, recorded: &Recorded, client: impl Into<Ipv4Addr>, at: f64) -> Connection {
        self.port += 1;
        let connection = Connection { client: client.into(), port: 20_000 + self.port };
        let begin = ((BEGIN + at) * 1e6) as u64;
        let turn = usize::from(self.port) % recorded.0.len().max(1);
        for (number, (from_client, frame)) in recorded.0.iter().skip(turn).take(1).flatten().enumerate() {
            let mut frame = frame.clone();
            rewrite(&mut frame, *from_client, connection);
            self.packets.push((begin + number as u64 * 100, frame));
        }
        connection
    }

    /// It sends a request; `keys` are those of a report beside addresses and time (docs/reports.md).
    pub fn request(&mut self, over: Connection, at: f64, keys: Value) {
        let mut report = json!({
            "v": 1, "ip": over.client, "port": over.port, "sip": SERVER, "sport": PORT, "t": BEGIN + at, "dur": 0.001,
            "host": "shop.test", "method": "GET", "proto": "HTTP/2.0", "status": 200,
            "ua": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
        });
        if let (Some(report), Value::Object(keys)) = (report.as_object_mut(), keys) {
            report.extend(keys);
        }
        self.log.push(report);
    }

    /// What `detector replay` says of each request by these policies, in the order of time. Empty text is the defaults.
    ///
    /// # Errors
    /// It fails, or not every request has its hello.
    pub fn replay(&self, old: &str, new: &str) -> Result<Vec<Line>> {
        let directory = tempfile::tempdir()?;
        let printed = output(self.command(directory.path(), old, new)?.args(["--requests", "--format", "json"]))?;
        let lines = printed.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
        let lines: Vec<Line> = lines.collect::<Result<_>>()?;
        ensure!(lines.len() == self.log.len(), "{} of {} requests have a hello", lines.len(), self.log.len());
        Ok(lines)
    }

    /// The command that replays it, from files in `directory`.
    ///
    /// # Errors
    /// They can't be written.
    pub fn command(&self, directory: &Path, old: &str, new: &str) -> Result<Command> {
        let file = |name: &str| directory.join(name);
        fs::write(file("capture.pcap"), self.capture()?)?;
        let lines: Vec<String> = self.log.iter().map(|line| format!("{line}\n")).collect();
        fs::write(file("access.log"), lines.concat())?;
        fs::write(file("old.toml"), old)?;
        fs::write(file("new.toml"), new)?;
        let mut command = Command::new(programs::detector()?);
        command.arg("replay").arg("--config").arg(file("old.toml")).arg("--policy").arg(file("new.toml"));
        command.args([file("capture.pcap"), file("access.log")]);
        Ok(command)
    }

    fn capture(&self) -> Result<Vec<u8>> {
        let mut packets: Vec<_> = self.packets.iter().collect();
        packets.sort_by_key(|(micros, _)| *micros);
        let mut out = [MAGIC, 2 | 4 << 16, 0, 0, 262_144, ETHERNET].map(u32::to_le_bytes).as_flattened().to_vec();
        for (micros, frame) in packets {
            let length = u32::try_from(frame.len())?;
            let header = [u32::try_from(micros / 1_000_000)?, u32::try_from(micros % 1_000_000)?, length, length];
            out.extend_from_slice(header.map(u32::to_le_bytes).as_flattened());
            out.extend_from_slice(frame);
        }
        Ok(out)
    }
}

/// The frames of a pcap file as those in the fixtures are.
fn frames(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = FILE_HEADER;
    std::iter::from_fn(move || {
        let length = bytes.get(at + 8..at + 12)?;
        let begin = at + PACKET_HEADER;
        at = begin + u32::from_le_bytes(length.try_into().ok()?) as usize;
        bytes.get(begin..at)
    })
}

/// Where the parts of a frame lie.
struct Segment {
    ports: (u16, u16),
    flags: u8,
    tcp: usize,
    payload: usize,
    end: usize,
}

impl Segment {
    /// Of an IPv4 frame with TCP in it.
    fn of(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let byte = |at: usize| frame.get(at).copied();
        if word(IP - 2)? != 0x0800 || byte(IP + 9)? != 6 {
            return None;
        }
        let tcp = IP + usize::from(byte(IP)? & 15) * 4;
        let payload = tcp + usize::from(byte(tcp + 12)? >> 4) * 4;
        let end = IP + usize::from(word(IP + 2)?);
        let whole = frame.len() >= end && payload <= end;
        whole.then_some(Self { ports: (word(tcp)?, word(tcp + 2)?), flags: byte(tcp + 13)?, tcp, payload, end })
    }
}

/// Gives a segment the ends of another connection, and the checksums that go with them.
fn rewrite(frame: &mut [u8], from_client: bool, connection: Connection) {
    let Some(Segment { tcp, end, .. }) = Segment::of(frame) else { return };
    let (client, server) = ((connection.client, connection.port), (SERVER, PORT));
    let (source, destination) = if from_client { (client, server) } else { (server, client) };
    frame[IP + 12..IP + 16].copy_from_slice(&source.0.octets());
    frame[IP + 16..IP + 20].copy_from_slice(&destination.0.octets());
    frame[tcp..tcp + 2].copy_from_slice(&source.1.to_be_bytes());
    frame[tcp + 2..tcp + 4].copy_from_slice(&destination.1.to_be_bytes());
    frame[IP + 10..IP + 12].fill(0);
    let header = checksum(0, &frame[IP..tcp]);
    frame[IP + 10..IP + 12].copy_from_slice(&header.to_be_bytes());
    frame[tcp + 16..tcp + 18].fill(0);
    let pseudo = 6 + (end - tcp) as u32;
    let addresses: u32 = frame[IP + 12..IP + 20].chunks(2).map(|pair| u32::from(word(pair))).sum();
    let whole = checksum(pseudo + addresses, &frame[tcp..end]);
    frame[tcp + 16..tcp + 18].copy_from_slice(&whole.to_be_bytes());
}

/// RFC 1071.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, pair| sum + u32::from(word(pair)));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn word(pair: &[u8]) -> u16 {
    u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])
}
