//! The configuration as it is typed: the text of a TOML file in, [`File`] out, or an error of three lines that points
//! at the wrong characters. Unknown keys are errors: a typo must not turn a feature off in silence. Bound: the file
//! is read up to 1 MiB.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::feeds::{FeedsFile, ReputationFile};
use super::value::{
    Addresses, ChallengeStatus, Count, InterfaceName, Ja4Text, LogFilter, LogFormat, MetricsAddress, Mode, Ports,
    Prefix, RingBytes, ServerName, Size, SocketPath, Span, XdpMode,
};

/// Everything a file may say. `dist/detector.toml` documents each key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) capture: Capture,
    pub(super) enforce: Enforce,
    pub(super) deny: Deny,
    pub(super) challenge: Challenge,
    pub(super) signals: Signals,
    pub(super) inline: Inline,
    pub(super) feeds: FeedsFile,
    pub(super) reputation: ReputationFile,
    pub(super) score: super::score::Score,
    pub(super) behaviour: super::score::Behaviour,
    pub(super) network: super::score::Network,
    pub(super) policy: super::score::Decisions,
    pub(super) breaker: super::score::Breaker,
    pub(super) admin: Admin,
    pub(super) log: Log,
    pub(super) limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Capture {
    pub(super) interfaces: Option<Vec<InterfaceName>>,
    pub(super) ports: Option<Ports>,
    pub(super) xdp_mode: Option<XdpMode>,
    pub(super) addresses: Option<Addresses>,
    pub(super) udp: Option<bool>,
    pub(super) syns: Option<bool>,
    pub(super) egress: Option<bool>,
    pub(super) answers: Option<bool>,
    pub(super) sock_diag: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Enforce {
    pub(super) mode: Option<Mode>,
    pub(super) reset: Option<bool>,
    pub(super) state_directory: Option<PathBuf>,
    pub(super) never_block: Option<Vec<Prefix>>,
    pub(super) resolv_conf: Option<Vec<PathBuf>>,
    pub(super) max_browser_percent: Option<Count<0, 100>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Deny {
    pub(super) ja4: Option<Vec<Ja4Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Challenge {
    pub(super) server_name: Option<ServerName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Signals {
    pub(super) sockets: Option<Vec<PathBuf>>,
    pub(super) streams: Option<Vec<PathBuf>>,
    pub(super) group: Option<String>,
    pub(super) datagrams_per_second: Option<Count<1, { u32::MAX as u64 }>>,
    pub(super) lines_per_second: Option<Count<1, { u32::MAX as u64 }>>,
    /// Each has a descriptor, and room for a line.
    pub(super) connections: Option<Count<1, 4096>>,
    pub(super) tracked_connections: Option<Count<1, ENTRIES>>,
    /// Of 16 KiB each.
    pub(super) recent: Option<Count<1, 4096>>,
    pub(super) trusted_proxies: Option<Vec<Prefix>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    pub(super) control_socket: Option<PathBuf>,
    pub(super) control_group: Option<String>,
    pub(super) status_socket: Option<PathBuf>,
    pub(super) status_group: Option<String>,
    pub(super) metrics: Option<MetricsAddress>,
    pub(super) pins: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Inline {
    pub(super) socket: Option<SocketPath>,
    pub(super) group: Option<String>,
    pub(super) listen: Option<MetricsAddress>,
    pub(super) beyond_loopback: Option<bool>,
    pub(super) sites: Option<BTreeMap<String, Site>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Site {
    pub(super) challenge_status: Option<ChallengeStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) filter: Option<LogFilter>,
    pub(super) format: Option<LogFormat>,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most entries of one map or table: 16 Mi of 64 bytes are a gigabyte, and nobody means more.
const ENTRIES: u64 = 1 << 24;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) ring_bytes: Option<RingBytes>,
    pub(super) unconfirmed_ring_bytes: Option<RingBytes>,
    pub(super) handshakes: Option<Count<1, ENTRIES>>,
    pub(super) pending_hellos: Option<Count<1, ENTRIES>>,
    /// One in each of the 20 rounds a second at least; a look-up takes some microseconds of the packet path's time.
    pub(super) sock_diag_per_second: Option<Count<20, 20_000>>,
    pub(super) partial_hellos: Option<Count<1, ENTRIES>>,
    pub(super) disordered_hellos: Option<Count<1, ENTRIES>>,
    pub(super) partials_per_source: Option<Count<1, ENTRIES>>,
    pub(super) partial_bytes: Option<Size<MIB, { 64 * GIB }>>,
    pub(super) bytes_per_flow: Option<Size<{ 2 * KIB }, MIB>>,
    pub(super) segments_per_flow: Option<Count<1, 65_536>>,
    pub(super) holes_per_flow: Option<Count<1, 65_536>>,
    pub(super) partial_age: Option<Span>,
    pub(super) finished_flows: Option<Count<1, ENTRIES>>,
    pub(super) addresses: Option<Count<1, ENTRIES>>,
    pub(super) prefixes: Option<Count<1, ENTRIES>>,
    pub(super) allow: Option<Count<1, ENTRIES>>,
    pub(super) connections: Option<Count<1, ENTRIES>>,
    pub(super) ja4_rules: Option<Count<1, ENTRIES>>,
    pub(super) automatic: Option<Count<1, ENTRIES>>,
    pub(super) quic_sources: Option<Count<1, ENTRIES>>,
    pub(super) automatic_per_second: Option<Count<1, ENTRIES>>,
    pub(super) units: Option<Count<1, ENTRIES>>,
    pub(super) challenge_listeners: Option<Count<1, 32>>,
    pub(super) rates: Option<Count<1, ENTRIES>>,
    /// One in each of the 15 ticks a second at least.
    pub(super) resets_per_second: Option<Count<15, 10_000_000>>,
    pub(super) fingerprints: Option<Count<1, ENTRIES>>,
    /// 47 KiB each.
    pub(super) signal_fingerprints: Option<Count<1, 65_536>>,
    /// A sample of fewer says little; more say no more.
    pub(super) browser_hellos: Option<Count<256, 65_536>>,
    pub(super) events: Option<Count<1, ENTRIES>>,
    pub(super) request_verdicts: Option<Count<1, ENTRIES>>,
    pub(super) inline_connections: Option<Count<1, 65_536>>,
    pub(super) known_connections: Option<Count<1, ENTRIES>>,
    pub(super) known_queue: Option<Count<1, ENTRIES>>,
    pub(super) waiting_reports: Option<Count<1, ENTRIES>>,
    pub(super) sessions: Option<Count<1, ENTRIES>>,
    pub(super) assessments: Option<Count<1, { 1 << 20 }>>,
    pub(super) assessed_per_second: Option<Count<1, 10_000_000>>,
    pub(super) held_decisions: Option<Count<1, ENTRIES>>,
    pub(super) verdict_queue: Option<Count<1, ENTRIES>>,
    pub(super) network_addresses: Option<Count<1, ENTRIES>>,
    pub(super) network_fingerprints: Option<Count<1, ENTRIES>>,
    pub(super) proxy_candidates: Option<Count<1, ENTRIES>>,
}

/// Reads the text of the file called `name`.
pub(super) fn parse(name: &str, text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error| match error.span() {
        Some(span) => point(name, text, &span, &message(&error)),
        None => format!("{name}: {}", message(&error)),
    })
}

/// What is wrong, in one line.
pub(super) fn message(error: &toml::de::Error) -> String {
    suggest(&error.message().replace('\n', ", "))
}

/// Points at a value of the file called `name`, by the names of the tables around it and its own; at nothing if it isn't
/// there.
pub(super) fn point_at(name: &str, text: &str, path: &[String], message: &str) -> String {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match DeTable::parse(text).ok().and_then(|root| span(root.get_ref(), &path)) {
        Some(span) => point(name, text, &span, message),
        None => format!("{name}: {message}"),
    }
}

/// The span of a value, or of the name of a table; of the nearest around it if it isn't there.
pub(super) fn span(root: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (name, rest) = path.split_first()?;
    let (key, value) = root.iter().find(|(key, _)| key.get_ref() == name)?;
    match value.get_ref() {
        DeValue::Table(table) => Some(span(table, rest).unwrap_or_else(|| key.span())),
        _ => Some(value.span()),
    }
}

/// The line on which a byte stands, from 1.
pub(super) fn line_number(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

/// serde says `unknown field `port`, expected one of `interfaces`, `ports``; the reader wants the likely one.
fn suggest(message: &str) -> String {
    let (kind, what) = match message {
        _ if message.starts_with("unknown field ") => ("unknown key", "known here"),
        _ if message.starts_with("unknown variant ") => ("unknown word", "allowed"),
        _ => return message.to_owned(),
    };
    // Quoted words stand at the odd places. A backtick in the typed word shifts them; then the list is shown as it is.
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let [typed, known @ ..] = quoted.as_slice() else { return message.to_owned() };
    let near = known.iter().map(|word| (strsim::jaro_winkler(typed, word), word));
    let near = near.filter(|(score, _)| *score > 0.8).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let list = || known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match near {
        Some((_, word)) if kind == "unknown key" => format!("{kind} `{typed}`; did you mean `{word}`?"),
        Some((_, word)) => format!("{kind} `{typed}`; did you mean `{word}`? {what}: {}", list()),
        None => format!("{kind} `{typed}`; {what}: {}", list()),
    }
}

/// Most characters shown of a line.
const SHOWN: usize = 100;

/// Three lines: where and what, the line, a caret under each wrong character.
fn point(name: &str, text: &str, span: &Range<usize>, message: &str) -> String {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let line_number = line_number(text, line_start);
    let before = text[line_start..start].chars().count();
    let wrong = text.get(start..span.end.min(line_start + line.len())).map_or(1, |wrong| wrong.chars().count().max(1));
    let from = if before >= SHOWN { before - SHOWN / 2 } else { 0 };
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = line.chars().skip(from).take(SHOWN).map(visible).collect();
    let carets = "^".repeat(wrong.min(SHOWN + from - before));
    format!("{name}:{line_number}:{}: {message}\n  {shown}\n  {}{carets}", before + 1, " ".repeat(before - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let error = parse("f.toml", text).unwrap_err();
        assert!(error.lines().count() <= 3, "{error}");
        error
    }

    #[test]
    fn unknown_keys_get_a_suggestion() {
        let expected = "f.toml:2:1: unknown key `port`; did you mean `ports`?\n  port = [443]\n  ^^^^";
        assert_eq!(error("[capture]\nport = [443]\n"), expected);
        let expected = "f.toml:1:2: unknown key `captur`; did you mean `capture`?\n  [captur]\n   ^^^^^^";
        assert_eq!(error("[captur]\n"), expected);
        let expected = "f.toml:2:3: unknown key `zzz`; known here: `mode`, `reset`, `state_directory`, \
                        `never_block`, `resolv_conf`, `max_browser_percent`\n    zzz = 1\n    ^^^";
        assert_eq!(error("[enforce]\n  zzz = 1\n"), expected);
    }

    #[test]
    fn wrong_words_get_the_allowed_ones() {
        let expected = "f.toml:2:8: unknown word `enforced`; did you mean `enforce`? allowed: `observe`, `enforce`\n  \
                        mode = \"enforced\"\n         ^^^^^^^^^^";
        assert_eq!(error("[enforce]\nmode = \"enforced\"\n"), expected);
        let text = error("[capture]\nxdp_mode = \"skb\"");
        assert!(text.contains("unknown word `skb`; allowed: `auto`, `native`, `generic`"), "{text}");
    }

    #[test]
    fn wrong_values_are_pointed_at() {
        for (text, expected) in [
            (
                "[capture]\nports = [443, 0]",
                "f.toml:2:15: `0` is not a port; type a number from 1 to 65535\n  ports = [443, 0]\n                ^",
            ),
            (
                "[limits]\nevents = 0",
                "f.toml:2:10: `0` is not in range; type a number from 1 to 16777216\n  events = 0\n           ^",
            ),
            (
                "[limits]\nring_bytes = \"2TB\"",
                "f.toml:2:14: `2TB` is not a size from 64KiB to 1GiB; type for example `16MiB`\n  ring_bytes = \"2TB\"\n               ^^^^^",
            ),
            (
                "[limits]\npartial_age = \"soon\"",
                "f.toml:2:15: `soon` is not a time from 1s to 1day; type for example `10s` or `2m`\n  partial_age = \"soon\"\n                ^^^^^^",
            ),
            (
                "[admin]\nmetrics = \"on\"",
                "f.toml:2:11: `on` is not an address and port; type for example `127.0.0.1:9464`, or `off`\n  metrics = \"on\"\n            ^^^^",
            ),
        ] {
            assert_eq!(error(text), expected);
        }
        assert!(
            error("[deny]\nja4 = [\"t13\"]").contains("f.toml:2:8: `t13` is not a JA4 value; a JA4 value looks like")
        );
        assert!(error("[capture]\naddresses = [\"10.0.0.256\"]").contains("`256` is over 255"));
        assert!(error("[capture]\nports = []").contains("there must be one port at least"));
        assert!(error("[capture]\ninterfaces = [\"a b\"]").contains("`a b` can't be the name of an interface"));
        assert!(
            error("[limits]\nring_bytes = 100000")
                .contains("`100000` is not a power of two; type for example `128KiB`")
        );
        assert!(error("[capture]\naddresses = \"all\"").contains("neither `any` nor a list"));
        assert!(error("[capture]\naddresses = [\"10.0.0.0/8\"]").contains("is a prefix"));
        assert!(error("[capture]\naddresses = 5").contains("expected a list of addresses in quotes, or \"any\""));
        assert!(
            error("[capture]\nports = [\"443\"]")
                .contains("f.toml:2:10: invalid type: string \"443\", expected a whole number from 1 to 65535")
        );
    }

    #[test]
    fn broken_toml_is_pointed_at() {
        assert!(error("[capture\n").starts_with("f.toml:1:9: "));
        assert!(error("[enforce]\nmode = \"observe\nx = 1\n").starts_with("f.toml:2:"));
        assert!(error("[enforce]\nmode = \"observe\"\nmode = \"observe\"\n").starts_with("f.toml:3:1: duplicate key"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_three_lines_at_most_and_no_control_bytes(text in "(?s).{0,200}") {
            for text in [text.clone(), format!("[capture]\n{text} = 1"), format!("[enforce]\nmode = \"{text}\"")] {
                if let Err(error) = parse("f.toml", &text) {
                    proptest::prop_assert!(error.lines().count() <= 3);
                }
            }
        }
    }
}
