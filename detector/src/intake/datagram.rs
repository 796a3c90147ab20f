//! Datagrams of one socket: each with the credentials of who sent it (unix(7), SCM_CREDENTIALS), which SO_PEERCRED hasn't,
//! and when that was (socket(7), SO_TIMESTAMPNS), however long it then waited to be read.

use std::{
    array,
    io::IoSliceMut,
    os::fd::AsRawFd as _,
    os::unix::net::UnixDatagram,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    cmsg_space,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, MultiHeaders, UnixCredentials, recvmmsg},
        time::TimeSpec,
    },
};

use super::peer::Peer;
use crate::{
    clock::{Timestamp, monotonic, wall},
    report::FRAME_MAX,
};

/// By how much a time on the wall clock may differ from one on the packets' before that was set meanwhile.
const CLOCKS_APART: Duration = Duration::from_millis(10);

/// Reading a clock takes some 30 ns.
const ONE_MOMENT: Duration = Duration::from_micros(100);
/// An interruption lasts for milliseconds, and the next is as far away.
const TRIES: u32 = 4;

/// Datagrams that one call of the system gives.
const BATCH: usize = 16;
/// More than a datagram may have, so that one that is too long is told from one that just fits; and no power of two, or the
/// beginnings of all of them would share a few lines of the processor's cache.
const ROOM: usize = FRAME_MAX + 1088;

/// Room for some datagrams.
pub(super) struct Receiver {
    bytes: Vec<u8>,
}

/// A datagram; without a peer if the kernel doesn't say who sent it.
pub(super) struct Datagram<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) peer: Option<Peer>,
    /// When it was sent.
    pub(super) arrived: Timestamp,
}

/// What one call gave.
pub(super) struct Received {
    pub(super) datagrams: usize,
    /// When it was asked.
    pub(super) at: Timestamp,
    /// No more waited.
    pub(super) emptied: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BATCH * ROOM] }
    }

    /// Gives `take` the next datagrams, some at most. `emptied`: when none waited, the last time.
    pub(super) fn each(
        &mut self,
        socket: &UnixDatagram,
        emptied: Timestamp,
        mut take: impl FnMut(Datagram<'_>),
    ) -> Received {
        // For descriptors that somebody sends along there is no room, so the kernel closes them. Made anew for each call,
        // since the kernel writes into them how much room it used.
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, Some(cmsg_space!(UnixCredentials, TimeSpec)));
        let mut rooms: [_; BATCH] = {
            let mut rooms = self.bytes.chunks_exact_mut(ROOM);
            array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())])
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        // Before: whoever is interrupted after the call can't say since when the queue is empty.
        let at = monotonic();
        let messages = recvmmsg(socket.as_raw_fd(), &mut headers, &mut rooms, flags, None);
        let (wall, read) = both_clocks();
        let Ok(messages) = messages else { return Received { datagrams: 0, at, emptied: true } };
        let mut datagrams = 0;
        for message in messages {
            let (mut peer, mut sent) = (None, None);
            for said in message.cmsgs().into_iter().flatten() {
                match said {
                    ControlMessageOwned::ScmCredentials(from) => {
                        peer = Some(Peer::new(from.uid(), from.gid(), from.pid()));
                    }
                    ControlMessageOwned::ScmTimestampns(at) => sent = UNIX_EPOCH.checked_add(at.into()),
                    _ => {}
                }
            }
            let bytes = message.iovs().next().unwrap_or_default();
            take(Datagram { bytes, peer, arrived: arrival(sent, wall, read, emptied) });
            datagrams += 1;
        }
        Received { datagrams, at, emptied: datagrams < BATCH }
    }
}

/// Both clocks at one moment: whoever is interrupted between the two tries again.
fn both_clocks() -> (SystemTime, Timestamp) {
    let mut before = monotonic();
    for _ in 0..TRIES {
        let (wall, after) = (wall(), monotonic());
        if after.since(before) <= ONE_MOMENT {
            return (wall, after);
        }
        before = after;
    }
    (wall(), before)
}

/// When a datagram came that was sent at `sent` by the wall clock, on the clock of packets; both read now. It was sent
/// after the queue was last empty: if it wasn't, the wall clock was set meanwhile, and it counts as sent now.
fn arrival(sent: Option<SystemTime>, wall: SystemTime, now: Timestamp, emptied: Timestamp) -> Timestamp {
    let waited = sent.and_then(|sent| wall.duration_since(sent).ok()).unwrap_or_default();
    let most = now.since(emptied).saturating_add(CLOCKS_APART);
    if waited > most { now } else { now.before(waited) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_came_when_it_was_sent_unless_the_wall_clock_was_set() {
        let wall = UNIX_EPOCH + Duration::from_secs(1_763_827_200);
        let (emptied, now) = (Timestamp::from_nanos(60_000_000_000), Timestamp::from_nanos(63_000_000_000));
        let millis = Duration::from_millis;
        let came = |sent| now.since(arrival(Some(sent), wall, now, emptied));
        assert_eq!(came(wall - millis(2000)), millis(2000));
        assert_eq!(came(wall - millis(3005)), millis(3005), "the clocks were not read at one moment");
        assert_eq!(came(wall - millis(3_600_000)), Duration::ZERO, "the wall clock was put forward");
        assert_eq!(came(wall + millis(3_600_000)), Duration::ZERO, "it was put back");
        assert_eq!(arrival(None, wall, now, emptied), now);
    }
}
