//! Metrics over HTTP: `GET /metrics` in, Prometheus text out. Bound: 16 connections, one request each, two seconds for
//! its head and five for the answer. Peers that are slow to ask, or to read, make room for others (threats.md T31).

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::door::seats::{End, GRACE, Seat, Seats};
use crate::door::socket::queue_up;
use crate::telemetry::counters::Counters;

/// Connections served at one time.
pub const CONNECTIONS_MAX: usize = 16;

/// For a request's head, from the connection's beginning.
const HEAD_DEADLINE: Duration = Duration::from_secs(2);

/// For the answer, until its peer has read it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Before accepting again when that failed: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why the metrics can't be served.
#[derive(Debug, thiserror::Error)]
#[error("can't serve metrics on `{address}`: {source}; choose another with `--metrics`, or `--metrics off`")]
pub struct MetricsError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A listener that waits to be served.
#[derive(Debug)]
pub struct MetricsListener {
    listener: StdListener,
}

impl MetricsListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address is in use or not of this host.
    pub fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let fail = |source| MetricsError { address, source };
        let listener = StdListener::bind(address).map_err(fail)?;
        queue_up(&listener).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served beyond this host; see that a firewall says to whom");
        }
        Ok(Self { listener })
    }

    /// The address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system doesn't know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves until `shutdown`. `gather` brings every value up to date and encodes them; it may wait for
/// another thread. `ended` counts connections by [`End`].
///
/// # Errors
/// When the runtime doesn't take the listener.
pub async fn serve(
    listener: MetricsListener,
    gather: impl Fn() -> prometheus::Result<String> + Send + Sync + 'static,
    ended: Counters,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.listener)?;
    let gather = Arc::new(gather);
    let router = Router::new().route("/metrics", get(async move || respond(spawn_blocking(move || gather()).await)));
    let seats = Seats::new(CONNECTIONS_MAX, GRACE);
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (seat, router, ended) = (seats.wait().await, router.clone(), ended.clone());
                    connections.spawn(async move { ended.add(converse(stream, router, &seat).await.label(), 1) });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
    Ok(())
}

/// One connection. How it fails is its peer's affair.
async fn converse(stream: TcpStream, router: Router, seat: &Seat) -> End {
    let (router, asked) = (TowerToHyperService::new(router), Notify::new());
    let answer = service_fn(async |request| {
        seat.keep();
        asked.notify_one();
        let response = router.call(request).await;
        seat.release();
        response
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(16 * 1024);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
    let head = async {
        tokio::select! {
            _ = &mut connection => End::Done,
            () = asked.notified() => End::Slow,
        }
    };
    match seat.within(HEAD_DEADLINE, head).await {
        Ok(End::Slow) => {}
        Ok(end) | Err(end) => return end,
    }
    seat.within(ANSWER_DEADLINE, connection).await.err().unwrap_or(End::Done)
}

fn respond(text: Result<prometheus::Result<String>, JoinError>) -> Response {
    match text.unwrap_or_else(|ending| Err(prometheus::Error::Msg(ending.to_string()))) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics can't be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be encoded\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as StdStream;
    use std::time::Instant;

    use super::*;

    /// Runs `check` against a server that says `text`; it gets the counts of how connections ended.
    fn with_server(text: &'static str, check: impl FnOnce(SocketAddr, &Counters)) {
        let listener = MetricsListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.address().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let labels = End::ALL.iter().map(|end| end.label());
        let ended = Counters::by_label("detector_test_ends_total", "Ends.", "outcome", labels).unwrap();
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
        let listener = MetricsListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let error = MetricsListener::bind(listener.address().unwrap()).unwrap_err().to_string();
        assert!(error.contains("Address already in use") && error.ends_with("or `--metrics off`"), "{error}");
    }
}
