//! Web servers that ask: questions on kept connections at a rate that doesn't wait for answers. A latency is counted from
//! the time at which the question was due, whether it was sent then or not.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use detector::kernel::answer_soon;
use thread_priority::ThreadPriority;

use crate::{
    figure::median,
    host::{Client, be_elsewhere},
};

/// For the last answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of web servers' workers, as they keep them.
const CONNECTIONS: usize = 64;
/// Of each answer.
const HEAD: &[u8] = b"HTTP/1.1 200";

/// What is to be asked.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: u32,
    pub(crate) lasts: Duration,
    /// Between two looks at what is due and what was answered: latencies are too long by as much. One thread that seldom
    /// looks leaves the processors to what is measured.
    pub(crate) look: Duration,
}

/// A connection that is kept.
struct Kept<S> {
    stream: S,
    /// When the requests that have no answer yet were due.
    due: VecDeque<Instant>,
    /// The end of what was read: an answer's head may go on.
    tail: Vec<u8>,
}

/// Sends requests over `streams` in turn; `request` is given a number. The latencies, ms.
pub(crate) fn load<S: Read + Write + AsFd + Send>(
    streams: Vec<S>,
    request: impl FnMut(usize) -> Vec<u8> + Send,
    load: Load,
) -> Vec<f64> {
    let kept = |stream| Kept { stream, due: VecDeque::new(), tail: Vec::new() };
    let kept: Vec<Kept<S>> = streams.into_iter().map(kept).collect();
    thread::scope(|scope| {
        let asking = scope.spawn(|| converse(kept, request, load));
        asking.join().expect("an answer to each question")
    })
}

fn converse<S: Read + Write + AsFd>(
    mut kept: Vec<Kept<S>>,
    mut request: impl FnMut(usize) -> Vec<u8>,
    Load { rate, lasts, look }: Load,
) -> Vec<f64> {
    be_elsewhere(ThreadPriority::Max);
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    for (number, kept) in kept.iter().enumerate() {
        epoll.add(&kept.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).expect("an open connection");
    }
    let count = (f64::from(rate) * lasts.as_secs_f64()) as usize;
    let (mut sent, mut latencies, mut events) = (0, Vec::with_capacity(count), [EpollEvent::empty(); 64]);
    let start = Instant::now();
    while latencies.len() < count {
        let passed = start.elapsed();
        assert!(passed < lasts + PATIENCE, "{} of {count} requests were answered", latencies.len());
        let until = count.min((passed.as_secs_f64() * f64::from(rate)) as usize);
        while sent < until {
            let on = sent % kept.len();
            match kept[on].stream.write_all(&request(sent)) {
                Ok(()) => kept[on].due.push_back(start + Duration::from_secs(1) * sent as u32 / rate),
                // It is late already, and gets later: answers are read first, else both sides would wait for each other.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("nobody reads: {error}"),
            }
            sent += 1;
        }
        thread::sleep(look);
        let ready = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..ready] {
            kept[event.data() as usize].read(&mut latencies);
        }
    }
    latencies
}

impl<S: Read> Kept<S> {
    /// Reads what is there, without waiting since something is.
    fn read(&mut self, latencies: &mut Vec<f64>) {
        let mut bytes = [0; 16 * 1024];
        let read = self.stream.read(&mut bytes).expect("an open connection");
        let now = Instant::now();
        self.tail.extend_from_slice(&bytes[..read]);
        for _ in 0..self.tail.windows(HEAD.len()).filter(|window| *window == HEAD).count() {
            let due = self.due.pop_front().expect("an answer to a question");
            latencies.push((now - due).as_secs_f64() * 1e3);
        }
        self.tail.drain(..self.tail.len().saturating_sub(HEAD.len() - 1));
    }
}

/// The median, and what 99 of 100 stay below.
pub(crate) fn quantiles(mut latencies: Vec<f64>) -> (f64, f64) {
    let middle = median(&mut latencies);
    (middle, latencies[latencies.len() * 99 / 100])
}

/// Answers on `socket`, all with the same and without a look at the question: what is left of a latency if deciding costs
/// nothing. A thread, as urgent as those of the daemon that answer; it ends with the last of those who ask.
pub(crate) fn answer_at_once(socket: &Path) -> JoinHandle<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nx-detector-decision: allow\r\ncontent-length: 0\r\n\r\n";
    let listener = UnixListener::bind(socket).expect("a path that is free");
    thread::spawn(move || {
        answer_soon();
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
        let mut asking: Vec<UnixStream> =
            (0..CONNECTIONS).map(|_| listener.accept().expect("a connection").0).collect();
        for (number, stream) in asking.iter().enumerate() {
            epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).expect("an open connection");
        }
        let (mut open, mut events, mut bytes) = (asking.len(), [EpollEvent::empty(); 64], [0; 64 * 1024]);
        while open > 0 {
            let ready = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            for event in &events[..ready] {
                let stream = &mut asking[event.data() as usize];
                let read = stream.read(&mut bytes).unwrap_or(0);
                if read == 0 {
                    epoll.delete(&*stream).expect("it is among them");
                    open -= 1;
                }
                for _ in 0..bytes[..read].windows(4).filter(|window| *window == b"\r\n\r\n").count() {
                    // Whoever has gone needs no answer.
                    let _ = stream.write_all(ANSWER);
                }
            }
        }
    })
}

/// Asks the daemon about known clients by lot, `rate` a second.
pub(crate) fn ask(socket: &Path, clients: &[Client], rate: u32, lasts: Duration) -> Vec<f64> {
    let stream = |_| {
        let stream = UnixStream::connect(socket).expect("the socket");
        stream.set_nonblocking(true).expect("a socket");
        stream
    };
    let streams = (0..CONNECTIONS).map(stream).collect();
    let by_lot = |number: usize| ((number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % clients.len();
    let look = Duration::from_micros(100);
    load::<UnixStream>(streams, |number| question(&clients[by_lot(number)]), Load { rate, lasts, look })
}

fn question(client: &Client) -> Vec<u8> {
    let age = client.since.elapsed().as_millis() as u64;
    let (ip, port, seconds, thousandths) = (client.address.ip(), client.address.port(), age / 1000, age % 1000);
    format!(
        "GET / HTTP/1.1\r\nhost: detector\r\nx-detector-client: {ip}\r\nx-detector-client-port: {port}\r\n\
         x-detector-server: 127.0.0.1\r\nx-detector-server-port: 443\r\n\
         x-detector-connection-age: {seconds}.{thousandths:03}\r\n\
         x-detector-protocol: HTTP/2.0\r\nx-detector-host: shop.example\r\nx-detector-method: GET\r\n\
         x-detector-uri: /products?page=2\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\r\n"
    )
    .into_bytes()
}
