//! The hellos of a capture and the requests of a log in, each request with its hello out, in the order of the log's times.
//! A report over a connection proves its client's address, so every hello counts here.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use crate::capture::frame;
use crate::capture::pcap::{self, CaptureError};
use crate::clock::Timestamp;
use crate::join::{Bounds, Connections, Found, Identity, Join, Limits, Outcome, Proxies, Subject, Tuple};
use crate::pipeline::{self, Pipeline};
use crate::report::{self, Report};

/// After the last report, so that none waits any more.
const END: Duration = Duration::from_secs(3600);

enum Event {
    Hello(Tuple, Box<Identity>),
    /// The hello that was complete at this time.
    Void(Tuple, Timestamp),
}

/// The hellos of a capture, and when they came.
pub(super) struct Hellos(Vec<(Timestamp, Event)>);

impl Hellos {
    pub(super) fn read(capture: impl Read) -> Result<Self, CaptureError> {
        let mut pipeline = Pipeline::new(pipeline::Limits::default());
        let mut events = Vec::new();
        // The latest hello of each connection, by what says that it is void.
        let mut latest = HashMap::new();
        let mut take = |outcome: pipeline::Outcome, now: Timestamp| match outcome {
            pipeline::Outcome::Hello(hello) => {
                if let Some(identity) = Identity::of(&hello) {
                    let tuple = Tuple::new(hello.flow, hello.transport.into());
                    latest.insert((hello.flow, hello.stream_seq), (tuple, identity.hello));
                    events.push((identity.hello, Event::Hello(tuple, Box::new(identity))));
                }
            }
            pipeline::Outcome::Void { flow, stream, .. } => {
                if let Some((tuple, hello)) = latest.get(&(flow, stream)) {
                    events.push((now, Event::Void(*tuple, *hello)));
                }
            }
            _ => {}
        };
        let mut last = Timestamp::default();
        pcap::read(capture, |frame| {
            last = frame.at;
            if let Ok(packet) = frame::packet(frame) {
                pipeline.take(&packet, &mut |outcome| take(outcome, frame.at));
            }
        })?;
        pipeline.finish(&mut |outcome| take(outcome, last));
        events.sort_by_key(|(at, _)| *at);
        Ok(Self(events))
    }
}

/// A text for each line, for what had to be mended of it.
pub(super) fn lines(text: &[u8]) -> Vec<String> {
    vec![String::new(); text.split(|byte| *byte == b'\n').count()]
}

/// The reports of a log.
pub(super) struct Log<'a> {
    /// With their times, by these.
    pub(super) reports: Vec<(Timestamp, Report<'a>)>,
    /// Lines that hold none, or one without a time.
    pub(super) unusable: usize,
}

impl<'a> Log<'a> {
    pub(super) fn read(text: &'a [u8], mended: &'a mut [String]) -> Self {
        let mut log = Self { reports: Vec::new(), unusable: 0 };
        let lines = text.split(|byte| *byte == b'\n').zip(mended);
        for (line, mended) in lines.filter(|(line, _)| !line.trim_ascii().is_empty()) {
            let report = report::read(line, mended).ok().map(|frame| frame.report);
            match report.and_then(|report| Some((timestamp(report.time?)?, report))) {
                Some(report) => log.reports.push(report),
                None => log.unusable += 1,
            }
        }
        log.reports.sort_by_key(|(at, _)| *at);
        log
    }
}

fn timestamp(seconds: f64) -> Option<Timestamp> {
    Duration::try_from_secs_f64(seconds).ok().map(|since| Timestamp::default().plus(since))
}

/// A request and whose it is.
pub(super) struct Joined<'a> {
    pub(super) at: Timestamp,
    pub(super) report: &'a Report<'a>,
    pub(super) subject: Subject,
    pub(super) found: Option<Found>,
}

/// Puts them together; how many requests were left over.
pub(super) fn join<'a>(
    hellos: Hellos,
    reports: &'a [(Timestamp, Report<'a>)],
    proxies: Proxies,
) -> (Vec<Joined<'a>>, usize) {
    let limits = Limits { connections: hellos.0.len().max(1), ..Limits::default() };
    let mut connections = Connections::new(limits);
    let mut join = Join::new(Bounds { waiting: reports.len().max(1), ..Bounds::default() }, proxies);
    let (mut joined, mut missed) = (Vec::new(), 0);
    let mut take = |(at, report): &'a (Timestamp, Report<'a>), outcome: Outcome| match outcome {
        Outcome::Joined(subject, found) => joined.push(Joined { at: *at, report, subject, found: Some(found) }),
        Outcome::Forwarded(subject) => joined.push(Joined { at: *at, report, subject, found: None }),
        Outcome::Missed(_) => missed += 1,
    };
    let mut hellos = hellos.0.into_iter().peekable();
    for one in reports {
        let (at, report) = one;
        while let Some((came, event)) = hellos.next_if(|(came, _)| came <= at) {
            join.due(&mut connections, came, &mut take);
            match event {
                Event::Hello(tuple, identity) => {
                    connections.begin(tuple, *identity, came);
                    join.begun(&mut connections, &tuple.client, &mut take);
                }
                Event::Void(tuple, hello) => connections.void(&tuple, hello),
            }
        }
        join.due(&mut connections, *at, &mut take);
        if let Some(outcome) = join.report(&mut connections, report, *at, || one, &mut take) {
            take(one, outcome);
        }
    }
    let end = reports.last().map_or(Timestamp::default(), |(at, _)| at.plus(END));
    join.due(&mut connections, end, &mut take);
    joined.sort_by_key(|joined| joined.at);
    (joined, missed)
}
