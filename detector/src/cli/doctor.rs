//! `detector doctor`: whether the program is attached, what is in the way of the web servers' reports and their ClientHellos, and what to
//! do about it. In: the host's settings and the daemon's counters. Out: a line for each thing that was looked at.

use std::io::Write;
use std::path::PathBuf;

mod attached;
mod joined;

use super::client::{Client, ControlArgs};
use super::{Exit, Failure, figures, printable};
use crate::admin::protocol::{Request, Response, Signals, Status};
use crate::config::{Config, Overrides};
use crate::door;
use crate::intake::{self, QUEUE_WANTED};

const EXAMPLES: &str = "\
Examples:
  detector doctor
  detector doctor --config /etc/detector/test.toml
  detector doctor && echo all is well

Exit codes: 0 all is well, 2 something is not";

/// `detector doctor`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The configuration [default: /etc/detector/detector.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "DETECTOR_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

/// What was found of one thing.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Well(String),
    /// What is wrong, and what to do.
    Ill(String, String),
}

use Finding::{Ill, Well};

/// Looks at everything.
///
/// # Errors
/// When the configuration can't be read, or nothing can be printed.
pub fn run(args: &DoctorArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let overrides = Overrides { file: args.config.clone(), ..Overrides::default() };
    let config = Config::load(&overrides).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let name = &config.signals.group;
    let mut findings = vec![queue(intake::queue_length()), group(name, door::socket::group(name).is_some())];
    match status(&args.control) {
        Ok(status) => {
            findings.extend(attached::of(&status.interfaces));
            findings.extend(of_daemon(&status.signals, intake::queue_length()));
        }
        Err(failure) => {
            let mut lines = failure.message.lines().map(str::to_owned);
            findings.push(Ill(lines.next().unwrap_or_default(), lines.collect::<Vec<_>>().join("; ")));
        }
    }
    for finding in &findings {
        match finding {
            Well(what) => writeln!(out, "ok    {}", printable::line(what))?,
            Ill(what, help) => writeln!(out, "WRONG {}\n      {}", printable::line(what), printable::line(help))?,
        }
    }
    let well = findings.iter().all(|finding| matches!(finding, Well(_)));
    Ok(if well { Exit::Done } else { Exit::Negative })
}

fn status(control: &ControlArgs) -> Result<Box<Status>, Failure> {
    match Client::connect(control)?.ask(&Request::Status)? {
        Response::Status(status) => Ok(status),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else\nis it of another version? restart it")),
    }
}

fn queue(length: Option<u64>) -> Finding {
    match length {
        Some(length) if length < QUEUE_WANTED => Ill(
            format!(
                "net.unix.max_dgram_qlen is {length}: a busy web server's reports get lost; {QUEUE_WANTED} is wanted"
            ),
            format!("sysctl -w net.unix.max_dgram_qlen={QUEUE_WANTED}, keep it in /etc/sysctl.d, and restart detector"),
        ),
        Some(length) => Well(format!("net.unix.max_dgram_qlen is {length}")),
        None => Ill("net.unix.max_dgram_qlen can't be read".to_owned(), "is /proc mounted?".to_owned()),
    }
}

fn group(name: &str, exists: bool) -> Finding {
    if exists {
        return Well(format!("the group {name} exists: its members may report"));
    }
    Ill(
        format!("there is no group {name}: only root may report, and web servers' workers are not root"),
        format!("groupadd --system {name}; usermod -aG {name} www-data (the web server's user); restart both"),
    )
}

/// `queue`: what a socket made now would have.
fn of_daemon(signals: &Signals, queue: Option<u64>) -> Vec<Finding> {
    if signals.sockets.is_empty() {
        return vec![Ill(
            "there is no signal socket".to_owned(),
            "name one in [signals] of the configuration".to_owned(),
        )];
    }
    let sockets = signals.sockets.join(" ");
    let mut findings = Vec::new();
    if signals.queue < queue {
        let what = format!("the daemon's sockets were made when {} datagrams could wait", signals.queue.unwrap_or(0));
        findings.push(Ill(what, "restart detector".to_owned()));
    }
    findings.push(match signals.last_report_s {
        Some(seconds) => {
            let count = figures::count(signals.reports);
            Well(format!("{count} reports came, the last one {} ago", figures::seconds(seconds)))
        }
        None => Ill(
            format!("no report has come on {sockets}"),
            "add the lines of dist/ to the web server, reload it, and ask it for a page".to_owned(),
        ),
    });
    let many = |counts: &std::collections::BTreeMap<String, u64>| {
        let shown = counts.iter().filter(|(_, count)| **count > 0);
        let shown: Vec<_> = shown.map(|(label, count)| format!("{} {label}", figures::count(*count))).collect();
        (!shown.is_empty()).then(|| shown.join(", "))
    };
    let help = |text: &str| text.to_owned();
    for (what, counts, help) in [
        ("were refused", &signals.refused, help("peer: put the sender's user into signals.group; too_fast: [signals]")),
        ("were no report", &signals.rejected, help("compare the server's lines with dist/ and docs/reports.md")),
        ("had fields of no use", &signals.fields, help("detector reports --format json shows what was understood")),
    ] {
        findings.extend(many(counts).map(|counts| Ill(format!("frames on {sockets} {what}: {counts}"), help)));
    }
    if signals.lost_estimate > 0 {
        let what = format!("some {} reports got lost", figures::count(signals.lost_estimate));
        findings.push(Ill(what, "raise net.unix.max_dgram_qlen, and restart detector".to_owned()));
    }
    findings.extend(joined::rate(&signals.joined));
    findings.extend(joined::suspected(&signals.suspected, signals.suspected_total));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_queue_is_told_with_the_command_that_raises_it() {
        let Ill(what, help) = queue(Some(10)) else { panic!("10 is too short") };
        assert!(what.contains("is 10") && help.starts_with("sysctl -w net.unix.max_dgram_qlen=1024"), "{what}: {help}");
        assert!(matches!(queue(Some(1024)), Well(_)));
        assert!(matches!(queue(None), Ill(..)));
        assert!(
            matches!(group("detector-signal", false), Ill(_, help) if help.contains("usermod -aG detector-signal"))
        );
    }

    #[test]
    fn what_hinders_reports_is_told() {
        let mut signals = Signals { sockets: vec!["/s".to_owned()], queue: Some(1024), ..Signals::default() };
        let ills = |signals: &Signals| {
            let findings = of_daemon(signals, Some(1024)).into_iter();
            findings
                .filter_map(|finding| if let Ill(what, _) = finding { Some(what) } else { None })
                .collect::<Vec<_>>()
        };
        assert_eq!(ills(&signals), ["no report has come on /s"]);
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
        assert_eq!(ills(&signals), ["there is no signal socket"]);
    }
}
