//! The control socket, and the status socket, which only answers: lines of JSON in, [`Request`]s to a [`Handler`], its
//! [`Response`]s out. Who may speak on which is decided by the file's mode (0660) and group (threats.md T30); who asked for
//! a change, and what came of it, is logged for every one. Bound, for each of the two: 64
//! connections, one frame of 64 KiB and one descriptor each, two seconds for each frame either way; one load of several
//! frames at a time. When all 64 are there, the one that has been silent longest makes room.

use std::any::Any;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocol::{FRAME_MAX, Load, Request, Response};
use crate::door::seats::{End, Seat, Seats};
use crate::door::socket::Socket;
use crate::telemetry::counters::Counters;

/// Connections served at one time.
pub const CONNECTIONS_MAX: usize = 64;

/// For one frame, from its first byte awaited to its last, and for one response.
const FRAME_DEADLINE: Duration = Duration::from_secs(2);

/// How often the handler is told that connections are accepted.
const ALIVE: Duration = Duration::from_secs(1);

/// Before accepting again when that failed: file descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who speaks, as the kernel says (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, if it is in sight of this one.
    pub pid: Option<i32>,
}

/// What may be asked for on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything: operators.
    Write,
    /// What changes nothing.
    Read,
}

/// What answers.
pub trait Handler: Send + Sync + 'static {
    /// Answers; it may wait for another thread, since this runs where the runtime lets code block. At most
    /// [`CONNECTIONS_MAX`] run at a time.
    fn handle(&self, request: Request, peer: Peer) -> Response;

    /// Told each second, as long as connections to the control socket are accepted.
    fn accepts(&self) {}

    /// Asked by the first of several frames: whether a load of that many entries may come.
    ///
    /// # Errors
    /// What is answered if not.
    fn admit(&self, load: &Load) -> Result<(), Box<Response>> {
        let message = format!("no load of {} entries is taken here", load.total);
        Err(Box::new(Response::Error { message }))
    }

    /// Takes a challenge listener's socket for these protected ports, all if there are none, where one came along; the
    /// place it has then ends when it is dropped, with the conversation.
    fn listen(&self, _socket: Option<OwnedFd>, _ports: Vec<u16>, _peer: Peer) -> (Response, Option<Place>) {
        (Response::Error { message: "there are no challenge listeners here".to_owned() }, None)
    }
}

/// The frames of a load so far.
struct Held {
    load: Box<Load>,
    _only_one: OwnedSemaphorePermit,
}

/// What a conversation holds until its end.
pub type Place = Box<dyn Any + Send>;

/// Answers until `shutdown`, then lets those in the middle of a response end. `ended` counts connections by [`End`].
///
/// # Errors
/// When the runtime doesn't take the listener.
pub async fn serve(
    (control, access): (Socket<StdUnixListener>, Access),
    handler: Arc<impl Handler>,
    ended: Counters,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = UnixListener::from_std(control.socket().try_clone()?)?;
    let seats = Seats::new(CONNECTIONS_MAX);
    let loads = Arc::new(Semaphore::new(1));
    let connections = TaskTracker::new();
    let mut failing = false;
    let mut alive = tokio::time::interval(ALIVE);
    let accept = async {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = alive.tick() => {
                    // The other socket must not vouch for the one that operators need.
                    if access == Access::Write {
                        handler.accepts();
                    }
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    let (handler, loads, shutdown) = (Arc::clone(&handler), Arc::clone(&loads), shutdown.clone());
                    let (seat, ended) = (seats.wait().await, ended.clone());
                    connections.spawn(async move {
                        let asked = (stream, access);
                        ended.add(converse(asked, handler, loads, &seat, &shutdown).await.label(), 1);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the control socket can't accept; trying on");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
    Ok(())
}

/// One connection: frames until its end, a mistake or a deadline; then whatever it held is let go.
async fn converse(
    (stream, access): (UnixStream, Access),
    handler: Arc<impl Handler>,
    loads: Arc<Semaphore>,
    seat: &Seat,
    shutdown: &CancellationToken,
) -> End {
    let Ok(credentials) = stream.peer_cred() else { return End::Done };
    let peer = Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() };
    let (read, mut write) = stream.into_split();
    let mut incoming = Incoming { stream: read, buffered: Vec::new(), descriptor: None };
    let mut held = None;
    loop {
        let reading = seat.within(FRAME_DEADLINE, incoming.frame());
        let frame = match shutdown.run_until_cancelled(reading).await {
            Some(Ok(Ok(frame))) if !frame.is_empty() => frame,
            Some(Err(end)) => return end,
            Some(Ok(_)) | None => return End::Done,
        };
        seat.keep();
        let (handler, loads, descriptor) = (Arc::clone(&handler), Arc::clone(&loads), incoming.descriptor.take());
        let answered = tokio::task::spawn_blocking(move || {
            (answer((&frame, descriptor), handler.as_ref(), (peer, access), &loads, &mut held), held)
        });
        // No answer: the runtime is ending.
        let Ok((Answer { response, last, place }, kept)) = answered.await else { return End::Done };
        held = kept;
        if held.is_none() && place.is_none() {
            seat.release();
        }
        // A peer that doesn't read its response has no say in how long this waits.
        match seat.within(FRAME_DEADLINE, write.write_all(&response.encode())).await {
            Ok(Ok(())) if !last => {}
            Ok(_) => return End::Done,
            Err(end) => return end,
        }
        if place.is_some() {
            // The place is held until the peer hangs up, or says another word.
            let _ = shutdown.run_until_cancelled(incoming.frame()).await;
            return End::Done;
        }
    }
}

/// What a peer sends: frames, and descriptors along with them (unix(7), SCM_RIGHTS).
struct Incoming {
    stream: OwnedReadHalf,
    /// Read beyond the last frame.
    buffered: Vec<u8>,
    /// The latest.
    descriptor: Option<OwnedFd>,
}

impl Incoming {
    /// The next frame with its end of line; without one if the peer hung up, or goes on beyond [`FRAME_MAX`] bytes.
    async fn frame(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let rest = self.buffered.get(searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let after = self.buffered.split_off(searched + end + 1);
                return Ok(std::mem::replace(&mut self.buffered, after));
            }
            searched = self.buffered.len();
            if searched >= FRAME_MAX || self.receive().await? == 0 {
                return Ok(std::mem::take(&mut self.buffered));
            }
        }
    }

    /// More bytes, and how many.
    async fn receive(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        let room = bytes.len().min(FRAME_MAX - self.buffered.len());
        let stream: &UnixStream = self.stream.as_ref();
        let (read, descriptor) = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut along = RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [IoSliceMut::new(bytes.get_mut(..room).unwrap_or_default())];
                // More descriptors than there is space for are closed by the kernel.
                let read = recvmsg(stream, &mut bytes, &mut along, RecvFlags::CMSG_CLOEXEC)?.bytes;
                let descriptors = along.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => descriptors.last(),
                    _ => None,
                });
                Ok((read, descriptors.last()))
            })
            .await?;
        self.buffered.extend_from_slice(bytes.get(..read).unwrap_or_default());
        if descriptor.is_some() {
            self.descriptor = descriptor;
        }
        Ok(read)
    }
}

