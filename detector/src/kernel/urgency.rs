//! How soon the scheduler runs the thread that reads the ring. A verdict must be in force before the server has answered
//! the hello, some hundred microseconds later, on a busy host too; ordinary threads wait longer than that for their turn.
//! Under a flood the thread gives its urgency up: it must not keep the web server from its work.

use nix::{libc, sys::prctl};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Where the system allows no real-time scheduling: the most that nice gives.
const NICE: i32 = -20;

/// How a thread that isn't real-time takes its turns.
struct Turns {
    /// A thread of SCHED_BATCH that is woken waits for the end of another's turn, instead of ending it.
    policy: libc::c_int,
    nice: i32,
    /// At most. From Linux 6.12 on who asks for shorter turns than the thread that runs has its own at once; before, and
    /// without this, it may wait until the next tick of the clock, 4 ms on many systems.
    nanos: u64,
}

/// Those of threads which hold up somebody's request, for some microseconds each. The shortest that the kernel takes; and
/// the best nice value: who has just run for longer than its share isn't let in before the next tick either.
const OF_ANSWERS: Turns = Turns { policy: libc::SCHED_OTHER, nice: -20, nanos: 100_000 };

/// Those of threads which hold what those wait for: were one stopped just then for the sake of an ordinary one, all would
/// be. What they do themselves can wait: woken, they stop none of those, which would get its next turn a tick later.
const OF_HOLDERS: Turns = Turns { policy: libc::SCHED_BATCH, nice: -10, nanos: 300_000 };

/// The urgency of the thread that made it.
#[derive(Debug)]
pub struct Urgency {
    /// Whether real-time scheduling is allowed.
    real_time: bool,
    raised: bool,
}

/// What the system allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Real-time scheduling.
    RealTime,
    /// A better nice value.
    Nice,
    /// Nothing: CAP_SYS_NICE is missing.
    Nothing,
}

impl Urgency {
    /// Makes this thread urgent, as far as the system allows.
    #[must_use]
    pub fn raise() -> (Self, Allowed) {
        if set_real_time(true) {
            return (Self { real_time: true, raised: true }, Allowed::RealTime);
        }
        // On Linux a nice value is a thread's, and no id means the calling one.
        let nice = rustix::process::setpriority_process(None, NICE).is_ok();
        (Self { real_time: false, raised: false }, if nice { Allowed::Nice } else { Allowed::Nothing })
    }

    /// Makes it urgent, or ordinary; nothing if it is so already.
    pub fn set(&mut self, raised: bool) {
        if self.real_time && self.raised != raised && set_real_time(raised) {
            self.raised = raised;
        }
    }
}

/// Has this thread run soon although ordinary ones keep the processors busy. Where the system doesn't allow that, it is
/// one of them; [`Urgency::raise`] tells of it.
pub fn answer_soon() {
    take(&OF_ANSWERS);
    // What it sleeps is no longer than it says: by default a timer may be 50 µs late, half of what it leaves questions
    // alone for. Anybody may ask for less.
    let _ = prctl::set_timerslack(1);
}

/// Has this thread run before ordinary ones, and after those that answer.
pub fn run_before_ordinary() {
    take(&OF_HOLDERS);
}

/// `struct sched_attr` of linux/sched/types.h, as it first was.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn take(turns: &Turns) {
    // Short turns need no permission; a better nice value than that of the service does.
    if !set_turns(turns) {
        let nice = rustix::process::getpriority_process(None).unwrap_or_default();
        set_turns(&Turns { nice, ..*turns });
    }
}

fn set_turns(turns: &Turns) -> bool {
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: turns.policy as u32,
        flags: 0,
        nice: turns.nice,
        priority: 0,
        runtime: turns.nanos,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the system only reads the structure, which is as long as it says, and changes how the calling thread is run.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attributes), 0) == 0 }
}

fn set_real_time(raised: bool) -> bool {
    let (priority, policy) = if raised {
        // The lowest: before every ordinary thread, after everybody else's real-time ones.
        (ThreadPriority::Min, ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo))
    } else {
        // The middle of the crate's scale is a nice value of 0.
        let Ok(middle) = ThreadPriorityValue::try_from(50) else { return false };
        (ThreadPriority::Crossplatform(middle), ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other))
    };
    set_thread_priority_and_policy(thread_native_id(), priority, policy).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_turns_need_no_permission() {
        assert!(set_turns(&Turns { nice: 0, ..OF_ANSWERS }));
    }
}
