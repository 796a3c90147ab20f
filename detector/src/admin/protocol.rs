//! The words of the control socket: one JSON object a line, one request, one response. Bound: a line, either way, is
//! at most [`FRAME_MAX`] bytes; lists come in pages of [`PAGE`] entries.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::{Mode, XdpMode};
use crate::policy::subject::Subject;
use crate::policy::ttl::Ttl;

/// The most bytes of one line, its end included.
pub const FRAME_MAX: usize = 64 * 1024;

/// The most entries of one response. An entry takes 200 bytes at most.
pub const PAGE: usize = 256;

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
    /// One page of entries, in an order that stays.
    List {
        /// Entries before the page.
        #[serde(default)]
        skip: usize,
    },
    /// How things stand.
    Status,
}

impl Request {
    /// Reads one line. The error is one line, too.
    ///
    /// # Errors
    /// When it is no request, or asks for what can't be.
    pub fn decode(line: &[u8]) -> Result<Self, String> {
        let request = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        match &request {
            Request::Allow { subject: Subject::Ja4(ja4), .. } | Request::Unallow { subject: Subject::Ja4(ja4) } => {
                Err(format!("the allow list holds addresses and prefixes, not JA4 values like `{ja4}`"))
            }
            _ => Ok(request),
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
            Request::List { .. } => "list",
            Request::Status => "status",
        }
    }

    /// What a request that changes something is about.
    #[must_use]
    pub const fn subject(&self) -> Option<&Subject> {
        match self {
            Request::Block { subject, .. }
            | Request::Allow { subject, .. }
            | Request::Unblock { subject }
            | Request::Unallow { subject } => Some(subject),
            Request::List { .. } | Request::Status => None,
        }
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
    /// How things stand.
    Status(Box<Status>),
    /// There was nothing to take back.
    NotFound,
    /// Not done, for a reason that the operator can do something about.
    Refused {
        /// Why.
        reason: String,
        /// What to do next.
        hint: String,
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
            Response::Changed(_) => "changed",
            Response::Entries { .. } | Response::Status(_) => "answered",
            Response::NotFound => "not_found",
            Response::Refused { .. } => "refused",
            Response::Error { .. } => "error",
        }
    }

    /// The line that goes over the socket. A response too long for one is an error instead.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let line = serde_json::to_vec(self).map_err(|error| error.to_string());
        let line = line.and_then(|line| match line.len() {
            0..FRAME_MAX => Ok(line),
            long => Err(format!("the response has {long} bytes; {FRAME_MAX} is the most")),
        });
        let mut line = line.unwrap_or_else(|message| {
            serde_json::json!({ "response": "error", "message": message }).to_string().into_bytes()
        });
        line.push(b'\n');
        line
    }
}

/// What was done to a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// On the deny list now.
    Blocked,
    /// On the allow list now.
    Allowed,
    /// Not on the deny list any more.
    Unblocked,
    /// Not on the allow list any more.
    Unallowed,
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
        let flag = if matches!(subject, Subject::Ja4(_)) { "--ja4 " } else { "" };
        let undo = match action {
            Change::Blocked => format!("detector unblock {flag}{subject}"),
            Change::Allowed => format!("detector unallow {subject}"),
            Change::Unblocked => format!("detector block {flag}{subject} --ttl {ttl}"),
            Change::Unallowed => format!("detector allow {subject} --ttl {ttl}"),
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
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Passes.
    Allow,
    /// Passes, and is counted.
    Observe,
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
}

/// One entry of the lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it does.
    pub action: Action,
    /// To whom.
    pub subject: Subject,
    /// RFC 3339 in UTC, or `forever`.
    pub until: String,
    /// Seconds until then; none is forever.
    pub expires_in_s: Option<u64>,
    /// Packets it decided; of a JA4 value, hellos.
    pub hits: u64,
    /// Who made it.
    pub origin: Origin,
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether rules drop.
    pub mode: Mode,
    /// Where it looks.
    pub interfaces: Vec<Interface>,
    /// Protected ports.
    pub ports: Vec<u16>,
    /// Label of each `detector_common::counter::Counter` → its sum over all CPUs.
    pub kernel: BTreeMap<String, u64>,
    /// Hellos by outcome: `complete`, or the cause for which one was lost.
    pub hellos: BTreeMap<String, u64>,
    /// Segments that belong to no hello, by reason.
    pub ignored: BTreeMap<String, u64>,
    /// The way from the kernel.
    pub ring: Ring,
    /// Label of each `telemetry::metrics::VerdictKind` → verdicts in force.
    pub entries: BTreeMap<String, u64>,
    /// The JA4 values seen most, most first.
    pub fingerprints: Vec<Fingerprint>,
    /// Microseconds from the NIC to the verdict in force: half of them were faster.
    pub enforce_p50_us: Option<u64>,
    /// 99 % were faster.
    pub enforce_p99_us: Option<u64>,
}

/// One interface of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// As `ip link` calls it.
    pub name: String,
    /// Where in the kernel: native or generic.
    pub xdp_mode: XdpMode,
    /// The program is attached now.
    pub attached: bool,
}

