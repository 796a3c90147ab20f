//! What is decided, held, told to the packet path and taken back, on a clock of the test's.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::super::wanted::{Orderly, queue};
use super::*;
use crate::breaker;
use crate::config::{Config, Mode};
use crate::fingerprint::Transport;
use crate::kernel::Waker;
use crate::network::Limits;
use crate::score::{Confidence, Settings};
use crate::session::{Limits as SessionLimits, Sessions};

const JA4: &str = "t13d1516h2_8daaf6152771_d8a2da3f94cd";
/// Of a crawler that publishes ranges; the test's addresses are in none.
const FORGED: &str = "GPTBot/1.2";

struct Scene {
    assessor: Assessor,
    orderly: Orderly,
    sessions: Sessions,
    requests: Arc<Requests>,
}

/// `all`: every request is a bot's, by whatever it shows.
fn scene(all: bool) -> Scene {
    let metrics = Arc::new(Metrics::new(Mode::Enforce, super::super::labels()).unwrap());
    let (reputation, librarian) = Reputation::start(&Config::default(), Arc::clone(&metrics)).unwrap();
    librarian.stop();
    let (wishes, orderly) = queue(100_000, Waker::new().unwrap(), Arc::clone(&metrics));
    let mut settings = Settings::default();
    let mut policy = Policy::default();
    if all {
        (settings.prior, policy.suspicious) = (10.0, Action::Challenge);
    }
    let requests = Arc::new(Requests::new(100));
    let assessor = Assessor::new(Parts {
        engine: Engine::new(settings),
        policy,
        breaker: Breaker::new(breaker::Settings::default()),
        network: Network::new(Limits::default()),
        reputation,
        requests: Arc::clone(&requests),
        wishes,
        enforcing: Arc::new(AtomicBool::new(true)),
        bounds: Bounds { held: 10_000, remembered: 100 },
        daemon: 0xabc,
        metrics,
    });
    let sessions = Sessions::new(SessionLimits::default());
    assert!(matches!(orderly.take(9).collect::<Vec<_>>()[..], [Wanted::Share(WHOLE_SHARE)]), "whatever was before");
    Scene { assessor, orderly, sessions, requests }
}

fn at(seconds: f64) -> Timestamp {
    // As the clock of `held`, which asks it itself.
    monotonic().plus(Duration::from_secs_f64(seconds))
}

fn identity(now: Timestamp) -> Identity {
    let ja4 = JA4.parse().unwrap();
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
        let report = Report { user_agent: Some(agent.into()), ..Report::default() };
        let subject = Subject::Client { address, ja4_stable: JA4.parse().unwrap(), proxy_suspected: false };
        let key = Some(self.sessions.key(&subject, &report));
        let identity = identity(now);
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
    assert_eq!(scene.assessor.troubled(), 3, "of all, of the rule, of the site");
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
    assert_eq!(scene.assessor.troubled(), 0);
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

/// threats.md T44: a bot among the people behind one address.
#[test]
fn nobody_in_a_crowd_is_stopped_in_the_kernel() {
    let mut scene = scene(false);
    let reader = scene.reader();
    for kind in 0..20 {
        scene.ask_or_tell(address(1), &format!("Reader/{kind}"), Some(&reader), at(0.0), true);
    }
    let _ = scene.orderly.take(100).count();
    let bot = scene.ask_or_tell(address(1), FORGED, None, at(1.0), true);
    assert!(bot.assessment.evidence.has(Signal::Crowd), "{bot:?}");
    assert!(bot.decision.action < Action::Challenge, "{bot:?}");
    assert_eq!(scene.orderly.take(100).count(), 0, "nothing in the kernel");
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
