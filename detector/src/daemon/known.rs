//! The hello's half of what is known of a request: hellos and the ends of connections come from the packet path by a
//! queue, and are looked up by whoever has a request. A thread of its own owns the queue's other end, so that the packet
//! path never waits for a look-up.
//!
//! Memory: [`Shards`]' bound, the queue's, and [`WAITING_MAX`] questions that wait for a hello.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use lru::LruCache;
use tokio::{sync::Notify, time::timeout};

use super::{joiner::Joiner, shards::Shards};
use crate::{
    clock::{Timestamp, monotonic},
    join::{Claim, End, Fit, Identity, Limits, Subject, Trusted, Tuple},
    report::Report,
    session::{Key, Paths, Summary},
    telemetry::Metrics,
};

/// Questions that wait at one time.
const WAITING_MAX: usize = 1024;
/// Client ends of which it is remembered that a question has waited.
const WAITED: usize = 16_384;
/// How long one waits: 5 ms at most, and a timer of tokio may be a millisecond late.
const PATIENCE: Duration = Duration::from_millis(4);
/// After so many questions in a row that waited in vain, one in so many does: either nobody tells of hellos, or questions are
/// so late that they name connections no more, and to wait makes the next ones later.
const IN_VAIN: u32 = 64;
/// How often time alone is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the packet path tells.
#[derive(Debug)]
pub(super) enum Told {
    /// A hello whose client has its address.
    Hello(Tuple, Identity),
    /// The hello that was complete at this time says nothing about its client.
    Void(Tuple, Timestamp),
    /// A connection has ended: FIN or RST.
    End(Tuple, Timestamp),
}

/// The packet path's end of the queue.
pub(super) struct Teller {
    queue: SyncSender<Told>,
    pub(super) queued: u64,
    pub(super) dropped: u64,
}

impl Teller {
    /// Never waits: what finds no room is dropped and counted.
    pub(super) fn tell(&mut self, told: Told) {
        match self.queue.try_send(told) {
            Ok(()) => self.queued += 1,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped += 1,
        }
    }
}

/// What is known of a request's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// What its hello said.
    Known(Arc<Identity>),
    /// The same, after waiting for it.
    Waited(Arc<Identity>),
    /// No hello has come.
    NoHello,
    /// No hello had come, and too many questions waited for theirs.
    Busy,
    /// Two connections may be meant.
    Ambiguous,
}

struct Shared {
    connections: Shards,
    joiner: Joiner,
    asked: Mutex<Asked>,
}

/// Questions whose hello hasn't come.
struct Asked {
    waiting: HashMap<End, Arc<Notify>>,
    /// A question waits once for each connection.
    waited: LruCache<End, ()>,
    /// Those of which none found what it waited for, since one last did.
    in_vain: u32,
}

/// The connections and their hellos. No lock of it is held for longer than one look-up: a question waits neither for
/// what is done with reports nor for other questions.
#[derive(Clone)]
pub(super) struct Known(Arc<Shared>);

impl Known {
    /// Starts the thread, which calls `alive` each second; it ends with the last [`Teller`].
    pub(super) fn start(
        limits: Limits,
        queue: usize,
        joiner: Joiner,
        metrics: Arc<Metrics>,
        alive: impl Fn() + Send + 'static,
    ) -> std::io::Result<(Self, Teller)> {
        let waited = LruCache::new(NonZeroUsize::new(WAITED).unwrap_or(NonZeroUsize::MIN));
        let asked = Mutex::new(Asked { waiting: HashMap::new(), waited, in_vain: 0 });
        let known = Self(Arc::new(Shared { connections: Shards::new(limits), joiner, asked }));
        let (queue, told) = sync_channel(queue);
        let own = known.clone();
        thread::Builder::new().name("known".to_owned()).spawn(move || own.listen(&told, &metrics, alive))?;
        Ok((known, Teller { queue, queued: 0, dropped: 0 }))
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, told: &Receiver<Told>, metrics: &Metrics, alive: impl Fn()) {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        let mut ticked = monotonic();
        loop {
            let one = told.recv_timeout(TICK);
            let now = monotonic();
            match one {
                Ok(one) => self.take(one, now),
                Err(Timeout) => {}
                Err(Disconnected) => return,
            }
            if now.since(ticked) >= TICK {
                ticked = now;
                self.0.joiner.due(&self.0.connections, now);
                self.publish(metrics);
                alive();
            }
        }
    }

