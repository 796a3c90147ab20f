//! Room 7: complete hellos in, the same hellos with everything that is known about them out. A hello is held until it
//! is sure that its client has the address it sends from, and until the server has answered; anyone can forge a hello,
//! so that nothing may be done about one that isn't confirmed. Memory: [`Limits::pending`] hellos, and a few
//! hundred bytes beside each. Each call is O(1) on average: a 4-tuple has at most [`PER_FLOW`] hellos here.
//!
//! At any moment: hellos that came = `Settled` in all three standings + [`Connections::pending`].
//!
//! **Which hellos a proof is about.** Hellos with one `stream_seq` are of one connection: what proves the address of one
//! proves that of the others, also of those to come while it is held. Hellos of another `stream_seq` on the same
//! 4-tuple are another connection, or forged, and are not confirmed by it. A proof that comes without a `stream_seq` is
//! of the connection whose hello came first: Linux keeps the connection it has (RFC 5961 section 4).
//!
//! **Whose socket is looked up.** A hello that waits long is named by [`Connections::overdue`], for its socket to be
//! asked for. Somebody may have forged it before the address' owner connected from that very port, so only a hello is
//! named whose own SYN was seen, and none of a 4-tuple on which another connection showed up since.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _};
use smallvec::SmallVec;

use crate::capture::{Flow, Proof};
use crate::clock::Timestamp;
use crate::fingerprint::Transport;
use crate::pipeline::{Answer, Hello, Void, fits};

/// Hellos of one 4-tuple held at a time: two connections with two hellos each. Of more, the oldest goes.
pub const PER_FLOW: usize = 4;

/// How long a hello waits for the proofs that come by themselves before its socket is looked up.
pub const ASK_AFTER: Duration = Duration::from_millis(300);
/// The time between two calls in which [`Connections::overdue`] names some.
pub const ASK_EVERY: Duration = Duration::from_millis(50);

/// The bounds of everything that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hellos held.
    pub pending: usize,
    /// How long a hello may wait for the proof of its address.
    pub proof_within: Duration,
    /// How long a confirmed hello waits for the server's answer.
    pub answer_within: Duration,
    /// Answers are expected. If not, a hello is settled when it is confirmed.
    pub answers: bool,
    /// Hellos that one call of [`Connections::overdue`] names; 0 where nobody asks.
    pub asks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 65_536,
            proof_within: Duration::from_secs(1),
            answer_within: Duration::from_secs(1),
            answers: true,
            asks: 64,
        }
    }
}

/// What is said about a hello.
#[derive(Debug)]
pub enum Event<'a> {
    /// Its client has its address. Once for each hello that is confirmed and isn't void by then, as soon as it is known.
    Confirmed(&'a Hello, Proof),
    /// Nothing more will be known. Once for each hello, after its `Confirmed`.
    Settled(Box<Settled>),
}

/// A hello and all that is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// How many hellos had come before it.
    pub number: u64,
    /// The hello.
    pub hello: Box<Hello>,
    /// Whether its client has its address.
    pub standing: Standing,
    /// What the server answered.
    pub answer: Option<Answer>,
    /// Why its fingerprint says nothing about its client.
    pub void: Option<Void>,
}

/// Whether a hello's client has the address it sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has.
    Confirmed(Proof),
    /// No proof came in time.
    PendingExpired,
    /// Given up before its time: others needed the place, or no proof can come any more.
    Unconfirmed,
}

impl Standing {
    /// The labels of all of them.
    pub const LABELS: [&'static str; 3] = ["confirmed", "pending_expired", "unconfirmed"];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        let [confirmed, pending_expired, unconfirmed] = Self::LABELS;
        match self {
            Self::Confirmed(_) => confirmed,
            Self::PendingExpired => pending_expired,
            Self::Unconfirmed => unconfirmed,
        }
    }