/// What comes of a frame.
struct Answer {
    response: Response,
    /// Nothing more is read.
    last: bool,
    place: Option<Place>,
}

/// What comes of one frame, and of the descriptor that came with it.
fn answer(
    (frame, descriptor): (&[u8], Option<OwnedFd>),
    handler: &impl Handler,
    (peer, access): (Peer, Access),
    loads: &Arc<Semaphore>,
    held: &mut Option<Held>,
) -> Answer {
    let refuse = |message| Answer { response: Response::Error { message }, last: true, place: None };
    let Some(line) = frame.strip_suffix(b"\n") else {
        return refuse(match frame.len() {
            FRAME_MAX.. => format!("a request has at most {FRAME_MAX} bytes"),
            _ => "the request has no end of line".to_owned(),
        });
    };
    let request = match Request::decode(line) {
        Ok(request) => request,
        Err(message) => return refuse(format!("not a request: {message}")),
    };
    let (verb, subject) = (request.verb(), request.audited());
    if access == Access::Read && request.is_write() {
        let message = format!("`{verb}` changes something, and this socket only answers: use the control socket");
        let response = Response::Forbidden { message };
        audit(verb, subject.as_deref(), peer, &response);
        return Answer { response, last: true, place: None };
    }
    let request = match gather(request, handler, loads, held) {
        Ok(request) => request,
        Err(response) => {
            let last = !matches!(*response, Response::Held { .. });
            if last {
                audit(verb, subject.as_deref(), peer, &response);
            }
            return Answer { response: *response, last, place: None };
        }
    };
    // Of a load in several frames, now that all are there.
    let (subject, is_write) = (request.audited(), request.is_write());
    let (response, place) = match request {
        Request::ChallengeListener { ports } => handler.listen(descriptor, ports, peer),
        request => (handler.handle(request, peer), None),
    };
    if is_write {
        audit(verb, subject.as_deref(), peer, &response);
    }
    let last = verb == "challenge-listener" && place.is_none();
    Answer { response, last, place }
}

/// A line for each change that was asked for: by whom, and what came of it.
fn audit(verb: &str, subject: Option<&str>, Peer { uid, gid, pid }: Peer, response: &Response) {
    let until = if let Response::Changed(changed) = response { changed.until.as_str() } else { "" };
    let (subject, outcome) = (subject.unwrap_or_default(), response.label());
    tracing::info!(target: "detector::audit", verb, subject, until, outcome, uid, gid, pid, "change asked for");
}

/// The request, once all of it is there; until then, or if it can't be held, what is answered.
fn gather(
    request: Request,
    handler: &impl Handler,
    loads: &Arc<Semaphore>,
    held: &mut Option<Held>,
) -> Result<Request, Box<Response>> {
    let Request::Load(frame) = request else { return Ok(request) };
    let mut whole = match held.take() {
        Some(mut whole) => {
            whole.load.items.extend(frame.items);
            whole.load.more = frame.more;
            whole
        }
        None if !frame.more => return Ok(Request::Load(frame)),
        None => {
            handler.admit(&frame)?;
            let only_one = Arc::clone(loads).try_acquire_owned().map_err(|_| {
                let (reason, hint) = ("another load is under way", "try again when it is done");
                Response::Refused { reason: reason.to_owned(), hint: hint.to_owned() }
            })?;
            Held { load: frame, _only_one: only_one }
        }
    };
    let entries = whole.load.items.len();
    if entries > whole.load.total {
        let message = format!("the load has more than its {} entries", whole.load.total);
        return Err(Box::new(Response::Error { message }));
    }
    if whole.load.more {
        whole.load.items.reserve(whole.load.total.saturating_sub(entries));
        *held = Some(whole);
        return Err(Box::new(Response::Held { entries }));
    }
    Ok(Request::Load(whole.load))
}

#[cfg(test)]
mod tests;
