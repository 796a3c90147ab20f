//! P5 of the performance targets: what one ClientHello of a current Chrome costs, from its TLS record to its
//! fingerprint, beside huginn-net-tls in the same run. Thread CPU time, since the machine is shared: the median of 61
//! runs of about 2 ms each. `--json PATH` writes the figures too.

use std::hint::black_box;

use detector::fingerprint::ja4::{Order, Parts};
use detector::fingerprint::{Fingerprinter, Traits, Transport, ja3};
use detector::tls::Parsed;
use detector::tls::hello::{self, ClientHello};
use detector::tls::record::{self, Deframer};
use sha2::{Digest, Sha256};

mod clock;
mod figure;
use clock::measure;
use figure::{Figure, chrome_hello};

/// What live capture does with the bytes of a segment.
fn with_hello<T>(stream: &[u8], scratch: &mut Vec<u8>, use_it: impl FnOnce(&ClientHello<'_>) -> T) -> T {
    let Parsed::Complete(extent) = Deframer::new().advance(stream) else { panic!("not a hello") };
    let Parsed::Complete(hello) = hello::parse(record::message(stream, &extent, scratch)) else { panic!("malformed") };
    use_it(&hello)
}

fn figures(stream: &[u8]) -> Vec<Figure> {
    let mut scratch = Vec::new();
    let mut fingerprinter = Fingerprinter::default();
    with_hello(stream, &mut scratch, |hello| fingerprinter.known(hello, Transport::Tcp));

    let mut ja4 = || {
        with_hello(black_box(stream), &mut scratch, |hello| {
            black_box(Parts::new(hello, Transport::Tcp).ja4(Order::Sorted));
        });
    };
    let ja4_ns = measure(&mut ja4);
    // Right after ours: the clock of a shared machine changes within seconds.
    let peer_ns = measure(|| {
        black_box(huginn_net_tls::parse_tls_client_hello_ja4(black_box(stream)));
    });
    let mut allocations = allocation_counter::measure(&mut ja4).count_total;
    let mut both = || {
        with_hello(black_box(stream), &mut Vec::new(), |hello| {
            let parts = Parts::new(hello, Transport::Tcp);
            black_box(parts.ja4(Order::Sorted));
            black_box(ja3::ja3(hello, &parts));
        });
    };
    let both_ns = measure(&mut both);
    allocations += allocation_counter::measure(both).count_total;
    let mut known = || {
        with_hello(black_box(stream), &mut Vec::new(), |hello| {
            black_box(fingerprinter.known(hello, Transport::Tcp));
        });
    };
    let known_ns = measure(&mut known);
    allocations += allocation_counter::measure(known).count_total;
    let parse_ns = measure(|| {
        with_hello(black_box(stream), &mut Vec::new(), |hello| {
            black_box(hello.extensions.iter().count());
        });
    });
    let mut traits = || {
        with_hello(black_box(stream), &mut scratch, |hello| {
            black_box(Traits::of(hello));
        });
    };
    // Parsed in `parse_ns`, which is no part of it.
    let traits_ns = (measure(&mut traits) - parse_ns).max(0.0);
    allocations += allocation_counter::measure(traits).count_total;
    let mut fresh = Fingerprinter::default();
    let full_ns = measure(|| {
        with_hello(black_box(stream), &mut Vec::new(), |hello| {
            black_box(fresh.fingerprint(hello, Transport::Tcp));
        });
    });

    // What no program that computes JA4 can do without.
    let raw = with_hello(stream, &mut scratch, |hello| Parts::new(hello, Transport::Tcp).raw(Order::Sorted));
    let (b, c) = raw.split_at(11).1.split_once('_').expect("a raw JA4 has three parts");
    let floor_ns = measure(|| {
        black_box(Sha256::digest(black_box(b)));
        black_box(Sha256::digest(black_box(c)));
    });

    let us = |id, what, ns: f64, limit: f64| Figure {
        id,
        what,
        value: ns / 1e3,
        unit: "us",
        against: "limit",
        ratio: Some(ns / 1e3 / limit),
        target: format!("<= {limit} us"),
        met: Some(ns / 1e3 <= limit),
    };
    let told = |id, what, ns: f64| Figure {
        id,
        what,
        value: ns / 1e3,
        unit: "us",
        against: "-",
        ratio: None,
        target: "-".to_owned(),
        met: None,
    };
    vec![
        us("P5.ja4", "JA4 of a Chrome hello", ja4_ns, 0.75),
        us("P5.ja3_ja4", "JA3 and JA4 of it", both_ns, 2.0),
        us("P5.known", "JA4 of a known client, by key cache", known_ns, 0.25),
        us("P5.traits", "what it shows beside its JA4", traits_ns, 0.3),
        Figure {
            id: "P5.allocations",
            what: "allocations of these four",
            value: allocations as f64,
            unit: "",
            against: "-",
            ratio: None,
            target: "0".to_owned(),
            met: Some(allocations == 0),
        },
        Figure {
            id: "P5.peer",
            what: "JA4, huginn-net-tls",
            value: peer_ns / 1e3,
            unit: "us",
            against: "our JA4",
            ratio: Some(peer_ns / ja4_ns),
            target: ">= 10x".to_owned(),
            met: Some(peer_ns / ja4_ns >= 10.0),
        },
        Figure {
            // Beside the line above and not in place of it: the target is about a hello nobody has seen before.
            id: "P5.peer_known",
            what: "the same, against our known client",
            value: peer_ns / 1e3,
            unit: "us",
            against: "our cache",
            ratio: Some(peer_ns / known_ns),
            target: "-".to_owned(),
            met: None,
        },
        told("P5.floor", "the two SHA-256 of JA4, nothing else", floor_ns),
        told("P5.parse", "records and hello parsed, nothing hashed", parse_ns),
        told("P5.full", "the whole report, every form as text", full_ns),
    ]
}

fn main() {
    let stream = chrome_hello();
    println!("P5: userspace fingerprint of a Chrome hello of {} bytes", stream.len());
    figure::print(&figures(&stream));
}