    fn take(&self, told: Told, now: Timestamp) {
        let Shared { connections, joiner, .. } = &*self.0;
        match told {
            Told::Hello(tuple, identity) => {
                connections.with(&tuple.client, |connections| connections.begin(tuple, identity, now));
                joiner.begun(connections, &tuple.client);
                self.asked().came(&tuple.client);
            }
            Told::Void(tuple, hello) => {
                connections.with(&tuple.client, |connections| connections.void(&tuple, hello));
            }
            Told::End(tuple, at) => connections.with(&tuple.client, |connections| connections.end(&tuple, at)),
        }
    }

    /// Trusts these proxies, and watches these paths, from now on.
    pub(super) fn configure(&self, trusted: Trusted, paths: Paths) {
        self.0.joiner.configure(trusted, paths);
    }

    /// A report came, kept under this number.
    pub(super) fn report(&self, report: &Report<'_>, arrived: Timestamp, kept: Option<u64>) {
        self.0.joiner.report(&self.0.connections, report, arrived, kept);
    }

    /// What a client did within the last hour, and the key of that.
    pub(super) fn summary(&self, subject: &Subject, report: &Report<'_>, now: Timestamp) -> (Option<Summary>, Key) {
        self.0.joiner.summary(subject, report, now)
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, metrics: &Metrics) {
        let (known, evicted) = self.0.connections.count();
        metrics.resources.entries.known_connections.set(known as u64);
        metrics.resources.evicted.known_connections.set(evicted);
        self.0.joiner.publish(metrics);
    }

    /// What is known of the connection that a claim names. Waits for its hello, a few milliseconds, once.
    pub(super) async fn find(&self, claim: Claim) -> Knowledge {
        if let Some(found) = self.look(&claim) {
            return found;
        }
        let waker = match self.asked().wait(claim.client) {
            Ok(waker) => waker,
            Err(why) => return why,
        };
        // It may have come before it was known that somebody waits.
        if self.look(&claim).is_some() || timeout(PATIENCE, waker.notified()).await.is_ok() {
            // Others may wait for the same. One that doesn't wait yet will find it remembered.
            waker.notify_one();
        }
        self.asked().leave(&claim.client, &waker);
        match self.look(&claim) {
            Some(Knowledge::Known(identity)) => {
                self.asked().in_vain = 0;
                Knowledge::Waited(identity)
            }
            Some(other) => other,
            None => Knowledge::NoHello,
        }
    }

    /// What is known of it by now, if that is anything.
    pub(super) fn look(&self, claim: &Claim) -> Option<Knowledge> {
        match self.0.connections.fit(claim, false) {
            Fit::Sure(found) => Some(Knowledge::Known(found.identity)),
            Fit::Ambiguous => Some(Knowledge::Ambiguous),
            // One that doesn't fit is of an earlier connection from that port.
            Fit::Doubtful(_) | Fit::Unfitting | Fit::Unknown => None,
        }
    }
}

