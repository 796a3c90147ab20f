//! What operators ordered, on disk: orders in, the same ones out after a restart or a crash. An order is on the disk
//! (fsync of the file, and of the directory where a name changed) before [`Store::put`] returns.
//!
//! The file is a log of lines, `CHECKSUM JSON`, the first 8 hex digits of the JSON's SHA-256 before it. It is written
//! anew (a temporary file, renamed) when it has grown, at the start, and for many orders at once, which are so there as
//! a whole or not at all. A last line without its end is what a crash leaves: nobody was told of that order. Any other
//! line that is not as it was written has the file kept aside under another name and counted; what can be read holds.
//!
//! An order's end is kept on both clocks. CLOCK_MONOTONIC counts while the host is up, so that a wrong wall clock moves
//! nothing; after a reboot the wall clock must do, and an order never lasts longer than it did when it was made.
//!
//! Memory: every order that is in force, bounded by who puts them.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;

/// The log's name in the directory.
const FILE: &str = "operator.log";
/// What a daemon locks while it uses the directory.
const LOCK: &str = "lock";
/// Of the lines; another one is not read.
const VERSION: u32 = 1;
/// Lines that may be out of date, beyond as many as are not, before the log is written anew.
const SLACK: usize = 4096;
/// More orders than these at once are written with a new log.
const FEW: usize = 64;
/// The most bytes of a line that is read.
const LINE_MAX: u64 = 16 * 1024;
/// How far the wall clock may have moved against the monotonic one before the ends on disk are corrected.
const DRIFT: Duration = Duration::from_secs(1);
/// How long another daemon, which may be about to end, is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// What is kept: at most one under each key.
pub trait Order: Serialize + DeserializeOwned + Clone {
    /// What it is about.
    fn key(&self) -> String;
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub monotonic: Timestamp,
    /// CLOCK_REALTIME.
    pub wall: SystemTime,
}

impl Now {
    /// This moment.
    #[must_use]
    pub fn read() -> Self {
        Self { monotonic: crate::clock::monotonic(), wall: crate::clock::wall() }
    }

    /// Milliseconds since 1970, 0 before.
    fn wall_ms(self) -> u64 {
        self.wall.duration_since(UNIX_EPOCH).map_or(0, millis)
    }

    /// What the wall clock is ahead of the monotonic one, milliseconds.
    fn offset_ms(self) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        signed(self.wall_ms()).saturating_sub(signed(self.monotonic.as_nanos() / 1_000_000))
    }
}

/// What tells this boot of the host from others: CLOCK_MONOTONIC began anew with it, and nothing pinned outlives it.
#[must_use]
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An order in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// What was ordered.
    pub order: T,
    /// Until when; `None` is forever.
    pub until: Option<Timestamp>,
    /// How long it was to last when it was made.
    lasts: Option<Duration>,
}

impl<T> Kept<T> {
    /// An order made now that lasts so long; `None` is forever.
    pub fn new(order: T, lasts: Option<Duration>, now: Timestamp) -> Self {
        Self { order, until: lasts.map(|lasts| now.plus(lasts)), lasts }
    }

    /// The same with another order, for as long.
    #[must_use]
    pub fn of(&self, order: T) -> Self {
        Self { order, until: self.until, lasts: self.lasts }
    }

