//! The thread on the packet path: waits for the ring, for requests, for address changes, and for time to pass.

use std::{
    collections::HashSet,
    os::fd::AsFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use ipnet::IpNet;
use tracing::{debug, error, info, warn};

use super::{
    core::{Class, Core, Top},
    progress::{Part, Progress},
    wanted::Orderly,
};
use crate::{
    admin::protocol::{Fingerprint, InForce, Request, Response},
    clock::{Timestamp, monotonic},
    config::Mode,
    enforce::{automatic::Worth, handover::Handed},
    fingerprint::{Ja4, Ja4Raw},
    kernel::{
        AddressWatch, Allowed, Error, EventSource as _, KernelLog, Maps, Rings, SockDiag, Urgency, Waker,
        own_addresses, wait,
    },
    policy::browsers::Recent,
};

/// Events handled before anything else gets its turn.
const BUDGET: usize = 256;
/// Rounds of a full budget after which the ring is not emptied but flooded: a request is answered all the same, and the
/// thread waits its turn like any other.
const ROUNDS: usize = 64;
/// Rounds that empty full rings of the smallest events.
const ALL_ROUNDS: usize = 8192;
/// The same of clients whose address isn't proven: some 0.5 ms of work.
const UNCONFIRMED_BUDGET: usize = 64;
/// Rounds of a full such budget after which they are a flood, and the thread pauses between two.
const FORGED_ROUNDS: usize = 32;
/// For so long.
const PAUSE: Duration = Duration::from_millis(1);
/// How long nothing may happen before time alone is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often it is looked at while something happens.
const EXPIRY: Duration = Duration::from_millis(5);
/// Requests of a load that are dealt with before packets get their turn: some 1 ms of work.
const SLICE: usize = 128;
/// Wishes of the scoring engine that are dealt with before packets get their turn.
const WISHES: usize = 64;
/// Automatic verdicts that are told of before packets get their turn.
const TOLD: usize = 256;
/// How long a request waits for its answer.
const ANSWER: Duration = Duration::from_secs(2);

enum Command {
    /// In this order; the packets wait for all of them.
    Requests(Vec<Request>, SyncSender<Vec<Response>>),
    Raw(Ja4, SyncSender<Option<Ja4Raw>>),
    Recent(SyncSender<Recent>),
    Sweep(SyncSender<Result<usize, Error>>),
    Automatics(Option<Worth>, SyncSender<(Vec<Handed>, Option<Worth>)>),
    NeverBlock(Vec<IpNet>, SyncSender<Result<(), Error>>),
    Configure(HashSet<Ja4>, Option<Mode>, SyncSender<Result<(), Error>>),
    Publish(Top, SyncSender<(Vec<Fingerprint>, InForce)>),
    Stop,
}

/// Talks to the engine from other threads.
#[derive(Clone)]
pub(super) struct Handle {
    commands: Sender<Command>,
    waker: Waker,
}

impl Handle {
    /// Has a request answered.
    pub(super) fn request(&self, request: Request) -> Response {
        let answers = self.ask(|reply| Command::Requests(vec![request], reply));
        answers.and_then(|mut answers| answers.pop()).unwrap_or_else(|| Response::Error {
            message: "the packet path did not answer within 2 s; see the daemon's log".to_owned(),
        })
    }

    /// Has many answered, a few at a time, so that no packet waits long; until the first that is not [`Response::Changed`].
    /// Those answers, one for each request that was dealt with.
    pub(super) fn requests(&self, requests: &[Request]) -> Vec<Response> {
        let mut answers = Vec::with_capacity(requests.len());
        for slice in requests.chunks(SLICE) {
            let Some(answered) = self.ask(|reply| Command::Requests(slice.to_vec(), reply)) else {
                let message = "the packet path did not answer within 2 s; see the daemon's log".to_owned();
                answers.push(Response::Error { message });
                return answers;
            };
            answers.extend(answered);
            if !matches!(answers.last(), Some(Response::Changed(_))) {
                return answers;
            }
        }
        answers
    }

    /// The JA4_r of a JA4, if this host knows it.
    pub(super) fn raw(&self, ja4: Ja4) -> Option<Ja4Raw> {
        self.ask(|reply| Command::Raw(ja4, reply)).flatten()
    }

    /// Makes these what is never blocked.
    pub(super) fn never_block(&self, prefixes: Vec<IpNet>) -> Result<(), Error> {
        let answer = self.ask(|reply| Command::NeverBlock(prefixes, reply));
        answer.unwrap_or_else(|| Err(Error::System("asking the packet path", "no answer in 2 s".to_owned())))
    }

    /// Makes these the configuration's rules, and that its mode, if it says another one than before.
    pub(super) fn configure(&self, deny: HashSet<Ja4>, mode: Option<Mode>) -> Result<(), Error> {
        let answer = self.ask(|reply| Command::Configure(deny, mode, reply));
        answer.unwrap_or_else(|| Err(Error::System("asking the packet path", "no answer in 2 s".to_owned())))
    }

    /// Ends what an earlier process left in force and nobody orders any more. How much.
    pub(super) fn sweep(&self) -> Result<usize, Error> {
        let answer = self.ask(Command::Sweep);
        answer.unwrap_or_else(|| Err(Error::System("asking the packet path", "no answer in 2 s".to_owned())))
    }

    /// All automatic verdicts, some at a time, so that no packet waits long. `None` if the thread doesn't answer.
    pub(super) fn automatics(&self) -> Option<Vec<Handed>> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (some, next) = self.ask(|reply| Command::Automatics(after, reply))?;
            all.extend(some);
            if next.is_none() {
                return Some(all);
            }
            after = next;
        }
    }

    /// The hellos of browsers lately.
    pub(super) fn recent(&self) -> Option<Recent> {
        self.ask(Command::Recent)
    }

    /// Brings the metrics up to date, and tells the first fingerprints and the mode. `None`: they are as they were.
    pub(super) fn publish(&self, top: Top) -> Option<(Vec<Fingerprint>, InForce)> {
        self.ask(|reply| Command::Publish(top, reply))
    }

    /// Ends the thread after what is in the ring.
    pub(super) fn stop(&self) {
        // A thread that is gone needs no stopping.
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.commands.send(command(reply)).ok()?;
        self.waker.wake();
        answer.recv_timeout(ANSWER).ok()
    }
}

