//! Bytes and datagrams between the daemon's connection to the broker and a socket of the broker's. Bound: the caller's time;
//! one datagram of 64 KiB each way.

use std::io;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpStream, UdpSocket, UnixStream},
};

/// Bytes, until both have ended.
pub(super) async fn bytes(mut daemon: UnixStream, mut peer: TcpStream) -> io::Result<()> {
    copy_bidirectional(&mut daemon, &mut peer).await.map(drop)
}

/// Datagrams, until the daemon hangs up or the system says that nobody is there. On the daemon's side each has its length
/// before it, in two bytes.
pub(super) async fn datagrams(daemon: UnixStream, socket: UdpSocket) -> io::Result<()> {
    let (mut from, mut to) = daemon.into_split();
    let there = async {
        loop {
            let length = usize::from(from.read_u16().await?);
            let mut datagram = vec![0; length];
            from.read_exact(&mut datagram).await?;
            socket.send(&datagram).await?;
        }
    };
    let back = async {
        let mut datagram = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut datagram).await?;
            to.write_all(&framed(datagram.get(..length).unwrap_or_default())).await?;
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}

/// A datagram with its length before it; nothing of one that is too long to be any.
pub(super) fn framed(datagram: &[u8]) -> Vec<u8> {
    let Ok(length) = u16::try_from(datagram.len()) else { return Vec::new() };
    [&length.to_be_bytes(), datagram].concat()
}
