//! Reads the fixtures and drives a pipeline. A fixture that is missing stops the test that wants it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::OnceLock;

use detector::capture::{Flow, Network, Packet, Segment, TcpFlags, frame, pcap};
use detector::clock::Timestamp;
use detector::fingerprint::Transport;
use detector::pipeline::{Cause, Hello, Ignored, Limits, Outcome, Pipeline};
use detector_common::key::Seeds;
use serde::Deserialize;

/// Where a fixture lies.
pub(crate) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", name].iter().collect()
}

/// A fixture's bytes.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("fixture `{}`: {error}", path.display()))
}

/// One hello of `expected.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Expected {
    pub(crate) pcap: String,
    pub(crate) src: IpAddr,
    pub(crate) sport: u16,
    pub(crate) dst: IpAddr,
    pub(crate) dport: u16,
    pub(crate) hello: u32,
    pub(crate) ja3: String,
    pub(crate) ja3_hash: String,
    pub(crate) ja4: String,
    pub(crate) ja4_r: String,
}

/// The TCP hellos of `expected.json`, by capture.
pub(crate) fn expected() -> BTreeMap<String, Vec<Expected>> {
    expected_over("tcp")
}

/// The hellos of `expected.json` over `transport`, by capture. One over QUIC has no values and is left out.
pub(crate) fn expected_over(transport: &str) -> BTreeMap<String, Vec<Expected>> {
    let all: Vec<serde_json::Value> = serde_json::from_slice(&bytes("captures/expected.json")).expect("expected.json");
    let mut by_pcap = BTreeMap::<_, Vec<_>>::new();
    let of = |expected: &serde_json::Value| expected["transport"] == transport && !expected["ja4"].is_null();
    for expected in all.into_iter().filter(of) {
        let expected: Expected = serde_json::from_value(expected).expect("expected.json");
        by_pcap.entry(expected.pcap.clone()).or_default().push(expected);
    }
    by_pcap
}

/// What a pipeline said.
#[derive(Default, Debug)]
pub(crate) struct Said {
    pub(crate) hellos: Vec<Hello>,
    pub(crate) lost: Vec<(Flow, Cause)>,
    pub(crate) lost_segments: u64,
    pub(crate) ignored: Vec<Ignored>,
}

impl Said {
    pub(crate) fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Hello(hello) => self.hellos.push(*hello),
            Outcome::Lost { flow, cause, segments } => {
                self.lost.push((flow, cause));
                self.lost_segments += u64::from(segments);
            }
            Outcome::Ignored(why) => self.ignored.push(why),
            Outcome::Proven { .. } | Outcome::Answer(_) | Outcome::Void { .. } => {}
        }
    }

    /// The segments whose fate was told.
    pub(crate) fn segments(&self) -> u64 {
        let hellos: u64 = self.hellos.iter().map(|hello| u64::from(hello.segments)).sum();
        hellos + self.lost_segments + self.ignored.len() as u64
    }

    pub(crate) fn causes(&self) -> Vec<Cause> {
        self.lost.iter().map(|(_, cause)| *cause).collect()
    }
}

/// The same in all pipelines, so that what they say can be compared.
pub(crate) const SEEDS: Seeds = Seeds { cipher: 1, extension: 1 << 16, signature: 1 << 32, rest: 1 << 48 };

/// Runs a capture file's bytes through a new pipeline.
pub(crate) fn run_capture(capture: &[u8]) -> Said {
    let mut said = Said::default();
    let mut pipeline = Pipeline::seeded(Limits::default(), SEEDS);
    let mut pushed = 0;
    pcap::read(capture, |frame| {
        if let Ok(packet) = frame::packet(frame) {
            pipeline.take(&packet, &mut |outcome| said.note(outcome));
            pushed += 1;
        }
    })
    .expect("a readable capture");
    pipeline.finish(&mut |outcome| said.note(outcome));
    assert_eq!(said.segments(), pushed, "each segment has one fate");
    said
}

/// The client of flow number `number` of source number `source`, and the server.
pub(crate) fn flow(source: u32, number: u16) -> Flow {
    let client = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + source));
    Flow {
        source: SocketAddr::new(client, number),
        destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
    }
}

