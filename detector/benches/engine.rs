//! P10 of the performance targets: one decision with all layers at 100,000 live sessions, each request of another client by
//! lot, so that no cache has what it takes. From a report whose hello was found to what is done: its session and its
//! networks brought up to date, all layers asked, the policy too. Thread CPU time of each decision by itself, since the
//! machine is shared. `--json PATH` writes the figures too.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use detector::clock::Timestamp;
use detector::config::Config;
use detector::fingerprint::Ja4;
use detector::join::Subject;
use detector::network::{self, Network, Observation};
use detector::policy::decide::{Action, Decision, Policy};
use detector::report::Report;
use detector::score::{Engine, Facts, is_shown};
use detector::session::{self, Sessions};
use foldhash::fast::FixedState;

#[expect(dead_code, reason = "each decision is measured by itself, not in a loop")]
mod clock;
#[expect(dead_code, reason = "the hello of Chrome is for the other benchmarks")]
mod figure;
use clock::cpu;
use figure::{Figure, print};

const CLIENTS: u64 = 100_000;
const JA4_VALUES: u64 = 1000;
/// Requests of each session before the first that counts.
const BEFORE: u64 = 12;
/// Decisions measured.
const DECISIONS: u64 = 300_000;
/// Targets.
const P99_US: f64 = 20.0;
const SESSION_BYTES: f64 = 2048.0;

const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36";

struct World {
    sessions: Sessions,
    network: Network,
    engine: Engine,
    policy: Policy,
    hasher: FixedState,
}

impl World {
    fn new() -> Self {
        let config = Config::default().engine;
        Self {
            sessions: Sessions::new(session::Limits::default()).watching(config.paths),
            network: Network::new(network::Limits::default()),
            engine: Engine::new(config.score),
            policy: config.policy,
            hasher: FixedState::default(),
        }
    }

    fn decide(&mut self, report: &Report<'_>, subject: &Subject, connection: u64, now: Timestamp) -> Decision {
        let began = now.before(report.duration.unwrap_or_default());
        let key = self.sessions.key(subject, report);
        let request = self.sessions.request(report, began, connection);
        self.sessions.note(key, &request, now);
        let session = self.sessions.summary(key, now);
        let seen = Observation::of(subject, report.user_agent.as_deref(), request.is_page(), now, &self.hasher);
        let view = self.network.note(&seen);
        let facts = Facts { session: session.as_ref(), network: Some(&view), ..Facts::new(now, report, subject) };
        let assessment = self.engine.assess(&facts);
        let decision = self.policy.decide(&assessment, subject);
        if decision.action >= Action::Challenge {
            self.network.stopped(&seen);
        } else if is_shown(&assessment) {
            self.network.shown(&seen);
        }
        decision
    }
}

fn lot(number: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % CLIENTS
}

fn subject(client: u64) -> Subject {
    let ja4_stable: Ja4 = format!("t13d1516h2_8daaf6152771_{:012x}", client % JA4_VALUES).parse().expect("a JA4");
    let address: IpAddr = Ipv4Addr::from(0x0a00_0000 + (client as u32).wrapping_mul(37)).into();
    Subject::Client { address, ja4_stable, proxy_suspected: false }
}

/// A third of the clients are people; the others take pages only.
fn report(client: u64, number: u64) -> Report<'static> {
    let person = client.is_multiple_of(3);
    let asset = person && !number.is_multiple_of(5);
    let path =
        if asset { format!("/static/{number}.webp") } else { format!("/catalogue/{}?page={number}", number % 977) };
    Report {
        duration: Some(Duration::from_millis(3)),
        server_name: Some("shop.example".into()),
        path: Some(path.into()),
        status: Some(if number.is_multiple_of(9) { 404 } else { 200 }),
        user_agent: Some(AGENT.into()),
        referer: person.then(|| "https://shop.example/".into()),
        ..Report::default()
    }
}

fn at(number: u64) -> Timestamp {
    Timestamp::from_nanos(3_600_000_000_000 + number * 200_000)
}

fn told(what: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { id: "P10", what, value, unit, against: "", ratio: None, target: "-".to_owned(), met: None }
}

/// The value that so large a share of them doesn't exceed.
fn quantile(costs: &mut [f64], share: f64) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs[((costs.len() as f64 * share) as usize).min(costs.len() - 1)]
}

/// What it costs to read the clock twice, and as many bytes as a session has at a place that no cache has.
fn floor() -> Vec<f64> {
    let memory = vec![[1_u64; session::BYTES / 8]; CLIENTS as usize];
    let mut costs = Vec::with_capacity(DECISIONS as usize);
    for number in 0..DECISIONS {
        let begun = cpu();
        black_box(memory[lot(number) as usize].iter().sum::<u64>());
        costs.push((cpu() - begun) / 1e3);
    }
    costs
}

fn main() {
    let mut world = None;
    let filled = allocation_counter::measure(|| {
        let world = world.insert(World::new());
        for number in 0..CLIENTS * BEFORE {
            let client = number % CLIENTS;
            world.decide(&report(client, number / CLIENTS), &subject(client), client, at(number));
        }
    });
    let mut world = world.expect("it was made");
    let (mut costs, mut allocations, mut hit) = (Vec::with_capacity(DECISIONS as usize), 0, 0_u64);
    for number in 0..DECISIONS {
        let client = lot(number);
        let (report, subject) = (report(client, BEFORE + number % 40), subject(client));
        let now = at(CLIENTS * BEFORE + number);
        let begun = cpu();
        let decision = black_box(world.decide(black_box(&report), &subject, client, now));
        costs.push((cpu() - begun) / 1e3);
        hit += u64::from(decision.action.is_felt());
    }
    for number in 0..1000 {
        let client = lot(number);
        let (report, subject) = (report(client, number), subject(client));
        let now = at(CLIENTS * BEFORE + DECISIONS + number);
        let decide = || {
            black_box(world.decide(&report, &subject, client, now));
        };
        allocations += allocation_counter::measure(decide).count_total;
    }
    let mut floors = floor();
    let (floor_p50, floor_p99) = (quantile(&mut floors, 0.5), quantile(&mut floors, 0.99));
    let (p50, p99) = (quantile(&mut costs, 0.5), quantile(&mut costs, 0.99));
    let bytes = filled.bytes_current as f64 / world.sessions.len() as f64;
    let against = |figure: Figure, floor: f64| Figure {
        ratio: Some(figure.value / floor),
        against: "its bytes read, cold",
        ..figure
    };
    print(&[
        against(told("a decision at 100,000 sessions, p50", p50, "us"), floor_p50),
        Figure {
            target: format!("<= {P99_US}"),
            met: Some(p99 <= P99_US),
            ..against(told("the same, p99", p99, "us"), floor_p99)
        },
        told("a session's bytes read, cold, p50", floor_p50, "us"),
        told("the same, p99", floor_p99, "us"),
        Figure {
            target: format!("<= {SESSION_BYTES}"),
            met: Some(bytes <= SESSION_BYTES),
            ..told("memory of a session, its networks included", bytes, "bytes")
        },
        told("allocations of a decision", allocations as f64 / 1000.0, ""),
        told("decisions that somebody would feel", hit as f64 / DECISIONS as f64 * 100.0, "%"),
    ]);
}
