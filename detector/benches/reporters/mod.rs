//! Web servers that tell of requests: reports of many clients by lot, as nginx writes them, at a rate that doesn't wait for
//! anybody.

use std::{
    io::ErrorKind,
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

/// What is different from one report of a client to the next, in as many digits as it may need.
const AGE: &str = "\"age\":\"";
const NUMBER: &str = "\"n\":\"";
const AGE_DIGITS: usize = 9;
const NUMBER_DIGITS: usize = 7;

/// A client's report, written but for its age and number.
struct Draft {
    text: Vec<u8>,
    age_at: usize,
    number_at: usize,
    since: Instant,
    number: u64,
}

/// All that is to be told.
pub(crate) struct Reporters {
    drafts: Vec<Draft>,
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
        let drafts = clients.iter().enumerate().map(|(number, client)| Draft::new(number, client));
        Self { sockets: sockets.collect(), drafts: drafts.collect() }
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
                let text = self.drafts[client as usize].write(now);
                match self.sockets[number as usize % WORKERS].send(text) {
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
}

impl Draft {
    fn new(number: usize, client: &Client) -> Self {
        let (ip, port) = (client.address.ip(), client.address.port());
        let agent = AGENTS[number % AGENTS.len()];
        let (page, item) = (number % 50, number * 37 % 977);
        let (age, count) = ("0".repeat(AGE_DIGITS), "0".repeat(NUMBER_DIGITS));
        let text = format!(
            "<190>Nov 22 16:00:00 web nginx: {{\"v\":1,\"ip\":\"{ip}\",\"port\":\"{port}\",\"sip\":\"127.0.0.1\",\
             \"sport\":\"443\",\"t\":\"1763827200.125\",\"dur\":\"0.003\",{AGE}{age}\",{NUMBER}{count}\",\
             \"host\":\"shop.example\",\"method\":\"GET\",\"path\":\"/catalogue/{item}?page={page}&sort=price\",\
             \"proto\":\"HTTP/2.0\",\"status\":\"200\",\"bytes\":\"18231\",\"cache\":\"MISS\",\"ua\":\"{agent}\",\
             \"ref\":\"https://shop.example/catalogue/{item}\",\"acc\":\"*/*\",\"lang\":\"de-DE,de;q=0.9\",\
             \"enc\":\"gzip, deflate, br\",\"ch\":\"\",\"ch_mobile\":\"\",\"ch_platform\":\"\",\
             \"sf_site\":\"same-origin\",\"sf_mode\":\"cors\",\"sf_dest\":\"\",\"sf_user\":\"\",\
             \"hdr\":\"host,user-agent,accept,accept-language,accept-encoding,referer,cookie\",\"cookie\":\"1\",\
             \"sid\":\"\",\"xff\":\"\"}}"
        );
        let after = |name: &str| text.find(name).expect("a field of the text") + name.len();
        let (age_at, number_at) = (after(AGE), after(NUMBER));
        Self { text: text.into_bytes(), age_at, number_at, since: client.since, number: 0 }
    }

    /// The client's next report.
    fn write(&mut self, now: Instant) -> &[u8] {
        self.number += 1;
        let age = (now - self.since).as_millis() as u64;
        let (whole, rest) = self.text[self.age_at..][..AGE_DIGITS].split_at_mut(AGE_DIGITS - 4);
        digits(whole, age / 1000);
        rest[0] = b'.';
        digits(&mut rest[1..], age % 1000);
        digits(&mut self.text[self.number_at..][..NUMBER_DIGITS], self.number);
        &self.text
    }
}

/// Writes a number with zeros before it.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
