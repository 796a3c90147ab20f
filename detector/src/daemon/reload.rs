//! A reload: the configuration is read and checked as at the start; what it says otherwise is put in force, or nothing is.
//! In: a word of the operator's, or SIGHUP. Out: what changed, and what would take a restart.
//!
//! All that can fail comes first: reading, and the packet path, which takes its part whole or leaves it. The rest is
//! swaps of values that were made before. Verdicts, sessions and connections stay as they are; each request is judged by
//! the old settings or by the new, never by some of both. One reload at a time. Memory: two configurations.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::{
    assessor::Assessor,
    engine::Handle,
    keeper::{self, KeeperHandle},
    known::Known,
    orders::Orders,
    reputation::LibrarianHandle,
};
use crate::{
    admin::protocol::{Outcome, Reloaded, Response, Settings},
    clock::{Timestamp, monotonic},
    config::{Config, ConfigError, Loaded, LogFilter, Overrides, Setting, is_live},
    join::Trusted,
    kernel,
    telemetry::{Metrics, logs},
};

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the packet path did not take it over: {0}")]
    Kernel(#[from] kernel::Error),
}

/// What is in force.
struct InForce {
    config: Config,
    settings: Vec<Setting>,
    file: Option<PathBuf>,
    since: Timestamp,
}

/// Whom a reload tells.
pub(super) struct Parties {
    pub(super) engine: Handle,
    pub(super) assessor: Arc<Assessor>,
    pub(super) known: Known,
    pub(super) trusted: Arc<ArcSwap<Trusted>>,
    pub(super) orders: Arc<Orders>,
    pub(super) keeper: KeeperHandle,
    pub(super) librarian: LibrarianHandle,
    pub(super) metrics: Arc<Metrics>,
}

/// Reads the configuration again.
pub(super) struct Reloader {
    overrides: Overrides,
    in_force: Mutex<InForce>,
    parties: Parties,
}

impl Reloader {
    /// `loaded`: what the daemon has begun with, by `overrides`.
    pub(super) fn new(loaded: Loaded, overrides: Overrides, parties: Parties) -> Self {
        let (settings, file) = (loaded.settings(), loaded.file);
        let in_force = Mutex::new(InForce { config: loaded.config, settings, file, since: monotonic() });
        Self { overrides, in_force, parties }
    }

    fn in_force(&self) -> MutexGuard<'_, InForce> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in force, from one setting on.
    pub(super) fn settings(&self, skip: usize) -> Settings {
        let in_force = self.in_force();
        let since = monotonic().since(in_force.since).as_secs();
        Settings::page(&in_force.settings, skip, in_force.file.clone(), since)
    }

    /// Reads the configuration again, and works by it.
    pub(super) fn reload(&self) -> Reloaded {
        let mut in_force = self.in_force();
        let reloaded = match self.take_over(&mut in_force) {
            Ok(reloaded) => reloaded,
            Err(refusal) => {
                let (error, file) = (refusal.to_string(), in_force.file.clone());
                error!(%error, "the new configuration is refused; the one before stays in force");
                let (changed, restart) = (Vec::new(), Vec::new());
                Reloaded { outcome: Outcome::Refused, file, changed, restart, error: Some(error) }
            }
        };
        let (changed, restart) = (reloaded.changed.join(" "), reloaded.restart.join(" "));
        if reloaded.outcome != Outcome::Refused {
            info!(outcome = reloaded.outcome.label(), changed, "the configuration is read again");
        }
        if !restart.is_empty() {
            warn!(keys = restart, "these keys of the configuration need a restart; until then their old values hold");
        }
        self.parties.metrics.resources.reloads.add(reloaded.outcome.label(), 1);
        reloaded
    }

    fn take_over(&self, in_force: &mut InForce) -> Result<Reloaded, Refusal> {
        let loaded = Loaded::read(&self.overrides)?;
        let (new, file) = (loaded.settings(), loaded.file.clone());
        let old = &in_force.config;
        let config = old.reloaded(loaded.config);
        if config != *old {
            self.tell(old, &config)?;
        }
        let differs = |(old, new): &(&Setting, &Setting)| old.value != new.value;
        let keys = |live: bool| {
            let both = in_force.settings.iter().zip(&new).filter(differs);
            both.filter(|(_, new)| is_live(&new.key) == live).map(|(_, new)| new.key.clone()).collect::<Vec<_>>()
        };
        let (changed, restart) = (keys(true), keys(false));
        let outcome = if changed.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        let both = in_force.settings.drain(..).zip(new);
        let settings = both.map(|(old, new)| if is_live(&new.key) || old.value == new.value { new } else { old });
        let since = if changed.is_empty() { in_force.since } else { monotonic() };
        *in_force = InForce { config, settings: settings.collect(), file: file.clone(), since };
        Ok(Reloaded { outcome, file, changed, restart, error: None })
    }

    /// Puts `new` in force. What may fail comes first.
    fn tell(&self, old: &Config, new: &Config) -> Result<(), Refusal> {
        let Parties { engine, assessor, known, trusted, orders, keeper, librarian, .. } = &self.parties;
        let proxies = Trusted::new(new.signals.trusted_proxies.iter().copied());
        let deny: HashSet<_> = new.deny_ja4.iter().copied().collect();
        engine.configure(deny, Some(new.mode).filter(|mode| *mode != old.mode))?;
        keeper.name(keeper::named(new));
        trusted.store(Arc::new(proxies.clone()));
        known.configure(proxies, new.engine.paths.clone());
        assessor.configure(&new.engine, new.limits.assessed_per_second);
        orders.may_hit(new.orders.max_browser_percent);
        let lists = |config: &Config| (config.feeds.clone(), config.reputation.clone());
        if lists(old) != lists(new) {
            librarian.configure(new);
        }
        if old.log.filter != new.log.filter
            && let Err(error) = logs::set_filter(&new.log.filter)
        {
            // It was checked when it was read.
            warn!(%error, "what is logged stays as it was");
        }
        Ok(())
    }
}

/// Changes what is logged, if that is asked for, and tells it.
pub(super) fn log(wanted: Option<LogFilter>) -> Response {
    let changed = wanted.map_or(Ok(()), |wanted| logs::set_filter(&wanted));
    match (changed, logs::filter()) {
        (Ok(()), Some(filter)) => Response::Log { filter },
        (Ok(()), None) => Response::Error { message: "logging has not begun".to_owned() },
        (Err(error), _) => Response::Error { message: error.to_string() },
    }
}
