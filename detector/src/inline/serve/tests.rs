//! The endpoint with a real client's bytes, and a decider that says what its question's path says.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use super::*;
use crate::inline::Id;

const FIRST: &str = "t13d1516h2_8daaf6152771_e5627efa2ab1";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Said {
    answers: AtomicU64,
    refused: Arc<AtomicU64>,
}

impl Decide for Said {
    async fn decide(&self, question: &Question<'_>) -> Answer {
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let path = question.report().path.unwrap_or_default().into_owned();
        let ruling = Ruling::ALL.into_iter().find(|ruling| path.ends_with(ruling.label())).unwrap_or(Ruling::Allow);
        let ja4 = question.report().client_port.and_then(|_| FIRST.parse().ok());
        Answer { ruling, ja4, id: Id { daemon: 0xabc, number } }
    }

    fn connected(&self, taken: bool) {
        self.refused.fetch_add(u64::from(!taken), Ordering::Relaxed);
    }
}

/// Runs `check` against an endpoint; it gets the count of connections that were refused.
fn with_endpoint(connections: usize, check: impl FnOnce(SocketAddr, &AtomicU64)) {
    let door = TcpDoor::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = door.address().unwrap();
    let (said, shutdown) = (Said::default(), CancellationToken::new());
    let (refused, stop) = (Arc::clone(&said.refused), shutdown.clone());
    let sites = Sites::from([("shop.example".to_owned(), StatusCode::UNAUTHORIZED)]);
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listeners = Listeners { tcp: Some(door), unix: None };
        runtime.block_on(serve(listeners, said, sites, Limits { connections }, stop)).unwrap();
    });
    check(address, &refused);
    shutdown.cancel();
    server.join().unwrap();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One answer's head, over a connection that stays open.
fn ask(stream: &mut TcpStream, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: d\r\n{lines}\r\n").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn decisions_are_statuses_and_headers_on_one_connection() {
    with_endpoint(4, |address, _| {
        let mut stream = connect(address);
        for (number, (lines, status, decision, ja4)) in (1..).zip([
            (&["x-detector-uri: /allow"][..], "200 OK", "allow", "-"),
            (&["x-detector-uri: /deny", "x-detector-client-port: 7"], "403 Forbidden", "deny", FIRST),
            (&["x-detector-uri: /challenge", "x-detector-host: other.example"], "200 OK", "challenge", "-"),
            (
                &["x-detector-uri: /challenge", "x-detector-host: Shop.example:443"],
                "401 Unauthorized",
                "challenge",
                "-",
            ),
            (&["x-detector-uri: /allow", "x-detector-host: shop.example"], "200 OK", "allow", "-"),
        ]) {
            let head = ask(&mut stream, lines);
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
            let id = format!("0000000000000abc-{number:x}");
            for (name, value) in [("decision", decision), ("ja4", ja4), ("id", &id), ("", "")] {
                let line = format!("x-detector-{name}: {value}\r\n");
                assert_eq!(head.contains(&line), !name.is_empty(), "{line} in {head}");
            }
        }
    });
}

#[test]
fn the_headers_of_nginx_largest_request_fit() {
    with_endpoint(4, |address, _| {
        let cookie = format!("cookie: {}", "x".repeat(32 * 1024));
        let head = ask(&mut connect(address), &[&cookie, "x-detector-uri: /allow"]);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    });
}

#[test]
fn a_connection_too_many_is_closed_and_counted_and_one_that_ends_makes_room() {
    with_endpoint(2, |address, refused| {
        let mut held: Vec<TcpStream> = (0..2).map(|_| connect(address)).collect();
        for stream in &mut held {
            ask(stream, &[]);
        }
        assert_eq!(connect(address).read(&mut [0]).unwrap_or(0), 0, "closed");
        assert_eq!(refused.load(Ordering::Relaxed), 1);
        held.pop();
        let end = Instant::now() + PATIENCE;
        loop {
            let mut stream = connect(address);
            // Without an answer it was closed: the place is not free yet.
            if stream.write_all(b"GET / HTTP/1.1\r\nhost: d\r\n\r\n").is_ok() && stream.read(&mut [0]).unwrap_or(0) == 1
            {
                break;
            }
            assert!(Instant::now() < end, "no room again");
        }
        ask(&mut held[0], &[]);
    });
}

#[test]
fn an_address_in_use_is_said() {
    let door = TcpDoor::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let error = TcpDoor::bind(door.address().unwrap()).unwrap_err().to_string();
    assert!(error.contains("Address already in use") && error.ends_with("`listen = \"off\"`"), "{error}");
}
