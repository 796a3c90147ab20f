//! The metrics page under honest, silent and deaf peers.

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;
use std::time::Instant;

use super::*;
use crate::telemetry::counters::Count;

/// Runs `check` against a server that says `text`; it gets the counts of how connections ended.
fn with_server(text: &'static str, check: impl FnOnce(SocketAddr, &Counters)) {
    let listener = MetricsListener::bind(&Opener::Own, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.address().unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let ended: Counters = End::ALL.iter().map(|end| (end.label(), Count::default())).collect();
    let counted = ended.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, move || Ok(text.to_owned()), counted, stop)).unwrap();
    });
    check(address, &ended);
    shutdown.cancel();
    server.join().unwrap();
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = StdStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

const UP: &str = "up 1\n";
const GET: &str = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

#[test]
fn metrics_and_nothing_else() {
    with_server(UP, |address, _| {
        let response = ask(address, GET);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nup 1\n"), "{response}");
        assert!(response.contains(CONTENT_TYPE));
        assert!(ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
    });
}

/// What an honest one waits.
const SOON: Duration = Duration::from_secs(1);

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn silent_peers_do_not_keep_out_an_honest_one() {
    with_server(UP, |address, ended| {
        let silent: Vec<_> = (0..CONNECTIONS_MAX + 4).map(|_| StdStream::connect(address).unwrap()).collect();
        let start = Instant::now();
        assert!(ask(address, GET).ends_with(UP));
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
        until("the end of the others", || ended.value("displaced") == 5 && ended.value("slow") == 15);
        assert_eq!(ended.value("done"), 1);
        drop(silent);
    });
}

#[test]
fn peers_that_do_not_read_do_not_keep_out_an_honest_one() {
    // More than the kernel takes of an answer that nobody reads.
    let text: &'static str = "x".repeat(16 << 20).leak();
    with_server(text, |address, ended| {
        let deaf: Vec<_> = (0..CONNECTIONS_MAX + 4)
            .map(|_| {
                let mut stream = StdStream::connect(address).unwrap();
                stream.write_all(GET.as_bytes()).unwrap();
                stream
            })
            .collect();
        until("room for all but those that are answered", || ended.value("displaced") >= 4);
        assert!(ask(address, GET).ends_with("xxx"));
        until("the end of the others", || ended.value("displaced") + ended.value("slow") == 20);
        drop(deaf);
    });
}

#[test]
fn an_address_in_use_is_said() {
    let listener = MetricsListener::bind(&Opener::Own, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let error = MetricsListener::bind(&Opener::Own, listener.address().unwrap()).unwrap_err().to_string();
    assert!(error.contains("Address already in use") && error.ends_with("or `--metrics off`"), "{error}");
}
