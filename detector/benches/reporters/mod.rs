//! Web servers that tell of requests: reports of many clients by lot, as nginx writes them, at a rate that doesn't wait for
//! anybody.

use std::{
    fmt::Display,
    io::{ErrorKind, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::host::{Client, be_elsewhere};

/// Senders: nginx' workers have a socket each, whose own buffer holds some 150 datagrams.
const WORKERS: usize = 512;
/// Between two looks at what is due.
const TICK: Duration = Duration::from_micros(100);

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
    report: Vec<u8>,
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
        Self { drafts, texts, report: Vec::new(), sockets: sockets.collect() }
    }

    /// Tells at `rate` a second for `lasts`, each report by another worker.
    pub(crate) fn tell(&mut self, rate: u32, lasts: Duration) -> Sent {
        be_elsewhere();
        let due = (f64::from(rate) * lasts.as_secs_f64()) as u64;
        let mut sent = Sent { due, dropped: 0, latest: Duration::ZERO, took: Duration::ZERO };
        let (start, count) = (Instant::now(), self.drafts.len() as u64);
        let mut number = 0_u64;
        while number < due {
            let now = Instant::now();
            let until = due.min(((now - start).as_secs_f64() * f64::from(rate)) as u64);
            sent.latest = sent.latest.max(Duration::from_secs(1) * (until - number) as u32 / rate);
            for number in number..until {
                let client = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % count;
                self.write(client as usize, now);
                match self.sockets[number as usize % WORKERS].send(&self.report) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => sent.dropped += 1,
                    Err(error) => panic!("nobody reads: {error}"),
                }
            }
            number = until;
            thread::sleep(TICK);
        }
        sent.took = start.elapsed();
        sent
    }

    /// The next report of a client.
    fn write(&mut self, number: usize, now: Instant) {
        let Self { drafts, texts, report, .. } = self;
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
