//! Web servers that ask: questions on kept connections at a rate that doesn't wait for answers. A latency is counted from
//! the time at which the question was due, whether it was sent then or not.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{
    figure::median,
    host::{Client, be_elsewhere},
};

/// For the last answers.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that is kept, and when the requests on it that have no answer yet were due.
struct Kept<S> {
    stream: S,
    due: Mutex<VecDeque<Instant>>,
}

/// Sends `count` requests, `rate` a second, over `streams` in turn; `request` is given its number. The latencies, ms.
pub(crate) fn load<S: AsFd + Send + Sync>(
    streams: Vec<S>,
    mut request: impl FnMut(u64) -> Vec<u8> + Send,
    rate: u32,
    lasts: Duration,
) -> Vec<f64>
where
    for<'a> &'a S: Read + Write,
{
    let kept: Vec<Kept<S>> = streams.into_iter().map(|stream| Kept { stream, due: Mutex::default() }).collect();
    let count = (f64::from(rate) * lasts.as_secs_f64()) as usize;
    let (missing, failed) = (AtomicUsize::new(count), AtomicBool::new(false));
    thread::scope(|scope| {
        let answers = scope.spawn(|| receive(&kept, &missing));
        let sender = scope.spawn(|| {
            be_elsewhere();
            let start = Instant::now() + Duration::from_millis(50);
            for number in 0..count {
                let due = start + Duration::from_secs(1) * number as u32 / rate;
                while let Some(early) = due.checked_duration_since(Instant::now()) {
                    thread::sleep(early);
                }
                let on = &kept[number % kept.len()];
                on.due.lock().expect("no panic").push_back(due);
                (&on.stream).write_all(&request(number as u64)).expect("room in the socket");
            }
            let end = Instant::now() + PATIENCE;
            while missing.load(Ordering::Relaxed) > 0 {
                if Instant::now() > end {
                    failed.store(true, Ordering::Relaxed);
                    return missing.store(0, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        sender.join().expect("a sender that ends");
        let latencies = answers.join().expect("a receiver that ends");
        assert!(!failed.load(Ordering::Relaxed), "{} of {count} questions were answered", latencies.len());
        latencies
    })
}

fn receive<S: AsFd>(kept: &[Kept<S>], missing: &AtomicUsize) -> Vec<f64>
where
    for<'a> &'a S: Read,
{
    const HEAD: &[u8] = b"HTTP/1.1 200";
    be_elsewhere();
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    for (number, kept) in kept.iter().enumerate() {
        epoll.add(&kept.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).expect("an open connection");
    }
    let (mut latencies, mut tails) = (Vec::new(), vec![Vec::new(); kept.len()]);
    let (mut bytes, mut events) = (vec![0; 64 * 1024], [EpollEvent::empty(); 64]);
    while missing.load(Ordering::Relaxed) > 0 {
        let ready = epoll.wait(&mut events, EpollTimeout::from(100_u8)).unwrap_or(0);
        for event in &events[..ready] {
            let number = event.data() as usize;
            let (kept, tail): (_, &mut Vec<u8>) = (&kept[number], &mut tails[number]);
            let read = (&kept.stream).read(&mut bytes).expect("an open connection");
            let now = Instant::now();
            tail.extend_from_slice(&bytes[..read]);
            let heads = tail.windows(HEAD.len()).filter(|window| *window == HEAD).count();
            for _ in 0..heads {
                let due = kept.due.lock().expect("no panic").pop_front().expect("an answer to a question");
                latencies.push((now - due).as_secs_f64() * 1e3);
            }
            tail.drain(..tail.len().saturating_sub(HEAD.len() - 1));
            missing.fetch_sub(heads, Ordering::Relaxed);
        }
    }
    latencies
}

/// The median, and what 99 of 100 stay below.
pub(crate) fn quantiles(mut latencies: Vec<f64>) -> (f64, f64) {
    let middle = median(&mut latencies);
    (middle, latencies[latencies.len() * 99 / 100])
}

/// Asks the daemon about known clients by lot, `rate` a second.
pub(crate) fn ask(socket: &Path, clients: &[Client], rate: u32, lasts: Duration) -> Vec<f64> {
    let streams = (0..64).map(|_| UnixStream::connect(socket).expect("the socket")).collect();
    let by_lot = |number: u64| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % clients.len();
    load::<UnixStream>(streams, |number| question(&clients[by_lot(number)]), rate, lasts)
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
