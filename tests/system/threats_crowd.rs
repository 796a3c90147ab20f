//! Programs among people who can't be told apart by their address: behind one IPv4 address (threats.md T44), and in the
//! /64, /56 and /48 of IPv6 (T45).

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use detector_tests::figures::show;
use detector_tests::traffic::{Arrivals, Came, Hello, Visit, send};
use serde_json::Value;

use crate::scene::{LONG, SHORT};
use crate::threats::{Scene, full, letters, whole};

/// Who is behind it.
const SHARED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 83, 0, 7));

/// One of many builds of browsers, and what it sends first.
struct Build {
    hello: Hello,
    agent: String,
}

fn builds() -> Result<Vec<Build>> {
    let (chromium, firefox) = (Hello::recorded("chromium-headful-h2", true)?, Hello::recorded("firefox-esr", false)?);
    let chromium = (0..26_u8).map(|number| {
        let system = format!("X11; Linux {} x86_64", char::from(b'A' + number));
        let agent =
            format!("Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36");
        Build { hello: chromium.clone(), agent }
    });
    let firefox = (0..6).map(|number| {
        let agent = format!("Mozilla/5.0 (X11; Linux x86_64; rv:15{number}.0) Gecko/20100101 Firefox/15{number}.0");
        Build { hello: firefox.clone(), agent }
    });
    Ok(chromium.chain(firefox).collect())
}

/// A page as this person's browser loads it.
fn reads(scene: &mut Scene, who: usize, build: &Build) -> Visit {
    let visit = scene.person(who, SHARED, &build.hello);
    let own = |request: String| request.replace(crate::threats::CHROME, &build.agent);
    Visit { requests: visit.requests.into_iter().map(own).collect(), ..visit }
}

/// threats.md T44: twenty programs among two thousand people with one address: of people nobody is stopped, of programs
/// most requests are.
#[test]
fn programs_are_limited_among_people_with_one_address() -> Result<()> {
    let mut scene = Scene::start(&["--enforce"], "")?;
    let (builds, library) = (builds()?, Hello::recorded("py-requests", false)?);
    // Fifty have the same build, the others one of many.
    let (people, programs) = if full() { (2000, 20) } else { (400, 20) };
    let build = |person: usize| &builds[if person < 50 { 0 } else { person % builds.len() }];
    let mut morning = Vec::new();
    for person in 0..people.min(400) {
        morning.push(reads(&mut scene, person, build(person)));
    }
    let morning = send(&scene.lab, 100.0, Arrivals::Random, morning)?;
    ensure!(morning.iter().all(Came::is_whole), "people were stopped before any program came");
    let seconds = if full() { 60 } else { 8 };
    let visits = (0..seconds * 200).map(|number| match number % 2 {
        0 => reads(&mut scene, number / 2 % people, build(number / 2 % people)),
        _ => {
            let path = format!("/{}", letters(number));
            scene.program(people + number % programs, SHARED, &library, &path)
        }
    });
    let visits = visits.collect();
    let came = send(&scene.lab, 200.0, Arrivals::Random, visits)?;
    let ((reached, all), (let_in, tried)) =
        (whole(came.iter().filter(|came| came.who < people)), whole(came.iter().filter(|came| came.who >= people)));
    let decided = |action| scene.sum("detector_score_decisions_total", &[("action", action)]);
    let (limited, challenged) = (decided("rate_limit")?, decided("challenge")? + decided("block")?);
    show(&format!(
        "T44: people {reached} of {all} answered, programs {let_in} of {tried}; {limited} requests limited, {challenged} challenged"
    ));
    assert_eq!(reached, all, "people were stopped: {}", scene.daemon.counted(&scene.lab)?);
    ensure!(
        let_in * 10 <= tried,
        "{let_in} of {tried} requests of programs came through: {}",
        scene.daemon.counted(&scene.lab)?
    );
    // Those of programs that came before their verdict, and nobody else's.
    ensure!(challenged * 1000.0 <= all as f64, "{challenged} requests were challenged or blocked");
    ensure!(limited * 10.0 <= tried as f64, "{limited} requests were limited");
    Ok(())
}

/// threats.md T44: twenty programs with the browser that people there have, each with a session of the site's: answers to
/// the web server limit those sessions, and no person's.
#[test]
fn sessions_of_programs_are_limited_among_people_with_one_address() -> Result<()> {
    let mut scene = Scene::start_asking(&["--enforce"])?;
    let builds = builds()?;
    let (people, programs) = if full() { (2000, 20) } else { (1000, 20) };
    let session = |visit: Visit, who: usize| {
        let requests = visit.requests.into_iter().map(|request| format!("{request},\"sid\":\"session-{who}\""));
        Visit { requests: requests.collect(), ..visit }
    };
    let person = |scene: &mut Scene, who: usize| {
        let build = &builds[if who < 50 { 0 } else { who % builds.len() }];
        session(reads(scene, who, build), who)
    };
    // Each page of a program over a connection of its own.
    let program = |scene: &mut Scene, who: usize, page: usize| {
        let request = format!("\"path\":\"/{}\",\"ua\":\"{}\"", letters(page), builds[0].agent);
        let visit = scene.program(who, SHARED, &builds[0].hello, "/");
        session(Visit { requests: vec![request], ..visit }, who)
    };
    // Some read three pages, so that it is known that there are many.
    let known = (0..150).map(|number| person(&mut scene, 50 + number % 50)).collect();
    let (reached, all) = whole(send(&scene.lab, 21.0, Arrivals::Random, known)?.iter());
    ensure!(reached == all, "{reached} of {all} pages were read before any program came");
    let (seconds, rate) = if full() { (60, 400) } else { (8, 400) };
    let visits = (0..seconds * rate).map(|number| match number % 4 {
        0 => person(&mut scene, number / 4 % people),
        _ => program(&mut scene, people + number % programs, number),
    });
    let visits = visits.collect();
    let came = send(&scene.lab, rate as f64, Arrivals::Random, visits)?;
    let ((reached, all), (let_in, tried)) =
        (whole(came.iter().filter(|came| came.who < people)), whole(came.iter().filter(|came| came.who >= people)));
    let by_quarter = |quarter: usize| {
        let quarters = came.chunks(came.len().div_ceil(4));
        whole(quarters.into_iter().nth(quarter).into_iter().flatten().filter(|came| came.who >= people))
    };
    let quarters: Vec<_> = (0..4).map(by_quarter).collect();
    show(&format!(
        "T44: sessions of people {reached} of {all} answered, of programs {let_in} of {tried}, by quarters {quarters:?}"
    ));
    assert_eq!(reached, all, "people were stopped: {}", scene.daemon.counted(&scene.lab)?);
    let (last, of) = quarters[3];
    ensure!(
        last * 10 <= of,
        "{last} of {of} late requests of programs came through: {}",
        scene.daemon.counted(&scene.lab)?
    );
    Ok(())
}

