//! How long the machine itself holds threads up: a virtual processor that doesn't run, a long interrupt. What a daemon's
//! thread is late by, it is late by through no fault of the daemon's as far as a thread is that has nothing to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(1);

/// Watches as long as it is there: a thread on each processor, as urgent as the one that reads the daemon's rings.
pub struct Stalls {
    stop: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<Duration>>,
}

impl Stalls {
    /// Begins.
    ///
    /// # Errors
    /// Without root.
    pub fn watch() -> Result<Self> {
        let may = sched_getaffinity(Pid::from_raw(0))?;
        let stop = Arc::new(AtomicBool::new(false));
        let processors = (0..CpuSet::count()).filter(|processor| may.is_set(*processor).unwrap_or(false));
        let (ready, readies) = std::sync::mpsc::channel();
        let watchers = processors.map(|processor| {
            let (stop, ready) = (Arc::clone(&stop), ready.clone());
            thread::spawn(move || {
                let _ = ready.send(be_urgent_on(processor));
                let (mut longest, mut before) = (Duration::ZERO, Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(LOOK);
                    let now = Instant::now();
                    longest = longest.max((now - before).saturating_sub(LOOK));
                    before = now;
                }
                longest
            })
        });
        let this = Self { watchers: watchers.collect(), stop };
        for _ in &this.watchers {
            readies.recv()??;
        }
        Ok(this)
    }

    /// The longest so far; ends.
    ///
    /// # Errors
    /// When a thread that watched is gone.
    pub fn longest(mut self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.watchers.drain(..).map(|watcher| watcher.join().map_err(|_| anyhow!("a watcher failed")));
        longest.collect::<Result<Vec<_>>>()?.into_iter().max().context("no processor")
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn be_urgent_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy)
        .map_err(|error| anyhow!("real-time scheduling: {error}"))
}
