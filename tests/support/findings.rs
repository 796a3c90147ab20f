//! What detector made of visits of known kinds: a table by kind, and what must hold of it.
//!
//! Of kinds that were looked at while weights and thresholds were chosen, visits of odd rounds are told, for those of even
//! rounds were looked at; of kinds that were held out, all. Claims are made of both apart. Memory: a line for each visit.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::visits::{Kind, Kinds, What};

/// In their order.
const CONFIDENCES: [&str; 5] = ["definitely_human", "likely_human", "suspicious", "likely_bot", "definitely_bot"];
const SUSPICIOUS: usize = 2;
const LIKELY_BOT: usize = 3;
/// Pages by which behaviour tells.
const PAGES: u32 = 10;

/// What detector said of a client.
#[derive(Clone, Debug, Deserialize)]
pub struct Assessed {
    /// As one of five words.
    pub confidence: String,
    /// What would be done.
    pub action: String,
    /// 0 to 1.
    pub score: f32,
    /// What it rests on.
    pub axes: Vec<String>,
    /// What was found.
    pub signals: Vec<Spoke>,
}

/// A signal that found something.
#[derive(Clone, Debug, Deserialize)]
pub struct Spoke {
    /// Its name.
    pub signal: String,
    /// What it looks at.
    pub axis: String,
    /// Log-odds.
    pub weight: f32,
    /// Its layer is on.
    pub counts: bool,
}

/// A visit, and what came of it.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Of which kind.
    pub kind: String,
    /// The how manieth of its kind, from 0.
    pub round: u16,
    /// Pages it got.
    pub pages: u32,
    /// Why it ended early.
    pub error: Option<String>,
    /// At last, and of a person at worst; absent if no request of it was reported.
    pub assessed: Option<Assessed>,
}

impl Assessed {
    /// The place of its confidence: 0 is a person, 4 a program.
    #[must_use]
    pub fn place(&self) -> usize {
        CONFIDENCES.iter().position(|known| *known == self.confidence).unwrap_or(0)
    }

    /// Whether hello, SYN or headers speak against it.
    fn has_cue(&self) -> bool {
        let axes = ["tls", "syn", "http"];
        self.signals.iter().any(|spoke| spoke.counts && spoke.weight > 0.0 && axes.contains(&spoke.axis.as_str()))
    }

    fn is_felt(&self) -> bool {
        !matches!(self.action.as_str(), "allow" | "observe")
    }
}

impl Visit {
    fn reached(&self, least: usize) -> bool {
        self.assessed.as_ref().is_some_and(|assessed| assessed.place() >= least)
    }
}

/// Visits that are told of.
#[derive(Debug)]
pub struct Findings<'a> {
    seen: Vec<&'a Visit>,
    kinds: &'a Kinds,
}

impl<'a> Findings<'a> {
    /// Those of held-out kinds, or of the others: of odd rounds, unless all are wanted.
    #[must_use]
    pub fn new(seen: &'a [Visit], kinds: &'a Kinds, held: bool, all: bool) -> Self {
        let wanted = |visit: &&Visit| {
            let own = kinds.get(&visit.kind).is_some_and(|kind| kind.held == held);
            own && (held || all || visit.round % 2 == 1)
        };
        Self { seen: seen.iter().filter(wanted).collect(), kinds }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn of_kind(&self, kind: &str) -> Vec<&'a Visit> {
        self.seen.iter().copied().filter(|visit| visit.kind == kind).collect()
    }

