//! What the one thread on the packet path does with an event and with a request: events in, verdicts in force and lines
//! of hellos out. Owns everything it touches, so there is no lock between a hello and its verdict.
//!
//! Architecture.md has workers behind a channel here. One thread that does it all is the faster way: a hello takes some
//! 5 µs to read and judge, less than waking another thread, and a core can do 100,000 and more a second.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError},
    },
};

use detector_common::verdict::Action as KernelAction;
use ipnet::IpNet;
use lru::LruCache;
use tracing::error;

use crate::{
    admin::protocol::{
        Action, Change, Changed, Entry, Fingerprint as SeenFingerprint, Origin as ProtocolOrigin, PAGE, Request,
        Response,
    },
    capture::{Flow, Proof, event},
    clock::{Timestamp, monotonic, wall},
    connection::{Connections, Event, Settled, Standing},
    enforce::Enforcer,
    fingerprint::{Ja4, Transport},
    kernel::{Error, Lookup, Slot, Sockets, VerdictMaps},
    pipeline::{Cause, Hello, Ignored, KeyCheck, Outcome, Pipeline, Void},
    policy::{
        rules::{Decision, Origin},
        subject::Subject,
        ttl::Ttl,
    },
    telemetry::{Metrics, logs::Limited, metrics::VerdictKind},
};

/// Failures of the kernel's maps: each hello could meet one.
static FAILURES: Limited = Limited::per_minute(6);

/// Hellos, and verdicts, whose time is up that are dealt with before anything else gets its turn: some 0.1 ms of work.
const SWEEP: usize = 64;

/// Fingerprints in a status.
const TOP: usize = 8;

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
}

struct Seen {
    /// Of the latest hello.
    key: u64,
    hellos: u64,
    last_server_name: Option<String>,
    last_seen: Timestamp,
}

/// Exact counts of what became of each event.
#[derive(Default)]
struct Tally {
    received: [u64; 2],
    malformed: u64,
    complete: u64,
    keys: [u64; KeyCheck::ALL.len()],
    lost: [u64; Cause::ALL.len()],
    ignored: [u64; Ignored::ALL.len()],
    standings: [u64; Standing::LABELS.len()],
    proofs: [u64; Proof::ALL.len()],
    void: [u64; Void::ALL.len()],
    lookups: [u64; Lookup::ALL.len()],
    answers: u64,
    lines_queued: u64,
    lines_dropped: u64,
    judge_failed: u64,
}

/// The state of the packet path.
pub(super) struct Core<M> {
    pipeline: Pipeline,
    connections: Connections,
    verdicts: Verdicts<M>,
}

/// What is done with a hello; apart from the pipeline, which calls it.
struct Verdicts<M> {
    enforcer: Enforcer<M>,
    metrics: Arc<Metrics>,
    lines: SyncSender<Line>,
    seen: LruCache<Ja4, Seen>,
    tally: Tally,
    /// Connections that were just decided against.
    decided: Vec<(Flow, Decision)>,
    enforcing: bool,
}

impl<M: VerdictMaps> Core<M> {
    pub(super) fn new(
        pipeline: Pipeline,
        connections: Connections,
        enforcer: Enforcer<M>,
        metrics: Arc<Metrics>,
        lines: SyncSender<Line>,
        fingerprints: NonZeroUsize,
        enforcing: bool,
    ) -> Self {
        let seen = LruCache::new(fingerprints);
        let tally = Tally::default();
        let decided = Vec::new();
        let verdicts = Verdicts { enforcer, metrics, lines, seen, tally, decided, enforcing };
        Self { pipeline, connections, verdicts }
    }

    /// One event of a ring.
    pub(super) fn event(&mut self, bytes: &[u8], class: Class) {
        let Self { pipeline, connections, verdicts } = self;
        verdicts.tally.received[class as usize] += 1;
        let whole = event::packets(bytes, &mut |packet| {
            let now = packet.at();
            pipeline.take(packet, &mut |outcome| verdicts.outcome(connections, outcome, now));
        });
        if !whole {
            // Only another version of our own program could write such an event.
            verdicts.tally.malformed += 1;
        }
    }

