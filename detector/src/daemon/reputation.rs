//! What is known of addresses, for the threads that score: lists and databases as they are on the disk, read anew by a
//! thread of its own when they change, and what DNS said of crawlers. A file that can't be read, or isn't to be believed,
//! changes nothing.
//!
//! Memory: two [`Book`]s while one takes the other's place, and [`Confirm`]'s bound.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use tracing::{info, warn};

use super::Error;
use crate::clock::{Timestamp, wall};
use crate::config::{self, Config, Feeds};
use crate::feeds::store::{self, Stamp};
use crate::reputation::{Answer, Book, Check, Confirm, Databases, Limits, Standing};
use crate::telemetry::Metrics;

/// How often it is looked whether files changed.
const EVERY: Duration = Duration::from_secs(2);

/// For all threads.
#[derive(Clone)]
pub(super) struct Reputation(Arc<Shared>);

struct Shared {
    book: RwLock<Arc<Book>>,
    confirm: Mutex<Confirm>,
    by_name: bool,
    metrics: Arc<Metrics>,
}

impl Reputation {
    /// With what is on the disk now, and the thread that reads it when it changes.
    pub(super) fn start(config: &Config, metrics: Arc<Metrics>) -> Result<(Self, Librarian), Error> {
        let mut shelf = Shelf::new(config, Arc::clone(&metrics));
        let book = RwLock::new(Arc::new(shelf.read()));
        let known = config.reputation.crawler_answers as usize;
        let confirm = Mutex::new(Confirm::new(Limits { known, ..Limits::default() }));
        let by_name = config.reputation.dns_per_second > 0;
        let this = Self(Arc::new(Shared { book, confirm, by_name, metrics }));
        let librarian = Librarian::start(this.clone(), shelf)?;
        Ok((this, librarian))
    }

    /// What is known of an address, and of what its User-Agent claims.
    pub(super) fn standing(&self, address: IpAddr, user_agent: Option<&str>, spared: bool, now: Timestamp) -> Standing {
        let confirmed = |check| if self.0.by_name { self.confirm().ask(check, now) } else { None };
        self.book().standing(address, user_agent, spared, confirmed)
    }

    /// The names of lists.
    pub(super) fn names(&self, lists: u64) -> Vec<String> {
        self.book().names(lists).map(|(name, _)| name.to_owned()).collect()
    }

    /// The next claim to look up.
    pub(super) fn next_check(&self) -> Option<Check> {
        self.confirm().take()
    }

    /// One was looked up.
    pub(super) fn answered(&self, check: Check, answer: Answer, now: Timestamp) {
        self.0.metrics.resources.crawlers.add(answer.label(), 1);
        self.confirm().answered(check, answer, now);
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self) {
        let (_, dropped) = self.confirm().counts();
        self.0.metrics.resources.crawlers_dropped.set(dropped);
        self.0.metrics.resources.entries.list_prefixes.set(self.book().len() as u64);
    }

    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.0.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn confirm(&self) -> MutexGuard<'_, Confirm> {
        self.0.confirm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files, and what they said when they could be read last.
struct Shelf {
    feeds: Feeds,
    reputation: config::Reputation,
    stamps: Vec<Stamp>,
    lists: BTreeMap<String, Vec<IpNet>>,
    databases: Databases,
    metrics: Arc<Metrics>,
}

impl Shelf {
    fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let (feeds, reputation) = (config.feeds.clone(), config.reputation.clone());
        let databases = Databases { hosting: reputation.hosting_asns.clone(), ..Databases::default() };
        Self { feeds, reputation, stamps: Vec::new(), lists: BTreeMap::new(), databases, metrics }
    }

    /// Other lists and databases from now on. What was known of those that stay is known until they are read again.
    fn configure(&mut self, feeds: Feeds, reputation: config::Reputation) {
        self.lists.retain(|name, _| feeds.lists.get(name) == self.feeds.lists.get(name));
        let asn = self.databases.asn.take().filter(|_| reputation.asn_database == self.reputation.asn_database);
        let country = self.databases.country.take();
        let country = country.filter(|_| reputation.country_database == self.reputation.country_database);
        self.databases = Databases { asn, country, hosting: reputation.hosting_asns.clone() };
        (self.feeds, self.reputation) = (feeds, reputation);
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let lists = self.feeds.lists.iter().map(|(name, list)| store::path(&self.feeds, name, list));
        let databases = [&self.reputation.asn_database, &self.reputation.country_database];
        lists.chain(databases.into_iter().flatten().cloned())
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.paths().map(|path| store::stamp(&path)).collect()
    }