/// Rings of which a whole budget was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Full {
    confirmed: bool,
    unconfirmed: bool,
}

/// What the thread owns.
pub(super) struct Engine {
    pub(super) rings: Rings,
    /// Absent where the programs are another process's.
    pub(super) log: Option<KernelLog>,
    pub(super) core: Core<Maps>,
    /// Watches this host's addresses; absent if the configuration names the protected ones.
    pub(super) addresses: Option<AddressWatch>,
    /// Absent if it is turned off, or the kernel has none.
    pub(super) sockets: Option<SockDiag>,
    /// What scoring wants.
    pub(super) orderly: Orderly,
    /// Told of each sign of life that the kernel got.
    pub(super) progress: Arc<Progress>,
}

impl Engine {
    /// Starts the thread, which `waker` wakes.
    pub(super) fn start(self, waker: Waker) -> Result<(Handle, thread::JoinHandle<()>), Error> {
        let (commands, received) = channel();
        let handle = Handle { commands, waker: waker.clone() };
        let thread = thread::Builder::new()
            .name("packet-path".to_owned())
            .spawn(move || self.run(&received, &waker))
            .map_err(|error| Error::System("starting a thread", error.to_string()))?;
        Ok((handle, thread))
    }

    fn run(mut self, commands: &Receiver<Command>, waker: &Waker) {
        let (mut urgency, allowed) = Urgency::raise();
        if allowed != Allowed::RealTime {
            info!(?allowed, "no real-time scheduling: verdicts may come late on a busy host; CAP_SYS_NICE allows it");
        }
        let (mut full_rounds, mut forged_rounds) = (0, 0);
        let (mut ticked, mut beats) = (monotonic(), self.core.beats());
        self.core.look_at_mode();
        let mut more = false;
        let mut longest = Duration::ZERO;
        loop {
            if !more && let Err(error) = self.wait(waker) {
                error!(%error, "the packet path can't wait for events; ending");
                return;
            }
            let full = self.drain();
            more = full != Full::default();
            full_rounds = if full.confirmed { full_rounds + 1 } else { 0 };
            urgency.set(full_rounds < ROUNDS);
            forged_rounds = if full.unconfirmed { forged_rounds + 1 } else { 0 };
            // Half the time of this thread at most, which nothing else can take from it: what doesn't fit into their ring
            // is lost and counted, and the others' events are waited for meanwhile.
            if forged_rounds >= FORGED_ROUNDS
                && let Err(error) = wait([self.rings.confirmed.as_fd(), waker.as_fd()], PAUSE)
            {
                error!(%error, "the packet path can't wait for events; ending");
                return;
            }
            let away = monotonic();
            for command in commands.try_iter() {
                match command {
                    // Whoever asked may have given up.
                    Command::Requests(requests, reply) => {
                        let _ = reply.send(self.requests(requests));
                    }
                    Command::Raw(ja4, reply) => {
                        let _ = reply.send(self.core.raw(ja4));
                    }
                    Command::Recent(reply) => {
                        let _ = reply.send(self.core.recent());
                    }
                    Command::Sweep(reply) => {
                        let _ = reply.send(self.core.sweep());
                    }
                    Command::Automatics(after, reply) => {
                        let _ = reply.send(self.core.automatics(after, TOLD));
                    }
                    Command::NeverBlock(prefixes, reply) => {
                        let _ = reply.send(self.core.never_block(prefixes));
                    }
                    Command::Configure(deny, mode, reply) => {
                        let _ = reply.send(self.core.configure(&deny, mode));
                    }
                    Command::Publish(top, reply) => {
                        // What the kernel counted as submitted is to be found among the received.
                        self.drain_all();
                        self.core.publish(longest);
                        self.core.look_at_mode();
                        let _ = reply.send((self.core.top(top), self.core.mode()));
                    }
                    Command::Stop => {
                        self.drain_all();
                        self.core.publish(longest);
                        return;
                    }
                }
            }
            let Self { orderly, core, .. } = &mut self;
            for wanted in orderly.take(WISHES) {
                core.want(wanted);
                more = true;
            }
            more |= self.tick(&mut ticked);
            if std::mem::replace(&mut beats, self.core.beats()) != self.core.beats() {
                self.progress.made(Part::PacketPath);
            }
            longest = longest.max(monotonic().since(away));
        }
    }

