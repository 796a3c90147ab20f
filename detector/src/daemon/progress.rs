//! Whether what must never stand still gets on. In: each part's word, at least every second. Out: whether all of them
//! have given it since the last time that all had. Memory: a bit for each.

use std::sync::atomic::{AtomicU8, Ordering};

/// A thread, or a task, without which the daemon only seems to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Has read its rings, and written its sign of life into the kernel's map.
    PacketPath,
    /// Has looked at the signal sockets.
    Reports,
    /// Has looked for hellos and reports that belong together.
    Joiner,
    /// Has looked after operators' orders, and their file.
    Orders,
    /// Accepts on the control socket.
    Control,
}

impl Part {
    const ALL: [Self; 5] = [Self::PacketPath, Self::Reports, Self::Joiner, Self::Orders, Self::Control];

    /// As the log names it.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::PacketPath => "the packet path",
            Self::Reports => "the signal sockets",
            Self::Joiner => "the joiner of hellos and reports",
            Self::Orders => "operators' orders",
            Self::Control => "the control socket",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Who has got on.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

impl Progress {
    /// A part has done a round of its work.
    pub(super) fn made(&self, part: Part) {
        #[cfg(feature = "faults")]
        super::faults::may_stand_still(part);
        self.0.fetch_or(part.bit(), Ordering::Relaxed);
    }

    /// Whether all parts have, since this last said so; if not, who hasn't.
    pub(super) fn by_all(&self) -> Result<(), Vec<Part>> {
        let made = self.0.load(Ordering::Relaxed);
        let missing: Vec<Part> = Part::ALL.into_iter().filter(|part| made & part.bit() == 0).collect();
        if missing.is_empty() {
            self.0.store(0, Ordering::Relaxed);
            return Ok(());
        }
        Err(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stands_still_is_named_however_busy_the_others_are() {
        for still in Part::ALL {
            let progress = Progress::default();
            for part in Part::ALL.into_iter().filter(|part| *part != still).cycle().take(100) {
                progress.made(part);
                assert!(progress.by_all().is_err_and(|missing| missing.contains(&still)));
            }
            assert_eq!(progress.by_all(), Err(vec![still]));
            progress.made(still);
            assert_eq!(progress.by_all(), Ok(()));
            // Each round must be a new one.
            assert_eq!(progress.by_all(), Err(Part::ALL.to_vec()));
        }
    }
}
