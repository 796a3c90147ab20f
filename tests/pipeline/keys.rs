//! The kernel's keys, computed without a kernel: the same code reads the same segments. They are userspace's, and they
//! tell hellos apart exactly as their JA4 does.

use std::collections::BTreeMap;

use detector::capture::{KernelKeys, Segment};
use detector::fingerprint::ja4::{Order, Parts};
use detector::fingerprint::{Ja4Raw, Transport, key};
use detector::fuzzing::read_keys;
use detector::pipeline::KeyCheck;
use detector::tls::{Parsed, hello, hello::ClientHello};
use detector_common::key::{Keys, parser::Step};
use detector_tests::drafts::{Change, Dice, Draft};

use crate::fixture::{SEEDS, data, few, flow, run, samples, syn};

/// The hello in one record.
fn with_hello<T>(record: &[u8], use_it: impl FnOnce(&ClientHello<'_>) -> T) -> T {
    let Parsed::Complete(hello) = hello::parse(&record[5..]) else { panic!("a hello") };
    use_it(&hello)
}

/// What userspace says of it: the keys, and what they are the keys of.
fn ours(record: &[u8]) -> (Keys, String, String) {
    with_hello(record, |hello| {
        let parts = Parts::new(hello, Transport::Tcp);
        let (keys, raw) = (key::keys(hello, Transport::Tcp, &SEEDS), parts.raw(Order::Sorted));
        let read: Ja4Raw = raw.parse().expect("a JA4_r");
        let read_keys = read.keys(&SEEDS);
        assert_eq!((read_keys.key, read.ja4()), (keys.key, parts.ja4(Order::Sorted)), "of {raw}");
        // JA4 counts to 99: of more extensions the text doesn't say how many a stable one has.
        assert!(read_keys.stable == keys.stable || &raw[6..8] == "99", "of {raw}");
        (keys, raw, parts.raw(Order::Stable))
    })
}

fn assert_read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, keys: Keys, what: &str) {
    assert_eq!(read_keys(pieces, &SEEDS), (Step::Done, keys), "{what}");
}

/// `record` cut at `cuts` places.
fn pieces<'a>(record: &'a [u8], cuts: usize, dice: &mut Dice) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = (0..cuts).map(|_| 1 + dice.below(record.len() - 1)).collect();
    places.extend([0, record.len()]);
    places.sort_unstable();
    places.dedup();
    places.array_windows().map(|[from, to]| &record[*from..*to]).collect()
}

#[test]
fn every_hello_has_userspaces_keys_in_whatever_pieces_it_comes() {
    let mut dice = Dice(1);
    for sample in samples() {
        let keys = sample.hello.fingerprint.keys;
        let raw: Ja4Raw = sample.hello.fingerprint.ja4_r.parse().expect("a JA4_r");
        assert_eq!((raw.keys(&SEEDS), raw.ja4()), (keys, sample.hello.fingerprint.ja4), "{raw}");
        for size in [1, 2, 3, 16, 17, 536, 1448, sample.stream.len()] {
            assert_read(sample.stream.chunks(size), keys, &sample.name);
        }
        for _ in 0..100 {
            let cuts = 2 + dice.below(10);
            assert_read(pieces(&sample.stream, cuts, &mut dice), keys, &sample.name);
        }
    }
    for sample in few() {
        for cut in 1..sample.stream.len() {
            let (head, tail) = sample.stream.split_at(cut);
            assert_read([head, tail], sample.hello.fingerprint.keys, &sample.name);
            assert_eq!(read_keys([head], &SEEDS).0, Step::More, "{} cut at {cut}", sample.name);
        }
    }
}

#[test]
fn bytes_after_the_hello_change_nothing() {
    for sample in few() {
        let more = [&sample.stream[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3, 0]].concat();
        assert_read([&more[..]], sample.hello.fingerprint.keys, &sample.name);
        let (head, tail) = more.split_at(sample.stream.len() - 1);
        assert_read([head, tail], sample.hello.fingerprint.keys, &sample.name);
    }
}

/// As a client may send it after a HelloRetryRequest; once, and nothing else of its kind.
#[test]
fn a_change_cipher_spec_before_the_hello_changes_nothing() {
    let record = [20, 3, 3, 0, 1, 1];
    for sample in few() {
        let stream = [&record[..], &sample.stream].concat();
        for size in [1, 2, 5, 6, 7, 11, 12, 17, 1448, stream.len()] {
            assert_read(stream.chunks(size), sample.hello.fingerprint.keys, &sample.name);
        }
        let twice = [&record[..], &stream].concat();
        assert_eq!(read_keys([&twice[..]], &SEEDS).0, Step::Malformed);
        for (at, value) in [(0, 21), (1, 2), (4, 2), (5, 2)] {
            let mut bad = stream.clone();
            bad[at] = value;
            assert_eq!(read_keys([&bad[..]], &SEEDS).0, Step::Malformed, "{value} at {at}");
        }
    }
}

