//! The only file that knows every room: bind everything, load, spawn, attach; serve until a signal; detach, drain.
//!
//! Traffic flows whenever this process doesn't: what is attached goes with it, and until it is attached nothing is
//! looked at. Unless it was pinned, by [`attach`]: then it stays, with the verdicts in force, and the next daemon takes
//! it over.

mod assessor;
mod attachments;
mod awaited;
mod budget;
mod challenge;
mod core;
mod crawlers;
mod decided;
mod engine;
mod every;
mod explain;
#[cfg(feature = "faults")]
mod faults;
mod handover;
mod histories;
mod inline;
mod joiner;
mod keeper;
mod known;
mod labels;
mod load;
mod manager;
mod memory;
mod orders;
mod output;
mod progress;
mod reload;
mod reports;
mod reputation;
mod requests;
mod shards;
pub mod signals;
mod suspects;
mod wanted;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use detector_common::counter::Counter;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use self::{
    assessor::{Assessor, Parts},
    attachments::Attachments,
    awaited::Awaited,
    budget::Budget,
    challenge::{Challengers, Held},
    core::{Core, Memory, Top},
    crawlers::Detective,
    engine::{Engine, Handle},
    histories::Histories,
    inline::Decider,
    joiner::Joiner,
    keeper::{Host, Keeper},
    known::Known,
    labels::labels,
    load::{Loaded, Start, attach_all, attach_egress, interfaces, load},
    manager::Manager,
    memory::Bounds,
    orders::{Orders, state_directory},
    progress::{Part, Progress},
    reload::{Parties, Reloader},
    reports::Recent,
    reputation::Reputation,
    requests::Requests,
    signals::Watch,
    suspects::Suspects,
};
pub use self::{load::attach, output::Format};
use crate::{
    admin::{
        control::{self, Access, Handler, Peer, Place},
        metrics::{self as metrics_server, MetricsError, MetricsListener},
        protocol::{Change, Changed, Load, Request, Response, Ring as RingStatus, Signals as SignalsStatus, Status},
    },
    broker::Opener,
    clock::{Timestamp, monotonic},
    config::{Config, Limits, Loaded as LoadedConfig, Overrides},
    connection::{self, Connections, Standing},
    door::socket::{CONTROL, DECISION, STATUS, Socket, SocketError},
    enforce::{Enforcer, handover::TakenOver},
    fingerprint::key::random_seeds,
    flow,
    inline::{self as endpoint, InlineError, Listeners, TcpDoor},
    intake::{self, Intake},
    join::{self, Proxies, Trusted},
    kernel::{self, CounterMap, Kernel, Maps, SockDiag, Steering, Waker},
    network::Network,
    pipeline::Pipeline,
    policy::terms::Layer,
    report::Report,
    telemetry::{
        Metrics,
        counters::{Count, Counters},
    },
};

/// How long open connections of the control socket and the metrics page have to finish.
const DRAIN: Duration = Duration::from_secs(1);

