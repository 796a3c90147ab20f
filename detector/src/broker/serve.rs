//! The socket broker: the daemon's requests in, each by the [`Rules`] of the configuration, sockets and relayed bytes out.
//! Nobody else is answered: the kernel says whose process asks (unix(7), SO_PEERCRED). Bound: 64 connections, one request
//! of 512 bytes each and two seconds for it, one second to connect, ten for what is relayed.
//!
//! A listener on a loopback address is bound to the loopback interface as well: without CAP_NET_RAW nobody can undo that, so
//! neither it nor what it accepts can be made a connection to another host by who has taken over the daemon.

use std::{
    ffi::OsString,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixListener as StdUnixListener,
    },
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, sendmsg,
    socket_with, sockopt::set_socket_reuseaddr,
};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::{TcpSocket, TcpStream, UdpSocket, UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    names::PORT,
    protocol::{FRAME_MAX, Request, Response, Transport},
    relay,
};
use crate::{
    clock::monotonic,
    config::{Config, Overrides},
    door::{
        seats::{Seat, Seats},
        socket::queue_up,
    },
    policy::never_block::resolvers,
    telemetry::logs::Limited,
};

/// Connections served at one time.
pub const CONNECTIONS_MAX: usize = 64;

/// For a request.
const FRAME_DEADLINE: Duration = Duration::from_secs(2);

/// To connect.
const CONNECT: Duration = Duration::from_secs(1);

/// For all that is relayed over one connection: a query of the daemon's takes two seconds, a check half a one.
const RELAY: Duration = Duration::from_secs(10);

/// Before accepting again when that failed: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lines of the log about each kind of refusal; the next one has the number of those left out.
static STRANGERS: Limited = Limited::per_minute(6);
static REFUSALS: Limited = Limited::per_minute(6);
static CONFIGURATION: Limited = Limited::per_minute(1);

/// What never leaves this host.
const LOOPBACK: &str = "lo";

/// What the configuration lets the daemon have, beside loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where it may listen.
    pub listen: Vec<SocketAddr>,
    /// Whom it may ask for names.
    pub resolvers: Vec<IpAddr>,
}

impl Rules {
    /// As `config` says, and the files in the form of resolv.conf that it names.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let texts = config.orders.resolv_conf.iter().filter_map(|path| fs::read_to_string(path).ok());
        Self {
            listen: config.admin.metrics.into_iter().chain(config.inline.listen).collect(),
            resolvers: texts.flat_map(|text| resolvers(&text)).collect(),
        }
    }
}

/// The configuration as it is now: it is read for each request, since the daemon may have been started anew with another.
#[derive(Debug)]
pub struct Configured {
    overrides: Overrides,
    last: Mutex<Config>,
}

impl Configured {
    /// `config`, and from then on what `overrides` says.
    #[must_use]
    pub fn new(config: Config, overrides: Overrides) -> Self {
        Self { overrides, last: Mutex::new(config) }
    }

    /// What it lets the daemon have. While it is wrong, what it last did, as the daemon goes on with that too.
    pub fn rules(&self) -> Rules {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match Config::load(&self.overrides) {
            Ok(config) => *last = config,
            Err(error) => {
                if let Some(suppressed) = CONFIGURATION.admit(monotonic()) {
                    warn!(%error, suppressed, "the configuration is wrong; what the one before let the daemon have holds");
                }
            }
        }
        Rules::of(&last)
    }
}

/// What all connections share.
struct Broker<R> {
    rules: R,
}

/// Answers until `shutdown`, and only processes of the user `owner`. `rules` is called for each request that they decide.
///
/// # Errors
/// When the runtime doesn't take the listener.
pub async fn serve(
    listener: StdUnixListener,
    owner: u32,
    rules: impl Fn() -> Rules + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (seats, broker) = (Seats::new(CONNECTIONS_MAX), Arc::new(Broker { rules }));
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(peer) = stream.peer_cred() else { continue };
        let (uid, pid) = (peer.uid(), peer.pid());
        if uid != owner {
            if let Some(suppressed) = STRANGERS.admit(monotonic()) {
                warn!(uid, pid, suppressed, "a process asked for a socket that isn't the daemon's");
            }
            continue;
        }
        let (seat, broker) = (seats.wait().await, Arc::clone(&broker));
        // How it fails is the daemon's affair.
        tokio::spawn(async move { broker.converse(stream, &seat).await });
    }
    Ok(())
}

/// What was opened.
enum Opened {
    Listener(OwnedFd),
    Stream(TcpStream),
    Datagrams(UdpSocket),
}

/// Why nothing was.
enum Denied {
    Refused(String),
    Failed(io::Error),
}

