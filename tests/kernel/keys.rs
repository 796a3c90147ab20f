//! The keys that the program computes. Every TCP hello of the captures, in whatever segments and frames it comes, has
//! userspace's keys; what the program can't read has none.

use detector::fingerprint::{Transport, key};
use detector::tls::{Parsed, hello};
use detector_common::{
    counter::Counter,
    key::{Keys, Seeds},
};
use detector_tests::drafts::{Change, Dice, Draft};

use crate::{
    bench::{Bench, PASS, Row},
    fixture::{Sample, samples},
    framing::tagged,
};

/// Those of the fixtures, whose keys are compared with the program's.
const SEEDS: Seeds = crate::fixture::SEEDS;
/// The first byte's sequence number.
const BASE: u32 = 1000;

/// A program that computes keys, and connections that were never there before.
struct Keyed {
    bench: Bench,
    ports: u32,
    /// Frames run and keys found right.
    frames: u64,
    right: u64,
}

impl Keyed {
    fn new() -> Self {
        let mut bench = Bench::new();
        bench.set(|settings| {
            (settings.keys, settings.seeds, settings.segments_per_flow) = (1, SEEDS, 4096);
        });
        Self { bench, ports: 0, frames: 0, right: 0 }
    }

    /// A connection of its own: an address for each 60,000 of them.
    fn row(&mut self, payload: &[u8]) -> Row {
        self.ports += 1;
        let mut row = Row::new(payload).client_port(1024 + (self.ports % 60_000) as u16);
        row.source.set_ip(std::net::Ipv4Addr::from(0x0a00_0000 + self.ports / 60_000).into());
        row
    }

    /// The keys in the event of a frame: `None` if it brings none.
    fn keys(&mut self, frame: &[u8]) -> Option<Keys> {
        assert_eq!(self.bench.act(frame), PASS);
        self.frames += 1;
        let events = self.bench.events();
        let [(header, _)] = &events[..] else { panic!("{} events", events.len()) };
        let keys = Keys { key: header.key, stable: header.key_stable };
        let complete = keys.key != 0;
        assert_eq!((keys.stable != 0, header.hello_seq), (complete, if complete { BASE } else { 0 }));
        complete.then_some(keys)
    }

    /// The hello has these keys, if it is cut at `cuts`: none before its last segment, and then its own.
    fn assert(&mut self, stream: &[u8], cuts: &[usize], keys: Keys, frame: impl Fn(&Row) -> Vec<u8>, what: &str) {
        let places: Vec<usize> = [&[0][..], cuts, &[stream.len()]].concat();
        let row = self.row(&[]);
        for [from, to] in places.array_windows() {
            let segment = Row { payload: stream[*from..*to].to_vec(), ..row.clone() }.seq(BASE + *from as u32);
            let expected = (*to == stream.len()).then_some(keys);
            assert_eq!(self.keys(&frame(&segment)), expected, "{what} cut at {cuts:?}, bytes {from} to {to}");
        }
        self.right += 1;
    }
}

/// Asked for in full: every position and a thousand splits of every hello, which takes minutes.
fn in_full() -> bool {
    std::env::var_os("DETECTOR_TEST_FULL").is_some()
}

/// One hello of each client.
fn distinct() -> Vec<&'static Sample> {
    let mut seen = std::collections::BTreeSet::new();
    samples().iter().filter(|sample| seen.insert(sample.hello.fingerprint.keys.key)).collect()
}

fn v6(row: &Row) -> Row {
    row.clone().v6()
}

