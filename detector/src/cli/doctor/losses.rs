//! What got lost on the way from the kernel, as shares since the daemon's start.

use super::super::figures;
use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::Status;

/// Shares of confirmed events: from here on it is told, and from here on it is a problem.
const TOLD: f64 = 0.0;
const GRAVE: f64 = 0.01;
/// Of complete hellos, so many may stay without their end before it is told.
const UNREAD: f64 = 0.05;

/// Looks at the daemon's counts.
pub(super) fn look(status: &Status) -> Vec<Finding> {
    let ring = &status.ring;
    let share = |part: u64, rest: u64| if part == 0 { 0.0 } else { part as f64 / (part + rest) as f64 };
    let lost = share(ring.lost_confirmed, ring.submitted);
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let events = if lost > TOLD {
        let what = format!(
            "{} events of clients whose address is proven were lost, {} of all: the ring was full",
            figures::count(ring.lost_confirmed),
            percent(lost)
        );
        let help = "raise limits.ring_bytes, systemctl restart detector; is the daemon short of CPU? `top -H -p PID`";
        let help = help.replace("PID", &status.pid.to_string());
        if lost >= GRAVE { problem("losses", what, help) } else { warning("losses", what, help) }
    } else {
        well("losses", format!("none of {} events was lost", figures::count(ring.submitted)))
    };
    let complete = status.hellos.get("complete").copied().unwrap_or(0);
    let causes = status.hellos.iter().filter(|(cause, _)| *cause != "complete");
    let (cause, _) = causes.clone().max_by_key(|(_, count)| **count).unzip();
    let unread: u64 = causes.map(|(_, count)| count).sum();
    let hellos = (share(unread, complete) > UNREAD).then(|| {
        let cause = cause.map_or("", String::as_str);
        warning(
            "hellos",
            format!(
                "{} hellos were never complete, {}, mostly {cause}",
                figures::count(unread),
                percent(share(unread, complete))
            ),
            "detector status shows each cause; docs/metrics.md says what they mean",
        )
    });
    [Some(events), hellos].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;
    use crate::admin::protocol::Ring;

    #[test]
    fn losses_are_told_by_their_share() {
        let states = |lost_confirmed, unread| {
            let hellos = [("complete".to_owned(), 900), ("timeout".to_owned(), unread)].into();
            let ring = Ring { submitted: 1000, received: 1000, lost_confirmed, lost_unconfirmed: 50 };
            look(&Status { ring, hellos, ..Status::default() }).into_iter().map(|found| found.state).collect::<Vec<_>>()
        };
        assert_eq!(states(0, 10), [State::Ok], "a flood's losses and a few hellos are nothing");
        assert_eq!(states(1, 0), [State::Warning]);
        assert_eq!(states(500, 0), [State::Problem]);
        assert_eq!(states(0, 100), [State::Ok, State::Warning]);
    }
}