impl From<io::Error> for Denied {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl<R: Fn() -> Rules> Broker<R> {
    /// One connection: a request, its response, and what is relayed then.
    async fn converse(&self, stream: UnixStream, seat: &Seat) -> io::Result<()> {
        let mut stream = stream;
        let Ok(frame) = seat.within(FRAME_DEADLINE, frame(&mut stream)).await else { return Ok(()) };
        let frame = frame?;
        seat.keep();
        let opened = match frame.strip_suffix(b"\n").map(Request::decode) {
            Some(Ok(request)) => self.open(request).await,
            Some(Err(error)) => Err(Denied::Refused(format!("not a request: {error}"))),
            None => Err(Denied::Refused(format!("a request is a line of {FRAME_MAX} bytes at most"))),
        };
        match opened {
            Ok(Opened::Listener(listener)) => respond(&stream, &Response::Done, Some(listener.as_fd())).await,
            Ok(Opened::Stream(peer)) => {
                respond(&stream, &Response::Done, None).await?;
                timeout(RELAY, relay::bytes(stream, peer)).await?
            }
            Ok(Opened::Datagrams(socket)) => {
                respond(&stream, &Response::Done, None).await?;
                timeout(RELAY, relay::datagrams(stream, socket)).await?
            }
            Err(Denied::Failed(error)) => {
                let errno = error.raw_os_error().unwrap_or(nix::libc::EIO);
                respond(&stream, &Response::Failed { errno }, None).await
            }
            Err(Denied::Refused(reason)) => {
                if let Some(suppressed) = REFUSALS.admit(monotonic()) {
                    warn!(reason, suppressed, "the daemon asked for a socket that it may not have");
                }
                respond(&stream, &Response::Refused { reason }, None).await
            }
        }
    }

    async fn open(&self, request: Request) -> Result<Opened, Denied> {
        match request {
            Request::Listen { address } => {
                if !is_loopback(address) && !(self.rules)().listen.contains(&address) {
                    let help = "name it in the file, as `metrics` in [admin] or `listen` in [inline]";
                    return Err(Denied::Refused(format!("{address} is beyond this host; {help}")));
                }
                Ok(Opened::Listener(listen(address)?))
            }
            Request::Resolver { address, over } => {
                if !(self.rules)().resolvers.contains(&address) {
                    let help = "name it in a file that `resolv_conf` in [enforce] names";
                    return Err(Denied::Refused(format!("{address} is no resolver of this host; {help}")));
                }
                let server = SocketAddr::new(address, PORT);
                Ok(match over {
                    Transport::Udp => Opened::Datagrams(datagrams(server).await?),
                    Transport::Tcp => Opened::Stream(connect(socket_for(server)?, server).await?),
                })
            }
            Request::Check { address } => check(address).await.map(Opened::Stream),
        }
    }
}

/// A line, or as much of one as fits. Nothing may follow it.
async fn frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(FRAME_MAX);
    while frame.len() < FRAME_MAX && !frame.ends_with(b"\n") {
        let room = (FRAME_MAX - frame.len()) as u64;
        if stream.take(room).read_buf(&mut frame).await? == 0 {
            break;
        }
    }
    Ok(frame)
}

async fn respond(stream: &UnixStream, response: &Response, along: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let line = response.encode();
    let along: Vec<BorrowedFd<'_>> = along.into_iter().collect();
    let sent = stream.async_io(Interest::WRITABLE, || {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !along.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&along));
        }
        Ok(sendmsg(stream, &[io::IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?)
    });
    timeout(FRAME_DEADLINE, sent).await??;
    Ok(())
}

/// Whether only this host reaches it.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // As every server does, so that connections of the one before are in nobody's way.
    set_socket_reuseaddr(&socket, true)?;
    if is_loopback(address) {
        setsockopt(&socket, BindToDevice, &OsString::from(LOOPBACK))?;
    }
    bind(&socket, &address)?;
    queue_up(&socket)?;
    Ok(socket)
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connect(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_| io::Error::from_raw_os_error(nix::libc::ETIMEDOUT);
    let stream = timeout(CONNECT, socket.connect(address)).await.map_err(late)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects from the very address that it connects to: the system gives that to this host's own only.
async fn check(address: SocketAddr) -> Result<TcpStream, Denied> {
    let socket = socket_for(address)?;
    let mut own = address;
    own.set_port(0);
    if address.ip().is_unspecified() || socket.bind(own).is_err() {
        return Err(Denied::Refused(format!("{} is no address of this host", address.ip())));
    }
    Ok(connect(socket, address).await?)
}

/// A socket for datagrams to one resolver, and from it; its port is the system's choice, at random.
async fn datagrams(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}