#[test]
fn every_hello_of_the_captures_has_userspaces_keys_in_every_framing() {
    let mut keyed = Keyed::new();
    for sample in samples() {
        let (stream, keys) = (&sample.stream[..], sample.hello.fingerprint.keys);
        let cut = [stream.len() / 2];
        for cuts in [&[][..], &cut] {
            keyed.assert(stream, cuts, keys, Row::frame, &sample.name);
            keyed.assert(stream, cuts, keys, |row| v6(row).frame(), &sample.name);
            for tags in [&[0x8100][..], &[0x88a8, 0x8100]] {
                keyed.assert(stream, cuts, keys, |row| tagged(tags).tcp(row), &sample.name);
                keyed.assert(stream, cuts, keys, |row| tagged(tags).tcp(&v6(row)), &sample.name);
            }
        }
    }
    let computed = keyed.bench.counters().of(Counter::KeysComputed);
    assert_eq!((keyed.right, computed), (12 * 784, 12 * 784));
    keyed.bench.assert_sums();
}

#[test]
fn every_split_in_two_leads_to_the_same_keys() {
    let mut keyed = Keyed::new();
    let (all, distinct) = (samples(), distinct());
    for sample in all {
        let all_cuts = in_full() || distinct.iter().any(|other| other.name == sample.name);
        // The rest are hellos of the same clients: other random bytes, other orders of extensions.
        let step = if all_cuts { 1 } else { 7 };
        for cut in (1..sample.stream.len()).step_by(step) {
            keyed.assert(&sample.stream, &[cut], sample.hello.fingerprint.keys, Row::frame, &sample.name);
        }
    }
    let (right, of) = (keyed.right, distinct.len());
    println!("{right} splits in two of {} hellos, every one of {of} clients' first: 0 wrong", all.len());
}

#[test]
fn a_thousand_random_splits_in_three_to_twelve_lead_to_the_same_keys() {
    let mut keyed = Keyed::new();
    let mut dice = Dice(1);
    let hellos: Vec<&Sample> = if in_full() { samples().iter().collect() } else { distinct() };
    for sample in &hellos {
        for _ in 0..if in_full() { 1000 } else { 1000 / hellos.len() + 1 } {
            let mut cuts: Vec<usize> =
                (0..2 + dice.below(10)).map(|_| 1 + dice.below(sample.stream.len() - 1)).collect();
            cuts.sort_unstable();
            cuts.dedup();
            keyed.assert(&sample.stream, &cuts, sample.hello.fingerprint.keys, Row::frame, &sample.name);
        }
    }
    assert!(keyed.right >= 1000);
    println!("{} splits of {} hellos into 3 to 12: 0 wrong, {} frames", keyed.right, hellos.len(), keyed.frames);
}

/// The keys that userspace finds in a hello in one record.
fn ours(record: &[u8]) -> Keys {
    let Parsed::Complete(hello) = hello::parse(&record[5..]) else { panic!("a hello") };
    key::keys(&hello, Transport::Tcp, &SEEDS)
}

#[test]
fn ten_thousand_hellos_and_their_variants_have_userspaces_keys() {
    let mut keyed = Keyed::new();
    let mut dice = Dice(2);
    for base in 0..10_000 {
        let draft = Draft::any(&mut dice);
        let mut look = |draft: &Draft| {
            let record = draft.record(&mut dice);
            let keys = ours(&record);
            keyed.assert(&record, &[], keys, Row::frame, "a draft");
            keys
        };
        let original = look(&draft);
        assert_eq!(look(&draft.same(&mut Dice(base))), original, "{draft:?}");
        if let Some(resumed) = draft.resumed(&mut Dice(base)) {
            assert_eq!(look(&resumed).stable, original.stable, "{draft:?}");
        }
        for change in Change::ALL {
            if let Some(other) = draft.changed(*change, &mut Dice(base)) {
                assert_ne!(look(&other).key, original.key, "{change:?} of {draft:?}");
            }
        }
    }
    println!("10,000 hellos, {} with their variants: 0 wrong", keyed.right);
}

