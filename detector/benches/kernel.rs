//! P1 to P4 and P6 to P8 of the performance targets, with the real program, ring and maps; needs root, and touches no interface
//! of the host: frames go in by BPF_PROG_TEST_RUN, connections over the loopback interface of a network namespace of its own.
//!
//! P4: what a hello's keys cost in the kernel, beside the same frames without; whole, and in the second of two segments.
//! P6: hellos of 1.8 KB through the program and the ring, as fast as one core can make them, to a reader on the other
//! core that touches every cache line. P7: one connection after the other, of a client whose JA4 is blocked, from
//! the kernel's timestamp of the hello's frame to its connection's verdict in the map: ring, wake-up, reassembly,
//! fingerprint, decision, map.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use detector::{
    capture::event,
    clock::monotonic,
    config::XdpMode,
    enforce::{self, Enforcer},
    kernel::{EventSource as _, Kernel, LoadOptions, Maps, Rings, Urgency, wait},
    pipeline::{Limits, Outcome, Pipeline},
    policy::rules::{Decision, Rules},
};
use detector_common::{counter::Counter, key::Keys, settings::Settings};
use etherparse::PacketBuilder;

mod closed;
mod figure;
mod flood;
mod packets;
mod peers;
use figure::{Figure, chrome_hello, median};
use peers::pin;

const EVENTS: u32 = 200_000;
const ROUNDS: usize = 5;
const SAMPLES: usize = 4000;
/// How long a reader that has emptied the ring leaves it alone: under a flood it is woken once for hundreds of events.
const NAP: Duration = Duration::from_micros(100);

fn frame(source_port: u16, payload: &[u8]) -> Vec<u8> {
    segment(source_port, u32::from(source_port) << 16, payload)
}

fn segment(source_port: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 7], [192, 0, 2, 1], 64)
        .tcp(source_port, 443, seq, 64_240)
        .ack(1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("a frame of a few kilobytes");
    frame
}

/// Median nanoseconds of a packet, without keys and with them.
struct Costs {
    /// A hello in one segment.
    whole: [f64; 2],
    /// The second of two segments.
    last: [f64; 2],
    /// Data that is no hello.
    other: [f64; 2],
    /// A hello that is made to be much work: as many ciphers as a segment holds.
    wide: [f64; 2],
}

/// A hello with nothing but ciphers, `len` bytes.
fn wide_hello(len: u16) -> Vec<u8> {
    let number = |from_end: u16| (len - from_end).to_be_bytes();
    let (record, message, ciphers) = (number(5), number(9), number(48));
    let mut hello = [&[22, 3, 1][..], &record, &[1, 0], &message, &[3, 3], &[7; 32], &[0], &ciphers].concat();
    hello.resize(usize::from(len) - 2, 5);
    [&hello[..], &[1, 0]].concat()
}

fn costs(hello: &[u8]) -> (Costs, u32, Duration) {
    let options = LoadOptions::default();
    let before = monotonic();
    let (mut kernel, mut maps, mut rings, _counters, _log) = Kernel::load(&options).expect("run as root");
    let load = monotonic().since(before);
    maps.protect_ports(&[443]).expect("a map of ours");
    pin(1);
    let mut runs: [[Vec<f64>; 2]; 4] = Default::default();
    let (first, last) = hello.split_at(1448);
    for round in 0..41 {
        for keys in [0_u32, 1] {
            detector::kernel::VerdictMaps::set(&mut maps, Settings { keys, ..settings() }).expect("a map of ours");
            let which = keys as usize;
            for (place, payload) in [(0, hello), (2, &[23; 1400]), (3, &wide_hello(1460))] {
                let (_, each) = kernel.test_run(&frame(40_000, payload), 2_000).expect("a frame of ours");
                runs[place][which].push(each.as_nanos() as f64);
            }
            // A flow goes on only once: one run for each port, and its own time.
            for port in 0..50_u16 {
                let port = 1024 + round * 100 + 50 * keys as u16 + port;
                kernel.test_run(&frame(port, first), 1).expect("a frame of ours");
                let seq = (u32::from(port) << 16) + first.len() as u32;
                let (_, each) = kernel.test_run(&segment(port, seq, last), 1).expect("a frame of ours");
                runs[1][which].push(each.as_nanos() as f64);
            }
            rings.unconfirmed.drain(usize::MAX, &mut |_| {});
        }
    }
    let [whole, last, other, wide] = runs.map(|pair| pair.map(|mut runs| median(&mut runs)));
    let [program, _] = kernel.facts().expect("a program of ours");
    (Costs { whole, last, other, wide }, program.verified_instructions, load)
}

