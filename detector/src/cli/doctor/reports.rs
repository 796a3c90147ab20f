//! What is in the way of the web servers' reports, and of finding their ClientHellos. In: the host's settings and the
//! daemon's counts since its start.

use super::super::figures;
use super::finding::{Finding, problem, warning, well};
use super::joined;
use crate::admin::protocol::Signals;
use crate::config::Config;
use crate::door;
use crate::intake::{self, QUEUE_WANTED};

/// Looks; without a daemon, at the host alone.
pub(super) fn look(config: &Config, signals: Option<&Signals>) -> Vec<Finding> {
    let (name, length) = (&config.signals.group, intake::queue_length());
    let mut findings = vec![queue(length), group(name, door::socket::group(name).is_some())];
    findings.extend(signals.into_iter().flat_map(|signals| of_daemon(signals, length)));
    findings
}

fn queue(length: Option<u64>) -> Finding {
    match length {
        Some(length) if length < QUEUE_WANTED => warning(
            "reports",
            format!(
                "net.unix.max_dgram_qlen is {length}: a busy web server's reports get lost; {QUEUE_WANTED} is wanted"
            ),
            format!(
                "sysctl -w net.unix.max_dgram_qlen={QUEUE_WANTED}, keep it in /etc/sysctl.d; systemctl restart detector"
            ),
        ),
        Some(length) => well("reports", format!("net.unix.max_dgram_qlen is {length}")),
        None => warning("reports", "net.unix.max_dgram_qlen can't be read", "is /proc mounted?"),
    }
}

fn group(name: &str, exists: bool) -> Finding {
    if exists {
        return well("reports", format!("the group {name} exists: its members may report"));
    }
    warning(
        "reports",
        format!("there is no group {name}: only root may report, and web servers' workers are not root"),
        format!("groupadd --system {name}; usermod -aG {name} www-data (the web server's user); restart both"),
    )
}

/// `queue`: what a socket made now would have.
fn of_daemon(signals: &Signals, queue: Option<u64>) -> Vec<Finding> {
    if signals.sockets.is_empty() {
        let what = "there is no signal socket: web servers can't tell of requests";
        return vec![warning("reports", what, "name one in [signals] of the configuration")];
    }
    let sockets = signals.sockets.join(" ");
    let mut findings = Vec::new();
    if signals.queue < queue {
        let what = format!("the daemon's sockets were made when {} datagrams could wait", signals.queue.unwrap_or(0));
        findings.push(warning("reports", what, "systemctl restart detector"));
    }
    findings.push(match signals.last_report_s {
        Some(seconds) => {
            let count = figures::count(signals.reports);
            well("reports", format!("{count} reports came, the last one {} ago", figures::seconds(seconds)))
        }
        None => warning(
            "reports",
            format!("no report has come on {sockets}: clients are known by their packets alone"),
            "add the lines of /usr/share/detector to the web server, reload it, and ask it for a page",
        ),
    });
    let many = |counts: &std::collections::BTreeMap<String, u64>| {
        let shown = counts.iter().filter(|(_, count)| **count > 0);
        let shown: Vec<_> = shown.map(|(label, count)| format!("{} {label}", figures::count(*count))).collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    };
    let told = |what: &str, counts| Some(format!("frames on {sockets} {what}: {}", many(counts)?));
    let refused = "peer: put the sender's user into signals.group; too_fast: [signals]";
    let rejected = "compare the server's lines with those in /usr/share/detector";
    let fields = "detector reports --format json shows what was understood";
    findings.extend(told("were refused", &signals.refused).map(|what| problem("reports", what, refused)));
    findings.extend(told("were no report", &signals.rejected).map(|what| problem("reports", what, rejected)));
    findings.extend(told("had fields of no use", &signals.fields).map(|what| warning("reports", what, fields)));
    if signals.lost_estimate > 0 {
        let what = format!("some {} reports got lost", figures::count(signals.lost_estimate));
        findings.push(problem("reports", what, "raise net.unix.max_dgram_qlen; systemctl restart detector"));
    }
    findings.extend(joined::rate(&signals.joined));
    findings.extend(joined::suspected(&signals.suspected, signals.suspected_total));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_short_queue_is_told_with_the_command_that_raises_it() {
        let short = queue(Some(10));
        let help = short.help.as_deref().unwrap_or_default();
        assert!(
            short.what.contains("is 10") && help.starts_with("sysctl -w net.unix.max_dgram_qlen=1024"),
            "{short:?}"
        );
        assert_eq!((queue(Some(1024)).state, queue(None).state), (State::Ok, State::Warning));
        let help = group("detector-signal", false).help;
        assert!(help.is_some_and(|help| help.contains("usermod -aG detector-signal")));
    }

    #[test]
    fn what_hinders_reports_is_told() {
        let mut signals = Signals { sockets: vec!["/s".to_owned()], queue: Some(1024), ..Signals::default() };
        let ills = |signals: &Signals| {
            let findings = of_daemon(signals, Some(1024)).into_iter();
            findings.filter(|found| found.state != State::Ok).map(|found| found.what).collect::<Vec<_>>()
        };
        assert_eq!(ills(&signals), ["no report has come on /s: clients are known by their packets alone"]);
        (signals.reports, signals.last_report_s) = (7, Some(3));
        signals.refused.insert("peer".to_owned(), 0);
        assert_eq!(ills(&signals), [""; 0]);
        signals.queue = Some(10);
        signals.refused.insert("peer".to_owned(), 1000);
        signals.rejected.insert("malformed".to_owned(), 2);
        signals.lost_estimate = 5;
        let expected = [
            "the daemon's sockets were made when 10 datagrams could wait",
            "frames on /s were refused: 1,000 peer",
            "frames on /s were no report: 2 malformed",
            "some 5 reports got lost",
        ];
        assert_eq!(ills(&signals), expected);
        signals.sockets.clear();
        assert_eq!(ills(&signals), ["there is no signal socket: web servers can't tell of requests"]);
    }
}