    /// The place of its label in [`Standing::LABELS`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Confirmed(_) => 0,
            Self::PendingExpired => 1,
            Self::Unconfirmed => 2,
        }
    }

    /// The proof, if there is one.
    #[must_use]
    pub const fn proof(self) -> Option<Proof> {
        match self {
            Self::Confirmed(proof) => Some(proof),
            Self::PendingExpired | Self::Unconfirmed => None,
        }
    }
}

/// Hellos of which not everything is known.
#[derive(Debug)]
pub struct Connections {
    limits: Limits,
    /// By number.
    hellos: HashMap<u64, Pending>,
    /// Their numbers, in the order they came.
    flows: HashMap<Flow, Numbers>,
    unproven: Queue,
    unanswered: Queue,
    /// Unproven ones whose socket was not asked for yet.
    unasked: Queue,
    /// When some were last named.
    asked: Timestamp,
    came: u64,
    /// The latest time that was told: that of a file's packets may go back.
    now: Timestamp,
}

/// With a place for the one that makes them too many.
type Numbers = SmallVec<[u64; PER_FLOW + 1]>;

#[derive(Debug)]
struct Pending {
    hello: Box<Hello>,
    proof: Option<Proof>,
    answer: Option<Answer>,
    void: Option<Void>,
    /// Another connection on the 4-tuple was proven: a socket there is that one's.
    displaced: bool,
}

