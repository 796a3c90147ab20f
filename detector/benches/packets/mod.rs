//! P1 and P3: what an ordinary packet costs, beside a program that does nothing and xdp-filter; what a look-up costs in a
//! table of a million verdicts. All in turns in one process.

use std::{net::Ipv4Addr, path::Path};

use aya::maps::MapInfo;
use detector::kernel::{CounterMap, Kernel, KernelLog, LoadOptions, Maps, Pins, Rings, Slot, VerdictMaps as _};
use detector_common::{
    settings::{IN_USE_IPV4, IN_USE_PREFIXES_IPV4},
    verdict::{Action, FOREVER, ORIGIN_OPERATOR, REASON_COMMAND, Verdict},
};
use etherparse::PacketBuilder;
use ipnet::{IpNet, Ipv4Net};

use crate::{
    figure::{Figure, median},
    peers::{DROP, PASS, PINS, Peer, block, cpu_time, settings, told},
};

const TURNS: usize = 41;
const PACKETS: u32 = 400_000;
const LOOK_UPS: u32 = 200_000;
const ENTRIES: u32 = 1_000_000;
/// The first of the addresses that have a verdict, and of as many that haven't.
const BLOCKED: u32 = 0x0100_0000;
const OTHERS: u32 = 0x2100_0000;

/// The programs of P1 in their order: three peers, then ours.
const ACK: [(&str, &str); 6] = [
    ("P1.ack", "an ACK through bare XDP_PASS"),
    ("P1.ack", "through xdp-filter alw_ip"),
    ("P1.ack", "through xdp-filter alw_all"),
    ("P1.ack", "through ours, no lists"),
    ("P1.ack_lists", "ours, 1,000 allow and 10,000 operator CIDRs"),
    ("P1.ack_more", "ours, and 100,000 addresses"),
];
const DATA: [(&str, &str); 6] = [
    ("P1.data", "1,400 bytes of data through bare XDP_PASS"),
    ("P1.data", "through xdp-filter alw_ip"),
    ("P1.data", "through xdp-filter alw_all"),
    ("P1.data", "through ours, no lists"),
    ("P1.data_lists", "ours, 1,000 allow and 10,000 operator CIDRs"),
    ("P1.data_more", "ours, and 100,000 addresses"),
];

/// An XDP program and what belongs to it.
type Loaded = (Kernel, Maps, Rings, CounterMap, KernelLog);

fn daemon(in_use: u32) -> Loaded {
    let mut loaded = Kernel::load(&LoadOptions::default()).expect("run as root");
    let maps = &mut loaded.1;
    maps.protect_ports(&[443]).expect("a map of ours");
    maps.protect_addresses(vec![Ipv4Addr::new(192, 0, 2, 1).into()]).expect("room for one");
    maps.set(settings(in_use)).expect("a map of ours");
    loaded
}

/// 1,000 allowed prefixes and 10,000 blocked ones, of none of which the packets are.
fn with_lists(in_use: u32) -> Loaded {
    let mut loaded = daemon(in_use);
    let allow = Verdict::new(Action::Allow, ORIGIN_OPERATOR, REASON_COMMAND, FOREVER);
    let prefix = |first: u32, index: u32| IpNet::V4(Ipv4Net::new_assert((first + (index << 8)).into(), 24));
    for index in 0..1_000 {
        loaded.1.put(&Slot::Allow(prefix(0x0a00_0000, index)), allow).expect("room for them");
    }
    for index in 0..10_000 {
        loaded.1.put(&Slot::Prefix(prefix(0x2d00_0000, index)), block()).expect("room for them");
    }
    loaded
}

/// Of a connection that is established: an acknowledgement, or a full segment of application data (RFC 8446 section 5.2).
fn frame(payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 7], [192, 0, 2, 1], 64)
        .tcp(40_000, 443, 1_000_000, 64_240)
        .ack(1);
    let payload: Vec<u8> = [23, 3, 3].into_iter().chain(std::iter::repeat(0xa5)).take(payload).collect();
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).expect("a frame of one segment");
    frame
}