/// Wherever it was cut: also where its first bytes don't say how long it is.
#[test]
fn what_comes_after_a_hello_is_not_captured() {
    let mut keyed = Keyed::new();
    let sample = distinct()[0];
    for cut in 1..20 {
        let row = keyed.row(&[]);
        let segment = |payload: &[u8], from: usize| {
            Row { payload: payload.to_vec(), ..row.clone() }.seq(BASE + from as u32).frame()
        };
        let (head, tail) = sample.stream.split_at(cut);
        assert_eq!(keyed.keys(&segment(head, 0)), None);
        assert_eq!(keyed.keys(&segment(tail, cut)), Some(sample.hello.fingerprint.keys), "cut at {cut}");
        keyed.bench.act(&segment(&[23, 3, 3, 0, 64, 9], sample.stream.len()));
        assert!(keyed.bench.events().is_empty(), "cut at {cut}");
    }
}

/// Bytes that are damaged are read as userspace reads them, or not at all.
#[test]
fn a_damaged_hello_has_userspaces_keys_or_none() {
    let mut keyed = Keyed::new();
    let mut dice = Dice(3);
    let (mut read, mut unread) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = samples()[dice.below(samples().len())].stream.clone();
        for _ in 0..=dice.below(3) {
            // Mostly where the lengths are.
            let body = bytes.len() - 9;
            let span = if dice.one_in(2) { body.min(100) } else { body };
            bytes[9 + dice.below(span)] = dice.number() as u8;
        }
        let expected = match hello::parse(&bytes[5..]) {
            Parsed::Complete(hello) => Some(key::keys(&hello, Transport::Tcp, &SEEDS)),
            Parsed::Incomplete | Parsed::Rejected(_) => None,
        };
        *(if expected.is_some() { &mut read } else { &mut unread }) += 1;
        let (head, tail) = bytes.split_at(1 + dice.below(bytes.len() - 1));
        let row = keyed.row(&[]);
        let mut keys =
            |payload: &[u8], seq| keyed.keys(&Row { payload: payload.to_vec(), ..row.clone() }.seq(seq).frame());
        assert_eq!(keys(head, BASE), None);
        assert_eq!(keys(tail, BASE + head.len() as u32), expected);
    }
    assert!(read > 5_000 && unread > 1_000, "{read} read, {unread} not");
}

