//! What came of a replay, printed: by family, or each request.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::IpAddr;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use super::joined::Joined;
use super::world::Judged;
use crate::cli::{Format, printable};
use crate::fingerprint::Ja4;
use crate::policy::decide::{Action, Unit};
use crate::policy::families;
use crate::score::{Axis, Signal};
use crate::sheet::{self, Sheet};

/// A request and what the old and the new policy say of it.
type Both<'a> = (&'a Joined<'a>, [Judged; 2]);

/// Clients that no family is known for.
const OTHER: &str = "other";

#[derive(Default)]
struct Family {
    requests: u64,
    /// The hardest that was decided about each.
    clients: HashMap<Unit, [Action; 2]>,
}

/// Who would be hit, by family.
pub(super) fn families<'a>(
    judged: impl Iterator<Item = Both<'a>>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    for (request, judged) in judged {
        let family = families.entry(name(request)).or_default();
        family.requests += 1;
        let [old, new] = judged.map(|judged| judged.decision);
        let [hardest_old, hardest_new] = family.clients.entry(new.unit).or_insert([Action::Allow; 2]);
        *hardest_old = (*hardest_old).max(old.action);
        *hardest_new = (*hardest_new).max(new.action);
    }
    print(families.iter().map(|(name, family)| row(name, family)), &FamilyRow::KEYS, format, out)
}

/// A family's line: clients by the hardest that is decided about them.
#[derive(Serialize)]
struct FamilyRow<'a> {
    family: &'a str,
    clients: usize,
    requests: u64,
    old_block: usize,
    old_challenge: usize,
    old_rate_limit: usize,
    new_block: usize,
    new_challenge: usize,
    new_rate_limit: usize,
    newly_hit: usize,
    no_longer_hit: usize,
}

impl FamilyRow<'_> {
    const KEYS: [&'static str; 11] = [
        "family",
        "clients",
        "requests",
        "old_block",
        "old_challenge",
        "old_rate_limit",
        "new_block",
        "new_challenge",
        "new_rate_limit",
        "newly_hit",
        "no_longer_hit",
    ];
}

fn row<'a>(family: &'a str, of: &Family) -> FamilyRow<'a> {
    let count = |action: Action| {
        let count = |which: usize| {
            of.clients.values().filter(|hardest| hardest.get(which).is_some_and(|decided| *decided == action)).count()
        };
        [count(0), count(1)]
    };
    let moved = |from: bool, to: bool| {
        of.clients.values().filter(|[old, new]| (old.is_felt(), new.is_felt()) == (from, to)).count()
    };
    let [[old_block, new_block], [old_challenge, new_challenge], [old_rate_limit, new_rate_limit]] =
        [Action::Block, Action::Challenge, Action::RateLimit].map(count);
    FamilyRow {
        family,
        clients: of.clients.len(),
        requests: of.requests,
        old_block,
        old_challenge,
        old_rate_limit,
        new_block,
        new_challenge,
        new_rate_limit,
        newly_hit: moved(false, true),
        no_longer_hit: moved(true, false),
    }
}

/// A request's line.
#[derive(Serialize)]
struct RequestRow<'a> {
    t: Option<f64>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    path: Option<String>,
    ja4: Option<Ja4>,
    family: &'a str,
    old: &'a str,
    old_action: &'a str,
    old_reason: &'a str,
    new: &'a str,
    new_action: &'a str,
    new_reason: &'a str,
}

impl RequestRow<'_> {
    const KEYS: [&'static str; 12] = [
        "t",
        "ip",
        "port",
        "path",
        "ja4",
        "family",
        "old",
        "old_action",
        "old_reason",
        "new",
        "new_action",
        "new_reason",
    ];
}

/// Each request, with its evidence.
pub(super) fn requests<'a>(
    judged: impl Iterator<Item = Both<'a>>,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    if format == Format::Json {
        let details = judged.map(|(request, [old, new])| {
            let mut row = json!(brief(request, [&old, &new]));
            (row["old"], row["new"]) = (detail(&old), detail(&new));
            row
        });
        return print(details, &[], format, out);
    }
    let rows: Vec<RequestRow<'_>> = judged.map(|(request, [old, new])| brief(request, [&old, &new])).collect();
    print(rows.iter(), &RequestRow::KEYS, format, out)
}

fn brief<'a>(request: &Joined<'a>, judged: [&Judged; 2]) -> RequestRow<'a> {
    let report = request.report;
    let [old, new] = judged.map(|Judged { assessment, decision }| {
        (assessment.confidence.label(), decision.action.label(), decision.reason.map_or("", Signal::name))
    });
    RequestRow {
        t: report.time,
        ip: report.client,
        port: report.client_port,
        path: report.path.as_deref().map(printable::line),
        ja4: request.found.as_ref().map(|found| found.identity.ja4),
        family: name(request),
        old: old.0,
        old_action: old.1,
        old_reason: old.2,
        new: new.0,
        new_action: new.1,
        new_reason: new.2,
    }
}

fn detail(judged: &Judged) -> Value {
    let Judged { assessment, decision } = judged;
    let signals: Vec<Value> = assessment
        .evidence
        .by_weight()
        .iter()
        .map(|evidence| {
            json!({
                "name": evidence.signal.name(),
                "layer": evidence.signal.layer().label(),
                "axis": evidence.signal.axis().label(),
                "weight": evidence.weight,
                "observed": evidence.observed.to_string(),
                "expected": evidence.expected_text(),
            })
        })
        .collect();
    json!({
        "score": assessment.score,
        "confidence": assessment.confidence.label(),
        "action": decision.action.label(),
        "ttl_s": decision.ttl.as_secs(),
        "reason": decision.reason.map(Signal::name),
        "axes": decision.axes.iter().map(Axis::label).collect::<Vec<_>>(),
        "signals": signals,
    })
}

/// Of the catalogue.
fn name(request: &Joined<'_>) -> &'static str {
    let known = request.found.as_ref().and_then(|found| families::find(found.identity.ja4));
    known.map_or(OTHER, |known| known.family.as_str())
}

/// Rows whose keys are these.
fn print(
    rows: impl Iterator<Item = impl Serialize>,
    keys: &[&str],
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    match format {
        Format::Json => {
            for row in rows {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            }
            Ok(())
        }
        Format::Csv => {
            let mut sheet = Sheet::new(out, keys.iter().copied());
            for row in rows {
                sheet.row(&row)?;
            }
            sheet.end()
        }
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header(keys.iter().map(|key| key.replace('_', " ")));
            for row in rows {
                table.add_row(sheet::fields(&row)?.into_iter().map(|(_, cell)| cell));
            }
            if !table.is_empty() {
                writeln!(out, "{table}")?;
            }
            Ok(())
        }
    }
}
