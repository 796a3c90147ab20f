//! Why a client is treated as it is, as `detector explain` shows it. Every word is one of ours, a number or an address. Bound:
//! as many signals as an assessment has, 32 at most, and [`ORDERS_MAX`] orders.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::fingerprint::Ja4;
use crate::policy::subject::Subject;
use crate::policy::terms::Layer;

/// Operators' orders of which one answer tells: what is about one client are few.
pub const ORDERS_MAX: usize = 16;

/// Of whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExplainOf {
    /// Clients at an address.
    Address(IpAddr),
    /// Clients with a JA4 value.
    Ja4(Ja4),
    /// One decision: as `x-detector-id` names it.
    Id(String),
}

/// What was assessed last of them, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// What names it.
    pub id: String,
    /// An earlier one, which decided what still holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When: RFC 3339 in UTC.
    pub at: String,
    /// Seconds since then.
    pub ago_s: u64,
    /// The client's address.
    pub address: IpAddr,
    /// Its JA4; absent behind a proxy.
    pub ja4: Option<String>,
    /// `definitely_human` to `definitely_bot`.
    pub confidence: String,
    /// That a program sent the request, 0 to 1.
    pub score: f32,
    /// The signal that settled it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_by: Option<String>,
    /// Axes that speak for a program.
    pub axes: Vec<String>,
    /// The lists that name the address.
    pub lists: Vec<String>,
    /// Its autonomous system.
    pub asn: Option<u32>,
    /// Its country.
    pub country: Option<String>,
    /// What is done: `allow` to `block`.
    pub action: String,
    /// Why that only counts; absent if it is in force, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_counts: Option<String>,
    /// Whom it is on.
    pub unit: String,
    /// Where it is carried out: `packets` too, or `inline` alone.
    pub reach: String,
    /// Until when: RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Seconds until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    /// The command that lifts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lift: Option<String>,
    /// What operators have ordered about them: it holds, whatever is decided here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<ExplainedOrder>,
    /// What came of each layer.
    pub layers: Vec<ExplainedLayer>,
    /// What was found, the heaviest first.
    pub signals: Vec<ExplainedSignal>,
    /// How many assessments of them are remembered.
    pub assessments: usize,
}

/// An order of an operator's that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedOrder {
    /// What is done: `block`, `limit`, `observe`, `challenge` or `allow`.
    pub action: String,
    /// Where: to `packets`, or to requests, `inline`.
    pub at: Layer,
    /// Whom it is on.
    pub subject: Subject,
    /// Seconds until its end; absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    /// The command that takes it back.
    pub lift: String,
}

/// What came of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedLayer {
    /// Which.
    pub layer: String,
    /// `off`, `shadow` or `on`.
    pub mode: String,
    /// What it adds; absent if it had nothing to say.
    pub log_odds: Option<f32>,
}

/// What one signal found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedSignal {
    /// Which.
    pub signal: String,
    /// Whose.
    pub layer: String,
    /// What it looks at.
    pub axis: String,
    /// Log-odds.
    pub weight: f32,
    /// Its layer is on, not in shadow.
    pub counts: bool,
    /// What was seen.
    pub observed: String,
    /// What a person's browser shows.
    pub expected: String,
    /// What it means, in one line.
    pub meaning: String,
}
