//! P2: packets of 100,000 blocked sources at random, over a veth pair to whoever drops them, in a network namespace of
//! this process's own. They are made in the kernel (BPF_PROG_TEST_RUN with live frames) and dropped on the same
//! processor, so that the thread's time has all of it: making, veth, dropping.

use std::{fs, net::Ipv4Addr};

use aya::{
    maps::{PerCpuHashMap, PerCpuValues},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode},
    util::nr_cpus,
};
use detector::{
    config,
    kernel::{Kernel, LoadOptions, Slot, VerdictMaps as _},
};
use detector_common::{counter::Counter, settings::IN_USE_IPV4};
use etherparse::PacketBuilder;

use crate::{
    figure::{Figure, median},
    peers::{Peer, block, command, cpu_time, settings, told},
};

const TURNS: usize = 9;
const PACKETS: u32 = 200_000;
/// Frames that the kernel makes at once.
const BATCH: u32 = 64;
const SOURCES: u32 = 100_000;
const FIRST: u32 = 0x0100_0000;
/// Of xdp-filter's entries: a source address, as in its `common_kern_user.h`.
const SOURCE: u64 = 1;

/// Who drops, in the order of the interfaces' numbers.
const DROPPERS: [&str; 5] =
    ["bare XDP_DROP", "ours", "xdp-filter alw_ip", "nft set at netdev ingress", "nft set at input"];

fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("an interface of ours")
}

/// A SYN to the protected port, whose source the generator replaces.
fn frame(number: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, number], [2, 0, 0, 0, 0, number])
        .ipv4([1, 0, 0, 1], [10, 99, number, 2], 64)
        .tcp(40_000, 443, 1, 64_240)
        .syn();
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[]).expect("a frame of one segment");
    frame
}

/// A veth pair: what is sent on `a` comes in at `b`, for its address.
fn link(number: usize) {
    command(&format!("ip link add a{number} type veth peer name b{number} address 02:00:00:00:00:0{number}"));
    command(&format!("ip address add 10.99.{number}.2/24 dev b{number}"));
    for side in ["a", "b"] {
        command(&format!("ip link set {side}{number} up"));
    }
    // With it, or with an XDP program, veth takes frames of another one's.
    command(&format!("ethtool -K b{number} gro on"));
    for name in ["all", &format!("b{number}")] {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        fs::write(path, "0").expect("a network namespace of our own");
    }
}

/// The sets of nft, on the last two interfaces, and a count of what gets past the others.
fn nft() {
    let elements: Vec<String> = (FIRST..FIRST + SOURCES).map(|source| Ipv4Addr::from(source).to_string()).collect();
    let set = format!("set blocked {{ type ipv4_addr; elements = {{ {} }} }}", elements.join(", "));
    let rules = format!(
        "table netdev peers {{
            {set}
            chain ingress {{
                type filter hook ingress device \"b3\" priority 0
                ip saddr @blocked counter drop
            }}
        }}
        table inet peers {{
            {set}
            chain input {{
                type filter hook input priority 0
                iifname \"b4\" ip saddr @blocked counter drop
                iifname \"b*\" counter
            }}
        }}\n"
    );
    let path = std::env::temp_dir().join(format!("detector-bench-{}.nft", std::process::id()));
    fs::write(&path, rules).expect("room for a file");
    command(&format!("nft -f {}", path.display()));
    fs::remove_file(&path).expect("the file just written");
}

/// Packets that the rules of a chain counted.
fn counted(chain: &str) -> Vec<u64> {
    let text = command(&format!("nft list chain {chain}"));
    let mut words = text.split_whitespace();
    let mut counts = Vec::new();
    while words.any(|word| word == "packets") {
        counts.extend(words.next().and_then(|count| count.parse::<u64>().ok()));
    }
    counts
}

/// P2.
pub(crate) fn dropped() -> Vec<Figure> {
    (0..DROPPERS.len()).for_each(link);
    command("ip route add default dev b4");
    nft();
    let mut bare = Peer::own(None);
    bare.program("drop").attach("b0", XdpMode::Driver).expect("an interface of ours");
    let (mut kernel, mut maps, _rings, counters, _log) = Kernel::load(&LoadOptions::default()).expect("run as root");
    maps.protect_ports(&[443]).expect("a map of ours");
    maps.protect_addresses(vec![Ipv4Addr::new(10, 99, 1, 2).into()]).expect("room for one");
    maps.set(settings(IN_USE_IPV4)).expect("a map of ours");
    let mut filter = Peer::xdp_filter("xdpfilt_alw_ip.o", 2 * SOURCES);
    {
        let map = filter.0.map_mut("filter_ipv4").expect("xdp-filter's map of addresses");
        let mut map: PerCpuHashMap<_, u32, u64> = map.try_into().expect("a map of addresses");
        let cpus = nr_cpus().expect("a kernel that says how many processors there are");
        for source in FIRST..FIRST + SOURCES {
            maps.put(&Slot::Address(Ipv4Addr::from(source).into()), block()).expect("room for them");
            let flags = PerCpuValues::try_from(vec![SOURCE; cpus]).expect("one for each processor");
            map.insert(source.to_be(), flags, 0).expect("room for them");
        }
    }
    kernel.attach("b1", config::XdpMode::Native).expect("an interface of ours");
    filter.program("xdpfilt_alw_ip").attach("b2", XdpMode::Driver).expect("an interface of ours");

    let mut generator = Peer::own(None);
    let mut runs: [Vec<f64>; DROPPERS.len()] = Default::default();
    for _ in 0..TURNS {
        for (number, runs) in runs.iter_mut().enumerate() {
            generator.plan(FIRST, SOURCES, index(&format!("a{number}")));
            let frame = frame(number as u8);
            let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            let program = generator.program("generate");
            let options = TestRunOptions { data_in: Some(&frame), repeat: PACKETS, attrs, ..Default::default() };
            let spent = cpu_time(|| {
                program.test_run(options).expect("a frame of ours");
            });
            runs.push(spent / f64::from(PACKETS));
        }
    }
    let all = u64::from(PACKETS) * TURNS as u64;
    let ours = counters.read().expect("a map of ours").of(Counter::DropAddress);
    let (ingress, input) = (counted("netdev peers ingress"), counted("inet peers input"));
    assert_eq!((ours, ingress, input), (all, vec![all], vec![all, 0]), "every packet is dropped where it should be");

    let [bare, ours, filter, ingress, input] = runs.map(|mut runs| median(&mut runs));
    let floor = told("P2", DROPPERS[0], bare, "ns");
    let drop = Figure {
        against: "bare XDP_DROP",
        ratio: Some(ours / bare),
        target: "<= 2.0x".to_owned(),
        met: Some(ours <= 2.0 * bare),
        ..told("P2.drop", "drop of 100,000 random sources over veth", ours, "ns")
    };
    let peers = [("P2.xdp_filter", filter, 3.0), ("P2.ingress", ingress, 3.0), ("P2.input", input, 4.0)];
    let peers = peers.into_iter().zip(&DROPPERS[2..]).map(|((id, value, least), what)| Figure {
        against: "ours",
        ratio: Some(value / ours),
        target: format!(">= {least:.1}x"),
        met: Some(value >= least * ours),
        ..told(id, what, value, "ns")
    });
    // No program can be as many times better as this one does nothing at all.
    let most = Figure {
        against: "bare XDP_DROP",
        ratio: Some(filter / bare),
        ..told("P2.most", "xdp-filter beside a drop without any look-up", filter, "ns")
    };
    [floor, drop].into_iter().chain(peers).chain([most]).collect()
}
