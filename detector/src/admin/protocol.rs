//! The words of the control socket: one JSON object a line, one request, one response. Bound: a line, either way, is
//! at most [`FRAME_MAX`] bytes; lists come in pages of [`PAGE`] entries.

mod explain;
mod load;
mod reload;
mod reports;
mod status;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::config::{LogFilter, Mode};
use crate::fingerprint::{Ja4, Ja4Raw};
use crate::policy::subject::Subject;
use crate::policy::terms::{Layer, Measure, Terms};
use crate::policy::ttl::Ttl;
use crate::signals::Figures;

pub use explain::{ExplainOf, Explained, ExplainedLayer, ExplainedOrder, ExplainedSignal, ORDERS_MAX};
pub use load::{Item, List, Load, Loaded};
pub use reload::{Outcome, Reloaded, Settings};
pub use reports::{Seen, TEXT_MAX};
pub use status::{Challenger, Fingerprint, InForce, Interface, LATELY_S, NAME_MAX, Ring, Signals, Status, TOP_MAX};

/// The most bytes of one line, its end included.
pub const FRAME_MAX: usize = 64 * 1024;

/// The most entries of one response. Those that have a JA4_r take more room: of them a page holds fewer.
pub const PAGE: usize = 256;

/// The most bytes of an entry without its JA4_r, and of what names that.
const ENTRY_MAX: usize = 250;

/// As many of the entries as fit into one response.
#[must_use]
pub fn page(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut room = FRAME_MAX - ENTRY_MAX;
    let fits = |entry: &Entry| {
        let raw = entry.ja4_r.as_ref().map_or(0, |raw| raw.as_str().len());
        room = room.checked_sub(ENTRY_MAX + raw)?;
        Some(())
    };
    let count = entries.iter().map_while(fits).count();
    entries.truncate(count);
    entries
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Drop what comes from the subject.
    Block {
        /// Whom.
        subject: Subject,
        /// For how long.
        ttl: Ttl,
        /// What keeps it from hurting.
        #[serde(default, skip_serializing_if = "Care::is_default")]
        care: Care,
        /// What else than drop, and in whose name.
        #[serde(default, skip_serializing_if = "Terms::is_default")]
        terms: Terms,
    },
    /// Let the subject pass, whatever else is said about it. Never a JA4 value.
    Allow {
        /// Whom.
        subject: Subject,
        /// For how long.
        ttl: Ttl,
    },
    /// Take a block back.
    Unblock {
        /// Whose.
        subject: Subject,
    },
    /// Take an allow entry back. Never a JA4 value.
    Unallow {
        /// Whose.
        subject: Subject,
    },
    /// Steer new connections of the subject to the challenge listener, if there is one; or have its requests answered
    /// with a challenge.
    Challenge {
        /// Whom.
        subject: Subject,
        /// For how long.
        ttl: Ttl,
        /// Which of the two.
        #[serde(default, skip_serializing_if = "Layer::is_default")]
        at: Layer,
    },
    /// Take a challenge back.
    Unchallenge {
        /// Whose.
        subject: Subject,
    },
    /// Steer to the listening TCP socket that came along, as SCM_RIGHTS of the same message, for as long as this
    /// connection stays open. It is the connection's last request.
    #[serde(rename = "challenge-listener")]
    ChallengeListener {
        /// The protected ports whose connections it takes; none: all of them.
        #[serde(default)]
        ports: Vec<u16>,
    },
    /// One page of entries, in an order that stays.
    List {
        /// Entries before the page.
        #[serde(default)]
        skip: usize,
    },
    /// Many blocks or allow entries, all or none.
    Load(Box<Load>),
    /// Keep what would take itself back.
    Confirm,
    /// How things stand.
    Status,
    /// The same, with more JA4 values: those first that come most just now.
    Top,
    /// The reports that are kept, from one on.
    Reports {
        /// The number of the last one that is known already; 0: none.
        #[serde(default)]
        after: u64,
    },
    /// How a JA4 value stands.
    Signals {
        /// Which.
        ja4: Ja4,
    },
    /// Why a client is treated as it is.
    Explain {
        /// Which.
        of: ExplainOf,
    },
    /// The settings that are in force, from one on.
    Config {
        /// Settings before the first.
        #[serde(default)]
        skip: usize,
    },
    /// Read the configuration again, and work by it.
    Reload,
    /// What is logged.
    Log {
        /// What it is to be, until a reload or the end; none: only ask.
        #[serde(default)]
        filter: Option<LogFilter>,
    },
    /// Whether what nobody ordered by hand is carried out.
    Mode {
        /// What it is to be; none: only ask.
        #[serde(default)]
        mode: Option<Mode>,
        /// For how long; then it is what it was.
        #[serde(default)]
        ttl: Option<Ttl>,
    },
}

