//! What harms people or lets floods through, at a thousand clients a second: the live daemon between real TCP connections
//! that send recorded hellos, each with a report (threats.md T5, T46). As long as threats.md says with
//! `DETECTOR_TEST_FULL=1`; else a few seconds.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use detector_tests::daemon::{Daemon, DaemonOptions, control, control_ok};
use detector_tests::deadline::{PATIENCE, until};
use detector_tests::drafts::Dice;
use detector_tests::figures::show;
use detector_tests::lab::{Lab, LabOptions};
use detector_tests::metrics::ASSESSED;
use detector_tests::traffic::{Arrivals, Came, Hello, Site, Visit, send};
use serde_json::Value;

use crate::scene::{LONG, SHORT};

/// Clients a second.
const RATE: f64 = 1000.0;

/// Sessions count as people's after a second instead of an hour; who was assessed is remembered.
const CONFIG: &str =
    "[behaviour]\ntrap_paths = [\"/trap\"]\n[breaker]\nreturning = \"1s\"\n[limits]\nassessments = 65536\n";

pub(crate) const CHROME: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";

/// As long, and as many, as threats.md says.
pub(crate) fn full() -> bool {
    std::env::var_os("DETECTOR_TEST_FULL").is_some_and(|full| full == "1")
}

/// The site with the daemon before it.
pub(crate) struct Scene {
    _site: Site,
    pub(crate) daemon: Daemon,
    pub(crate) lab: Lab,
    pub(crate) dice: Dice,
}

impl Scene {
    /// `DIRECTORY` in the configuration stands for the lab's own.
    pub(crate) fn start(arguments: &'static [&'static str], config: &str) -> Result<Self> {
        Self::start_with(arguments, config, Site::start)
    }

    /// The same with a site that asks before it answers.
    pub(crate) fn start_asking(arguments: &'static [&'static str]) -> Result<Self> {
        let config = "[inline]\nsocket = \"DIRECTORY/decision.sock\"\ngroup = \"root\"\n";
        Self::start_with(arguments, config, |lab| Site::start_asking(lab, &lab.file("decision.sock")))
    }

    fn start_with(
        arguments: &'static [&'static str],
        config: &str,
        site: impl FnOnce(&Lab) -> Result<Site>,
    ) -> Result<Self> {
        let lab = Lab::new(LabOptions::default())?;
        // As the daemon advises.
        lab.sysctl(lab.server(), "net.unix.max_dgram_qlen=4096")?;
        let directory = lab.file("");
        let config = format!("{CONFIG}{config}").replace("DIRECTORY/", &directory.to_string_lossy()).leak();
        let daemon = Daemon::start(&lab, DaemonOptions { arguments, config, ..DaemonOptions::default() })?;
        Ok(Self { _site: site(&lab)?, daemon, lab, dice: Dice(6) })
    }

    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self.daemon.metrics(&self.lab)?.sum(name, labels))
    }

    /// What is done about an address, if anything is known of it.
    pub(crate) fn explain(&self, of: IpAddr) -> Result<Option<Value>> {
        let done = control(&self.lab, &["explain", &of.to_string(), "--format", "json"])?;
        if done.status.code() == Some(2) {
            return Ok(None);
        }
        ensure!(done.status.success(), "{done:?}");
        Ok(Some(serde_json::from_slice(&done.stdout)?))
    }

    /// Nobody of these is limited, challenged or blocked, and each is known.
    pub(crate) fn nobody_feels_anything(&self, people: impl Iterator<Item = IpAddr>) -> Result<()> {
        for person in people {
            let known = until("an assessment", PATIENCE, || self.explain(person))?;
            let action = known["action"].as_str().unwrap_or_default();
            ensure!(["allow", "observe"].contains(&action), "{person} is no program: {known}");
        }
        Ok(())
    }

    /// A page as a person's browser loads it, with what belongs to it.
    pub(crate) fn person(&mut self, who: usize, source: IpAddr, hello: &Hello) -> Visit {
        let page = format!("/{}", letters(self.dice.below(676)));
        let of = |path: &str, dest: &str| {
            let found = "\"ref\":\"https://shop.test/\"";
            format!("\"path\":\"{path}\",\"sf_dest\":\"{dest}\",{found},\"ua\":\"{CHROME}\"")
        };
        let requests =
            vec![of(&page, "document"), of("/style.css", "style"), of(&format!("/picture{page}.webp"), "image")];
        Visit { who, source, hello: hello.bytes(&mut self.dice), requests, patience: LONG }
    }

    /// A program that says to be a browser and sends few headers, for a page.
    pub(crate) fn program(&mut self, who: usize, source: IpAddr, hello: &Hello, path: &str) -> Visit {
        let request = format!(
            "\"path\":\"{path}\",\"acc\":\"*/*\",\"hdr\":\"user-agent,accept-encoding,accept,connection\",\"ua\":\"{CHROME}\""
        );
        Visit { who, source, hello: hello.bytes(&mut self.dice), requests: vec![request], patience: SHORT }
    }
}

