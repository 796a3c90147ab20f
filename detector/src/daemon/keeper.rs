//! A thread beside the packet path: keeps what is never blocked current, as addresses, routes and resolvers come and go,
//! and looks after operators' orders and the interfaces every second.

use std::{
    fs::{self, File},
    io::Read as _,
    net::IpAddr,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tracing::{info, warn};

use super::{
    attachments::Attachments,
    orders::Orders,
    progress::{Part, Progress},
};
use crate::{
    clock::{Timestamp, monotonic},
    config::{Addresses, Config},
    kernel::{AddressWatch, Error, Waker, gateways, own_addresses, wait},
    policy::never_block::{Spared, Why, resolvers},
};

/// Between two looks at what nobody tells of.
const TICK: Duration = Duration::from_secs(1);
/// Where reading the routes took so long, it is done this much more seldom: a router may have a million of them.
const REST: u32 = 50;
/// The most bytes of a resolv.conf that are read.
const RESOLV_CONF_MAX: u64 = 64 * 1024;

/// What changes when a file does.
type Stamp = Option<(SystemTime, u64)>;

/// What the configuration says is never blocked.
pub(super) fn named(config: &Config) -> Vec<Spared> {
    let configured = config.orders.never_block.iter().map(|prefix| (*prefix, Why::Configured));
    let proxies = config.signals.trusted_proxies.iter().map(|prefix| (*prefix, Why::Proxy));
    let listed = match &config.capture.addresses {
        Addresses::Listed(listed) => listed.clone(),
        Addresses::Own | Addresses::Any => Vec::new(),
    };
    let own = listed.into_iter().map(|address| (IpNet::from(address), Why::Own));
    configured.chain(proxies).chain(own).map(|(prefix, why)| Spared { prefix, why }).collect()
}

/// What the host says about itself.
pub(super) struct Host {
    /// Absent if the kernel has none: then everything is read each second.
    watch: Option<AddressWatch>,
    /// Named in the configuration.
    named: Vec<Spared>,
    resolv_conf: Vec<PathBuf>,
    stamps: Vec<Stamp>,
    spared: Vec<Spared>,
    /// Not read again before.
    rests_until: Timestamp,
}

impl Host {
    /// Reads it for the first time.
    pub(super) fn read(config: &Config) -> Self {
        let mut this = Self {
            // Watching starts before reading, so that no change falls between the two.
            watch: AddressWatch::with_routes()
                .inspect_err(|error| warn!(%error, "this host's addresses and routes are read every second instead"))
                .ok(),
            named: named(config),
            resolv_conf: config.orders.resolv_conf.clone(),
            stamps: Vec::new(),
            spared: Vec::new(),
            rests_until: Timestamp::default(),
        };
        this.refresh();
        this
    }

    /// What is never blocked, as last read.
    pub(super) fn spared(&self) -> Vec<Spared> {
        self.spared.clone()
    }

    /// Reads everything afresh. What can't be read stays as it was.
    fn refresh(&mut self) {
        let began = monotonic();
        self.stamps = self.resolv_conf.iter().map(stamp).collect();
        let mut spared = self.named.clone();
        let mut add = |why, read: Result<Vec<IpAddr>, Error>| match read {
            Ok(addresses) => {
                spared
                    .extend(addresses.into_iter().map(|address| Spared { prefix: address.to_canonical().into(), why }));
            }
            Err(error) => {
                warn!(%error, "what is never blocked may be out of date");
                spared.extend(self.spared.iter().filter(|old| old.why == why));
            }
        };
        add(Why::Own, own_addresses());
        add(Why::Gateway, gateways());
        add(Why::Resolver, Ok(self.resolv_conf.iter().flat_map(|path| resolvers(&contents(path))).collect()));
        self.spared = spared;
        let took = monotonic().since(began);
        self.rests_until = monotonic().plus(took * REST);
    }

    /// Whether anything happened that must be read.
    fn changed(&mut self, woken: bool) -> bool {
        woken || self.watch.is_none() || self.resolv_conf.iter().map(stamp).ne(self.stamps.iter().copied())
    }
}

fn stamp(path: &PathBuf) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn contents(path: &PathBuf) -> String {
    let mut text = String::new();
    // A file that isn't there names nobody.
    let read = File::open(path).and_then(|file| file.take(RESOLV_CONF_MAX).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// The thread.
pub(super) struct Keeper {
    thread: thread::JoinHandle<()>,
    handle: KeeperHandle,
}

/// Talks to it from other threads.
#[derive(Clone)]
pub(super) struct KeeperHandle {
    stop: Arc<AtomicBool>,
    /// What the configuration names now, until the thread has taken it over.
    named: Arc<Mutex<Option<Vec<Spared>>>>,
    waker: Waker,
}

impl KeeperHandle {
    /// The configuration says that these are never blocked.
    pub(super) fn name(&self, named: Vec<Spared>) {
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = Some(named);
        self.waker.wake();
    }

    fn take(&self) -> Option<Vec<Spared>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Keeper {
    /// Starts it.
    pub(super) fn start(
        host: Host,
        (orders, attachments): (Arc<Orders>, Arc<Attachments>),
        progress: Arc<Progress>,
    ) -> Result<Self, Error> {
        let handle = KeeperHandle { stop: Arc::default(), named: Arc::default(), waker: Waker::new()? };
        let told = handle.clone();
        let thread = thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || run(host, &orders, &attachments, &progress, &told))
            .map_err(|error| Error::System("starting a thread", error.to_string()))?;
        Ok(Self { thread, handle })
    }

    /// What talks to it.
    pub(super) fn handle(&self) -> KeeperHandle {
        self.handle.clone()
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.handle.stop.store(true, Ordering::Relaxed);
        self.handle.waker.wake();
        // A thread that panicked has taken the process with it.
        let _ = self.thread.join();
    }
}

fn run(mut host: Host, orders: &Orders, attachments: &Attachments, progress: &Progress, told: &KeeperHandle) {
    let (mut pending, waker) = (false, &told.waker);
    while !told.stop.load(Ordering::Relaxed) {
        // An error of poll(2) is one of ours alone; the second's rest keeps it from spinning.
        let watched = host.watch.as_ref().map_or_else(|| waker.as_fd(), |watch| watch.as_fd());
        let woken = match wait([watched, waker.as_fd()], TICK) {
            Ok([watched, true]) => {
                waker.clear();
                watched
            }
            Ok([watched, false]) => watched,
            Err(_) => {
                thread::sleep(TICK);
                true
            }
        };
        if let (true, Some(watch)) = (woken, &host.watch) {
            watch.clear();
        }
        pending |= host.changed(woken);
        let named = told.take().filter(|named| *named != host.named);
        if let Some(named) = named {
            // At once: who is to be spared is, before anything else is decided by what else changed.
            host.named = named;
            host.refresh();
            orders.spare(host.spared());
        } else if pending && monotonic() >= host.rests_until {
            pending = false;
            let before = host.spared();
            host.refresh();
            if host.spared != before {
                info!("this host's addresses, gateways or resolvers changed; the new ones are never blocked");
                orders.spare(host.spared());
            }
        }
        orders.tick();
        attachments.look();
        progress.made(Part::Orders);
    }
}
