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
    displaced: Arc<AtomicU64>,
}

impl Decide for Said {
    async fn decide(&self, question: &Question<'_>) -> Answer {
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let path = question.report().path.unwrap_or_default().into_owned();
        let ruling = Ruling::ALL.into_iter().find(|ruling| path.ends_with(ruling.label())).unwrap_or(Ruling::Allow);
        let ja4 = question.report().client_port.and_then(|_| FIRST.parse().ok());
        Answer { ruling, ja4, id: Id { daemon: 0xabc, number }, scored: None }
    }

    fn connection(&self, what: Connection) {
        self.displaced.fetch_add(u64::from(what == Connection::Displaced), Ordering::Relaxed);
    }
}

/// Runs `check` against an endpoint; it gets the count of connections that made room.
fn with_endpoint(connections: usize, check: impl FnOnce(SocketAddr, &AtomicU64)) {
    let door = TcpDoor::bind(&Opener::Own, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = door.address().unwrap();
    let (said, shutdown) = (Said::default(), CancellationToken::new());
    let (displaced, stop) = (Arc::clone(&said.displaced), shutdown.clone());
    let sites = Sites::from([("shop.example".to_owned(), StatusCode::UNAUTHORIZED)]);
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listeners = Listeners { tcp: Some(Box::pin(std::future::ready(door))), unix: None };
        runtime.block_on(serve(listeners, said, sites, Limits { connections }, stop)).unwrap();
    });
    check(address, &displaced);
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

/// Those who only hold on keep nobody out; the one that asked last stays.
#[test]
fn the_longest_silent_makes_room() {
    with_endpoint(2, |address, displaced| {
        let mut held: Vec<TcpStream> = (0..2).map(|_| connect(address)).collect();
        ask(&mut held[1], &[]);
        ask(&mut held[0], &[]);
        let mut third = connect(address);
        ask(&mut third, &[]);
        assert_eq!(held[1].read(&mut [0]).unwrap_or(0), 0, "closed");
        ask(&mut held[0], &[]);
        assert_eq!(displaced.load(Ordering::Relaxed), 1);
    });
}

/// threats.md T31: any process of the host can come by an address.
#[test]
fn a_thousand_slow_peers_keep_no_web_server_out() {
    with_endpoint(64, |address, _| {
        let mut slow: Vec<TcpStream> = (0..1000).map(|_| connect(address)).collect();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let begun = Instant::now();
            ask(&mut connect(address), &[]);
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
            for stream in &mut slow {
                if stream.write_all(b"G").is_err() {
                    *stream = connect(address);
                }
            }
        }
    });
}

#[test]
fn an_address_in_use_is_said() {
    let door = TcpDoor::bind(&Opener::Own, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let error = TcpDoor::bind(&Opener::Own, door.address().unwrap()).unwrap_err().to_string();
    assert!(error.contains("Address already in use") && error.ends_with("`listen = \"off\"`"), "{error}");
}
