//! The search for a verdict in a bucket of the table. On its own, since the benchmark's programs search with it too.

use detector_common::table::{CELLS, Cell};

/// What a bucket has; no `Option`, of which LLVM copies the part that isn't there.
pub struct Found {
    /// The verdict's [`detector_common::table::Word`], 0 if it isn't here.
    pub word: u64,
    /// Without the verdict: whether the bucket has room for no other, so that this one may be in the stash.
    pub full: bool,
}

/// Searches a bucket for the verdict with `name`; the number of its cell goes to `place` (see `parse::launder`).
///
/// # Safety
/// `cells` is a bucket of the table, and `place` in a value of a map of this CPU's.
#[inline(always)]
pub unsafe fn find(cells: *const Cell, name: u64, place: *mut u64) -> Found {
    let mut full = true;
    for cell in 0..CELLS {
        // SAFETY: the caller's; userspace stores each of the two as a whole.
        let (check, word) = unsafe {
            let cell = cells.add(cell);
            ((&raw const (*cell).check).read_volatile(), (&raw const (*cell).word).read_volatile())
        };
        if check ^ word == name {
            // SAFETY: the caller's.
            unsafe { place.write_volatile(cell as u64) };
            return Found { word, full };
        }
        full &= word != 0;
    }
    Found { word: 0, full }
}
