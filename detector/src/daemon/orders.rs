//! What operators order: a request in; checked, put in force, written to the disk, answered. None of it happens on the
//! thread of the packet path but the entries themselves, a few at a time.
//!
//! One change at a time: the order of changes on disk is that in the kernel. Memory: each order once, as the store keeps
//! it.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{
    engine::Handle,
    requests::{Force, Requests},
    suspects::Suspects,
};
use crate::{
    admin::{
        control::Peer,
        protocol::{Care, Change, Changed, Item, List, Load, Loaded, Request, Response},
        ssh,
    },
    clock::{Timestamp, monotonic},
    config::{Config, DEFAULT_CONTROL_SOCKET, Limits},
    enforce::store::{Kept, Now, Order, Store},
    fingerprint::Ja4,
    policy::{
        browsers::Targets,
        families,
        never_block::{Effect, NeverBlock, Spared, Why},
        subject::Subject,
        terms::{Layer, Measure, Terms},
        ttl::Ttl,
    },
    telemetry::{Metrics, enforce::VerdictKind},
};

/// Where operators' SSH sessions came from that are remembered.
const CALLERS: usize = 64;
/// For how long after their last command.
const CALLER_AGE: Duration = Duration::from_secs(86_400);
/// Stored JA4 values without a JA4_r that are looked up in a second.
const LOOKED_UP: usize = 64;
/// Reasons, names and lines that one answer spells out.
const TOLD: usize = 5;

/// Kept under the list and the subject in its short form: two orders about one thing are one.
impl Order for Request {
    fn key(&self) -> String {
        let subject = self.subject().cloned().map(Subject::short);
        format!("{} {}", self.verb(), subject.map(|subject| subject.to_string()).unwrap_or_default())
    }
}

/// Entries that take themselves back unless they are confirmed.
struct Unconfirmed {
    deadline: Timestamp,
    orders: Vec<Kept<Request>>,
}

struct State {
    store: Store<Request>,
    unconfirmed: Vec<Unconfirmed>,
    /// What the host tells, and the configuration.
    spared: Vec<Spared>,
    /// Latest last.
    callers: VecDeque<(IpAddr, Timestamp)>,
    never_block: NeverBlock,
    /// The kernel knows it.
    published: bool,
    /// The last try to write failed.
    unwritten: bool,
    /// How many stored JA4 values were looked up that had no JA4_r.
    looked_up: usize,
}

/// Deals with what operators order.
pub(super) struct Orders {
    engine: Handle,
    force: Force,
    suspects: Suspects,
    metrics: Arc<Metrics>,
    limits: Limits,
    /// Percent; from 100 on nothing is.
    max_browser_percent: AtomicU32,
    state: Mutex<State>,
}

/// What an operator doesn't get.
struct Refusal {
    /// The metric's.
    label: &'static str,
    response: Box<Response>,
}

fn refuse(label: &'static str, reason: String, hint: &str) -> Refusal {
    Refusal { label, response: Box::new(Response::Refused { reason, hint: hint.to_owned() }) }
}

