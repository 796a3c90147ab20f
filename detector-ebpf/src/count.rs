//! Counting, on this CPU only.

use core::hint::black_box;

use detector_common::counter::{COUNTERS_LEN, Counter};

use crate::maps::COUNTERS;

/// This CPU's counters, looked up once for each packet.
#[derive(Clone, Copy)]
pub struct Counters(*mut [u64; COUNTERS_LEN as usize]);

impl Counters {
    #[inline(always)]
    pub fn here() -> Option<Self> {
        COUNTERS.get_ptr_mut(0).map(Self)
    }

    #[inline(always)]
    pub fn add(self, counter: Counter) {
        // SAFETY: the pointer is this CPU's map value, the index is below its length by the enum's definition, and
        // no other program runs on this CPU meanwhile.
        unsafe { (*self.0)[counter as usize] += 1 };
    }

    /// The same by an index from memory, of which the verifier knows nothing.
    #[inline(always)]
    pub fn add_at(self, counter: u32) {
        let index = black_box(counter as usize);
        if index < COUNTERS_LEN as usize {
            // SAFETY: as above; the index was just compared.
            unsafe { *self.0.cast::<u64>().add(index) += 1 };
        }
    }
}
