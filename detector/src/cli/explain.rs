//! `detector explain`: why a client is treated as it is, signal by signal, and how to lift that.

use std::io::Write;
use std::net::IpAddr;

use super::client::{Client, ControlArgs};
use super::{Exit, Failure, Format, figures, print, printable};
use crate::admin::protocol::{ExplainOf, Explained, ExplainedOrder, ExplainedSignal, Request, Response};
use crate::fingerprint::Ja4;

const EXAMPLES: &str = "\
Weights are log-odds: +1 makes a program 2.7 times as likely, below 0 a person.
An ID is what web servers get as x-detector-id, and may log.

Examples:
  detector explain 192.0.2.7
  detector explain t13d1516h2_8daaf6152771_d8a2da3f94cd
  detector explain 5f3c0a12b7e4d901-2a
  detector explain 192.0.2.7 --format json | jq -r '.signals[].signal'

Exit codes: 0 explained, 2 nothing is remembered of it";

/// `detector explain`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExplainArgs {
    /// An address, a JA4 value, or the ID of a decision
    #[arg(value_name = "ADDRESS|JA4|ID", value_parser = of)]
    of: ExplainOf,
    /// How to print
    #[arg(long, value_enum, value_name = print::CHOICE, hide_possible_values = true, default_value_t)]
    format: Format,
    #[command(flatten)]
    control: ControlArgs,
}

fn of(text: &str) -> Result<ExplainOf, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(ExplainOf::Address(address));
    }
    if let Ok(ja4) = text.parse::<Ja4>() {
        return Ok(ExplainOf::Ja4(ja4));
    }
    let hex = |part: &str| (1..=16).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.split_once('-') {
        Some((daemon, number)) if daemon.len() == 16 && hex(daemon) && hex(number) => {
            Ok(ExplainOf::Id(text.to_ascii_lowercase()))
        }
        _ => Err("it is neither an address nor a JA4 value nor the ID of a decision".to_owned()),
    }
}

/// Prints it. Negative if nothing is remembered.
///
/// # Errors
/// When the daemon can't be asked.
pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    match Client::reader(&args.control)?.ask(&Request::Explain { of: args.of.clone() })? {
        Response::Explained(explained) => {
            match args.format {
                Format::Table => writeln!(out, "{}", printable::lines(&screen(&explained, &args.control.suffix())))?,
                format => print::row(&explained, format, out)?,
            }
            Ok(Exit::Done)
        }
        Response::NotFound => Err(Failure::new(
            Exit::Negative,
            "no request of that client is remembered; `limits.assessments` says how many are\n\
             what web servers tell: detector reports; what operators ordered: detector list",
        )),
        _ => Err(Failure::new(Exit::Failed, "the daemon answers something else; is it of another version?")),
    }
}

/// As many lines as a small terminal shows.
const LINES: usize = 24;
/// Signals that are spelt out, whatever stands above them.
const SPELT_OUT: usize = 3;

/// What was found, on one screen; `suffix` goes to its commands.
pub(super) fn screen(known: &Explained, suffix: &str) -> String {
    let mut lines = vec![client(known), String::new(), verdict(known)];
    lines.extend(rows(known, suffix).into_iter().map(|(name, what)| format!("  {name:<8}{what}")));
    if !known.signals.is_empty() {
        lines.push(String::new());
        let room = (LINES.saturating_sub(lines.len() + 2) / 2).max(SPELT_OUT);
        lines.extend(signals(&known.signals, room));
    }
    lines.join("\n")
}

/// What is known of it beside the signals, by name.
fn rows(known: &Explained, suffix: &str) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let mut row = |name, what| rows.push((name, what));
    for order in &known.orders {
        row("ordered", ordered(order));
        row("lift", format!("{}{suffix}", order.lift));
    }
    row("unit", known.unit.clone());
    if known.reach == "inline" {
        row("where", "in answers to web servers only".to_owned());
    }
    if let Some(expires) = known.expires_in_s {
        row("expires", format!("in {}, unless it goes on", figures::seconds(expires)));
    }
    if let Some(lift) = &known.lift {
        row("lift", format!("{lift}{suffix}"));
    }
    if !known.axes.is_empty() {
        row("axes", known.axes.join(", "));
    }
    row("layers", layers(known));
    if let Some(network) = network(known) {
        row("network", network);
    }
    if !known.lists.is_empty() {
        row("lists", known.lists.join(", "));
    }
    let earlier = known.decided_by.as_ref().map(|earlier| format!(", decided by {earlier}"));
    row("id", format!("{}, {} ago{}", known.id, figures::seconds(known.ago_s), earlier.unwrap_or_default()));
    rows
}

