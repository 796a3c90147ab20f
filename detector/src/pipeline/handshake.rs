//! What is known of a TCP connection before its data: SYN and SYN-ACK. They say where the client's stream begins, which
//! system sent it, and what Linux would discard (threats.md T4); and the client that acknowledges the SYN-ACK's number
//! has the address it sends from (T1).

use smallvec::SmallVec;

use super::{Ignored, NEAR, Syn};
use crate::capture::{Checksum, Flow, Network, Proof, Segment};
use crate::clock::Timestamp;
use crate::flow::Aged;
use crate::signature::SynSignature;

/// TCP options (RFC 9293 section 3.1, RFC 7323 section 3).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const TIMESTAMPS: u8 = 8;
/// Bytes of a TCP header without options.
const FIXED: usize = 20;
/// More payload than one frame holds: several that were put together, whose checksum nobody filled in.
const ONE_FRAME: usize = 1460;

/// One connection's handshake.
#[derive(Clone, Debug)]
pub(super) struct Handshake {
    /// When the SYN came.
    at: Timestamp,
    /// Sequence number of the client's first byte.
    base: u32,
    /// Another SYN on the 4-tuple, after the server had answered this one: until it answers the other too, that may be
    /// forged.
    next: Option<Box<Handshake>>,
    network: Network,
    /// The SYN's TCP header; empty if only the SYN-ACK was seen.
    header: SmallVec<[u8; 40]>,
    /// The SYN brought data.
    data: bool,
    /// Whether the SYN's checksum was a partial one: those of its connection may be then.
    partial: Option<bool>,
    syn_ack: Option<SynAck>,
    proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug)]
struct SynAck {
    seq: u32,
    timestamps: bool,
}

impl Handshake {
    fn new(at: Timestamp, base: u32) -> Self {
        Self {
            at,
            base,
            next: None,
            network: Network::default(),
            header: SmallVec::new(),
            data: false,
            partial: None,
            syn_ack: None,
            proof: None,
        }
    }

    /// Reads what the SYN says; of the same SYN again, what it hadn't said.
    fn read(&mut self, segment: &Segment<'_>) {
        self.data |= segment.payload_len > 0;
        if !self.header.is_empty() {
            return;
        }
        self.at = segment.at;
        self.network = segment.network;
        self.header = segment.header.into();
        self.partial = match segment.checksum() {
            Checksum::Valid => Some(false),
            Checksum::Partial => Some(true),
            Checksum::Bad | Checksum::Unknown => None,
        };
    }

    /// Whether a SYN-ACK that acknowledges `ack` answers this SYN; it takes in the SYN's own data too (TCP Fast Open, RFC
    /// 7413).
    fn takes(&self, ack: u32) -> bool {
        ack == self.base || self.data && self.is_near(ack)
    }

    /// Whether a byte at `seq` may be one of the connection's first.
    fn is_near(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.base) < NEAR
    }
}

/// The handshakes of many connections, the oldest given up first.
#[derive(Debug)]
pub(super) struct Handshakes {
    table: Aged<Handshake>,
}

impl Handshakes {
    pub(super) fn new(most: usize) -> Self {
        Self { table: Aged::new(most) }
    }

    /// Takes a client's SYN.
    pub(super) fn syn(&mut self, segment: &Segment<'_>) {
        let base = segment.seq.wrapping_add(1);
        match self.table.get_mut(&segment.flow) {
            Some(known) if known.base == base => known.read(segment),
            Some(answered) if answered.syn_ack.is_some() => {
                let mut next = Box::new(Handshake::new(segment.at, base));
                next.read(segment);
                answered.next = Some(next);
            }
            _ => {
                let mut handshake = Handshake::new(segment.at, base);
                handshake.read(segment);
                self.table.insert(segment.flow, handshake);
            }
        }
    }

    /// Takes a server's SYN-ACK: it names the client's number that the server took.
    pub(super) fn syn_ack(&mut self, segment: &Segment<'_>) {
        let client = segment.flow.reversed();
        let base = segment.ack;
        let syn_ack = SynAck { seq: segment.seq, timestamps: timestamp(segment.header).is_some() };
        if let Some(handshake) = self.table.get_mut(&client) {
            if let Some(next) = handshake.next.take_if(|next| next.takes(base)) {
                *handshake = *next;
            }
            if handshake.takes(base) {
                if handshake.syn_ack.is_none_or(|before| before.seq != syn_ack.seq) {
                    handshake.proof = None;
                }
                handshake.syn_ack = Some(syn_ack);
                return;
            }
        }
        let handshake = Handshake { syn_ack: Some(syn_ack), ..Handshake::new(segment.at, base) };
        self.table.insert(client, handshake);
    }

