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
use std::hash::BuildHasher as _;
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::capture::{Flow, Proof};
use crate::clock::Timestamp;
use crate::fingerprint::Transport;
use crate::flow::Aged;
use crate::pipeline::{Answer, Hello, SWEEP, Void, fits};

/// Hellos of one 4-tuple held at a time: two connections with two hellos each. Of more, the oldest goes.
pub const PER_FLOW: usize = 4;

/// How long a hello waits for the proofs that come by themselves before its socket is looked up.
pub const ASK_AFTER: Duration = Duration::from_millis(300);
/// Of the hellos that came within so long, [`Connections::overdue`] names a bounded number.
pub const ASK_EVERY: Duration = Duration::from_millis(50);

/// Such stretches that are remembered, if [`Connections::overdue`] is called too seldom for all of them.
const TURNS: usize = 32;

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
    /// Hellos that one call of [`Connections::overdue`] names at most; 0 where nobody asks.
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
    /// Those whose client's address isn't proven, by number.
    unproven: Aged<Pending, u64>,
    /// Those whose client's address is, by number, in the order they were confirmed.
    unanswered: Aged<Pending, u64>,
    /// The numbers of both, in the order they came.
    flows: Aged<Numbers>,
    /// Those whose socket may be asked for, by the stretch of time they came in.
    unasked: VecDeque<Turns>,
    random: RandomState,
    came: u64,
    /// The latest time that was told: that of a file's packets may go back.
    now: Timestamp,
}

/// With a place for the one that makes them too many.
type Numbers = SmallVec<[u64; PER_FLOW + 1]>;

/// Hellos that came within one stretch of time.
#[derive(Debug)]
struct Turns {
    until: Timestamp,
    /// How many.
    came: u64,
    /// Those of them that are named.
    numbers: Vec<u64>,
}

/// What a hello waits for.
#[derive(Clone, Copy)]
enum Kind {
    Unproven,
    Unanswered,
}

