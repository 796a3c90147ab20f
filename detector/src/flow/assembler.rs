//! Pieces of one byte stream in, in any order and overlapping; its beginning, as far as there is no gap, out. The
//! first byte received for a place stays (as Linux keeps it for data within the window), and a later one that differs
//! is told. Memory: up to the highest byte received, within the limit of the caller, and eight bytes for each run.

/// The bytes of one stream from offset 0.
#[derive(Debug, Default)]
pub struct Assembler {
    /// Bytes by offset; those in no run are zero and mean nothing.
    bytes: Vec<u8>,
    /// Where bytes were received: ascending, disjoint, never adjacent.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u32,
    end: u32,
}

impl Run {
    const fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It held bytes for places that had none.
    New,
    /// All of its places had the same bytes before, or lie beyond the limit.
    Nothing,
    /// A place had another byte before.
    Conflict,
}

/// Buffers grow in steps of this, so that a stream of one-byte pieces isn't reallocated for each.
const STEP: usize = 256;

impl Assembler {
    /// Takes the piece at `offset`. What lies at or beyond `limit` is ignored.
    pub fn insert(&mut self, offset: usize, piece: &[u8], limit: usize) -> Inserted {
        let limit = limit.min(u32::MAX as usize);
        let end = offset.saturating_add(piece.len()).min(limit);
        if offset >= end {
            return Inserted::Nothing;
        }
        self.reserve(end);
        // The runs this piece touches, adjacent ones included: [first, last).
        let first = self.runs.partition_point(|run| run.range().end < offset);
        let last = self.runs.partition_point(|run| run.range().start <= end);
        let touched = self.runs.get(first..last).unwrap_or_default();

        let mut at = offset;
        let mut new = false;
        let mut conflict = false;
        for run in touched.iter().map(|run| run.range()) {
            new |= copy(&mut self.bytes, piece, offset, at, run.start.min(end));
            let (from, to) = (run.start.max(at), run.end.min(end));
            conflict |= differs(&self.bytes, piece, offset, from, to);
            at = at.max(run.end);
        }
        new |= copy(&mut self.bytes, piece, offset, at, end);
        self.join(first, last, offset, end);
        match (conflict, new) {
            (true, _) => Inserted::Conflict,
            (false, true) => Inserted::New,
            (false, false) => Inserted::Nothing,
        }
    }

    /// The stream from its first byte to the first gap.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        match self.runs.first() {
            Some(run) if run.start == 0 => self.bytes.get(run.range()).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Gaps before or between the bytes received.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.runs.len().saturating_sub(usize::from(!self.prefix().is_empty()))
    }

    /// Bytes allocated.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.bytes.capacity().saturating_add(self.runs.capacity().saturating_mul(size_of::<Run>()))
    }

    /// Moves everything received `by` bytes on: the stream began earlier than was thought. What would lie at or beyond
    /// `limit` is forgotten.
    pub fn shift(&mut self, by: usize, limit: usize) {
        let old = std::mem::take(self);
        for run in &old.runs {
            let piece = old.bytes.get(run.range()).unwrap_or_default();
            self.insert(run.range().start.saturating_add(by), piece, limit);
        }
    }

    fn reserve(&mut self, end: usize) {
        if end > self.bytes.capacity() {
            let capacity = end.checked_next_multiple_of(STEP).unwrap_or(end);
            self.bytes.reserve_exact(capacity.saturating_sub(self.bytes.len()));
        }
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
    }

    /// Makes one run of [start, end) and the runs [first, last).
    fn join(&mut self, first: usize, last: usize, start: usize, end: usize) {
        let mut joined = Run { start: narrow(start), end: narrow(end) };
        for run in self.runs.get(first..last).unwrap_or_default() {
            joined.start = joined.start.min(run.start);
            joined.end = joined.end.max(run.end);
        }
        match self.runs.get_mut(first) {
            Some(run) if first < last => {
                *run = joined;
                self.runs.drain(first.saturating_add(1)..last);
            }
            _ => self.runs.insert(first, joined),
        }
    }
}

/// Offsets were cut to `u32::MAX` by `insert`.
fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// Copies [from, to) of the stream out of `piece`, which begins at `offset`. Whether there was anything to copy.
fn copy(bytes: &mut [u8], piece: &[u8], offset: usize, from: usize, to: usize) -> bool {
    match (bytes.get_mut(from..to), part(piece, offset, from, to)) {
        (Some(place), Some(part)) if !part.is_empty() => {
            place.copy_from_slice(part);
            true
        }
        _ => false,
    }
}

fn differs(bytes: &[u8], piece: &[u8], offset: usize, from: usize, to: usize) -> bool {
    from < to && bytes.get(from..to) != part(piece, offset, from, to)
}

fn part(piece: &[u8], offset: usize, from: usize, to: usize) -> Option<&[u8]> {
    piece.get(from.checked_sub(offset)?..to.checked_sub(offset)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// First byte wins, one cell a byte; and whether any byte differed.
    fn model(pieces: &[(usize, Vec<u8>)], limit: usize) -> (Vec<Option<u8>>, bool) {
        let mut cells = vec![None; limit];
        let mut conflict = false;
        for (offset, piece) in pieces {
            for (index, byte) in piece.iter().enumerate() {
                let Some(cell) = cells.get_mut(offset + index) else { break };
                conflict |= cell.is_some_and(|before| before != *byte);
                cell.get_or_insert(*byte);
            }
        }
        (cells, conflict)
    }

    proptest! {
        #[test]
        fn equals_the_model_of_one_cell_for_each_byte(
            pieces in prop::collection::vec((0usize..96, prop::collection::vec(0u8..3, 0..24)), 0..24),
            limit in 1usize..112,
        ) {
            let (cells, conflict) = model(&pieces, limit);
            let mut assembler = Assembler::default();
            let mut told = false;
            for (offset, piece) in &pieces {
                told |= assembler.insert(*offset, piece, limit) == Inserted::Conflict;
            }
            let whole: Vec<u8> = cells.iter().map_while(|cell| *cell).collect();
            prop_assert_eq!(told, conflict);
            prop_assert_eq!(assembler.prefix(), &whole[..]);
            let filled: Vec<bool> = cells.iter().map(Option::is_some).collect();
            let highest = filled.iter().rposition(|filled| *filled).map_or(0, |last| last + 1);
            let holes = filled[..highest].chunk_by(|a, b| a == b).filter(|run| !run[0]).count();
            prop_assert_eq!(assembler.holes(), holes);
        }
    }

    #[test]
    fn memory_is_what_was_received_not_what_was_claimed() {
        let mut assembler = Assembler::default();
        assembler.insert(0, b"x", 16_384);
        assert!(assembler.allocated() <= 512);
        assert_eq!(assembler.insert(70_000, b"x", 16_384), Inserted::Nothing);
        assert!(assembler.allocated() <= 512);
    }

    #[test]
    fn a_shift_moves_bytes_and_forgets_what_passes_the_limit() {
        let mut assembler = Assembler::default();
        assembler.insert(0, b"cdef", 100);
        assembler.shift(2, 5);
        assert_eq!(assembler.prefix(), b"");
        assembler.insert(0, b"ab", 5);
        assert_eq!(assembler.prefix(), b"abcde");
    }
}