/// Two letters for a number.
pub(crate) fn letters(number: usize) -> String {
    let letter = |number: usize| char::from(b'a' + (number % 26) as u8);
    format!("{}{}", letter(number / 26), letter(number))
}

/// An address in one of the networks 10.81.x.0/24: person or program of that number.
fn address(number: usize, program: bool) -> IpAddr {
    Ipv4Addr::new(10, 81, (number % 250) as u8, (number / 250 * 2) as u8 + 1 + u8::from(program)).into()
}

/// How many visits got all they asked for, of how many.
pub(crate) fn whole<'a>(came: impl Iterator<Item = &'a Came>) -> (usize, usize) {
    came.fold((0, 0), |(whole, all), came| (whole + usize::from(came.is_whole()), all + 1))
}

fn rate(came: &[Came]) -> f64 {
    let last = came.last().map_or(1.0, |came| came.at.as_secs_f64());
    came.len() as f64 / last.max(1.0)
}

/// threats.md T5: a browser's hello that programs send stops nobody who has that browser.
#[test]
fn programs_with_a_browsers_hello_cost_nobody_who_has_that_browser() -> Result<()> {
    let mut scene = Scene::start(&["--enforce"], "")?;
    let browser = Hello::recorded("chromium-headful-h2", true)?;
    let (seconds, people, programs) = if full() { (60, 1000, 900) } else { (4, 100, 100) };
    let visits = (0..seconds * 1000).map(|number| match number % 20 {
        0 => scene.person(0, address(number / 20 % people, false), &browser),
        _ => scene.program(1, address(number % programs, true), &browser, "/trap"),
    });
    let visits = visits.collect();
    let came = send(&scene.lab, RATE, Arrivals::Even, visits)?;
    let ((reached, visits), (let_in, all)) =
        (whole(came.iter().filter(|came| came.who == 0)), whole(came.iter().filter(|came| came.who == 1)));
    show(&format!(
        "T5: {:.0} visits/s: people {reached} of {visits} answered, programs {let_in} of {all}; {}",
        rate(&came),
        scene.counted()?
    ));
    assert_eq!(reached, visits, "people were stopped: {}", scene.daemon.counted(&scene.lab)?);
    ensure!(let_in * 2 < all, "{let_in} of {all} programs were let in: {}", scene.daemon.counted(&scene.lab)?);
    scene.nobody_feels_anything((0..people.min(200)).map(|person| address(person, false)))?;
    assert_eq!(scene.sum("detector_breakers", &[("state", "open|half_open")])?, 0.0);
    Ok(())
}

impl Scene {
    fn counted(&self) -> Result<String> {
        let metrics = self.daemon.metrics(&self.lab)?;
        let sum = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
        Ok(format!(
            "{} assessed, {} left out, {} verdicts queued, {} dropped for want of room, {} pairs in force",
            sum("detector_score_requests_total", &[("outcome", ASSESSED)]),
            sum("detector_score_requests_total", &[("outcome", "behind|budget")]),
            sum("detector_enforce_outcomes_total", &[("outcome", "queued")]),
            sum("detector_enforce_outcomes_total", &[("outcome", "dropped")]),
            sum("detector_enforce_verdicts", &[("kind", "pair")]),
        ))
    }
}