/// Segments on the way from the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Put into the ring.
    pub submitted: u64,
    /// Taken out of it.
    pub received: u64,
    /// Not put in, since it was full.
    pub lost: u64,
}

/// One JA4 value of [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The value.
    pub ja4: String,
    /// Hellos with it.
    pub hellos: u64,
    /// What the last one asked for.
    pub last_server_name: Option<String>,
    /// Seconds since the last one.
    pub last_seen_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const JA4: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";

    #[test]
    fn requests_read_as_documented() {
        let block = Request::Block { subject: "192.0.2.7".parse().unwrap(), ttl: "1h".parse().unwrap() };
        let line = serde_json::to_string(&block).unwrap();
        assert_eq!(line, r#"{"verb":"block","subject":"192.0.2.7","ttl":"1h"}"#);
        assert_eq!(Request::decode(line.as_bytes()), Ok(block));
        assert_eq!(Request::decode(br#"{"verb":"list"}"#), Ok(Request::List { skip: 0 }));
        assert_eq!(Request::decode(br#"{"verb":"status"}"#), Ok(Request::Status));
    }

    #[test]
    fn what_is_no_request_is_an_error_of_one_line() {
        for line in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"verb":"drop"}"#,
            r#"{"verb":"block","subject":"192.0.2.7"}"#,
            r#"{"verb":"block","subject":"10.0.0.1/8","ttl":"1h"}"#,
            r#"{"verb":"block","subject":"192.0.2.7","ttl":"1h","extra":1}"#,
            r#"{"verb":"list","skip":-1}"#,
        ] {
            let error = Request::decode(line.as_bytes()).unwrap_err();
            assert_eq!(error.lines().count(), 1, "{line}");
        }
        let line = format!(r#"{{"verb":"allow","subject":"{JA4}","ttl":"forever"}}"#);
        assert!(Request::decode(line.as_bytes()).unwrap_err().contains("not JA4 values"));
    }

    #[test]
    fn responses_go_there_and_back() {
        let changed = Changed::new(Change::Blocked, JA4.parse().unwrap(), Ttl::Forever, SystemTime::UNIX_EPOCH);
        let entry = Entry {
            action: Action::Block,
            subject: "2001:db8::/32".parse().unwrap(),
            until: "forever".to_owned(),
            expires_in_s: None,
            hits: u64::MAX,
            origin: Origin::Operator,
        };
        for response in [
            Response::Changed(changed),
            Response::Entries { entries: vec![entry], total: 1 },
            Response::Status(Box::default()),
            Response::NotFound,
            Response::Refused { reason: "\u{1b}[31m\n".to_owned(), hint: String::new() },
            Response::Error { message: "no".to_owned() },
        ] {
            let line = response.encode();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Response>(&line).unwrap(), response);
        }
    }

    #[test]
    fn a_page_of_the_longest_entries_fits_a_frame() {
        let entry = Entry {
            action: Action::Observe,
            subject: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
            until: "2026-11-22T04:23:11Z".to_owned(),
            expires_in_s: Some(u64::MAX),
            hits: u64::MAX,
            origin: Origin::Operator,
        };
        let page = Response::Entries { entries: vec![entry; PAGE], total: usize::MAX };
        assert!(page.encode().starts_with(br#"{"response":"entries""#));
        let long = Response::Error { message: "x".repeat(FRAME_MAX) }.encode();
        assert!(long.len() < 200 && long.starts_with(br#"{"message":"the response has"#));
    }

    #[test]
    fn every_change_says_how_to_undo_it() {
        let undo = |action, subject: &str, ttl: &str| {
            Changed::new(action, subject.parse().unwrap(), ttl.parse().unwrap(), SystemTime::UNIX_EPOCH).undo
        };
        assert_eq!(undo(Change::Blocked, "192.0.2.7", "1h"), "detector unblock 192.0.2.7");
        assert_eq!(undo(Change::Blocked, JA4, "1h"), format!("detector unblock --ja4 {JA4}"));
        assert_eq!(undo(Change::Unblocked, JA4, "90s"), format!("detector block --ja4 {JA4} --ttl 1m30s"));
        assert_eq!(undo(Change::Allowed, "10.0.0.0/8", "forever"), "detector unallow 10.0.0.0/8");
        assert_eq!(undo(Change::Unallowed, "10.0.0.0/8", "forever"), "detector allow 10.0.0.0/8 --ttl forever");
        assert_eq!(until(Ttl::For(Duration::from_secs(60)), SystemTime::UNIX_EPOCH), "1970-01-01T00:01:00Z");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(Request::decode(&line));
        }

        #[test]
        fn any_text_in_a_request_is_read_or_refused(subject in "\\PC{0,40}", ttl in "\\PC{0,20}") {
            let line = serde_json::json!({ "verb": "block", "subject": subject, "ttl": ttl }).to_string();
            if let Ok(request) = Request::decode(line.as_bytes()) {
                let again = serde_json::to_vec(&request).unwrap();
                proptest::prop_assert_eq!(Request::decode(&again), Ok(request));
            }
        }
    }
}