fn settings() -> Settings {
    Settings { keys: 1, segments_per_flow: 4096, follow_ns: 10_000_000_000, ..Settings::default() }
}

/// Hellos a second, and the nanoseconds one costs its producer.
fn flood(hello: &[u8]) -> (f64, f64, u64) {
    let options = LoadOptions { unconfirmed_ring_bytes: detector_common::maps::RING_BYTES, ..LoadOptions::default() };
    let (mut kernel, mut maps, mut rings, counters, _log) = Kernel::load(&options).expect("run as root");
    maps.protect_ports(&[443]).expect("a map of ours");
    detector::kernel::VerdictMaps::set(&mut maps, settings()).expect("a map of ours");
    let (done, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = {
        let (done, received) = (Arc::clone(&done), Arc::clone(&received));
        thread::spawn(move || {
            pin(0);
            let _urgency = Urgency::raise();
            while !done.load(Ordering::Acquire) {
                let mut sum = 0_u64;
                let count = rings.unconfirmed.drain(1024, &mut |event| {
                    sum += event.iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>();
                });
                black_box(sum);
                received.fetch_add(count as u64, Ordering::Release);
                if count < 1024 {
                    thread::park_timeout(NAP);
                }
            }
        })
    };
    pin(1);
    let frame = frame(40_000, hello);
    let mut runs: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (action, each) = kernel.test_run(&frame, EVENTS).expect("a frame of ours");
            assert_eq!(action, 2, "a hello passes");
            each.as_nanos() as f64
        })
        .collect();
    let all = u64::from(EVENTS) * ROUNDS as u64;
    let counters = counters.read().expect("a map of ours");
    let lost = counters.of(Counter::LostConfirmed) + counters.of(Counter::LostUnconfirmed);
    let deadline = monotonic().plus(Duration::from_secs(5));
    while received.load(Ordering::Acquire) + lost < all && monotonic() < deadline {
        thread::yield_now();
    }
    assert_eq!(received.load(Ordering::Acquire) + lost, all, "every event is received or counted as lost");
    done.store(true, Ordering::Release);
    reader.join().expect("the reader has no way to fail");
    let each = median(&mut runs);
    (1e9 / each, each, lost)
}

/// Hands over the outcomes of the events that are in the rings.
fn drain(rings: &mut Rings, pipeline: &mut Pipeline, each: &mut impl FnMut(Outcome)) {
    let mut take = |bytes: &[u8]| {
        let whole = event::packets(bytes, &mut |packet| pipeline.take(packet, each));
        assert!(whole, "an event of our program");
    };
    rings.confirmed.drain(256, &mut take);
    rings.unconfirmed.drain(256, &mut take);
}

/// What the packet path does with an event, less its counting and printing.
fn judge(rings: &mut Rings, pipeline: &mut Pipeline, enforcer: &mut Enforcer<Maps>, latencies: &mut Vec<f64>) {
    drain(rings, pipeline, &mut |outcome| {
        let Outcome::Hello(hello) = outcome else { return };
        assert!(hello.proof.is_some(), "a client of ours has its address");
        let (source, destination) = (hello.flow.source, hello.flow.destination);
        let initial = hello.stream_seq.wrapping_sub(1);
        // No hello has the key 0: the program doesn't learn this one's, and each client is an unknown one.
        let fingerprint = (hello.fingerprint.ja4, Keys::default());
        let decision = enforcer.judge(source, destination, initial, fingerprint, monotonic());
        assert!(matches!(decision, Ok(Decision::Block { .. })), "{decision:?}");
        latencies.push(monotonic().since(hello.completed_at).as_nanos() as f64 / 1e3);
    });
}

/// Writes the hello over a new connection.
fn connect(server: SocketAddr, hello: &[u8]) {
    let mut client = TcpStream::connect(server).expect("a listener of ours");
    client.write_all(hello).expect("a connection of ours");
}