/// threats.md T46: however many programs are stopped, the breaker stays closed, and nobody else is stopped.
#[test]
fn a_flood_of_programs_is_stopped_beside_people() -> Result<()> {
    let mut scene = Scene::start(&["--enforce"], "")?;
    let (browser, library) = (Hello::recorded("chromium-headful-h2", true)?, Hello::recorded("py-requests", false)?);
    let (seconds, people, programs) = if full() { (60, 200, 200) } else { (5, 50, 10) };
    let before = (0..people * 3).map(|number| scene.person(0, address(number % people, false), &browser)).collect();
    let known = send(&scene.lab, 100.0, Arrivals::Random, before)?;
    ensure!(known.iter().all(Came::is_whole), "people were stopped before the flood");
    let visits = (0..seconds * 1050).map(|number| match number % 21 {
        0 => scene.person(0, address(number / 21 % people, false), &browser),
        _ => scene.program(1, address(number % programs, true), &library, "/"),
    });
    let visits = visits.collect();
    let came = send(&scene.lab, RATE * 1.05, Arrivals::Even, visits)?;
    let ((reached, visits), (let_in, all)) =
        (whole(came.iter().filter(|came| came.who == 0)), whole(came.iter().filter(|came| came.who == 1)));
    show(&format!(
        "T46: {:.0} visits/s: people {reached} of {visits} answered, programs {let_in} of {all}; {}",
        rate(&came),
        scene.counted()?
    ));
    assert_eq!(reached, visits, "people were stopped: {}", scene.daemon.counted(&scene.lab)?);
    // The first of each: of a short flood on a busy machine they are more.
    let share = if full() { 100 } else { 50 };
    ensure!(let_in * share <= all, "{let_in} of {all} were let in: {}", scene.daemon.counted(&scene.lab)?);
    scene.nobody_feels_anything((0..people).map(|person| address(person, false)))?;
    assert_eq!(scene.sum("detector_breakers", &[("state", "open|half_open")])?, 0.0, "no breaker opens");
    Ok(())
}

/// threats.md T46: a list that names everybody, while a thousand people come each second.
#[test]
fn a_rule_that_matches_everybody_is_off_within_two_seconds() -> Result<()> {
    let list = tempfile::NamedTempFile::new()?;
    let feed = format!("[feeds]\nlists.own = {{ class = \"denied\", file = \"{}\" }}\n", list.path().display());
    fs::write(&list, "192.0.2.1\n")?;
    let mut scene = Scene::start(&["--enforce"], &feed)?;
    let browser = Hello::recorded("chromium-headful-h2", true)?;
    // All of them are answered and assessed, at as many a second as a busy machine does.
    let (people, at_once) = if full() { (5000, RATE) } else { (2000, RATE / 2.0) };
    let ordered = IpAddr::from([10, 82, 0, 1]);
    control_ok(&scene.lab, &["block", &ordered.to_string()])?;
    let mut came = |visits: usize, person: fn(usize) -> usize| -> Result<Vec<Came>> {
        let visit = |number: usize| (person(number) % people, address(person(number) % people, false));
        let visits = (0..visits).map(visit).map(|(who, source)| scene.person(who, source, &browser));
        let visits = visits.map(|visit| Visit { patience: SHORT, ..visit }).collect();
        send(&scene.lab, at_once, Arrivals::Random, visits)
    };
    // Each twice, so that they have shown to be people.
    let before = came(2 * people, |number| number)?;
    let (reached, all) = whole(before.iter());
    ensure!(reached == all, "{reached} of {all} are answered before the rule comes");
    // Networks that all of them are in. A hundred come, and again; then the next hundred.
    fs::write(&list, "10.81.0.0/16\n")?;
    let after = came(if full() { 20_000 } else { 3000 }, |number| number / 200 * 100 + number % 100)?;
    let stopped: Vec<&Came> = after.iter().filter(|came| !came.is_whole()).collect();
    // Nobody at all, if none of them comes back before it is off.
    let at = |came: Option<&&Came>| came.map_or(Duration::ZERO, |came| came.at);
    let lasted = at(stopped.last()).saturating_sub(at(stopped.first()));
    let touched: BTreeSet<usize> = stopped.iter().map(|came| came.who).collect();
    show(&format!(
        "T46: {:.0} people/s: {} of {people} touched, within {:.2} s; {}",
        rate(&after),
        touched.len(),
        lasted.as_secs_f64(),
        scene.counted()?
    ));
    ensure!(scene.sum("detector_score_decisions_total", &[("action", "block")])? > 0.0, "the rule came into force");
    ensure!(scene.sum("detector_breakers", &[("state", "open|half_open")])? >= 1.0, "the alarm");
    ensure!(lasted <= Duration::from_secs(3), "people were stopped for {lasted:?}");
    ensure!(touched.len() as f64 <= people as f64 * 0.05 + 2.0 * at_once, "{} people were touched", touched.len());
    // What an operator ordered stands.
    let blocked = scene.person(0, ordered, &browser);
    let blocked = send(&scene.lab, 1.0, Arrivals::Random, vec![Visit { patience: SHORT, ..blocked }])?;
    assert_eq!(blocked[0].answered, 0, "an operator's block stands while the breaker is open");
    Ok(())
}
