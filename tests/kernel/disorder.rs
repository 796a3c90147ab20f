//! Hellos whose segments overtake each other, overlap, or come twice (threats.md T13, T14): one with a blocked fingerprint
//! never gets past the segment that would complete it, and its keys are userspace's; the others pass.

use std::collections::{BTreeMap, BTreeSet};

use detector::fingerprint::{Transport, key};
use detector::kernel::{LoadOptions, Slot};
use detector::tls::{Parsed, hello};
use detector_common::{counter::Counter, key::Keys};
use detector_tests::drafts::{Dice, Draft};

use crate::bench::{Bench, DROP, PASS, Row};
use crate::fixture::{SEEDS, Sample, samples};

/// The first byte's sequence number: the last piece's is a small one.
const BASE: u32 = u32::MAX - 700;

/// A segment: the place of its first byte in the stream, and its bytes.
type Piece = (usize, Vec<u8>);

/// A program that computes keys, and connections that were never there before.
struct Wire {
    bench: Bench,
    ports: u32,
}

/// What the program made of a segment.
#[derive(Debug, PartialEq)]
struct Fate {
    dropped: bool,
    /// Of the hello that it completes.
    keys: Option<Keys>,
}

const PASSED: Fate = Fate { dropped: false, keys: None };

impl Wire {
    fn new() -> Self {
        Self::with(LoadOptions::default())
    }

    fn with(options: LoadOptions) -> Self {
        let mut bench = Bench::with(options);
        bench.set(|settings| {
            (settings.keys, settings.seeds, settings.segments_per_flow) = (1, SEEDS, 4096);
        });
        Self { bench, ports: 0 }
    }

    fn blocking(keys: impl IntoIterator<Item = Keys>) -> Self {
        let mut wire = Self::new();
        for keys in keys {
            wire.bench.block(Slot::Fingerprint(keys.key), None);
        }
        wire
    }

    /// The SYN of a connection of its own.
    fn open(&mut self, v6: bool) -> Row {
        self.ports += 1;
        let mut row = Row::new(&[]).client_port(1024 + (self.ports % 60_000) as u16);
        if v6 {
            row = row.v6();
        } else {
            row.source.set_ip(std::net::Ipv4Addr::from(0x0a00_0000 + self.ports / 60_000).into());
        }
        assert_eq!(self.bench.act(&row.clone().seq(BASE.wrapping_sub(1)).syn().frame()), PASS);
        row
    }

    fn send(&mut self, connection: &Row, (place, bytes): &Piece) -> Fate {
        let row = Row { payload: bytes.clone(), ..connection.clone() }.seq(BASE.wrapping_add(*place as u32));
        let action = self.bench.act(&row.frame());
        let events = self.bench.events();
        let keys = events.iter().find(|(header, _)| header.key != 0).map(|(header, payload)| {
            assert_eq!((header.hello_seq, payload), (BASE, bytes), "what userspace gets is what came");
            Keys { key: header.key, stable: header.key_stable }
        });
        Fate { dropped: action == DROP, keys }
    }

    /// Sends the segments of a hello: the one that completes it, and no other, is dropped if `blocked`, again and again,
    /// and has its keys.
    fn assert(&mut self, connection: &Row, sample: &Sample, pieces: &[Piece], blocked: bool) {
        let keys = sample.hello.fingerprint.keys;
        let mut here = vec![false; sample.stream.len()];
        for (number, (place, bytes)) in pieces.iter().enumerate() {
            let after: Vec<bool> =
                (0..).zip(&here).map(|(at, here)| *here || (*place..place + bytes.len()).contains(&at)).collect();
            let completes = after.iter().all(|here| *here);
            let expected = Fate { dropped: completes && blocked, keys: completes.then_some(keys) };
            let fate = self.send(connection, &pieces[number]);
            let shape: Vec<_> = pieces.iter().map(|(place, bytes)| (*place, place + bytes.len())).collect();
            assert_eq!(fate, expected, "{}: {number} of {shape:?}", sample.name);
            if completes && !blocked {
                return;
            }
            if !completes {
                here = after;
            }
        }
        assert!(blocked, "the pieces are the whole hello");
    }

    fn count(&self, counter: Counter) -> u64 {
        self.bench.counters().of(counter)
    }
}

fn full() -> bool {
    std::env::var_os("DETECTOR_TEST_FULL").is_some()
}

/// A hello of Chrome's, which spans two segments of an Ethernet.
fn chrome() -> &'static Sample {
    samples().iter().find(|sample| sample.stream.len() > 1700).expect("a hello of a browser")
}

