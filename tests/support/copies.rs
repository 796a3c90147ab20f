//! Many copies of the captures in one capture file, each with clients of its own, and a check of the hello lines that
//! `detector fingerprint --format json` prints of it against `expected.json`.
//!
//! In: `tests/fixtures/captures`, all of them Ethernet in pcap files of one byte order and resolution. Out: one pcap
//! file. No two captures in it have a 4-tuple in common, and none begins before the one ahead of it has ended. Memory:
//! the captures themselves, 2.4 MB, and what is expected of them.
//!
//! A client's address is part of checksums and nothing else (QUIC's Initial keys are made of a connection ID), so that
//! every hello of a copy has the fingerprint of the original.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::path::Path;
use std::{fmt, fs};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Between the last packet of a capture and the first of the next.
const PAUSE_MICROS: u64 = 1_000_000;
/// 2026-01-01, in microseconds since 1970.
const BEGIN_MICROS: u64 = 1_767_225_600_000_000;
/// Magic number of little-endian pcap with microseconds, and LINKTYPE_ETHERNET (draft-ietf-opsawg-pcap section 4).
const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The last byte of the address of every client in the captures, and of no server.
const CLIENT: u8 = 2;

/// The captures and what is expected of them.
#[derive(Debug)]
pub struct Captures {
    captures: Vec<Capture>,
    /// By number of the capture.
    expected: HashMap<(usize, Name), Option<Values>>,
}

#[derive(Debug)]
struct Capture {
    packets: Vec<Packet>,
}

#[derive(Clone, Debug)]
struct Packet {
    micros: u64,
    frame: Vec<u8>,
}

/// What tells the hellos of one capture apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
struct Name {
    transport: String,
    sport: u16,
    hello: u32,
}

/// A hello's fingerprints, by the keys of `expected.json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Values {
    #[serde(rename = "ja3")]
    ja3_raw: String,
    #[serde(rename = "ja3_hash")]
    ja3: String,
    ja4: String,
    ja4_r: String,
}

#[derive(Deserialize)]
struct Entry {
    pcap: String,
    #[serde(flatten)]
    name: Name,
    #[serde(flatten)]
    values: Option<Values>,
}

/// A hello, as far as somebody told its fingerprints: `detector`'s line of it has all of these keys.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// The client's address.
    pub src_ip: IpAddr,
    /// The client's port.
    pub src_port: u16,
    /// `tcp` or `quic`.
    pub transport: String,
    /// Which hello of its connection, from 0.
    pub hello: u32,
    /// MD5 of the JA3 string.
    pub ja3: Option<String>,
    /// The JA3 string.
    pub ja3_raw: Option<String>,
    /// JA4.
    pub ja4: Option<String>,
    /// JA4, unhashed.
    pub ja4_r: Option<String>,
}

/// How many hellos were told rightly. `Display` tells of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Hellos with known values.
    pub expected: usize,
    /// Every value that was told of them is the expected one.
    pub right: usize,
    /// One isn't.
    pub wrong: usize,
    /// Told of a hello without known values.
    pub unknown: usize,
    /// Told twice, or of a hello that isn't there.
    pub extra: usize,
    /// One of those that were wrong or extra.
    pub example: Option<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, right, wrong, unknown, extra, example } = self;
        write!(f, "{right} of {expected} right, {wrong} wrong, {extra} extra, {unknown} without known values")?;
        example.as_ref().map_or(Ok(()), |example| write!(f, "; {example}"))
    }
}

