//! The writing side of the table of verdicts (`detector_common::table`), and of the filters in front of the tries. Only
//! userspace places and takes away; the kernel reads, and counts what it matched.
//!
//! Memory: the table's and the filters' own, and the names in the stash.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use detector_common::{
    flow::MAPPED_PREFIX_BITS,
    table::{self, Bucket, CELLS, Cell, FILTER_BITS, FILTER_IPV6_BITS, Stashed, Word, elsewhere, neighbour},
};
use ipnet::IpNet;

use super::{Error, maps::mapped};

/// Words of a bucket.
pub(super) const BUCKET_WORDS: usize = size_of::<Bucket>() / size_of::<u64>();

/// Words of a cell.
const CELL_WORDS: usize = size_of::<Cell>() / size_of::<u64>();

/// The word of a bucket with the counts of hits of the first two cells; in the next are the third's and `elsewhere`.
const HITS_WORD: usize = CELLS * CELL_WORDS;

/// The numbers in the two halves of a word, in the order in which they stand in memory.
const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// A word of two numbers.
const fn joined(halves: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (halves[0].to_ne_bytes(), halves[1].to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A word of zeros with `number` in one of its halves.
const fn half(which: usize, number: u32) -> u64 {
    if which == 0 { joined([number, 0]) } else { joined([0, number]) }
}

/// What the map behind a full bucket does.
pub(super) trait Stash {
    /// Adds or replaces.
    fn put(&mut self, name: u64, entry: Stashed) -> Result<(), Error>;
    /// Takes away; nothing if there is none.
    fn remove(&mut self, name: u64) -> Result<(), Error>;
    fn get(&self, name: u64) -> Option<Stashed>;
}

/// A cell of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    bucket: u32,
    cell: usize,
}

/// Buckets that are in use at first, 64 KiB of them: what a processor's nearest caches hold.
const FIRST_BUCKETS: u32 = 1 << 10;

/// Where verdicts are placed. Of its buckets, a power of two from the first on are in use, twice as many whenever two of
/// three cells are taken: the fewer there are, the more of them are in the processor's caches.
#[derive(Debug)]
pub(super) struct Table<W, S> {
    words: W,
    /// Buckets in use, less one.
    mask: u32,
    /// Cells that aren't empty.
    placed: usize,
    stash: S,
    /// Names in the stash, by the lower one of their two buckets.
    stashed: HashMap<u32, Vec<u64>>,
    names_stashed: usize,
}

/// The lower one of a bucket and its neighbour.
fn pair_of(bucket: u32) -> u32 {
    bucket.min(neighbour(bucket))
}

impl<W: AsRef<[AtomicU64]>, S: Stash> Table<W, S> {
    /// `words`: a power of two of buckets, two or more. `mask`: [`Self::mask`] as an earlier process had it, or 0.
    pub(super) fn new(words: W, stash: S, mask: u32) -> Self {
        let mut table = Self { words, mask, placed: 0, stash, stashed: HashMap::new(), names_stashed: 0 };
        if mask == 0 || mask > table.last() {
            table.mask = table.last().min(FIRST_BUCKETS - 1);
        }
        table
    }

    /// The number of the last bucket there is.
    fn last(&self) -> u32 {
        (self.words.as_ref().len() / BUCKET_WORDS).saturating_sub(1) as u32
    }

    /// The map behind full buckets.
    pub(super) fn stash(&self) -> &S {
        &self.stash
    }

    /// Takes up what an earlier process has left behind; `names`: in the stash.
    pub(super) fn take_up(&mut self, names: impl IntoIterator<Item = u64>) -> Result<(), Error> {
        for name in names {
            self.stashed.entry(pair_of(self.home(name))).or_default().push(name);
            self.names_stashed += 1;
        }
        self.settle()
    }

    /// Whether it is time to [`Self::grow`].
    pub(super) fn is_dense(&self) -> bool {
        self.placed + self.names_stashed > 2 * (self.mask as usize + 1) && self.mask < self.last()
    }

    /// Brings twice as many buckets into use. The program has to be told the new [`Self::mask`] next, and then the table
    /// is to be [settled](Self::settle). What has its place in a bucket has it then in the same cell of that bucket or of
    /// the one as many further on as there were before, so both get all of it: by either mask the program finds it.
    pub(super) fn grow(&mut self) {
        let before = self.mask + 1;
        for bucket in 0..before {
            let (Some(from), Some(to)) = (self.bucket(bucket), self.bucket(bucket + before)) else { return };
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                // Hits stay where they are, and go over with the rest.
                let kept = if index < HITS_WORD { u64::MAX } else { half(1, u32::MAX * u32::from(index > HITS_WORD)) };
                to.store(from.load(Relaxed) & kept, Relaxed);
            }
        }
        self.mask += before;
        let names: Vec<u64> = self.stashed.drain().flat_map(|(_, names)| names).collect();
        for name in names {
            self.stashed.entry(pair_of(table::bucket(name, self.mask))).or_default().push(name);
        }
    }

    /// After the table has grown: empties the cells in which a verdict isn't looked for, and fills them from the stash. A
    /// packet that was being looked at when the program was told may pass.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let before = self.mask.div_ceil(2);
        self.placed = 0;
        for bucket in 0..=self.mask {
            for cell in 0..CELLS {
                let (place, twin) = (Place { bucket, cell }, Place { bucket: bucket ^ before, cell });
                let Some((name, _)) = self.entry(place) else { continue };
                if pair_of(self.home(name)) == pair_of(bucket) {
                    self.placed += 1;
                    continue;
                }
                if let (Some((moved, _)), Some(hits)) = (self.entry(twin), self.hits_of(place))
                    && moved == name
                {
                    self.count_from(twin, hits + self.hits_of(twin).unwrap_or(0));
                }
                self.clear(place);
            }
        }
        let pairs: Vec<u32> = self.stashed.keys().copied().collect();
        for pair in pairs {
            for _ in 0..2 * CELLS {
                self.refill(pair)?;
            }
        }
        (0..=self.mask).step_by(2).for_each(|pair| self.forget(pair));
        Ok(())
    }

    /// Puts a verdict in force with the hits that it had elsewhere.
    pub(super) fn carry_over(&mut self, name: u64, entry: Word, hits: u64, now: u64) -> Result<(), Error> {
        self.put(name, entry, now)?;
        match self.find(name) {
            Some(place) => self.count_from(place, hits),
            None => self.stash.put(name, Stashed { word: entry.0, hits })?,
        }
        Ok(())
    }

    /// Buckets in use, less one.
    pub(super) fn mask(&self) -> u32 {
        self.mask
    }

    fn home(&self, name: u64) -> u32 {
        table::bucket(name, self.mask)
    }

    /// The cells where a name may stand, its own bucket's first.
    fn places(&self, name: u64) -> impl Iterator<Item = Place> {
        let home = self.home(name);
        [home, neighbour(home)].into_iter().flat_map(|bucket| (0..CELLS).map(move |cell| Place { bucket, cell }))
    }

    fn bucket(&self, bucket: u32) -> Option<&[AtomicU64]> {
        let first = bucket as usize * BUCKET_WORDS;
        self.words.as_ref().get(first..first + BUCKET_WORDS)
    }

    fn cell(&self, place: Place) -> Option<(&AtomicU64, &AtomicU64)> {
        let cell = place.cell * CELL_WORDS;
        let [check, word] = self.bucket(place.bucket)?.get(cell..cell + CELL_WORDS)? else { return None };
        Some((check, word))
    }

    /// The name and the word in a cell; `None`: it is empty.
    fn entry(&self, place: Place) -> Option<(u64, Word)> {
        let (check, word) = self.cell(place)?;
        let word = word.load(Relaxed);
        (word != 0).then(|| (check.load(Relaxed) ^ word, Word(word)))
    }

    fn find(&self, name: u64) -> Option<Place> {
        self.places(name).find(|place| self.entry(*place).is_some_and(|(found, _)| found == name))
    }

    /// A cell that holds nothing, or what has ended.
    fn free(&self, name: u64, now: u64) -> Option<Place> {
        self.places(name).find(|place| self.entry(*place).is_none_or(|(_, word)| !word.is_live(now)))
    }

    /// Where a cell's hits are counted: the word, and the half of it.
    fn count(&self, place: Place) -> Option<(&AtomicU64, usize)> {
        Some((self.bucket(place.bucket)?.get(HITS_WORD + place.cell / 2)?, place.cell % 2))
    }

    /// Has a cell's hits counted from `hits` on. What the kernel adds meanwhile to others isn't lost.
    fn count_from(&self, place: Place, hits: u64) {
        if let Some((word, which)) = self.count(place) {
            word.fetch_and(!half(which, u32::MAX), Relaxed);
            word.fetch_or(half(which, u32::try_from(hits).unwrap_or(u32::MAX)), Relaxed);
        }
    }

    fn store(&self, place: Place, name: u64, entry: Word, hits: u64) {
        // Before the verdict: whoever looks for it in its own bucket goes on to the neighbour.
        let home = self.home(name);
        if place.bucket != home {
            self.tell(home, elsewhere(name));
        }
        self.count_from(place, hits);
        if let Some((check, word)) = self.cell(place) {
            check.store(name ^ entry.0, Relaxed);
            word.store(entry.0, Relaxed);
        }
    }

    fn clear(&self, place: Place) {
        if let Some((check, word)) = self.cell(place) {
            word.store(0, Relaxed);
            check.store(0, Relaxed);
        }
    }

    /// Sets bits of a bucket's `elsewhere`.
    fn tell(&self, bucket: u32, bits: u32) {
        if let Some(word) = self.bucket(bucket).and_then(|words| words.get(HITS_WORD + 1)) {
            word.fetch_or(half(1, bits), Relaxed);
        }
    }

    /// Takes the bits away that the names elsewhere don't need any more, in a bucket and its neighbour.
    fn forget(&self, bucket: u32) {
        let stashed = self.stashed.get(&pair_of(bucket)).map_or(&[][..], Vec::as_slice);
        for (bucket, other) in [(bucket, neighbour(bucket)), (neighbour(bucket), bucket)] {
            let placed = (0..CELLS).filter_map(|cell| self.entry(Place { bucket: other, cell })).map(|(name, _)| name);
            let needed = placed.filter(|name| self.home(*name) == bucket).chain(stashed.iter().copied());
            let bits = needed.fold(0, |bits, name| bits | elsewhere(name));
            if let Some(word) = self.bucket(bucket).and_then(|words| words.get(HITS_WORD + 1)) {
                word.fetch_and(joined([u32::MAX, bits]), Relaxed);
            }
        }
    }

    /// Puts a verdict in force, or replaces it, with no hits. `now`: CLOCK_MONOTONIC nanoseconds.
    pub(super) fn put(&mut self, name: u64, entry: Word, now: u64) -> Result<(), Error> {
        let (home, old) = (self.home(name), self.find(name));
        // Beside the one it replaces: between the two stores nobody finds neither. Without room for both some packets may.
        if let Some(place) = self.free(name, now).or(old) {
            self.placed += usize::from(self.entry(place).is_none());
            self.store(place, name, entry, 0);
            if let Some(old) = old
                && old != place
            {
                self.clear(old);
                self.placed -= 1;
                self.refill(home)?;
            }
            return self.unstash(name);
        }
        self.tell(home, elsewhere(name));
        self.tell(neighbour(home), elsewhere(name));
        self.stash.put(name, Stashed { word: entry.0, hits: 0 })?;
        let names = self.stashed.entry(pair_of(home)).or_default();
        if !names.contains(&name) {
            names.push(name);
            self.names_stashed += 1;
        }
        Ok(())
    }

    /// Ends those of some verdicts whose name isn't `known`. How many.
    pub(super) fn sweep(&mut self, known: &HashSet<u64>, of: impl Fn(Word) -> bool) -> Result<usize, Error> {
        let is_stranger = |name: u64, word: Word| of(word) && !known.contains(&name);
        let buckets = 0..=self.mask;
        let places = buckets.flat_map(|bucket| (0..CELLS).map(move |cell| Place { bucket, cell }));
        let placed = places.filter_map(|place| self.entry(place));
        let stashed = self.stashed.values().flatten();
        let stashed = stashed.filter_map(|name| Some((*name, Word(self.stash.get(*name)?.word))));
        let strangers: Vec<u64> =
            placed.chain(stashed).filter(|(name, word)| is_stranger(*name, *word)).map(|(name, _)| name).collect();
        for name in &strangers {
            self.remove(*name)?;
        }
        Ok(strangers.len())
    }

    /// Ends a verdict; nothing if there is none.
    pub(super) fn remove(&mut self, name: u64) -> Result<(), Error> {
        let Some(place) = self.find(name) else { return self.unstash(name) };
        self.clear(place);
        self.placed -= 1;
        self.refill(self.home(name))?;
        self.forget(place.bucket);
        Ok(())
    }

    /// Takes one of the stash into the place that became free in a bucket or its neighbour: what is in the table is found
    /// sooner, and the stash has room.
    fn refill(&mut self, bucket: u32) -> Result<(), Error> {
        let Some(next) = self.stashed.get(&pair_of(bucket)).and_then(|names| names.first().copied()) else {
            return Ok(());
        };
        let Some(place) = self.places(next).find(|place| self.entry(*place).is_none()) else { return Ok(()) };
        if let Some(entry) = self.stash.get(next) {
            self.store(place, next, Word(entry.word), entry.hits);
            self.placed += 1;
        }
        self.unstash(next)
    }

    fn unstash(&mut self, name: u64) -> Result<(), Error> {
        let pair = pair_of(self.home(name));
        if let Some(names) = self.stashed.get_mut(&pair)
            && let Some(place) = names.iter().position(|other| *other == name)
        {
            names.swap_remove(place);
            if names.is_empty() {
                self.stashed.remove(&pair);
            }
            self.names_stashed -= 1;
            self.stash.remove(name)?;
        }
        self.forget(pair);
        Ok(())
    }

    fn hits_of(&self, place: Place) -> Option<u64> {
        let (word, which) = self.count(place)?;
        halves(word.load(Relaxed)).get(which).copied().map(u64::from)
    }

    /// A verdict, and the packets that it matched, as far as they are counted; `None` if there is none.
    pub(super) fn verdict(&self, name: u64) -> Option<(Word, u64)> {
        match self.find(name) {
            Some(place) => Some((self.entry(place)?.1, self.hits_of(place)?)),
            None => self.stash.get(name).map(|entry| (Word(entry.word), entry.hits)),
        }
    }
}

