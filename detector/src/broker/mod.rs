//! Room 14: who opens the daemon's Internet sockets. An address in; a socket out, that the daemon has opened by itself, or
//! that it has of the socket broker, `detector sockets`: a process with the right to make such sockets, which the packages'
//! daemon hasn't, so that who takes that over reaches nobody (threats.md T61).
//!
//! What is asked is in [`protocol`], the broker's side in [`serve`], the way to the host's resolvers in [`names`]. A listener
//! is passed as it is; of connections only the bytes are: an Internet socket that a process holds can be disconnected
//! (connect(2), `AF_UNSPEC`), and connected to anybody then.

pub mod names;
pub mod protocol;
mod relay;
pub mod serve;

use std::{
    env,
    io::{self, ErrorKind, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, socket_with,
};

use self::protocol::{FRAME_MAX, Request, Response};
use crate::door::socket::queue_up;

/// The environment's variable that names the broker's socket; without it, or with nothing in it, the daemon opens its
/// sockets by itself.
pub const VARIABLE: &str = "DETECTOR_SOCKETS";

/// For the broker to open a listener.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who opens the daemon's Internet sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opener {
    /// This process.
    Own,
    /// The broker, at this socket.
    Broker(Arc<Path>),
}

impl Opener {
    /// As the environment says ([`VARIABLE`]).
    #[must_use]
    pub fn from_environment() -> Self {
        match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Self::Broker(PathBuf::from(path).into()),
            None => Self::Own,
        }
    }

    /// A listener, non-blocking, with as long a queue as can be. Waits two seconds for the broker at most.
    ///
    /// # Errors
    /// When the address is in use or not of this host, or the broker refuses or isn't there.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        match self {
            Self::Own => {
                let listener = TcpListener::bind(address)?;
                queue_up(&listener)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            }
            Self::Broker(path) => {
                let (_, listener) = ask(path, Request::Listen { address }, PATIENCE)?;
                listener.map(TcpListener::from).ok_or_else(|| unfit("no socket came along"))
            }
        }
    }

    /// A connection to an address of this host, within `limit`.
    ///
    /// # Errors
    /// When nobody listens there, or not in time; when the broker refuses or isn't there.
    pub fn check(&self, address: SocketAddr, limit: Duration) -> io::Result<Stream> {
        match self {
            Self::Own => TcpStream::connect_timeout(&address, limit).map(Stream::Tcp),
            Self::Broker(path) => {
                ask(path, Request::Check { address }, limit).map(|(stream, _)| Stream::Relayed(stream))
            }
        }
    }
}

/// A connection, blocking.
#[derive(Debug)]
pub enum Stream {
    /// This process's own.
    Tcp(TcpStream),
    /// The broker's, which relays.
    Relayed(UnixStream),
}

impl Stream {
    /// How long a read or a write may take.
    ///
    /// # Errors
    /// Of a time of zero.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        let limit = Some(limit);
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
            Self::Relayed(stream) => stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Relayed(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Relayed(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Relayed(stream) => stream.flush(),
        }
    }
}

/// Asks the broker at `path`; each step may take `limit`. The connection, over which it relays from then on, and the
/// socket that came along.
fn ask(path: &Path, request: Request, limit: Duration) -> io::Result<(UnixStream, Option<OwnedFd>)> {
    let stream = reach(path).map_err(|error| {
        let help = "`systemctl status detector-sockets.socket detector-sockets` says why";
        io::Error::new(
            error.kind(),
            format!("the socket broker can't be reached at `{}`: {error}; {help}", path.display()),
        )
    })?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    (&stream).write_all(&request.encode())?;
    let (response, along) = receive(&stream)?;
    match response {
        Response::Done => Ok((stream, along)),
        Response::Failed { errno } => Err(io::Error::from_raw_os_error(errno)),
        Response::Refused { reason } => {
            Err(io::Error::new(ErrorKind::PermissionDenied, format!("the socket broker refuses: {reason}")))
        }
    }
}

/// Connects without waiting: a broker that hangs may have its queue full.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The response, and the socket that came along. Nothing comes after it until this side has spoken.
fn receive(stream: &UnixStream) -> io::Result<(Response, Option<OwnedFd>)> {
    let (mut frame, mut along) = (Vec::new(), None);
    loop {
        let mut bytes = [0; FRAME_MAX];
        let room = FRAME_MAX - frame.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(bytes.get_mut(..room).unwrap_or_default())];
        let read = recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let passed = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.last(),
            _ => None,
        });
        along = passed.last().or(along);
        if read == 0 {
            return Err(unfit("it hung up"));
        }
        frame.extend_from_slice(bytes.get(..read).unwrap_or_default());
        if let Some(line) = frame.strip_suffix(b"\n") {
            return Ok((Response::decode(line).map_err(|error| unfit(&error))?, along));
        }
    }
}

/// The broker's response isn't one.
fn unfit(what: &str) -> io::Error {
    let help = "is it of another version? systemctl restart detector-sockets";
    io::Error::new(ErrorKind::InvalidData, format!("the socket broker doesn't answer as it should: {what}; {help}"))
}

#[cfg(test)]
mod tests;