#[test]
fn one_key_for_one_ja4_and_one_ja4_for_one_key() {
    let (mut by_text, mut by_key) = (BTreeMap::new(), BTreeMap::new());
    let mut note = |key: u64, text: String| {
        assert_eq!(*by_text.entry(text.clone()).or_insert(key), key, "two keys of {text}");
        assert_eq!(*by_key.entry(key).or_insert_with(|| text.clone()), text, "one key of two");
    };
    let mut dice = Dice(2);
    let records = samples().iter().map(|sample| sample.stream.clone());
    let drafts = (0..20_000).map(|_| Draft::any(&mut dice).record(&mut Dice(3)));
    for record in records.chain(drafts) {
        let (keys, raw, stable) = ours(&record);
        note(keys.key, raw);
        note(keys.stable, stable);
    }
    assert!(by_text.len() > 20_000, "{}", by_text.len());
    assert!(!by_key.contains_key(&0), "0 stands for no key");
}

#[test]
fn only_what_a_ja4_says_changes_a_key() {
    let mut dice = Dice(4);
    let mut changed = BTreeMap::new();
    for base in 0..10_000 {
        let draft = Draft::any(&mut dice);
        let mut look = |draft: &Draft| {
            let record = draft.record(&mut dice);
            let (keys, raw, stable) = ours(&record);
            let cuts = dice.below(4);
            assert_read(pieces(&record, cuts, &mut dice), keys, &raw);
            (keys, raw, stable)
        };
        let original = look(&draft);
        let same = draft.same(&mut Dice(base));
        assert_eq!(look(&same), original, "{draft:?}, and {same:?}");
        if let Some(resumed) = draft.resumed(&mut Dice(base)) {
            let (keys, raw, stable) = look(&resumed);
            assert_eq!((keys.stable, &stable), (original.0.stable, &original.2), "{draft:?}, and {resumed:?}");
            assert_eq!(keys.key == original.0.key, raw == original.1);
            *changed.entry("Resumed".to_owned()).or_insert(0) += u32::from(raw != original.1);
        }
        for change in Change::ALL {
            let Some(other) = draft.changed(*change, &mut Dice(base)) else { continue };
            let (keys, raw, stable) = look(&other);
            assert_ne!(raw, original.1, "{change:?} of {draft:?}");
            assert_ne!(keys.key, original.0.key, "{change:?} of {draft:?}");
            assert_eq!(keys.stable == original.0.stable, stable == original.2, "{change:?} of {draft:?}");
            *changed.entry(format!("{change:?}")).or_insert(0) += 1;
        }
    }
    assert_eq!(changed.len(), 7);
    assert!(changed.values().all(|times| *times > 5_000), "{changed:?}");
    println!("10,000 hellos: {changed:?}");
}

#[test]
fn what_userspace_rejects_has_no_key_and_several_records_are_left_to_it() {
    let sample = few()[0];
    let (first, second) = sample.stream[5..].split_at(100);
    let record = |bytes: &[u8]| [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let two = [record(first), record(second)].concat();
    assert_eq!(read_keys([&two[..]], &SEEDS).0, Step::Beyond);
    for (at, value) in [(0, 23), (1, 2), (3, 0x50), (5, 2), (43, 33), (77, 7)] {
        let mut bad = sample.stream.clone();
        bad[at] = value;
        let step = read_keys([&bad[..]], &SEEDS).0;
        assert!(matches!(step, Step::Malformed | Step::Beyond), "{step:?} with {value} at {at}");
    }
}

#[test]
fn the_kernels_keys_are_compared_where_they_are_of_the_same_hello() {
    let sample = few()[0];
    let (flow, ours) = (flow(1, 1), sample.hello.fingerprint.keys);
    let (head, tail) = sample.stream.split_at(700);
    let said = |first_seq: u32, keys: Option<Keys>| {
        let keys = keys.map(|keys| KernelKeys { first_seq, keys });
        let last = Segment { keys, ..data(flow, 9 + 700, tail) };
        let said = run([syn(flow, 9), data(flow, 9, head), last]);
        said.hellos[0].keys
    };
    assert_eq!(said(9, None), KeyCheck::Absent);
    assert_eq!(said(9, Some(ours)), KeyCheck::Equal);
    assert_eq!(said(9, Some(Keys { key: ours.key ^ 1, ..ours })), KeyCheck::Mismatch);
    assert_eq!(said(9, Some(Keys { stable: ours.stable ^ 1, ..ours })), KeyCheck::Mismatch);
    assert_eq!(said(709, Some(Keys { key: 1, stable: 1 })), KeyCheck::Absent, "of a hello that begins in the last one");
}