/// `stream` cut into so many pieces.
fn cut(stream: &[u8], pieces: usize, dice: &mut Dice) -> Vec<Piece> {
    let mut places = vec![0, stream.len()];
    while places.len() < pieces + 1 {
        places.push(1 + dice.below(stream.len() - 1));
        places.sort_unstable();
        places.dedup();
    }
    places.array_windows().map(|[from, to]| (*from, stream[*from..*to].to_vec())).collect()
}

#[test]
fn every_hello_is_blocked_in_whatever_order_its_pieces_come() {
    let mut wire = Wire::blocking(samples().iter().map(|sample| sample.hello.fingerprint.keys));
    let mut dice = Dice(1);
    let turns = if full() { 100 } else { 3 };
    for sample in samples() {
        for turn in 0..2 * turns {
            let number = 2 + dice.below(11);
            let mut pieces = cut(&sample.stream, number, &mut dice);
            dice.shuffle(&mut pieces);
            let connection = wire.open(turn % 2 == 1);
            wire.assert(&connection, sample, &pieces, true);
            // The last once more; and then all of it, in order and in one piece.
            let last = &pieces[number - 1..];
            wire.assert(&connection, sample, &[&pieces[..number - 1], last, last].concat(), true);
            assert!(wire.send(&connection, &(0, sample.stream.clone())).dropped);
        }
    }
    let hellos = samples().len() * turns * 2;
    // What the program has no room for, or can't read, would be here.
    for counter in [Counter::KeysDisordered, Counter::KeysEvicted, Counter::KeysBeyond, Counter::KeysMalformed] {
        assert_eq!(wire.count(counter), 0, "{counter:?}");
    }
    wire.bench.assert_sums();
    println!("{hellos} hellos in 2 to 12 pieces in any order, half of them over IPv6: all blocked");
}

#[test]
fn all_720_orders_of_six_pieces_lead_to_the_same_fate() {
    let sample = chrome();
    for blocked in [true, false] {
        let keys = sample.hello.fingerprint.keys;
        let mut wire = if blocked { Wire::blocking([keys]) } else { Wire::new() };
        let edges: Vec<usize> = (0..=6).map(|place| sample.stream.len() * place / 6).collect();
        let pieces: Vec<Piece> =
            edges.array_windows().map(|[from, to]| (*from, sample.stream[*from..*to].to_vec())).collect();
        let mut orders = 0;
        for order in 0..720 {
            // The factorial digits of its number name an order.
            let (mut left, mut rest, mut these) = (pieces.clone(), order, Vec::new());
            for of in (1..=6).rev() {
                these.push(left.remove(rest % of));
                rest /= of;
            }
            for v6 in [false, true] {
                let connection = wire.open(v6);
                wire.assert(&connection, sample, &these, blocked);
            }
            orders += 1;
        }
        assert_eq!((orders, wire.count(Counter::KeysComputed)), (720, 1440));
    }
}

#[test]
fn single_bytes_in_any_order_are_put_together() {
    let sample = chrome();
    let mut wire = Wire::blocking([sample.hello.fingerprint.keys]);
    let mut dice = Dice(2);
    for v6 in [false, true, false, true] {
        let mut pieces: Vec<Piece> = (0..).zip(sample.stream.iter().map(|byte| vec![*byte])).collect();
        dice.shuffle(&mut pieces);
        let connection = wire.open(v6);
        wire.assert(&connection, sample, &pieces, true);
    }
}

/// Pieces that overlap, come twice, and lie within each other, with the same bytes for each place.
#[test]
fn what_comes_twice_changes_nothing() {
    let mut wire = Wire::blocking([chrome().hello.fingerprint.keys]);
    let mut dice = Dice(3);
    for turn in 0..if full() { 5_000 } else { 500 } {
        let sample = chrome();
        let mut pieces = cut(&sample.stream, 2 + dice.below(6), &mut dice);
        for _ in 0..1 + dice.below(8) {
            let from = dice.below(sample.stream.len());
            let to = (from + 1 + dice.below(900)).min(sample.stream.len());
            pieces.push((from, sample.stream[from..to].to_vec()));
        }
        dice.shuffle(&mut pieces);
        let connection = wire.open(turn % 2 == 1);
        wire.assert(&connection, sample, &pieces, true);
    }
}

