//! What `detector top` knows and what keys make of it: answers and keys in, requests out. No terminal here and no daemon:
//! a test gives it both.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::Duration;

use detector_common::counter::Counter;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::client::ssh_client;
use super::super::{change, explain, status};
use crate::admin::protocol::{Care, Changed, ExplainOf, Fingerprint, LATELY_S, Request, Response, Status};
use crate::clock::Timestamp;
use crate::policy::subject::Subject;
use crate::policy::terms::Terms;
use crate::policy::ttl::Ttl;
use crate::telemetry::kernel::Fate;

/// Looks that are remembered: a widescreen's width of them.
pub const HISTORY: usize = 240;
/// Changes that are told in the end.
const CHANGES: usize = 100;
/// Looks that the shown latency is about.
const LATENCY_OVER: usize = 10;
/// As `detector block` without `--ttl`.
const BLOCK_FOR: Duration = Duration::from_secs(3600);
/// A key is pressed sooner than a command is typed: not forever.
const ALLOW_FOR: Duration = Duration::from_secs(86_400);

/// What is to be done about a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// End.
    Quit,
    /// Ask the daemon, and give the answer to [`View::answered`].
    Ask(Request),
}

/// In what order JA4 values stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Rate,
    Hellos,
    Latest,
}

/// What lies over the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Panel {
    #[default]
    None,
    /// Lines, and how many are scrolled away.
    Text { title: String, lines: Vec<String>, scrolled: usize },
    /// What is asked for if the answer is yes.
    Question { title: &'static str, lines: Vec<String>, request: Box<Request> },
}

/// One look.
#[derive(Clone, Debug, Default)]
struct Look {
    at: Timestamp,
    hellos: u64,
    packets: u64,
    dropped: u64,
    latencies: Vec<(u64, u64)>,
}

/// So many a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) hellos: f64,
    pub(super) packets: f64,
    pub(super) dropped: f64,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(super) colour: bool,
    /// What a command needs to reach the same daemon.
    suffix: String,
    pub(super) status: Status,
    pub(super) rates: Rates,
    /// The latest last.
    looks: VecDeque<Look>,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    /// It follows its row.
    selected: Option<String>,
    pub(super) panel: Panel,
    /// What came of the last change, and whether it was done.
    pub(super) said: Option<(bool, String)>,
    changes: VecDeque<String>,
}

impl View {
    /// One that was told nothing. `suffix` goes to the commands that it shows.
    #[must_use]
    pub fn new(colour: bool, suffix: String) -> Self {
        Self { colour, suffix, ..Self::default() }
    }

    /// How things stand at `at`.
    pub fn told(&mut self, status: Box<Status>, at: Timestamp) {
        if self.paused {
            return;
        }
        let look = Look {
            at,
            hellos: status.hellos.get("complete").copied().unwrap_or(0),
            packets: status::kernel(&status, Counter::Packets),
            dropped: status::packets_of(&status, Fate::Drop).iter().map(|(_, count)| count).sum(),
            latencies: status.enforce_us.clone(),
        };
        if let Some(before) = self.looks.back() {
            let seconds = at.since(before.at).as_secs_f64().max(0.001);
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            self.rates = Rates {
                hellos: rate(look.hellos, before.hellos),
                packets: rate(look.packets, before.packets),
                dropped: rate(look.dropped, before.dropped),
            };
        }
        self.looks.push_back(look);
        if self.looks.len() > HISTORY + 1 {
            self.looks.pop_front();
        }
        self.status = *status;
        self.order();
    }

