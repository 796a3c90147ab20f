//! The lab: clients of many kinds, real browsers among them, visit a site behind a real nginx; what detector makes of each
//! is told by kind, and whether that is what it should be.
//!
//! In: root, what `cargo xtask setup` installs, and on the command line how many visits of which kinds. Out: on stdout a
//! table by kind: the last assessment of each visit, by confidence, and the signals that spoke; then what must hold, and
//! whether it does. Exit code 0 if all of it did, 1 if something didn't, 64 for a wrong command line, 77 without root.
//!
//! Thresholds are tuned on the visits with even numbers; what is told here is of the odd ones, unless `--all` is given.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::lab::{Lab, LabOptions, require_root};
use detector_tests::reporters::Reporter;
use detector_tests::site;
use detector_tests::visits::{Plan, Visits, What, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

const USAGE: &str = "usage: cargo xtask lab [--visits N] [--browsers N] [--parallel N] [--pages N] [--pace N] [--kinds A,B] \
                     [--enforce] [--all] [--json FILE]";

macro_rules! config {
    ($mode:literal) => {
        concat!(
            "[signals]\ngroup = \"www-data\"\nrecent = 1\n[behaviour]\ntrap_paths = [\"/private/\"]\nrobots_disallow = ",
            "[\"/private/\"]\n[limits]\nassessments = 16384\n[enforce]\nmode = \"",
            $mode,
            "\"\n"
        )
    };
}

const OBSERVING: &str = config!("observe");
const ENFORCING: &str = config!("enforce");

const CONFIDENCES: [&str; 5] = ["definitely_human", "likely_human", "suspicious", "likely_bot", "definitely_bot"];

/// How much is done.
struct Size {
    /// Visits of each kind that is no browser.
    visits: u16,
    /// Visits of each kind that is one.
    browsers: u16,
    /// At one time.
    parallel: usize,
    pages: u32,
    pace: f32,
    /// Words in the names of the kinds; all, if there are none.
    kinds: Vec<String>,
    enforce: bool,
    all: bool,
    json: Option<String>,
}

impl Size {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut size = Self {
            visits: 4,
            browsers: 2,
            parallel: 4,
            pages: 12,
            pace: 1.0,
            kinds: Vec::new(),
            enforce: false,
            all: false,
            json: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--enforce" => size.enforce = true,
                "--all" => size.all = true,
                flag => {
                    let value = words.next().with_context(|| format!("`{flag}` wants a value, or is unknown"))?;
                    match flag {
                        "--visits" => size.visits = value.parse()?,
                        "--browsers" => size.browsers = value.parse()?,
                        "--parallel" => size.parallel = value.parse()?,
                        "--pages" => size.pages = value.parse()?,
                        "--pace" => size.pace = value.parse()?,
                        "--kinds" => size.kinds = value.split(',').map(str::to_owned).collect(),
                        "--json" => size.json = Some(value),
                        other => bail!("`{other}` is unknown"),
                    }
                }
            }
        }
        Ok(size)
    }
}

/// What detector said of a client at last.
#[derive(Clone, Debug, Deserialize)]
struct Assessed {
    confidence: String,
    action: String,
    score: f32,
    axes: Vec<String>,
    signals: Vec<Spoke>,
}

#[derive(Clone, Debug, Deserialize)]
struct Spoke {
    signal: String,
    weight: f32,
    counts: bool,
}

/// A visit, and what came of it.
struct Visit {
    kind: String,
    number: u16,
    pages: u32,
    error: Option<String>,
    /// Absent if no request of it was reported.
    assessed: Option<Assessed>,
}