/// The keys that userspace finds in a hello in one record.
fn ours(record: &[u8]) -> Keys {
    let Parsed::Complete(hello) = hello::parse(&record[5..]) else { panic!("a hello") };
    key::keys(&hello, Transport::Tcp, &SEEDS)
}

/// Other bytes for one place are no way past a verdict: what Linux reads is what is judged.
#[test]
fn of_two_bytes_for_a_place_the_servers_counts() {
    let (stream, keys) = (&chrome().stream, chrome().hello.fingerprint.keys);
    let whole = |from: usize, to: usize| (from, stream[from..to].to_vec());
    // A byte of a cipher suite.
    let place = 44 + usize::from(stream[43]) + 3;
    let mut other = stream.clone();
    other[place] ^= 1;
    let decoy = |from: usize, to: usize| (from, other[from..to].to_vec());
    let end = stream.len();
    let real = [
        ("in sequence, over a decoy that waits", vec![decoy(place, place + 1), whole(0, end)]),
        ("in sequence in two", vec![decoy(place - 2, place + 9), whole(0, 50), whole(50, end)]),
        ("around a decoy that waits", vec![decoy(place, place + 1), whole(50, end), whole(0, 50)]),
        ("from where a decoy that waits begins", vec![decoy(place, place + 1), whole(place, end), whole(0, place)]),
        ("before a decoy that comes later", vec![whole(50, end), decoy(place, place + 1), whole(0, 50)]),
        ("before a longer decoy", vec![whole(50, place + 1), decoy(place, end), whole(place + 1, end), whole(0, 50)]),
        ("before a decoy of what was read", vec![whole(0, place + 1), decoy(0, 300), whole(300, end)]),
    ];
    let mut wire = Wire::blocking([keys]);
    for (what, pieces) in real {
        for v6 in [false, true] {
            let connection = wire.open(v6);
            let fates: Vec<Fate> = pieces.iter().map(|piece| wire.send(&connection, piece)).collect();
            let (last, before) = fates.split_last().expect("some");
            assert_eq!(last, &Fate { dropped: true, keys: Some(keys) }, "{what}");
            assert!(before.iter().all(|fate| *fate == PASSED), "{what}: {before:?}");
        }
    }
    // And the other way round: who has these bytes from the server's point of view isn't blocked.
    let connection = wire.open(false);
    assert_eq!(wire.send(&connection, &whole(place, end)), PASSED);
    assert_eq!(wire.send(&connection, &decoy(0, place + 1)), Fate { dropped: false, keys: Some(ours(&other)) });
}

/// What the server has of a stream, byte by byte, by the rule of the program's `waiting`.
#[derive(Clone, Default)]
struct Server {
    /// What it has read.
    read: Vec<u8>,
    /// What waits, by its place.
    waits: BTreeMap<usize, u8>,
    /// Where segments that wait end.
    ends: BTreeSet<usize>,
}

impl Server {
    /// What it will have with this segment.
    fn with(&self, (place, bytes): &Piece) -> Self {
        let mut then = self.clone();
        let read = self.read.len();
        let new = (*place..).zip(bytes).map(|(place, byte)| (place, *byte));
        if *place <= read {
            then.read.extend(new.filter(|(place, _)| *place >= read).map(|(_, byte)| byte));
            while let Some(byte) = then.waits.get(&then.read.len()) {
                then.read.push(*byte);
            }
            return then;
        }
        let waits = |place| self.waits.contains_key(&place);
        let joins = self.ends.contains(place);
        let free = new.clone().map(|(place, _)| place).find(|place| !waits(*place));
        if free.is_some() || joins {
            let within = waits(*place) && waits(place - 1) && !joins;
            then.waits.extend(new.filter(|(place, _)| !within || Some(*place) >= free));
            then.ends.insert(place + bytes.len());
        }
        then
    }
}