impl Asked {
    fn wait(&mut self, client: End) -> Result<Arc<Notify>, Knowledge> {
        if let Some(waker) = self.waiting.get(&client) {
            return Ok(Arc::clone(waker));
        }
        if self.waited.put(client, ()).is_some() {
            return Err(Knowledge::NoHello);
        }
        self.in_vain = self.in_vain.saturating_add(1);
        if self.in_vain > IN_VAIN && !self.in_vain.is_multiple_of(IN_VAIN) {
            return Err(Knowledge::NoHello);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Knowledge::Busy);
        }
        Ok(Arc::clone(self.waiting.entry(client).or_default()))
    }

    /// The hello of a connection from there came.
    fn came(&mut self, client: &End) {
        self.waited.pop(client);
        if let Some(waker) = self.waiting.remove(client) {
            waker.notify_one();
        }
    }

    /// Whoever waited goes on; a later question about the same client may wait with another one.
    fn leave(&mut self, client: &End, waker: &Arc<Notify>) {
        if self.waiting.get(client).is_some_and(|other| Arc::ptr_eq(other, waker)) {
            self.waiting.remove(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{capture::Flow, daemon::labels, fingerprint::Transport, join::Carrier};

    const JA4: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";

    fn tuple(port: u16) -> Tuple {
        let flow = Flow { source: ([192, 0, 2, 7], port).into(), destination: ([198, 51, 100, 1], 443).into() };
        Tuple::new(flow, Carrier::Tcp)
    }

    fn hello(port: u16) -> Told {
        let ja4 = JA4.parse().unwrap();
        let now = monotonic();
        let identity = Identity {
            ja4,
            ja4_stable: ja4,
            keys: Default::default(),
            traits: Default::default(),
            syn_class: None,
            transport: Transport::Tcp,
            syn: Some(now),
            hello: now,
            stream: 1,
            void: false,
        };
        Told::Hello(tuple(port), identity)
    }

    fn claim(port: u16) -> Claim {
        let Tuple { client, server } = tuple(port);
        let now = monotonic();
        let (server, server_port) = (Some(server.ip()), Some(server.port()));
        Claim {
            client,
            server,
            server_port,
            arrived: now,
            request: now,
            connection: None,
            number: None,
            name: None,
            relayed: false,
        }
    }

    fn with_known(check: impl AsyncFnOnce(&Known, &mut Teller)) {
        let metrics = Arc::new(Metrics::new(crate::config::Mode::Observe, labels()).unwrap());
        let (known, mut teller) =
            Known::start(Limits::default(), 1024, Joiner::idle(&metrics), metrics, || {}).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&known, &mut teller));
    }

    #[test]
    fn a_hello_that_comes_meanwhile_is_waited_for_by_all_who_ask() {
        with_known(async |known, teller| {
            // It came before the request, but its way is longer.
            let hello = hello(1);
            let asked: Vec<_> = (0..3)
                .map(|_| {
                    let known = known.clone();
                    tokio::task::spawn(async move { known.find(claim(1)).await })
                })
                .collect();
            tokio::task::yield_now().await;
            teller.tell(hello);
            for answer in asked {
                let found = answer.await.unwrap();
                assert!(matches!(&found, Knowledge::Waited(identity) if identity.ja4.to_string() == JA4), "{found:?}");
            }
            assert!(matches!(known.find(claim(1)).await, Knowledge::Known(_)));
        });
    }

    #[test]
    fn without_one_a_connection_costs_a_few_milliseconds_once() {
        with_known(async |known, _| {
            let start = monotonic();
            assert_eq!(known.find(claim(1)).await, Knowledge::NoHello);
            assert!(monotonic().since(start) >= PATIENCE);
            for _ in 0..100 {
                assert_eq!(known.find(claim(1)).await, Knowledge::NoHello);
            }
            assert!(monotonic().since(start) < PATIENCE * 100, "each one waited");
            assert!(known.asked().waiting.is_empty());
        });
    }

    /// Where no hello ever comes, hardly anybody waits.
    #[test]
    fn who_waits_in_vain_are_few() {
        with_known(async |known, _| {
            let start = monotonic();
            for port in 1..=6400 {
                assert_eq!(known.find(claim(port)).await, Knowledge::NoHello);
            }
            assert!(monotonic().since(start) < PATIENCE * 1000, "each one waited");
        });
    }

    #[test]
    fn what_finds_no_room_is_counted_and_holds_up_nobody() {
        with_known(async |known, teller| {
            let held = known.asked();
            for port in 0..3000 {
                teller.tell(hello(port));
            }
            assert_eq!((teller.queued + teller.dropped, teller.dropped > 0), (3000, true));
            drop(held);
        });
    }
}
