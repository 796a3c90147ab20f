//! HTTP/1.1 with keep-alive: connections in, questions to a [`Decide`], its answers out. A peer that is silent is let go
//! after [`IDLE`], or when all others are there and one more comes; one for which that makes no room is closed, so that its
//! web server goes on without an answer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::unix::net::UnixListener as StdUnixListener,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Response, StatusCode,
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Answer, Connection, Decide, Question};
use crate::{
    broker::Opener,
    door::seats::{Seat, Seats},
    policy::requests::Ruling,
};

const DECISION: HeaderName = HeaderName::from_static("x-detector-decision");
const JA4: HeaderName = HeaderName::from_static("x-detector-ja4");
const CONFIDENCE: HeaderName = HeaderName::from_static("x-detector-confidence");
const SCORE: HeaderName = HeaderName::from_static("x-detector-score");
const REASONS: HeaderName = HeaderName::from_static("x-detector-reasons");
const ID: HeaderName = HeaderName::from_static("x-detector-id");

/// The most bytes of a question's headers: nginx takes 32 KiB of its client's, and may pass them on.
pub const HEADERS_MAX: usize = 64 * 1024;

/// How long a connection may be without a question. nginx keeps one for 60 s: that it must be the one to close it, else
/// a question could meet a connection that is just being closed, and count as the daemon's failure.
const IDLE: Duration = Duration::from_secs(180);

/// For a connection when all others are being answered: less than the 30 ms that nginx waits. Where they have just come, it
/// waits until one of them has had its time: others wait behind it, and none of them is any better off if it goes.
const SEAT_WAIT: Duration = Duration::from_millis(20);

/// For what is being answered when the daemon stops.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// Before accepting again when that failed: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Statuses of sites' challenges, by their names in lower case; 200 for the others.
pub type Sites = BTreeMap<String, StatusCode>;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
}

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't answer web servers on `{address}`: {source}; choose another `listen` in [inline], or `listen = \"off\"`"
)]
pub struct InlineError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// An address that is listened on.
#[derive(Debug)]
pub struct TcpDoor(StdTcpListener);

impl TcpDoor {
    /// Listens on `address`, with a socket of `opener`'s.
    ///
    /// # Errors
    /// When the address is in use or not of this host, or the opener has no socket for it.
    pub fn bind(opener: &Opener, address: SocketAddr) -> Result<Self, InlineError> {
        opener.listen(address).map(Self).map_err(|source| InlineError { address, source })
    }

    /// The address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system doesn't know it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Where web servers ask.
#[derive(Default)]
pub struct Listeners {
    /// A unix socket, non-blocking.
    pub unix: Option<StdUnixListener>,
    /// An address, as soon as it is listened on.
    pub tcp: Option<Coming>,
}

/// An address that is listened on, when it is.
pub type Coming = Pin<Box<dyn Future<Output = TcpDoor> + Send>>;

/// What all connections share.
struct Endpoint<D> {
    decider: D,
    sites: Sites,
    seats: Seats,
    shutdown: CancellationToken,
    connections: TaskTracker,
}

/// Answers until `shutdown`.
///
/// # Errors
/// When the runtime doesn't take a listener.
pub async fn serve(
    listeners: Listeners,
    decider: impl Decide,
    sites: Sites,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let unix = listeners.unix.map(UnixListener::from_std).transpose()?;
    let seats = Seats::new(limits.connections);
    let endpoint = Arc::new(Endpoint { decider, sites, seats, shutdown, connections: TaskTracker::new() });
    let on_unix = async {
        if let Some(listener) = &unix {
            while let Some(accepted) = endpoint.shutdown.run_until_cancelled(listener.accept()).await {
                endpoint.take(accepted.map(|(stream, _)| stream)).await;
            }
        }
        Ok(())
    };
    let on_tcp = async {
        if let Some(coming) = listeners.tcp
            && let Some(door) = endpoint.shutdown.run_until_cancelled(coming).await
        {
            let listener = TcpListener::from_std(door.0)?;
            while let Some(accepted) = endpoint.shutdown.run_until_cancelled(listener.accept()).await {
                let accepted = accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream));
                endpoint.take(accepted).await;
            }
        }
        Ok(())
    };
    let served: io::Result<_> = async { tokio::try_join!(on_unix, on_tcp) }.await;
    endpoint.connections.close();
    endpoint.connections.wait().await;
    served.map(drop)
}

impl<D: Decide> Endpoint<D> {
    /// One accepted connection, or why there is none.
    async fn take(self: &Arc<Self>, accepted: io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>) {
        let Ok(stream) = accepted else { return sleep(ACCEPT_PAUSE).await };
        let Ok(seat) = timeout(self.seats.grace().saturating_add(SEAT_WAIT), self.seats.wait()).await else {
            return self.decider.connection(Connection::Refused);
        };
        self.decider.connection(Connection::Taken);
        let endpoint = Arc::clone(self);
        self.connections.spawn(async move {
            tokio::select! {
                () = endpoint.converse(stream, &seat) => {}
                () = seat.displaced() => endpoint.decider.connection(Connection::Displaced),
            }
        });
    }

    /// One connection. How it fails is its peer's affair.
    async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seat: &Seat) {
        let answer = service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
            seat.keep();
            let question = Question::new(request.headers());
            let answer = self.decider.decide(&question).await;
            seat.release();
            let status = self.status(answer.ruling, question.site());
            Ok::<_, Infallible>(respond(&answer, status))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEADERS_MAX);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
        if self.shutdown.run_until_cancelled(connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            drop(timeout(LAST_ANSWER, connection).await);
        }
    }

    /// What a web server reads: nginx and the like let a request pass on any 2xx and refuse it on 401 and 403.
    fn status(&self, ruling: Ruling, site: Option<&str>) -> StatusCode {
        match ruling {
            Ruling::Allow => StatusCode::OK,
            Ruling::Deny => StatusCode::FORBIDDEN,
            Ruling::Challenge => {
                let own = site.and_then(|site| self.sites.get(&site.to_ascii_lowercase()));
                own.copied().unwrap_or(StatusCode::OK)
            }
        }
    }
}

fn respond(answer: &Answer, status: StatusCode) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(DECISION, HeaderValue::from_static(answer.ruling.label()));
    // Both are printable ASCII.
    let ja4 = answer.ja4.and_then(|ja4| HeaderValue::try_from(ja4.to_string()).ok());
    headers.insert(JA4, ja4.unwrap_or(HeaderValue::from_static("-")));
    // Always there: Caddy copies the name of one that is absent.
    let scored = answer.scored;
    let confidence = scored.map_or("-", |scored| scored.confidence.label());
    headers.insert(CONFIDENCE, HeaderValue::from_static(confidence));
    let score = scored.map_or("-".to_owned(), |scored| format!("{:.3}", scored.score));
    let reasons = scored.into_iter().flat_map(|scored| scored.reasons).flatten().map(|signal| signal.name());
    let reasons = reasons.collect::<Vec<_>>().join(",");
    for (name, value) in [(SCORE, score), (REASONS, reasons)] {
        let value = HeaderValue::try_from(value).ok().filter(|value| !value.is_empty());
        headers.insert(name, value.unwrap_or(HeaderValue::from_static("-")));
    }
    if let Ok(id) = HeaderValue::try_from(answer.id.to_string()) {
        headers.insert(ID, id);
    }
    response
}

#[cfg(test)]
mod tests;
