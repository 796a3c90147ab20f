//! The lab: clients of many kinds, real browsers among them, visit a site behind a real nginx; what detector makes of each
//! is told by kind, and whether that is what it should be.
//!
//! In: root, what `cargo xtask setup` installs, and on the command line how many visits of which kinds. Out: on stdout a
//! table by kind: the last assessment of each visit, of people the worst, by confidence, and the signals that spoke; then
//! what must hold, and whether it does. Exit code 0 if all of it did, 1 if something didn't, 64 for a wrong command line, 77
//! without root.
//!
//! Weights and thresholds are chosen by the even rounds of some kinds (`--tuning`: no others are made); what is told else is
//! of their odd rounds, and of the kinds that nobody looked at. See docs/lab.md.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::findings::{Assessed, Findings, Visit, as_json};
use detector_tests::lab::{Lab, LabOptions, require_root};
use detector_tests::process::output;
use detector_tests::reporters::Reporter;
use detector_tests::site;
use detector_tests::visits::{Kinds, Plan, Visits, What, kinds};

const USAGE: &str = "usage: cargo xtask lab [--visits N] [--browsers N] [--parallel N] [--pages N] [--pace N] [--minutes N] [--kinds A,B] \
                     [--tuning] [--enforce] [--all] [--json FILE]";

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

/// How often is looked at what is made of a person.
const LOOK: Duration = Duration::from_secs(3);

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
    /// After so many no more visits begin.
    minutes: u64,
    /// Words in the names of the kinds; all, if there are none.
    kinds: Vec<String>,
    /// Only kinds that aren't held out.
    tuning: bool,
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
            minutes: 240,
            kinds: Vec::new(),
            tuning: false,
            enforce: false,
            all: false,
            json: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--tuning" => size.tuning = true,
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
                        "--minutes" => size.minutes = value.parse()?,
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
    // As dist/sysctl.d has it: without, a busy web server's reports get lost.
    output(lab.server().command("sysctl").args(["-qw", "net.unix.max_dgram_qlen=1024"]))?;
    let config = if size.enforce { ENFORCING } else { OBSERVING };
    let daemon = Daemon::start(&lab, DaemonOptions { config, ..DaemonOptions::default() })?;
    let _server = Reporter::nginx_serving(&lab, &pages)?;
    let kinds = kinds()?;
    let plans = plans(&kinds, size)?;
    let visits = Visits::new(&lab, &lab.file("nginx").join("certificate.pem"), u16::try_from(plans.len())?)?;
    let seen = all_visits(&lab, &visits, plans, &kinds, size);
    for sample in daemon.metrics(&lab)?.samples() {
        if ["detector_join_reports_total", "detector_score_requests_total"].contains(&sample.name.as_str()) {
            eprintln!("{} {:?}: {}", sample.name, sample.labels.values().collect::<Vec<_>>(), sample.value);
        }
    }
    drop(daemon);
    if let Some(file) = &size.json {
        fs::write(file, serde_json::to_string_pretty(&as_json(&seen, &kinds))?)?;
    }
    let real = seen.iter().filter(|visit| visit.pages > 0 && kinds.get(&visit.kind).is_some_and(|kind| kind.browser));
    println!("{} visits, {} of them in real browsers", seen.len(), real.count());
    let mut hold = true;
    for (held, title) in [(false, "Kinds that were looked at, odd rounds"), (true, "Kinds that nobody looked at")] {
        let findings = Findings::new(&seen, &kinds, held, size.all);
        if !findings.is_empty() {
            println!("\n{title}");
            findings.table();
            hold &= findings.claims();
        }
    }
    Ok(hold)
}

