//! What the one thread on the packet path does with an event and with a request: events in, verdicts in force and lines
//! of hellos out. Owns everything it touches, so there is no lock between a hello and its verdict.
//!
//! Architecture.md has workers behind a channel here. One thread that does it all is the faster way: a hello takes some
//! 5 µs to read and judge, less than waking another thread, and a core can do 100,000 and more a second.

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use detector_common::{
    mode::Mode,
    verdict::{Action as KernelAction, FOREVER},
};
use ipnet::IpNet;
use lru::LruCache;
use tracing::{error, info};

mod seen;
mod terms;

use seen::SeenLately;
pub(super) use seen::Top;

use super::{
    known::{Teller, Told},
    wanted::Wanted,
};
use crate::{
    admin::protocol::{
        self, Action, Change, Changed, Entry, Fingerprint as SeenFingerprint, InForce, Origin as ProtocolOrigin, PAGE,
        Request, Response,
    },
    capture::{Flow, Proof, event},
    clock::{Timestamp, monotonic, wall},
    config::Mode as ConfigMode,
    connection::{Connections, Event, Settled, Standing},
    enforce::{Enforcer, Listed, automatic::Worth, handover::Handed},
    fingerprint::{Ja4, Ja4Raw, Transport},
    join::{Carrier, Identity, Tuple},
    kernel::{Error, Lookup, Slot, Sockets, VerdictMaps},
    pipeline::{Cause, Hello, Ignored, KeyCheck, Outcome, Pipeline, Void},
    policy::{
        browsers::{Recent, Window},
        families,
        rules::{Decision, ListedRule, Origin},
        subject::Subject,
        terms::{Layer, Terms},
        ttl::Ttl,
    },
    telemetry::{Metrics, counters::Counters, enforce::VerdictKind, logs::Limited},
};

/// Failures of the kernel's maps: each hello could meet one.
static FAILURES: Limited = Limited::per_minute(6);

/// Hellos, and verdicts, whose time is up that are dealt with before anything else gets its turn: some 0.1 ms of work.
const SWEEP: usize = 64;

/// Which ring an event came by.
#[derive(Clone, Copy)]
pub(super) enum Class {
    Confirmed,
    Unconfirmed,
}

/// A hello and what was decided, on the way to standard output.
pub(super) struct Line {
    pub(super) settled: Box<Settled>,
    pub(super) decision: Decision,
    /// The mode at that time.
    pub(super) enforcing: bool,
}

/// Exact counts of what became of each event.
#[derive(Default)]
struct Tally {
    received: [u64; 2],
    malformed: [u64; 2],
    complete: u64,
    keys: [u64; KeyCheck::ALL.len()],
    lost: [u64; Cause::ALL.len()],
    ignored: [u64; Ignored::ALL.len()],
    confirmed: [u64; Proof::ALL.len()],
    pending_expired: u64,
    unconfirmed: u64,
    judged: [u64; Proof::ALL.len()],
    void: [u64; Void::ALL.len()],
    lookups: [u64; Lookup::ALL.len()],
    answers: u64,
    lines_queued: u64,
    judge_failed: u64,
}

/// How much of the hellos is remembered.
pub(super) struct Memory {
    /// JA4 values counted.
    pub(super) fingerprints: NonZeroUsize,
    /// Hellos of browsers kept of each minute.
    pub(super) browser_hellos: usize,
}

/// The state of the packet path.
pub(super) struct Core<M> {
    pipeline: Pipeline,
    connections: Connections,
    verdicts: Verdicts<M>,
    /// The time of the last packet of a client whose address is proven.
    confirmed_until: Timestamp,
}

/// What is done with a hello; apart from the pipeline, which calls it.
struct Verdicts<M> {
    enforcer: Enforcer<M>,
    metrics: Arc<Metrics>,
    lines: SyncSender<Line>,
    /// To where requests find their connection's hello.
    teller: Teller,
    seen: SeenLately,
    /// Of browsers, confirmed.
    browsers: Window,
    tally: Tally,
    /// Connections that were just decided against.
    decided: Vec<(Flow, Decision)>,
    mode: Mode,
    enforcing: Arc<AtomicBool>,
}

impl<M: VerdictMaps> Core<M> {
    pub(super) fn new(
        pipeline: Pipeline,
        connections: Connections,
        enforcer: Enforcer<M>,
        metrics: Arc<Metrics>,
        (lines, teller, enforcing): (SyncSender<Line>, Teller, Arc<AtomicBool>),
        memory: &Memory,
    ) -> Self {
        let seen = LruCache::new(memory.fingerprints);
        // Any secret does as the dice of a sample.
        let browsers = Window::new(memory.browser_hellos, enforcer.seeds().rest);
        let tally = Tally::default();
        let decided = Vec::new();
        // Until the first look at the map, which is at once.
        let mode = Mode::default();
        let verdicts = Verdicts { enforcer, metrics, lines, teller, seen, browsers, tally, decided, mode, enforcing };
        Self { pipeline, connections, verdicts, confirmed_until: Timestamp::default() }
    }