/// The names, verdicts and hits in the table of any build, whose buckets have `words` words each.
pub(super) fn read<W: AsRef<[AtomicU64]>>(table: &W, words: usize) -> impl Iterator<Item = (u64, Word, u64)> {
    table.as_ref().chunks_exact(words.max(1)).flat_map(|bucket| {
        let hits = bucket.get(HITS_WORD..).unwrap_or_default().iter().flat_map(|word| halves(word.load(Relaxed)));
        bucket.chunks_exact(CELL_WORDS).take(CELLS).zip(hits).filter_map(|(cell, hits)| {
            let [check, word] = cell else { return None };
            let (check, word) = (check.load(Relaxed), word.load(Relaxed));
            (word != 0).then(|| (check ^ word, Word(word), u64::from(hits)))
        })
    })
}

/// The tries that have filters in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trie {
    Prefixes,
    Allow,
    NeverBlock,
}

/// A filter in front of tries. It may say yes for nothing, never no for a prefix that is there.
#[derive(Debug)]
pub(super) struct Filter<W> {
    words: W,
    prefixes: HashSet<(Trie, IpNet)>,
    /// Bits are set for prefixes that are gone.
    stale: bool,
}

impl<W: AsRef<[AtomicU64]>> Filter<W> {
    /// `words`: as many as the places in it have bits.
    pub(super) fn new(words: W) -> Self {
        Self { words, prefixes: HashSet::new(), stale: false }
    }