    /// Until the first that isn't done.
    fn requests(&mut self, requests: Vec<Request>) -> Vec<Response> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = self.core.request(request);
            let done = matches!(answer, Response::Changed(_));
            answers.push(answer);
            if !done {
                break;
            }
        }
        answers
    }

    /// Which rings may hold more.
    fn drain(&mut self) -> Full {
        let Self { rings, core, .. } = self;
        // Clients whose address is proven come first; of the others a few, so that even under a flood of confirmed
        // ones they are seen, and none while there are many.
        let confirmed = rings.confirmed.drain(BUDGET, &mut |event| core.event(event, Class::Confirmed));
        core.behind(confirmed == BUDGET);
        let room = if confirmed == BUDGET { UNCONFIRMED_BUDGET / 4 } else { UNCONFIRMED_BUDGET };
        let unconfirmed = rings.unconfirmed.drain(room, &mut |event| core.event(event, Class::Unconfirmed));
        Full { confirmed: confirmed == BUDGET, unconfirmed: unconfirmed == room }
    }

    fn drain_all(&mut self) {
        // Everything that is in the rings now; what comes meanwhile may go on for ever.
        for _ in 0..ALL_ROUNDS {
            if self.drain() == Full::default() {
                return;
            }
        }
    }

    fn wait(&mut self, waker: &Waker) -> Result<(), Error> {
        let watch = self.addresses.as_ref().map_or_else(|| waker.as_fd(), |watch| watch.as_fd());
        let log = self.log.as_ref().map_or_else(|| waker.as_fd(), |log| log.as_fd());
        let [_, _, woken, logged, changed] = {
            let Rings { confirmed, unconfirmed } = &self.rings;
            wait([confirmed.as_fd(), unconfirmed.as_fd(), waker.as_fd(), log, watch], TICK)?
        };
        if woken {
            waker.clear();
        }
        if logged && let Some(log) = &mut self.log {
            log.flush();
        }
        if changed && let Some(watch) = &self.addresses {
            watch.clear();
            self.read_addresses();
        }
        Ok(())
    }

    fn read_addresses(&mut self) {
        let changed = own_addresses().and_then(|addresses| self.core.maps().protect_addresses(addresses));
        match changed {
            Ok(true) => info!("this host's addresses changed; the new ones are protected"),
            Ok(false) => debug!("this host's addresses are as they were"),
            Err(error) => warn!(%error, "this host's addresses changed and could not be read; the old ones stay"),
        }
    }

    /// Whether time has brought about more than was done now.
    fn tick(&mut self, ticked: &mut Timestamp) -> bool {
        let now = monotonic();
        if now.since(*ticked) < EXPIRY {
            return false;
        }
        let mut more = self.core.tick();
        self.core.look_at_mode();
        if let Some(sockets) = &mut self.sockets {
            more |= self.core.ask(sockets);
        }
        if !more {
            *ticked = now;
        }
        more
    }
}
