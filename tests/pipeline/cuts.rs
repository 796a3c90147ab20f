//! One hello, cut and reordered: its fingerprint stays, and a part of it never has one.

use detector::capture::Segment;
use detector::pipeline::Ignored;

use crate::fixture::{Dice, Sample, data, few, flow, run, samples, syn};

/// Where the numbers wrap in the middle of each hello.
const BASE: u32 = u32::MAX - 300;

/// The stream of `sample` cut at `cuts`, as (offset, bytes).
fn pieces<'a>(sample: &'a Sample, cuts: &[usize]) -> Vec<(usize, &'a [u8])> {
    let mut at = 0;
    let mut pieces = Vec::new();
    for cut in cuts.iter().copied().chain([sample.stream.len()]) {
        if cut > at {
            pieces.push((at, &sample.stream[at..cut]));
            at = cut;
        }
    }
    pieces
}

fn check(sample: &Sample, pieces: &[(usize, &[u8])], what: &str) {
    let flow = flow(1, 40_000);
    let segments = pieces.iter().map(|(offset, bytes)| data(flow, BASE.wrapping_add(*offset as u32), bytes));
    let said = run([syn(flow, BASE)].into_iter().chain(segments));
    let [hello] = &said.hellos[..] else { panic!("{} {what}: {said:?}", sample.name) };
    assert_eq!(hello.fingerprint, sample.hello.fingerprint, "{} {what}", sample.name);
    assert_eq!(hello.segments as usize, pieces.len(), "{} {what}", sample.name);
    assert_eq!((hello.first_seq, hello.bytes), (BASE, sample.hello.bytes), "{} {what}", sample.name);
}

#[test]
fn two_segments_cut_anywhere() {
    for sample in few() {
        for cut in 1..sample.stream.len() {
            let mut pieces = pieces(sample, &[cut]);
            check(sample, &pieces, "in order");
            pieces.reverse();
            check(sample, &pieces, "reversed");
        }
    }
}

#[test]
fn every_hello_in_two_twelve_and_single_byte_segments_in_random_order() {
    let mut dice = Dice(1);
    for sample in samples() {
        for parts in [2, 12] {
            let mut cuts: Vec<usize> = (1..parts).map(|_| 1 + dice.below(sample.stream.len() - 1)).collect();
            cuts.sort_unstable();
            let mut pieces = pieces(sample, &cuts);
            dice.shuffle(&mut pieces);
            check(sample, &pieces, "random");
        }
        let every: Vec<usize> = (1..sample.stream.len()).collect();
        let mut pieces = pieces(sample, &every);
        dice.shuffle(&mut pieces);
        check(sample, &pieces, "single bytes");
    }
}

/// The worst order for the table of gaps: first every other byte.
#[test]
fn single_bytes_with_the_most_gaps() {
    for sample in few() {
        let every: Vec<usize> = (1..sample.stream.len()).collect();
        let (even, odd): (Vec<_>, Vec<_>) = pieces(sample, &every).into_iter().partition(|(offset, _)| offset % 2 == 0);
        check(sample, &[odd, even].concat(), "odd bytes first");
    }
}

#[test]
fn single_bytes_in_order_without_a_syn() {
    for sample in few() {
        let flow = flow(1, 40_000);
        let bytes = sample.stream.chunks(1).zip(0_u32..);
        let said = run(bytes.map(|(byte, offset)| data(flow, BASE.wrapping_add(offset), byte)));
        let [hello] = &said.hellos[..] else { panic!("{}: {said:?}", sample.name) };
        assert_eq!(hello.fingerprint, sample.hello.fingerprint);
    }
}

#[test]
fn all_orders_of_six_segments() {
    let mut orders = 0;
    for sample in few() {
        let sixth = sample.stream.len() / 6;
        let pieces = pieces(sample, &[sixth, 2 * sixth, 3 * sixth, 4 * sixth, 5 * sixth]);
        permute(&mut pieces.clone(), 0, &mut |order| {
            check(sample, order, "six");
            orders += 1;
        });
    }
    assert_eq!(orders, 720 * few().len());
}

fn permute<T: Copy>(items: &mut [T], from: usize, each: &mut impl FnMut(&[T])) {
    if from == items.len() {
        return each(items);
    }
    for index in from..items.len() {
        items.swap(from, index);
        permute(items, from + 1, each);
        items.swap(from, index);
    }
}

#[test]
fn no_proper_prefix_of_a_hello_has_a_fingerprint() {
    for sample in samples() {
        let every = if sample.name.contains("#1") || sample.stream.len() < 600 { 1 } else { 7 };
        for length in (0..sample.stream.len()).step_by(every).chain([sample.stream.len() - 1]) {
            let flow = flow(1, 40_000);
            let said = run([syn(flow, BASE), data(flow, BASE, &sample.stream[..length])]);
            assert_eq!(said.hellos, [], "{} cut at {length}", sample.name);
        }
    }
}

#[test]
fn a_capture_that_cuts_frames_loses_the_hello_and_says_so() {
    let sample = few()[0];
    let flow = flow(1, 40_000);
    let cut = Segment { payload_len: sample.stream.len(), ..data(flow, BASE, &sample.stream[..40]) };
    let bare = Segment { payload_len: 100, ..data(flow, BASE, &[]) };
    let said = run([syn(flow, BASE), bare, cut]);
    assert_eq!(said.hellos, []);
    assert_eq!(said.causes(), [detector::pipeline::Cause::Truncated]);
    assert_eq!(said.ignored, [Ignored::NoPayload, Ignored::Cut]);
}

/// threats.md T15: over records instead of segments.
#[test]
fn any_split_over_two_records() {
    for sample in few() {
        let message = &sample.stream[5..];
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        for cut in 1..message.len() {
            let stream = [record(&message[..cut]), record(&message[cut..])].concat();
            let flow = flow(1, 40_000);
            let said = run([syn(flow, BASE), data(flow, BASE, &stream)]);
            let [hello] = &said.hellos[..] else { panic!("{} cut at {cut}: {said:?}", sample.name) };
            assert_eq!(hello.fingerprint, sample.hello.fingerprint, "{} cut at {cut}", sample.name);
            assert_eq!(hello.facts.records, 2);
        }
    }
}