    /// One event of a ring.
    pub(super) fn event(&mut self, bytes: &[u8], class: Class) {
        let Self { pipeline, connections, verdicts, confirmed_until } = self;
        verdicts.tally.received[class as usize] += 1;
        if let Some((flow, at)) = event::end(bytes) {
            verdicts.teller.tell(Told::End(Tuple::new(flow, Carrier::Tcp), at));
            return;
        }
        let whole = event::packets(bytes, &mut |packet| {
            let now = packet.at();
            if matches!(class, Class::Confirmed) {
                *confirmed_until = now;
            }
            pipeline.take(packet, &mut |outcome| verdicts.outcome(connections, outcome, now));
        });
        if !whole {
            // Only another version of our own program could write such an event.
            verdicts.tally.malformed[class as usize] += 1;
        }
    }

    /// Whether more of the clients whose address is proven is still to be read. However late it is: no hello ends for want
    /// of a segment that is there.
    pub(super) fn behind(&mut self, behind: bool) {
        self.pipeline.behind(behind.then_some(self.confirmed_until));
    }

    /// What time alone brings about, or some of it. Whether there may be more.
    pub(super) fn tick(&mut self) -> bool {
        let now = monotonic();
        let Self { pipeline, connections, verdicts, .. } = self;
        let hellos = pipeline.expire(now, SWEEP, &mut |outcome| verdicts.outcome(connections, outcome, now));
        let settled = connections.expire(now, SWEEP, &mut |event| verdicts.connection(event));
        let ended = verdicts.enforcer.expire(now, SWEEP).unwrap_or_else(|error| {
            if let Some(left_out) = FAILURES.admit(now) {
                error!(%error, left_out, "can't clear ended verdicts; they no longer apply all the same");
            }
            false
        });
        hellos || settled || ended
    }

    /// How many signs of life the kernel has got.
    pub(super) const fn beats(&self) -> u64 {
        self.verdicts.enforcer.beats()
    }

    /// Looks at the mode, which a command may have changed in the map, and which may have ended by itself.
    pub(super) fn look_at_mode(&mut self) {
        let verdicts = &mut self.verdicts;
        let Ok(mode) = verdicts.enforcer.maps().mode() else { return };
        let in_force = InForce::new(&mode, monotonic());
        if mode != verdicts.mode && verdicts.mode != Mode::default() {
            let InForce { mode, mode_for_s, .. } = in_force;
            info!(target: "detector::audit", verb = "mode", subject = mode.label(), for_s = mode_for_s, "changed in the pinned map");
        }
        verdicts.mode = mode;
        verdicts.enforces(in_force.mode == ConfigMode::Enforce);
    }

    /// The mode, as it was looked at last.
    pub(super) fn mode(&self) -> InForce {
        InForce::new(&self.verdicts.mode, monotonic())
    }

    /// Asks for the sockets of hellos that have waited long for a proof. Whether there may be more of them.
    pub(super) fn ask(&mut self, sockets: &mut impl Sockets) -> bool {
        let now = monotonic();
        let Self { connections, verdicts, .. } = self;
        let overdue = connections.overdue(now);
        let more = !overdue.is_empty();
        for (flow, stream) in overdue {
            let found = sockets.look_up(flow.source, flow.destination);
            if let Some(count) = verdicts.tally.lookups.get_mut(found as usize) {
                *count += 1;
            }
            if found == Lookup::Established {
                let proof = Proof::SockDiag;
                verdicts.outcome(connections, Outcome::Proven { flow, stream: Some(stream), proof }, now);
            }
        }
        more
    }

    pub(super) fn maps(&mut self) -> &mut M {
        self.verdicts.enforcer.maps()
    }

