//! threats.md T14: bytes sent twice. The same bytes change nothing; other bytes void the fingerprint, since nobody can
//! know which ones the server took.

use detector::pipeline::Cause;
use proptest::prelude::*;

use crate::fixture::{data, few, flow, run, syn};

const BASE: u32 = u32::MAX - 99;

/// A piece of the stream, perhaps with a byte changed.
#[derive(Clone, Debug)]
struct Piece {
    start: usize,
    length: usize,
    change: Option<(usize, u8)>,
}

fn piece() -> impl Strategy<Value = Piece> {
    let change = prop::option::weighted(0.05, (any::<prop::sample::Index>(), 1_u8..));
    (0_usize..2000, 1_usize..700, change).prop_map(|(start, length, change)| Piece {
        start,
        length,
        change: change.map(|(index, bits)| (index.index(length), bits)),
    })
}

/// First byte wins, one cell a byte: the stream that a server on Linux reads, or `None` at the first conflict.
fn reference(pieces: &[(usize, Vec<u8>)], length: usize) -> Option<Vec<u8>> {
    let mut cells = vec![None; length];
    for (start, bytes) in pieces {
        for (offset, byte) in (*start..).zip(bytes) {
            let Some(cell) = cells.get_mut(offset) else { break };
            if *cell.get_or_insert(*byte) != *byte {
                return None;
            }
        }
        if cells.iter().all(Option::is_some) {
            return cells.into_iter().collect();
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_hello_with_overlaps_is_what_the_reference_reads_or_void(
        which in 0_usize..5,
        pieces in prop::collection::vec(piece(), 4..24),
    ) {
        let sample = few()[which];
        let length = sample.stream.len();
        let pieces: Vec<(usize, Vec<u8>)> = pieces
            .iter()
            .map(|piece| {
                let start = piece.start % length;
                let mut bytes = sample.stream[start..(start + piece.length).min(length)].to_vec();
                if let Some((at, bits)) = piece.change
                    && let Some(byte) = bytes.get_mut(at)
                {
                    *byte ^= bits;
                }
                (start, bytes)
            })
            .collect();
        // Whatever is missing still comes at the end, so that many cases are whole.
        let all = pieces.iter().cloned().chain([(0, sample.stream.clone())]);
        let all: Vec<(usize, Vec<u8>)> = all.collect();

        let flow = flow(1, 40_000);
        let segments = all.iter().map(|(start, bytes)| data(flow, BASE.wrapping_add(*start as u32), bytes));
        let said = run([syn(flow, BASE)].into_iter().chain(segments));
        // A changed byte may lie anywhere, in a length too: then it is a hello of its own, or none.
        if let Some(stream) = reference(&all, length) {
            let whole = run([syn(flow, BASE), data(flow, BASE, &stream)]);
            prop_assert_eq!(
                said.hellos.iter().map(|hello| &hello.fingerprint).collect::<Vec<_>>(),
                whole.hellos.iter().map(|hello| &hello.fingerprint).collect::<Vec<_>>()
            );
        }
        // Another fingerprint than the sample's needs another byte than the sample's.
        let changed = all.iter().any(|(start, bytes)| bytes[..] != sample.stream[*start..*start + bytes.len()]);
        let same = said.hellos.iter().all(|hello| hello.fingerprint == sample.hello.fingerprint);
        prop_assert!(same || changed);
    }
}

#[test]
fn another_byte_for_a_place_voids_the_hello_and_its_retransmissions() {
    let sample = few()[0];
    let flow = flow(1, 40_000);
    let (head, tail) = sample.stream.split_at(600);
    let mut other = head.to_vec();
    other[100] ^= 1;
    let said = run([
        syn(flow, BASE),
        data(flow, BASE, head),
        data(flow, BASE, &other),
        data(flow, BASE.wrapping_add(600), tail),
        data(flow, BASE, &sample.stream),
    ]);
    assert_eq!(said.hellos, []);
    assert_eq!(said.causes(), [Cause::OverlapConflict]);
}