#[derive(Debug)]
struct Pending {
    hello: Box<Hello>,
    /// When it is settled at the latest.
    until: Timestamp,
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
        // With a place for the one that makes them too many.
        let most = limits.pending.saturating_add(1);
        Self {
            limits,
            unproven: Aged::new(most),
            unanswered: Aged::new(most),
            flows: Aged::new(most),
            unasked: VecDeque::new(),
            random: RandomState::default(),
            came: 0,
            now: Timestamp::default(),
        }
    }

    /// Hellos held.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.unproven.len().saturating_add(self.unanswered.len())
    }

    /// A hello is complete.
    pub fn hello(&mut self, hello: Box<Hello>, now: Timestamp, out: &mut impl FnMut(Event<'_>)) {
        self.expire(now, SWEEP, out);
        let flow = hello.flow;
        let stream = hello.stream_seq;
        let number = self.came;
        self.came = self.came.wrapping_add(1);
        let askable = self.limits.asks > 0 && hello.transport == Transport::Tcp && hello.syn.is_some();
        let known = hello.proof.or_else(|| self.of_stream(&flow, stream).find_map(|pending| pending.proof));
        let until = self.now.plus(self.limits.proof_within);
        self.unproven.insert(number, Pending { hello, until, proof: None, answer: None, void: None, displaced: false });
        match self.flows.get_mut(&flow) {
            Some(numbers) => numbers.push(number),
            None => drop(self.flows.insert(flow, Numbers::from_slice(&[number]))),
        }
        if let Some(proof) = known {
            self.confirm(&flow, stream, proof, out);
        } else if askable {
            self.take_turn(number);
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
        self.expire(now, SWEEP, out);
        let first = self.of_flow(&flow).next().map(|pending| pending.hello.stream_seq);
        if let Some(stream) = stream.or(first) {
            self.confirm(&flow, stream, proof, out);
        }
    }

    /// TCP connections, by 4-tuple and `stream_seq`, whose hellos have waited for [`ASK_AFTER`] without proof, those that
    /// have waited longest first; each hello is named once. At most [`Limits::asks`] of those that came within
    /// [`ASK_EVERY`], so that forged hellos cost a bounded number of look-ups. Of more than that each has the same chance:
    /// no flood, however long, takes the turns of hellos that came before or after it.
    pub fn overdue(&mut self, now: Timestamp) -> Vec<(Flow, u32)> {
        self.now = self.now.max(now);
        let due = self.now;
        let turns = self.unasked.pop_front_if(|turns| turns.until.plus(ASK_AFTER) <= due);
        let numbers = turns.map(|turns| turns.numbers).unwrap_or_default();
        numbers.into_iter().filter_map(|number| self.asks_for(number)).collect()
    }

    /// Gives the hello `number` a turn to be named, or the chance of one.
    fn take_turn(&mut self, number: u64) {
        if self.unasked.back().is_none_or(|turns| turns.until <= self.now) {
            if self.unasked.len() == TURNS {
                self.unasked.pop_front();
            }
            self.unasked.push_back(Turns { until: self.now.plus(ASK_EVERY), came: 0, numbers: Vec::new() });
        }
        let Some(turns) = self.unasked.back_mut() else { return };
        turns.came = turns.came.saturating_add(1);
        if turns.numbers.len() < self.limits.asks {
            return turns.numbers.push(number);
        }
        // The n-th that comes takes the place of one of m with a chance of m/n: in the end all had the same.
        let place = self.random.hash_one(number).checked_rem(turns.came);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(taken) = place.and_then(|place| turns.numbers.get_mut(place)) {
            *taken = number;
        }
    }

    /// The server answered on a 4-tuple. Whether a hello was waiting for that: a HelloRetryRequest is for the first hello
    /// of a connection, a ServerHello for its latest. Each waiting hello that it doesn't fit is void: the server has read
    /// another one.
    pub fn answer(&mut self, answer: Answer, now: Timestamp, out: &mut impl FnMut(Event<'_>)) -> bool {
        self.expire(now, SWEEP, out);
        let waiting: Numbers = self.numbers(&answer.flow).filter(|number| self.is_for(&answer, *number)).collect();
        for number in &waiting {
            if let Some(pending) = self.get_mut(*number) {
                if !fits(&pending.hello.offer, &answer) {
                    pending.void.get_or_insert(Void::Desync);
                }
                pending.answer = Some(answer.clone());
            }
            self.settle_if_known(*number, out);
        }
        !waiting.is_empty()
    }

    /// The hellos of `flow` that are held, of its connection with this `stream_seq`, may not be the server's. `connection`
    /// is both.
    pub fn void(&mut self, connection: (Flow, u32), why: Void, now: Timestamp, out: &mut impl FnMut(Event<'_>)) {
        self.expire(now, SWEEP, out);
        let (flow, stream) = connection;
        for number in self.flows.get(&flow).cloned().unwrap_or_default() {
            if let Some(pending) = self.get_mut(number).filter(|pending| pending.hello.stream_seq == stream) {
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

    /// Settles the hellos whose time is up, `most` of each kind at a time. Whether there may be more.
    pub fn expire(&mut self, now: Timestamp, most: usize, out: &mut impl FnMut(Event<'_>)) -> bool {
        self.now = self.now.max(now);
        let mut more = false;
        for (kind, standing) in [(Kind::Unproven, Standing::PendingExpired), (Kind::Unanswered, Standing::Unconfirmed)]
        {
            let mut left = most;
            while let Some(number) = self.due(kind) {
                if left == 0 {
                    more = true;
                    break;
                }
                left = left.saturating_sub(1);
                self.settle(number, standing, out);
            }
        }
        more
    }

    /// Settles all hellos, in the order they came: nothing more will come.
    pub fn finish(&mut self, out: &mut impl FnMut(Event<'_>)) {
        let mut numbers: Vec<u64> = self.unproven.keys().chain(self.unanswered.keys()).collect();
        numbers.sort_unstable();
        for number in numbers {
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// Lets the oldest go while there are too many, of `flow` or in all; the unconfirmed first. But those of a flow first
    /// of which nothing more is to be known: over UDP no answer is read, and who has a port after another connection says
    /// nothing about that one.
    fn evict(&mut self, flow: &Flow, out: &mut impl FnMut(Event<'_>)) {
        let numbers = self.flows.get(flow).cloned().unwrap_or_default();
        if numbers.len() > PER_FLOW {
            let latest = numbers.last().and_then(|number| self.get(*number)).map(|pending| pending.hello.stream_seq);
            let known = numbers.iter().find(|number| {
                self.unanswered.get(number).is_some_and(|Pending { hello, .. }| {
                    hello.transport != Transport::Tcp && latest != Some(hello.stream_seq)
                })
            });
            let unproven = numbers.iter().find(|number| self.unproven.get(number).is_some());
            if let Some(number) = known.or(unproven).or(numbers.first()) {
                self.settle(*number, Standing::Unconfirmed, out);
            }
        }
        while self.pending() > self.limits.pending {
            let oldest = self.unproven.oldest().or_else(|| self.unanswered.oldest());
            let Some((&number, _)) = oldest else { return };
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// The address of the client of this connection is sure.
    fn confirm(&mut self, flow: &Flow, stream: u32, proof: Proof, out: &mut impl FnMut(Event<'_>)) {
        for number in self.flows.get(flow).cloned().unwrap_or_default() {
            let Some(pending) = self.unproven.get_mut(&number) else { continue };
            if pending.hello.stream_seq != stream {
                pending.displaced = true;
                continue;
            }
            let Some(mut pending) = self.unproven.remove(&number) else { continue };
            pending.proof = Some(proof);
            pending.until = self.now.plus(self.limits.answer_within);
            if pending.void.is_none() {
                out(Event::Confirmed(&pending.hello, proof));
            }
            self.unanswered.insert(number, pending);
            self.settle_if_known(number, out);
        }
    }

    /// Tells the hello if everything is known about it.
    fn settle_if_known(&mut self, number: u64, out: &mut impl FnMut(Event<'_>)) {
        let answers = self.limits.answers;
        if self.unanswered.get(&number).is_some_and(|pending| pending.answer.is_some() || !answers) {
            self.settle(number, Standing::Unconfirmed, out);
        }
    }

    /// Tells all about the hello `number`, if it is held; its standing is `otherwise` if nothing proves its address.
    fn settle(&mut self, number: u64, otherwise: Standing, out: &mut impl FnMut(Event<'_>)) {
        let pending = self.unproven.remove(&number).or_else(|| self.unanswered.remove(&number));
        let Some(Pending { hello, proof, answer, void, .. }) = pending else { return };
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
        let Some(Pending { hello, answer: None, .. }) = self.get(number) else { return false };
        if answer.retry {
            return hello.index == 0;
        }
        self.of_stream(&answer.flow, hello.stream_seq).all(|other| other.hello.index <= hello.index)
    }

    /// The oldest of a kind, if its time is up.
    fn due(&self, kind: Kind) -> Option<u64> {
        let held = match kind {
            Kind::Unproven => &self.unproven,
            Kind::Unanswered => &self.unanswered,
        };
        held.oldest().filter(|(_, pending)| pending.until <= self.now).map(|(number, _)| *number)
    }

    fn get(&self, number: u64) -> Option<&Pending> {
        self.unproven.get(&number).or_else(|| self.unanswered.get(&number))
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Pending> {
        self.unproven.get_mut(&number).or_else(|| self.unanswered.get_mut(&number))
    }

    /// The connection of the hello `number`, if it is unproven and a socket of its 4-tuple can only be its own.
    fn asks_for(&self, number: u64) -> Option<(Flow, u32)> {
        let pending = self.unproven.get(&number).filter(|pending| !pending.displaced)?;
        let (flow, stream) = (pending.hello.flow, pending.hello.stream_seq);
        self.of_flow(&flow).all(|other| other.hello.stream_seq == stream).then_some((flow, stream))
    }

    fn numbers(&self, flow: &Flow) -> impl Iterator<Item = u64> {
        self.flows.get(flow).into_iter().flatten().copied()
    }

    fn of_flow(&self, flow: &Flow) -> impl Iterator<Item = &Pending> {
        self.numbers(flow).filter_map(|number| self.get(number))
    }

    fn of_stream(&self, flow: &Flow, stream: u32) -> impl Iterator<Item = &Pending> {
        self.of_flow(flow).filter(move |pending| pending.hello.stream_seq == stream)
    }
}
