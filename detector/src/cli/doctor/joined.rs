//! Whether reports find their ClientHello, why not, and what to do; and the proxies that nobody configured. In: the
//! daemon's counts since its start. Out: findings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::figures;
use super::finding::{Finding, problem, warning, well};

/// Causes of fewer misses than this percent of all reports are not worth a word.
const WORTH: f64 = 0.1;
/// Below so many percent something is wrong with all of them together.
const WANTED: f64 = 99.0;
/// Of which nothing is wrong.
const FOUND: [&str; 2] = ["joined", "forwarded"];

/// How many reports found their ClientHello; if too few, each cause with what to do.
pub(super) fn rate(outcomes: &BTreeMap<String, u64>) -> Vec<Finding> {
    let total: u64 = outcomes.values().sum();
    if total == 0 {
        return Vec::new();
    }
    let percent = |count: u64| 100.0 * count as f64 / total as f64;
    let found: u64 = FOUND.iter().filter_map(|outcome| outcomes.get(*outcome)).sum();
    let all = figures::count(total);
    let summary = match outcomes.get("forwarded") {
        Some(forwarded) if *forwarded > 0 => format!(
            "{:.1} % of {all} reports found their ClientHello or came by a trusted proxy ({:.1} %)",
            percent(found),
            percent(*forwarded)
        ),
        _ => format!("{:.1} % of {all} reports found their ClientHello", percent(found)),
    };
    if percent(found) >= WANTED {
        return vec![well("join", summary)];
    }
    let mut missed: Vec<(&str, u64)> = outcomes
        .iter()
        .map(|(outcome, count)| (outcome.as_str(), *count))
        .filter(|(outcome, count)| !FOUND.contains(outcome) && percent(*count) >= WORTH)
        .collect();
    missed.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let main = missed.first().map_or("", |(outcome, _)| outcome);
    let mut findings =
        vec![problem("join", summary, format!("most of the others: {main}; what to do for each cause follows"))];
    let told = |(outcome, count)| {
        let what = format!("{} reports ({:.1} %): {}", figures::count(count), percent(count), cause(outcome));
        warning("join", what, remedy(outcome))
    };
    findings.extend(missed.into_iter().map(told));
    findings
}

/// What happened.
fn cause(outcome: &str) -> String {
    let text = match outcome {
        "no_tuple" => "no_tuple, they don't say the client's address and port",
        "no_hello" => "no_hello, no ClientHello of their connection was seen",
        "expired" => "expired, by their times no connection that was seen carried them",
        "ambiguous" => "ambiguous, more than one connection may have carried them",
        "void" => "void, the server may have read another ClientHello than was seen",
        "evicted" => "evicted, too many waited for their ClientHello",
        "no_client" => "no_client, a trusted proxy doesn't say for whom it asks",
        other => other,
    };
    text.to_owned()
}

/// What to do about it.
fn remedy(outcome: &str) -> String {
    let text = match outcome {
        "no_tuple" => "update the server's lines from /usr/share/detector: `ip` and `port` are missing",
        "no_hello" => {
            "does `detector status` show the interface and the port that clients come in by? does a proxy before the server \
             end TLS? name it in signals.trusted_proxies. Requests without TLS have none: don't report those"
        }
        "expired" => {
            "update the server's lines from /usr/share/detector: `dur` and `age` in the unit that their name says"
        }
        "ambiguous" => {
            "update the server's lines from /usr/share/detector: `sip`, `sport` and `age` tell connections apart"
        }
        "void" => "see `void` of detector_hello_standings_total in the metrics for why",
        "evicted" => {
            "raise limits.waiting_reports, systemctl restart detector; and see that hellos are not lost: detector status"
        }
        "no_client" => "have the proxy set X-Forwarded-For, and the server's lines tell it (`xff`)",
        _ => "see docs/metrics.md",
    };
    text.to_owned()
}

/// Addresses that may be proxies, with the line that makes them trusted ones.
pub(super) fn suspected(addresses: &[IpAddr], total: usize) -> Option<Finding> {
    let first = addresses.first()?;
    let others = if total > 1 { format!(" and {} more", figures::count(total as u64 - 1)) } else { String::new() };
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    let what = format!("{first}{others} may be a proxy: programs of many kinds send from there with one fingerprint");
    let help = format!("those that are: trusted_proxies = [{}] in [signals], and `detector reload`", quoted.join(", "));
    Some(warning("join", what, help))
}

#[cfg(test)]
mod tests {
    use super::super::finding::{self, State};
    use super::*;

    fn outcomes(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect()
    }

    #[test]
    fn few_misses_are_well_and_many_are_told_by_cause() {
        assert_eq!(rate(&outcomes(&[("joined", 0), ("no_hello", 0)])), []);
        let well = rate(&outcomes(&[("joined", 990), ("no_hello", 10), ("forwarded", 0)]));
        assert_eq!(well, [finding::well("join", "99.0 % of 1,000 reports found their ClientHello")]);
        let proxied = rate(&outcomes(&[("joined", 1), ("forwarded", 99)]));
        let [forwarded] = &proxied[..] else { panic!("one finding: {proxied:?}") };
        assert!(
            forwarded.state == State::Ok && forwarded.what.contains("by a trusted proxy (99.0 %)"),
            "{forwarded:?}"
        );
        let ill = rate(&outcomes(&[("joined", 8000), ("ambiguous", 500), ("no_hello", 1499), ("void", 1)]));
        assert!(ill.iter().all(|found| found.state != State::Ok && found.help.is_some()), "{ill:?}");
        let told: Vec<&str> = ill.iter().map(|found| found.what.as_str()).collect();
        let expected = [
            "80.0 % of 10,000 reports found their ClientHello",
            "1,499 reports (15.0 %): no_hello, no ClientHello of their connection was seen",
            "500 reports (5.0 %): ambiguous, more than one connection may have carried them",
        ];
        assert_eq!(told, expected, "one in ten thousand isn't worth a word");
    }

    #[test]
    fn every_cause_has_a_remedy() {
        for why in crate::join::Miss::ALL {
            assert_ne!(cause(why.label()), why.label());
            assert_ne!(remedy(why.label()), remedy("another one"), "{}", why.label());
        }
    }

    #[test]
    fn a_proxy_is_told_with_the_line_to_write() {
        assert_eq!(suspected(&[], 0), None);
        let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let Some(Finding { what, help: Some(help), .. }) = suspected(&addresses, 2) else {
            panic!("they are not told")
        };
        assert!(what.starts_with("192.0.2.7 and 1 more may be a proxy"), "{what}");
        assert!(help.contains("trusted_proxies = [\"192.0.2.7\", \"2001:db8::7\"] in [signals]"), "{help}");
    }
}