    fn of(&self, what: What) -> Vec<&'a Visit> {
        let is = |visit: &&Visit| self.kinds.get(&visit.kind).is_some_and(|kind| kind.what == what);
        self.seen.iter().copied().filter(is).collect()
    }

    /// A line for each kind.
    pub fn table(&self) {
        println!(
            "{:<26} {:<8} {:>6} {:>6}   {:>5} {:>5} {:>5} {:>5} {:>5}   what spoke most, and in how many visits",
            "kind", "what", "visits", "pages", "human", "likel", "suspi", "likel", "bot"
        );
        for (name, kind) in self.kinds {
            let visits = self.of_kind(name);
            if !visits.is_empty() {
                line(name, *kind, &visits);
            }
        }
    }

    /// What must hold, and whether it does.
    #[must_use]
    pub fn claims(&self) -> bool {
        let mut hold = true;
        let mut claim = |holds: bool, text: String| {
            hold &= holds;
            println!("{} {text}", if holds { "holds:" } else { "FAILS:" });
        };
        let people: Vec<&Visit> = self.of(What::Person).into_iter().filter(|visit| visit.pages > 0).collect();
        let count = |visits: &[&Visit], least: usize| visits.iter().filter(|visit| visit.reached(least)).count();
        let felt = people.iter().filter(|visit| visit.assessed.as_ref().is_some_and(Assessed::is_felt)).count();
        let (all, suspicious, bots) = (people.len(), count(&people, SUSPICIOUS), count(&people, LIKELY_BOT));
        claim(felt == 0, format!("{felt} of {all} people would be slowed down, challenged or blocked (0)"));
        claim(suspicious * 100 <= all, format!("{suspicious} of {all} people are suspicious or more (1 in 100)"));
        claim(bots == 0, format!("{bots} of {all} people are likely bots or more (0)"));
        let forged: Vec<&Visit> = self.of(What::Forged).into_iter().filter(|visit| visit.assessed.is_some()).collect();
        let caught = count(&forged, LIKELY_BOT);
        claim(
            caught == forged.len(),
            format!("{caught} of {} forged browsers are likely bots or more (all)", forged.len()),
        );
        let (cued, plain): (Vec<&Visit>, Vec<&Visit>) = self
            .of(What::Imitator)
            .into_iter()
            .filter(|visit| visit.pages >= PAGES)
            .partition(|visit| visit.assessed.as_ref().is_some_and(Assessed::has_cue));
        let caught = count(&cued, LIKELY_BOT);
        let text = "imitators whose hello, SYN or headers differ are likely bots or more, over 10 pages (all)";
        claim(caught == cued.len(), format!("{caught} of {} {text}", cued.len()));
        let reached = count(&plain, SUSPICIOUS);
        let text = "imitators without any such cue are suspicious or more by behaviour, over 10 pages (9 in 10)";
        claim(reached * 10 >= plain.len() * 9, format!("{reached} of {} {text}", plain.len()));
        let (made, failed): (Vec<&Visit>, Vec<&Visit>) = self.seen.iter().partition(|visit| visit.pages > 0);
        let silent = made.iter().filter(|visit| visit.assessed.is_none()).count();
        claim(silent * 100 <= made.len(), format!("{silent} of {} visits were not assessed (1 in 100)", made.len()));
        let text = "visits came to nothing, for their client failed (1 in 20)";
        claim(failed.len() * 20 <= self.seen.len(), format!("{} of {} {text}", failed.len(), self.seen.len()));
        by_name("without any such cue", &plain);
        let missed: Vec<&Visit> =
            self.of_programs().into_iter().filter(|visit| visit.pages > 0 && !visit.reached(SUSPICIOUS)).collect();
        let (once, longer): (Vec<&Visit>, Vec<&Visit>) = missed.into_iter().partition(|visit| visit.pages <= 1);
        by_name("missed, with a single request", &once);
        by_name("missed", &longer);
        hold
    }

    /// Those who are not what they say.
    fn of_programs(&self) -> Vec<&'a Visit> {
        [What::Robot, What::Forged, What::Imitator, What::Crawler].into_iter().flat_map(|what| self.of(what)).collect()
    }
}

/// A kind's line, and why visits ended early.
fn line(name: &str, kind: Kind, visits: &[&Visit]) {
    let mut counts = [0; CONFIDENCES.len()];
    let mut spoke = BTreeMap::<&str, (f32, usize)>::new();
    for assessed in visits.iter().filter_map(|visit| visit.assessed.as_ref()) {
        counts[assessed.place()] += 1;
        for signal in assessed.signals.iter().filter(|signal| signal.counts && signal.weight != 0.0) {
            let (weight, count) = spoke.entry(&signal.signal).or_default();
            (*weight, *count) = (*weight + signal.weight, *count + 1);
        }
    }
    let mut heaviest: Vec<(&str, f32, usize)> =
        spoke.into_iter().map(|(signal, (weight, count))| (signal, weight, count)).collect();
    heaviest.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    let heaviest: Vec<String> = heaviest.iter().take(4).map(|(signal, _, count)| format!("{signal} {count}")).collect();
    let what = format!("{:?}", kind.what).to_lowercase();
    let pages: u32 = visits.iter().map(|visit| visit.pages).sum();
    let [human, likely_human, suspicious, likely_bot, bot] = counts;
    println!(
        "{name:<26} {what:<8} {:>6} {pages:>6}   {human:>5} {likely_human:>5} {suspicious:>5} {likely_bot:>5} {bot:>5}   {}",
        visits.len(),
        heaviest.join(", ")
    );
    if let Some(error) = visits.iter().find_map(|visit| visit.error.as_deref()) {
        let errors = visits.iter().filter(|visit| visit.error.is_some()).count();
        println!("{:<26} {errors} of them ended early, like: {:.100}", "", error.lines().next().unwrap_or(error));
    }
}

/// So many visits of each kind.
fn by_name(which: &str, visits: &[&Visit]) {
    let mut names = BTreeMap::<&str, (usize, usize)>::new();
    for visit in visits {
        let (all, reached) = names.entry(&visit.kind).or_default();
        (*all, *reached) = (*all + 1, *reached + usize::from(visit.reached(SUSPICIOUS)));
    }
    let names: Vec<String> =
        names.into_iter().map(|(name, (all, reached))| format!("{name} ({reached} of {all} suspicious)")).collect();
    println!("{which}: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
}

/// All visits, for other programs.
#[must_use]
pub fn as_json(seen: &[Visit], kinds: &Kinds) -> Value {
    let visit = |visit: &Visit| {
        let assessed = visit.assessed.as_ref().map(|seen| {
            let signals: BTreeMap<&str, f32> =
                seen.signals.iter().map(|signal| (signal.signal.as_str(), signal.weight)).collect();
            json!({ "confidence": seen.confidence, "score": seen.score, "action": seen.action, "axes": seen.axes,
                "signals": signals })
        });
        let kind = kinds.get(&visit.kind);
        let what = kind.map(|kind| format!("{:?}", kind.what).to_lowercase());
        json!({ "kind": visit.kind, "what": what, "held": kind.map(|kind| kind.held), "round": visit.round,
            "pages": visit.pages, "error": visit.error, "assessed": assessed })
    };
    seen.iter().map(visit).collect()
}