/// How much care a block is taken with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Care {
    /// Also if it would hit many browsers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// It takes itself back after so many seconds, unless [`Request::Confirm`] comes before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_within_s: Option<u32>,
    /// Where the operator's SSH session comes from: never blocked from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_client: Option<IpAddr>,
}

impl Care {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Request {
    /// Reads one line. The error is one line, too.
    ///
    /// # Errors
    /// When it is no request, or asks for what can't be.
    pub fn decode(line: &[u8]) -> Result<Self, String> {
        let request = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let not_for_allow = match &request {
            Request::Allow { subject, .. } | Request::Unallow { subject } => subject.as_ja4(),
            Request::Load(load) if load.list == List::Allow => load.items.iter().find_map(|item| item.subject.as_ja4()),
            _ => None,
        };
        match not_for_allow {
            Some(ja4) => Err(format!("the allow list holds addresses and prefixes, not JA4 values like `{ja4}`")),
            None => Ok(request),
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Request::Block { .. } => "block",
            Request::Allow { .. } => "allow",
            Request::Unblock { .. } => "unblock",
            Request::Unallow { .. } => "unallow",
            Request::Challenge { .. } => "challenge",
            Request::Unchallenge { .. } => "unchallenge",
            Request::ChallengeListener { .. } => "challenge-listener",
            Request::List { .. } => "list",
            Request::Load(_) => "load",
            Request::Confirm => "confirm",
            Request::Status => "status",
            Request::Top => "top",
            Request::Reports { .. } => "reports",
            Request::Signals { .. } => "signals",
            Request::Explain { .. } => "explain",
            Request::Mode { .. } => "mode",
            Request::Config { .. } => "config",
            Request::Reload => "reload",
            Request::Log { .. } => "log",
        }
    }