impl Orders {
    /// Reads what was ordered before, and puts it in force again.
    pub(super) fn open(
        config: &Config,
        (engine, requests): (Handle, Arc<Requests>),
        suspects: Suspects,
        metrics: Arc<Metrics>,
        spared: Vec<Spared>,
    ) -> Self {
        let directory = state_directory(config);
        let now = Now::read();
        // Of orders that can't be read, what the kernel still has of them holds.
        let all;
        let store = match Store::open(&directory, now) {
            Ok((store, found)) => {
                all = found.damaged == 0;
                metrics.enforce.orders_damaged.set(found.damaged as u64);
                if let Some(aside) = found.aside {
                    let (damaged, kept) = (found.damaged, aside.display());
                    error!(damaged, %kept, "stored orders were damaged; those that could be read hold: `detector list`");
                }
                store
            }
            Err(error) => {
                all = false;
                error!(%error, "operators' orders are not kept over a restart; put that right and restart detector");
                Store::without_disk(error.to_string())
            }
        };
        let state = State {
            store,
            unconfirmed: Vec::new(),
            spared: Vec::new(),
            callers: VecDeque::new(),
            never_block: NeverBlock::default(),
            published: true,
            unwritten: false,
            looked_up: 0,
        };
        let orders = Self {
            force: Force::new(engine.clone(), requests),
            suspects,
            engine,
            metrics,
            limits: config.limits.clone(),
            max_browser_percent: AtomicU32::new(config.orders.max_browser_percent),
            state: Mutex::new(state),
        };
        orders.spare(spared);
        orders.rearm();
        if all {
            match orders.engine.sweep() {
                Ok(0) => {}
                Ok(verdicts) => info!(verdicts, "an earlier daemon's verdicts that nobody orders any more are ended"),
                Err(error) => warn!(%error, "an earlier daemon's verdicts may be in force that nobody orders any more"),
            }
        }
        orders
    }

    /// A block may hit so many percent of browsers' hellos from now on.
    pub(super) fn may_hit(&self, max_browser_percent: u32) {
        self.max_browser_percent.store(max_browser_percent, Ordering::Relaxed);
    }