    /// Whether the server has yet to answer the latest SYN on a 4-tuple on which it had answered another.
    pub(super) fn is_undecided(&self, flow: &Flow) -> bool {
        self.table.get(flow).is_some_and(|handshake| handshake.next.is_some())
    }

    /// The handshake that a segment at `seq` belongs to.
    fn of(&self, flow: &Flow, seq: u32) -> Option<&Handshake> {
        let handshake = self.table.get(flow)?;
        let next = handshake.next.as_deref().filter(|next| !handshake.is_near(seq) && next.is_near(seq));
        Some(next.unwrap_or(handshake))
    }

    /// Where the stream of `flow` begins.
    pub(super) fn base(&self, flow: &Flow) -> Option<u32> {
        self.table.get(flow).map(|handshake| handshake.base)
    }

    /// Whether a byte at `seq` is too far from where the connection of `flow` began to be near its hello.
    pub(super) fn is_foreign(&self, flow: &Flow, seq: u32) -> bool {
        self.of(flow, seq).is_some_and(|handshake| !handshake.is_near(seq))
    }

    /// Why Linux would discard a data segment, if it would.
    pub(super) fn discarded(&self, segment: &Segment<'_>) -> Option<Ignored> {
        let handshake = self.of(&segment.flow, segment.seq);
        match segment.checksum() {
            Checksum::Valid | Checksum::Unknown => {}
            Checksum::Partial => {
                // On a connection whose SYN carried a full checksum, only frames that were put together don't.
                let full = handshake.is_some_and(|handshake| handshake.partial == Some(false));
                if full && segment.payload_len <= ONE_FRAME {
                    return Some(Ignored::BadChecksum);
                }
            }
            Checksum::Bad => return Some(Ignored::BadChecksum),
        }
        if segment.flags.syn {
            return None;
        }
        let handshake = handshake?;
        let (latest, this) = (timestamp(&handshake.header)?, timestamp(segment.header)?);
        let negotiated = handshake.syn_ack.is_none_or(|syn_ack| syn_ack.timestamps);
        // As tcp_paws_check() of include/net/tcp.h, which compares in 32 bits, signed.
        let older = latest.wrapping_sub(this);
        (negotiated && (1..1 << 31).contains(&older)).then_some(Ignored::OldTimestamp)
    }

    /// Why it is sure that the sender of `segment`, a client's, has its address: what the kernel said or what the
    /// segment acknowledges. With it, where the stream begins if that is known. `None` too if it was told before.
    pub(super) fn proof(&mut self, segment: &Segment<'_>) -> Option<(Proof, Option<u32>)> {
        let Some(handshake) = self.table.get_mut(&segment.flow) else {
            return segment.proof.map(|proof| (proof, None));
        };
        if handshake.proof.is_some() {
            return None;
        }
        let near = handshake.is_near(segment.seq);
        let acknowledges = |syn_ack: SynAck| segment.flags.ack && segment.ack == syn_ack.seq.wrapping_add(1);
        let acknowledged = (near && handshake.syn_ack.is_some_and(acknowledges)).then_some(Proof::Acknowledged);
        handshake.proof = segment.proof.filter(|_| near).or(acknowledged);
        handshake.proof.map(|proof| (proof, Some(handshake.base)))
    }

    /// What was proven of `flow`.
    pub(super) fn proven(&self, flow: &Flow) -> Option<Proof> {
        self.table.get(flow)?.proof
    }

    /// The SYN of the connection that begins at `base`.
    pub(super) fn signature(&self, flow: &Flow, base: u32) -> Option<Syn> {
        let handshake = self.of(flow, base).filter(|handshake| handshake.base == base)?;
        let signature = SynSignature::parse(&handshake.network, &handshake.header)?;
        Some(Syn { at: handshake.at, signature: SynSignature { payload: handshake.data, ..signature } })
    }
}

/// TSval of a segment.
fn timestamp(header: &[u8]) -> Option<u32> {
    let mut options = header.get(FIXED..)?;
    loop {
        match options {
            [TIMESTAMPS, 10, a, b, c, d, ..] => return Some(u32::from_be_bytes([*a, *b, *c, *d])),
            [END, ..] | [] => return None,
            [NO_OPERATION, rest @ ..] => options = rest,
            [_, length, ..] if *length >= 2 => options = options.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}
