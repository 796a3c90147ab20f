//! A map of the kernel in this process's memory: what is stored here is in force at once, without a system call.

use std::{ffi::c_void, fmt, num::NonZeroUsize, ptr::NonNull, slice, sync::atomic::AtomicU64};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::Error;

/// The values of an array that was made with `BPF_F_MMAPABLE`, as 64-bit words.
pub(super) struct Shared {
    words: NonNull<AtomicU64>,
    len: usize,
    /// Programs that use the map are loaded by its descriptor.
    _map: MapData,
}

// SAFETY: the memory belongs to this value alone, and is only reached through atomics.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the array `name`, whose entries have `words` words each.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(name: &'static str, map: MapData, words: usize) -> Result<Self, Error> {
        let failed = |what: String| Error::Map(name, what);
        let entries = map.info().map_err(|error| failed(error.to_string()))?.max_entries() as usize;
        let len = entries * words;
        let bytes = NonZeroUsize::new(len * size_of::<u64>()).ok_or_else(|| failed("it is empty".to_owned()))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel chooses; the kernel refuses a length beyond the array's.
        let memory = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map.fd(), 0) };
        let memory = memory.map_err(|error| failed(format!("it can't be mapped: {error}")))?;
        Ok(Self { words: memory.cast(), len, _map: map })
    }
}

impl Shared {
    /// Maps the array `name` with entries of whatever size: so many words each.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn whole(name: &'static str, map: MapData) -> Result<(Self, usize), Error> {
        let info = map.info().map_err(|error| Error::Map(name, error.to_string()))?;
        let words = (info.value_size() as usize).div_ceil(size_of::<u64>());
        Ok((Self::new(name, map, words)?, words))
    }
}

impl AsRef<[AtomicU64]> for Shared {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, as long as this, and mapped until the drop. The kernel and other processes write to it
        // too, which atomics allow.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and no slice of it outlives this value.
        let unmapped = unsafe { munmap(self.words.cast::<c_void>(), self.len * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