    /// Brings the metrics up to date.
    pub(super) fn publish(&self, longest_pause: Duration) {
        let Verdicts { enforcer, metrics, tally, teller, .. } = &self.verdicts;
        let Metrics { kernel, hellos, enforce, resources, .. } = &**metrics;
        metrics.set_longest_pause(longest_pause);
        for (series, count) in kernel.received.iter().zip(tally.received) {
            series.set(count);
        }
        for (series, count) in kernel.malformed.iter().zip(tally.malformed) {
            series.set(count);
        }
        set(&kernel.keys, KeyCheck::ALL.iter().map(|check| check.label()), &tally.keys);
        hellos.outcomes.set("complete", tally.complete);
        set(&hellos.outcomes, Cause::ALL.iter().map(|cause| cause.label()), &tally.lost);
        set(&hellos.confirmed, Proof::ALL.iter().map(|proof| proof.label()), &tally.confirmed);
        hellos.pending_expired.set(tally.pending_expired);
        hellos.unconfirmed.set(tally.unconfirmed);
        set(&hellos.judged, Proof::ALL.iter().map(|proof| proof.label()), &tally.judged);
        set(&hellos.void, Void::ALL.iter().map(|why| why.label()), &tally.void);
        set(&hellos.ignored, Ignored::ALL.iter().map(|reason| reason.label()), &tally.ignored);
        hellos.answers.set(tally.answers);
        set(&resources.sockets, Lookup::ALL.iter().map(|found| found.label()), &tally.lookups);
        resources.entries.pending_hellos.set(self.connections.pending() as u64);
        resources.known_queued.set(teller.queued);
        resources.known_dropped.set(teller.dropped);
        resources.lines_queued.set(tally.lines_queued);
        resources.evicted.connections.set(enforcer.evicted());
        let (evicted, too_fast) = enforcer.automatic_lost();
        resources.evicted.automatic.set(evicted);
        enforce.too_fast.set(too_fast);
        enforce.failed.set(tally.judge_failed);
        let counts = enforcer.counts();
        for (kind, count) in [
            (VerdictKind::Address, counts.address),
            (VerdictKind::Prefix, counts.prefix),
            (VerdictKind::Allow, counts.allow),
            (VerdictKind::Connection, counts.connection),
            (VerdictKind::QuicSource, counts.quic_source),
            (VerdictKind::Ja4, counts.ja4),
            (VerdictKind::Pair, counts.pair),
            (VerdictKind::Automatic, counts.automatic),
        ] {
            enforce.set_verdicts(kind, count);
        }
    }

    /// The first of the fingerprints seen lately.
    pub(super) fn top(&self, top: Top) -> Vec<SeenFingerprint> {
        self.verdicts.top(top)
    }

    /// The JA4_r of a JA4, if this host knows it.
    pub(super) fn raw(&self, ja4: Ja4) -> Option<Ja4Raw> {
        self.verdicts.raw(ja4)
    }

    /// Every order is in force again: nothing else that an operator ordered once is.
    pub(super) fn sweep(&mut self) -> Result<usize, Error> {
        self.verdicts.enforcer.sweep()
    }

    /// The next `most` automatic verdicts, and where to go on.
    pub(super) fn automatics(&self, after: Option<Worth>, most: usize) -> (Vec<Handed>, Option<Worth>) {
        self.verdicts.enforcer.automatics(after, most)
    }

    /// Makes these what is never blocked.
    pub(super) fn never_block(&mut self, prefixes: Vec<IpNet>) -> Result<(), Error> {
        self.verdicts.enforcer.never_block(prefixes)
    }

    /// Makes these the configuration's rules, and that its mode, if it says another one than before. An operator's word on
    /// the mode goes before it.
    pub(super) fn configure(&mut self, deny: &HashSet<Ja4>, mode: Option<ConfigMode>) -> Result<(), Error> {
        let verdicts = &mut self.verdicts;
        if let Some(wanted) = mode {
            let now = monotonic();
            let mode = verdicts.enforcer.maps().mode()?.configured(wanted == ConfigMode::Enforce, now.as_nanos());
            verdicts.enforcer.maps().set_mode(mode)?;
            verdicts.mode = mode;
            verdicts.enforces(InForce::new(&mode, now).mode == ConfigMode::Enforce);
        }
        verdicts.enforcer.configure(deny)
    }

    /// Does what scoring wants.
    pub(super) fn want(&mut self, wanted: Wanted) {
        let (verdicts, now) = (&mut self.verdicts, monotonic());
        if let Err(error) = verdicts.want(wanted, now)
            && let Some(left_out) = FAILURES.admit(now)
        {
            error!(%error, left_out, "can't put an automatic verdict in force, or end one; its client passes, or its end comes by itself");
        }
    }

    /// The hellos of browsers lately.
    pub(super) fn recent(&mut self) -> Recent {
        self.verdicts.browsers.recent(monotonic())
    }

