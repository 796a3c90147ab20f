//! The gateways of this host: a dump of its routes, of every table and both families, by rtnetlink(7). Memory: one
//! datagram of the answer, and the gateways.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

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

use super::Error;

// linux/netlink.h and linux/rtnetlink.h. All numbers are in host byte order.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
/// Bytes of `struct nlmsghdr`, `struct rtmsg`, `struct rtattr` and `struct rtnexthop`.
const MESSAGE_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;
const ATTRIBUTE_HEADER: usize = 4;
const HOP_HEADER: usize = 8;

/// The most bytes of one datagram: the kernel fills no larger one unless asked to.
const DATAGRAM: usize = 64 * 1024;
/// A dump answers at once.
const PATIENCE_S: i64 = 2;
/// More gateways than these are no host's.
const GATEWAYS_MAX: usize = 1024;

/// The address of each router that a route of this network namespace leads to, sorted.
///
/// # Errors
/// The kernel's.
pub fn gateways() -> Result<Vec<IpAddr>, Error> {
    let failed = |error: Errno| Error::System("reading this host's routes", error.desc().to_owned());
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
        .map_err(failed)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S)).map_err(failed)?;
    let mut found = BTreeSet::new();
    for (sequence, family) in [(1, nix::libc::AF_INET), (2, nix::libc::AF_INET6)] {
        dump(&fd, sequence, family as u8, &mut found).map_err(failed)?;
    }
    Ok(found.into_iter().collect())
}

fn dump(fd: &OwnedFd, sequence: u32, family: u8, found: &mut BTreeSet<IpAddr>) -> nix::Result<()> {
    let mut request = Vec::with_capacity(MESSAGE_HEADER + ROUTE_HEADER);
    request.extend_from_slice(&((MESSAGE_HEADER + ROUTE_HEADER) as u32).to_ne_bytes());
    request.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    request.extend_from_slice(&[0; 4]);
    request.push(family);
    request.extend_from_slice(&[0; ROUTE_HEADER - 1]);
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).ok_or(Errno::EBADMSG)?;
        while !rest.is_empty() {
            let message = message(rest).ok_or(Errno::EBADMSG)?;
            rest = message.rest;
            match message.kind {
                _ if message.sequence != sequence => {}
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(Errno::from_raw(code.saturating_neg()));
                }
                RTM_NEWROUTE => {
                    route(message.body, &mut |gateway| {
                        if found.len() < GATEWAYS_MAX {
                            found.insert(gateway);
                        }
                    });
                }
                _ => {}
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
    /// What follows it.
    rest: &'a [u8],
}

/// The first message.
fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(MESSAGE_HEADER..length)?;
    Some(Message { kind, sequence, body, rest: bytes.get(length.next_multiple_of(4)..).unwrap_or_default() })
}

/// The gateways of one route.
fn route(body: &[u8], each: &mut impl FnMut(IpAddr)) {
    attributes(body.get(ROUTE_HEADER..).unwrap_or_default(), &mut |kind, value| match kind {
        RTA_MULTIPATH => hops(value, each),
        _ => gateway(kind, value).into_iter().for_each(&mut *each),
    });
}

/// The gateways of a route with several.
fn hops(mut bytes: &[u8], each: &mut impl FnMut(IpAddr)) {
    while let Some(length) = bytes.first_chunk().map(|length| usize::from(u16::from_ne_bytes(*length))) {
        let Some(own) = bytes.get(HOP_HEADER..length) else { return };
        attributes(own, &mut |kind, value| gateway(kind, value).into_iter().for_each(&mut *each));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn attributes<'a>(mut bytes: &'a [u8], each: &mut impl FnMut(u16, &'a [u8])) {
    while let (Some(length), Some(kind)) = (bytes.first_chunk(), bytes.get(2..).and_then(<[u8]>::first_chunk)) {
        let length = usize::from(u16::from_ne_bytes(*length));
        let Some(value) = bytes.get(ATTRIBUTE_HEADER..length) else { return };
        each(u16::from_ne_bytes(*kind), value);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    let address = match kind {
        RTA_GATEWAY => value,
        // Of another family than its destination, which stands before it.
        RTA_VIA => value.get(2..)?,
        _ => return None,
    };
    match address.len() {
        4 => address.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => address.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn hop(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = ((HOP_HEADER + attributes.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[0; HOP_HEADER - 2]);
        bytes.extend_from_slice(attributes);
        bytes
    }

    fn found(attributes: &[Vec<u8>]) -> Vec<String> {
        let mut body = vec![0; ROUTE_HEADER];
        attributes.iter().for_each(|attribute| body.extend_from_slice(attribute));
        let mut all = Vec::new();
        route(&body, &mut |gateway| all.push(gateway.to_string()));
        all
    }

    #[test]
    fn gateways_of_every_kind_of_route_are_found() {
        let router = attribute(RTA_GATEWAY, &[10, 0, 0, 1]);
        assert_eq!(found(&[attribute(1, &[10, 0, 0, 0]), router.clone()]), ["10.0.0.1"]);
        let hops = [hop(&router), hop(&attribute(RTA_GATEWAY, &[10, 0, 0, 2]))].concat();
        assert_eq!(found(&[attribute(RTA_MULTIPATH, &hops)]), ["10.0.0.1", "10.0.0.2"]);
        let via = [vec![10, 0, 0xfe, 0x80], vec![0; 13], vec![1]].concat();
        assert_eq!(found(&[attribute(RTA_VIA, &via)]), ["fe80::1"]);
        assert_eq!(found(&[attribute(4, &[1, 0, 0, 0])]), Vec::<String>::new());
    }

    #[test]
    fn the_kernel_answers() {
        assert!(gateways().unwrap().is_sorted());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            route(&bytes, &mut |_| {});
            let _ = message(&bytes);
        }
    }
}
