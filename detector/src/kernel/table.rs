//! The writing side of the table of verdicts (`detector_common::table`), and of the filter in front of the prefixes. Only
//! userspace places and takes away; the kernel reads, and counts what it matched.
//!
//! Memory: the table's and the filter's own, and the names in the stash.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use detector_common::{
    flow::MAPPED_PREFIX_BITS,
    table::{self, CELL_BITS, CELLS, FILTER_BITS, FILTER_IPV6_BITS, Stashed, Word},
};
use ipnet::IpNet;

use super::{Error, maps::mapped};

/// Words of a cell: its check, and its word.
const CELL_WORDS: usize = 2;

/// Words of a bucket.
pub(super) const BUCKET_WORDS: usize = CELLS * CELL_WORDS;

/// What the map behind a full bucket does.
pub(super) trait Stash {
    /// Adds or replaces.
    fn put(&mut self, name: u64, entry: Stashed) -> Result<(), Error>;
    /// Takes away; nothing if there is none.
    fn remove(&mut self, name: u64) -> Result<(), Error>;
    fn get(&self, name: u64) -> Option<Stashed>;
}

/// Where verdicts are placed.
#[derive(Debug)]
pub(super) struct Table<W, S> {
    cells: W,
    hits: W,
    mask: u32,
    stash: S,
    /// Names in the stash, by bucket.
    stashed: HashMap<u32, Vec<u64>>,
    names_stashed: usize,
}

impl<W: AsRef<[AtomicU64]>, S: Stash> Table<W, S> {
    /// `cells`: a power of two of buckets. `hits`: a word for each cell.
    pub(super) fn new(cells: W, hits: W, stash: S) -> Self {
        let mask = (cells.as_ref().len() / BUCKET_WORDS).saturating_sub(1) as u32;
        Self { cells, hits, mask, stash, stashed: HashMap::new(), names_stashed: 0 }
    }

    /// Buckets less one.
    pub(super) fn mask(&self) -> u32 {
        self.mask
    }

    /// Whether the program has to look into the stash.
    pub(super) fn stash_in_use(&self) -> bool {
        self.names_stashed > 0
    }

    fn cell(&self, cell: usize) -> Option<(&AtomicU64, &AtomicU64)> {
        let [check, word] = self.cells.as_ref().get(cell * CELL_WORDS..(cell + 1) * CELL_WORDS)? else { return None };
        Some((check, word))
    }

    /// The cells of a name's bucket.
    fn bucket(&self, name: u64) -> std::ops::Range<usize> {
        let first = (table::bucket(name, self.mask) as usize) << CELL_BITS;
        first..first + CELLS
    }

    fn find(&self, name: u64) -> Option<usize> {
        self.bucket(name).find(|cell| {
            self.cell(*cell).is_some_and(|(check, word)| {
                let word = word.load(Relaxed);
                word != 0 && check.load(Relaxed) ^ word == name
            })
        })
    }

    /// A cell that holds nothing, or what has ended.
    fn free(&self, name: u64, now: u64) -> Option<usize> {
        self.bucket(name).find(|cell| {
            self.cell(*cell).is_some_and(|(_, word)| {
                let word = word.load(Relaxed);
                word == 0 || !Word(word).is_live(now)
            })
        })
    }

    fn store(&self, cell: usize, name: u64, entry: Word, hits: u64) {
        if let Some((check, word)) = self.cell(cell) {
            if let Some(count) = self.hits.as_ref().get(cell) {
                count.store(hits, Relaxed);
            }
            check.store(name ^ entry.0, Relaxed);
            word.store(entry.0, Relaxed);
        }
    }

    fn clear(&self, cell: usize) {
        if let Some((check, word)) = self.cell(cell) {
            word.store(0, Relaxed);
            check.store(0, Relaxed);
        }
    }

    /// Puts a verdict in force, or replaces it, with no hits. `now`: CLOCK_MONOTONIC nanoseconds.
    pub(super) fn put(&mut self, name: u64, entry: Word, now: u64) -> Result<(), Error> {
        let old = self.find(name);
        // Beside the one it replaces: between the two stores nobody finds neither. In a full bucket some packets may.
        if let Some(cell) = self.free(name, now).or(old) {
            self.store(cell, name, entry, 0);
            if let Some(old) = old
                && old != cell
            {
                self.clear(old);
                self.refill(name)?;
            }
            return self.unstash(name);
        }
        self.stash.put(name, Stashed { word: entry.0, hits: 0 })?;
        let names = self.stashed.entry(table::bucket(name, self.mask)).or_default();
        if !names.contains(&name) {
            names.push(name);
            self.names_stashed += 1;
        }
        Ok(())
    }

