//! What the signals of JA4 values need of the system: a lock around them, a file, and a thread that writes it every
//! minute and at the end. A daemon that is killed loses a minute of them.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::mem;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::Error;
use super::every::Every;
use crate::admin::protocol::Response;
use crate::clock::{Timestamp, monotonic, wall};
use crate::fingerprint::Ja4;
use crate::signals::{Ranking, Request, Signals};
use crate::telemetry::Metrics;

/// Between two snapshots.
const EVERY: Duration = Duration::from_secs(60);

/// JA4 values of a snapshot that are written while nothing can be noted: a millisecond of the largest.
const AT_ONCE: usize = 16;

/// How old the ranks that are told may be: to make them everything is read.
const FRESH: Duration = Duration::from_secs(1);

/// The signals, for all threads.
pub struct Watch {
    state: Mutex<State>,
    file: PathBuf,
    metrics: Arc<Metrics>,
}

struct State {
    signals: Signals,
    ranking: Option<(Timestamp, Ranking)>,
    /// Something was noted since the last snapshot.
    changed: bool,
}

impl Watch {
    /// Of `most` JA4 values, as they were when the daemon wrote them into `directory` last. What can't be read is put
    /// aside, and they begin anew.
    #[must_use]
    pub fn open(directory: &Path, most: usize, metrics: Arc<Metrics>) -> Self {
        let file = directory.join("signals");
        let signals = read(&file, most).unwrap_or_else(|| {
            // std seeds it from the system.
            let random = RandomState::new();
            Signals::new(most, (random.hash_one(1), random.hash_one(2)))
        });
        Self { state: Mutex::new(State { signals, ranking: None, changed: false }), file, metrics }
    }

    /// A request came at `now`.
    pub fn note(&self, request: &Request<'_>, now: Timestamp) {
        let mut state = self.lock();
        state.signals.note(request, now);
        state.changed = true;
    }

    /// What is known of a JA4 value.
    #[must_use]
    pub fn answer(&self, ja4: Ja4, now: Timestamp) -> Response {
        let mut state = self.lock();
        let State { signals, ranking, .. } = &mut *state;
        if ranking.as_ref().is_none_or(|(made, _)| now.since(*made) >= FRESH) {
            *ranking = Some((now, signals.ranking(now)));
        }
        let figures = ranking.as_ref().and_then(|(_, ranking)| signals.figures(ranking, ja4));
        figures.map_or(Response::NotFound, |figures| Response::Signals(Box::new(figures)))
    }

    /// Brings the metrics up to date.
    pub fn publish(&self) {
        let state = self.lock();
        let resources = &self.metrics.resources;
        resources.entries.signal_fingerprints.set(state.signals.len() as u64);
        resources.evicted.signal_fingerprints.set(state.signals.evicted());
    }

    /// Writes the snapshot, if there is anything new in it.
    ///
    /// # Errors
    /// When the system refuses; then what was there stays.
    pub fn save(&self) -> io::Result<()> {
        let mut draft = {
            let mut state = self.lock();
            if !mem::take(&mut state.changed) {
                return Ok(());
            }
            state.signals.draft()
        };
        // Requests are noted in between.
        while self.lock().signals.add_to(&mut draft, AT_ONCE) {}
        let header = self.lock().signals.header(monotonic(), since_1970());
        let written = write(&self.file, &draft.finish(header));
        let resources = &self.metrics.resources;
        if written.is_ok() { &resources.snapshots_written } else { &resources.snapshots_failed }.add(1);
        if written.is_err() {
            self.lock().changed = true;
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that writes snapshots.
pub(super) fn start_saving(watch: Arc<Watch>) -> Result<Every, Error> {
    Every::start("signals", EVERY, move || {
        if let Err(error) = watch.save() {
            let file = watch.file.display();
            warn!(%error, %file, "the signals of JA4 values are not on the disk: a restart would lose them");
        }
    })
}

fn read(file: &Path, most: usize) -> Option<Signals> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(%error, file = %file.display(), "the signals of JA4 values begin anew");
            return None;
        }
    };
    match Signals::restore(&bytes, most, monotonic(), since_1970()) {
        Ok(signals) => {
            info!(ja4_values = signals.len(), "the signals go on as they were written");
            Some(signals)
        }
        Err(error) => {
            let aside = file.with_extension("damaged");
            let kept =
                fs::rename(file, &aside).map_or_else(|error| error.to_string(), |()| aside.display().to_string());
            warn!(%error, file = %file.display(), %kept, "the signals of JA4 values begin anew; the file is put aside");
            None
        }
    }
}

/// A whole file or the old one, whatever happens.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("new");
    let mut new = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    fs::rename(&draft, file)?;
    file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn since_1970() -> u64 {
    wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::telemetry::metrics::Labels;

    fn ja4() -> Ja4 {
        "t13d1516h2_8daaf6152771_e5627efa2ab1".parse().unwrap()
    }

    fn open(directory: &Path) -> Arc<Watch> {
        let metrics = Arc::new(Metrics::new(Mode::Observe, Labels::default()).unwrap());
        Arc::new(Watch::open(directory, 100, metrics))
    }

    fn request(client: u8) -> Request<'static> {
        Request {
            ja4: ja4(),
            address: [192, 0, 2, client].into(),
            user_agent: None,
            path: None,
            h2h3: true,
            cacheable: false,
            heuristic: false,
            browser: false,
            again: false,
        }
    }

    fn note(watch: &Watch, client: u8) {
        watch.note(&request(client), monotonic());
    }

    /// As of so many seconds from now.
    fn addresses(watch: &Watch, seconds: u64) -> Option<u64> {
        match watch.answer(ja4(), monotonic().plus(Duration::from_secs(seconds))) {
            Response::Signals(figures) => Some(figures.last_hour.ips),
            _ => None,
        }
    }

    #[test]
    fn signals_outlive_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let watch = open(directory.path());
        assert_eq!(addresses(&watch, 0), None);
        // More than are written at once.
        for number in 0..50 {
            let ja4 = format!("t13d1516h2_8daaf6152771_{number:012x}").parse().unwrap();
            watch.note(&Request { ja4, ..request(1) }, monotonic());
        }
        let saver = start_saving(Arc::clone(&watch)).unwrap();
        (0..7).for_each(|client| note(&watch, client));
        saver.stop();
        let again = open(directory.path());
        assert_eq!(addresses(&again, 0), Some(7));
        note(&again, 3);
        note(&again, 8);
        assert_eq!(again.lock().signals.len(), 51);
        assert_eq!(addresses(&again, 0), Some(7), "ranks are made once a second");
        assert_eq!(addresses(&again, 2), Some(8));
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let watch = open(directory.path());
        note(&watch, 1);
        watch.save().unwrap();
        let file = directory.path().join("signals");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert_eq!(addresses(&open(directory.path()), 0), None);
        assert_eq!(fs::read(directory.path().join("signals.damaged")).unwrap(), bytes);
        assert!(!file.exists());
    }

    #[test]
    fn a_disk_that_refuses_is_told_of_and_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("state");
        let watch = open(&missing);
        note(&watch, 1);
        assert!(watch.save().is_err());
        fs::create_dir(&missing).unwrap();
        watch.save().unwrap();
        watch.save().unwrap();
        let text = watch.metrics.encode().unwrap();
        for (outcome, count) in [("failed", 1), ("written", 1)] {
            let line = format!("detector_files_total{{file=\"signals\",outcome=\"{outcome}\"}} {count}");
            assert!(text.contains(&line), "{text}");
        }
        assert_eq!(addresses(&open(&missing), 0), Some(1));
    }
}