/// So many addresses of the /64 with this number in fd78::/32, each another.
fn inside(network: u64, host: u64) -> IpAddr {
    let network = 0xfd78_0000_0000_0000 | network;
    Ipv6Addr::from_bits(u128::from(network) << 64 | u128::from(host.wrapping_mul(0x9e37_79b9_7f4a_7c15))).into()
}

/// threats.md T45: a program that has a /64, a /56, a /48 to take addresses of, and sixteen neighbours.
#[test]
fn a_program_that_changes_its_address_has_one_verdict() -> Result<()> {
    let mut scene = Scene::start(&["--enforce"], "")?;
    let (browser, library) = (Hello::recorded("chromium-headful-h2", true)?, Hello::recorded("py-requests", false)?);
    let automatic = |scene: &Scene| scene.sum("detector_enforce_verdicts", &[("kind", "automatic")]);
    // Neighbours with a browser, and some with the program's own hello that say what they are.
    let neighbours = |scene: &mut Scene| -> Result<()> {
        let mut visits = Vec::new();
        for number in 0..8_u64 {
            visits.push(scene.person(0, inside(0x10 + number, 2), &browser));
            let source = inside(0x1_0100 + number, 2);
            let request = "\"path\":\"/status\",\"ua\":\"UptimeRobot/2.0\"".to_owned();
            let service = scene.program(0, source, &library, "/");
            visits.push(Visit { requests: vec![request], patience: LONG, ..service });
        }
        let (reached, all) = whole(send(&scene.lab, 50.0, Arrivals::Random, visits)?.iter());
        ensure!((reached, all) == (16, 16), "{reached} of {all} clean neighbours were answered");
        Ok(())
    };
    neighbours(&mut scene)?;

    let requests = if full() { 60_000 } else { 3000 };
    let visits = (0..requests).map(|number| scene.program(0, inside(0, number), &library, "/")).collect();
    let (let_in, tried) = whole(send(&scene.lab, 1000.0, Arrivals::Random, visits)?.iter());
    let verdicts = automatic(&scene)?;
    show(&format!("T45: {tried} addresses of one /64: {let_in} let in, {verdicts} verdicts"));
    ensure!(verdicts == 1.0, "{verdicts} verdicts on one /64");
    ensure!(let_in * 20 <= tried, "{let_in} of {tried} were let in");

    // All over its /56, then over its /48.
    let mut rotate = |from: u64, networks: u64, step: u64| -> Result<(usize, usize)> {
        let visits = (0..networks)
            .flat_map(|network| (0..4).map(move |host| inside(from + network * step, host)))
            .map(|source| scene.program(0, source, &library, "/"))
            .collect();
        Ok(whole(send(&scene.lab, 400.0, Arrivals::Random, visits)?.iter()))
    };
    let over_56 = rotate(0, 200, 1)?;
    let over_48 = rotate(0x200, 80, 0x41)?;
    let beside_clean = rotate(0x1_0180, 20, 1)?;
    let verdicts = automatic(&scene)?;
    show(&format!(
        "T45: of {over_56:?} over a /56, {over_48:?} over a /48 let in; beside clean ones {beside_clean:?}; {verdicts} verdicts"
    ));
    ensure!(over_56.0 * 10 <= over_56.1, "{over_56:?} over the /56 were let in");
    let known: Value = scene.explain(inside(0xfe, 1))?.context("the /56 is known")?;
    let unit = known["unit"].as_str().unwrap_or_default();
    ensure!(unit.starts_with("fd78::/56 ") || unit.starts_with("fd78::/48 "), "{known}");
    ensure!(known["axes"].as_array().is_some_and(|axes| axes.len() >= 2), "{known}");
    ensure!(
        scene
            .explain(inside(0x5000, 1))?
            .is_none_or(|known| known["unit"].as_str().is_some_and(|unit| unit.starts_with("fd78::/48 ")))
    );
    neighbours(&mut scene)?;
    let last = scene.program(0, inside(0xfd, 77), &library, "/");
    let last = send(&scene.lab, 1.0, Arrivals::Random, vec![Visit { patience: SHORT, ..last }])?;
    assert_eq!(last[0].answered, 0, "neighbours lift nothing that isn't over them");
    Ok(())
}