/// A data segment.
pub(crate) fn data(flow: Flow, seq: u32, payload: &[u8]) -> Segment<'_> {
    let flags = TcpFlags { ack: true, ..TcpFlags::default() };
    Segment {
        flow,
        at: Timestamp::default(),
        seq,
        ack: 0,
        flags,
        network: Network::default(),
        header: &[],
        payload,
        payload_len: payload.len(),
        proof: None,
        keys: None,
    }
}

/// The SYN of a connection whose first byte has the number `base`.
pub(crate) fn syn(flow: Flow, base: u32) -> Segment<'static> {
    let flags = TcpFlags { syn: true, ..TcpFlags::default() };
    Segment { flags, ..data(flow, base.wrapping_sub(1), &[]) }
}

/// Runs segments through a new pipeline to the end.
pub(crate) fn run<'a>(segments: impl IntoIterator<Item = Segment<'a>>) -> Said {
    run_with(Limits::default(), segments)
}

/// The same within `limits`.
pub(crate) fn run_with<'a>(limits: Limits, segments: impl IntoIterator<Item = Segment<'a>>) -> Said {
    let mut said = Said::default();
    let mut pipeline = Pipeline::seeded(limits, SEEDS);
    let mut pushed = 0;
    for segment in segments {
        pipeline.push(&segment, &mut |outcome| said.note(outcome));
        pushed += 1;
    }
    pipeline.finish(&mut |outcome| said.note(outcome));
    assert_eq!(said.segments(), pushed, "each segment has one fate");
    assert_eq!((pipeline.partial_hellos(), pipeline.partial_bytes()), (0, 0), "nothing is left behind");
    said
}

/// One hello of the captures: its stream bytes (records and all) and what is said about it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) stream: Vec<u8>,
    pub(crate) hello: Hello,
}

/// Every TCP hello of the captures, put together from its segments without the pipeline.
pub(crate) fn samples() -> &'static [Sample] {
    static SAMPLES: OnceLock<Vec<Sample>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let samples: Vec<Sample> = expected().keys().flat_map(|name| samples_of(name)).collect();
        assert_eq!(samples.len(), 784);
        samples
    })
}

/// Likewise, of one capture.
pub(crate) fn samples_of(name: &str) -> Vec<Sample> {
    let capture = bytes(&format!("captures/pcaps/{name}"));
    let mut hellos = run_capture(&capture).hellos;
    hellos.retain(|hello| hello.transport == Transport::Tcp);
    let mut streams = vec![Vec::new(); hellos.len()];
    pcap::read(&capture[..], |frame| {
        let Ok(Packet::Segment(segment)) = frame::packet(frame) else { return };
        for (hello, stream) in hellos.iter().zip(&mut streams) {
            // A ChangeCipherSpec record may stand before a second hello in its segment.
            let ahead = segment.seq.wrapping_sub(hello.first_seq) as i32;
            let (skip, offset) = (ahead.saturating_neg().max(0) as usize, ahead.max(0) as usize);
            let Some(payload) = segment.payload.get(skip..) else { continue };
            if hello.flow == segment.flow && offset < 16_384 {
                stream.resize(stream.len().max(offset + payload.len()), 0);
                stream[offset..offset + payload.len()].copy_from_slice(payload);
            }
        }
    })
    .expect("a readable capture");
    let named = hellos.into_iter().zip(streams);
    named
        .map(|(hello, mut stream)| {
            // All hellos of the captures lie in one record.
            stream.truncate(5 + hello.bytes as usize);
            Sample { name: format!("{name} {} #{}", hello.flow.source, hello.index), stream, hello }
        })
        .collect()
}

/// A few of them that differ in client, size and version.
pub(crate) fn few() -> Vec<&'static Sample> {
    let wanted =
        ["chromium-h2.pcap", "firefox-esr.pcap", "curl-openssl.pcap", "java17-urlconn.pcap", "nmap-ssl-enum.pcap"];
    let few: Vec<_> =
        wanted.iter().filter_map(|name| samples().iter().find(|sample| sample.name.starts_with(name))).collect();
    assert_eq!(few.len(), wanted.len());
    few
}

/// Numbers without any system randomness: the same on each run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}