/// A hello too large for what one look may cost has no key, in one segment or in several; nor has one over two records.
#[test]
fn over_limit_hellos_are_left_to_userspace() {
    let mut keyed = Keyed::new();
    let record = |bytes: &[u8]| [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let stream = &samples()[0].stream;
    let (first, second) = stream[5..].split_at(100);
    let two = [record(first), record(second)].concat();
    let wide = |ciphers: usize| {
        let list: Vec<u8> = (0..ciphers * 2).map(|place| place as u8).collect();
        let length = |length: usize| (length as u16).to_be_bytes();
        let body = [&[3, 3][..], &[7; 32], &[0], &length(list.len()), &list, &[1, 0]].concat();
        record(&[&[1, 0][..], &length(body.len()), &body].concat())
    };
    let mut beyond = 0;
    for stream in [two, wide(2000), wide(8100)] {
        let frame = keyed.row(&stream).seq(BASE).frame();
        assert_eq!(keyed.keys(&frame), None);
        beyond += 1;
        assert_eq!(keyed.bench.counters().of(Counter::KeysBeyond), beyond);
    }
    // In segments of the usual size it is much for none of them.
    let (stream, row) = (wide(4000), keyed.row(&[]));
    for (place, piece) in stream.chunks(1448).enumerate() {
        let segment = Row { payload: piece.to_vec(), ..row.clone() }.seq(BASE + place as u32 * 1448);
        let last = (place + 1) * 1448 >= stream.len();
        assert_eq!(keyed.keys(&segment.frame()), last.then(|| ours(&stream)));
    }
}

/// A retransmission: of what was read, or of the whole hello in one segment.
#[test]
fn what_comes_again_leads_to_the_same_key() {
    let sample = samples().iter().find(|sample| sample.stream.len() > 1500).expect("a hello of a browser");
    let stream = &sample.stream;
    let orders: [&[(usize, usize)]; 4] = [
        &[(0, 500), (0, 500), (500, stream.len())],
        &[(0, 500), (500, 1000), (500, 1000), (1000, stream.len())],
        &[(0, 500), (500, 1000), (200, 700), (1000, stream.len())],
        &[(0, 6), (0, stream.len())],
    ];
    let mut keyed = Keyed::new();
    for order in orders {
        let row = keyed.row(&[]);
        for (from, to) in order {
            let segment = Row { payload: stream[*from..*to].to_vec(), ..row.clone() }.seq(BASE + *from as u32);
            let expected = (*to == stream.len()).then_some(sample.hello.fingerprint.keys);
            assert_eq!(keyed.keys(&segment.frame()), expected, "{order:?}");
        }
    }
    assert_eq!(keyed.bench.counters().of(Counter::KeysDisordered), 0);
}

/// A hello that was never finished says nothing about the next one on its ports, with the SYN seen or not.
#[test]
fn a_new_connection_begins_anew() {
    let mut keyed = Keyed::new();
    let [first, second] = [distinct()[0], distinct()[1]];
    for syn in [true, false] {
        let row = keyed.row(&first.stream[..300]);
        assert_eq!(keyed.keys(&row.clone().seq(BASE + 500_000).frame()), None);
        if syn {
            keyed.bench.row(&Row { payload: Vec::new(), ..row.clone() }.syn().seq(BASE - 1));
        }
        let (head, tail) = second.stream.split_at(300);
        let segment = |payload: &[u8], seq| Row { payload: payload.to_vec(), ..row.clone() }.seq(seq).frame();
        assert_eq!(keyed.keys(&segment(head, BASE)), None);
        assert_eq!(keyed.keys(&segment(tail, BASE + 300)), Some(second.hello.fingerprint.keys), "SYN: {syn}");
    }
}

#[test]
fn the_same_syn_once_more_ends_no_hello_and_data_in_it_begins_one() {
    let mut keyed = Keyed::new();
    let sample = distinct()[0];
    let (head, tail) = sample.stream.split_at(300);
    let row = keyed.row(&[]);
    let segment = |payload: &[u8], seq| Row { payload: payload.to_vec(), ..row.clone() }.seq(seq);
    assert_eq!(keyed.keys(&segment(head, BASE).frame()), None);
    keyed.bench.row(&segment(&[], BASE - 1).syn());
    assert_eq!(keyed.keys(&segment(tail, BASE + 300).frame()), Some(sample.hello.fingerprint.keys));
    let row = keyed.row(&[]);
    let segment = |payload: &[u8], seq| Row { payload: payload.to_vec(), ..row.clone() }.seq(seq);
    assert_eq!(keyed.keys(&segment(head, BASE - 1).syn().frame()), None, "TCP Fast Open");
    assert_eq!(keyed.keys(&segment(tail, BASE + 300).frame()), Some(sample.hello.fingerprint.keys));
}

#[test]
fn other_seeds_give_other_keys_and_none_are_computed_unless_asked_for() {
    let mut keyed = Keyed::new();
    let sample = distinct()[0];
    let mut seen = vec![sample.hello.fingerprint.keys];
    for seeds in [
        Seeds { cipher: 7, ..SEEDS },
        Seeds { extension: 7, ..SEEDS },
        Seeds { signature: 7, ..SEEDS },
        Seeds { rest: 7, ..SEEDS },
    ] {
        keyed.bench.set(|settings| settings.seeds = seeds);
        let frame = keyed.row(&sample.stream).seq(BASE).frame();
        let keys = keyed.keys(&frame).expect("a hello");
        assert!(seen.iter().all(|other| other.key != keys.key && other.stable != keys.stable), "{seeds:?}");
        seen.push(keys);
    }
    keyed.bench.set(|settings| settings.keys = 0);
    let frame = keyed.row(&sample.stream).seq(BASE).frame();
    assert_eq!(keyed.keys(&frame), None);
    assert_eq!(keyed.bench.counters().of(Counter::KeysComputed), 4);
}
