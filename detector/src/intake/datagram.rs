//! Datagrams of one socket: each with the credentials of who sent it (unix(7), SCM_CREDENTIALS), which SO_PEERCRED hasn't.

use std::{io::IoSliceMut, os::fd::AsRawFd as _, os::unix::net::UnixDatagram};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg},
};

use super::peer::Peer;
use crate::report::FRAME_MAX;

/// Room for one datagram and its credentials.
pub(super) struct Receiver {
    bytes: Vec<u8>,
    credentials: Vec<u8>,
}

/// A datagram; without a peer if the kernel doesn't say who sent it.
pub(super) struct Datagram<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) peer: Option<Peer>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        // One byte more: a datagram that is too long is told from one that just fits. For descriptors that somebody
        // sends along there is no room, so the kernel closes them.
        Self { bytes: vec![0; FRAME_MAX + 1], credentials: cmsg_space!(UnixCredentials) }
    }

    /// The next datagram; nothing if none waits.
    pub(super) fn next(&mut self, socket: &UnixDatagram) -> Option<Datagram<'_>> {
        // Its length says how much room there is.
        self.credentials.resize(self.credentials.capacity(), 0);
        let mut bytes = [IoSliceMut::new(&mut self.bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut self.credentials), flags).ok()?;
        let credentials = message.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
                _ => None,
            })
        });
        let length = message.bytes;
        let peer = credentials.map(|from| Peer::new(from.uid(), from.gid(), from.pid()));
        Some(Datagram { bytes: self.bytes.get(..length).unwrap_or_default(), peer })
    }
}
