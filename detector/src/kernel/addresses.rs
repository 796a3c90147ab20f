//! This host's own addresses, and word of their changes, and of those of its routes.

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, socket,
    },
};

use super::Error;

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h): addresses come and go.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
/// `RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE`: routes do.
const ROUTE_GROUPS: u32 = 0x40 | 0x400;

/// Every address of every interface in this network namespace, sorted.
///
/// # Errors
/// The kernel's.
pub fn own_addresses() -> Result<Vec<IpAddr>, Error> {
    let interfaces = getifaddrs().map_err(|error| Error::System("reading this host's addresses", error.to_string()))?;
    let mut addresses: Vec<IpAddr> = interfaces.filter_map(|entry| ip(&entry.address?)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

/// Becomes readable when an address of this host comes or goes, or a route of those that were asked for.
#[derive(Debug)]
pub struct AddressWatch(OwnedFd);

impl AddressWatch {
    /// Starts watching addresses.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Self, Error> {
        Self::of(ADDRESS_GROUPS)
    }

    /// Starts watching addresses and routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_routes() -> Result<Self, Error> {
        Self::of(ADDRESS_GROUPS | ROUTE_GROUPS)
    }

    fn of(groups: u32) -> Result<Self, Error> {
        let failed = |error: nix::errno::Errno| Error::System("watching this host's addresses", error.to_string());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(failed)?;
        Ok(Self(fd))
    }

    /// Takes the messages so far. What they say doesn't matter: the addresses are read afresh, which also makes up for
    /// messages the socket's buffer couldn't hold.
    pub fn clear(&self) {
        let mut buffer = [0u8; 8192];
        while recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0) {}
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