impl Connections {
    /// With nothing held.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            hellos: HashMap::new(),
            flows: HashMap::new(),
            unproven: Queue::default(),
            unanswered: Queue::default(),
            unasked: Queue::default(),
            asked: Timestamp::default(),
            came: 0,
            now: Timestamp::default(),
        }
    }

    /// Hellos held.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.hellos.len()
    }

    /// A hello is complete.
    pub fn hello(&mut self, hello: Box<Hello>, now: Timestamp, out: &mut impl FnMut(Event<'_>)) {
        self.expire(now, out);
        let flow = hello.flow;
        let stream = hello.stream_seq;
        let number = self.came;
        self.came = self.came.wrapping_add(1);
        let askable = self.limits.asks > 0 && hello.transport == Transport::Tcp && hello.syn.is_some();
        let known = hello.proof.or_else(|| self.of_stream(&flow, stream).find_map(|pending| pending.proof));
        self.hellos.insert(number, Pending { hello, proof: None, answer: None, void: None, displaced: false });
        self.flows.entry(flow).or_default().push(number);
        self.unproven.push(self.now.plus(self.limits.proof_within), number);
        self.unproven.trim(|number| is_unproven(&self.hellos, number));
        if let Some(proof) = known {
            self.confirm(&flow, stream, proof, out);
        } else if askable {
            self.unasked.push(self.now.plus(ASK_AFTER), number);
            self.unasked.trim(|number| is_unproven(&self.hellos, number));
        }
        self.evict(&flow, out);
    }

    /// The client of `flow` has its address. `stream` is the `stream_seq` that the proof is about, if it tells one.
    pub fn proven(
        &mut self,
        flow: Flow,
        stream: Option<u32>,
        proof: Proof,
        now: Timestamp,
        out: &mut impl FnMut(Event<'_>),
    ) {
        self.expire(now, out);
        let first = self.of_flow(&flow).next().map(|pending| pending.hello.stream_seq);
        if let Some(stream) = stream.or(first) {
            self.confirm(&flow, stream, proof, out);
        }
    }

    /// TCP connections, by 4-tuple and `stream_seq`, whose hellos have waited for [`ASK_AFTER`] without proof, those that
    /// have waited longest first; each hello is named once. At most [`Limits::asks`] at once, and none before
    /// [`ASK_EVERY`] is over, so that forged hellos cost a bounded number of look-ups. Of more than that an even share is
    /// named and the rest is not: no flood, however long, takes the turns of hellos that came before or after it, and
    /// those amid it have the same chance as each forged one.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<(Flow, u32)> {
        self.now = self.now.max(now);
        if self.now.since(self.asked) < ASK_EVERY {
            return Vec::new();
        }
        self.asked = self.now;
        let mut waiting = Vec::new();
        while let Some(number) = self.unasked.due(self.now) {
            waiting.extend(self.asks_for(number));
        }
        let turns = self.limits.asks.min(waiting.len());
        let place = |turn: usize| turn.saturating_mul(waiting.len()).checked_div(turns);
        (0..turns).filter_map(|turn| waiting.get(place(turn)?).copied()).collect()
    }

    /// The server answered on a 4-tuple. Whether a hello was waiting for that: a HelloRetryRequest is for the first hello
    /// of a connection, a ServerHello for its latest. Each waiting hello that it doesn't fit is void: the server has read
    /// another one.
    pub fn answer(&mut self, answer: Answer, now: Timestamp, out: &mut impl FnMut(Event<'_>)) -> bool {
        self.expire(now, out);
        let waiting: Numbers = self.numbers(&answer.flow).filter(|number| self.is_for(&answer, *number)).collect();
        for number in &waiting {
            if let Some(pending) = self.hellos.get_mut(number) {
                if !fits(&pending.hello.offer, &answer) {
                    pending.void.get_or_insert(Void::Desync);
                }
                pending.answer = Some(answer.clone());
            }
            self.settle_if_known(*number, out);
        }
        !waiting.is_empty()
    }

    /// The hellos of `flow` that are held may not be the server's.
    pub fn void(&mut self, flow: Flow, why: Void, now: Timestamp, out: &mut impl FnMut(Event<'_>)) {
        self.expire(now, out);
        for number in self.flows.get(&flow).cloned().unwrap_or_default() {
            if let Some(pending) = self.hellos.get_mut(&number) {
                pending.void.get_or_insert(why);
            }
        }
    }

    /// Nothing more will be known about the hellos of `flow`: it is blocked, or gone.
    pub fn release(&mut self, flow: Flow, out: &mut impl FnMut(Event<'_>)) {
        for number in self.flows.get(&flow).cloned().unwrap_or_default() {
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// Settles the hellos whose time is up.
    pub fn expire(&mut self, now: Timestamp, out: &mut impl FnMut(Event<'_>)) {
        self.now = self.now.max(now);
        while let Some(number) = self.unproven.due(self.now) {
            if is_unproven(&self.hellos, number) {
                self.settle(number, Standing::PendingExpired, out);
            }
        }
        while let Some(number) = self.unanswered.due(self.now) {
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// Settles all hellos, in the order they came: nothing more will come.
    pub fn finish(&mut self, out: &mut impl FnMut(Event<'_>)) {
        let mut numbers: Vec<u64> = self.hellos.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// Lets the oldest go while there are too many, of `flow` or in all; the unconfirmed first.
    fn evict(&mut self, flow: &Flow, out: &mut impl FnMut(Event<'_>)) {
        let numbers = self.flows.get(flow).cloned().unwrap_or_default();
        if numbers.len() > PER_FLOW {
            let unproven = numbers.iter().find(|number| is_unproven(&self.hellos, **number));
            if let Some(number) = unproven.or(numbers.first()) {
                self.settle(*number, Standing::Unconfirmed, out);
            }
        }
        while self.hellos.len() > self.limits.pending {
            // What was settled or confirmed meanwhile is skipped, each number once.
            let unproven = std::iter::from_fn(|| self.unproven.pop()).find(|number| is_unproven(&self.hellos, *number));
            let Some(number) = unproven.or_else(|| self.unanswered.pop()) else { return };
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// The address of the client of this connection is sure.
    fn confirm(&mut self, flow: &Flow, stream: u32, proof: Proof, out: &mut impl FnMut(Event<'_>)) {
        for number in self.flows.get(flow).cloned().unwrap_or_default() {
            let Some(pending) = self.hellos.get_mut(&number) else { continue };
            if pending.hello.stream_seq != stream {
                pending.displaced = true;
                continue;
            }
            if pending.proof.is_some() {
                continue;
            }
            pending.proof = Some(proof);
            if pending.void.is_none() {
                out(Event::Confirmed(&pending.hello, proof));
            }
            if !self.settle_if_known(number, out) {
                self.unanswered.push(self.now.plus(self.limits.answer_within), number);
                self.unanswered.trim(|number| self.hellos.contains_key(&number));
            }
        }
    }

    /// Whether everything is known about the hello, which then is told.
    fn settle_if_known(&mut self, number: u64, out: &mut impl FnMut(Event<'_>)) -> bool {
        let answers = self.limits.answers;
        let known = |pending: &Pending| pending.proof.is_some() && (pending.answer.is_some() || !answers);
        let known = self.hellos.get(&number).is_some_and(known);
        if known {
            self.settle(number, Standing::Unconfirmed, out);
        }
        known
    }

    /// Tells all about the hello `number`, if it is held; its standing is `otherwise` if nothing proves its address.
    fn settle(&mut self, number: u64, otherwise: Standing, out: &mut impl FnMut(Event<'_>)) {
        let Some(Pending { hello, proof, answer, void, .. }) = self.hellos.remove(&number) else { return };
        if let Some(numbers) = self.flows.get_mut(&hello.flow) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.flows.remove(&hello.flow);
            }
        }
        let standing = proof.map_or(otherwise, Standing::Confirmed);
        out(Event::Settled(Box::new(Settled { number, hello, standing, answer, void })));
    }

    /// Whether `answer`, which came on its 4-tuple, is for the hello `number`.
    fn is_for(&self, answer: &Answer, number: u64) -> bool {
        let Some(Pending { hello, answer: None, .. }) = self.hellos.get(&number) else { return false };
        if answer.retry {
            return hello.index == 0;
        }
        self.of_stream(&answer.flow, hello.stream_seq).all(|other| other.hello.index <= hello.index)
    }

    /// The connection of the hello `number`, if it is unproven and a socket of its 4-tuple can only be its own.
    fn asks_for(&self, number: u64) -> Option<(Flow, u32)> {
        let pending = self.hellos.get(&number).filter(|pending| pending.proof.is_none() && !pending.displaced)?;
        let (flow, stream) = (pending.hello.flow, pending.hello.stream_seq);
        self.of_flow(&flow).all(|other| other.hello.stream_seq == stream).then_some((flow, stream))
    }

    fn numbers(&self, flow: &Flow) -> impl Iterator<Item = u64> {
        self.flows.get(flow).into_iter().flatten().copied()
    }

    fn of_flow(&self, flow: &Flow) -> impl Iterator<Item = &Pending> {
        self.numbers(flow).filter_map(|number| self.hellos.get(&number))
    }

    fn of_stream(&self, flow: &Flow, stream: u32) -> impl Iterator<Item = &Pending> {
        self.of_flow(flow).filter(move |pending| pending.hello.stream_seq == stream)
    }
}

/// Whether the hello `number` is among `hellos` and waits for a proof.
fn is_unproven(hellos: &HashMap<u64, Pending>, number: u64) -> bool {
    hellos.get(&number).is_some_and(|pending| pending.proof.is_none())
}

/// Numbers of hellos by the time they are due, in the order they were put in. Holds numbers that wait no more, until
/// they are due or there are as many of them as of others.
#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<(Timestamp, u64)>,
    /// Entries that `trim` lets pass before it looks again.
    allowed: usize,
}

impl Queue {
    /// `at` isn't before that of the entry before it.
    fn push(&mut self, at: Timestamp, number: u64) {
        self.items.push_back((at, number));
    }

    /// Drops what doesn't `wait` any more, when it may be half of the entries.
    fn trim(&mut self, waits: impl Fn(u64) -> bool) {
        if self.items.len() > self.allowed {
            self.items.retain(|(_, number)| waits(*number));
            self.allowed = self.items.len().saturating_mul(2).saturating_add(64);
        }
    }

    /// Takes the oldest entry out.
    fn pop(&mut self) -> Option<u64> {
        self.items.pop_front().map(|(_, number)| number)
    }

    /// Takes the oldest entry out if it is due at `now`.
    fn due(&mut self, now: Timestamp) -> Option<u64> {
        self.items.pop_front_if(|(at, _)| *at <= now).map(|(_, number)| number)
    }
}
