//! `detector status`: how things stand, on one screen of 24 lines.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::CellAlignment;
use detector_common::counter::Counter;

use super::client::{Client, ControlArgs};
use super::list::bare_table;
use super::{Exit, Failure, Format, figures, mode, print, printable};
use crate::admin::protocol::{Request, Response, Signals, Status};
use crate::config::Mode;
use crate::telemetry::enforce::VerdictKind;
use crate::telemetry::kernel::{Fate, fate};

const EXAMPLES: &str = "\
Examples:
  detector status
  watch detector status
  detector status --format json | jq .hellos";

/// JA4 values shown.
const FINGERPRINTS: usize = 9;
/// Interfaces, ports or reasons shown of a list.
const SHOWN: usize = 6;
/// Most characters of a server name.
const NAME: usize = 60;

/// `detector status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

/// Prints it.
///
/// # Errors
/// When the daemon can't be asked.
pub fn run(args: &StatusArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let Response::Status(status) = Client::reader(&args.control)?.ask(&Request::Status)? else {
        return Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?"));
    };
    match args.format {
        Format::Table => writeln!(out, "{}", screen(&status))?,
        format => print::row(&status, format, out)?,
    }
    Ok(Exit::Done)
}

fn screen(status: &Status) -> String {
    let drops = match status.mode.mode {
        Mode::Observe => "rules count, only operators' blocks drop",
        Mode::Enforce => "rules and operators' blocks drop",
    };
    let uptime = figures::seconds(status.uptime_s);
    let version = printable::line(&status.version);
    let head =
        format!("detector {version} (pid {}), up {uptime}, mode {}: {drops}", status.pid, mode::describe(&status.mode));
    let rows = [
        ("interfaces", interfaces(status)),
        ("ports", few(status.ports.iter().map(ToString::to_string))),
        ("packets", packets(status)),
        ("passed", reasons(packets_of(status, Fate::Pass))),
        ("connections", connections(status)),
        ("events", events(status)),
        ("hellos", hellos(status)),
        ("clients", clients(status)),
        ("verdicts", verdicts(status)),
        ("latency", latency(status)),
    ];
    // A row of its own only where there is something to say, since the screen is small.
    let challengers = (!status.challengers.is_empty()).then(|| ("challenge", challengers(status)));
    let signals = has_reports(&status.signals).then(|| ("reports", reports(&status.signals)));
    let mut lines = vec![head, String::new()];
    lines.extend(
        rows.into_iter()
            .chain(signals)
            .chain(challengers)
            .map(|(name, text)| format!("{name:<12}{text}").trim_end().to_owned()),
    );
    lines.push(String::new());
    lines.push(fingerprints(status));
    lines.join("\n")
}