/// Two hellos mixed up at random: what is blocked is what the rule says.
#[test]
fn segments_that_contradict_each_other_are_read_by_the_rule() {
    let stream = &chrome().stream;
    let place = 44 + usize::from(stream[43]) + 3;
    let mut other = stream.clone();
    for byte in &mut other[place..place + 20] {
        *byte ^= 1;
    }
    let blocks = ours(stream);
    let mut wire = Wire::blocking([blocks]);
    let mut dice = Dice(5);
    let (mut blocked, mut mixed) = (0, 0);
    for turn in 0..if full() { 100_000 } else { 5_000 } {
        let source = if dice.one_in(2) { stream } else { &other };
        let mut pieces = cut(source, 2 + dice.below(6), &mut dice);
        for _ in 0..1 + dice.below(5) {
            // Mostly where the two differ.
            let from = if dice.one_in(3) { dice.below(stream.len()) } else { place - 20 + dice.below(60) };
            let to = (from + 1 + dice.below(60)).min(stream.len());
            let source = if dice.one_in(2) { stream } else { &other };
            pieces.push((from, source[from..to].to_vec()));
        }
        dice.shuffle(&mut pieces);
        let connection = wire.open(turn % 2 == 1);
        let mut server = Server::default();
        for piece in &pieces {
            let then = server.with(piece);
            let found = (then.read.len() >= stream.len()).then(|| ours(&then.read));
            let dropped = found == Some(blocks);
            assert_eq!(wire.send(&connection, piece), Fate { dropped, keys: found }, "{pieces:?}");
            (blocked, mixed) = (blocked + u32::from(dropped), mixed + u32::from(found.is_some() && !dropped));
            if found.is_some() && !dropped {
                break;
            }
            if !dropped {
                server = then;
            }
        }
    }
    assert!(blocked > 1000 && mixed > 1000, "{blocked} blocked, {mixed} others");
}

/// What was dropped never was: another segment in its place is judged by its own bytes and what the server has.
#[test]
fn a_dropped_segment_leaves_no_byte_behind() {
    let (stream, keys) = (&chrome().stream, chrome().hello.fingerprint.keys);
    let place = 44 + usize::from(stream[43]) + 3;
    let mut other = stream.clone();
    other[place] ^= 1;
    let mut wire = Wire::blocking([keys]);
    let connection = wire.open(false);
    let blocked = Fate { dropped: true, keys: Some(keys) };
    assert_eq!(wire.send(&connection, &(1000, stream[1000..].to_vec())), PASSED);
    assert_eq!(wire.send(&connection, &(0, stream[..1000].to_vec())), blocked);
    assert_eq!(wire.send(&connection, &(0, stream[..900].to_vec())), PASSED, "the rest of it was dropped");
    assert_eq!(wire.send(&connection, &(900, stream[900..1001].to_vec())), blocked);
    let connection = wire.open(false);
    assert_eq!(wire.send(&connection, &(1000, stream[1000..].to_vec())), PASSED);
    assert_eq!(wire.send(&connection, &(0, stream[..1000].to_vec())), blocked);
    let passes = Fate { dropped: false, keys: Some(ours(&other)) };
    assert_eq!(wire.send(&connection, &(0, other[..1000].to_vec())), passes);
}

/// Bytes behind the hello, however far, hide nothing of it.
#[test]
fn what_comes_behind_a_hello_is_no_part_of_it() {
    let (sample, keys) = (chrome(), chrome().hello.fingerprint.keys);
    let stream = &sample.stream;
    for (place, len) in [(stream.len(), 1), (stream.len() + 7, 1400), (4090, 300), (9000, 1448), (16_000, 1448)] {
        let mut wire = Wire::blocking([keys]);
        let connection = wire.open(false);
        assert_eq!(wire.send(&connection, &(place, vec![23; len])), PASSED);
        assert_eq!(wire.send(&connection, &(700, stream[700..].to_vec())), PASSED);
        assert_eq!(wire.send(&connection, &(0, stream[..700].to_vec())), Fate { dropped: true, keys: Some(keys) });
    }
}

