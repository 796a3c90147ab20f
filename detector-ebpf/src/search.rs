//! The search for a verdict in a bucket of the table. On its own, since the benchmark's programs search with it too.

use detector_common::table::{Bucket, CELLS, elsewhere};

/// What a bucket has; no `Option`, of which LLVM copies the part that isn't there.
pub struct Found {
    /// The verdict's [`detector_common::table::Word`], 0 if it isn't here.
    pub word: u64,
    /// Without the verdict: whether it may be where this bucket's overflow goes.
    pub elsewhere: bool,
}

/// Searches a bucket for the verdict with `name`; the number of its cell goes to `place` (see `parse::launder`).
///
/// # Safety
/// `bucket` is one of the table, and `place` in memory that this program alone writes to.
#[inline(always)]
pub unsafe fn find(bucket: *const Bucket, name: u64, place: *mut u64) -> Found {
    for cell in 0..CELLS {
        // SAFETY: the caller's; userspace stores each of the two as a whole.
        let (check, word) = unsafe {
            let cell = (&raw const (*bucket).cells[cell]);
            ((&raw const (*cell).check).read_volatile(), (&raw const (*cell).word).read_volatile())
        };
        if check ^ word == name {
            // SAFETY: the caller's.
            unsafe { place.write_volatile(cell as u64) };
            return Found { word, elsewhere: false };
        }
    }
    // SAFETY: the caller's.
    let others = unsafe { (&raw const (*bucket).elsewhere).read_volatile() };
    Found { word: 0, elsewhere: others & elsewhere(name) != 0 }
}