/// Microseconds from the frame to the verdict, of each hello.
fn latencies(hello: &[u8]) -> Vec<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of our own network");
    let server = listener.local_addr().expect("a bound listener");
    // Dropped after the hello's first byte: what the server does with it isn't measured, but a socket that is closed before
    // proves nothing.
    let read = |client: std::io::Result<TcpStream>| client.and_then(|mut client| client.read(&mut [0]));
    thread::spawn(move || listener.incoming().for_each(|client| drop(read(client))));
    let (mut kernel, mut maps, mut rings, _counters, _log) =
        Kernel::load(&LoadOptions::default()).expect("run as root");
    maps.protect_ports(&[server.port()]).expect("a map of ours");
    detector::kernel::VerdictMaps::set(&mut maps, settings()).expect("a map of ours");
    kernel.attach("lo", XdpMode::Generic).expect("a loopback interface of our own");

    let mut pipeline = Pipeline::new(Limits::default());
    let mut ja4 = None;
    connect(server, hello);
    wait([rings.confirmed.as_fd(), rings.unconfirmed.as_fd()], Duration::from_secs(5)).expect("rings of ours");
    drain(&mut rings, &mut pipeline, &mut |outcome| {
        if let Outcome::Hello(hello) = outcome {
            ja4 = Some(hello.fingerprint.ja4);
        }
    });
    let limits = enforce::Limits {
        addresses: 1,
        prefixes: 1,
        ja4_rules: 1,
        quic_sources: 2,
        automatic: 1,
        automatic_per_second: 1,
        units: 8,
    };
    let mut enforcer = Enforcer::new(maps, settings(), Rules::default(), limits).expect("a map of ours");
    enforcer.block_ja4(ja4.expect("a hello on the first connection"), None, None).expect("room for one");
    let reader = thread::spawn(move || {
        pin(0);
        let _urgency = Urgency::raise();
        let mut latencies = Vec::new();
        let deadline = monotonic().plus(Duration::from_secs(60));
        while latencies.len() < SAMPLES && monotonic() < deadline {
            wait([rings.confirmed.as_fd(), rings.unconfirmed.as_fd()], Duration::from_secs(1)).expect("rings of ours");
            judge(&mut rings, &mut pipeline, &mut enforcer, &mut latencies);
        }
        latencies
    });
    pin(1);
    for _ in 0..SAMPLES {
        connect(server, hello);
    }
    reader.join().expect("the reader has no way to fail")
}

fn main() {
    peers::own_host();
    pin(1);
    // First: what the others fill and free scatters the memory that a table gets, and its misses then cost more.
    let mut figures = flood::dropped();
    figures.extend(packets::ordinary());
    figures.extend(packets::look_ups());
    let hello = chrome_hello();
    let (rate, each, lost) = flood(&hello);
    let mut times = latencies(&hello);
    let (costs, verified, load) = costs(&hello);
    let closed = closed::servers(&hello);
    assert_eq!(times.len(), SAMPLES, "every hello got its verdict");
    let p50 = median(&mut times);
    let p99 = times[times.len() * 99 / 100];
    let figure = |id, what, value, unit, target: &str, met| Figure {
        id,
        what,
        value,
        unit,
        against: "",
        ratio: None,
        target: target.to_owned(),
        met,
    };
    let more = |[without, with]: [f64; 2]| with - without;
    let (whole, last, other) = (more(costs.whole), more(costs.last), more(costs.other));
    let load = load.as_secs_f64();
    figures.extend([
        figure("P4.whole", "keys of a whole Chrome hello", whole, "ns", "<= 600", Some(whole <= 600.0)),
        figure("P4.whole_all", "the whole program for it, keys and ring", costs.whole[1], "ns", "", None),
        figure("P4.last", "keys in the second of two segments", last, "ns", "<= 300", Some(last <= 300.0)),
        figure("P4.last_all", "the whole program for that segment", costs.last[1], "ns", "", None),
        figure("P4.other", "keys in a packet that is no hello", other, "ns", "<= 30", Some(other <= 30.0)),
        figure("P4.wide", "keys of a hello of 706 ciphers", more(costs.wide), "ns", "", None),
        figure("P4.verified", "instructions verified", verified.into(), "", "<= 250k", Some(verified <= 250_000)),
        figure("P4.load", "both programs and all maps loaded", load, "s", "<= 0.5", Some(load <= 0.5)),
        figure("P6.rate", "1.8 KB hellos through program and ring", rate / 1e6, "M/s", ">= 1.0", Some(rate >= 1e6)),
        figure("P6.cost", "the same, cost to the producer", each, "ns", "", None),
        figure("P6.lost", "lost on the way", lost as f64, "hellos", "0", Some(lost == 0)),
        figure("P7.p50", "frame to verdict in force, unknown client, p50", p50, "µs", "<= 15", Some(p50 <= 15.0)),
        figure("P7.p99", "the same, p99 (target: on a quiet core)", p99, "µs", "<= 60", Some(p99 <= 60.0)),
    ]);
    figures.extend(closed);
    figure::print(&figures);
}
