//! What is decided, held, told to the packet path and taken back, on a clock of the test's.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::super::wanted::{Orderly, queue};
use super::*;
use crate::config::{Config, Mode};
use crate::fingerprint::Transport;
use crate::kernel::Waker;
use crate::network::Limits;
use crate::score::{Confidence, Signal};
use crate::session::{Limits as SessionLimits, Sessions};

const JA4: &str = "t13d1516h2_8daaf6152771_d8a2da3f94cd";
/// Of curl, with a browser's name forged.
const CURL: &str = "t12d2807h2_d943125447b4_a44c6288192a";
/// A browser that says that it is driven.
const ROBOT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36";
/// Of a crawler that publishes ranges; the test's addresses are in none.
const FORGED: &str = "GPTBot/1.2";

struct Scene {
    assessor: Assessor,
    orderly: Orderly,
    sessions: Sessions,
    requests: Arc<Requests>,
    /// What all send.
    hello: &'static str,
    /// The site's own session.
    session: Option<&'static str>,
}

/// `all`: every request is a bot's, by whatever it shows.
fn scene(all: bool) -> Scene {
    let metrics = Arc::new(Metrics::new(Mode::Enforce, super::super::labels()).unwrap());
    let (reputation, librarian) = Reputation::start(&Config::default(), Arc::clone(&metrics)).unwrap();
    librarian.stop();
    let (wishes, orderly) = queue(100_000, Waker::new().unwrap(), Arc::clone(&metrics));
    let mut settings = config::Engine::default();
    if all {
        (settings.score.prior, settings.policy.suspicious) = (10.0, Action::Challenge);
    }
    let requests = Arc::new(Requests::new(100));
    let assessor = Assessor::new(Parts {
        settings: &settings,
        network: Network::new(Limits::default()),
        reputation,
        requests: Arc::clone(&requests),
        wishes,
        enforcing: Arc::new(AtomicBool::new(true)),
        bounds: Bounds { held: 10_000, remembered: 100, prefixes: 1000 },
        budget: Budget::per_second(1_000_000),
        daemon: 0xabc,
        metrics,
    });
    let sessions = Sessions::new(SessionLimits::default());
    assert!(matches!(orderly.take(9).collect::<Vec<_>>()[..], [Wanted::Share(WHOLE_SHARE)]), "whatever was before");
    Scene { assessor, orderly, sessions, requests, hello: JA4, session: None }
}

fn at(seconds: f64) -> Timestamp {
    // As the clock of `held`, which asks it itself.
    monotonic().plus(Duration::from_secs_f64(seconds))
}

fn identity(hello: &str, now: Timestamp) -> Identity {
    let ja4 = hello.parse().unwrap();
    Identity {
        ja4,
        ja4_stable: ja4,
        keys: Default::default(),
        traits: Default::default(),
        syn_class: None,
        transport: Transport::Tcp,
        syn: None,
        hello: now,
        stream: 1,
        void: false,
    }
}

impl Scene {
    fn ask(&self, address: IpAddr, agent: &str, session: Option<&Summary>, now: Timestamp) -> Arc<Record> {
        self.ask_or_tell(address, agent, session, now, false)
    }

    /// `told`: by a report, so that it counts for its network.
    fn ask_or_tell(
        &self,
        address: IpAddr,
        agent: &str,
        session: Option<&Summary>,
        now: Timestamp,
        told: bool,
    ) -> Arc<Record> {
        let report =
            Report { user_agent: Some(agent.into()), session: self.session.map(Into::into), ..Report::default() };
        let subject = Subject::Client { address, ja4_stable: self.hello.parse().unwrap(), proxy_suspected: false };
        let key = Some(self.sessions.key(&subject, &report));
        let identity = identity(self.hello, now);
        let request = told.then(|| self.sessions.request(&report, now, 1));
        let (identity, request) = (Some(&identity), request.as_ref());
        let asked = Asked { report: &report, subject: &subject, identity, session, key, request, now };
        self.assessor.assess(&asked, self.assessor.id())
    }