    /// Before the prefix is put into the trie.
    pub(super) fn add(&mut self, trie: Trie, prefix: IpNet) {
        if self.prefixes.insert((trie, prefix)) {
            let words = self.words.as_ref();
            for (word, bits) in places(words.len(), trie, &prefix) {
                if let Some(word) = words.get(word) {
                    word.fetch_or(bits, Relaxed);
                }
            }
        }
    }

    /// After it is taken out of there.
    pub(super) fn remove(&mut self, trie: Trie, prefix: &IpNet) {
        self.stale |= self.prefixes.remove(&(trie, *prefix));
    }

    /// Takes away what is set for nothing.
    pub(super) fn tidy(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let words = self.words.as_ref();
        let mut wanted = vec![0u64; words.len()];
        for (word, bits) in self.prefixes.iter().flat_map(|(trie, prefix)| places(words.len(), *trie, prefix)) {
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

/// The words of a filter of so many that a prefix reaches into, and the bits there.
fn places(words: usize, trie: Trie, prefix: &IpNet) -> impl Iterator<Item = (usize, u64)> {
    let bits = (words * 64).checked_ilog2().unwrap_or(0);
    let first = table::filter_place(&mapped(prefix.network())) as usize >> FILTER_BITS.saturating_sub(bits);
    let (first, last) = match prefix {
        IpNet::V4(prefix) => (first, first + (1 << bits.saturating_sub(u32::from(prefix.prefix_len())))),
        IpNet::V6(_) if is_filtered(prefix) => (first, first + 1),
        // The settings say of the trie of prefixes that it has such; there are none among the filter's.
        IpNet::V6(_) if trie == Trie::Prefixes => (first, first),
        IpNet::V6(_) => (0, words * 64),
    };
    (first >> 6..last.div_ceil(64)).map(move |word| {
        let (start, end) = (first.max(word * 64) - word * 64, last.min(word * 64 + 64) - word * 64);
        let below = |bit: usize| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
        (word, below(end) & !below(start))
    })
}

const _: () = assert!(FILTER_BITS + MAPPED_PREFIX_BITS <= 128);

#[cfg(test)]
mod tests;