fn main() -> ExitCode {
    let size = match Size::read(env::args().skip(1)) {
        Ok(size) => size,
        Err(error) => {
            eprintln!("error: {error:#}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    if require_root().is_err() {
        eprintln!("The lab makes network namespaces and loads a program into the kernel, so it needs root.");
        return ExitCode::from(77);
    }
    match story(&size) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The lab failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn story(size: &Size) -> Result<bool> {
    let lab = Lab::new(LabOptions::default())?;
    let pages = lab.file("site");
    site::write(&pages)?;
    let config = if size.enforce { ENFORCING } else { OBSERVING };
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let _server = Reporter::nginx_serving(&lab, &pages)?;
    let kinds = kinds()?;
    let plans = plans(&kinds, size)?;
    let visits = Visits::new(&lab, &lab.file("nginx").join("certificate.pem"), u16::try_from(plans.len())?)?;
    let seen = all_visits(&lab, &visits, plans, size)?;
    drop(daemon);
    if let Some(file) = &size.json {
        fs::write(file, serde_json::to_string_pretty(&as_json(&seen, &kinds))?)?;
    }
    let told: Vec<&Visit> = seen.iter().filter(|visit| size.all || visit.number % 2 == 1).collect();
    table(&told, &kinds);
    Ok(claims(&told, &kinds))
}

/// The kinds of all visits, in turn, so that each has the same chance of a busy moment.
fn plans<'a>(kinds: &'a BTreeMap<String, What>, size: &Size) -> Result<VecDeque<&'a str>> {
    let wanted = |kind: &str| size.kinds.is_empty() || size.kinds.iter().any(|word| kind.contains(word.as_str()));
    let is_browser = |what: What| matches!(what, What::Person | What::Robot);
    let mut plans = VecDeque::new();
    for round in 0..size.visits.max(size.browsers) {
        for (kind, what) in kinds.iter().filter(|(kind, _)| wanted(kind)) {
            if round < if is_browser(*what) { size.browsers } else { size.visits } {
                plans.push_back(kind.as_str());
            }
        }
    }
    ensure!(!plans.is_empty(), "no kind has such a name: {:?}", kinds.keys());
    Ok(plans)
}

fn all_visits(lab: &Lab, visits: &Visits<'_>, plans: VecDeque<&str>, size: &Size) -> Result<Vec<Visit>> {
    eprintln!("{} visits, {} at a time", plans.len(), size.parallel);
    let queue = Mutex::new((plans, 0_u16));
    let (seen, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..size.parallel {
            scope.spawn(|| {
                loop {
                    let (kind, number) = {
                        let mut queue = lock();
                        let Some(kind) = queue.0.pop_front() else { return };
                        queue.1 += 1;
                        (kind, queue.1 - 1)
                    };
                    let plan = Plan { kind, number, pages: size.pages, pace: size.pace };
                    match visit(lab, visits, &plan) {
                        Ok(visit) => seen.lock().unwrap_or_else(PoisonError::into_inner).push(visit),
                        Err(error) => failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(error.context(format!("visit {number}, {kind}"))),
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner).pop() {
        return Err(error);
    }
    Ok(seen.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn visit(lab: &Lab, visits: &Visits<'_>, plan: &Plan<'_>) -> Result<Visit> {
    let told = visits.make(plan)?;
    let address = plan.address().to_string();
    let explained = || -> Result<Option<Assessed>> {
        let done = control(lab, &["explain", &address, "--format", "json"])?;
        match done.status.code() {
            Some(0) => Ok(Some(serde_json::from_slice(&done.stdout)?)),
            Some(2) => Ok(None),
            _ => bail!("detector explain: {}", String::from_utf8_lossy(&done.stderr)),
        }
    };
    let assessed = if told.pages > 0 { until("an assessment", PATIENCE, explained).ok() } else { explained()? };
    let (kind, number) = (plan.kind.to_owned(), plan.number);
    Ok(Visit { kind, number, pages: told.pages, error: told.error, assessed })
}

fn place(confidence: &str) -> usize {
    CONFIDENCES.iter().position(|known| *known == confidence).unwrap_or(0)
}

/// A line for each kind.
fn table(seen: &[&Visit], kinds: &BTreeMap<String, What>) {
    println!(
        "{:<26} {:<9} {:>6} {:>6}   {:>5} {:>5} {:>5} {:>5} {:>5}   what spoke most, and in how many visits",
        "kind", "what", "visits", "pages", "human", "likel", "suspi", "likel", "bot"
    );
    for (kind, what) in kinds {
        let of_kind: Vec<&&Visit> = seen.iter().filter(|visit| visit.kind == *kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let mut counts = [0; CONFIDENCES.len()];
        let mut spoke = BTreeMap::<&str, (f32, usize)>::new();
        for assessed in of_kind.iter().filter_map(|visit| visit.assessed.as_ref()) {
            counts[place(&assessed.confidence)] += 1;
            for signal in assessed.signals.iter().filter(|signal| signal.counts && signal.weight != 0.0) {
                let (weight, count) = spoke.entry(&signal.signal).or_default();
                (*weight, *count) = (*weight + signal.weight, *count + 1);
            }
        }
        let mut heaviest: Vec<(&str, f32, usize)> =
            spoke.into_iter().map(|(signal, (weight, count))| (signal, weight, count)).collect();
        heaviest.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        let heaviest: Vec<String> =
            heaviest.iter().take(4).map(|(signal, _, count)| format!("{signal} {count}")).collect();
        let what = format!("{what:?}").to_lowercase();
        let pages: u32 = of_kind.iter().map(|visit| visit.pages).sum();
        let [human, likely_human, suspicious, likely_bot, bot] = counts;
        println!(
            "{kind:<26} {what:<9} {:>6} {pages:>6}   {human:>5} {likely_human:>5} {suspicious:>5} {likely_bot:>5} \
             {bot:>5}   {}",
            of_kind.len(),
            heaviest.join(", ")
        );
        if let Some(error) = of_kind.iter().find_map(|visit| visit.error.as_deref()) {
            let errors = of_kind.iter().filter(|visit| visit.error.is_some()).count();
            println!("{:<26} {errors} of them ended early, like: {:.100}", "", error.lines().next().unwrap_or(error));
        }
    }
}

/// What must hold, and whether it does.
fn claims(seen: &[&Visit], kinds: &BTreeMap<String, What>) -> bool {
    let all = |what: What| seen.iter().filter(move |visit| kinds.get(&visit.kind) == Some(&what));
    let at_least = |what: What, least: usize| {
        let reached = |visit: &&&Visit| visit.assessed.as_ref().is_some_and(|seen| place(&seen.confidence) >= least);
        (all(what).count(), all(what).filter(reached).count())
    };
    let (people, suspicious) = at_least(What::Person, 2);
    let (_, bots) = at_least(What::Person, 3);
    let felt = |visit: &&&Visit| {
        visit.assessed.as_ref().is_some_and(|seen| !matches!(seen.action.as_str(), "allow" | "observe"))
    };
    let stopped = all(What::Person).filter(felt).count();
    let (forged, caught) = at_least(What::Forged, 3);
    let (imitators, reached) = at_least(What::Imitator, 2);
    println!();
    let mut hold = true;
    let mut claim = |holds: bool, text: String| {
        hold &= holds;
        println!("{} {text}", if holds { "holds:" } else { "FAILS:" });
    };
    claim(stopped == 0, format!("{stopped} of {people} people would be slowed down, challenged or blocked (0)"));
    claim(suspicious * 100 <= people, format!("{suspicious} of {people} people are suspicious or more (1 in 100)"));
    claim(bots == 0, format!("{bots} of {people} people are likely bots or more (0)"));
    claim(caught == forged, format!("{caught} of {forged} forged browsers are likely bots or more (all)"));
    claim(
        reached * 10 >= imitators * 9,
        format!("{reached} of {imitators} imitators are suspicious or more (9 in 10)"),
    );
    let silent = seen.iter().filter(|visit| visit.assessed.is_none()).count();
    claim(silent == 0, format!("of {silent} of {} visits no request was assessed (0)", seen.len()));
    hold
}

fn as_json(seen: &[Visit], kinds: &BTreeMap<String, What>) -> Value {
    let visit = |visit: &Visit| {
        let assessed = visit.assessed.as_ref().map(|seen| {
            let signals: BTreeMap<&str, f32> =
                seen.signals.iter().map(|signal| (signal.signal.as_str(), signal.weight)).collect();
            json!({ "confidence": seen.confidence, "score": seen.score, "action": seen.action, "axes": seen.axes,
                "signals": signals })
        });
        let what = kinds.get(&visit.kind).map(|what| format!("{what:?}").to_lowercase());
        json!({ "kind": visit.kind, "what": what, "number": visit.number, "pages": visit.pages, "error": visit.error,
            "assessed": assessed })
    };
    seen.iter().map(visit).collect()
}