    /// Whether it changes something: what does is for operators alone, and leaves an audit line.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        match self {
            Request::Block { .. }
            | Request::Allow { .. }
            | Request::Unblock { .. }
            | Request::Unallow { .. }
            | Request::Challenge { .. }
            | Request::Unchallenge { .. }
            | Request::ChallengeListener { .. }
            | Request::Load(_)
            | Request::Confirm
            | Request::Reload => true,
            Request::Mode { mode, .. } => mode.is_some(),
            Request::Log { filter } => filter.is_some(),
            Request::List { .. }
            | Request::Status
            | Request::Top
            | Request::Reports { .. }
            | Request::Signals { .. }
            | Request::Explain { .. }
            | Request::Config { .. } => false,
        }
    }

    /// What a request that changes something is about.
    #[must_use]
    pub const fn subject(&self) -> Option<&Subject> {
        match self {
            Request::Block { subject, .. }
            | Request::Allow { subject, .. }
            | Request::Unblock { subject }
            | Request::Unallow { subject }
            | Request::Challenge { subject, .. }
            | Request::Unchallenge { subject } => Some(subject),
            Request::List { .. }
            | Request::Load(_)
            | Request::Confirm
            | Request::ChallengeListener { .. }
            | Request::Status
            | Request::Top
            | Request::Reports { .. }
            | Request::Signals { .. }
            | Request::Explain { .. }
            | Request::Config { .. }
            | Request::Reload
            | Request::Log { .. }
            | Request::Mode { .. } => None,
        }
    }

    /// What an order is about: packets or requests.
    #[must_use]
    pub const fn layer(&self) -> Layer {
        match self {
            Request::Block { terms: Terms { at, .. }, .. } | Request::Challenge { at, .. } => *at,
            _ => Layer::Packets,
        }
    }

    /// What the audit line says that a request that changes something is about.
    #[must_use]
    pub fn audited(&self) -> Option<String> {
        match self {
            Request::Load(load) => Some(format!("{} entries to {}", load.items.len(), load.list.verb())),
            Request::Confirm => Some("what would take itself back".to_owned()),
            Request::Reload => Some("the configuration".to_owned()),
            Request::Log { filter } => filter.as_ref().map(|filter| filter.as_str().to_owned()),
            Request::ChallengeListener { ports } if ports.is_empty() => Some("all protected ports".to_owned()),
            Request::ChallengeListener { ports } => Some(format!("{} protected ports", ports.len())),
            Request::Mode { mode, .. } => mode.map(|mode| mode.label().to_owned()),
            request => request.subject().map(ToString::to_string),
        }
    }

    /// What a request that changes the mode makes of it.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        if let Request::Mode { mode, .. } = self { *mode } else { None }
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Changed(Changed),
    /// One page of entries.
    Entries {
        /// At most [`PAGE`].
        entries: Vec<Entry>,
        /// Entries in all.
        total: usize,
    },
    /// A part of a load is held until the rest has come.
    Held {
        /// Entries so far.
        entries: usize,
    },
    /// A load is done.
    Loaded(Loaded),
    /// What would have taken itself back stays.
    Confirmed {
        /// Entries.
        entries: usize,
    },
    /// How things stand.
    Status(Box<Status>),
    /// Some of the reports that are kept, the oldest first; none: there are no more.
    Reports {
        /// As many as fit.
        reports: Vec<Seen>,
    },
    /// How a JA4 value stands.
    Signals(Box<Figures>),
    /// Why a client is treated as it is.
    Explained(Box<Explained>),
    /// The mode, as it is now.
    Mode(InForce),
    /// Some of the settings in force.
    Settings(Settings),
    /// What became of a reload.
    Reloaded(Reloaded),
    /// What is logged now.
    Log {
        /// By which filter.
        filter: LogFilter,
    },
    /// The listener has its place, and keeps it until its connection ends.
    Listening {
        /// The protected ports whose connections it takes, once it is healthy.
        ports: Vec<u16>,
    },
    /// There was nothing to take back, or nothing is known of it.
    NotFound,
    /// Not done, for a reason that the operator can do something about.
    Refused {
        /// Why.
        reason: String,
        /// What to do next.
        hint: String,
    },
    /// Not done: who asks on this socket may not.
    Forbidden {
        /// Why, and who may.
        message: String,
    },
    /// Not done: no request, or the daemon failed.
    Error {
        /// Why.
        message: String,
    },
}

impl Response {
    /// One word for the audit line.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Response::Changed(_) | Response::Loaded(_) | Response::Confirmed { .. } => "changed",
            Response::Entries { .. }
            | Response::Status(_)
            | Response::Reports { .. }
            | Response::Signals(_)
            | Response::Explained(_)
            | Response::Mode(_)
            | Response::Settings(_)
            | Response::Log { .. }
            | Response::Listening { .. } => "answered",
            Response::Held { .. } => "held",
            Response::Reloaded(reloaded) => reloaded.outcome.label(),
            Response::NotFound => "not_found",
            Response::Refused { .. } => "refused",
            Response::Forbidden { .. } => "forbidden",
            Response::Error { .. } => "error",
        }
    }

    /// The line that goes over the socket. A response too long for one is an error instead.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut line = BytesMut::new().writer();
        let written = serde_json::to_writer(&mut line, self).map_err(|error| error.to_string());
        let mut line = line.into_inner();
        let checked = written.and_then(|()| match line.len() {
            0..FRAME_MAX => Ok(()),
            long => Err(format!("the response has {long} bytes; {FRAME_MAX} is the most")),
        });
        if let Err(message) = checked {
            line.clear();
            line.put_slice(serde_json::json!({ "response": "error", "message": message }).to_string().as_bytes());
        }
        line.put_u8(b'\n');
        line.freeze()
    }
}