    /// Ends a verdict; nothing if there is none.
    pub(super) fn remove(&mut self, name: u64) -> Result<(), Error> {
        let Some(cell) = self.find(name) else { return self.unstash(name) };
        self.clear(cell);
        self.refill(name)
    }

    /// The program looks for the others of a full bucket in the stash: of one that isn't full none may be there.
    fn refill(&mut self, name: u64) -> Result<(), Error> {
        let Some(cell) =
            self.bucket(name).find(|cell| self.cell(*cell).is_some_and(|(_, word)| word.load(Relaxed) == 0))
        else {
            return Ok(());
        };
        let next = self.stashed.get(&table::bucket(name, self.mask)).and_then(|names| names.first().copied());
        if let Some(next) = next {
            if let Some(entry) = self.stash.get(next) {
                self.store(cell, next, Word(entry.word), entry.hits);
            }
            self.unstash(next)?;
        }
        Ok(())
    }

    fn unstash(&mut self, name: u64) -> Result<(), Error> {
        let bucket = table::bucket(name, self.mask);
        let Some(names) = self.stashed.get_mut(&bucket) else { return Ok(()) };
        let Some(place) = names.iter().position(|other| *other == name) else { return Ok(()) };
        names.swap_remove(place);
        if names.is_empty() {
            self.stashed.remove(&bucket);
        }
        self.names_stashed -= 1;
        self.stash.remove(name)
    }

    /// Packets that a verdict matched; `None` if there is none.
    pub(super) fn hits(&self, name: u64) -> Option<u64> {
        match self.find(name) {
            Some(cell) => self.hits.as_ref().get(cell).map(|hits| hits.load(Relaxed)),
            None => self.stash.get(name).map(|entry| entry.hits),
        }
    }
}

/// The filter in front of the trie of prefixes. It may say yes for nothing, never no for a prefix that is there.
#[derive(Debug)]
pub(super) struct Filter<W> {
    words: W,
    prefixes: HashSet<IpNet>,
    /// Bits are set for prefixes that are gone.
    stale: bool,
}

impl<W: AsRef<[AtomicU64]>> Filter<W> {
    pub(super) fn new(words: W) -> Self {
        Self { words, prefixes: HashSet::new(), stale: false }
    }

    /// Before the prefix is put into the trie.
    pub(super) fn add(&mut self, prefix: IpNet) {
        if self.prefixes.insert(prefix) {
            for (word, bits) in places(&prefix) {
                if let Some(word) = self.words.as_ref().get(word) {
                    word.fetch_or(bits, Relaxed);
                }
            }
        }
    }

    /// After it is taken out of there.
    pub(super) fn remove(&mut self, prefix: &IpNet) {
        self.stale |= self.prefixes.remove(prefix);
    }

    /// Takes away what is set for nothing.
    pub(super) fn tidy(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let words = self.words.as_ref();
        let mut wanted = vec![0u64; words.len()];
        for (word, bits) in self.prefixes.iter().flat_map(places) {
            if let Some(word) = wanted.get_mut(word) {
                *word |= bits;
            }
        }
        for (word, wanted) in words.iter().zip(wanted) {
            if word.load(Relaxed) != wanted {
                word.store(wanted, Relaxed);
            }
        }
    }
}

/// Whether the filter has places for the prefix. Behind the others every packet of the family is looked up.
pub(super) fn is_filtered(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V4(_)) || u32::from(prefix.prefix_len()) >= FILTER_IPV6_BITS
}

/// The words of the filter that a prefix reaches into, and the bits there.
fn places(prefix: &IpNet) -> impl Iterator<Item = (usize, u64)> {
    let first = table::filter_place(&mapped(prefix.network())) as usize;
    let bits = match prefix {
        IpNet::V4(prefix) => FILTER_BITS.saturating_sub(u32::from(prefix.prefix_len())),
        IpNet::V6(_) => 0,
    };
    // Those of a family without places are none.
    let last = if is_filtered(prefix) { first + (1 << bits) } else { first };
    (first >> 6..last.div_ceil(64)).map(move |word| {
        let (start, end) = (first.max(word * 64) - word * 64, last.min(word * 64 + 64) - word * 64);
        let below = |bit: usize| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
        (word, below(end) & !below(start))
    })
}

const _: () = assert!(FILTER_BITS + MAPPED_PREFIX_BITS <= 128);

#[cfg(test)]
mod tests;