    /// Answers what is about one subject, and `list`.
    pub(super) fn request(&mut self, request: Request) -> Response {
        let now = monotonic();
        let changed = match request {
            Request::Block { subject, ttl, terms, .. } => self.verdicts.block(subject, ttl, terms, now),
            Request::Allow { subject, ttl } => self.verdicts.allow(subject, ttl, now),
            Request::Unblock { subject } => self.verdicts.unblock(subject, now),
            Request::Unallow { subject } => self.verdicts.unallow(subject, now),
            Request::Challenge { subject, ttl, .. } => self.verdicts.challenge(subject, ttl, now),
            Request::Unchallenge { subject } => self.verdicts.unchallenge(subject, now),
            Request::List { skip } => Ok(self.verdicts.list(skip, now)),
            Request::Mode { mode, ttl } => self.verdicts.mode(mode, ttl, now),
            other => Ok(Response::Error { message: format!("`{}` is not the core's to answer", other.verb()) }),
        };
        changed.unwrap_or_else(|error| match error {
            Error::Full(_) => {
                Response::Refused { reason: error.to_string(), hint: "see what is there: detector list".to_owned() }
            }
            error => Response::Error { message: error.to_string() },
        })
    }
}

/// Sets the series of `labels` to `counts`, which are in the same order.
fn set(counters: &Counters, labels: impl Iterator<Item = &'static str>, counts: &[u64]) {
    for (label, count) in labels.zip(counts) {
        counters.set(label, *count);
    }
}

impl<M: VerdictMaps> Verdicts<M> {
    fn is_enforcing(&self) -> bool {
        self.enforcing.load(Ordering::Relaxed)
    }

    fn enforces(&mut self, enforcing: bool) {
        if self.enforcing.swap(enforcing, Ordering::Relaxed) != enforcing {
            let mode = if enforcing { ConfigMode::Enforce } else { ConfigMode::Observe };
            self.metrics.set_mode(mode);
            info!(mode = mode.label(), "the mode");
        }
    }

    fn want(&mut self, wanted: Wanted, now: Timestamp) -> Result<(), Error> {
        match wanted {
            Wanted::Verdict { target, rate, ttl } => {
                // What doesn't come in force is counted.
                self.enforcer.automatic(target.slot(), Wanted::automatic(&target, rate, ttl), now)?;
            }
            Wanted::Lift(target) => {
                let slot = target.slot();
                if self.enforcer.told(&slot).is_some_and(|(_, _, origin)| origin == Origin::Automatic) {
                    self.enforcer.remove(&slot)?;
                }
            }
            Wanted::Share(share) => {
                let mode = Mode { share, ..self.enforcer.maps().mode()? };
                self.enforcer.maps().set_mode(mode)?;
                self.mode = mode;
            }
        }
        Ok(())
    }

    /// Changes the mode, if there is anything to change, and tells it.
    fn mode(&mut self, wanted: Option<ConfigMode>, ttl: Option<Ttl>, now: Timestamp) -> Result<Response, Error> {
        let mut mode = self.enforcer.maps().mode()?;
        if let Some(wanted) = wanted {
            let until = ttl.and_then(|ttl| end(ttl, now)).map_or(FOREVER, Timestamp::as_nanos);
            mode = mode.ordered(wanted == ConfigMode::Enforce, until);
            self.enforcer.maps().set_mode(mode)?;
        }
        self.mode = mode;
        let in_force = InForce::new(&mode, now);
        self.enforces(in_force.mode == ConfigMode::Enforce);
        Ok(Response::Mode(in_force))
    }

    /// A packet's fate, or what it says about a hello.
    fn outcome(&mut self, connections: &mut Connections, outcome: Outcome, now: Timestamp) {
        match outcome {
            Outcome::Hello(hello) => {
                self.tally.complete += 1;
                if hello.transport == Transport::Tcp
                    && let Some(count) = self.tally.keys.get_mut(hello.keys as usize)
                {
                    *count += 1;
                }
                if hello.segments > 1 && hello.transport == Transport::Tcp && hello.keys == KeyCheck::Absent {
                    // One whose keys the program has read, it ends itself; or it has dropped the last segment, and has to
                    // know its retransmission.
                    self.enforcer.maps().end_follow(hello.flow.source, hello.flow.destination);
                }
                connections.hello(hello, now, &mut |event| self.connection(event));
            }
            Outcome::Lost { flow, cause, .. } => {
                if let Some(count) = self.tally.lost.get_mut(cause as usize) {
                    *count += 1;
                }
                // One that only we can't make out, or have no room for, the program may still read as the server does: who
                // sends a byte twice gains nothing.
                if !matches!(cause, Cause::OverlapConflict | Cause::Evasive | Cause::Evicted) {
                    self.enforcer.maps().end_follow(flow.source, flow.destination);
                }
            }
            Outcome::Ignored(reason) => {
                if let Some(count) = self.tally.ignored.get_mut(reason as usize) {
                    *count += 1;
                }
            }
            Outcome::Proven { flow, stream, proof } => {
                connections.proven(flow, stream, proof, now, &mut |event| self.connection(event));
            }
            Outcome::Answer(answer) => {
                self.tally.answers += 1;
                connections.answer(*answer, now, &mut |event| self.connection(event));
            }
            Outcome::Void { flow, stream, why } => {
                connections.void((flow, stream), why, now, &mut |event| self.connection(event));
            }
        }
        self.release(connections);
    }

