//! What was assessed of somebody, in the words of the control socket.

use super::assessor::Assessor;
use super::memory::Record;
use super::orders::Orders;
use crate::admin::protocol::{
    Change, Changed, ExplainOf, Explained, ExplainedLayer, ExplainedOrder, ExplainedSignal, ORDERS_MAX, Request,
    Response, until,
};
use crate::clock::{Timestamp, monotonic, wall};
use crate::join::Reach;
use crate::policy::decide::Unit;
use crate::policy::subject::Subject;
use crate::policy::terms::{Measure, Terms};
use crate::policy::ttl::Ttl;
use crate::reputation::Country;
use crate::score::{Assessment, Mode};

/// Why somebody is treated as they are.
pub(super) fn answer(assessor: &Assessor, orders: &Orders, of: &ExplainOf) -> Response {
    let found = match of {
        ExplainOf::Address(address) => {
            let address = address.to_canonical();
            assessor.find(|record| record.address.to_canonical() == address || is_in(&record.decision.unit, address))
        }
        ExplainOf::Ja4(ja4) => assessor.find(|record| {
            record.ja4 == Some(*ja4) || matches!(record.decision.unit, Unit::Pair(_, stable) if stable == *ja4)
        }),
        ExplainOf::Id(id) => assessor.find(|record| record.id.to_string() == *id),
    };
    let Some((record, assessments)) = found else { return Response::NotFound };
    let ordered = orders.about(record.address.to_canonical(), record.ja4);
    let orders = ordered.iter().filter_map(order).take(ORDERS_MAX).collect();
    Response::Explained(Box::new(Explained { orders, ..explained(assessor, &record, assessments, monotonic()) }))
}

fn is_in(unit: &Unit, address: std::net::IpAddr) -> bool {
    match unit {
        Unit::Pair(prefix, _) | Unit::Forwarded(prefix, ..) => prefix.contains(&address),
        Unit::Session(_) => false,
    }
}

fn explained(assessor: &Assessor, record: &Record, assessments: usize, now: Timestamp) -> Explained {
    let Record { id, at, address, ja4, standing, assessment, decision, in_force, earlier, .. } = record;
    let ago = now.since(*at);
    let when = wall().checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
    let left = record.until.filter(|end| now < *end).map(|end| Ttl::For(end.since(now)));
    let felt = decision.action.is_felt();
    let why = || match left {
        None => "nothing is held against the client",
        Some(_) if !assessor.enforces() => "the mode is observe",
        Some(_) => "a circuit breaker is open",
    };
    let only_counts = (felt && !in_force).then(|| why().to_owned());
    Explained {
        id: id.to_string(),
        decided_by: earlier.map(|earlier| earlier.to_string()),
        at: humantime::format_rfc3339_seconds(when).to_string(),
        ago_s: ago.as_secs(),
        address: *address,
        ja4: ja4.map(|ja4| ja4.to_string()),
        confidence: assessment.confidence.label().to_owned(),
        score: assessment.score,
        settled_by: assessment.settled.map(|signal| signal.name().to_owned()),
        axes: assessment.axes.iter().map(|axis| axis.label().to_owned()).collect(),
        lists: assessor.list_names(standing.lists),
        asn: standing.asn,
        country: standing.country.as_ref().map(Country::to_string),
        action: decision.action.label().to_owned(),
        only_counts,
        unit: unit(&decision.unit),
        reach: if decision.reach == Reach::Packets { "packets" } else { "inline" }.to_owned(),
        until: left.map(|left| until(left, wall())),
        expires_in_s: left.and_then(Ttl::as_secs),
        lift: left.filter(|_| felt).map(|_| format!("detector allow {} --ttl 1d", place(&decision.unit, *address))),
        orders: Vec::new(),
        layers: layers(assessment),
        signals: signals(assessment),
        assessments,
    }
}

/// What an operator may allow to lift what is decided about a unit: of a session, which has no name that he could type, the
/// address of its last request.
fn place(unit: &Unit, address: std::net::IpAddr) -> Subject {
    match unit {
        Unit::Pair(prefix, _) | Unit::Forwarded(prefix, ..) => Subject::from(*prefix),
        Unit::Session(_) => Subject::from(ipnet::IpNet::from(address)),
    }
}

fn unit(unit: &Unit) -> String {
    match unit {
        Unit::Pair(prefix, ja4) => format!("{} with {ja4}", Subject::from(*prefix)),
        Unit::Forwarded(prefix, ..) => format!("{} behind a proxy, with this User-Agent", Subject::from(*prefix)),
        Unit::Session(_) => "this session of the site's own".to_owned(),
    }
}

/// An order, and what takes it back.
fn order(order: &Request) -> Option<ExplainedOrder> {
    let (subject, ttl, terms, action, change) = match order {
        Request::Block { subject, ttl, terms, .. } => {
            let action = match terms.measure {
                Measure::Block => "block",
                Measure::RateLimit(_) => "limit",
                Measure::Observe => "observe",
            };
            (subject, *ttl, *terms, action, Change::from(terms.measure))
        }
        Request::Challenge { subject, ttl, at } => {
            (subject, *ttl, Terms { at: *at, ..Terms::default() }, "challenge", Change::Challenged)
        }
        Request::Allow { subject, ttl } => (subject, *ttl, Terms::default(), "allow", Change::Allowed),
        _ => return None,
    };
    let Changed { subject, expires_in_s, undo, .. } = Changed::on(change, subject.clone(), terms, ttl, wall());
    Some(ExplainedOrder { action: action.to_owned(), at: terms.at, subject, expires_in_s, lift: undo })
}

fn layers(assessment: &Assessment) -> Vec<ExplainedLayer> {
    let layer = |score: &crate::score::LayerScore| ExplainedLayer {
        layer: score.layer.label().to_owned(),
        mode: score.mode.label().to_owned(),
        log_odds: score.sum,
    };
    assessment.layers.iter().map(layer).collect()
}

fn signals(assessment: &Assessment) -> Vec<ExplainedSignal> {
    let counts = |layer| assessment.layers.iter().any(|score| score.layer == layer && score.mode == Mode::On);
    let sorted = assessment.evidence.by_weight().into_iter();
    let signal = |evidence: crate::score::Evidence| ExplainedSignal {
        signal: evidence.signal.name().to_owned(),
        layer: evidence.signal.layer().label().to_owned(),
        axis: evidence.signal.axis().label().to_owned(),
        weight: evidence.weight,
        counts: counts(evidence.signal.layer()),
        observed: evidence.observed.to_string(),
        expected: evidence.expected_text(),
        meaning: evidence.signal.meaning().to_owned(),
    };
    sorted.map(signal).collect()
}
