//! P9 of the performance targets: 120,000 reports a second through the real socket into the real daemon, with hellos, sessions
//! and signals, while web servers ask for 20,000 decisions a second; what gets lost with the system's default queue, and
//! how well that is estimated; what asking adds to a request through nginx; and what each stage of a report costs by itself.
//! Needs root and nginx; touches nothing of the host: all is in a network namespace of its own, on its loopback interface.
//!
//! Senders are open loop, on the same processors as the daemon but before it, as if they were elsewhere: their work is a
//! third of what the machine does. What others take of it meanwhile is told too: with other work than this, on two
//! processors, no figure of time or loss says much. `--json PATH` writes the figures too.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

mod clock;
mod figure;
mod host;
mod questions;
mod reporters;
mod stages;
mod web;
use figure::{Figure, median, print};
use host::{Client, Host};
use questions::quantiles;
use reporters::{Reporters, Sent};

/// Connections whose hellos are known, and of the run that loses reports.
const CLIENTS: usize = 100_000;
const FEW_CLIENTS: usize = 10_000;
/// A second.
const REPORTS: u32 = 120_000;
const DECISIONS: u32 = 20_000;
/// The same while so many reports come, each of a request of which some were asked about.
const DECISIONS_LOADED: u32 = 5_000;
/// How long reports come; questions in the middle of it.
const LOAD: Duration = Duration::from_secs(60);
const ASKING_AFTER: Duration = Duration::from_secs(20);
const ASKING: Duration = Duration::from_secs(30);
/// How long both come as fast as they may.
const BOTH: Duration = Duration::from_secs(20);
/// And then of the floor: the same questions, to somebody who answers at once.
const FLOOR: Duration = Duration::from_secs(9);
/// A queue of half a second, for what the scheduler does with three busy threads on two processors; and the system's default.
const QUEUE: u32 = 65_536;
const DEFAULT_QUEUE: u32 = 10;
/// Targets.
const MEMORY_MIB: f64 = 512.0;
const P99_MS: f64 = 1.0;
const ESTIMATE_OFF: f64 = 0.1;
const EXPLAIN_MS: f64 = 50.0;
const FIRST_LINE_MS: f64 = 1000.0;
/// Times that `explain` is asked.
const ASKS: usize = 21;

const RECEIVED: &str = "detector_intake_frames_total";
const JOINED: &str = "detector_join_reports_total";
const ANSWERED: &str = "detector_inline_fingerprints_total";
const ESTIMATE: &str = "detector_intake_lost_reports_estimate";

fn told(id: &'static str, what: &'static str, value: f64, unit: &'static str) -> Figure {
    Figure { id, what, value, unit, against: "", ratio: None, target: "-".to_owned(), met: None }
}

fn wanted(figure: Figure, target: String, met: bool) -> Figure {
    Figure { target, met: Some(met), ..figure }
}

/// CPU seconds of the daemon by thread, of this process, and of all.
struct Cpu {
    daemon: Vec<(String, f64)>,
    own: f64,
    all: f64,
    at: Instant,
}

