//! CPU time of one piece of work, on a machine that is shared.

use nix::time::{ClockId, clock_gettime};

use crate::figure::median;

const RUNS: usize = 61;
const RUN_NS: f64 = 2e6;

/// CPU nanoseconds of this thread.
pub(crate) fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a CPU clock");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// CPU nanoseconds of one `work`: the median of 61 runs of about 2 ms each.
pub(crate) fn measure(mut work: impl FnMut()) -> f64 {
    let mut per = |times: usize| {
        let before = cpu();
        for _ in 0..times {
            work();
        }
        (cpu() - before) / times as f64
    };
    let times = ((RUN_NS / per(2000)) as usize).max(50);
    let mut runs: Vec<f64> = (0..RUNS).map(|_| per(times)).collect();
    median(&mut runs)
}
