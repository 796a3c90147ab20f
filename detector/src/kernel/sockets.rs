//! This host's own sockets, in the network namespace of this process: a TCP connection in, what the host has for it out.
//! Asks by sock_diag(7), for one 4-tuple at a time. The kernel answers within `send`, some microseconds, so nothing is
//! ever waited for. Memory: one answer.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{
        AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
        TCP_LAST_ACK,
    },
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer},
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};

use super::{Error, Lookup, Sockets};

/// Any socket of the 4-tuple, not one that was seen before (`INET_DIAG_NOCOOKIE` of linux/inet_diag.h, twice).
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// Bytes of an answer: 88 and its attributes. One that is longer is a failure.
const ANSWER: usize = 4096;

/// Asks the kernel.
#[derive(Debug)]
pub struct SockDiag {
    fd: OwnedFd,
    sequence: u32,
}

impl SockDiag {
    /// Makes sure that the kernel answers: for a kernel without tcp_diag every 4-tuple is absent.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, Error> {
        let failed = |error: Errno| {
            let hint = "the kernel needs CONFIG_INET_TCP_DIAG; where that is a module: `modprobe tcp_diag`";
            Error::System("asking for this host's sockets (sock_diag)", format!("{}; {hint}", error.desc()))
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).map_err(failed)?;
        let mut this = Self { fd, sequence: 0 };
        // A list of the sockets in none of the states: empty, and an error without tcp_diag, which this also loads.
        let nothing = request(AF_INET, StateFlags::empty(), SocketId::new_v4());
        match this.ask(nothing, NLM_F_REQUEST | NLM_F_DUMP).map_err(failed)? {
            NetlinkPayload::Done(done) if done.code == 0 => Ok(this),
            NetlinkPayload::Done(done) => Err(failed(Errno::from_raw(done.code.saturating_neg()))),
            NetlinkPayload::Error(error) => Err(failed(Errno::from_raw(error.raw_code().saturating_neg()))),
            _ => Err(failed(Errno::EBADMSG)),
        }
    }

    fn ask(&mut self, request: InetRequest, flags: u16) -> nix::Result<NetlinkPayload<SockDiagMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = [0; ANSWER];
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
            let read = answer.get(..length).and_then(|bytes| NetlinkMessage::deserialize(bytes).ok());
            let (header, payload) = read.ok_or(Errno::EBADMSG)?.into_parts();
            // Another number is that of an answer that a failure left behind.
            if header.sequence_number == self.sequence {
                return Ok(payload);
            }
        }
    }
}

impl Sockets for SockDiag {
    fn look_up(&mut self, client: SocketAddr, server: SocketAddr) -> Lookup {
        // An IPv4 connection is asked for as such also where the server's socket is one of IPv6: the kernel finds both.
        let family = if client.is_ipv4() { AF_INET } else { AF_INET6 };
        // Without an interface, sockets that are bound to one are not found.
        let id = SocketId {
            source_port: server.port(),
            destination_port: client.port(),
            source_address: server.ip(),
            destination_address: client.ip(),
            interface_id: 0,
            cookie: NO_COOKIE,
        };
        match self.ask(request(family, StateFlags::all(), id), NLM_F_REQUEST) {
            Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found))) => lookup(&found.header),
            Ok(NetlinkPayload::Error(error)) if error.raw_code().saturating_neg() == Errno::ENOENT as i32 => {
                Lookup::Absent
            }
            _ => Lookup::Failed,
        }
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// The states of RFC 9293 section 3.3.2 that a client's ACK of the SYN-ACK leads to, as long as the server has its
/// socket. Not among them: LISTEN, where the kernel has nothing of this 4-tuple; SYN-RECEIVED, which a forged SYN makes
/// as well; TIME-WAIT, which outlives its connection by a minute: somebody else can send from the 4-tuple then.
fn lookup(found: &InetResponseHeader) -> Lookup {
    match found.state {
        // Linux shows the first part of TIME-WAIT, in which the client may still send its FIN, so.
        TCP_FIN_WAIT2 if found.timer == Some(Timer::TimeWait) => Lookup::Other,
        TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING => {
            Lookup::Established
        }
        _ => Lookup::Other,
    }
}
