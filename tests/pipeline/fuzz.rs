//! The fuzz targets on the kept corpus and on mutations of it, 30 seconds each (`DETECTOR_TEST_FUZZ_SECONDS`): without
//! coverage, and so on any toolchain. `cargo xtask fuzz` does it with libFuzzer. An input that fails is kept beside the
//! test's other files, and named.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};

use detector::fuzzing;

use crate::fixture::{Dice, path};

/// No input grows beyond this.
const LENGTH_MAX: usize = 32 * 1024;
/// Mutations between two looks at the clock.
const ROUND: usize = 64;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = path("../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("a kept corpus");
    let inputs: Vec<_> = files.map(|file| fs::read(file.expect("a file").path()).expect("a readable file")).collect();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}

/// What fuzzers do to inputs: bits, bytes, numbers at the edges, pieces left out, repeated or taken from others.
fn mutate(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut input = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let length = dice.below(input.len() - at + 1);
        match dice.below(7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..at + length.min(64))),
            2 => {
                let again = input[at..at + length].to_vec();
                input.splice(at..at, again);
            }
            3 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                let to = from + dice.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            4 => input.splice(at..at, [dice.next() as u8]).for_each(drop),
            kind => {
                let Some(byte) = input.get_mut(at) else { continue };
                const EDGES: [u8; 8] = [0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xff];
                *byte = if kind == 5 { *byte ^ 1 << dice.below(8) } else { EDGES[dice.below(8)] };
            }
        }
        input.truncate(LENGTH_MAX);
    }
    input
}

fn fuzz(target: &str, run: fn(&[u8])) {
    let seconds = env::var("DETECTOR_TEST_FUZZ_SECONDS").map_or(30, |text| text.parse().expect("a number of seconds"));
    let corpus = corpus(target);
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mut dice = Dice(seed);
    let check = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
            let kept = env::temp_dir().join(format!("detector-fuzz-{target}-{seed}"));
            fs::write(&kept, input).expect("room for one input");
            panic!("{target} failed on the input in `{}`", kept.display());
        }
    };
    corpus.iter().for_each(|input| check(input));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut runs = corpus.len();
    while Instant::now() < end {
        (0..ROUND).for_each(|_| check(&mutate(&corpus, &mut dice)));
        runs += ROUND;
    }
    println!("{target}: {runs} inputs");
}

#[test]
fn record() {
    fuzz("record", fuzzing::record);
}

#[test]
fn hello() {
    fuzz("hello", fuzzing::hello);
}

#[test]
fn reassembly() {
    fuzz("reassembly", fuzzing::reassembly);
}

#[test]
fn quic_initial() {
    fuzz("quic_initial", fuzzing::quic_initial);
}

#[test]
fn dtls() {
    fuzz("dtls", fuzzing::dtls);
}

#[test]
fn pcap() {
    fuzz("pcap", fuzzing::capture);
}

#[test]
fn report() {
    fuzz("report", fuzzing::report);
}

#[test]
fn stream() {
    fuzz("stream", fuzzing::stream);
}

#[test]
fn question() {
    fuzz("question", fuzzing::question);
}

#[test]
fn broker() {
    fuzz("broker", fuzzing::broker);
}

#[test]
fn control() {
    fuzz("control", fuzzing::control);
}

#[test]
fn scoring() {
    fuzz("scoring", fuzzing::scoring);
}

#[test]
fn list() {
    fuzz("list", fuzzing::list);
}
