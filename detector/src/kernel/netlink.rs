//! Questions to rtnetlink(7), which the kernel answers at once: a request's body in; the bodies of the messages that answer
//! it, and their attributes, out. Memory: one datagram.

use std::os::fd::AsRawFd as _;

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

// linux/netlink.h. All numbers are in host byte order.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
/// Bytes of `struct nlmsghdr` and `struct rtattr`.
const MESSAGE_HEADER: usize = 16;
pub(super) const ATTRIBUTE_HEADER: usize = 4;

/// The most bytes of one datagram: the kernel fills no larger one unless asked to.
const DATAGRAM: usize = 64 * 1024;
/// The kernel answers at once.
const PATIENCE_S: i64 = 2;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The one thing that the body names.
    One,
    /// All there are.
    All,
}

/// Asks with a message of type `request`, and hands over the body of each answer of type `answer`.
pub(super) fn ask(
    (request, answer): (u16, u16),
    extent: Extent,
    body: &[u8],
    each: &mut impl FnMut(&[u8]),
) -> nix::Result<()> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
    let flags = if extent == Extent::All { NLM_F_REQUEST | NLM_F_DUMP } else { NLM_F_REQUEST };
    let mut question = Vec::with_capacity(MESSAGE_HEADER + body.len());
    question.extend_from_slice(&((MESSAGE_HEADER + body.len()) as u32).to_ne_bytes());
    question.extend_from_slice(&request.to_ne_bytes());
    question.extend_from_slice(&flags.to_ne_bytes());
    // Its number and its sender's: nothing else is asked by this socket.
    question.extend_from_slice(&[0; 8]);
    question.extend_from_slice(body);
    send(fd.as_raw_fd(), &question, MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).ok_or(Errno::EBADMSG)?;
        while !rest.is_empty() {
            let message = message(rest).ok_or(Errno::EBADMSG)?;
            rest = message.rest;
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(Errno::from_raw(code.saturating_neg()));
                }
                kind if kind == answer => {
                    each(message.body);
                    if extent == Extent::One {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
    /// What follows it.
    rest: &'a [u8],
}

/// The first message.
fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(MESSAGE_HEADER..length)?;
    Some(Message { kind, body, rest: bytes.get(length.next_multiple_of(4)..).unwrap_or_default() })
}

/// Type and value of each attribute.
pub(super) fn attributes<'a>(mut bytes: &'a [u8], each: &mut impl FnMut(u16, &'a [u8])) {
    while let (Some(length), Some(kind)) = (bytes.first_chunk(), bytes.get(2..).and_then(<[u8]>::first_chunk)) {
        let length = usize::from(u16::from_ne_bytes(*length));
        let Some(value) = bytes.get(ATTRIBUTE_HEADER..length) else { return };
        each(u16::from_ne_bytes(*kind), value);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An attribute as the kernel writes it.
    pub(in crate::kernel) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            attributes(&bytes, &mut |_, _| {});
            let _ = message(&bytes);
        }
    }
}