    /// What is said of a hello: judged as soon as its client's address is proven, told when all is known.
    fn connection(&mut self, event: Event<'_>) {
        match event {
            Event::Confirmed(hello, proof) => {
                if let Some(count) = self.tally.judged.get_mut(proof as usize) {
                    *count += 1;
                }
                self.judge(hello);
                self.meet(hello);
                if let Some(identity) = Identity::of(hello) {
                    self.teller.tell(Told::Hello(tuple(hello), identity));
                }
            }
            Event::Settled(settled) => {
                let flow = settled.hello.flow;
                let decided = self.decided.iter().find(|(decided, _)| *decided == flow);
                let decision = decided.map_or(Decision::Pass, |(_, decision)| *decision);
                self.settled(settled, decision);
            }
        }
    }

    fn judge(&mut self, hello: &Hello) {
        let (flow, fingerprint) = (hello.flow, (hello.fingerprint.ja4, hello.fingerprint.keys));
        let now = monotonic();
        let judged = match hello.transport {
            Transport::Tcp => {
                let initial_seq = hello.stream_seq.wrapping_sub(1);
                self.enforcer.judge(flow.source, flow.destination, initial_seq, fingerprint, now)
            }
            transport => self.enforcer.judge_datagrams(flow.source, flow.destination, transport, fingerprint, now),
        };
        match judged {
            Ok(Decision::Pass) => {}
            Ok(decision) => {
                self.metrics.enforce.observe_latency(monotonic().since(hello.completed_at));
                self.decided.push((flow, decision));
            }
            Err(error) => {
                self.tally.judge_failed += 1;
                if let Some(left_out) = FAILURES.admit(now) {
                    error!(%error, left_out, "can't put a verdict on a connection in force; it passes");
                }
            }
        }
    }

    /// What the hello says of the other clients at its address.
    fn meet(&mut self, hello: &Hello) {
        let fingerprint = (hello.fingerprint.ja4, hello.fingerprint.keys);
        let now = monotonic();
        if let Err(error) = self.enforcer.meet(hello.flow.source.ip(), fingerprint, now) {
            self.tally.judge_failed += 1;
            if let Some(left_out) = FAILURES.admit(now) {
                error!(%error, left_out, "can't steer an address, or no longer; its verdict ends by itself");
            }
        }
    }

    /// Tells of the connections that were decided against: no answer is awaited of those.
    fn release(&mut self, connections: &mut Connections) {
        while let Some((flow, decision)) = self.decided.pop() {
            connections.release(flow, &mut |event| {
                if let Event::Settled(settled) = event {
                    self.settled(settled, decision);
                }
            });
        }
    }

    /// All is known of a hello. Without proof of its client's address it is only counted: anybody can have sent it.
    fn settled(&mut self, settled: Box<Settled>, decision: Decision) {
        let standing = settled.standing;
        match standing {
            Standing::Confirmed(proof) => {
                if let Some(count) = self.tally.confirmed.get_mut(proof as usize) {
                    *count += 1;
                }
            }
            Standing::PendingExpired => self.tally.pending_expired += 1,
            Standing::Unconfirmed => self.tally.unconfirmed += 1,
        }
        if let Some(count) = settled.void.and_then(|why| self.tally.void.get_mut(why as usize)) {
            *count += 1;
        }
        if standing.proof().is_none() {
            return;
        }
        if settled.void.is_none() {
            self.remember(&settled.hello, monotonic());
        } else {
            self.teller.tell(Told::Void(tuple(&settled.hello), settled.hello.completed_at));
        }
        self.tally.lines_queued += 1;
        let enforcing = self.is_enforcing();
        match self.lines.try_send(Line { settled, decision, enforcing }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.resources.lines_dropped.add(1),
        }
    }