    /// Somebody who reads some pages, each as long as it takes.
    fn reader(&mut self) -> Summary {
        let subject = Subject::Forwarded { address: [192, 0, 2, 2].into(), agent: 2, headers: 2 };
        let page = Report { path: Some("/a".into()), referer: Some("/".into()), ..Report::default() };
        let image = Report { path: Some("/a.png".into()), referer: Some("/".into()), ..Report::default() };
        let key = self.sessions.key(&subject, &page);
        for second in [0, 7, 31, 44, 95, 101] {
            let now = Timestamp::default().plus(Duration::from_secs(second));
            for report in [&page, &image] {
                let request = self.sessions.request(report, now, 1);
                self.sessions.note(key, &request, now);
            }
        }
        self.sessions.summary(key, Timestamp::default().plus(Duration::from_secs(110))).unwrap()
    }

    /// Somebody who reads here since two hours.
    fn person(&mut self) -> Summary {
        let subject = Subject::Forwarded { address: [192, 0, 2, 1].into(), agent: 1, headers: 1 };
        let page = Report { path: Some("/a".into()), referer: Some("/".into()), ..Report::default() };
        let image = Report { path: Some("/a.png".into()), referer: Some("/".into()), ..Report::default() };
        let key = self.sessions.key(&subject, &page);
        for (minute, report) in (0..240).zip([&page, &image].into_iter().cycle()) {
            let now = Timestamp::default().plus(Duration::from_secs(minute * 30));
            let request = self.sessions.request(report, now, 1);
            self.sessions.note(key, &request, now);
        }
        self.sessions.summary(key, Timestamp::default().plus(Duration::from_secs(7200))).unwrap()
    }
}

fn address(number: u32) -> IpAddr {
    IpAddr::from((0xc633_0000 + number).to_be_bytes())
}

/// threats.md T46: a rule that matches everything, at 1,000 people a second.
#[test]
fn a_rule_that_matches_everybody_is_off_within_two_seconds() {
    let mut scene = scene(true);
    let person = scene.person();
    let (mut touched, mut off) = (0, None);
    for number in 0..5000 {
        let now = at(f64::from(number) / 1000.0);
        if number % 1000 == 0 {
            scene.assessor.tick(now);
        }
        let record = scene.ask(address(number), "x", Some(&person), now);
        assert_eq!(record.decision.action, Action::Challenge);
        if record.in_force {
            touched += 1;
        } else {
            off.get_or_insert(number);
        }
    }
    assert!(off.is_some_and(|after| after <= 2000), "{off:?}");
    assert!(touched <= 2000, "{touched} people were challenged");
    let wanted: Vec<Wanted> = scene.orderly.take(9).collect();
    assert!(matches!(wanted.first(), Some(Wanted::Share(0))), "one entry in the kernel: {wanted:?}");
    assert_eq!(scene.assessor.breaker().troubled().count(), 3, "of all, of the rule, of the site");
}

/// However many programs are stopped, and nobody else.
#[test]
fn a_flood_of_programs_opens_nothing_and_stops_no_person() {
    let mut scene = scene(false);
    let person = scene.person();
    for number in 0..10_000 {
        let now = at(f64::from(number) / 1000.0);
        if number % 1000 == 0 {
            scene.assessor.tick(now);
        }
        let program = scene.ask(address(1000 + number), FORGED, None, now);
        assert!(program.in_force && program.decision.action == Action::Challenge, "{program:?}");
        if number % 50 == 0 {
            let human = scene.ask(address(number / 50), "Mozilla/5.0", Some(&person), now);
            assert!(!human.decision.action.is_felt(), "{human:?}");
        }
    }
    assert_eq!(scene.assessor.breaker().troubled().count(), 0);
}

/// threats.md T45: a client that has a /64 has one verdict.
#[test]
fn all_of_a_64_is_one_client() {
    let scene = scene(false);
    for host in 0..10_000_u128 {
        let inside = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (host * 0x1_0001));
        scene.ask(inside.into(), FORGED, None, at(0.0));
    }
    assert_eq!(scene.assessor.memory().len(), 1);
    let neighbour = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (1 << 64));
    let clean = scene.ask(neighbour.into(), "Mozilla/5.0", None, at(0.0));
    assert!(!clean.decision.action.is_felt(), "{clean:?}");
}