    /// What a key means.
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Wish::Quit);
        }
        if is_control {
            return None;
        }
        match std::mem::take(&mut self.panel) {
            Panel::Question { request, .. } => match key.code {
                KeyCode::Char('y' | 'Y') => Some(Wish::Ask(*request)),
                _ => None,
            },
            Panel::Text { title, lines, scrolled } => {
                let last = lines.len().saturating_sub(1);
                let scrolled = match key.code {
                    KeyCode::Up | KeyCode::Char('k') => scrolled.saturating_sub(1),
                    KeyCode::Down | KeyCode::Char('j') => (scrolled + 1).min(last),
                    _ => return None,
                };
                self.panel = Panel::Text { title, lines, scrolled };
                None
            }
            Panel::None => self.command(key.code),
        }
    }

    fn command(&mut self, key: KeyCode) -> Option<Wish> {
        let selected = self.selected_row();
        match key {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.select(selected.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(selected + 1),
            KeyCode::PageUp => self.select(selected.saturating_sub(10)),
            KeyCode::PageDown => self.select(selected + 10),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Rate => Sort::Hellos,
                    Sort::Hellos => Sort::Latest,
                    Sort::Latest => Sort::Rate,
                };
                self.order();
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('e') | KeyCode::Enter => {
                let ja4 = self.status.fingerprints.get(selected)?.ja4.parse().ok()?;
                return Some(Wish::Ask(Request::Explain { of: ExplainOf::Ja4(ja4) }));
            }
            KeyCode::Char('b') => self.panel = block(self.status.fingerprints.get(selected)?)?,
            KeyCode::Char('u') => self.panel = unblock(self.status.fingerprints.get(selected)?)?,
            KeyCode::Char('a') => self.panel = allow(self.status.fingerprints.get(selected)?)?,
            _ => self.said = None,
        }
        None
    }

    /// What the daemon says to what was asked for; an error is what it refused.
    pub fn answered(&mut self, request: &Request, answer: Result<Response, String>) {
        match answer {
            Ok(Response::Explained(known)) => {
                let lines = explain::screen(&known, &self.suffix).lines().map(str::to_owned).collect();
                self.panel = Panel::Text { title: "Why".to_owned(), lines, scrolled: 0 };
            }
            Ok(Response::Changed(changed)) => self.changed(&changed),
            Ok(Response::NotFound) => {
                let what = match request {
                    Request::Explain { .. } => {
                        "no request with it is remembered: web servers tell of requests; `detector doctor` says why not"
                    }
                    _ => "it isn't blocked by itself; `detector list` shows what there is",
                };
                self.said = Some((false, what.to_owned()));
            }
            Ok(_) => {
                self.said = Some((false, "the daemon answers something else; is it of another version?".to_owned()))
            }
            Err(message) => self.said = Some((false, message)),
        }
    }

    fn changed(&mut self, changed: &Changed) {
        let text = change::describe(changed, &self.suffix);
        self.said = Some((true, text.trim_end().to_owned()));
        self.changes.push_back(text);
        if self.changes.len() > CHANGES {
            self.changes.pop_front();
        }
    }

    /// What was changed, each with its undo.
    #[must_use]
    pub fn changes(&self) -> String {
        self.changes.iter().map(String::as_str).collect()
    }

    /// The place of the selected row: the first if it is gone.
    pub(super) fn selected_row(&self) -> usize {
        let is_it = |seen: &Fingerprint| Some(&seen.ja4) == self.selected.as_ref();
        self.status.fingerprints.iter().position(is_it).unwrap_or(0)
    }

    fn select(&mut self, row: usize) {
        let row = row.min(self.status.fingerprints.len().saturating_sub(1));
        self.selected = self.status.fingerprints.get(row).map(|seen| seen.ja4.clone());
        self.said = None;
    }

    fn order(&mut self) {
        let rows = &mut self.status.fingerprints;
        match self.sort {
            Sort::Rate => rows.sort_by_key(|seen| Reverse((seen.hellos_lately, seen.hellos))),
            Sort::Hellos => rows.sort_by_key(|seen| Reverse(seen.hellos)),
            Sort::Latest => rows.sort_by_key(|seen| seen.last_seen_s),
        }
    }

    /// Hellos between two looks, the latest first.
    pub(super) fn hellos(&self) -> impl Iterator<Item = u64> {
        self.pairs().map(|(before, now)| now.hellos.saturating_sub(before.hellos))
    }

    /// The latency that 99 % stayed below between two looks, in microseconds, the latest first; 0: there was none.
    pub(super) fn latencies(&self) -> impl Iterator<Item = u64> {
        self.pairs().map(|(before, now)| quantile(&before.latencies, &now.latencies, 0.99).unwrap_or(0))
    }

    /// The same of half and of 99 % of the last seconds.
    pub(super) fn latency(&self) -> Option<(u64, u64)> {
        let now = self.looks.back()?;
        let before = self.looks.get(self.looks.len().saturating_sub(LATENCY_OVER + 1))?;
        let of = |share| quantile(&before.latencies, &now.latencies, share);
        of(0.5).zip(of(0.99))
    }

    fn pairs(&self) -> impl Iterator<Item = (&Look, &Look)> {
        self.looks.iter().zip(self.looks.iter().skip(1)).rev()
    }
}

