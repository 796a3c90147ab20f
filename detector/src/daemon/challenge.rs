//! Challenge listeners: sockets in, from the control socket or a service manager; new connections steered to them, as long
//! as they are healthy, out.
//!
//! Each is asked for a TLS handshake twice a second, by a thread of its own, so that one that hangs delays no other and
//! nothing on the packet path. After one it counts as healthy for [`HEALTHY_NS`], which the kernel compares with its own
//! clock. Bound: `limits.challenge_listeners`.

mod check;

use std::{
    env,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use detector_common::steer::HEALTHY_NS;
use tracing::{info, warn};

use self::check::{Check, Trouble};
use crate::{
    admin::protocol::Challenger,
    broker::Opener,
    clock::{Timestamp, monotonic},
    config::Config,
    kernel::{self, Error, Listener, NotAListener, Places, Steering},
    telemetry::Metrics,
};

/// Between two checks.
const EVERY: Duration = Duration::from_millis(500);

/// What one may take.
const DEADLINE: Duration = Duration::from_millis(500);

/// Failures after one another that end the health of a listener; one that is too late ends it alone.
const FAILURES: u32 = 2;

/// The name of a listener's sockets among those that a service manager hands over.
const INHERITED: &str = "challenge";

/// What is wrong before the first check.
const UNCHECKED: &str = "not checked yet";

/// Why a socket isn't taken, and what to do next.
pub(super) type Refusal = (String, String);

/// All listeners.
#[derive(Clone)]
pub(super) struct Challengers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    check: Check,
    metrics: Arc<Metrics>,
    /// Protected.
    ports: Vec<u16>,
    most: usize,
}

struct State {
    /// Absent where the kernel takes no such program.
    steering: Option<Steering>,
    listeners: Vec<Registered>,
    next_id: u64,
}

struct Registered {
    id: u64,
    challenger: Challenger,
    places: Places,
    failures: u32,
}

/// The place of a listener: it has it until this is dropped.
pub(super) struct Held {
    shared: Arc<Shared>,
    id: u64,
    /// Closed, it ends the thread that checks.
    _stop: SyncSender<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let Some(place) = state.listeners.iter().position(|listener| listener.id == self.id) else { return };
        let gone = state.listeners.swap_remove(place);
        if let Some(steering) = &mut state.steering {
            steering.remove(&gone.places);
        }
        self.shared.publish(&state);
        let Challenger { address, pid, .. } = gone.challenger;
        info!(%address, pid, "the challenge listener is gone; nobody is steered to it");
    }
}