/// Addresses that may be proxies, of which the status tells.
const SUSPECTS_TOLD: usize = 16;

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's side.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The control socket, or the decision socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The decision endpoint's address.
    #[error(transparent)]
    Inline(#[from] InlineError),
    /// The metrics page.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The signal sockets.
    #[error(transparent)]
    Intake(#[from] intake::Error),
    /// Anything of the operating system's.
    #[error("{0}: {1}")]
    System(&'static str, String),
    /// A thread that must not end did.
    #[error("the packet path has ended; see the log above. Its programs are detached, unless they are pinned")]
    Ended,
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::System(what, error.to_string())
}

/// Answers the control socket.
struct Daemon {
    engine: Handle,
    orders: Arc<Orders>,
    requests: Arc<Requests>,
    counters: CounterMap,
    metrics: Arc<Metrics>,
    attachments: Arc<Attachments>,
    egress: bool,
    signals: Arc<Watch>,
    known: Known,
    assessor: Arc<Assessor>,
    challengers: Challengers,
    /// The places of listeners whose sockets came from the service manager.
    _inherited: Vec<Held>,
    ports: Vec<u16>,
    recent: Recent,
    suspects: Suspects,
    reloader: Reloader,
    /// Paths of the signal sockets, and how many datagrams may wait for one.
    signal_sockets: (Vec<String>, Option<u64>),
    started: Timestamp,
    progress: Arc<Progress>,
}

impl Daemon {
    fn gather(&self) -> prometheus::Result<String> {
        // The kernel first: what it has submitted by now, the engine has received by its answer.
        match self.counters.read() {
            Ok(counters) => self.metrics.kernel.set(|counter| counters.of(counter)),
            Err(error) => warn!(%error, "metrics show the kernel's counters as they were"),
        }
        if self.engine.publish(Top::Ever).is_none() {
            warn!("the packet path did not answer within 2 s; metrics show its counters as they were");
        }
        self.signals.publish();
        self.known.publish(&self.metrics);
        self.metrics.resources.entries.suspected_proxies.set(self.suspects.all(0).1 as u64);
        self.metrics.encode()
    }

    fn status(&self, top: Top) -> Response {
        let counters = match self.counters.read() {
            Ok(counters) => counters,
            Err(error) => return Response::Error { message: error.to_string() },
        };
        let Some((fingerprints, mode)) = self.engine.publish(top) else {
            return Response::Error { message: "the packet path did not answer within 2 s".to_owned() };
        };
        let micros = |share| self.metrics.enforce.latency_quantile(share).map(|latency| latency.as_micros() as u64);
        Response::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: monotonic().since(self.started).as_secs(),
            mode,
            interfaces: self.attachments.status(),
            egress: self.egress,
            ports: self.ports.clone(),
            kernel: counters.iter().map(|(counter, value)| (counter.label().to_owned(), value)).collect(),
            hellos: table(&self.metrics.hellos.outcomes),
            ignored: table(&self.metrics.hellos.ignored),
            standings: self.standings(),
            void: table(&self.metrics.hellos.void),
            ring: RingStatus {
                submitted: counters.of(Counter::SubmittedConfirmed) + counters.of(Counter::SubmittedUnconfirmed),
                received: self.metrics.kernel.received.iter().map(Count::value).sum(),
                lost_confirmed: counters.of(Counter::LostConfirmed),
                lost_unconfirmed: counters.of(Counter::LostUnconfirmed),
            },
            challengers: self.challengers.list(),
            signals: self.signals_status(),
            entries: self.metrics.enforce.verdict_counts(),
            fingerprints,
            enforce_p50_us: micros(0.5),
            enforce_p99_us: micros(0.99),
            enforce_us: self.metrics.enforce.latencies(),
        }))
    }
}

impl Daemon {
    /// Complete hellos by what is known of their client's address.
    fn standings(&self) -> BTreeMap<String, u64> {
        let hellos = &self.metrics.hellos;
        let counts = [hellos.confirmed.sum(), hellos.pending_expired.value(), hellos.unconfirmed.value()];
        Standing::LABELS.map(str::to_owned).into_iter().zip(counts).collect()
    }

    fn signals_status(&self) -> SignalsStatus {
        let (sockets, queue) = self.signal_sockets.clone();
        let now = monotonic();
        self.known.publish(&self.metrics);
        let (suspected, suspected_total) = self.suspects.all(SUSPECTS_TOLD);
        SignalsStatus {
            sockets,
            queue,
            reports: self.metrics.requests.reports.value(),
            last_report_s: self.recent.last().map(|last| now.since(last).as_secs()),
            rejected: table(&self.metrics.requests.rejected),
            refused: table(&self.metrics.requests.refused),
            fields: table(&self.metrics.requests.fields),
            lost_estimate: self.metrics.requests.lost.value(),
            joined: table(&self.metrics.requests.joined),
            suspected,
            suspected_total,
        }
    }
}

fn table(rows: &Counters) -> BTreeMap<String, u64> {
    rows.rows().map(|(label, value)| (label.to_owned(), value)).collect()
}