    /// Whether anything is to be read anew.
    fn changed(&self) -> bool {
        self.stamps() != self.stamps
    }

    /// Reads everything.
    fn read(&mut self) -> Book {
        self.stamps = self.stamps();
        for (name, list) in &self.feeds.lists {
            match store::read(&self.feeds, name, list) {
                Ok(read) => {
                    info!(list = %name, prefixes = read.prefixes.len(), left_out = read.special + read.unread, "a list of addresses is read");
                    self.metrics.resources.lists.add("read", 1);
                    self.lists.insert(name.clone(), read.prefixes);
                }
                Err(error) => {
                    warn!(list = %name, %error, "a list of addresses is not taken; what was known of it stays");
                    self.metrics.resources.lists.add(error.label(), 1);
                }
            }
        }
        let lists = self.feeds.lists.iter().map(|(name, list)| {
            let prefixes = self.lists.get(name).into_iter().flatten().copied();
            (name.clone(), list.class, prefixes)
        });
        let databases = [
            (&self.reputation.asn_database, &mut self.databases.asn),
            (&self.reputation.country_database, &mut self.databases.country),
        ];
        for (path, known) in databases {
            let Some(path) = path else { continue };
            match store::database(path) {
                Ok(read) => {
                    info!(path = %path.display(), "an address database is read");
                    self.metrics.resources.lists.add("read", 1);
                    *known = Some(read);
                }
                Err(error) => {
                    warn!(%error, "an address database is not taken; what was known of addresses stays");
                    self.metrics.resources.lists.add(error.label(), 1);
                }
            }
        }
        Book::new(lists, self.databases.clone())
    }
}

/// The thread that reads the files.
pub(super) struct Librarian {
    thread: thread::JoinHandle<()>,
    handle: LibrarianHandle,
}

enum Errand {
    /// Other lists and databases.
    Configure(Box<(Feeds, config::Reputation)>),
    Stop,
}

/// Talks to it from other threads.
#[derive(Clone)]
pub(super) struct LibrarianHandle(Sender<Errand>);

impl LibrarianHandle {
    /// Other lists and databases are to be read.
    pub(super) fn configure(&self, config: &Config) {
        // A thread that has ended ends the process.
        let _ = self.0.send(Errand::Configure(Box::new((config.feeds.clone(), config.reputation.clone()))));
    }
}

impl Librarian {
    fn start(reputation: Reputation, mut shelf: Shelf) -> Result<Self, Error> {
        let (errands, sent) = channel();
        let run = move || {
            loop {
                let is_new = match sent.recv_timeout(EVERY) {
                    Ok(Errand::Configure(settings)) => {
                        shelf.configure(settings.0, settings.1);
                        true
                    }
                    Err(RecvTimeoutError::Timeout) => false,
                    Ok(Errand::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                };
                shelf.metrics.resources.list_age.set(store::age(&shelf.feeds, wall()).as_secs());
                if is_new || shelf.changed() {
                    let book = Arc::new(shelf.read());
                    // The one before ends after the lock: to free a large list takes a while.
                    let before = {
                        let mut now = reputation.0.book.write().unwrap_or_else(PoisonError::into_inner);
                        std::mem::replace(&mut *now, book)
                    };
                    drop(before);
                }
            }
        };
        let spawned = thread::Builder::new().name("reputation".to_owned()).spawn(run);
        let thread = spawned.map_err(|error| Error::System("starting a thread", error.to_string()))?;
        Ok(Self { thread, handle: LibrarianHandle(errands) })
    }

    /// What talks to it.
    pub(super) fn handle(&self) -> LibrarianHandle {
        self.handle.clone()
    }

    /// Ends it.
    pub(super) fn stop(self) {
        // One that has ended needs no stopping.
        let _ = self.handle.0.send(Errand::Stop);
        // A thread that panicked has taken the process with it.
        let _ = self.thread.join();
    }
}