    fn block(&mut self, subject: Subject, ttl: Ttl, terms: Terms, now: Timestamp) -> Result<Response, Error> {
        if !terms.is_default() || matches!(subject, Subject::Pair(..)) {
            return self.order(subject, ttl, terms, now);
        }
        let until = end(ttl, now);
        let mut note = None;
        match &subject {
            Subject::Address(address) => self.enforcer.block_address(*address, until)?,
            Subject::Prefix(prefix) => self.enforcer.block_prefix(*prefix, until)?,
            Subject::Ja4Raw(raw) => {
                self.enforcer.block_ja4(raw.ja4(), Some(raw.keys(self.enforcer.seeds()).key), until)?
            }
            Subject::Ja4(ja4) => {
                let key = self.seen.peek(ja4).map(|seen| seen.keys.key);
                self.enforcer.block_ja4(*ja4, key, until)?;
                if key.is_none() {
                    note = Some("this host hasn't seen it lately: it arms at first sighting".to_owned());
                }
            }
            Subject::Pair(..) => return Ok(Response::NotFound),
        }
        Ok(Response::Changed(Changed { note, ..Changed::new(Change::Blocked, subject, ttl, wall()) }))
    }

    fn allow(&mut self, subject: Subject, ttl: Ttl, now: Timestamp) -> Result<Response, Error> {
        let Some(prefix) = subject.as_prefix() else { return Ok(Response::NotFound) };
        self.enforcer.allow(prefix, end(ttl, now))?;
        Ok(Response::Changed(Changed::new(Change::Allowed, subject, ttl, wall())))
    }

    fn unblock(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let subject = subject.short();
        let (left, terms) = (self.remaining(&subject, now), self.terms(&subject));
        let found = match &subject {
            Subject::Address(address) => self.enforcer.remove(&Slot::Address(*address))?,
            Subject::Prefix(prefix) => self.enforcer.remove(&Slot::Prefix(*prefix))?,
            Subject::Ja4(ja4) => self.enforcer.unblock_ja4(*ja4)?,
            Subject::Ja4Raw(raw) => self.enforcer.unblock_ja4(raw.ja4())?,
            Subject::Pair(..) => match self.slot_of(&subject) {
                Some(slot) => self.enforcer.remove(&slot)?,
                None => false,
            },
        };
        Ok(self.taken_back(found, Change::Unblocked, subject, (left, terms)))
    }

    fn unallow(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let Some(prefix) = subject.as_prefix() else { return Ok(Response::NotFound) };
        let left = self.enforcer.until(&Slot::Allow(prefix)).map_or(Ttl::Forever, |until| remaining(until, now));
        let found = self.enforcer.remove(&Slot::Allow(prefix))?;
        Ok(self.taken_back(found, Change::Unallowed, subject, (left, Terms::default())))
    }

    fn challenge(&mut self, subject: Subject, ttl: Ttl, now: Timestamp) -> Result<Response, Error> {
        let until = end(ttl, now);
        let mut note = None;
        match (source_slot(&subject), subject.as_ja4()) {
            (Some(slot), _) => {
                if self.enforcer.action(&slot) == Some(KernelAction::Block) {
                    note = Some("it takes the place of a block".to_owned());
                }
                self.enforcer.challenge(slot, until)?;
            }
            (None, Some(ja4)) if !matches!(subject, Subject::Pair(..)) => {
                self.enforcer.challenge_ja4(ja4, until)?;
                note =
                    Some("it is steered only from addresses with no other clients; see README, Challenge".to_owned());
            }
            _ => {
                return Ok(Response::Refused {
                    reason: format!("`{}` can't be challenged: steering goes by address alone", subject.short()),
                    hint: "challenge the address, or the JA4 value".to_owned(),
                });
            }
        }
        Ok(Response::Changed(Changed { note, ..Changed::new(Change::Challenged, subject, ttl, wall()) }))
    }

    fn unchallenge(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let (left, found) = match (source_slot(&subject), subject.as_ja4()) {
            (Some(slot), _) => (self.enforcer.until(&slot), self.enforcer.unchallenge(&slot)?),
            (None, None) => (None, false),
            (None, Some(ja4)) => {
                let left = self.enforcer.challenged().find(|rule| rule.ja4 == ja4).map(|rule| rule.until);
                (left, self.enforcer.unchallenge_ja4(ja4)?)
            }
        };
        let left = left.map_or(Ttl::Forever, |until| remaining(until, now));
        Ok(self.taken_back(found, Change::Unchallenged, subject, (left, Terms::default())))
    }

    fn taken_back(&self, found: bool, change: Change, subject: Subject, (left, terms): (Ttl, Terms)) -> Response {
        if !found {
            return Response::NotFound;
        }
        Response::Changed(Changed::on(change, subject, terms, left, wall()))
    }

