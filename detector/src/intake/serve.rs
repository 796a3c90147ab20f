//! The loop of the thread `reports`: whichever socket has something is read for a moment, so that none keeps another
//! waiting.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd,
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    thread,
    time::Duration,
};

use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{getsockopt, sockopt::PeerCredentials},
};
use tracing::warn;

use super::{
    Intake,
    datagram::{Datagram, Receiver},
    peer::{Peer, Refused, Way},
    queue_length,
    sink::Sink,
    stream::{Closed, Next, Stream},
};
use crate::{
    clock::{Timestamp, monotonic},
    door::{gather::Gather, socket::Socket},
    kernel::Waker,
    report::{FRAME_MAX, Report},
    telemetry::logs::Limited,
};

/// Datagrams of one socket before the others' turn: less than a millisecond.
const TURN: usize = 256;
/// Of all streams, one user's share: one that opens many can't crowd out the others.
const SHARE_OF_ONE: usize = 4;
/// Milliseconds between two looks at what time alone ends, while there is such a thing.
const TICK: u8 = 100;
/// The same while there is none.
const IDLE: u16 = 1000;
/// From so many datagrams a second on the thread lets some come before it reads on: for a fraction of what their queue
/// holds.
const MANY: u64 = 5_000;
const FRACTION: u64 = 8;
const LONGEST: Duration = Duration::from_millis(1);
/// What stands for the waker; sockets have the numbers behind it, and streams those behind them.
const WAKER: u64 = 0;

static FAILING: Limited = Limited::per_minute(6);

/// The sockets and what is read of them.
pub(super) struct Server<F> {
    epoll: Epoll,
    _waker: Waker,
    datagrams: Vec<Socket<UnixDatagram>>,
    /// When no datagram waited for each of them, the last time.
    emptied: Vec<Timestamp>,
    listeners: Vec<Socket<UnixListener>>,
    streams: HashMap<u64, Stream>,
    /// The number of the next stream.
    next: u64,
    most: usize,
    /// Listeners are not asked again before: file descriptors had run out.
    paused: bool,
    receiver: Receiver,
    /// So many datagrams may come meanwhile.
    room: u64,
    gather: Gather,
    scratch: Vec<u8>,
    sink: Sink<F>,
}