impl Captures {
    /// Reads those in `directory`, which is `tests/fixtures/captures`.
    ///
    /// # Errors
    /// A file is missing or isn't what it should be.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut names: Vec<_> = fs::read_dir(directory.join("pcaps"))
            .with_context(|| format!("reading `{}`", directory.display()))?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort_unstable();
        let captures = names.iter().map(|name| {
            let bytes = fs::read(directory.join("pcaps").join(name))?;
            capture(&bytes).with_context(|| format!("reading `{name}`"))
        });
        let captures = captures.collect::<Result<_>>()?;
        let entries: Vec<Entry> = serde_json::from_slice(&fs::read(directory.join("expected.json"))?)?;
        let mut expected = HashMap::new();
        for Entry { pcap, name, values } in entries {
            let number = names.binary_search(&pcap).ok().with_context(|| format!("no `{pcap}` among the captures"))?;
            expected.insert((number, name), values);
        }
        Ok(Self { captures, expected })
    }

    /// Writes `copies` of each as one pcap file; how many packets.
    ///
    /// # Errors
    /// More copies than there are addresses for, or `out` can't be written to.
    pub fn write(&self, copies: usize, mut out: impl Write) -> Result<u64> {
        let header = [MAGIC, 2 | 4 << 16, 0, 0, 262_144, ETHERNET];
        out.write_all(header.map(u32::to_le_bytes).as_flattened())?;
        let (mut packets, mut begin) = (0, BEGIN_MICROS);
        for number in 0..copies * self.captures.len() {
            let number = u16::try_from(number + 256).context("too many copies")?;
            let capture = &self.captures[usize::from(number - 256) % self.captures.len()];
            let first = capture.packets.iter().map(|packet| packet.micros).min().unwrap_or_default();
            let mut end = begin;
            for Packet { micros, frame } in &capture.packets {
                let mut frame = frame.clone();
                renumber(&mut frame, number);
                let at = begin + (micros - first);
                end = end.max(at);
                let length = u32::try_from(frame.len())?;
                let header = [u32::try_from(at / 1_000_000)?, u32::try_from(at % 1_000_000)?, length, length];
                out.write_all(header.map(u32::to_le_bytes).as_flattened())?;
                out.write_all(&frame)?;
                packets += 1;
            }
            begin = end + PAUSE_MICROS;
        }
        out.flush()?;
        Ok(packets)
    }

    /// Hellos in `copies` copies, those without known values included.
    #[must_use]
    pub fn hellos(&self, copies: usize) -> usize {
        copies * self.expected.len()
    }

    /// What the JSON `lines` of [`Told`] about `copies` copies are worth.
    ///
    /// # Errors
    /// A line is none.
    pub fn check(&self, copies: usize, lines: impl BufRead) -> Result<Tally> {
        let known = self.expected.values().flatten().count();
        let mut tally = Tally { expected: copies * known, ..Tally::default() };
        let mut seen = HashSet::new();
        for line in lines.lines() {
            let line = line?;
            let told: Told = serde_json::from_str(&line).with_context(|| format!("no hello line: `{line}`"))?;
            let number = usize::from(number(told.src_ip)).wrapping_sub(256);
            let name = Name { transport: told.transport.clone(), sport: told.src_port, hello: told.hello };
            let capture = (number % self.captures.len(), name);
            let there = number < copies * self.captures.len() && seen.insert((number, capture.1.clone()));
            let good = match self.expected.get(&capture).filter(|_| there) {
                Some(Some(values)) => {
                    let right = values.agree(&told);
                    *if right { &mut tally.right } else { &mut tally.wrong } += 1;
                    right
                }
                Some(None) => {
                    tally.unknown += 1;
                    true
                }
                None => {
                    tally.extra += 1;
                    false
                }
            };
            if !good {
                tally.example.get_or_insert(line);
            }
        }
        Ok(tally)
    }
}

impl Values {
    /// Whether nothing was told that isn't so.
    fn agree(&self, told: &Told) -> bool {
        let pairs = [
            (&self.ja3, &told.ja3),
            (&self.ja3_raw, &told.ja3_raw),
            (&self.ja4, &told.ja4),
            (&self.ja4_r, &told.ja4_r),
        ];
        pairs.iter().all(|(value, told)| told.as_ref().is_none_or(|told| told == *value))
    }
}