impl Handler for Daemon {
    fn handle(&self, request: Request, peer: Peer) -> Response {
        match request {
            Request::Status => self.status(Top::Ever),
            Request::Top => self.status(Top::Lately),
            Request::Reports { after } => Response::Reports { reports: self.recent.after(after) },
            Request::Signals { ja4 } => self.signals.answer(ja4, monotonic()),
            Request::Explain { of } => explain::answer(&self.assessor, &self.orders, &of),
            Request::List { skip } => self.requests.list(self.engine.request(request), skip),
            Request::Mode { .. } => self.engine.request(request),
            Request::Config { skip } => Response::Settings(self.reloader.settings(skip)),
            Request::Reload => Response::Reloaded(self.reloader.reload()),
            Request::Log { filter } => reload::log(filter),
            change => {
                let layer = change.layer();
                let mut response = self.orders.handle(change, peer);
                if layer == Layer::Packets
                    && let Response::Changed(Changed { action: Change::Challenged, note, .. }) = &mut response
                    && !self.challengers.list().iter().any(|listener| listener.trouble.is_none())
                {
                    // Beside what is noted already: that it isn't on the disk, say.
                    let unhealthy = "no challenge listener is healthy: until one is, this only counts".to_owned();
                    *note = Some([unhealthy].into_iter().chain(note.take()).collect::<Vec<_>>().join("; "));
                }
                response
            }
        }
    }

    fn listen(&self, socket: Option<OwnedFd>, ports: Vec<u16>, peer: Peer) -> (Response, Option<Place>) {
        match self.challengers.register(socket, ports, peer.pid) {
            Ok((ports, place)) => (Response::Listening { ports }, Some(Box::new(place))),
            Err((reason, hint)) => (Response::Refused { reason, hint }, None),
        }
    }

    fn accepts(&self) {
        self.progress.made(Part::Control);
    }

    fn admit(&self, load: &Load) -> Result<(), Box<Response>> {
        self.orders.admit(load)
    }
}

/// Where this host's sockets are asked for. `None`, and a line in the log, if the kernel doesn't answer.
fn open_sockets() -> Option<SockDiag> {
    SockDiag::open().map_err(|error| warn!(%error, "no proof of address by sock_diag; the others remain")).ok()
}

/// What steers to challenge listeners. `None`, and a line in the log, if the kernel takes no such program.
fn load_steering(kernel: &mut Kernel) -> Option<Steering> {
    kernel.steering().map_err(|error| warn!(%error, "no steering to challenge listeners; challenges only count")).ok()
}

fn flow_limits(limits: &Limits) -> flow::Limits {
    flow::Limits {
        partial_hellos: limits.partial_hellos as usize,
        partials_per_source: limits.partials_per_source as usize,
        partial_bytes: usize::try_from(limits.partial_bytes).unwrap_or(usize::MAX),
        bytes_per_flow: limits.bytes_per_flow as usize,
        segments_per_flow: limits.segments_per_flow,
        holes_per_flow: limits.holes_per_flow as usize,
        partial_age: limits.partial_age,
        finished_flows: limits.finished_flows as usize,
    }
}

/// How many hellos [`Connections::overdue`] may name at once.
fn asks(per_second: u32) -> usize {
    (connection::ASK_EVERY * per_second).as_secs() as usize
}

/// Makes the most of what the system allows: a service begins with 1024 descriptors, fewer than web servers' connections
/// may take, and without one nobody is let in.
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "no more file descriptors than at the start");
    }
}

