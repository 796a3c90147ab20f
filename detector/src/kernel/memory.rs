//! The verdict maps, the ring and the sockets in plain memory: what the real ones do, without a kernel.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use detector_common::{
    mode::Mode,
    settings::Settings,
    verdict::{ORIGIN_AUTOMATIC, Rate, Verdict},
};

use super::{Error, EventSource, Lookup, Slot, Sockets, VerdictMaps};
use crate::clock::Timestamp;

/// Verdicts in memory.
#[derive(Debug)]
pub struct MemoryMaps {
    /// What is in force.
    pub verdicts: HashMap<Slot, Verdict>,
    /// The settings last written.
    pub settings: Settings,
    /// The mode last written.
    pub mode: Mode,
    /// The last sign of life.
    pub beat: Timestamp,
    /// The rates of verdicts that limit them.
    pub rates: HashMap<Slot, Rate>,
    /// Entries a table takes.
    pub capacity: usize,
}

impl MemoryMaps {
    /// Empty maps, of `capacity` entries each.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (verdicts, rates) = (HashMap::new(), HashMap::new());
        let (settings, mode, beat) = (Settings::default(), Mode::default(), Timestamp::default());
        Self { verdicts, settings, mode, beat, rates, capacity }
    }
}

impl VerdictMaps for MemoryMaps {
    fn put(&mut self, slot: &Slot, verdict: Verdict) -> Result<(), Error> {
        let table = slot.table();
        let used = self.verdicts.keys().filter(|other| other.table() == table).count();
        if used >= self.capacity && !self.verdicts.contains_key(slot) {
            return Err(Error::Full(table));
        }
        self.verdicts.insert(*slot, verdict);
        Ok(())
    }

    fn remove(&mut self, slot: &Slot) -> Result<(), Error> {
        self.verdicts.remove(slot);
        self.rates.remove(slot);
        Ok(())
    }

    fn sweep(&mut self, known: &mut dyn Iterator<Item = &Slot>, automatic: bool) -> Result<usize, Error> {
        let (known, before) = (known.copied().collect::<Vec<_>>(), self.verdicts.len());
        self.verdicts.retain(|slot, verdict| (verdict.origin == ORIGIN_AUTOMATIC) != automatic || known.contains(slot));
        Ok(before - self.verdicts.len())
    }

    fn set_rate(&mut self, slot: &Slot, rate: Rate) -> Result<(), Error> {
        self.rates.insert(*slot, rate);
        Ok(())
    }

    fn verdict(&self, slot: &Slot) -> Option<Verdict> {
        self.verdicts.get(slot).copied()
    }

    fn set(&mut self, settings: Settings) -> Result<(), Error> {
        self.settings = settings;
        Ok(())
    }

    fn set_mode(&mut self, mode: Mode) -> Result<(), Error> {
        self.mode = mode;
        Ok(())
    }

    fn mode(&self) -> Result<Mode, Error> {
        Ok(self.mode)
    }

    fn beat(&mut self, now: Timestamp) -> Result<(), Error> {
        self.beat = now;
        Ok(())
    }

    fn tidy(&mut self) {}

    fn end_follow(&mut self, _source: SocketAddr, _destination: SocketAddr) {}
}

/// Events in memory.
#[derive(Debug, Default)]
pub struct MemoryRing(pub VecDeque<Vec<u8>>);

impl EventSource for MemoryRing {
    fn drain(&mut self, budget: usize, each: &mut dyn FnMut(&[u8])) -> usize {
        let count = budget.min(self.0.len());
        for event in self.0.drain(..count) {
            each(&event);
        }
        count
    }
}

/// Sockets in memory, by client and server.
#[derive(Debug, Default)]
pub struct MemorySockets(pub HashMap<(SocketAddr, SocketAddr), Lookup>);

impl Sockets for MemorySockets {
    fn look_up(&mut self, client: SocketAddr, server: SocketAddr) -> Lookup {
        self.0.get(&(client, server)).copied().unwrap_or(Lookup::Absent)
    }
}
