//! Web servers that tell of requests: reports of many clients by lot, as nginx writes them, at a rate that doesn't wait for
//! anybody.

use std::{
    array,
    fmt::Display,
    io::{IoSlice, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, sendmmsg},
};

use crate::host::Client;

/// Senders: nginx' workers have a socket each, whose own buffer holds some 150 datagrams.
const WORKERS: usize = 512;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_micros(200);
/// Reports of one worker in one look: what sends them is to leave the processors to the daemon.
const BATCH: usize = 16;

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:139.0) Gecko/20100101 Firefox/139.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.4 Mobile/15E148 Safari/604.1",
    "python-requests/2.32.3",
];

/// What is different from one report to the next.
const PLACES: [&str; 7] = ["@ip@", "@port@", "@age@", "@n@", "@item@", "@page@", "@item@"];

/// A client, as its reports tell of it. Small: it is the daemon that is to have the processors' caches.
struct Draft {
    client: Client,
    number: u64,
}

/// All that is to be told.
pub(crate) struct Reporters {
    drafts: Vec<Draft>,
    /// A report's text between the places, for each of the agents.
    texts: Vec<Vec<String>>,
    /// Those that are sent together.
    reports: Vec<Vec<u8>>,
    sockets: Vec<UnixDatagram>,
}

/// What became of it.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) due: u64,
    /// What found no room: a web server drops it, and tells nobody.
    pub(crate) dropped: u64,
    /// How late the latest was sent.
    pub(crate) latest: Duration,
    pub(crate) took: Duration,
}

impl Reporters {
    pub(crate) fn new(clients: &[Client], path: &Path) -> Self {
        let sockets = (0..WORKERS).map(|_| {
            let socket = UnixDatagram::unbound().expect("a socket");
            socket.connect(path).expect("somebody who reads");
            socket.set_nonblocking(true).expect("a socket");
            socket
        });
        let drafts = clients.iter().map(|client| Draft { client: *client, number: 0 }).collect();
        let texts = AGENTS.iter().map(|agent| pieces(agent)).collect();
        Self { drafts, texts, reports: vec![Vec::new(); BATCH], sockets: sockets.collect() }
    }

    /// Tells at `rate` a second for `lasts`, some at a time by one worker after the other. An ordinary thread, as web servers'
    /// workers are: they stand on the daemon's host, and it says how late they were.
    pub(crate) fn tell(&mut self, rate: u32, lasts: Duration) -> Sent {
        let due = (f64::from(rate) * lasts.as_secs_f64()) as u64;
        let mut sent = Sent { due, dropped: 0, latest: Duration::ZERO, took: Duration::ZERO };
        let (start, count) = (Instant::now(), self.drafts.len() as u64);
        let (mut number, mut worker) = (0_u64, 0);
        while number < due {
            let now = Instant::now();
            let until = due.min(((now - start).as_secs_f64() * f64::from(rate)) as u64);
            sent.latest = sent.latest.max(Duration::from_secs(1) * (until - number) as u32 / rate);
            while number < until {
                let batch = BATCH.min((until - number) as usize);
                for place in 0..batch {
                    let client = ((number + place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % count;
                    self.write(client as usize, place, now);
                }
                worker = (worker + 1) % WORKERS;
                sent.dropped += (batch - self.send(worker, batch)) as u64;
                number += batch as u64;
            }
            thread::sleep(TICK);
        }
        sent.took = start.elapsed();
        sent
    }

    /// Sends some reports by one of the workers. How many found room.
    fn send(&self, worker: usize, count: usize) -> usize {
        let mut headers = MultiHeaders::<()>::preallocate(count, None);
        let slices: [_; BATCH] = array::from_fn(|place| [IoSlice::new(&self.reports[place])]);
        let socket = self.sockets[worker].as_raw_fd();
        match sendmmsg(socket, &mut headers, &slices[..count], [None; BATCH], [], MsgFlags::MSG_DONTWAIT) {
            Ok(sent) => sent.count(),
            Err(Errno::EAGAIN) => 0,
            Err(error) => panic!("nobody reads: {error}"),
        }
    }

    /// The next report of a client, in this place of those that are sent together.
    fn write(&mut self, number: usize, place: usize, now: Instant) {
        let Self { drafts, texts, reports, .. } = self;
        let report = &mut reports[place];
        let draft = &mut drafts[number];
        draft.number += 1;
        let age = (now - draft.client.since).as_millis();
        let (address, item) = (draft.client.address, number * 37 % 977);
        let mut texts = texts[number % AGENTS.len()].iter();
        report.clear();
        let mut put = |value: &dyn Display| {
            let text = texts.next().expect("a text before each place");
            write!(report, "{text}{value}").expect("room in memory");
        };
        put(&address.ip());
        put(&address.port());
        put(&format_args!("{}.{:03}", age / 1000, age % 1000));
        put(&draft.number);
        put(&item);
        put(&(number % 50));
        put(&item);
        put(&"");
    }
}

fn pieces(agent: &str) -> Vec<String> {
    let text = format!(
        "<190>Nov 22 16:00:00 web nginx: {{\"v\":1,\"ip\":\"@ip@\",\"port\":\"@port@\",\"sip\":\"127.0.0.1\",\
         \"sport\":\"443\",\"t\":\"1763827200.125\",\"dur\":\"0.003\",\"age\":\"@age@\",\"n\":\"@n@\",\
         \"host\":\"shop.example\",\"method\":\"GET\",\"path\":\"/catalogue/@item@?page=@page@&sort=price\",\
         \"proto\":\"HTTP/2.0\",\"status\":\"200\",\"bytes\":\"18231\",\"cache\":\"MISS\",\"ua\":\"{agent}\",\
         \"ref\":\"https://shop.example/catalogue/@item@\",\"acc\":\"*/*\",\"lang\":\"de-DE,de;q=0.9\",\
         \"enc\":\"gzip, deflate, br\",\"ch\":\"\",\"ch_mobile\":\"\",\"ch_platform\":\"\",\
         \"sf_site\":\"same-origin\",\"sf_mode\":\"cors\",\"sf_dest\":\"\",\"sf_user\":\"\",\
         \"hdr\":\"host,user-agent,accept,accept-language,accept-encoding,referer,cookie\",\"cookie\":\"1\",\
         \"sid\":\"\",\"xff\":\"\"}}"
    );
    let (mut rest, mut pieces) = (text.as_str(), Vec::new());
    for place in PLACES {
        let (before, after) = rest.split_once(place).expect("a place of the text");
        pieces.push(before.to_owned());
        rest = after;
    }
    pieces.push(rest.to_owned());
    pieces
}