impl Challengers {
    /// # Errors
    /// rustls', which has none for ring.
    pub(super) fn new(
        steering: Option<Steering>,
        config: &Config,
        opener: Opener,
        metrics: Arc<Metrics>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(State { steering, listeners: Vec::new(), next_id: 0 }),
            check: Check::new(config.challenge_name.clone(), opener)?,
            metrics,
            ports: config.capture.ports.clone(),
            most: config.limits.challenge_listeners as usize,
        })))
    }

    /// Steers nobody any more.
    pub(super) fn close(&self) {
        self.0.state().steering = None;
    }

    /// Those there are.
    pub(super) fn list(&self) -> Vec<Challenger> {
        self.0.state().listeners.iter().map(|listener| listener.challenger.clone()).collect()
    }

    /// Takes the sockets that a service manager handed over: it keeps them, and the checks say whether somebody accepts.
    pub(super) fn inherit(&self, sockets: Vec<OwnedFd>) -> Vec<Held> {
        let register = |socket| match self.register(Some(socket), Vec::new(), None) {
            Ok((_, held)) => Some(held),
            Err((reason, hint)) => {
                warn!(reason, hint, "no challenge listener's socket from the service manager");
                None
            }
        };
        sockets.into_iter().filter_map(register).collect()
    }

    /// Gives a listener its place, and begins to check it. `ports`: the protected ones it is for, all if there are none.
    pub(super) fn register(
        &self,
        socket: Option<OwnedFd>,
        mut ports: Vec<u16>,
        pid: Option<i32>,
    ) -> Result<(Vec<u16>, Held), Refusal> {
        let refuse = |reason: &str, hint: &str| (reason.to_owned(), hint.to_owned());
        let Some(socket) = socket else {
            return Err(refuse("no descriptor came along", "send the listening socket as SCM_RIGHTS of the request"));
        };
        let listener = Listener::of(socket.as_fd())
            .map_err(|error: NotAListener| (error.to_string(), "see README, Challenge".to_owned()))?;
        ports.sort_unstable();
        ports.dedup();
        if let Some(port) = ports.iter().find(|port| !self.0.ports.contains(port)) {
            return Err((format!("port {port} isn't protected"), "add it to `capture.ports` and restart".to_owned()));
        }
        if ports.is_empty() {
            ports.clone_from(&self.0.ports);
        }
        let id = self.0.add(&socket, listener, &ports, pid)?;
        let (stop, stopped) = sync_channel(0);
        let held = Held { shared: Arc::clone(&self.0), id, _stop: stop };
        let (shared, at) = (Arc::clone(&self.0), listener.reachable_at());
        thread::Builder::new()
            .name("challenge-check".to_owned())
            .spawn(move || shared.watch(id, at, &stopped))
            .map_err(|error| (format!("can't start a thread: {error}"), "end other processes".to_owned()))?;
        let address = listener.address;
        info!(target: "detector::audit", %address, ?ports, pid, "challenge listener registered");
        // The socket's descriptor ends here: only the listener's own keep it open.
        Ok((ports, held))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        let healthy = state.listeners.iter().filter(|listener| listener.challenger.trouble.is_none()).count();
        self.metrics.enforce.healthy.set(healthy as u64);
        self.metrics.enforce.unhealthy.set((state.listeners.len() - healthy) as u64);
    }

    fn add(&self, socket: &OwnedFd, listener: Listener, ports: &[u16], pid: Option<i32>) -> Result<u64, Refusal> {
        let mut state = self.state();
        let State { steering, listeners, next_id } = &mut *state;
        let Some(steering) = steering else {
            let reason = "this kernel takes no program that steers; challenges only count";
            return Err((
                reason.to_owned(),
                "it needs Linux 5.9; the daemon's log says what the kernel said".to_owned(),
            ));
        };
        let full = || (Error::Full("challenge_listeners").to_string(), "see who is there: detector status".to_owned());
        if listeners.len() >= self.most {
            return Err(full());
        }
        let places = match steering.add(socket.as_fd(), listener, ports) {
            Ok(Some(places)) => places,
            Ok(None) => {
                let reason = "another challenge listener has this port already";
                return Err((reason.to_owned(), "end it first; `detector status` shows its process".to_owned()));
            }
            Err(Error::Full(_)) => return Err(full()),
            Err(error) => {
                return Err((error.to_string(), "challenges only count until a listener is taken".to_owned()));
            }
        };
        *next_id += 1;
        let id = *next_id;
        let trouble = Some(UNCHECKED.to_owned());
        let challenger = Challenger { address: listener.address, ports: ports.to_vec(), pid, trouble };
        listeners.push(Registered { id, challenger, places, failures: 0 });
        self.publish(&state);
        Ok(id)
    }

    /// Checks a listener until its place is given up.
    fn watch(&self, id: u64, at: SocketAddr, stopped: &Receiver<()>) {
        loop {
            let began = monotonic();
            let checked = self.check.handshake(at, DEADLINE);
            // Health counts from before the check: that long ago it may have been the last thing the listener did.
            self.checked(id, checked, began);
            let pause = EVERY.saturating_sub(monotonic().since(began));
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn checked(&self, id: u64, checked: Result<(), Trouble>, began: Timestamp) {
        let outcome = match &checked {
            Ok(()) => "passed",
            Err(Trouble::Late) => "late",
            Err(Trouble::Failed(_)) => "failed",
        };
        self.metrics.resources.challenges.add(outcome, 1);
        let mut state = self.state();
        let State { steering: Some(steering), listeners, .. } = &mut *state else { return };
        let Some(listener) = listeners.iter_mut().find(|listener| listener.id == id) else { return };
        let was_healthy = listener.challenger.trouble.is_none();
        let until = match checked {
            Ok(()) => {
                (listener.failures, listener.challenger.trouble) = (0, None);
                began.plus(Duration::from_nanos(HEALTHY_NS))
            }
            Err(trouble) => {
                listener.failures = listener.failures.saturating_add(1);
                if was_healthy && trouble != Trouble::Late && listener.failures < FAILURES {
                    return;
                }
                listener.challenger.trouble = Some(trouble.to_string());
                Timestamp::default()
            }
        };
        let Challenger { address, trouble, .. } = &listener.challenger;
        match (was_healthy, trouble) {
            (true, Some(trouble)) => {
                warn!(%address, trouble, "the challenge listener is not healthy; nobody is steered")
            }
            (false, None) => info!(%address, "the challenge listener is healthy"),
            _ => {}
        }
        if let Err(error) = steering.set_healthy(&listener.places, until) {
            warn!(%error, "can't say whether a challenge listener is healthy; soon nobody is steered to it");
        }
        self.publish(&state);
    }
}

/// The sockets that a service manager handed over for a challenge listener. To be called once, before anything else
/// opens descriptors.
pub(super) fn inherited() -> Vec<OwnedFd> {
    let [pid, count, names] =
        ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|variable| env::var(variable).unwrap_or_default());
    kernel::inherited(INHERITED, &pid, &count, &names)
}