/// Of what came between two states of a histogram, interpolated within its bucket; `None`: nothing did.
fn quantile(before: &[(u64, u64)], now: &[(u64, u64)], share: f64) -> Option<u64> {
    let earlier = |place: usize| before.get(place).map_or(0, |(_, count)| *count);
    let counts: Vec<_> =
        now.iter().enumerate().map(|(place, (bound, count))| (*bound, count.saturating_sub(earlier(place)))).collect();
    let rank = share * counts.last().filter(|(_, count)| *count > 0)?.1 as f64;
    let (mut floor, mut below) = (0, 0);
    for (bound, upto) in counts {
        if upto as f64 >= rank && upto > below {
            let within = (rank - below as f64) / (upto - below) as f64;
            return Some(floor + ((bound - floor) as f64 * within.max(0.0)) as u64);
        }
        (floor, below) = (bound, upto);
    }
    None
}

/// Hellos a second of the last ten.
pub(super) fn rate(seen: &Fingerprint) -> f64 {
    seen.hellos_lately as f64 / LATELY_S as f64
}

fn who(seen: &Fingerprint) -> String {
    let hellos = super::super::figures::count(seen.hellos);
    let name = match (&seen.family, &seen.kind) {
        (Some(family), Some(kind)) if kind == "drift" => format!("like {family}'s, with new extensions"),
        (Some(family), Some(kind)) => format!("{family} ({kind})"),
        _ => "nobody known".to_owned(),
    };
    format!("{name}, {hellos} hellos, {:.1} a second", rate(seen))
}

fn block(seen: &Fingerprint) -> Option<Panel> {
    let subject = Subject::ja4(&seen.ja4).ok()?;
    let care = Care { ssh_client: ssh_client(), ..Care::default() };
    let request = Request::Block { subject, ttl: Ttl::For(BLOCK_FOR), care, terms: Terms::default() };
    let lines = vec![
        seen.ja4.clone(),
        who(seen),
        String::new(),
        "Connections of all such clients are dropped from now on, for an hour.".to_owned(),
    ];
    Some(Panel::Question { title: "Block", lines, request: Box::new(request) })
}

fn unblock(seen: &Fingerprint) -> Option<Panel> {
    let request = Request::Unblock { subject: Subject::ja4(&seen.ja4).ok()? };
    let lines = vec![seen.ja4.clone(), who(seen), String::new(), "An operator's block of it ends now.".to_owned()];
    Some(Panel::Question { title: "Unblock", lines, request: Box::new(request) })
}