impl<F: FnMut(&Report<'_>, Peer, Timestamp)> Server<F> {
    pub(super) fn new(intake: Intake, waker: Waker, sink: Sink<F>) -> nix::Result<Self> {
        let Intake { datagrams, listeners, settings, .. } = intake;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        watch(&epoll, &waker, WAKER)?;
        let mut next = WAKER + 1;
        for socket in datagrams
            .iter()
            .map(|socket| socket.socket().as_fd())
            .chain(listeners.iter().map(|socket| socket.socket().as_fd()))
        {
            watch(&epoll, socket, next)?;
            next += 1;
        }
        Ok(Self {
            epoll,
            _waker: waker,
            emptied: vec![Timestamp::default(); datagrams.len()],
            datagrams,
            listeners,
            streams: HashMap::new(),
            next,
            most: settings.connections as usize,
            paused: false,
            receiver: Receiver::new(),
            room: queue_length().unwrap_or(0) / FRACTION,
            gather: Gather::new(MANY, LONGEST),
            scratch: vec![0; FRAME_MAX],
            sink,
        })
    }

    /// Reads until it is woken; calls `alive` in each round, of which there is one a second at least.
    pub(super) fn run(&mut self, alive: impl Fn()) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timed = self.paused || self.streams.values().any(Stream::is_begun);
            // Interrupted by a signal: nothing has come.
            let ready = self
                .epoll
                .wait(&mut events, if timed { EpollTimeout::from(TICK) } else { EpollTimeout::from(IDLE) })
                .unwrap_or(0);
            let (mut came, mut emptied) = (0, true);
            for event in events.iter().take(ready) {
                match event.data() {
                    WAKER => return,
                    number => {
                        let read = self.turn(number);
                        came += read;
                        emptied &= read < TURN;
                    }
                }
            }
            if timed {
                self.tick(monotonic());
            }
            self.sink.publish();
            alive();
            if let Some(pause) = self.gather.pause(came as u64, self.room, monotonic())
                && emptied
            {
                thread::sleep(pause);
            }
        }
    }

    /// What one socket has, for a moment. How many datagrams that were.
    fn turn(&mut self, number: u64) -> usize {
        let index = usize::try_from(number - WAKER - 1).unwrap_or(usize::MAX);
        if let (Some(socket), Some(emptied)) = (self.datagrams.get(index), self.emptied.get_mut(index)) {
            return receive(socket.socket(), emptied, &mut self.receiver, &mut self.sink);
        }
        if self.listeners.get(index - self.datagrams.len()).is_some() {
            self.accept(index - self.datagrams.len());
        } else {
            self.read(number, monotonic());
        }
        0
    }

    fn accept(&mut self, index: usize) {
        let now = monotonic();
        for _ in 0..TURN {
            let Some(listener) = self.listeners.get(index) else { return };
            match listener.socket().accept() {
                Ok((socket, _)) => self.welcome(socket, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.pause(&error, now),
            }
        }
    }

    /// Takes a stream in, or closes it.
    fn welcome(&mut self, socket: UnixStream, now: Timestamp) {
        let Ok(credentials) = getsockopt(&socket, PeerCredentials) else { return };
        let peer = Peer::new(credentials.uid(), credentials.gid(), credentials.pid());
        if !self.sink.may_report(peer, now) {
            return self.sink.closed(Closed::Peer, Some(peer), now);
        }
        let of_user = self.streams.values().filter(|stream| stream.peer.uid == peer.uid).count();
        if self.streams.len() >= self.most || of_user >= self.most.div_ceil(SHARE_OF_ONE) {
            return self.sink.closed(Closed::Full, Some(peer), now);
        }
        if socket.set_nonblocking(true).is_ok() && watch(&self.epoll, &socket, self.next).is_ok() {
            self.streams.insert(self.next, Stream::new(socket, peer));
            self.next += 1;
        }
    }

    fn read(&mut self, number: u64, now: Timestamp) {
        let Self { streams, scratch, sink, .. } = self;
        let Some(stream) = streams.get_mut(&number) else { return };
        let peer = stream.peer;
        match stream.read(scratch, now, |line| sink.frame(line, peer, Way::Stream, now)) {
            Next::Open => return,
            Next::Ended => {}
            Next::Close(why) => sink.closed(why, Some(peer), now),
        }
        // Closing it takes it out of the epoll too.
        streams.remove(&number);
    }

    /// What time alone ends.
    fn tick(&mut self, now: Timestamp) {
        let sink = &self.sink;
        self.streams.retain(|_, stream| {
            let late = stream.is_late(now);
            if late {
                sink.closed(Closed::Slow, Some(stream.peer), now);
            }
            !late
        });
        if std::mem::take(&mut self.paused) {
            let first = WAKER + 1 + self.datagrams.len() as u64;
            for (listener, number) in self.listeners.iter().zip(first..) {
                // Those that were not left out are there already.
                let _ = watch(&self.epoll, listener.socket(), number);
            }
        }
    }

    /// Leaves the listeners out for a tick: they stay ready, and the thread would ask them and nothing else.
    fn pause(&mut self, error: &io::Error, now: Timestamp) {
        if let Some(suppressed) = FAILING.admit(now) {
            warn!(%error, suppressed, "no more streams of reports can be accepted; trying on");
        }
        for listener in &self.listeners {
            let _ = self.epoll.delete(listener.socket());
        }
        self.paused = true;
    }
}

/// `emptied`: when no datagram waited, the last time. How many it read: less than [`TURN`] if it
/// was emptied.
fn receive<F: FnMut(&Report<'_>, Peer, Timestamp)>(
    socket: &UnixDatagram,
    emptied: &mut Timestamp,
    receiver: &mut Receiver,
    sink: &mut Sink<F>,
) -> usize {
    let mut read = 0;
    while read < TURN {
        let received = receiver.each(socket, *emptied, |Datagram { bytes, peer, arrived }| match peer {
            Some(peer) => sink.frame(bytes, peer, Way::Datagram, arrived),
            // Descriptors came along, or the kernel didn't say: nobody honest does that.
            None => sink.refused(Refused::Peer, Peer::new(u32::MAX, u32::MAX, 0), arrived),
        });
        read += received.datagrams;
        if received.emptied {
            *emptied = received.at;
            break;
        }
    }
    read
}

fn watch(epoll: &Epoll, what: impl AsFd, number: u64) -> nix::Result<()> {
    epoll.add(what, EpollEvent::new(EpollFlags::EPOLLIN, number))
}