    /// What was left of a block: the undo of taking it back restores just that.
    fn remaining(&self, subject: &Subject, now: Timestamp) -> Ttl {
        let until = match subject {
            Subject::Address(address) => self.enforcer.until(&Slot::Address(*address)),
            Subject::Prefix(prefix) => self.enforcer.until(&Slot::Prefix(*prefix)),
            subject => {
                if let Some(until) = self.slot_of(subject).and_then(|slot| self.enforcer.until(&slot)) {
                    return remaining(until, now);
                }
                let ja4 = subject.as_ja4();
                self.enforcer.rules().iter().find(|rule| Some(rule.ja4) == ja4).map(|rule| rule.until)
            }
        };
        until.map_or(Ttl::Forever, |until| remaining(until, now))
    }

    fn list(&self, skip: usize, now: Timestamp) -> Response {
        let verdicts = self.enforcer.list().filter_map(|listed| {
            let pair = |prefix| Some(Subject::Pair(prefix, Box::new(Subject::Ja4(listed.ja4?))));
            let (subject, allow) = match listed.slot {
                Slot::Address(address) => (Subject::Address(address), false),
                Slot::Prefix(prefix) => (Subject::from(prefix), false),
                Slot::Allow(prefix) => (Subject::from(prefix), true),
                Slot::Fingerprint(_) | Slot::Stable(_) => (Subject::Ja4(listed.ja4?), false),
                Slot::Pair(prefix, _) | Slot::StablePair(prefix, _) => (pair(prefix)?, false),
                Slot::Connection { .. } | Slot::Datagrams { .. } | Slot::Initials(_) | Slot::NeverBlock(_) => {
                    return None;
                }
            };
            Some(((subject, allow, false), Row::Verdict(listed)))
        });
        let rules = self.enforcer.rules().iter();
        let rules = rules.map(|rule| ((Subject::Ja4(rule.ja4), false, rule.origin == Origin::Rule), Row::Rule(rule)));
        let challenged =
            self.enforcer.challenged().map(|rule| ((Subject::Ja4(rule.ja4), false, false), Row::Challenge(rule)));
        let mut rows: Vec<_> = rules.chain(challenged).chain(verdicts).collect();
        let total = rows.len();
        // Only the page is sorted and asked for its hits: all of a long list would hold up the hellos.
        let order = |(a, _): &((Subject, bool, bool), Row), (b, _): &((Subject, bool, bool), Row)| a.cmp(b);
        if skip > 0 && skip < total {
            rows.select_nth_unstable_by(skip, order);
        }
        rows.drain(..skip.min(total));
        if rows.len() > PAGE {
            rows.select_nth_unstable_by(PAGE, order);
            rows.truncate(PAGE);
        }
        rows.sort_unstable_by(order);
        let entries = rows.into_iter().map(|((subject, ..), row)| self.entry(subject, &row, now)).collect();
        Response::Entries { entries: protocol::page(entries), total }
    }

    fn entry(&self, subject: Subject, row: &Row, now: Timestamp) -> Entry {
        let (action, origin, until, hits) = match row {
            Row::Verdict(listed) => {
                (seen::action(listed.action), listed.origin, listed.until, self.enforcer.hits(&listed.slot))
            }
            Row::Challenge(rule) => (Action::Challenge, rule.origin, rule.until, rule.hits),
            Row::Rule(rule) => {
                let observed = rule.origin == Origin::Rule && !self.is_enforcing();
                let action = if observed { Action::Observe } else { Action::Block };
                (action, rule.origin, rule.until, rule.hits)
            }
        };
        let origin = match origin {
            Origin::Operator => ProtocolOrigin::Operator,
            Origin::Rule => ProtocolOrigin::Rule,
            Origin::Automatic => ProtocolOrigin::Automatic,
        };
        let ja4_r = subject.as_ja4().and_then(|ja4| self.raw(ja4));
        let left = remaining(until, now);
        let until = protocol::until(left, wall());
        Entry { action, at: Layer::Packets, subject, ja4_r, until, expires_in_s: left.as_secs(), hits, origin }
    }

    /// The JA4_r of a client that was seen lately, or that everybody knows.
    fn raw(&self, ja4: Ja4) -> Option<Ja4Raw> {
        let seen = self.seen.peek(&ja4).and_then(|seen| seen.ja4_r.clone());
        seen.or_else(|| families::find(ja4).map(|known| known.ja4_r.clone()))
    }
}

/// A line of the list, before it is written out.
enum Row {
    Verdict(Listed),
    Rule(ListedRule),
    Challenge(ListedRule),
}

/// The connection of a hello.
fn tuple(hello: &Hello) -> Tuple {
    Tuple::new(hello.flow, hello.transport.into())
}