/// The first of a list, and how many more there are.
fn few(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let shown = items.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Counts with their labels, largest first, without those that are zero.
fn reasons(counts: Vec<(&str, u64)>) -> String {
    let mut counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let text = |(label, count): (&str, u64)| format!("{} {}", figures::count(count), printable::line(label));
    if counts.is_empty() { "0".to_owned() } else { few(counts.into_iter().map(text)) }
}

pub(super) fn interfaces(status: &Status) -> String {
    let interfaces = few(status.interfaces.iter().map(|interface| {
        let mode = interface.xdp_mode.label();
        let attached = if interface.attached { "" } else { " NOT ATTACHED" };
        let pinned = if interface.pinned { " (pinned)" } else { "" };
        format!("{} {mode}{pinned}{attached}", printable::line(&interface.name))
    }));
    if status.egress { interfaces } else { format!("{interfaces} (what goes out isn't seen)") }
}

fn challengers(status: &Status) -> String {
    let listeners = few(status.challengers.iter().map(|listener| {
        let ports = few(listener.ports.iter().map(ToString::to_string));
        let health = listener
            .trouble
            .as_deref()
            .map_or("healthy".to_owned(), |trouble| format!("NOT HEALTHY: {}", printable::line(trouble)));
        format!("{} for {ports} {health}", listener.address)
    }));
    format!("{listeners}; {} steered", figures::count(kernel(status, Counter::Steered)))
}

/// Whether web servers told anything, or tried to.
fn has_reports(signals: &Signals) -> bool {
    signals.reports > 0 || signals.rejected.values().chain(signals.refused.values()).any(|count| *count > 0)
}

fn reports(signals: &Signals) -> String {
    let lost = format!("some {} lost", figures::count(signals.lost_estimate));
    let sum = |counts: &BTreeMap<String, u64>| figures::count(counts.values().sum());
    format!(
        "{} told by web servers, {lost}, {} no report, {} refused",
        figures::count(signals.reports),
        sum(&signals.rejected),
        sum(&signals.refused)
    )
}

pub(super) fn packets_of(status: &Status, wanted: Fate) -> Vec<(&'static str, u64)> {
    let counters = Counter::ALL.iter().filter(|&&counter| fate(counter) == Some(wanted));
    counters.map(|counter| (counter.label(), kernel(status, *counter))).collect()
}

pub(super) fn kernel(status: &Status, counter: Counter) -> u64 {
    status.kernel.get(counter.label()).copied().unwrap_or(0)
}

fn packets(status: &Status) -> String {
    let sum = |fate| packets_of(status, fate).iter().map(|(_, count)| count).sum::<u64>();
    let dropped = match sum(Fate::Drop) {
        0 => "0 dropped".to_owned(),
        dropped => format!("{} dropped ({})", figures::count(dropped), reasons(packets_of(status, Fate::Drop))),
    };
    let seen = figures::count(kernel(status, Counter::Packets));
    format!("{seen} seen, {} passed, {dropped}", figures::count(sum(Fate::Pass)))
}

/// Of the connections that began, how many brought a hello: near 100 % where all clients speak TLS.
fn connections(status: &Status) -> String {
    let (syns, data) = (kernel(status, Counter::Syns), kernel(status, Counter::FirstData));
    let hellos = kernel(status, Counter::FirstHello) + kernel(status, Counter::FirstPartial);
    let share = if syns > 0 { format!(" ({:.1} %)", hellos as f64 * 100.0 / syns as f64) } else { String::new() };
    format!(
        "{} SYNs, {} began with a hello{share}, {} with something else",
        figures::count(syns),
        figures::count(hellos),
        figures::count(data.saturating_sub(hellos))
    )
}

fn events(status: &Status) -> String {
    let captured = kernel(status, Counter::CapturedConfirmed) + kernel(status, Counter::CapturedUnconfirmed);
    let ring = status.ring;
    let lost = match (ring.lost_confirmed, ring.lost_unconfirmed) {
        (0, 0) => "0 lost".to_owned(),
        (0, lost) => format!("{} lost, all of unconfirmed clients", figures::count(lost)),
        (confirmed, unconfirmed) => format!(
            "{} lost, {} of confirmed clients (raise `limits.ring_bytes`)",
            figures::count(confirmed + unconfirmed),
            figures::count(confirmed)
        ),
    };
    format!("{} captured, {} received, {lost}", figures::count(captured), figures::count(ring.received))
}

/// What is known of the addresses of those who sent hellos, and of their fingerprints.
fn clients(status: &Status) -> String {
    let void: u64 = status.void.values().sum();
    let standings = status.standings.iter().map(|(label, count)| (label.as_str(), *count)).collect();
    format!("{} (void fingerprints {})", reasons(standings), figures::count(void))
}

fn split<'a>(counts: &'a BTreeMap<String, u64>, whole: &str) -> (u64, Vec<(&'a str, u64)>) {
    let rest = counts.iter().filter(|(label, _)| *label != whole).map(|(label, count)| (label.as_str(), *count));
    (counts.get(whole).copied().unwrap_or(0), rest.collect())
}

fn hellos(status: &Status) -> String {
    let (complete, causes) = split(&status.hellos, "complete");
    let complete = figures::count(complete);
    match causes.iter().map(|(_, count)| count).sum::<u64>() {
        0 => format!("{complete} complete, 0 lost"),
        lost => format!("{complete} complete, {} lost ({})", figures::count(lost), reasons(causes)),
    }
}

pub(super) fn verdicts(status: &Status) -> String {
    let some = VerdictKind::ALL.iter().filter_map(|kind| {
        let count = status.entries.get(kind.label()).copied().filter(|count| *count > 0)?;
        Some(format!("{} {}", figures::count(count), kind.label()))
    });
    let text = some.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

fn latency(status: &Status) -> String {
    match (status.enforce_p50_us, status.enforce_p99_us) {
        (Some(p50), Some(p99)) => {
            format!(
                "{} median, {} p99, from the NIC to the verdict in force",
                figures::micros(p50),
                figures::micros(p99)
            )
        }
        _ => "no connection was judged yet".to_owned(),
    }
}

fn fingerprints(status: &Status) -> String {
    if status.fingerprints.is_empty() {
        return "no hello seen yet".to_owned();
    }
    let mut table = bare_table(["JA4", "HELLOS", "LAST SEEN", "LAST SERVER NAME"]);
    if let Some(hellos) = table.column_mut(1) {
        hellos.set_cell_alignment(CellAlignment::Right);
    }
    for seen in status.fingerprints.iter().take(FINGERPRINTS) {
        table.add_row([
            printable::line(&seen.ja4),
            figures::count(seen.hellos),
            format!("{} ago", figures::seconds(seen.last_seen_s)),
            seen.last_server_name.as_deref().map(shortened).unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

fn shortened(name: &str) -> String {
    let name = printable::line(name);
    if name.chars().count() <= NAME { name } else { format!("{}…", name.chars().take(NAME - 1).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::{Challenger, Fingerprint, Interface, Ring};
    use crate::config::XdpMode;

    fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
        of.into_iter().map(|(label, count)| (label.to_owned(), count)).collect()
    }

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 1234,
            uptime_s: 11_520,
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                xdp_mode: XdpMode::Native,
                attached: true,
                pinned: true,
            }],
            egress: true,
            ports: vec![443, 8443],
            kernel: counts([
                ("packets", 12_345_678),
                ("other_port", 12_000_000),
                ("protected", 345_000),
                ("connection", 678),
                ("captured_confirmed", 1010),
                ("captured_unconfirmed", 2),
                ("syns", 1003),
                ("first_data", 1002),
                ("first_hello", 500),
                ("first_partial", 500),
            ]),
            hellos: counts([("complete", 1000), ("timeout", 10), ("malformed", 2), ("reset", 0)]),
            ring: Ring { submitted: 1012, received: 1012, lost_confirmed: 0, lost_unconfirmed: 0 },
            standings: counts([("confirmed", 990), ("unconfirmed", 0), ("pending_expired", 10)]),
            void: counts([("desync", 1), ("overlap_conflict", 0)]),
            entries: counts([("address", 3), ("ja4", 1)]),
            fingerprints: vec![Fingerprint {
                ja4: "t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned(),
                family: None,
                kind: None,
                verdict: None,
                hellos: 1000,
                hellos_lately: 10,
                last_client: None,
                last_server_name: Some("www.example.com".to_owned()),
                last_seen_s: 3,
            }],
            enforce_p50_us: Some(85),
            enforce_p99_us: Some(240),
            ..Status::default()
        }
    }

    #[test]
    fn the_screen() {
        let expected = "\
detector 0.1.0 (pid 1234), up 3h 12m, mode observe (configured): rules count, only operators' blocks drop

interfaces  eth0 native (pinned)
ports       443, 8443
packets     12,345,678 seen, 12,345,000 passed, 678 dropped (678 connection)
passed      12,000,000 other_port, 345,000 protected
connections 1,003 SYNs, 1,000 began with a hello (99.7 %), 2 with something else
events      1,012 captured, 1,012 received, 0 lost
hellos      1,000 complete, 12 lost (10 timeout, 2 malformed)
clients     990 confirmed, 10 pending_expired (void fingerprints 1)
verdicts    3 address, 1 ja4
latency     85 µs median, 240 µs p99, from the NIC to the verdict in force

JA4                                   HELLOS  LAST SEEN  LAST SERVER NAME
t13d1516h2_8daaf6152771_e5627efa2ab1   1,000  3s ago     www.example.com";
        assert_eq!(screen(&status()), expected);
    }

    #[test]
    fn the_fullest_screen_is_one_screen_without_control_bytes() {
        let mut full = status();
        full.fingerprints[0].last_server_name = Some("\u{1b}]0;owned\u{7}\n".repeat(40));
        full.fingerprints = vec![full.fingerprints[0].clone(); 50];
        full.ports = (1..1000).collect();
        full.interfaces = vec![full.interfaces[0].clone(); 50];
        let trouble = Some("\u{1b}\n".repeat(90));
        let address = "[2001:db8::1]:18443".parse().unwrap();
        full.challengers = vec![Challenger { address, ports: full.ports.clone(), pid: None, trouble }; 8];
        full.kernel = Counter::ALL.iter().map(|counter| (counter.label().to_owned(), u64::MAX >> 10)).collect();
        let text = screen(&full);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
        assert!(text.contains("1, 2, 3, 4, 5, 6 and 993 more"));
    }

    #[test]
    fn nothing_seen_yet() {
        let text = screen(&Status::default());
        assert!(text.ends_with("no hello seen yet") && text.contains("0 seen, 0 passed, 0 dropped"), "{text}");
    }
}