fn allow(seen: &Fingerprint) -> Option<Panel> {
    let address = seen.last_client?;
    let request = Request::Allow { subject: Subject::Address(address), ttl: Ttl::For(ALLOW_FOR) };
    let lines = vec![
        address.to_string(),
        "It sent the last hello with this JA4 value.".to_owned(),
        String::new(),
        "All that it sends passes for a day, whatever else is said.".to_owned(),
        "The allow list holds addresses: others with this value are not on it.".to_owned(),
    ];
    Some(Panel::Question { title: "Allow", lines, request: Box::new(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JA4: [&str; 3] = [
        "t13d1516h2_8daaf6152771_e5627efa2ab1",
        "t13d181100_85036bcba153_d41ae481755e",
        "t13d1715h2_5b57614c22b0_7121afd63204",
    ];

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    fn seen(ja4: &str, hellos: u64, lately: u64) -> Fingerprint {
        Fingerprint {
            ja4: ja4.to_owned(),
            family: Some("curl".to_owned()),
            kind: Some("tool".to_owned()),
            verdict: None,
            hellos,
            hellos_lately: lately,
            last_client: Some([192, 0, 2, 7].into()),
            last_server_name: None,
            last_seen_s: 0,
        }
    }

    fn view() -> View {
        let mut view = View::default();
        let fingerprints = vec![seen(JA4[0], 100, 1), seen(JA4[1], 50, 30), seen(JA4[2], 10, 0)];
        view.told(Box::new(Status { fingerprints, ..Status::default() }), at(1));
        view
    }

    fn press(view: &mut View, key: KeyCode) -> Option<Wish> {
        view.key(KeyEvent::from(key))
    }

    fn type_in(view: &mut View, keys: &str) -> Option<Wish> {
        keys.chars().map(|key| press(view, KeyCode::Char(key))).last().flatten()
    }

    #[test]
    fn the_busiest_stand_first_and_the_selection_follows_its_row() {
        let mut view = view();
        let order = |view: &View| view.status.fingerprints.iter().map(|seen| seen.hellos).collect::<Vec<_>>();
        assert_eq!(order(&view), [50, 100, 10]);
        press(&mut view, KeyCode::Down);
        type_in(&mut view, "s");
        assert_eq!((order(&view), view.selected_row()), (vec![100, 50, 10], 0));
        press(&mut view, KeyCode::End);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.selected_row(), 2);
    }

    #[test]
    fn nothing_is_asked_for_without_a_yes() {
        let mut view = view();
        for key in ["b", "u", "a"] {
            assert_eq!(type_in(&mut view, key), None);
            assert!(matches!(view.panel, Panel::Question { .. }), "{key}");
            assert_eq!(type_in(&mut view, "n"), None);
            assert_eq!(view.panel, Panel::None);
        }
        let Some(Wish::Ask(Request::Block { subject, ttl, .. })) = type_in(&mut view, "by") else {
            panic!("a block is asked for")
        };
        assert_eq!((subject.to_string(), ttl.to_string()), (JA4[1].to_owned(), "1h".to_owned()));
        let Some(Wish::Ask(Request::Allow { subject, ttl })) = type_in(&mut view, "ay") else {
            panic!("an allow entry")
        };
        assert_eq!((subject.to_string(), ttl.to_string()), ("192.0.2.7".to_owned(), "1day".to_owned()));
        // Quit means: away with the question.
        assert_eq!(type_in(&mut view, "bq"), None);
        assert_eq!(type_in(&mut view, "q"), Some(Wish::Quit));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        type_in(&mut view, "b");
        assert_eq!(view.key(control_c), Some(Wish::Quit));
    }

    #[test]
    fn what_was_changed_is_told_with_its_undo_in_the_end() {
        let mut view = view();
        let Some(Wish::Ask(request)) = type_in(&mut view, "by") else { panic!("a block is asked for") };
        let Request::Block { subject, ttl, .. } = &request else { panic!("a block") };
        let changed = Changed::new(
            crate::admin::protocol::Change::Blocked,
            subject.clone(),
            *ttl,
            std::time::SystemTime::UNIX_EPOCH,
        );
        view.answered(&request, Ok(Response::Changed(changed)));
        assert!(view.changes().ends_with(&format!("undo: detector unblock --ja4 {}\n", JA4[1])), "{}", view.changes());
        view.answered(&request, Err("refused\nsay --force".to_owned()));
        assert_eq!(view.said, Some((false, "refused\nsay --force".to_owned())));
        assert_eq!(view.changes().lines().count(), 2);
    }

    #[test]
    fn rates_and_latencies_are_those_between_two_looks() {
        let mut view = View::default();
        let look = |hellos: u64, latencies: [u64; 3]| {
            let hellos = [("complete".to_owned(), hellos)].into();
            let enforce_us = [100, 200, 1000].into_iter().zip(latencies).collect();
            Box::new(Status { hellos, enforce_us, ..Status::default() })
        };
        view.told(look(1000, [1000, 1000, 1000]), at(1));
        assert_eq!(view.latency(), None);
        view.told(look(1030, [1000, 1010, 1010]), at(3));
        assert!((view.rates.hellos - 15.0).abs() < 1e-9, "{:?}", view.rates);
        assert_eq!(view.latency(), Some((150, 199)));
        view.told(look(1030, [1000, 1010, 1010]), at(4));
        assert_eq!(view.latencies().collect::<Vec<_>>(), [0, 199]);
        assert_eq!(view.hellos().collect::<Vec<_>>(), [0, 30]);
        view.paused = true;
        view.told(look(9999, [0; 3]), at(5));
        assert_eq!(view.hellos().count(), 2);
        view.paused = false;
        (10..10 + 2 * HISTORY as u64).for_each(|second| view.told(look(second, [0; 3]), at(second)));
        assert_eq!(view.hellos().count(), HISTORY);
    }
}