    /// 0 to 1; above 1 nothing is refused.
    fn browser_share_max(&self) -> f64 {
        let percent = self.max_browser_percent.load(Ordering::Relaxed);
        if percent >= 100 { f64::INFINITY } else { f64::from(percent) / 100.0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rearm(&self) {
        let mut state = self.state();
        let now = Now::read();
        let requests: Vec<Request> = state.store.iter().map(|(_, kept)| request(kept, now.monotonic)).collect();
        let (mut rest, mut failed) = (requests.as_slice(), 0);
        while !rest.is_empty() {
            let answers = self.force.carry_out_all(rest);
            if let Some(Response::Refused { reason: message, .. } | Response::Error { message }) = answers.last() {
                failed += 1;
                if failed == 1 {
                    error!(message, "a stored order can't be put in force again");
                }
            }
            rest = rest.get(answers.len().max(1)..).unwrap_or_default();
        }
        if !requests.is_empty() {
            info!(orders = requests.len(), failed, "what operators ordered is in force again");
        }
        self.tend(&mut state, now);
    }

    /// To be called every second.
    pub(super) fn tick(&self) {
        let mut state = self.state();
        let now = Now::read();
        self.revert(&mut state, now.monotonic);
        self.learn(&mut state, now);
        self.tend(&mut state, now);
        self.metrics.enforce.set_verdicts(VerdictKind::Request, self.force.requests().expire());
        let callers = state.callers.len();
        state.callers.retain(|(_, seen)| now.monotonic.since(*seen) < CALLER_AGE);
        if callers != state.callers.len() || !state.published {
            self.publish_never_block(&mut state);
        }
    }

    fn tend(&self, state: &mut State, now: Now) {
        let result = state.store.tend(now);
        let failed = result.is_err();
        match result {
            Ok(()) if state.unwritten => info!("operators' orders are on the disk again"),
            Err(error) if !state.unwritten => error!(%error, "operators' orders are not on the disk; trying on"),
            _ => {}
        }
        state.unwritten = failed;
        self.metrics.resources.entries.orders.set(state.store.len() as u64);
    }

    /// Of blocked JA4 values that have been seen since, the JA4_r goes to the disk: the next start needs no first sighting.
    fn learn(&self, state: &mut State, now: Now) {
        let unknown = |kept: &&Kept<Request>| matches!(kept.order.subject(), Some(Subject::Ja4(_)));
        let waiting: Vec<&Kept<Request>> = state.store.iter().map(|(_, kept)| kept).filter(unknown).collect();
        if waiting.is_empty() {
            return;
        }
        let from = state.looked_up % waiting.len();
        let some = waiting.iter().cycle().skip(from).take(LOOKED_UP.min(waiting.len()));
        let known = some.filter_map(|kept| {
            let subject = Subject::Ja4Raw(self.engine.raw(kept.order.subject()?.as_ja4()?)?);
            let Request::Block { ttl, care, terms, .. } = kept.order.clone() else { return None };
            Some(kept.of(Request::Block { subject, ttl, care, terms }))
        });
        let known: Vec<Kept<Request>> = known.collect();
        state.looked_up = from + LOOKED_UP;
        // A failure is tried again, and told, by `tend`.
        if !known.is_empty() {
            self.write(state, |store| store.put(known, now));
        }
    }

    /// What nobody confirmed has ended by itself; what it stood in place of is put back.
    fn revert(&self, state: &mut State, now: Timestamp) {
        let (over, waiting): (Vec<_>, Vec<_>) =
            state.unconfirmed.drain(..).partition(|unconfirmed| unconfirmed.deadline <= now);
        state.unconfirmed = waiting;
        for Unconfirmed { orders, .. } in over {
            self.metrics.enforce.orders_reverted.add(orders.len() as u64);
            warn!(entries = orders.len(), "not confirmed in time: taken back");
            let before = |kept: &Kept<Request>| state.store.find(&kept.order.key(), now).map(|kept| request(kept, now));
            let before: Vec<Request> = orders.iter().filter_map(before).collect();
            self.force.carry_out_all(&before);
        }
    }

    /// Makes these what is never blocked, beside the operators' own addresses.
    pub(super) fn spare(&self, spared: Vec<Spared>) {
        let mut state = self.state();
        if state.spared != spared {
            state.spared = spared;
            self.publish_never_block(&mut state);
        }
    }

    fn publish_never_block(&self, state: &mut State) {
        let callers = state.callers.iter().map(|(address, _)| Spared { prefix: IpNet::from(*address), why: Why::Ssh });
        let never_block = NeverBlock::new(state.spared.iter().copied().chain(callers).collect());
        for why in Why::ALL {
            let count = never_block.iter().filter(|spared| spared.why == *why).count();
            self.metrics.resources.entries.never_block.set(why.label(), count as u64);
        }
        let prefixes: Vec<IpNet> = never_block.iter().map(|spared| spared.prefix).collect();
        self.force.requests().never_block(prefixes.clone());
        let result = self.engine.never_block(prefixes);
        if let Err(error) = &result
            && state.published
        {
            warn!(%error, "the kernel doesn't know all of what is never blocked; trying on");
        }
        state.published = result.is_ok();
        state.never_block = never_block;
    }

    /// Remembers where the operator's SSH session comes from.
    fn note_caller(&self, state: &mut State, care: &Care, peer: Peer) {
        let told = care.ssh_client.into_iter();
        let found = peer.pid.and_then(ssh::client_of);
        let now = monotonic();
        let mut news = false;
        for address in told.chain(found).map(|address| address.to_canonical()) {
            let before = state.callers.len();
            state.callers.retain(|(known, _)| *known != address);
            news |= state.callers.len() == before;
            state.callers.push_back((address, now));
            while state.callers.len() > CALLERS {
                state.callers.pop_front();
                news = true;
            }
        }
        if news {
            self.publish_never_block(state);
        }
    }

    /// Answers what changes something.
    pub(super) fn handle(&self, request: Request, peer: Peer) -> Response {
        let mut state = self.state();
        let state = &mut *state;
        let answered = match request {
            Request::Block { subject, ttl, care, terms } => {
                self.note_caller(state, &care, peer);
                self.block(state, subject, ttl, &care, terms)
            }
            Request::Load(load) => {
                self.note_caller(state, &load.care, peer);
                self.load(state, *load)
            }
            Request::Confirm => Ok(self.confirm(state)),
            Request::Unblock { .. } | Request::Unallow { .. } | Request::Unchallenge { .. } => {
                Ok(self.take_back(state, request))
            }
            request => Ok(self.put(state, &request, request.clone(), None)),
        };
        self.metrics.resources.entries.orders.set(state.store.len() as u64);
        answered.unwrap_or_else(|Refusal { label, response }| {
            self.metrics.enforce.orders_refused.add(label, 1);
            *response
        })
    }

    /// What operators have ordered about a client, by its address, its fingerprint or both.
    pub(super) fn about(&self, address: IpAddr, ja4: Option<Ja4>) -> Vec<Request> {
        let (state, now) = (self.state(), monotonic());
        let unconfirmed = state.unconfirmed.iter().flat_map(|unconfirmed| &unconfirmed.orders);
        let live = |kept: &&Kept<Request>| kept.until.is_none_or(|until| now < until);
        let is_it = |subject: &Subject| {
            subject.as_prefix().is_none_or(|prefix| prefix.contains(&address))
                && subject.as_ja4().is_none_or(|value| Some(value) == ja4)
        };
        let all = state.store.iter().map(|(_, kept)| kept).chain(unconfirmed).filter(live);
        let about = all.filter(|kept| kept.order.subject().is_some_and(is_it));
        about.map(|kept| request(kept, now)).collect()
    }

    /// Whether a load of so many entries may come at all.
    pub(super) fn admit(&self, load: &Load) -> Result<(), Box<Response>> {
        let room = |room: u32| usize::try_from(room).unwrap_or(usize::MAX);
        let most = match load.list {
            List::Allow => room(self.limits.allow),
            List::Block => [self.limits.addresses, self.limits.prefixes, self.limits.ja4_rules].map(room).iter().sum(),
        };
        if load.total <= most {
            return Ok(());
        }
        self.metrics.enforce.orders_refused.add("full", 1);
        let tables =
            if load.list == List::Allow { "`limits.allow`" } else { "`limits.addresses` and `limits.prefixes`" };
        let reason = format!("{} entries are more than the {most} there is room for; nothing was changed", load.total);
        let hint = format!("load fewer, or raise {tables} and restart detector");
        Err(Box::new(Response::Refused { reason, hint }))
    }

    fn block(
        &self,
        state: &mut State,
        subject: Subject,
        ttl: Ttl,
        care: &Care,
        terms: Terms,
    ) -> Result<Response, Refusal> {
        let mut notes = Vec::new();
        if let Some(prefix) = subject.as_prefix() {
            match state.never_block.effect(prefix) {
                Effect::Whole => {}
                Effect::Except(spared) => notes.push(stays_reachable(&spared)),
                Effect::Nothing(spared) => {
                    return Err(refuse("never_block", format!("{spared} is never blocked"), hint(spared.why)));
                }
            }
        }
        if terms.at == Layer::Packets && terms.measure != Measure::Observe {
            notes.extend(self.suspected(subject.as_prefix().into_iter(), care, terms.automatic)?);
        }
        if terms.measure != Measure::Observe {
            let mut targets = Targets::default();
            aim(&mut targets, &subject);
            notes.extend(self.browsers(&targets, care)?);
        }
        let order = Request::Block { subject: self.known(subject), ttl, care: Care::default(), terms };
        if terms.automatic {
            // Nobody's order: it isn't kept.
            let mut response = self.force.carry_out(order);
            note(&mut response, notes);
            return Ok(response);
        }
        let now = until_confirmed(&order, care);
        if let Some(seconds) = care.confirm_within_s {
            let within = Ttl::For(Duration::from_secs(seconds.into()));
            let then = if ttl == Ttl::Forever { ttl.to_string() } else { format!("{ttl} from now") };
            notes.push(format!("it ends in {within} unless `detector confirm` comes before; then it holds {then}"));
        }
        let mut response = self.put(state, &now, order, care.confirm_within_s);
        note(&mut response, notes);
        Ok(response)
    }

    /// The subject with its JA4_r, if this host knows that: with it the kernel needs no first sighting.
    fn known(&self, subject: Subject) -> Subject {
        match subject {
            Subject::Ja4(ja4) => {
                let shipped = families::find(ja4).map(|known| known.ja4_r.clone());
                shipped.or_else(|| self.engine.raw(ja4)).map_or(subject, Subject::Ja4Raw)
            }
            Subject::Pair(place, fingerprint) => Subject::Pair(place, Box::new(self.known(*fingerprint))),
            other => other,
        }
    }

    /// Whether one of these is an address that may be a proxy, whose packets are those of many people; and if a block of
    /// it was forced, the note about it.
    fn suspected(
        &self,
        prefixes: impl Iterator<Item = IpNet>,
        care: &Care,
        automatic: bool,
    ) -> Result<Option<String>, Refusal> {
        let Some((first, count)) = self.suspects.within(prefixes) else { return Ok(None) };
        let others = if count > 1 { format!(" (and {} more here)", count - 1) } else { String::new() };
        let what =
            format!("{first}{others} may be a proxy: programs of many kinds send from there with one fingerprint");
        if care.force && !automatic {
            return Ok(Some(what));
        }
        let hint = match automatic {
            true => "it gets no automatic verdict on its packets; block by JA4 value, or with `--at inline`",
            false => {
                "if it is one, name it in `signals.trusted_proxies` and type `detector reload`; else put `--force` to it; \
                 nothing was changed"
            }
        };
        Err(refuse("proxy_suspected", what, hint))
    }

    /// Whether these would hit too many browsers, and if that was forced, the note about it.
    fn browsers(&self, targets: &Targets, care: &Care) -> Result<Option<String>, Refusal> {
        let Some(recent) = self.engine.recent() else { return Ok(None) };
        let share = recent.share(targets).filter(|share| *share > self.browser_share_max());
        let Some(share) = share else { return Ok(None) };
        let figure = format!(
            "{:.1} % of the {} ClientHellos of browsers in the last 10 minutes",
            100.0 * share,
            recent.hellos()
        );
        if care.force {
            return Ok(Some(format!("it would have hit {figure}")));
        }
        let most = 100.0 * self.browser_share_max();
        let reason = format!("this would have hit {figure}; `enforce.max_browser_percent` is {most}");
        Err(refuse("browsers", reason, "block less, or put `--force` to it; nothing was changed"))
    }

    /// Puts `now` in force, and `order` on the disk; or has it wait to be confirmed.
    fn put(&self, state: &mut State, now: &Request, order: Request, confirm_within_s: Option<u32>) -> Response {
        let mut response = self.force.carry_out(now.clone());
        match &response {
            Response::Changed(_) if order.layer() == Layer::Inline => self.leave_packets(state, &order),
            Response::Changed(_) => {}
            Response::Refused { .. } => {
                self.metrics.enforce.orders_refused.add("full", 1);
                return response;
            }
            _ => return response,
        }
        let read = Now::read();
        let kept = Kept::new(order.clone(), lasts(&order), read.monotonic);
        forget_unconfirmed(state, &HashSet::from([order.key()]));
        let warning = match confirm_within_s {
            Some(seconds) => {
                let deadline = read.monotonic.plus(Duration::from_secs(seconds.into()));
                state.unconfirmed.push(Unconfirmed { deadline, orders: vec![kept] });
                None
            }
            None => self.write(state, |store| store.put(vec![kept], read)),
        };
        note(&mut response, warning.into_iter().collect());
        response
    }

    /// An order is about requests now: the one that it takes the place of ends, if that was about packets.
    fn leave_packets(&self, state: &State, order: &Request) {
        let (key, now) = (order.key(), monotonic());
        let stored = state.store.find(&key, now).map(|kept| &kept.order);
        let unconfirmed = state.unconfirmed.iter().flat_map(|unconfirmed| &unconfirmed.orders).map(|kept| &kept.order);
        let before = stored.into_iter().chain(unconfirmed.filter(|order| order.key() == key));
        for before in before.filter(|before| before.layer() == Layer::Packets) {
            if let Some(back) = back(before) {
                self.engine.request(back);
            }
        }
    }

    /// Writes to the disk; what to say if that fails.
    fn write<E: std::fmt::Display>(
        &self,
        state: &mut State,
        write: impl FnOnce(&mut Store<Request>) -> Result<(), E>,
    ) -> Option<String> {
        match write(&mut state.store) {
            Ok(()) => {
                self.metrics.enforce.orders_written.add(1);
                None
            }
            Err(error) => {
                self.metrics.enforce.orders_failed.add(1);
                state.unwritten = true;
                Some(format!("it is in force, but a restart would lose it: {error}"))
            }
        }
    }

    fn take_back(&self, state: &mut State, request: Request) -> Response {
        let mut response = self.force.carry_out(request.clone());
        let Some(subject) = request.subject().cloned() else { return response };
        let order = match &request {
            Request::Unallow { .. } => Request::Allow { subject, ttl: Ttl::Forever },
            Request::Unchallenge { .. } => Request::Challenge { subject, ttl: Ttl::Forever, at: Layer::default() },
            _ => block(subject, Ttl::Forever),
        };
        if matches!(response, Response::Changed(_) | Response::NotFound) {
            let key = order.key();
            forget_unconfirmed(state, &HashSet::from([key.clone()]));
            let warning = self.write(state, |store| store.remove(&[key], Now::read()));
            note(&mut response, warning.into_iter().collect());
        }
        response
    }

    fn confirm(&self, state: &mut State) -> Response {
        let now = Now::read();
        self.revert(state, now.monotonic);
        let confirmed: Vec<Kept<Request>> =
            state.unconfirmed.drain(..).flat_map(|unconfirmed| unconfirmed.orders).collect();
        if confirmed.is_empty() {
            return Response::NotFound;
        }
        let requests: Vec<Request> = confirmed.iter().map(|kept| request(kept, now.monotonic)).collect();
        let answers = self.force.carry_out_all(&requests);
        if let Some(failed @ (Response::Refused { .. } | Response::Error { .. })) = answers.last() {
            return failed.clone();
        }
        let entries = confirmed.len();
        if let Some(warning) = self.write(state, |store| store.put(confirmed, now)) {
            return Response::Error { message: warning };
        }
        Response::Confirmed { entries }
    }

    fn load(&self, state: &mut State, load: Load) -> Result<Response, Refusal> {
        let Load { list, ttl, care, skip, items, .. } = load;
        let (mut notes, mut skipped, mut targets) = (Vec::new(), Vec::new(), Targets::default());
        let mut spared_within = HashSet::new();
        // The last of two that are about one thing holds.
        let mut orders: BTreeMap<String, Request> = BTreeMap::new();
        for Item { subject, ttl: own, line } in items {
            let ttl = own.unwrap_or(ttl);
            let order = match list {
                List::Allow => Request::Allow { subject, ttl },
                List::Block => {
                    let effect = subject.as_prefix().map(|prefix| state.never_block.effect(prefix));
                    match effect {
                        Some(Effect::Nothing(spared)) => {
                            skipped.push(format!("line {line}: {spared} is never blocked"));
                            continue;
                        }
                        Some(Effect::Except(spared)) => spared_within.extend(spared),
                        Some(Effect::Whole) | None => {}
                    }
                    aim(&mut targets, &subject);
                    block(self.known(subject), ttl)
                }
            };
            orders.insert(order.key(), order);
        }
        if !skip && let Some(first) = skipped.first() {
            let more = match skipped.len() {
                1 => String::new(),
                count => format!(", and {} more lines", count - 1),
            };
            let reason = format!("{first}{more}; nothing was changed");
            return Err(refuse("never_block", reason, "take them out, or leave them out with `--skip-bad`"));
        }
        let now = Now::read();
        self.room(state, &orders)?;
        if !spared_within.is_empty() {
            let mut spared: Vec<Spared> = spared_within.into_iter().collect();
            spared.sort_unstable();
            notes.push(stays_reachable(&spared));
        }
        if list == List::Block {
            let prefixes = orders.values().filter_map(|order| order.subject()?.as_prefix());
            notes.extend(self.suspected(prefixes, &care, false)?);
        }
        notes.extend(self.browsers(&targets, &care)?);
        let requests: Vec<Request> = orders.values().map(|order| until_confirmed(order, &care)).collect();
        let answers = self.force.carry_out_all(&requests);
        if let Some(failed) = answers.last().filter(|answer| !matches!(answer, Response::Changed(_))) {
            self.undo(state, requests.get(..answers.len()).unwrap_or_default(), now.monotonic);
            return Err(Refusal { label: "full", response: Box::new(failed.clone()) });
        }
        let new = orders.keys().filter(|key| state.store.find(key, now.monotonic).is_none()).count();
        forget_unconfirmed(state, &orders.keys().cloned().collect());
        let entries = orders.len();
        let kept = |order: Request| Kept::new(order.clone(), lasts(&order), now.monotonic);
        let kept: Vec<Kept<Request>> = orders.into_values().map(kept).collect();
        match care.confirm_within_s {
            Some(seconds) => {
                let deadline = now.monotonic.plus(Duration::from_secs(seconds.into()));
                state.unconfirmed.push(Unconfirmed { deadline, orders: kept });
                let within = Ttl::For(Duration::from_secs(seconds.into()));
                notes.push(format!("they end in {within} unless `detector confirm` comes before"));
            }
            None => notes.extend(self.write(state, |store| store.put(kept, Now::read()))),
        }
        let action = if list == List::Allow { Change::Allowed } else { Change::Blocked };
        let skipped_total = skipped.len();
        skipped.truncate(TOLD);
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        Ok(Response::Loaded(Loaded { action, entries, new, skipped, skipped_total, note }))
    }

    /// Whether the tables take these. The kernel would say so, too; but only in the middle of the load.
    fn room(&self, state: &State, orders: &BTreeMap<String, Request>) -> Result<(), Refusal> {
        let table = |request: &Request| match (request, request.subject()) {
            (Request::Allow { .. }, _) => 2,
            (_, Some(Subject::Address(_))) => 0,
            (_, Some(Subject::Prefix(_))) => 1,
            _ => 3,
        };
        let tables = [
            ("addresses", self.limits.addresses),
            ("prefixes", self.limits.prefixes),
            ("allow", self.limits.allow),
            ("ja4_rules", self.limits.ja4_rules),
        ];
        let mut wanted = [0_u64; 4];
        let there = state.store.iter().filter(|(key, _)| !orders.contains_key(*key)).map(|(_, kept)| &kept.order);
        for order in there.chain(orders.values()) {
            if let Some(count) = wanted.get_mut(table(order)) {
                *count += 1;
            }
        }
        for ((name, limit), wanted) in tables.into_iter().zip(wanted) {
            if wanted > u64::from(limit) {
                let reason = format!("with these there would be {wanted} entries, and `limits.{name}` is {limit}");
                let hint = format!("nothing was changed; load fewer, or raise `limits.{name}` and restart detector");
                return Err(refuse("full", reason, &hint));
            }
        }
        Ok(())
    }

    /// Takes back what was put in force of a load that failed in its middle.
    fn undo(&self, state: &State, requests: &[Request], now: Timestamp) {
        for done in requests {
            let before = state.store.find(&done.key(), now).map(|kept| request(kept, now));
            if let Some(back) = before.or_else(|| back(done)) {
                self.force.carry_out(back);
            }
        }
    }
}

/// What puts a kept order in force for the time it has left.
fn request(kept: &Kept<Request>, now: Timestamp) -> Request {
    let left = kept.until.map_or(Ttl::Forever, |until| Ttl::For(until.since(now)));
    match kept.order.clone() {
        Request::Block { subject, care, terms, .. } => Request::Block { subject, ttl: left, care, terms },
        Request::Allow { subject, .. } => Request::Allow { subject, ttl: left },
        Request::Challenge { subject, at, .. } => Request::Challenge { subject, ttl: left, at },
        other => other,
    }
}

/// What takes an order back.
fn back(order: &Request) -> Option<Request> {
    let subject = order.subject()?.clone();
    Some(match order {
        Request::Allow { .. } => Request::Unallow { subject },
        Request::Challenge { .. } => Request::Unchallenge { subject },
        _ => Request::Unblock { subject },
    })
}

/// A plain one.
fn block(subject: Subject, ttl: Ttl) -> Request {
    Request::Block { subject, ttl, care: Care::default(), terms: Terms::default() }
}

fn lasts(order: &Request) -> Option<Duration> {
    match order {
        Request::Block { ttl: Ttl::For(lasts), .. }
        | Request::Allow { ttl: Ttl::For(lasts), .. }
        | Request::Challenge { ttl: Ttl::For(lasts), .. } => Some(*lasts),
        _ => None,
    }
}

/// What is put in force of an order: with `--commit-confirm`, the kernel itself ends it.
fn until_confirmed(order: &Request, care: &Care) -> Request {
    let mut order = order.clone();
    if let (Some(seconds), Request::Block { ttl, .. } | Request::Allow { ttl, .. }) =
        (care.confirm_within_s, &mut order)
    {
        let within = Duration::from_secs(seconds.into());
        *ttl = Ttl::For(if let Ttl::For(whole) = *ttl { whole.min(within) } else { within });
    }
    order
}

/// A newer order about the same thing stands in place of one that waits to be confirmed.
fn forget_unconfirmed(state: &mut State, keys: &HashSet<String>) {
    for unconfirmed in &mut state.unconfirmed {
        unconfirmed.orders.retain(|kept| !keys.contains(&kept.order.key()));
    }
    state.unconfirmed.retain(|unconfirmed| !unconfirmed.orders.is_empty());
}

fn aim(targets: &mut Targets, subject: &Subject) {
    // A fingerprint from one place is never a crowd's.
    if matches!(subject, Subject::Pair(..)) {
        return;
    }
    if let Some(ja4) = subject.as_ja4() {
        targets.add_ja4(ja4);
    }
    if let Some(prefix) = subject.as_prefix() {
        targets.add_prefix(prefix);
    }
}

fn stays_reachable(spared: &[Spared]) -> String {
    let told: Vec<String> = spared.iter().take(TOLD).map(ToString::to_string).collect();
    let more = match spared.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("never blocked in it: {}{more}", told.join(", "))
}

fn hint(why: Why) -> &'static str {
    match why {
        Why::Configured => "take it out of `enforce.never_block` and type `detector reload`, if that is meant",
        Why::Proxy => {
            "its clients' requests can be: block their addresses with `--at inline`; or take it out of \
             `signals.trusted_proxies` and type `detector reload`"
        }
        Why::Ssh => "you would lock yourself out; block from another place, if that is meant",
        Why::Own | Why::Gateway | Why::Resolver => "the host would cut itself off",
    }
}

/// Adds notes to an answer that has a place for them.
fn note(response: &mut Response, notes: Vec<String>) {
    if let Response::Changed(Changed { note, .. }) = response {
        let all: Vec<String> = note.take().into_iter().chain(notes).collect();
        *note = (!all.is_empty()).then(|| all.join("; "));
    }
}

/// A daemon with another control socket than the default is another daemon, and shares nothing with that.
pub(super) fn state_directory(config: &Config) -> PathBuf {
    let (directory, socket) = (&config.orders.state_directory, &config.admin.control_socket);
    if socket == Path::new(DEFAULT_CONTROL_SOCKET) {
        return directory.clone();
    }
    let absolute = std::path::absolute(socket).unwrap_or_else(|_| socket.clone());
    let name: String = absolute.to_string_lossy().trim_matches('/').replace('-', "--").replace('/', "-");
    directory.join(name)
}