/// Runs until SIGINT or SIGTERM. `overrides`: by which `loaded` was read, and is read again.
///
/// # Errors
/// If it can't start, or the packet path ends.
pub fn run(loaded: LoadedConfig, overrides: Overrides, format: Format) -> Result<(), Error> {
    raise_descriptors();
    let config = &loaded.config.clone();
    let limits = &config.limits;
    let start = Start::of(config)?;
    let pinned = start.pins().is_some();
    let interfaces = interfaces(config, start.pins())?;
    let inherited = challenge::inherited();
    let opener = Opener::from_environment();
    let admin = &config.admin;
    let control = [
        (Socket::listener(CONTROL, &admin.control_socket, &admin.control_group)?, Access::Write),
        (Socket::listener(STATUS, &admin.status_socket, &admin.status_group)?, Access::Read),
    ];
    let page = config
        .admin
        .metrics
        .map(|address| Awaited::bind(&opener, move |opener| MetricsListener::bind(opener, address)));
    let page = page.transpose()?;
    let intake = Intake::bind(&config.signals)?;
    let decision =
        config.inline.socket.as_ref().map(|path| Socket::listener(DECISION, path, &config.inline.group)).transpose()?;
    let decision_door =
        config.inline.listen.map(|address| Awaited::bind(&opener, move |opener| TcpDoor::bind(opener, address)));
    let decision_door = decision_door.transpose()?;
    let Loaded { mut kernel, mut enforcer, rings, counters, log, watch, seeds } = load(config, start)?;

    let metrics =
        Metrics::new(config.mode, labels()).map_err(|error| Error::System("making the metrics", error.to_string()))?;
    let metrics = Arc::new(metrics);
    let (lines, written) = sync_channel(limits.events as usize);
    let writer_metrics = Arc::clone(&metrics);
    let writer = thread::Builder::new()
        .name("hello-lines".to_owned())
        .spawn(move || output::write(&written, format, &writer_metrics))
        .map_err(system("starting a thread"))?;
    kernel.replace()?;
    // Before the XDP program, so that no hello is seen whose SYN-ACK wasn't.
    let egress = attach_egress(&mut kernel, config.capture.egress, &interfaces)?;
    let sockets = if config.capture.sock_diag { open_sockets() } else { None };
    let connections = Connections::new(connection::Limits {
        pending: limits.pending_hellos as usize,
        answers: egress && config.capture.answers,
        asks: if sockets.is_some() { asks(limits.sock_diag_per_second) } else { 0 },
        ..connection::Limits::default()
    });
    let fingerprints = NonZeroUsize::new(limits.fingerprints as usize).unwrap_or(NonZeroUsize::MIN);
    let pipeline = Pipeline::seeded(flow_limits(limits), seeds);
    let memory = Memory { fingerprints, browser_hellos: limits.browser_hellos as usize };
    let known_limits = join::Limits { connections: limits.known_connections as usize, ..join::Limits::default() };
    let signals =
        Watch::open(&config.orders.state_directory, limits.signal_fingerprints as usize, Arc::clone(&metrics));
    let signals = Arc::new(signals);
    let trusted = Trusted::new(config.signals.trusted_proxies.iter().copied());
    let recent = Recent::new(config.signals.recent);
    let candidates = limits.proxy_candidates as usize;
    let suspects = Suspects::new(candidates);
    let requests = Arc::new(Requests::new(limits.request_verdicts as usize));
    let (reputation, librarian) = Reputation::start(config, Arc::clone(&metrics))?;
    let waker = Waker::new()?;
    let (wishes, orderly) = wanted::queue(limits.verdict_queue as usize, waker.clone(), Arc::clone(&metrics));
    let enforcing = Arc::default();
    let assessor = Assessor::new(Parts {
        settings: &config.engine,
        network: Network::new(limits.network()),
        reputation: reputation.clone(),
        requests: Arc::clone(&requests),
        wishes,
        enforcing: Arc::clone(&enforcing),
        bounds: Bounds {
            held: limits.held_decisions as usize,
            remembered: limits.assessments as usize,
            prefixes: limits.network_addresses as usize,
        },
        budget: Budget::per_second(limits.assessed_per_second),
        daemon: random_seeds().rest,
        metrics: Arc::clone(&metrics),
    });
    let assessor = Arc::new(assessor);
    let state = state_directory(config);
    if pinned {
        take_over(handover::read(&state, monotonic()), &mut enforcer, &assessor)?;
    }
    let proxies = Proxies::new(trusted.clone()).watching(candidates);
    let apart = proxies.apart().clone();
    let joiner = Joiner::new(
        join::Bounds { waiting: limits.waiting_reports as usize, ..join::Bounds::default() },
        proxies,
        Histories::new(limits.session(), config.engine.paths.clone()),
        Arc::clone(&signals),
        recent.clone(),
        suspects.clone(),
        Some(Arc::clone(&assessor)),
    );
    let progress = Arc::new(Progress::default());
    let alive = |part| {
        let progress = Arc::clone(&progress);
        move || progress.made(part)
    };
    let (queue, own) = (limits.known_queue as usize, Arc::clone(&metrics));
    let (known, teller) =
        Known::start(known_limits, queue, joiner, own, alive(Part::Joiner)).map_err(system("starting a thread"))?;
    let core = Core::new(pipeline, connections, enforcer, Arc::clone(&metrics), (lines, teller, enforcing), &memory);
    let (engine, packet_path) =
        Engine { rings, log, core, addresses: watch, sockets, orderly, progress: Arc::clone(&progress) }
            .start(waker)?;
    let handover = pinned.then(|| handover::start(&state, engine.clone(), Arc::clone(&assessor))).transpose()?;
    // What operators ordered is in force before the first packet.
    let host = Host::read(config);
    let force = (engine.clone(), Arc::clone(&requests));
    let orders = Orders::open(config, force, suspects.clone(), Arc::clone(&metrics), host.spared());
    let orders = Arc::new(orders);
    let trusted = Arc::new(ArcSwap::from_pointee(trusted));
    let decider = Decider {
        asked: Arc::default(),
        requests: Arc::clone(&requests),
        known: known.clone(),
        trusted: Arc::clone(&trusted),
        apart,
        suspects: suspects.clone(),
        assessor: Arc::clone(&assessor),
        metrics: Arc::clone(&metrics),
    };
    let challengers = Challengers::new(load_steering(&mut kernel), config, opener.clone(), Arc::clone(&metrics))
        .map_err(|error| Error::System("preparing TLS", error.to_string()))?;
    let inherited = challengers.inherit(inherited);
    let attached = attach_all(&mut kernel, config.capture.xdp_mode, &interfaces)?;
    let program = kernel.program_id()?;
    let attachments = Attachments::new(attached, program, &config.admin.control_socket, Arc::clone(&metrics));
    let attachments = Arc::new(attachments);
    let keeper = Keeper::start(host, (Arc::clone(&orders), Arc::clone(&attachments)), Arc::clone(&progress))?;
    let (mut keep, teller) = (recent.keeper(), known.clone());
    let take = move |report: &Report<'_>, peer, arrived| {
        let number = keep(report, peer, arrived);
        teller.report(report, arrived, number);
    };
    let reports = intake.start(Arc::clone(&metrics), take, alive(Part::Reports))?;
    let paths = config.signals.sockets.iter().chain(&config.signals.streams).map(|path| path.display().to_string());
    let saver = signals::start_saving(Arc::clone(&signals))?;
    let parties = Parties {
        engine: engine.clone(),
        assessor: Arc::clone(&assessor),
        known: known.clone(),
        trusted,
        orders: Arc::clone(&orders),
        keeper: keeper.handle(),
        librarian: librarian.handle(),
        metrics: Arc::clone(&metrics),
    };
    let daemon = Arc::new(Daemon {
        reloader: Reloader::new(loaded, overrides, parties),
        engine: engine.clone(),
        orders,
        requests,
        counters,
        metrics,
        attachments,
        egress,
        signals,
        known,
        assessor,
        challengers,
        _inherited: inherited,
        ports: config.capture.ports.clone(),
        recent,
        suspects,
        signal_sockets: (paths.collect(), intake::queue_length()),
        started: monotonic(),
        progress,
    });
    let inline = Inline {
        socket: decision,
        door: decision_door,
        decider,
        sites: sites(config),
        limits: endpoint::Limits { connections: limits.inline_connections as usize },
    };
    let resolv_conf = config.orders.resolv_conf.clone();
    let detective = Detective::new(reputation, resolv_conf, opener, config.reputation.dns_per_second);
    let result = serve(control, page, inline, detective, &daemon, packet_path);
    drop(reports);
    // Detached first, unless it is pinned: nothing is steered or dropped any more, and the ring gets its last event.
    daemon.challengers.close();
    drop(kernel);
    keeper.stop();
    saver.stop();
    if let Some(handover) = handover {
        handover.stop();
    }
    librarian.stop();
    engine.stop();
    drop((engine, daemon));
    let packet_path = result?;
    if let Some(thread) = packet_path {
        let _ = thread.join();
        let _ = writer.join();
    }
    if pinned {
        info!("stopped; the programs stay attached, until `detector detach`");
    } else {
        info!("detached; stopped");
    }
    Ok(())
}