impl Cpu {
    fn now(host: &Host) -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells of this process");
        let own =
            [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
        let stat = fs::read_to_string("/proc/stat").expect("the system tells of its processors");
        let ticks = stat.lines().next().into_iter().flat_map(|line| line.split_whitespace().skip(1));
        let ticks: Vec<f64> = ticks.filter_map(|text| text.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal: all but the fourth and fifth are work, a hundred a second.
        let all = ticks.iter().take(8).sum::<f64>() - ticks[3] - ticks[4];
        Self {
            daemon: host.threads().into_iter().collect(),
            own: own.iter().sum(),
            all: all / 100.0,
            at: Instant::now(),
        }
    }

    /// CPU seconds of the daemon's threads of this name.
    fn of(&self, before: &Self, name: &str) -> f64 {
        let sum =
            |cpu: &Self| cpu.daemon.iter().filter(|(thread, _)| thread.starts_with(name)).map(|(_, s)| s).sum::<f64>();
        sum(self) - sum(before)
    }

    /// The share of the machine that others took, percent.
    fn others(&self, before: &Self) -> f64 {
        let processors = thread::available_parallelism().map_or(1, usize::from) as f64;
        let others = (self.all - before.all) - (self.own - before.own) - self.of(before, "");
        others.max(0.0) / (self.at - before.at).as_secs_f64() / processors * 100.0
    }
}

/// Waits until the daemon has read all that is in its queue. How many it has read, those from `earlier` too.
fn received(host: &Host, sent: &Sent, earlier: f64) -> f64 {
    let in_flight = earlier + (sent.due - sent.dropped) as f64;
    let (mut before, mut same) = (-1.0, 0);
    host::wait_for("end of the reports", || {
        let now = host.metric(RECEIVED, "\"report\"");
        same = if now == before { same + 1 } else { 0 };
        before = now;
        now >= in_flight || same > 50
    });
    before
}

/// Reports for a minute, decisions in the middle of it.
fn loaded(host: &Host, clients: &[Client]) -> Vec<Figure> {
    let mut reporters = Reporters::new(clients, &host.signals());
    let before = Cpu::now(host);
    let (sent, alone, asked, floor) = thread::scope(|scope| {
        let telling = scope.spawn(|| reporters.tell(REPORTS, LOAD));
        thread::sleep(ASKING_AFTER);
        let alone = Cpu::now(host);
        let asked = questions::ask(&host.decision(), clients, DECISIONS_LOADED, ASKING);
        let at_once = host.directory().join("floor.sock");
        let answering = questions::answer_at_once(&at_once);
        let floor = questions::ask(&at_once, clients, DECISIONS_LOADED, FLOOR);
        answering.join().expect("an end with the last who asks");
        (telling.join().expect("a sender that ends"), alone, asked, floor)
    });
    let after = Cpu::now(host);
    let received = received(host, &sent, 0.0);
    let lost = sent.due as f64 - received;
    let joined = host.metric(JOINED, "\"joined\"") / received * 100.0;
    let (rate, memory) = (received / sent.took.as_secs_f64(), host.peak_mebibytes());
    let per_report = alone.of(&before, "reports") * 1e6 / (f64::from(REPORTS) * (alone.at - before.at).as_secs_f64());
    let known = host.metric(ANSWERED, "\"known\"") / host.metric(ANSWERED, "") * 100.0;
    let (median, p99) = quantiles(asked);
    let (floor_median, floor_p99) = quantiles(floor);
    vec![
        wanted(
            told("P9.reports", "joined and aggregated for 60 s, each second", rate, "1/s"),
            format!(">= {REPORTS}"),
            rate >= f64::from(REPORTS) * 0.999,
        ),
        wanted(told("P9.reports", "of them lost", lost, ""), "0".to_owned(), lost == 0.0),
        wanted(told("P9.reports", "of them found their hello", joined, "%"), ">= 99.9".to_owned(), joined >= 99.9),
        wanted(told("P9.reports", "memory at most", memory, "MiB"), format!("< {MEMORY_MIB}"), memory < MEMORY_MIB),
        told("P9.reports", "the latest was sent after it was due by", sent.latest.as_secs_f64() * 1e3, "ms"),
        told("P9.whole", "CPU of a report in the daemon, all stages", per_report, "us"),
        told("P9.decisions", "5,000/s at the socket under them, median", median, "ms"),
        wanted(told("P9.decisions", "p99", p99, "ms"), format!("< {P99_MS}"), p99 < P99_MS),
        told("P9.floor", "answered at once, without deciding: median", floor_median, "ms"),
        told("P9.floor", "p99", floor_p99, "ms"),
        wanted(told("P9.decisions", "knowing the hello", known, "%"), ">= 99.9".to_owned(), known >= 99.9),
        told("P9.others", "other work on the machine meanwhile", after.others(&before), "%"),
    ]
}

/// As many reports and as many questions as there may be, at one time: more than two processors may have the time for, with
/// those who send and ask on them too. Answers go first.
fn both(host: &Host, clients: &[Client]) -> Vec<Figure> {
    let mut reporters = Reporters::new(clients, &host.signals());
    let before = host.metric(RECEIVED, "\"report\"");
    let (sent, asked) = thread::scope(|scope| {
        let telling = scope.spawn(|| reporters.tell(REPORTS, BOTH));
        let asked = questions::ask(&host.decision(), clients, DECISIONS, BOTH);
        (telling.join().expect("a sender that ends"), asked)
    });
    let lost = 1.0 - (received(host, &sent, before) - before) / sent.due as f64;
    let (median, p99) = quantiles(asked);
    vec![
        told("P9.both", "lost, with 20,000 decisions/s at the same time", lost * 100.0, "%"),
        told("P9.both", "decisions, median", median, "ms"),
        told("P9.both", "p99", p99, "ms"),
    ]
}

/// The same with the queue that nobody has set.
fn lossy() -> Vec<Figure> {
    host::set_queue(DEFAULT_QUEUE);
    let host = Host::start();
    let clients = host.connect(FEW_CLIENTS);
    let sent = Reporters::new(&clients, &host.signals()).tell(REPORTS, Duration::from_secs(15));
    let received = received(&host, &sent, 0.0);
    let lost = sent.due as f64 - received;
    // It is told with the next reports.
    let estimate = host.metric(ESTIMATE, "");
    let ratio = estimate / lost;
    let share = lost / sent.due as f64 * 100.0;
    vec![
        told("P9.queue", "lost with the default queue of 10", share, "%"),
        Figure {
            against: "the truth",
            ratio: Some(ratio),
            ..wanted(
                told("P9.queue", "estimated to be lost", estimate / sent.due as f64 * 100.0, "%"),
                "+- 10 %".to_owned(),
                (ratio - 1.0).abs() <= ESTIMATE_OFF,
            )
        },
    ]
}

/// How long a person waits for the first line, and for an answer to "why".
fn waited(host: &Host, clients: &[Client]) -> Figure {
    let mut took: Vec<f64> =
        clients.iter().rev().filter_map(|client| Some(host.explain(client)?.as_secs_f64() * 1e3)).take(ASKS).collect();
    assert_eq!(took.len(), ASKS, "clients that were assessed lately");
    let took = median(&mut took);
    let figure = told("goals", "detector explain, of 100,000 clients", took, "ms");
    wanted(figure, format!("<= {EXPLAIN_MS}"), took <= EXPLAIN_MS)
}

/// Through nginx, which asks or doesn't.
fn through_nginx(host: &Host) -> Vec<Figure> {
    let _nginx = web::start(host);
    web::request("/asked", Duration::from_secs(1));
    let lasts = Duration::from_secs(8);
    let (plain, asked) = (quantiles(web::request("/plain", lasts)), quantiles(web::request("/asked", lasts)));
    vec![
        told("P9.nginx", "1,000/s without asking, median", plain.0, "ms"),
        told("P9.nginx", "added by asking, median", asked.0 - plain.0, "ms"),
        told("P9.nginx", "1,000/s without asking, p99", plain.1, "ms"),
        told("P9.nginx", "added by asking, p99", asked.1 - plain.1, "ms"),
    ]
}

fn main() {
    // Before any thread: what begins later is in it too.
    host::leave_the_network();
    let _first = host::First::come();
    let mut figures = stages::all();
    host::set_queue(QUEUE);
    let first = Host::first_line().as_secs_f64() * 1e3;
    let line = told("goals", "the first line, after the first hello", first, "ms");
    figures.push(wanted(line, format!("<= {FIRST_LINE_MS}"), first <= FIRST_LINE_MS));
    let host = Host::start();
    let clients = host.connect(CLIENTS);
    figures.extend(loaded(&host, &clients));
    figures.push(waited(&host, &clients));
    figures.extend(both(&host, &clients));
    let quiet = quantiles(questions::ask(&host.decision(), &clients, DECISIONS, Duration::from_secs(10)));
    figures.push(told("P9.decisions", "20,000/s without reports, median", quiet.0, "ms"));
    let p99 = told("P9.decisions", "p99 without reports", quiet.1, "ms");
    figures.push(wanted(p99, format!("< {P99_MS}"), quiet.1 < P99_MS));
    figures.extend(through_nginx(&host));
    drop(host);
    figures.extend(lossy());
    print(&figures);
}