    fn live(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A line of the log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    /// The first one.
    Log {
        version: u32,
        /// Of the host, when the log was written: as long as it is the same, so is CLOCK_MONOTONIC.
        boot: String,
    },
    Put {
        order: T,
        /// Absent: forever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<End>,
    },
    Gone {
        key: String,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct End {
    /// Milliseconds since 1970.
    wall_ms: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    monotonic_ns: u64,
    /// Milliseconds it was to last.
    lasts_ms: u64,
}

/// Why orders can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refuses.
    #[error("can't {what} `{}`: {source}", path.display())]
    Io {
        /// What it refuses.
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It did at the start.
    #[error("{0}")]
    Never(String),
}

fn fail<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// What was found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Lines that were not as they were written.
    pub damaged: usize,
    /// Where the damaged file was put.
    pub aside: Option<PathBuf>,
    /// Orders that ended while nobody looked.
    pub ended: usize,
}

/// The orders, in memory and on disk.
#[derive(Debug)]
pub struct Store<T> {
    directory: PathBuf,
    boot: String,
    entries: BTreeMap<String, Kept<T>>,
    /// The log, to be appended to; absent after a failure, so that the next change writes it anew.
    log: Option<File>,
    /// Lines in it.
    lines: usize,
    /// [`Now::offset_ms`] by which its ends were written.
    offset_ms: i64,
    /// Why nothing can be written, or the lock.
    lock: Result<File, String>,
}

impl<T: Order> Store<T> {
    /// Reads what the directory holds, and makes it (mode 0700) if it is missing. Nobody else may use it meanwhile.
    ///
    /// # Errors
    /// When the directory can't be made, read or locked.
    pub fn open(directory: &Path, now: Now) -> Result<(Self, Found), StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail("make", directory))?;
        let lock = lock(&directory.join(LOCK))?;
        let boot = boot();
        let path = directory.join(FILE);
        let mut found = Found::default();
        let entries = match File::open(&path) {
            Ok(file) => replay(file, &boot, now, &mut found).map_err(fail("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(fail("read", &path)(error)),
        };
        let mut store = Self {
            directory: directory.to_owned(),
            boot,
            entries,
            log: None,
            lines: 0,
            offset_ms: now.offset_ms(),
            lock: Ok(lock),
        };
        let before = store.entries.len();
        store.forget_ended(now.monotonic);
        found.ended = before.saturating_sub(store.entries.len());
        if found.damaged > 0 {
            let aside = directory.join(format!("{FILE}.damaged-{}", now.wall_ms() / 1000));
            // The log stays where it is until the new one is whole.
            fs::hard_link(&path, &aside).map_err(fail("keep aside", &path))?;
            found.aside = Some(aside);
            store.rewrite(now)?;
        }
        Ok((store, found))
    }

    /// One that keeps orders in memory only, and says so whenever it is to write them.
    #[must_use]
    pub fn without_disk(why: String) -> Self {
        Self {
            directory: PathBuf::new(),
            boot: String::new(),
            entries: BTreeMap::new(),
            log: None,
            lines: 0,
            offset_ms: 0,
            lock: Err(why),
        }
    }

    /// The orders in force, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Kept<T>)> {
        self.entries.iter().map(|(key, kept)| (key.as_str(), kept))
    }

    /// The order under `key`, if it is in force.
    #[must_use]
    pub fn find(&self, key: &str, now: Timestamp) -> Option<&Kept<T>> {
        self.entries.get(key).filter(|kept| kept.live(now))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps these, each instead of the one under its key. They are on the disk when this returns; all of them, or none.
    ///
    /// # Errors
    /// When they couldn't be written. They are kept all the same, and written with the next change that can be.
    pub fn put(&mut self, orders: Vec<Kept<T>>, now: Now) -> Result<(), StoreError> {
        let many = orders.len() > FEW;
        let mut lines = Vec::new();
        for kept in orders {
            if !many {
                line(&mut lines, &put_line(&kept, now));
            }
            self.entries.insert(kept.order.key(), kept);
        }
        if many { self.rewrite(now) } else { self.append(&lines, now) }
    }

    /// Keeps what is under these keys no longer; the same on the disk when this returns.
    ///
    /// # Errors
    /// When that couldn't be written.
    pub fn remove(&mut self, keys: &[String], now: Now) -> Result<(), StoreError> {
        let mut lines = Vec::new();
        for key in keys {
            if self.entries.remove(key).is_some() {
                line(&mut lines, &Line::<T>::Gone { key: key.clone() });
            }
        }
        if lines.is_empty() { Ok(()) } else { self.append(&lines, now) }
    }

    /// To be called now and then: forgets what has ended, and writes what couldn't be written before, or what a jump of
    /// the wall clock has made wrong.
    ///
    /// # Errors
    /// When the log can't be written.
    pub fn tend(&mut self, now: Now) -> Result<(), StoreError> {
        self.forget_ended(now.monotonic);
        let drift = now.offset_ms().abs_diff(self.offset_ms);
        let outgrown = self.lines > 2 * self.entries.len() + SLACK;
        let unwritten = self.log.is_none() && !self.entries.is_empty();
        if unwritten || outgrown || (self.log.is_some() && Duration::from_millis(drift) > DRIFT) {
            return self.rewrite(now);
        }
        Ok(())
    }

    fn forget_ended(&mut self, now: Timestamp) {
        self.entries.retain(|_, kept| kept.live(now));
    }

    fn append(&mut self, lines: &[u8], now: Now) -> Result<(), StoreError> {
        let Some(log) = &mut self.log else { return self.rewrite(now) };
        match log.write_all(lines).and_then(|()| log.sync_data()) {
            Ok(()) => {
                self.lines += lines.iter().filter(|byte| **byte == b'\n').count();
                Ok(())
            }
            Err(error) => {
                // Half a line may be there: nothing may follow it.
                self.log = None;
                Err(fail("write", &self.directory.join(FILE))(error))
            }
        }
    }

    /// Writes the log anew, with what is in force only.
    fn rewrite(&mut self, now: Now) -> Result<(), StoreError> {
        self.forget_ended(now.monotonic);
        if let Err(why) = &self.lock {
            return Err(StoreError::Never(why.clone()));
        }
        self.log = None;
        let (path, draft) = (self.directory.join(FILE), self.directory.join(format!("{FILE}.new")));
        let write = || -> io::Result<File> {
            let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let mut bytes = Vec::new();
            line(&mut bytes, &Line::<T>::Log { version: VERSION, boot: self.boot.clone() });
            out.write_all(&bytes)?;
            for kept in self.entries.values() {
                bytes.clear();
                line(&mut bytes, &put_line(kept, now));
                out.write_all(&bytes)?;
            }
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(|error| {
            // What is left of it would only take room, which may be what is missing.
            drop(fs::remove_file(&draft));
            fail("write", &path)(error)
        })?;
        self.log = Some(file);
        self.lines = self.entries.len();
        self.offset_ms = now.offset_ms();
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let options = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path);
    let file = options.map_err(fail("make", path))?;
    let end = crate::clock::monotonic().plus(LOCK_PATIENCE);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if crate::clock::monotonic() < end => std::thread::sleep(LOCK_AGAIN),
            Err(TryLockError::WouldBlock) => {
                let source = io::Error::other("another detector uses this directory");
                return Err(fail("lock", path)(source));
            }
            Err(TryLockError::Error(error)) => return Err(fail("lock", path)(error)),
        }
    }
}

fn put_line<T: Clone>(kept: &Kept<T>, now: Now) -> Line<T> {
    let end = kept.until.zip(kept.lasts).map(|(until, lasts)| End {
        wall_ms: now.wall_ms().saturating_add(millis(until.since(now.monotonic))),
        monotonic_ns: until.as_nanos(),
        lasts_ms: millis(lasts),
    });
    Line::Put { order: kept.order.clone(), end }
}

/// Appends a line with its checksum.
fn line<T: Serialize>(out: &mut Vec<u8>, line: &Line<T>) {
    // Text, numbers and enums: serde_json has no reason to fail.
    let json = serde_json::to_vec(line).unwrap_or_default();
    out.extend_from_slice(&checksum(&json));
    out.push(b' ');
    out.extend_from_slice(&json);
    out.push(b'\n');
}

fn checksum(json: &[u8]) -> [u8; 8] {
    let digest: [u8; 32] = Sha256::digest(json).into();
    let mut digits = [0; 8];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [byte >> 4, byte & 15].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]);
    }
    digits
}