/// What an earlier daemon left in force holds on, as far as it said what that is; the rest ends.
fn take_over(left: handover::Left, enforcer: &mut Enforcer<Maps>, assessor: &Assessor) -> Result<(), Error> {
    let handover::Left { verdicts, decisions } = left;
    let TakenOver { kept, ended } = enforcer.take_over(verdicts, monotonic())?;
    let mut decisions = decisions;
    decisions.retain(|decided| enforcer.action(&decided.target.slot()).is_some());
    if kept > 0 || ended > 0 {
        let explained = decisions.len();
        info!(kept, explained, ended, "automatic verdicts of an earlier daemon");
    }
    assessor.take_over(decisions);
    Ok(())
}

/// The statuses that sites want for challenges.
fn sites(config: &Config) -> endpoint::Sites {
    let status = |(site, status): (&String, &u16)| Some((site.clone(), hyper::StatusCode::from_u16(*status).ok()?));
    config.inline.challenge_status.iter().filter_map(status).collect()
}

/// The decision endpoint, before it is served.
struct Inline {
    socket: Option<Socket<UnixListener>>,
    door: Option<Awaited<TcpDoor>>,
    decider: Decider,
    sites: endpoint::Sites,
    limits: endpoint::Limits,
}

/// Serves until a signal comes, or the packet path's thread ends. Returns that thread.
fn serve(
    control: [(Socket<UnixListener>, Access); 2],
    page: Option<Awaited<MetricsListener>>,
    inline: Inline,
    detective: Option<Detective>,
    daemon: &Arc<Daemon>,
    packet_path: thread::JoinHandle<()>,
) -> Result<Option<thread::JoinHandle<()>>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(kernel::answer_soon)
        .on_thread_park(inline::between_questions(Arc::clone(&inline.decider.asked)))
        .enable_all()
        .build()
        .map_err(system("starting the runtime"))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("waiting for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("waiting for SIGINT"))?;
        let mut hangup = signal(SignalKind::hangup()).map_err(system("waiting for SIGHUP"))?;
        let (ended, mut has_ended) = oneshot::channel();
        // A thread of its own, since joining blocks and the runtime must be able to end without it.
        let watcher = thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                let _ = packet_path.join();
                // Nobody listens any more when the daemon is stopping.
                let _ = ended.send(());
            })
            .map_err(system("starting a thread"))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        spawn(&tasks, &stop, control, page, daemon);
        spawn_inline(&tasks, &stop, inline);
        if let Some(detective) = detective {
            tasks.spawn(detective.run(stop.clone()));
        }
        for attached in daemon.attachments.all() {
            info!(interface = %attached.interface, mode = attached.mode.label(), "attached");
        }
        let manager = Manager::ready(daemon.attachments.all(), Arc::clone(&daemon.progress))
            .map_err(system("starting a thread"))?;
        info!("ready");
        let result = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(Some(watcher)),
                _ = interrupt.recv() => break Ok(Some(watcher)),
                _ = &mut has_ended => break Err(Error::Ended),
                _ = hangup.recv() => {
                    let daemon = Arc::clone(daemon);
                    tasks.spawn_blocking(move || daemon.reloader.reload());
                }
            }
        };
        manager.stopping();
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!("connections of the control socket, the metrics page or web servers were still open; closed");
        }
        result
    })
}

fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    control: [(Socket<UnixListener>, Access); 2],
    page: Option<Awaited<MetricsListener>>,
    daemon: &Arc<Daemon>,
) {
    for socket in control {
        let (handler, token) = (Arc::clone(daemon), stop.clone());
        let ended = daemon.metrics.resources.control.clone();
        tasks.spawn(async move {
            if let Err(error) = control::serve(socket, handler, ended, token).await {
                error!(%error, "the control or the status socket is closed; restart detector to have it back");
            }
        });
    }
    if let Some(page) = page {
        let (daemon, token) = (Arc::clone(daemon), stop.clone());
        let ended = daemon.metrics.resources.page.clone();
        tasks.spawn(async move {
            let Some(page) = token.run_until_cancelled(page.listener()).await else { return };
            if let Err(error) = metrics_server::serve(page, move || daemon.gather(), ended, token).await {
                error!(%error, "the metrics page is closed; restart detector to have it back");
            }
        });
    }
}

fn spawn_inline(tasks: &TaskTracker, stop: &CancellationToken, inline: Inline) {
    let Inline { socket, door, decider, sites, limits } = inline;
    if socket.is_none() && door.is_none() {
        return;
    }
    let stop = stop.clone();
    tasks.spawn(async move {
        let served = async {
            let unix = socket.as_ref().map(|socket| socket.socket().try_clone()).transpose()?;
            let tcp = door.map(|door| Box::pin(door.listener()) as endpoint::Coming);
            endpoint::serve(Listeners { unix, tcp }, decider, sites, limits, stop).await
        };
        if let Err(error) = served.await {
            error!(%error, "web servers can't ask any more; restart detector to have that back");
        }
    });
}