/// What was done to a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// On the deny list now.
    Blocked,
    /// Its new connections are limited now.
    Limited,
    /// What a block would drop of it is counted now.
    Observed,
    /// On the allow list now.
    Allowed,
    /// Not on the deny list any more.
    Unblocked,
    /// Not on the allow list any more.
    Unallowed,
    /// Under a challenge now.
    Challenged,
    /// Under no challenge any more.
    Unchallenged,
}

impl From<Measure> for Change {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Block => Change::Blocked,
            Measure::RateLimit(_) => Change::Limited,
            Measure::Observe => Change::Observed,
        }
    }
}

/// A change, until when it holds, and how to take it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What was done.
    pub action: Change,
    /// To whom.
    pub subject: Subject,
    /// RFC 3339 in UTC, or `forever`. Of what was taken back: until when it would have held.
    pub until: String,
    /// Seconds until then; none is forever.
    pub expires_in_s: Option<u64>,
    /// The command that takes it back.
    pub undo: String,
    /// What the operator should know besides, one line: an allow entry that overrules this block, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Changed {
    /// `ttl`: how long it holds, or would have held; `now`: the wall clock.
    #[must_use]
    pub fn new(action: Change, subject: Subject, ttl: Ttl, now: SystemTime) -> Self {
        Self::on(action, subject, Terms::default(), ttl, now)
    }

    /// The same of a block on other terms.
    #[must_use]
    pub fn on(action: Change, subject: Subject, terms: Terms, ttl: Ttl, now: SystemTime) -> Self {
        let subject = subject.short();
        let arguments = match &subject {
            Subject::Ja4(_) => format!("--ja4 {subject}"),
            Subject::Pair(_, fingerprint) => {
                let text = subject.to_string();
                let source = text.split('+').next().unwrap_or_default();
                format!("{source} --ja4 {fingerprint}")
            }
            _ => subject.to_string(),
        };
        let undo = match action {
            Change::Blocked | Change::Limited | Change::Observed => format!("detector unblock {arguments}"),
            Change::Allowed => format!("detector unallow {subject}"),
            Change::Unblocked => format!("detector block {arguments} --ttl {ttl}{terms}"),
            Change::Unallowed => format!("detector allow {subject} --ttl {ttl}"),
            Change::Challenged => format!("detector unchallenge {arguments}"),
            Change::Unchallenged => format!("detector challenge {arguments} --ttl {ttl}{}", terms.at),
        };
        Self { action, subject, until: until(ttl, now), expires_in_s: ttl.as_secs(), undo, note: None }
    }
}

/// The end of `ttl` on the wall clock as RFC 3339, or `forever`.
#[must_use]
pub fn until(ttl: Ttl, now: SystemTime) -> String {
    let end = ttl.as_secs().and_then(|secs| now.checked_add(Duration::from_secs(secs)));
    end.map_or_else(|| "forever".to_owned(), |end| humantime::format_rfc3339_seconds(end).to_string())
}

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Passes.
    Allow,
    /// Passes, and is counted.
    Observe,
    /// Passes; new connections go to the challenge listener where there is one.
    Challenge,
    /// So many new connections in a time pass.
    RateLimit,
    /// Dropped.
    Block,
}

/// Who made an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A person, by command.
    Operator,
    /// The configuration.
    Rule,
    /// Nobody by hand.
    Automatic,
}

/// One entry of the lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it does.
    pub action: Action,
    /// To packets, or to requests.
    #[serde(default, skip_serializing_if = "Layer::is_default")]
    pub at: Layer,
    /// To whom.
    pub subject: Subject,
    /// Of a JA4 value, its JA4_r if that is known: the kernel knows its clients by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ja4_r: Option<Ja4Raw>,
    /// RFC 3339 in UTC, or `forever`.
    pub until: String,
    /// Seconds until then; none is forever.
    pub expires_in_s: Option<u64>,
    /// Packets it decided; of a JA4 value, hellos; at the decision endpoint, requests. Those of the table of verdicts are
    /// counted up to 2^32 - 2^16.
    pub hits: u64,
    /// Who made it.
    pub origin: Origin,
}

#[cfg(test)]
mod tests;