/// The orders of a log.
fn replay<T: Order>(file: File, boot: &str, now: Now, found: &mut Found) -> io::Result<BTreeMap<String, Kept<T>>> {
    let mut entries = BTreeMap::new();
    let mut reader = BufReader::new(file);
    let (mut first, mut same_boot) = (true, false);
    loop {
        let mut bytes = Vec::new();
        io::Read::take(&mut reader, LINE_MAX).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(entries);
        }
        let Some(whole) = bytes.strip_suffix(b"\n") else {
            // The end of the file in the middle of a line: a crash. Otherwise a line that nobody has written.
            let crash = reader.fill_buf()?.is_empty() && !first;
            found.damaged += usize::from(!crash);
            if crash {
                return Ok(entries);
            }
            skip_line(&mut reader)?;
            continue;
        };
        match read_line(whole) {
            Some(Line::Log { version, boot: written }) if first && version == VERSION => {
                same_boot = !boot.is_empty() && written == boot;
            }
            Some(Line::Put { order, end }) if !first => {
                let kept: Kept<T> =
                    Kept { until: end.map(|end| until(end, same_boot, now)), lasts: end.map(lasts), order };
                entries.insert(kept.order.key(), kept);
            }
            Some(Line::Gone { key }) if !first => {
                entries.remove(&key);
            }
            _ => found.damaged += 1,
        }
        first = false;
    }
}

fn skip_line(reader: &mut impl io::BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |at| at + 1);
        reader.consume(length);
        if end.is_some() || length == 0 {
            return Ok(());
        }
    }
}

fn read_line<T: DeserializeOwned>(line: &[u8]) -> Option<Line<T>> {
    let (sum, rest) = line.split_first_chunk::<8>()?;
    let json = rest.strip_prefix(b" ")?;
    if *sum != checksum(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn lasts(end: End) -> Duration {
    Duration::from_millis(end.lasts_ms)
}

fn until(end: End, same_boot: bool, now: Now) -> Timestamp {
    if same_boot {
        return Timestamp::from_nanos(end.monotonic_ns);
    }
    let left = Duration::from_millis(end.wall_ms.saturating_sub(now.wall_ms()));
    now.monotonic.plus(left.min(lasts(end)))
}

#[cfg(test)]
mod tests;