/// P1.
pub(crate) fn ordinary() -> Vec<Figure> {
    let mut bare = Peer::own(None);
    let mut ip = Peer::xdp_filter("xdpfilt_alw_ip.o", 10_000);
    let mut all = Peer::xdp_filter("xdpfilt_alw_all.o", 10_000);
    let (mut plain, mut lists) = (daemon(0), with_lists(IN_USE_PREFIXES_IPV4));
    let mut full = with_lists(IN_USE_PREFIXES_IPV4 | IN_USE_IPV4);
    for index in 0..100_000 {
        full.1.put(&Slot::Address(Ipv4Addr::from(BLOCKED + index).into()), block()).expect("room for them");
    }
    let mut ours = |which: usize, frame: &[u8]| {
        let kernel = [&mut plain.0, &mut lists.0, &mut full.0][which].test_run(frame, PACKETS);
        kernel.expect("a frame of ours").0
    };
    let mut run = |which: usize, frame: &[u8]| match which {
        0 => bare.run("pass", frame, PACKETS),
        1 => ip.run("xdpfilt_alw_ip", frame, PACKETS),
        2 => all.run("xdpfilt_alw_all", frame, PACKETS),
        ours_ => ours(ours_ - 3, frame),
    };
    let mut figures = Vec::new();
    for (payload, lines) in [(0, ACK), (1400, DATA)] {
        let frame = frame(payload);
        let mut runs: [Vec<f64>; 6] = Default::default();
        for _ in 0..TURNS {
            for (which, runs) in runs.iter_mut().enumerate() {
                let spent = cpu_time(|| assert_eq!(run(which, &frame), PASS, "an ordinary packet passes"));
                runs.push(spent / f64::from(PACKETS));
            }
        }
        let medians = runs.map(|mut runs| median(&mut runs));
        let [bare, ip, all, ..] = medians;
        for (which, ((id, what), value)) in lines.into_iter().zip(medians).enumerate() {
            if which < 3 {
                figures.push(told(id, what, value, "ns"));
                continue;
            }
            let figure = |against, ratio: f64, target: &str, met| {
                let target = target.to_owned();
                Figure { against, ratio: Some(ratio), target, met: Some(met), ..told(id, what, value, "ns") }
            };
            figures.push(figure("XDP_PASS", value / bare, "<= +25 ns", value <= bare + 25.0));
            figures.push(figure("alw_ip", value / ip, "<= 1.0x", value <= ip));
            figures.push(figure("alw_all", value / all, "<= 0.6x", value <= 0.6 * all));
        }
    }
    figures
}

/// P3.
pub(crate) fn look_ups() -> Vec<Figure> {
    let pins = Path::new(PINS).join("detector");
    let options = LoadOptions { table: ENTRIES, ..LoadOptions::default() };
    let opened = Pins::open(&pins, None).expect("a BPF file system of our own");
    let (mut kernel, mut maps, ..) = Kernel::load_pinned(&options, opened).expect("run as root");
    kernel.replace().expect("nothing is attached");
    maps.set(settings(IN_USE_IPV4)).expect("a map of ours");
    for address in BLOCKED..BLOCKED + ENTRIES {
        maps.put(&Slot::Address(Ipv4Addr::from(address).into()), block()).expect("room for them");
    }
    let set = pins.join("current");
    let mut bench = Peer::own(Some(&set));
    let mut runs: [Vec<f64>; 3] = Default::default();
    for _ in 0..TURNS {
        let turns = [("draw", BLOCKED, PASS), ("look_up", BLOCKED, DROP), ("look_up", OTHERS, PASS)];
        for ((program, first, action), runs) in turns.into_iter().zip(&mut runs) {
            bench.plan(first, ENTRIES, 0);
            let spent = cpu_time(|| assert_eq!(bench.run(program, &frame(0), LOOK_UPS), action));
            runs.push(spent / f64::from(LOOK_UPS));
        }
    }
    let [draw, hit, miss] = runs.map(|mut runs| median(&mut runs));
    let (hit, miss) = (hit - draw, miss - draw);
    let table = MapInfo::from_pin(set.join("VERDICTS")).expect("a map of ours");
    let mebibytes = f64::from(table.value_size()) * f64::from(table.max_entries()) / f64::from(1 << 20);
    let target = |id, what, value, unit, target: &str, met| Figure {
        target: target.to_owned(),
        met: Some(met),
        ..told(id, what, value, unit)
    };
    vec![
        told("P3", "drawing a random address, left out below", draw, "ns"),
        target("P3.hit", "look-up among 1,000,000 verdicts, there", hit, "ns", "<= 160", hit <= 160.0),
        target("P3.miss", "the same, not there", miss, "ns", "<= 130", miss <= 130.0),
        target("P3.memory", "their table", mebibytes, "MiB", "<= 32", mebibytes <= 32.0),
    ]
}
