//! Long headers: the packets of a datagram, one after the other (RFC 9000 sections 12.2 and 17.2, RFC 9369 section
//! 3.2).

use super::{DATAGRAM_MIN, take, varint, vector8};

/// A version whose Initial packets can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// draft-ietf-quic-transport-29.
    Draft29,
    /// RFC 9000.
    V1,
    /// RFC 9369.
    V2,
}

impl Version {
    /// From the header's number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0xff00_001d => Some(Self::Draft29),
            0x0000_0001 => Some(Self::V1),
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }
}

/// What a packet with a long header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first flight.
    Initial,
    /// Early data.
    ZeroRtt,
    /// The rest of the handshake.
    Handshake,
    /// The server wants a proof of the address first.
    Retry,
}

impl Kind {
    /// From the header's first byte: version 2 has the numbers of version 1 turned by one.
    const fn new(version: Version, first: u8) -> Self {
        let number = first >> 4 & 3;
        let number = if matches!(version, Version::V2) { number.wrapping_sub(1) & 3 } else { number };
        match number {
            0 => Self::Initial,
            1 => Self::ZeroRtt,
            2 => Self::Handshake,
            _ => Self::Retry,
        }
    }
}

/// A connection ID: up to 20 bytes in the versions known here.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    length: u8,
    bytes: [u8; Self::MAX],
}

impl ConnectionId {
    const MAX: usize = 20;

    /// `None` if it is too long (RFC 9000 section 17.2: such a packet is to be dropped).
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { length: u8::try_from(id.len()).ok()?, bytes })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether it has no bytes: its owner tells connections apart by address.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What stands in front of every packet with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// Its version.
    pub version: Version,
    /// What it is.
    pub kind: Kind,
    /// Whom it is for.
    pub destination: ConnectionId,
    /// How its sender wants to be called.
    pub source: ConnectionId,
}

impl LongHeader {
    /// The header that `datagram` begins with. `None` if it begins with none, or with one of another version or with
    /// the fixed bit clear (RFC 9000 section 17.2: such a packet is to be discarded).
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        header(&mut { datagram })
    }
}

fn header(rest: &mut &[u8]) -> Option<LongHeader> {
    let first = *take(rest, 1)?.first()?;
    if first & 0xc0 != 0xc0 {
        return None;
    }
    let number = u32::from_be_bytes(take(rest, 4)?.try_into().ok()?);
    let version = Version::from_number(number)?;
    let destination = ConnectionId::new(vector8(rest)?)?;
    let source = ConnectionId::new(vector8(rest)?)?;
    Some(LongHeader { version, kind: Kind::new(version, first), destination, source })
}

/// One packet, still protected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) header: LongHeader,
    /// All of it, from its first byte to its last.
    pub(super) bytes: &'a [u8],
    /// Where its packet number begins.
    pub(super) number_at: usize,
    /// It has a token.
    pub(super) token: bool,
}

/// Whether one of the packets of `datagram` is an Initial.
#[must_use]
pub fn has_initial(datagram: &[u8]) -> bool {
    packets(datagram).any(|packet| packet.header.kind == Kind::Initial)
}

/// The packets of `datagram`, as long as the next bytes are a long header of a known version and its length fits. A
/// capture under UDP segmentation offload holds several datagrams back to back.
pub(super) fn packets(datagram: &[u8]) -> impl Iterator<Item = Packet<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        skip_filling(datagram, &mut rest);
        packet(&mut rest)
    })
}

/// Zeros after a packet fill a datagram up, as Firefox does it. What follows them a server doesn't read (the fixed bit
/// is clear), so it counts only where it can be another datagram: both are then long enough for an Initial packet, and
/// together too long for one datagram from the Internet.
fn skip_filling(datagram: &[u8], rest: &mut &[u8]) {
    let Some(zeros) = rest.iter().position(|byte| *byte != 0) else { return };
    let next = rest.get(zeros..).unwrap_or_default();
    let before = datagram.len().saturating_sub(next.len());
    if zeros > 0 && before >= DATAGRAM_MIN && next.len() >= DATAGRAM_MIN {
        *rest = next;
    }
}

fn packet<'a>(rest: &mut &'a [u8]) -> Option<Packet<'a>> {
    let all = *rest;
    let header = header(rest)?;
    let token = match header.kind {
        // Its token goes to the end of the datagram.
        Kind::Retry => return None,
        Kind::Initial => {
            let length = usize::try_from(varint(rest)?).ok()?;
            !take(rest, length)?.is_empty()
        }
        Kind::ZeroRtt | Kind::Handshake => false,
    };
    let length = usize::try_from(varint(rest)?).ok()?;
    let number_at = all.len().checked_sub(rest.len())?;
    take(rest, length)?;
    let bytes = all.get(..all.len().checked_sub(rest.len())?)?;
    Some(Packet { header, bytes, number_at, token })
}