    /// What time alone brings about, or some of it. Whether there may be more.
    pub(super) fn tick(&mut self) -> bool {
        let now = monotonic();
        let Self { pipeline, connections, verdicts } = self;
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
    pub(super) fn publish(&self) {
        let Verdicts { enforcer, metrics, tally, .. } = &self.verdicts;
        metrics.set_pending(self.connections.pending());
        for (label, count) in Standing::LABELS.iter().zip(tally.standings) {
            metrics.standings.set(label, count);
        }
        for (proof, count) in Proof::ALL.iter().zip(tally.proofs) {
            metrics.proofs.set(proof.label(), count);
        }
        for (why, count) in Void::ALL.iter().zip(tally.void) {
            metrics.void.set(why.label(), count);
        }
        for (found, count) in Lookup::ALL.iter().zip(tally.lookups) {
            metrics.lookups.set(found.label(), count);
        }
        metrics.answers.set("", tally.answers);
        metrics.event_lines.set("queued", tally.lines_queued);
        let [confirmed, unconfirmed] = tally.received;
        metrics.events_received.set("confirmed", confirmed);
        metrics.events_received.set("unconfirmed", unconfirmed);
        metrics.hellos.set("complete", tally.complete);
        for (check, count) in KeyCheck::ALL.iter().zip(tally.keys) {
            metrics.keys.set(check.label(), count);
        }
        for (cause, count) in Cause::ALL.iter().zip(tally.lost) {
            metrics.hellos.set(cause.label(), count);
        }
        for (reason, count) in Ignored::ALL.iter().zip(tally.ignored) {
            metrics.ignored.set(reason.label(), count);
        }
        metrics.events_malformed.set("", tally.malformed);
        metrics.event_lines.set("dropped", tally.lines_dropped);
        metrics.judge_failed.set("", tally.judge_failed);
        metrics.connections_evicted.set("", enforcer.evicted());
        let (evicted, too_fast) = enforcer.automatic_lost();
        metrics.automatic_lost.set("evicted", evicted);
        metrics.automatic_lost.set("too_fast", too_fast);
        let counts = enforcer.counts();
        for (kind, count) in [
            (VerdictKind::Address, counts.address),
            (VerdictKind::Prefix, counts.prefix),
            (VerdictKind::Allow, counts.allow),
            (VerdictKind::Connection, counts.connection),
            (VerdictKind::Ja4, counts.ja4),
            (VerdictKind::Automatic, counts.automatic),
        ] {
            metrics.set_verdicts(kind, count as u64);
        }
    }

    /// The fingerprints seen most often, among those seen lately.
    pub(super) fn top(&self) -> Vec<SeenFingerprint> {
        let now = monotonic();
        let mut seen: Vec<(&Ja4, &Seen)> = self.verdicts.seen.iter().collect();
        seen.sort_unstable_by_key(|(_, seen)| std::cmp::Reverse(seen.hellos));
        seen.truncate(TOP);
        seen.into_iter()
            .map(|(ja4, seen)| SeenFingerprint {
                ja4: ja4.to_string(),
                hellos: seen.hellos,
                last_server_name: seen.last_server_name.clone(),
                last_seen_s: now.since(seen.last_seen).as_secs(),
            })
            .collect()
    }

    /// Answers every request but `status`.
    pub(super) fn request(&mut self, request: Request) -> Response {
        let now = monotonic();
        let changed = match request {
            Request::Block { subject, ttl } => self.verdicts.block(subject, ttl, now),
            Request::Allow { subject, ttl } => self.verdicts.allow(subject, ttl, now),
            Request::Unblock { subject } => self.verdicts.unblock(subject, now),
            Request::Unallow { subject } => self.verdicts.unallow(subject, now),
            Request::Challenge { subject, ttl } => self.verdicts.challenge(subject, ttl, now),
            Request::Unchallenge { subject } => self.verdicts.unchallenge(subject, now),
            Request::List { skip } => Ok(self.verdicts.list(skip, now)),
            Request::ChallengeListener { .. } | Request::Status => {
                Ok(Response::Error { message: format!("`{}` is not the core's to answer", request.verb()) })
            }
        };
        changed.unwrap_or_else(|error| match error {
            Error::Full(_) => {
                Response::Refused { reason: error.to_string(), hint: "see what is there: detector list".to_owned() }
            }
            error => Response::Error { message: error.to_string() },
        })
    }
}

impl<M: VerdictMaps> Verdicts<M> {
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
                self.enforcer.maps().end_follow(flow.source, flow.destination);
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
            Outcome::Void { flow, why } => {
                connections.void(flow, why, now, &mut |event| self.connection(event));
            }
        }
        self.release(connections);
    }

    /// What is said of a hello: judged as soon as its client's address is proven, told when all is known.
    fn connection(&mut self, event: Event<'_>) {
        match event {
            Event::Confirmed(hello, proof) => {
                if let Some(count) = self.tally.proofs.get_mut(proof as usize) {
                    *count += 1;
                }
                // What a QUIC or DTLS hello leads to is not for this table, whose keys are TCP connections.
                if hello.transport == Transport::Tcp {
                    self.judge(hello);
                }
                self.meet(hello);
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
        let initial_seq = hello.stream_seq.wrapping_sub(1);
        let now = monotonic();
        match self.enforcer.judge(flow.source, flow.destination, initial_seq, fingerprint, now) {
            Ok(Decision::Pass) => {}
            Ok(decision) => {
                self.metrics.observe_latency(monotonic().since(hello.completed_at));
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
        if let Some(count) = self.tally.standings.get_mut(standing.index()) {
            *count += 1;
        }
        if let Some(count) = settled.void.and_then(|why| self.tally.void.get_mut(why as usize)) {
            *count += 1;
        }
        if standing.proof().is_none() {
            return;
        }
        if settled.void.is_none() {
            self.remember(&settled.hello, monotonic());
        }
        self.tally.lines_queued += 1;
        match self.lines.try_send(Line { settled, decision }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.tally.lines_dropped += 1,
        }
    }

    fn remember(&mut self, hello: &Hello, now: Timestamp) {
        let fresh = || Seen { key: 0, hellos: 0, last_server_name: None, last_seen: now };
        let seen = self.seen.get_or_insert_mut(hello.fingerprint.ja4, fresh);
        seen.key = hello.fingerprint.keys.key;
        seen.hellos += 1;
        seen.last_seen = now;
        if hello.fingerprint.server_name != seen.last_server_name {
            seen.last_server_name.clone_from(&hello.fingerprint.server_name);
        }
    }

    fn block(&mut self, subject: Subject, ttl: Ttl, now: Timestamp) -> Result<Response, Error> {
        let until = end(ttl, now);
        let mut note = None;
        match &subject {
            Subject::Address(address) => self.enforcer.block_address(*address, until)?,
            Subject::Prefix(prefix) => self.enforcer.block_prefix(*prefix, until)?,
            Subject::Ja4(ja4) => {
                let key = self.seen.peek(ja4).map(|seen| seen.key);
                self.enforcer.block_ja4(*ja4, key, until)?;
                if key.is_none() {
                    note = Some("this host hasn't seen it lately: it arms at first sighting".to_owned());
                }
            }
        }
        Ok(Response::Changed(Changed { note, ..Changed::new(Change::Blocked, subject, ttl, wall()) }))
    }

    fn allow(&mut self, subject: Subject, ttl: Ttl, now: Timestamp) -> Result<Response, Error> {
        let Some(prefix) = source_prefix(&subject) else { return Ok(Response::NotFound) };
        self.enforcer.allow(prefix, end(ttl, now))?;
        Ok(Response::Changed(Changed::new(Change::Allowed, subject, ttl, wall())))
    }

    fn unblock(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let left = self.remaining(&subject, now);
        let found = match &subject {
            Subject::Address(address) => self.enforcer.remove(&Slot::Address(*address))?,
            Subject::Prefix(prefix) => self.enforcer.remove(&Slot::Prefix(*prefix))?,
            Subject::Ja4(ja4) => self.enforcer.unblock_ja4(*ja4)?,
        };
        Ok(self.taken_back(found, Change::Unblocked, subject, left))
    }

    fn unallow(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let Some(prefix) = source_prefix(&subject) else { return Ok(Response::NotFound) };
        let left = self.enforcer.until(&Slot::Allow(prefix)).map_or(Ttl::Forever, |until| remaining(until, now));
        let found = self.enforcer.remove(&Slot::Allow(prefix))?;
        Ok(self.taken_back(found, Change::Unallowed, subject, left))
    }

    fn challenge(&mut self, subject: Subject, ttl: Ttl, now: Timestamp) -> Result<Response, Error> {
        let until = end(ttl, now);
        let mut note = None;
        match source_slot(&subject) {
            Ok(slot) => {
                if self.enforcer.action(&slot) == Some(KernelAction::Block) {
                    note = Some("it takes the place of a block".to_owned());
                }
                self.enforcer.challenge(slot, until)?;
            }
            Err(ja4) => {
                self.enforcer.challenge_ja4(ja4, until)?;
                note =
                    Some("it is steered only from addresses with no other clients; see README, Challenge".to_owned());
            }
        }
        Ok(Response::Changed(Changed { note, ..Changed::new(Change::Challenged, subject, ttl, wall()) }))
    }

    fn unchallenge(&mut self, subject: Subject, now: Timestamp) -> Result<Response, Error> {
        let (left, found) = match source_slot(&subject) {
            Ok(slot) => (self.enforcer.until(&slot), self.enforcer.unchallenge(&slot)?),
            Err(ja4) => {
                let left = self.enforcer.challenged().find(|rule| rule.ja4 == ja4).map(|rule| rule.until);
                (left, self.enforcer.unchallenge_ja4(ja4)?)
            }
        };
        let left = left.map_or(Ttl::Forever, |until| remaining(until, now));
        Ok(self.taken_back(found, Change::Unchallenged, subject, left))
    }

    fn taken_back(&self, found: bool, change: Change, subject: Subject, left: Ttl) -> Response {
        if !found {
            return Response::NotFound;
        }
        Response::Changed(Changed::new(change, subject, left, wall()))
    }

    /// What was left of a block: the undo of taking it back restores just that.
    fn remaining(&self, subject: &Subject, now: Timestamp) -> Ttl {
        let until = match subject {
            Subject::Address(address) => self.enforcer.until(&Slot::Address(*address)),
            Subject::Prefix(prefix) => self.enforcer.until(&Slot::Prefix(*prefix)),
            Subject::Ja4(ja4) => self.enforcer.rules().iter().find(|rule| rule.ja4 == *ja4).map(|rule| rule.until),
        };
        until.map_or(Ttl::Forever, |until| remaining(until, now))
    }

    fn list(&self, skip: usize, now: Timestamp) -> Response {
        let entry = |subject: Subject, action: Action, origin: Origin, until: Option<Timestamp>, hits: u64| {
            let left = remaining(until, now);
            let origin = match origin {
                Origin::Operator => ProtocolOrigin::Operator,
                Origin::Rule => ProtocolOrigin::Rule,
                Origin::Automatic => ProtocolOrigin::Automatic,
            };
            let until = crate::admin::protocol::until(left, wall());
            Entry { action, subject, until, expires_in_s: left.as_secs(), hits, origin }
        };
        let verdicts = self.enforcer.list().filter_map(|listed| {
            let subject = match listed.slot {
                Slot::Address(address) => Subject::Address(address),
                Slot::Prefix(prefix) | Slot::Allow(prefix) => Subject::from(prefix),
                Slot::Connection { .. }
                | Slot::NeverBlock(_)
                | Slot::Fingerprint(_)
                | Slot::Stable(_)
                | Slot::Pair(..)
                | Slot::StablePair(..) => return None,
            };
            let action = match listed.action {
                KernelAction::Allow => Action::Allow,
                KernelAction::Observe => Action::Observe,
                KernelAction::Challenge => Action::Challenge,
                KernelAction::RateLimit => Action::RateLimit,
                KernelAction::Block => Action::Block,
            };
            Some(entry(subject, action, listed.origin, listed.until, listed.hits))
        });
        let rules = self.enforcer.rules().iter().map(|rule| {
            let observed = rule.origin == Origin::Rule && !self.enforcing;
            let action = if observed { Action::Observe } else { Action::Block };
            entry(Subject::Ja4(rule.ja4), action, rule.origin, rule.until, rule.hits)
        });
        let challenged = self
            .enforcer
            .challenged()
            .map(|rule| entry(Subject::Ja4(rule.ja4), Action::Challenge, rule.origin, rule.until, rule.hits));
        let mut entries: Vec<Entry> = rules.chain(challenged).chain(verdicts).collect();
        entries.sort_by(|a, b| a.subject.cmp(&b.subject));
        let total = entries.len();
        Response::Entries { entries: entries.into_iter().skip(skip).take(PAGE).collect(), total }
    }
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

fn source_prefix(subject: &Subject) -> Option<IpNet> {
    match subject {
        Subject::Address(address) => Some(IpNet::from(*address)),
        Subject::Prefix(prefix) => Some(*prefix),
        Subject::Ja4(_) => None,
    }
}

/// Where a verdict on addresses stands; a JA4 value has no such place.
fn source_slot(subject: &Subject) -> Result<Slot, Ja4> {
    match subject {
        Subject::Address(address) => Ok(Slot::Address(*address)),
        Subject::Prefix(prefix) => Ok(Slot::Prefix(*prefix)),
        Subject::Ja4(ja4) => Err(*ja4),
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
        config::Mode,
        connection,
        daemon::labels,
        enforce, flow,
        kernel::memory::{MemoryMaps, MemorySockets},
        policy::rules::Rules,
    };

    const LIMITS: enforce::Limits =
        enforce::Limits { addresses: 8, prefixes: 8, ja4_rules: 4, automatic: 8, automatic_per_second: 8, units: 8 };

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
        let metrics = Arc::new(Metrics::new(Mode::Observe, labels()).unwrap());
        let (lines, written) = sync_channel(8);
        let (pipeline, fingerprints) = (Pipeline::new(flow::Limits::default()), NonZeroUsize::MIN);
        let mut core = Core::new(pipeline, connections, enforcer, Arc::clone(&metrics), lines, fingerprints, false);

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
        core.publish();
        for found in Lookup::ALL {
            assert_eq!(metrics.lookups.value(found.label()), 1, "{}", found.label());
        }
        assert_eq!(metrics.proofs.value(Proof::SockDiag.label()), 1);
        let line = written.try_recv().unwrap();
        assert_eq!(line.settled.hello.flow.source.port(), 1);
        assert_eq!(line.settled.standing, Standing::Confirmed(Proof::SockDiag));
        assert!(written.try_recv().is_err(), "a line of a hello without a socket");
    }
}
