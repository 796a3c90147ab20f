//! The ring buffer's reading end, and waiting for it. One thread reads; it may be woken from others.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use super::{
    Error, EventSource,
    maps::{Source, take},
};

/// The ring buffer.
pub struct Ring(RingBuf<MapData>);

/// Both of them.
pub struct Rings {
    /// What comes of clients whose address is proven: read first.
    pub confirmed: Ring,
    /// What comes of the others.
    pub unconfirmed: Ring,
}

impl Rings {
    pub(super) fn new(source: &mut Source<'_>) -> Result<Self, Error> {
        Ok(Self {
            confirmed: Ring(take(source, detector_common::maps::EVENTS)?),
            unconfirmed: Ring(take(source, detector_common::maps::UNCONFIRMED)?),
        })
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl EventSource for Ring {
    fn drain(&mut self, budget: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut seen = 0;
        // `next` never waits and, under a flood, never ends: hence the budget.
        while seen < budget
            && let Some(item) = self.0.next()
        {
            each(&item);
            seen += 1;
        }
        seen
    }
}

/// The eBPF program's own debug lines, handed to `tracing` through the `log` crate.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    /// Must be held while the program is loaded: it owns the map.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        EbpfLogger::init(ebpf).map(Self).map_err(|error| Error::Map("AYA_LOGS", error.to_string()))
    }

    /// Writes what has come.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Wakes the thread that waits.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn new() -> Result<Self, Error> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(|fd| Self(Arc::new(fd)))
            .map_err(|error| Error::System("creating an eventfd", error.to_string()))
    }

    /// Wakes it; at once if it comes to wait only later.
    pub fn wake(&self) {
        // Fails only when the count would overflow, and then it is awake anyway.
        let _ = self.0.write(1);
    }

    /// Takes the wake-ups so far.
    pub fn clear(&self) {
        // EAGAIN says there was none.
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is readable or the time is up. Returns which are.
///
/// # Errors
/// The kernel's; being interrupted by a signal counts as the time being up.
pub fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Duration) -> Result<[bool; N], Error> {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(fds.map(|fd| fd.any().unwrap_or(false))),
        Err(Errno::EINTR) => Ok([false; N]),
        Err(error) => Err(Error::System("waiting for events", error.to_string())),
    }
}