fn capture(bytes: &[u8]) -> Result<Capture> {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()));
    ensure!(word(0) == Some(MAGIC) && word(20) == Some(ETHERNET), "not a pcap file of Ethernet frames");
    let mut packets = Vec::new();
    let mut at = FILE_HEADER;
    while let (Some(seconds), Some(micros), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
        let begin = at + PACKET_HEADER;
        at = begin + length as usize;
        let frame = bytes.get(begin..at).context("it is cut off")?.to_vec();
        packets.push(Packet { micros: u64::from(seconds) * 1_000_000 + u64::from(micros), frame });
    }
    Ok(Capture { packets })
}

/// Where the parts of a frame lie that an address is part of.
struct Places {
    /// The source's address, and right after it the destination's, in bytes.
    addresses: usize,
    address: usize,
    /// Of the checksum of an IPv4 header.
    header_checksum: Option<usize>,
    /// The checksum of TCP or UDP, and what its pseudo-header adds up to beside the addresses.
    checksum: usize,
    pseudo: u32,
    protocol: u8,
}

impl Places {
    fn of(frame: &[u8]) -> Self {
        let mut ip = 14;
        while frame[ip - 2..ip] == [0x81, 0] {
            ip += 4;
        }
        let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let version = frame[ip] >> 4;
        let (addresses, address, header, protocol, header_checksum) = if version == 4 {
            (ip + 12, 4, usize::from(frame[ip] & 15) * 4, frame[ip + 9], Some(ip + 10))
        } else {
            (ip + 8, 16, 40, frame[ip + 6], None)
        };
        let length = if version == 4 { word(ip + 2) - header as u32 } else { word(ip + 4) };
        let checksum = ip
            + header
            + match protocol {
                TCP => 16,
                UDP => 6,
                other => panic!("protocol {other} in the captures"),
            };
        Self { addresses, address, header_checksum, checksum, pseudo: length + u32::from(protocol), protocol }
    }
}

/// Gives the client of `frame` the address of `number`: 10.x.0.2 becomes 10.x.`number`, fd77::2 fd77::`number`:2.
fn renumber(frame: &mut [u8], number: u16) {
    let places = Places::of(frame);
    let Places { addresses, address, checksum, .. } = places;
    let both = addresses..addresses + 2 * address;
    let from_client = frame[addresses + address - 1] == CLIENT;
    let end = if from_client { addresses + address } else { both.end };
    assert_eq!(frame[end - 1], CLIENT, "one end of each packet is a client");
    let place = if address == 4 { end - 2..end } else { end - 4..end - 2 };

    let before = sum(0, &frame[both.clone()]);
    let field = u16::from_be_bytes([frame[checksum], frame[checksum + 1]]);
    let none = places.protocol == UDP && field == 0;
    // Left to the network card, as in a capture on the host that sent it: the pseudo-header's sum so far.
    let partial = field == fold(before + places.pseudo);
    frame[place].copy_from_slice(&number.to_be_bytes());
    let after = sum(0, &frame[both]);
    // RFC 1624: the new sum is the old one, less what went and with what came.
    let change = |sum: u16| fold(u32::from(sum) + u32::from(!fold(before)) + u32::from(fold(after)));
    if !none {
        let field = if partial { change(field) } else { !change(!field) };
        frame[checksum..checksum + 2].copy_from_slice(&field.to_be_bytes());
    }
    if let Some(at) = places.header_checksum {
        let field = u16::from_be_bytes([frame[at], frame[at + 1]]);
        frame[at..at + 2].copy_from_slice(&(!change(!field)).to_be_bytes());
    }
}

/// The number that [`renumber`] put into a client's address.
fn number(client: IpAddr) -> u16 {
    match client {
        IpAddr::V4(v4) => {
            let [_, _, high, low] = v4.octets();
            u16::from_be_bytes([high, low])
        }
        IpAddr::V6(v6) => v6.segments()[6],
    }
}

/// The sum of the 16-bit words of `bytes`, which are even in number (RFC 1071).
fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.as_chunks::<2>().0.iter().fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes(*pair)))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
