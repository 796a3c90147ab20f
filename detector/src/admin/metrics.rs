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

use crate::broker::Opener;
use crate::door::seats::{End, Seat, Seats};
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
    /// Listens on `address`, with a socket of `opener`'s.
    ///
    /// # Errors
    /// When the address is in use or not of this host, or the opener has no socket for it.
    pub fn bind(opener: &Opener, address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = opener.listen(address).map_err(|source| MetricsError { address, source })?;
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
    let seats = Seats::new(CONNECTIONS_MAX);
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
mod tests;
