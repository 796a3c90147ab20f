//! threats.md T13, T17, T18: what a flow, a source and everybody together may cost.

use std::time::Duration;

use detector::capture::Segment;
use detector::clock::Timestamp;
use detector::pipeline::{Cause, Limits, Outcome, Pipeline};

use crate::fixture::{Said, data, few, flow, run, run_with, syn};

fn at(segment: Segment<'_>, millis: u64) -> Segment<'_> {
    Segment { at: Timestamp::from_nanos(millis * 1_000_000), ..segment }
}

/// A record header and the beginning of a message that claims `length` bytes.
fn claiming(length: u32) -> Vec<u8> {
    let [_, high, middle, low] = length.to_be_bytes();
    [&[22, 3, 1, 0x40, 0, 1, high, middle, low, 3, 3][..], &[7; 40]].concat()
}

/// T17: nothing is stored for a claim.
#[test]
fn ten_thousand_flows_that_claim_sixteen_mebibytes() {
    let claim = claiming(0x00ff_ffff);
    let mut said = Said::default();
    let mut pipeline = Pipeline::new(Limits::default());
    for number in 0..10_000 {
        let flow = flow(u32::from(number) / 100, number);
        pipeline.push(&data(flow, 1000, &claim), &mut |outcome| said.note(outcome));
        assert_eq!(pipeline.partial_bytes(), 0);
    }
    assert_eq!(said.causes(), vec![Cause::Oversize; 10_000]);
}

#[test]
fn a_hello_that_cannot_fit_is_evasive_at_its_first_bytes() {
    for length in [16_376, 30_000, 65_535] {
        assert_eq!(run([data(flow(1, 1), 0, &claiming(length))]).causes(), [Cause::Evasive], "{length}");
    }
    assert_eq!(run([data(flow(1, 1), 0, &claiming(65_536))]).causes(), [Cause::Oversize]);
    assert_eq!(run([data(flow(1, 1), 0, &claiming(16_000))]).causes(), [Cause::Truncated]);
}

/// T13: segments.
#[test]
fn more_segments_than_a_hello_may_have_are_evasive() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let bytes = || sample.stream.chunks(1).zip(5_u32..).map(|(byte, seq)| data(flow, seq, byte));
    assert_eq!(run(bytes()).hellos.len(), 1);
    let limits = Limits { segments_per_flow: 1000, ..Limits::default() };
    let said = run_with(limits, bytes());
    assert_eq!((said.hellos.len(), said.causes()), (0, vec![Cause::Evasive]));
    // Repetitions count too: they cost as much.
    let again = (0..5000).map(|_| data(flow, 5, &sample.stream[..10]));
    assert_eq!(run(again).causes(), [Cause::Evasive]);
}

/// T13: gaps.
#[test]
fn more_gaps_than_a_hello_may_have_are_evasive() {
    let sample = few()[0];
    let flow = flow(1, 1);
    let limits = Limits { holes_per_flow: 32, ..Limits::default() };
    let every_other = |count: usize| {
        let bytes = sample.stream.chunks(1).zip(5_u32..).skip(1).step_by(2).take(count);
        [syn(flow, 5)].into_iter().chain(bytes.map(|(byte, seq)| data(flow, seq, byte)))
    };
    assert_eq!(run_with(limits, every_other(32)).causes(), [Cause::Truncated]);
    assert_eq!(run_with(limits, every_other(33)).causes(), [Cause::Evasive]);
}

/// T18: a hundred thousand hellos that never end, from a thousand sources, and honest ones in between.
#[test]
fn partial_hellos_of_a_thousand_sources() {
    let limits = Limits::default();
    let sample = few()[0];
    let (head, tail) = sample.stream.split_at(1448);
    let mut said = Said::default();
    let mut pipeline = Pipeline::new(limits);
    let mut most = 0;
    let mut honest = 0;
    let mut millis = 0;
    for number in 0..100_u16 {
        for source in 0..1000_u32 {
            let partial = at(data(flow(source, number), 77, head), millis);
            pipeline.push(&partial, &mut |outcome| said.note(outcome));
            most = most.max(pipeline.partial_bytes());
            assert!(pipeline.partial_hellos() <= limits.partial_hellos);
        }
        let flow = flow(5000 + u32::from(number), 9);
        pipeline.push(&at(data(flow, 77, head), millis), &mut |outcome| said.note(outcome));
        millis += 10;
        pipeline.push(&at(data(flow, 77 + 1448, tail), millis), &mut |outcome| said.note(outcome));
        honest += 1;
    }
    assert_eq!(said.hellos.len(), honest, "honest hellos are all read");
    assert!(most <= limits.partial_bytes + 4096, "{most} bytes");
    assert!(said.causes().iter().all(|cause| *cause == Cause::Evicted));
    let end = Timestamp::from_nanos(millis * 1_000_000);
    pipeline.expire(end.plus(Duration::from_secs(12)), usize::MAX, &mut |outcome| said.note(outcome));
    assert_eq!((pipeline.partial_hellos(), pipeline.partial_bytes()), (0, 0));
    assert_eq!(said.lost.len(), 100_000);
    assert_eq!(said.segments(), 100_000 + 200);
}

#[test]
fn one_source_evicts_its_own_oldest_hello_and_nobody_elses() {
    let limits = Limits { partials_per_source: 3, ..Limits::default() };
    let head = &few()[0].stream[..100];
    let mut lost = Vec::new();
    let mut pipeline = Pipeline::new(limits);
    let mut push = |segment: Segment<'_>| {
        pipeline.push(&segment, &mut |outcome| {
            if let Outcome::Lost { flow, cause, .. } = outcome {
                lost.push((flow, cause));
            }
        });
    };
    push(data(flow(9, 1), 0, head));
    for number in 1..=5 {
        push(data(flow(1, number), 0, head));
    }
    assert_eq!(lost, [(flow(1, 1), Cause::Evicted), (flow(1, 2), Cause::Evicted)]);
}

#[test]
fn a_hello_that_takes_too_long_is_lost() {
    let sample = few()[0];
    let (head, tail) = sample.stream.split_at(500);
    let flow = flow(1, 1);
    let said = run([at(data(flow, 0, head), 0), at(data(flow, 500, tail), 10_000)]);
    assert_eq!(said.hellos.len(), 1);
    let said = run([at(data(flow, 0, head), 0), at(data(flow, 500, tail), 10_001)]);
    assert_eq!((said.hellos.len(), said.causes()), (0, vec![Cause::Timeout]));
}

/// A reader that stood still reads what came long ago, and between that what comes now.
#[test]
fn what_is_still_to_be_read_has_time_until_it_is() {
    let sample = few()[0];
    let (head, tail) = sample.stream.split_at(500);
    let (early, late) = (flow(1, 1), flow(2, 1));
    for (taken_until, found) in [(Some(Timestamp::default()), 1), (None, 0)] {
        let (mut pipeline, mut hellos) = (Pipeline::new(Limits::default()), 0);
        let mut outcomes = |outcome: Outcome| hellos += usize::from(matches!(outcome, Outcome::Hello(_)));
        pipeline.push(&at(data(early, 0, head), 0), &mut outcomes);
        pipeline.behind(taken_until);
        pipeline.push(&at(data(late, 0, head), 60_000), &mut outcomes);
        pipeline.expire(Timestamp::from_nanos(60_000_000_000), 16, &mut outcomes);
        pipeline.behind(None);
        pipeline.push(&at(data(early, 500, tail), 100), &mut outcomes);
        assert_eq!(hellos, found, "{taken_until:?}");
    }
}
