//! The gateways of this host: a dump of its routes, of every table and both families, by rtnetlink(7). Memory: one
//! datagram of the answer, and the gateways.

use std::{collections::BTreeSet, net::IpAddr};

use nix::errno::Errno;

use super::{
    Error,
    netlink::{Extent, ask, attributes},
};

// linux/rtnetlink.h. All numbers are in host byte order.
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
/// Bytes of `struct rtmsg` and `struct rtnexthop`.
const ROUTE_HEADER: usize = 12;
const HOP_HEADER: usize = 8;

/// More gateways than these are no host's.
const GATEWAYS_MAX: usize = 1024;

/// The address of each router that a route of this network namespace leads to, sorted.
///
/// # Errors
/// The kernel's.
pub fn gateways() -> Result<Vec<IpAddr>, Error> {
    let failed = |error: Errno| Error::System("reading this host's routes", error.desc().to_owned());
    let mut found = BTreeSet::new();
    for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
        let mut body = [0; ROUTE_HEADER];
        body[0] = family as u8;
        let mut each = |answer: &[u8]| {
            route(answer, &mut |gateway| {
                if found.len() < GATEWAYS_MAX {
                    found.insert(gateway);
                }
            });
        };
        ask((RTM_GETROUTE, RTM_NEWROUTE), Extent::All, &body, &mut each).map_err(failed)?;
    }
    Ok(found.into_iter().collect())
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
    use crate::kernel::netlink::tests::attribute;

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
        }
    }
}
