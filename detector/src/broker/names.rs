//! The way to this host's resolvers, as hickory wants it: by sockets of this process, or by what the broker relays.

use std::{
    future::Future,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::{
    net::{TcpStream, UdpSocket, UnixStream},
    task::spawn_blocking,
};
use tokio_util::either::Either;

use super::{
    Opener, ask,
    protocol::{Request, Transport},
    relay::framed,
};

/// The only port that the broker talks to resolvers on.
pub(super) const PORT: u16 = 53;

/// For the broker to connect, where the resolver library says nothing of its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// What hickory opens its sockets by.
#[derive(Clone)]
pub struct Names {
    opener: Opener,
    own: TokioRuntimeProvider,
}

impl Names {
    /// By `opener`.
    #[must_use]
    pub fn new(opener: Opener) -> Self {
        Self { opener, own: TokioRuntimeProvider::default() }
    }
}

type Opened<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Names {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Datagrams;
    type Tcp = AsyncIoTokioAsStd<Either<TcpStream, UnixStream>>;

    fn create_handle(&self) -> Self::Handle {
        self.own.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, from: Option<SocketAddr>, limit: Option<Duration>) -> Opened<Self::Tcp> {
        let opener = self.opener.clone();
        let own = self.own.connect_tcp(server, from, limit);
        Box::pin(async move {
            Ok(AsyncIoTokioAsStd(match opener {
                Opener::Own => Either::Left(own.await?.0),
                Opener::Broker(_) => Either::Right(relayed(opener, server, Transport::Tcp, limit).await?),
            }))
        })
    }

    fn bind_udp(&self, from: SocketAddr, server: SocketAddr) -> Opened<Self::Udp> {
        let opener = self.opener.clone();
        Box::pin(async move {
            Ok(match opener {
                Opener::Own => Datagrams::Own(UdpSocket::bind(from).await?),
                // From a port that the system chooses at random, one for each query.
                Opener::Broker(_) => {
                    let stream = relayed(opener, server, Transport::Udp, None).await?;
                    Datagrams::Relayed(Relayed::new(stream, server))
                }
            })
        })
    }
}

/// A connection to the broker, which relays to a resolver from then on.
async fn relayed(
    opener: Opener,
    server: SocketAddr,
    over: Transport,
    limit: Option<Duration>,
) -> io::Result<UnixStream> {
    let Opener::Broker(path) = opener else { return Err(ErrorKind::Unsupported.into()) };
    if server.port() != PORT {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("resolvers are asked on port {PORT}")));
    }
    let request = Request::Resolver { address: server.ip(), over };
    let (stream, _) = spawn_blocking(move || ask(&path, request, limit.unwrap_or(PATIENCE))).await??;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// What datagrams to a resolver go by.
#[derive(Debug)]
pub enum Datagrams {
    /// A socket of this process.
    Own(UdpSocket),
    /// The broker.
    Relayed(Relayed),
}

/// Datagrams that the broker relays to one resolver, and back.
#[derive(Debug)]
pub struct Relayed {
    stream: UnixStream,
    server: SocketAddr,
    /// What came of the next one so far: a datagram of 64 KiB and its length at most, and one read.
    begun: Mutex<Vec<u8>>,
}

impl DnsUdpSocket for Datagrams {
    type Time = TokioTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        match self {
            Self::Own(socket) => DnsUdpSocket::poll_recv_from(socket, cx, bytes),
            Self::Relayed(relayed) => relayed.poll_receive(cx, bytes),
        }
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        match self {
            Self::Own(socket) => DnsUdpSocket::poll_send_to(socket, cx, bytes, target),
            Self::Relayed(relayed) if target != relayed.server => Poll::Ready(Err(ErrorKind::InvalidInput.into())),
            Self::Relayed(relayed) => relayed.poll_send(cx, bytes),
        }
    }
}

impl Relayed {
    /// To `server` and back, by a connection over which the broker relays.
    pub(super) fn new(stream: UnixStream, server: SocketAddr) -> Self {
        Self { stream, server, begun: Mutex::default() }
    }

    fn poll_receive(&self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(datagram) = first(&begun) {
                // What is longer than the reader wants is cut off, as of any datagram.
                let length = datagram.len().min(bytes.len());
                let whole = datagram.len() + 2;
                bytes.iter_mut().zip(datagram).for_each(|(place, byte)| *place = *byte);
                begun.drain(..whole);
                return Poll::Ready(Ok((length, self.server)));
            }
            ready!(self.stream.poll_read_ready(cx))?;
            let mut read = [0; 4096];
            match self.stream.try_read(&mut read) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(length) => begun.extend_from_slice(read.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// A query is far smaller than what the connection holds: it goes in one piece, or fails.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let framed = framed(bytes);
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(&framed) {
                Ok(written) if written == framed.len() => return Poll::Ready(Ok(bytes.len())),
                Ok(_) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// The first datagram, if it is whole.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}
