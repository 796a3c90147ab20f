//! Counting, on this CPU only.

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
}