/// A hello with so many cipher suites.
fn wide(ciphers: usize) -> Vec<u8> {
    let list: Vec<u8> = (0..ciphers * 2).map(|place| place as u8).collect();
    let length = |length: usize| (length as u16).to_be_bytes();
    let body = [&[3, 3][..], &[7; 32], &[0], &length(list.len()), &list, &[1, 0]].concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[test]
fn large_hellos_are_put_together_as_far_as_there_is_room() {
    let stream = wide(2500);
    let keys = ours(&stream);
    let mut wire = Wire::blocking([keys]);
    // Each turn of it waits for one segment only, so that there is room for what comes ahead.
    let near = [(0, 1000), (2000, 3000), (1000, 2000), (4000, 5048), (3000, 4000)];
    let connection = wire.open(false);
    let fates: Vec<Fate> =
        near.iter().map(|(from, to)| wire.send(&connection, &(*from, stream[*from..*to].to_vec()))).collect();
    assert_eq!(fates.last(), Some(&Fate { dropped: true, keys: Some(keys) }));
    assert_eq!(wire.count(Counter::KeysDisordered), 0);
    // More than 4,096 bytes ahead of the first one that is missing.
    let connection = wire.open(false);
    for (from, to) in [(4000, 5048), (2000, 4000), (0, 2000)] {
        assert_eq!(wire.send(&connection, &(from, stream[from..to].to_vec())), PASSED);
    }
    assert_eq!(wire.count(Counter::KeysDisordered), 1);
}

/// A table that is too small for all of them: the keys of those that had to go are absent, and counted.
#[test]
fn hellos_that_were_evicted_are_left_to_userspace() {
    const HELLOS: usize = 2000;
    let sample = chrome();
    let keys = sample.hello.fingerprint.keys;
    let mut wire = Wire::with(LoadOptions { waiting: 300, ..LoadOptions::default() });
    wire.bench.block(Slot::Fingerprint(keys.key), None);
    let (head, tail) = ((0, sample.stream[..700].to_vec()), (700, sample.stream[700..].to_vec()));
    let connections: Vec<Row> = (0..HELLOS).map(|_| wire.open(false)).collect();
    for connection in &connections {
        assert_eq!(wire.send(connection, &tail), PASSED);
    }
    // The latest first: those that are still there.
    let fates: Vec<Fate> = connections.iter().rev().map(|connection| wire.send(connection, &head)).collect();
    let blocked = fates.iter().filter(|fate| **fate == Fate { dropped: true, keys: Some(keys) }).count();
    assert_eq!(fates.iter().filter(|fate| **fate == PASSED).count(), HELLOS - blocked);
    assert!((1..=300).contains(&blocked), "{blocked} of 300 were put together");
    assert_eq!(wire.count(Counter::KeysComputed), blocked as u64);
    assert_eq!(wire.count(Counter::KeysEvicted), (HELLOS - blocked) as u64);
}

/// What waited for a connection that is over says nothing about the next one on its ports.
#[test]
fn a_new_connection_begins_anew() {
    let mut wire = Wire::new();
    let mut dice = Dice(4);
    let (first, second) = (Draft::any(&mut dice).record(&mut dice), &chrome().stream);
    let connection = wire.open(false);
    assert_eq!(wire.send(&connection, &(0, first[..30].to_vec())), PASSED);
    assert_eq!(wire.send(&connection, &(40, first[40..].to_vec())), PASSED);
    let next = |row: Row| row.seq(BASE.wrapping_add(99_999));
    assert_eq!(wire.bench.act(&next(connection.clone()).syn().frame()), PASS);
    let mut fate = None;
    for (from, to) in [(60, second.len()), (0, 30), (30, 60)] {
        let row = Row { payload: second[from..to].to_vec(), ..connection.clone() };
        let row = row.seq(BASE.wrapping_add(100_000 + from as u32));
        assert_eq!(wire.bench.act(&row.frame()), PASS);
        fate = wire.bench.events().last().map(|(header, _)| header.key);
    }
    assert_eq!(fate, Some(chrome().hello.fingerprint.keys.key));
}

/// After a HelloRetryRequest the second hello comes behind a ChangeCipherSpec record (RFC 8446 appendix D.4).
#[test]
fn a_hello_behind_a_change_cipher_spec_has_its_keys() {
    let keys = chrome().hello.fingerprint.keys;
    let mut wire = Wire::blocking([keys]);
    let stream = [&[20, 3, 3, 0, 1, 1][..], &chrome().stream].concat();
    let orders: [&[(usize, usize)]; 6] = [
        &[(0, stream.len())],
        &[(0, 12), (12, stream.len())],
        &[(0, 700), (700, stream.len())],
        &[(0, 13), (13, 14), (14, 20), (20, stream.len())],
        &[(0, 700), (1400, stream.len()), (700, 1400)],
        &[(0, 300), (200, stream.len())],
    ];
    for order in orders {
        // No SYN, or long ago: it is never the first of its connection.
        wire.ports += 1;
        let row = Row::new(&[]).client_port(1024 + wire.ports as u16);
        for (from, to) in order {
            let row = Row { payload: stream[*from..*to].to_vec(), ..row.clone() }.seq(5000 + *from as u32);
            let action = wire.bench.act(&row.frame());
            let [(header, _)] = &wire.bench.events()[..] else { panic!("an event") };
            let last = (*from, *to) == order[order.len() - 1];
            assert_eq!(action, if last { DROP } else { PASS }, "{order:?}");
            let expected = if last { (keys.key, 5006) } else { (0, 0) };
            assert_eq!((header.key, header.hello_seq), expected, "{order:?}");
        }
    }
}