fn end(ttl: Ttl, now: Timestamp) -> Option<Timestamp> {
    match ttl {
        Ttl::For(duration) => Some(now.plus(duration)),
        Ttl::Forever => None,
    }
}

fn remaining(until: Option<Timestamp>, now: Timestamp) -> Ttl {
    until.map_or(Ttl::Forever, |until| Ttl::For(until.since(now)))
}

/// Where a verdict on addresses stands; a JA4 value has no such place.
fn source_slot(subject: &Subject) -> Option<Slot> {
    match subject {
        Subject::Address(address) => Some(Slot::Address(*address)),
        Subject::Prefix(prefix) => Some(Slot::Prefix(*prefix)),
        Subject::Ja4(_) | Subject::Ja4Raw(_) | Subject::Pair(..) => None,
    }
}

/// Who is who, for a person: the action of a decision in a mode.
pub(super) fn action(decision: Decision, enforcing: bool) -> &'static str {
    match decision {
        Decision::Pass => "pass",
        Decision::Block { origin: Origin::Rule | Origin::Automatic, .. } if !enforcing => "observe",
        Decision::Block { .. } => "block",
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::mpsc::sync_channel};

    use detector_common::settings::Settings;

    use super::*;
    use crate::{
        capture::{frame, pcap},
        connection,
        daemon::{joiner::Joiner, known::Known, labels},
        enforce, flow, join,
        kernel::memory::{MemoryMaps, MemorySockets},
        policy::rules::Rules,
    };

    const LIMITS: enforce::Limits = enforce::Limits {
        addresses: 8,
        prefixes: 8,
        ja4_rules: 4,
        quic_sources: 2,
        automatic: 8,
        automatic_per_second: 8,
        units: 8,
    };

    const CAPTURE: &[u8] = include_bytes!("../../../tests/fixtures/captures/pcaps/curl-openssl.pcap");

    /// A hello of the capture, without its proof.
    fn hello() -> Hello {
        let (mut pipeline, mut found) = (Pipeline::new(flow::Limits::default()), None);
        pcap::read(CAPTURE, |frame| {
            if let Ok(packet) = frame::packet(frame) {
                pipeline.take(&packet, &mut |outcome| {
                    if let Outcome::Hello(hello) = outcome {
                        found = Some(Hello { proof: None, ..*hello });
                    }
                });
            }
        })
        .unwrap();
        found.unwrap()
    }

    #[test]
    fn of_the_hellos_that_wait_those_with_an_established_socket_are_confirmed() {
        let enforcer = Enforcer::new(MemoryMaps::new(8), Settings::default(), Rules::default(), LIMITS).unwrap();
        let connections = Connections::new(connection::Limits { answers: false, ..connection::Limits::default() });
        let metrics = Arc::new(Metrics::new(ConfigMode::Observe, labels()).unwrap());
        let (lines, written) = sync_channel(8);
        let pipeline = Pipeline::new(flow::Limits::default());
        let memory = Memory { fingerprints: NonZeroUsize::MIN, browser_hellos: 64 };
        let (_, teller) =
            Known::start(join::Limits::default(), 8, Joiner::idle(&metrics), Arc::clone(&metrics), || {}).unwrap();
        let mut core =
            Core::new(pipeline, connections, enforcer, Arc::clone(&metrics), (lines, teller, Arc::default()), &memory);

        let mut sockets = MemorySockets::default();
        let waited = connection::ASK_AFTER + connection::ASK_EVERY;
        let long_ago = Timestamp::from_nanos(monotonic().as_nanos() - waited.as_nanos() as u64);
        let hello = hello();
        for (port, found) in (1..).zip(Lookup::ALL) {
            let flow = Flow { source: SocketAddr::new(hello.flow.source.ip(), port), ..hello.flow };
            sockets.0.insert((flow.source, flow.destination), *found);
            let came = Outcome::Hello(Box::new(Hello { flow, ..hello.clone() }));
            core.verdicts.outcome(&mut core.connections, came, long_ago);
        }
        core.ask(&mut sockets);
        core.publish(Duration::ZERO);
        for found in Lookup::ALL {
            assert_eq!(metrics.resources.sockets.value(found.label()), 1, "{}", found.label());
        }
        for hellos in [&metrics.hellos.judged, &metrics.hellos.confirmed] {
            assert_eq!((hellos.value(Proof::SockDiag.label()), hellos.sum()), (1, 1));
        }
        let line = written.try_recv().unwrap();
        assert_eq!(line.settled.hello.flow.source.port(), 1);
        assert_eq!(line.settled.standing, Standing::Confirmed(Proof::SockDiag));
        assert!(written.try_recv().is_err(), "a line of a hello without a socket");
    }
}
