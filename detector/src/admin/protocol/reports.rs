//! A report as `detector reports` shows it. Its texts are a client's: they are cut short when kept, and escaped when
//! printed. Bound: [`REPORT_MAX`] bytes of JSON, so that three fit into one response at least.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::FRAME_MAX;
use crate::report::Report;

/// The most bytes of one text.
pub const TEXT_MAX: usize = 512;
/// The most bytes of a text of a report that would be too long with [`TEXT_MAX`]: escapes make six bytes of one.
const TEXT_SHORT: usize = 64;
/// The most bytes of the JSON of a report.
const REPORT_MAX: usize = 16 * 1024;
/// Bytes that are shown of a session's id: who has all of it may be taken for its owner.
const SESSION_MAX: usize = 4;

/// A report, and what is known of its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Counted from 1 since the daemon's start.
    pub number: u64,
    /// When it came: RFC 3339 in UTC.
    pub arrived: String,
    /// Who told it.
    pub uid: u32,
    /// Its process, if that is in sight of the daemon.
    pub pid: Option<i32>,
    /// Whether its connection's hello was found, or why not: the `outcome` of `detector_join_reports_total`. Absent
    /// while the report waits for one, five seconds at most.
    pub join: Option<String>,
    /// The JA4 of that hello.
    pub ja4: Option<String>,
    /// As `docs/reports.md` says.
    pub report: Map<String, Value>,
}

impl Seen {
    /// A report with its texts cut short. Without one if that can't be written.
    #[must_use]
    pub fn short(report: &Report<'_>) -> Option<Map<String, Value>> {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(report) else { return None };
        cut(&mut fields, TEXT_MAX);
        if serde_json::to_string(&fields).ok()?.len() > REPORT_MAX {
            cut(&mut fields, TEXT_SHORT);
        }
        Some(fields)
    }

    /// As many of these as fit into one response.
    #[must_use]
    pub fn page<'a>(seen: impl Iterator<Item = &'a Self>) -> Vec<Self> {
        // Of the response around them.
        let mut room = FRAME_MAX - 64;
        let fits = |seen: &&Self| {
            let bytes = serde_json::to_string(seen).map_or(usize::MAX, |text| text.len().saturating_add(1));
            room.checked_sub(bytes).map(|left| room = left).is_some()
        };
        seen.take_while(fits).cloned().collect()
    }
}

fn cut(fields: &mut Map<String, Value>, most: usize) {
    for (key, value) in fields {
        let most = if key == "sid" { SESSION_MAX } else { most };
        if let Value::String(text) = value
            && text.len() > most
        {
            text.truncate(text.floor_char_boundary(most));
            text.push('…');
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::admin::protocol::Response;

    fn seen(number: u64, report: &Report<'_>) -> Seen {
        let report = Seen::short(report).unwrap();
        Seen {
            number,
            arrived: "2026-11-22T16:00:00.000Z".to_owned(),
            uid: u32::MAX,
            pid: Some(i32::MAX),
            join: None,
            ja4: None,
            report,
        }
    }

    #[test]
    fn texts_are_cut_short_and_sessions_are_not_told() {
        let long = "ä".repeat(1000);
        let report = Report { path: Some(Cow::Borrowed(&long)), session: Some("secret".into()), ..Report::default() };
        let short = Seen::short(&report).unwrap();
        assert_eq!(short["path"], Value::from(format!("{}…", "ä".repeat(256))));
        assert_eq!(short["sid"], "secr…");
    }

    /// The longest that a server can tell: all texts long, and each character an escape.
    #[test]
    fn the_longest_reports_fit_into_a_response() {
        let hostile = Some(Cow::Owned("\u{1}".repeat(4000)));
        let report = Report {
            server_name: hostile.clone(),
            method: hostile.clone(),
            path: hostile.clone(),
            protocol: hostile.clone(),
            cache: hostile.clone(),
            user_agent: hostile.clone(),
            referer: hostile.clone(),
            accept: hostile.clone(),
            accept_language: hostile.clone(),
            accept_encoding: hostile.clone(),
            client_hints: hostile.clone(),
            client_hints_mobile: hostile.clone(),
            client_hints_platform: hostile.clone(),
            fetch_site: hostile.clone(),
            fetch_mode: hostile.clone(),
            fetch_dest: hostile.clone(),
            fetch_user: hostile.clone(),
            header_names: hostile.clone(),
            session: hostile.clone(),
            forwarded_for: hostile,
            ..Report::default()
        };
        let all: Vec<Seen> = (1..20).map(|number| seen(number, &report)).collect();
        let page = Seen::page(all.iter());
        assert!(page.len() >= 3, "{}", page.len());
        let line = Response::Reports { reports: page.clone() }.encode();
        assert!(line.len() <= FRAME_MAX);
        let read: Response = serde_json::from_slice(&line).unwrap();
        assert_eq!(read, Response::Reports { reports: page });
    }
}
