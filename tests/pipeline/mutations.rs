//! A hundred thousand damaged hellos: none stops the program, none that lacks bytes has a JA4, each has its fate.

use detector::fuzzing;

use crate::fixture::{Dice, data, flow, path, run, samples, syn};

/// One damaged copy of `stream`; whether bytes at its end are missing and nothing else is wrong.
fn damage(stream: &[u8], dice: &mut Dice) -> (Vec<u8>, bool) {
    let mut bytes = stream.to_vec();
    let kind = dice.below(6);
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match kind {
            0 => bytes[at] = dice.next() as u8,
            1 => bytes[at] ^= 1 << dice.below(8),
            // The lengths of record, message, session id and their neighbours.
            2 => {
                let at = [3, 4, 6, 7, 8, 43, 76, 77][dice.below(8)].min(bytes.len() - 1);
                bytes[at] = dice.next() as u8;
            }
            3 => {
                let added: Vec<u8> = (0..dice.below(9)).map(|_| dice.next() as u8).collect();
                bytes.splice(at..at, added);
            }
            4 => {
                let end = (at + dice.below(9)).min(bytes.len());
                bytes.drain(at..end);
                bytes.push(0);
            }
            _ => {
                bytes.truncate(dice.below(stream.len()).min(bytes.len()).max(1));
            }
        }
    }
    (bytes, kind == 5)
}

#[test]
fn a_hundred_thousand_mutations() {
    let mut dice = Dice(2);
    let samples = samples();
    let mut hellos = 0;
    let mut fates = 0;
    for _ in 0..100_000 {
        let sample = &samples[dice.below(samples.len())];
        let (bytes, truncated) = damage(&sample.stream, &mut dice);
        let flow = flow(1, 1);
        let cut = dice.below(bytes.len());
        // `run` compares the sums: segments pushed and segments told.
        let said = run([syn(flow, 9), data(flow, 9, &bytes[..cut]), data(flow, 9 + cut as u32, &bytes[cut..])]);
        assert!(!truncated || said.hellos.is_empty(), "a part of {} has a JA4", sample.name);
        hellos += said.hellos.len();
        fates += said.hellos.len() + said.lost.len() + usize::from(said.hellos.is_empty() && said.lost.is_empty());
    }
    assert!((20_000..95_000).contains(&hellos), "the damage is too light or too heavy: {hellos} hellos");
    assert!(fates >= 100_000);
}

#[test]
fn the_fuzz_targets_hold_on_damaged_hellos() {
    let mut dice = Dice(3);
    let samples = samples();
    for _ in 0..5_000 {
        let (bytes, _) = damage(&samples[dice.below(samples.len())].stream, &mut dice);
        fuzzing::record(&bytes);
        fuzzing::hello(bytes.get(5..).unwrap_or_default());
        let script: Vec<u8> = (0..200).map(|_| dice.next() as u8 & 0x1f).chain(bytes).collect();
        fuzzing::reassembly(&script);
    }
}

#[test]
fn the_fuzz_targets_of_datagrams_hold_on_their_corpus() {
    for (target, run) in [("quic_initial", fuzzing::quic_initial as fn(&[u8])), ("dtls", fuzzing::dtls)] {
        let folder = path("../fuzz/corpus").join(target);
        let files: Vec<_> =
            std::fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path()).collect();
        assert!(files.len() >= 10, "{target}");
        for file in files {
            let whole = std::fs::read(file).expect("a readable file");
            (0..whole.len()).step_by(13).for_each(|length| run(&whole[..length]));
            run(&whole);
        }
    }
}