/// Who it is.
fn client(known: &Explained) -> String {
    match &known.ja4 {
        Some(ja4) => format!("{}  {ja4}", known.address),
        None => known.address.to_string(),
    }
}

/// Whose address it is.
fn network(known: &Explained) -> Option<String> {
    let parts: Vec<String> = known.asn.map(|asn| format!("AS{asn}")).into_iter().chain(known.country.clone()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What an operator wants done.
fn ordered(order: &ExplainedOrder) -> String {
    let left = order.expires_in_s.map_or("forever".to_owned(), |left| format!("{} left", figures::seconds(left)));
    format!("{} {}{}, {left}", order.action, order.subject, order.at)
}

/// How sure it is, and what is done.
fn verdict(known: &Explained) -> String {
    let sure = format!("{}, score {:.3}", known.confidence, known.score);
    let settled = known.settled_by.as_ref().map(|signal| format!(" (settled by {signal})")).unwrap_or_default();
    let only_counts = known.only_counts.as_ref().map(|why| format!(", only counted: {why}"));
    format!("{sure}{settled}: {}{}", known.action, only_counts.unwrap_or_default())
}

/// What the layers add that have something to say, and which don't count.
fn layers(known: &Explained) -> String {
    let said = known.layers.iter().filter_map(|layer| {
        let mode = if layer.mode == "on" { String::new() } else { format!(" ({})", layer.mode) };
        match layer.log_odds {
            Some(log_odds) => Some(format!("{} {log_odds:+.1}{mode}", layer.layer)),
            None if layer.mode == "off" => Some(format!("{}{mode}", layer.layer)),
            None => None,
        }
    });
    let said: Vec<String> = said.collect();
    if said.is_empty() { "none has anything to say".to_owned() } else { said.join(", ") }
}

/// The heaviest `most` in two lines each, the rest by name.
fn signals(found: &[ExplainedSignal], most: usize) -> Vec<String> {
    let (shown, rest) = found.split_at(most.min(found.len()));
    let axis = shown.iter().map(|signal| signal.axis.chars().count()).max().unwrap_or_default().max(4);
    let mut lines = vec![format!("WEIGHT  {:<axis$}  SIGNAL: OBSERVED (EXPECTED)", "AXIS")];
    for signal in shown {
        let shadow = if signal.counts { "" } else { ", doesn't count" };
        lines.push(format!(
            "{:>+6.1}  {:<axis$}  {}: {} ({}){shadow}",
            signal.weight, signal.axis, signal.signal, signal.observed, signal.expected
        ));
        lines.push(format!("        {}", signal.meaning));
    }
    if !rest.is_empty() {
        lines.push(format!("and {} lighter ones, which `--format json` has", rest.len()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::protocol::ExplainedLayer;
    use crate::score::Signal;

    fn known() -> Explained {
        let signal =
            |signal: &str, axis: &str, weight, observed: &str, expected: &str, meaning: &str| ExplainedSignal {
                signal: signal.to_owned(),
                layer: "coherence".to_owned(),
                axis: axis.to_owned(),
                weight,
                counts: true,
                observed: observed.to_owned(),
                expected: expected.to_owned(),
                meaning: meaning.to_owned(),
            };
        let layer = |layer: &str, mode: &str, log_odds| ExplainedLayer {
            layer: layer.to_owned(),
            mode: mode.to_owned(),
            log_odds,
        };
        Explained {
            id: "5f3c0a12b7e4d901-2a".to_owned(),
            decided_by: None,
            at: "2026-11-22T23:40:00Z".to_owned(),
            ago_s: 3,
            address: "192.0.2.7".parse().unwrap(),
            ja4: Some("t13d1516h2_8daaf6152771_d8a2da3f94cd".to_owned()),
            confidence: "definitely_bot".to_owned(),
            score: 0.9876,
            settled_by: None,
            axes: vec!["tls".to_owned(), "http".to_owned()],
            lists: vec!["drop".to_owned()],
            asn: Some(24_940),
            country: Some("DE".to_owned()),
            action: "block".to_owned(),
            only_counts: Some("the mode is observe".to_owned()),
            unit: "192.0.2.7 with t13d1516h2_8daaf6152771_d8a2da3f94cd".to_owned(),
            reach: "packets".to_owned(),
            until: Some("2026-11-23T00:40:00Z".to_owned()),
            expires_in_s: Some(3597),
            lift: Some("detector allow 192.0.2.7 --ttl 1d".to_owned()),
            orders: Vec::new(),
            layers: vec![
                layer("reputation", "shadow", Some(2.0)),
                layer("coherence", "on", Some(6.0)),
                layer("model", "on", None),
            ],
            signals: vec![
                signal(
                    "ua-tls-mismatch",
                    "tls",
                    3.5,
                    "go",
                    "chrome 140",
                    "the hello is of another family than the User-Agent says",
                ),
                signal("no-user-agent", "http", -2.5, "none", "none", "no User-Agent"),
            ],
            assessments: 1,
        }
    }

    #[test]
    fn the_screen_says_what_why_and_how_to_lift_it() {
        let expected = "\
192.0.2.7  t13d1516h2_8daaf6152771_d8a2da3f94cd

definitely_bot, score 0.988: block, only counted: the mode is observe
  unit    192.0.2.7 with t13d1516h2_8daaf6152771_d8a2da3f94cd
  expires in 59m 57s, unless it goes on
  lift    detector allow 192.0.2.7 --ttl 1d --control-socket /x
  axes    tls, http
  layers  reputation +2.0 (shadow), coherence +6.0
  network AS24940, DE
  lists   drop
  id      5f3c0a12b7e4d901-2a, 3s ago

WEIGHT  AXIS  SIGNAL: OBSERVED (EXPECTED)
  +3.5  tls   ua-tls-mismatch: go (chrome 140)
        the hello is of another family than the User-Agent says
  -2.5  http  no-user-agent: none (none)
        no User-Agent";
        assert_eq!(screen(&known(), " --control-socket /x"), expected);
    }

    #[test]
    fn what_an_operator_ordered_comes_first_with_the_command_that_lifts_it() {
        let order = ExplainedOrder {
            action: "block".to_owned(),
            at: crate::policy::terms::Layer::Inline,
            subject: "192.0.2.0/24".parse().unwrap(),
            expires_in_s: Some(3543),
            lift: "detector unblock 192.0.2.0/24".to_owned(),
        };
        let known = Explained { orders: vec![order], lift: None, reach: "inline".to_owned(), ..known() };
        let printed = screen(&known, "");
        let lines: Vec<&str> = printed.lines().skip(3).take(4).collect();
        assert_eq!(
            lines,
            [
                "  ordered block 192.0.2.0/24 --at inline, 59m 3s left",
                "  lift    detector unblock 192.0.2.0/24",
                "  unit    192.0.2.7 with t13d1516h2_8daaf6152771_d8a2da3f94cd",
                "  where   in answers to web servers only",
            ]
        );
    }

    /// However much was found, and for the longest texts there are.
    #[test]
    fn it_fits_on_a_small_screen() {
        let mut all = known();
        all.signals = Signal::ALL
            .map(|signal| ExplainedSignal {
                signal: signal.name().to_owned(),
                layer: signal.layer().label().to_owned(),
                axis: signal.axis().label().to_owned(),
                weight: signal.weight(),
                counts: true,
                observed: "1.25".to_owned(),
                expected: "more addresses".to_owned(),
                meaning: signal.meaning().to_owned(),
            })
            .to_vec();
        for _ in 0..all.signals.len() {
            all.signals.rotate_left(1);
            let printed = screen(&all, "");
            assert!(printed.lines().count() <= LINES, "{printed}");
            assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
        }
        assert!(screen(&all, "").ends_with(" lighter ones, which `--format json` has"));
    }

    #[test]
    fn addresses_ja4_values_and_ids_are_told_apart() {
        assert_eq!(of("::ffff:192.0.2.7"), Ok(ExplainOf::Address("::ffff:192.0.2.7".parse().unwrap())));
        let ja4 = "t13d1516h2_8daaf6152771_d8a2da3f94cd";
        assert_eq!(of(ja4), Ok(ExplainOf::Ja4(ja4.parse().unwrap())));
        assert_eq!(of("5F3C0A12B7E4D901-2a"), Ok(ExplainOf::Id("5f3c0a12b7e4d901-2a".to_owned())));
        for wrong in ["", "example.org", "192.0.2.0/24", "5f3c-2a", "5f3c0a12b7e4d901-", "5f3c0a12b7e4d90x-1"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
