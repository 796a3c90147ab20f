//! How soon the scheduler runs the thread that reads the ring. A verdict must be in force before the server has answered
//! the hello, some hundred microseconds later, on a busy host too; ordinary threads wait longer than that for their turn.
//! Under a flood the thread gives its urgency up: it must not keep the web server from its work.

use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Where the system allows no real-time scheduling: the most that nice gives.
const NICE: i32 = -20;

/// That of threads which hold up somebody's request, for some microseconds each.
const NICE_OF_ANSWERS: i32 = -10;

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
    let _ = rustix::process::setpriority_process(None, NICE_OF_ANSWERS);
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