/// threats.md T45: a program that has a /56, or a /48, is blocked there; nobody else is.
#[test]
fn a_program_that_changes_its_64_is_blocked_in_its_56() {
    let scene = Scene { hello: CURL, ..scene(false) };
    let inside = |network: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | network << 64 | 1));
    let ask = |network, agent| scene.ask(inside(network), agent, None, at(0.0));
    let unit = |record: &Record| match record.decision.unit {
        Unit::Pair(prefix, _) => prefix.to_string(),
        Unit::Forwarded(..) | Unit::Session(_) => String::new(),
    };
    // A tool that says so, next door.
    let clean = ask(0x1ff, "Uptime/1.0");
    assert!(clean.assessment.confidence <= Confidence::LikelyHuman, "{clean:?}");
    let units: Vec<String> = (0..5).map(|network| unit(&ask(network, ROBOT))).collect();
    let [first, .., fourth, fifth] = &units[..] else { panic!() };
    assert_eq!([first, fourth, fifth], ["2001:db8::/64", "2001:db8::/56", "2001:db8::/56"]);
    let wanted: Vec<Target> = scene
        .orderly
        .take(100)
        .filter_map(|wanted| match wanted {
            Wanted::Verdict { target, rate: None, .. } => Some(target),
            _ => None,
        })
        .collect();
    assert_eq!(wanted.len(), 4, "{wanted:?}");
    let (found, _) = scene.assessor.find(|record| record.address == inside(3)).unwrap();
    assert_eq!(unit(&found), "2001:db8::/56");
    let beside: Vec<String> = (0x100..0x105).map(|network| unit(&ask(network, ROBOT))).collect();
    assert!(beside.iter().all(|unit| unit.ends_with("/64")), "a clean one is there: {beside:?}");

    // Somebody in the /56 turns out to be clean.
    let _ = scene.orderly.take(100).count();
    ask(0x77, "Uptime/1.0");
    let lifted: Vec<Wanted> = scene.orderly.take(100).collect();
    assert!(matches!(lifted[..], [Wanted::Lift(target)] if target.unit.prefix_len() == 56), "{lifted:?}");
}

/// threats.md T44: bots among the people behind one address. Where people have the same browser, nothing is in the kernel.
#[test]
fn in_a_crowd_only_what_nobody_there_browses_with_is_limited() {
    let mut scene = Scene { hello: CURL, ..scene(false) };
    let reader = scene.reader();
    let crowd = |scene: &Scene| {
        for kind in 0..20 {
            scene.ask_or_tell(address(1), &format!("Reader/{kind}"), Some(&reader), at(0.0), true);
        }
        let _ = scene.orderly.take(100).count();
    };
    let before = scene.ask_or_tell(address(1), ROBOT, None, at(0.0), true);
    assert_eq!(before.decision.action, Action::Block, "nothing is known of others");
    crowd(&scene);
    let person = scene.ask_or_tell(address(1), "Reader/1", Some(&reader), at(1.0), true);
    assert_eq!(person.decision.action, Action::Allow, "what was before the crowd is over: {person:?}");
    let bot = scene.ask_or_tell(address(1), ROBOT, None, at(1.0), true);
    assert!(bot.assessment.evidence.has(Signal::Crowd), "{bot:?}");
    assert_eq!(bot.decision.action, Action::Observe, "{bot:?}");
    assert_eq!(scene.orderly.take(100).count(), 0, "people have that fingerprint");
    let asked = scene.ask(address(1), ROBOT, None, at(1.0));
    assert!(asked.decision.action < Action::Challenge, "a question knows of the crowd: {asked:?}");

    let mut scene = self::scene(false);
    crowd(&scene);
    scene.hello = CURL;
    let bot = scene.ask_or_tell(address(1), ROBOT, None, at(1.0), true);
    assert_eq!(bot.decision.action, Action::RateLimit, "{bot:?}");
    let wanted: Vec<Wanted> = scene.orderly.take(100).collect();
    assert!(matches!(wanted[..], [Wanted::Verdict { rate: Some(_), .. }]), "{wanted:?}");
}

