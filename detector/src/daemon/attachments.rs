//! Whether the program is still on its interfaces: one that was made anew has none, and its packets pass unlooked at. In:
//! the interfaces as they were attached. Out: a metric, lines in the log, and a request to attach again where this process
//! may not: a file beside the control socket, for which the unit detector-loader.path waits.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    admin::protocol::Interface,
    clock::{Timestamp, monotonic},
    kernel::{Attached, interface, may_load},
    telemetry::Metrics,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Between two requests: what was asked for takes some seconds.
const ASK: Duration = Duration::from_secs(10);
/// The request.
const REQUEST: &str = "attach-wanted";

/// The interfaces that are watched.
pub(super) struct Attachments {
    attached: Vec<Attached>,
    /// The kernel's number of the program.
    program: u32,
    /// Absent where nobody waits for it.
    request: Option<PathBuf>,
    seen: Mutex<Seen>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Seen {
    looked: Option<Timestamp>,
    /// Interfaces without the program.
    without: BTreeSet<String>,
    asked: Option<Timestamp>,
}

impl Attachments {
    pub(super) fn new(attached: Vec<Attached>, program: u32, control_socket: &Path, metrics: Arc<Metrics>) -> Self {
        let request = (!may_load()).then(|| control_socket.with_file_name(REQUEST));
        let this = Self { attached, program, request, seen: Mutex::default(), metrics };
        this.look();
        this
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Attached] {
        &self.attached
    }

    /// As the status tells them.
    pub(super) fn status(&self) -> Vec<Interface> {
        let one = |attached: &Attached| Interface {
            name: attached.interface.clone(),
            xdp_mode: attached.mode,
            attached: attached.holds(self.program),
            pinned: attached.pin.as_ref().is_some_and(|pin| pin.exists()),
        };
        self.attached.iter().map(one).collect()
    }

    /// Looks at them, if that wasn't done just now.
    pub(super) fn look(&self) {
        let now = monotonic();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked.is_some_and(|looked| now.since(looked) < LOOK) {
            return;
        }
        seen.looked = Some(now);
        let without: Vec<&Attached> = self.attached.iter().filter(|attached| !attached.holds(self.program)).collect();
        let names: BTreeSet<String> = without.iter().map(|attached| attached.interface.clone()).collect();
        for interface in names.difference(&seen.without) {
            warn!(interface, "the program is off the interface: its packets pass unlooked at");
        }
        for interface in seen.without.difference(&names) {
            info!(interface, "the program is on the interface again");
        }
        seen.without = names;
        // Not where an operator has removed the pins: who detached wants it detached.
        let lost = |attached: &&Attached| {
            attached.pin.as_ref().is_some_and(|pin| pin.exists()) && interface::check(&attached.interface).is_ok()
        };
        if let Some(request) = &self.request
            && without.iter().any(lost)
            && seen.asked.is_none_or(|asked| now.since(asked) >= ASK)
        {
            seen.asked = Some(now);
            match fs::write(request, "") {
                Ok(()) => info!(request = %request.display(), "asked for the program to be attached again"),
                Err(error) => warn!(request = %request.display(), %error, "can't ask for the program to be attached"),
            }
        }
        self.metrics.kernel.attached.set((self.attached.len() - without.len()) as u64);
        self.metrics.kernel.detached.set(without.len() as u64);
    }
}