/// The kinds of all visits with their rounds, in turn, so that each has the same chance of a busy moment.
fn plans<'a>(kinds: &'a Kinds, size: &Size) -> Result<VecDeque<(&'a str, u16)>> {
    let wanted = |kind: &str| size.kinds.is_empty() || size.kinds.iter().any(|word| kind.contains(word.as_str()));
    let mut plans = VecDeque::new();
    let most = size.visits.max(size.browsers);
    for turn in 0..u32::from(most) {
        for (name, kind) in kinds.iter().filter(|(name, kind)| wanted(name) && !(size.tuning && kind.held)) {
            // Kinds with fewer visits have theirs all along.
            let own = u32::from(if kind.browser { size.browsers } else { size.visits });
            let [round, next] = [turn, turn + 1].map(|turn| turn * own / u32::from(most));
            if next > round {
                plans.push_back((name.as_str(), u16::try_from(round)?));
            }
        }
    }
    ensure!(!plans.is_empty(), "no kind has such a name: {:?}", kinds.keys());
    Ok(plans)
}

fn all_visits(lab: &Lab, visits: &Visits<'_>, plans: VecDeque<(&str, u16)>, kinds: &Kinds, size: &Size) -> Vec<Visit> {
    let (all, end) = (plans.len(), Instant::now() + Duration::from_secs(60 * size.minutes));
    eprintln!("{all} visits, {} at a time", size.parallel);
    let queue = Mutex::new((plans, 0_u16));
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..size.parallel {
            scope.spawn(|| {
                loop {
                    let (kind, round, number) = {
                        let mut queue = lock(&queue);
                        if Instant::now() > end {
                            return;
                        }
                        let Some((kind, round)) = queue.0.pop_front() else { return };
                        queue.1 += 1;
                        (kind, round, queue.1 - 1)
                    };
                    let plan = Plan { kind, number, pages: size.pages, pace: size.pace };
                    let is_person = kinds.get(kind).is_some_and(|kind| kind.what == What::Person);
                    // One that fails is told of, and no reason to give up the others.
                    let made = visit(lab, visits, &plan, round, is_person).unwrap_or_else(|error| {
                        let error = Some(format!("{error:#}"));
                        Visit { kind: kind.to_owned(), round, pages: 0, error, assessed: None }
                    });
                    let mut seen = lock(&seen);
                    seen.push(made);
                    let made = seen.len();
                    if made % 100 == 0 {
                        eprintln!("{made} of {all} made");
                    }
                }
            });
        }
    });
    seen.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn visit(lab: &Lab, visits: &Visits<'_>, plan: &Plan<'_>, round: u16, is_person: bool) -> Result<Visit> {
    let explained = || explained(lab, plan);
    let mut worst: Option<Assessed> = None;
    let told = thread::scope(|scope| {
        let (end, ended) = mpsc::channel();
        let made = scope.spawn(move || {
            let told = visits.make(plan);
            drop(end);
            told
        });
        while is_person && ended.recv_timeout(LOOK) == Err::<(), _>(RecvTimeoutError::Timeout) {
            worst = worse(worst.take(), explained()?);
        }
        made.join().unwrap_or_else(|_| bail!("the visit's thread is gone"))
    })?;
    let last = if told.pages > 0 { until("an assessment", PATIENCE, explained).ok() } else { explained()? };
    let assessed = worse(worst, last);
    if told.pages > 0 && assessed.is_none() {
        let said = control(lab, &["explain", &plan.address().to_string()])?;
        let said = String::from_utf8_lossy(&said.stderr).trim().replace('\n', "; ");
        eprintln!("not assessed: {} at {}: {said}", plan.kind, plan.address());
    }
    Ok(Visit { kind: plan.kind.to_owned(), round, pages: told.pages, error: told.error, assessed })
}

/// The one that says more against a client; of two alike the later one, which is the second.
fn worse(first: Option<Assessed>, second: Option<Assessed>) -> Option<Assessed> {
    [first, second].into_iter().flatten().max_by_key(Assessed::place)
}

/// What detector says of a visit's client, if it knows it, and isn't too busy to say: then it is asked again.
fn explained(lab: &Lab, plan: &Plan<'_>) -> Result<Option<Assessed>> {
    let done = control(lab, &["explain", &plan.address().to_string(), "--format", "json"])?;
    match done.status.code() {
        Some(0) => Ok(Some(serde_json::from_slice(&done.stdout)?)),
        Some(2 | 69) => Ok(None),
        _ => bail!("detector explain: {}", String::from_utf8_lossy(&done.stderr)),
    }
}
