//! Metrics over HTTP: `GET /metrics` in, Prometheus text out. Bound: 16 connections, five seconds and one request
//! each.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at one time; more wait in the listener's queue.
pub const CONNECTIONS_MAX: usize = 16;

/// For one connection, from accepted to closed.
const DEADLINE: Duration = Duration::from_secs(5);

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
/// another thread.
///
/// # Errors
/// When the runtime doesn't take the listener.
pub async fn serve(
    listener: MetricsListener,
    gather: impl Fn() -> prometheus::Result<String> + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.listener)?;
    let gather = Arc::new(gather);
    let router = Router::new().route("/metrics", get(async move || respond(spawn_blocking(move || gather()).await)));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let accept = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        converse(stream, router).await;
                        drop(slot);
                    });
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
async fn converse(stream: TcpStream, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    let connection = http
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    drop(timeout(DEADLINE, connection).await);
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

    use super::*;

    /// Runs `check` against a server.
    fn with_server(check: impl FnOnce(SocketAddr)) {
        let listener = MetricsListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.address().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, || Ok("up 1\n".to_owned()), stop)).unwrap();
        });
        check(address);
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

    const GET: &str = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

    #[test]
    fn metrics_and_nothing_else() {
        with_server(|address| {
            let response = ask(address, GET);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nup 1\n"), "{response}");
            assert!(response.contains(CONTENT_TYPE));
            assert!(ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
            assert!(ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
        });
    }

    #[test]
    fn silent_peers_do_not_keep_out_an_honest_one() {
        with_server(|address| {
            let silent: Vec<_> = (0..CONNECTIONS_MAX + 4).map(|_| StdStream::connect(address).unwrap()).collect();
            assert!(ask(address, GET).ends_with("up 1\n"));
            drop(silent);
        });
    }

    #[test]
    fn an_address_in_use_is_said() {
        let listener = MetricsListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let error = MetricsListener::bind(listener.address().unwrap()).unwrap_err().to_string();
        assert!(error.contains("Address already in use") && error.ends_with("or `--metrics off`"), "{error}");
    }
}