/// Others may have its address and its fingerprint.
#[test]
fn what_a_session_of_the_sites_own_did_is_held_against_that_alone() {
    let mut scene = scene(false);
    let reader = scene.reader();
    let trapped = Summary { traps: 1, ..reader };
    scene.session = Some("a program's");
    let bad = scene.ask(address(1), "x", Some(&trapped), at(0.0));
    assert_eq!((bad.decision.action, bad.decision.reach), (Action::Challenge, Reach::Inline), "{bad:?}");
    assert!(bad.in_force && matches!(bad.decision.unit, Unit::Session(_)));
    let elsewhere = scene.ask(address(2), "x", Some(&reader), at(1.0));
    assert_eq!((elsewhere.decision.action, elsewhere.earlier), (Action::Challenge, Some(bad.id)));
    scene.session = Some("a person's");
    let person = scene.ask(address(1), "x", Some(&reader), at(1.0));
    assert_eq!((person.decision.action, person.earlier), (Action::Allow, None));
    scene.session = None;
    assert_eq!(scene.ask(address(1), "x", Some(&reader), at(1.0)).decision.action, Action::Allow);
    assert_eq!(scene.orderly.take(100).count(), 0, "nothing in the kernel");
    scene.session = Some("a program's");
    scene.requests.never_block(vec![address(1).into()]);
    assert_eq!(scene.ask(address(1), "x", Some(&trapped), at(2.0)).decision.action, Action::Allow);
    assert_eq!(scene.assessor.memory().len(), 0, "whoever is welcome is so with it");
}

/// threats.md T44: in a crowd a program's session may come so fast and no faster; a person's as it likes.
#[test]
fn in_a_crowd_a_programs_session_is_limited() {
    let mut scene = scene(false);
    let reader = scene.reader();
    let trapped = Summary { traps: 1, ..reader };
    for kind in 0..20 {
        scene.ask_or_tell(address(1), &format!("Reader/{kind}"), Some(&reader), at(0.0), true);
    }
    scene.session = Some("a program's");
    let begin = at(1.0);
    let mut asked = (0..100).map(|number| {
        let record = scene.ask(address(1), "x", Some(&trapped), begin.plus(Duration::from_millis(number * 100)));
        assert_eq!(record.decision.action, Action::RateLimit, "{record:?}");
        record.too_fast
    });
    assert!(!asked.next().unwrap(), "the first one");
    let refused = asked.filter(|too_fast| *too_fast).count();
    assert!((88..=91).contains(&refused), "{refused} of 99 within ten seconds, at one a second");
    scene.session = Some("a person's");
    let person = (0..100).map(|_| scene.ask(address(1), "x", Some(&reader), at(2.0)));
    assert!(person.into_iter().all(|record| record.decision.action == Action::Allow && !record.too_fast));
}

/// What was decided lasts for the requests that come after it, and the allow list ends it.
#[test]
fn the_hardest_that_lasts_holds_until_its_end_or_an_operators_word() {
    let scene = scene(false);
    let client = address(7);
    let first = scene.ask(client, FORGED, None, at(0.0));
    assert_eq!((first.assessment.confidence, first.decision.action), (Confidence::LikelyBot, Action::Challenge));
    let quiet = scene.ask(client, "Mozilla/5.0", None, at(60.0));
    assert_eq!((quiet.decision.action, quiet.earlier), (Action::Challenge, Some(first.id)));
    assert!(quiet.in_force && quiet.id != first.id);
    let (found, count) = scene.assessor.find(|record| record.address == client).unwrap();
    assert_eq!((found.id, found.earlier, count), (quiet.id, Some(first.id), 2), "the latest, and what decided it");
    let later = scene.ask(client, "Mozilla/5.0", None, at(1801.0));
    assert_eq!((later.decision.action, later.earlier), (Action::Allow, None), "half an hour later it is over");

    scene.ask(client, FORGED, None, at(0.0));
    scene.requests.never_block(vec![client.into()]);
    let welcome = scene.ask(client, FORGED, None, at(1.0));
    let (found, _) = scene.assessor.find(|record| record.address == client).unwrap();
    assert_eq!((found.id, found.until), (welcome.id, None), "what was lifted is over");
    assert_eq!((welcome.decision.action, welcome.earlier), (Action::Allow, None));
    assert_eq!(scene.assessor.memory().len(), 0);
}
