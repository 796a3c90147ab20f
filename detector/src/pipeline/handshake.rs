//! What is known of a TCP connection before its data: SYN and SYN-ACK. They say where the client's stream begins, which
//! system sent it, and what Linux would discard (threats.md T4); and the client that acknowledges the SYN-ACK's number
//! has the address it sends from (T1).

use smallvec::SmallVec;

use super::{Ignored, NEAR, Syn, trim};
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
    /// The same of the connection that the server had accepted on this 4-tuple when this SYN came: until the server
    /// answers, the SYN may be forged.
    earlier: Option<u32>,
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
            earlier: None,
            network: Network::default(),
            header: SmallVec::new(),
            data: false,
            partial: None,
            syn_ack: None,
            proof: None,
        }
    }
}

/// The handshakes of many connections, the oldest given up first.
#[derive(Debug)]
pub(super) struct Handshakes {
    table: Aged<Handshake>,
    most: usize,
}

impl Handshakes {
    pub(super) fn new(most: usize) -> Self {
        Self { table: Aged::default(), most }
    }

    /// Takes a client's SYN.
    pub(super) fn syn(&mut self, segment: &Segment<'_>) {
        let base = segment.seq.wrapping_add(1);
        if segment.payload_len > 0
            && let Some(same) = self.table.get_mut(&segment.flow).filter(|same| same.base == base)
        {
            same.data = true;
        }
        let before = self.table.get(&segment.flow);
        let known = |known: &Handshake| known.earlier == Some(base) || known.base == base && !known.header.is_empty();
        if before.is_some_and(known) {
            return;
        }
        let mut handshake = match before {
            Some(same) if same.base == base => same.clone(),
            _ => Handshake::new(segment.at, base),
        };
        handshake.earlier =
            before.filter(|other| other.syn_ack.is_some() && other.base != base).map(|other| other.base);
        handshake.network = segment.network;
        handshake.header = segment.header.into();
        handshake.data = segment.payload_len > 0;
        handshake.partial = match segment.checksum() {
            Checksum::Valid => Some(false),
            Checksum::Partial => Some(true),
            Checksum::Bad | Checksum::Unknown => None,
        };
        self.insert(segment.flow, handshake);
    }

    /// Takes a server's SYN-ACK: it names the client's number that the server took.
    pub(super) fn syn_ack(&mut self, segment: &Segment<'_>) {
        let client = segment.flow.reversed();
        let base = segment.ack;
        let syn_ack = SynAck { seq: segment.seq, timestamps: timestamp(segment.header).is_some() };
        // It takes in the SYN's own data too (TCP Fast Open, RFC 7413).
        let same = |handshake: &Handshake| {
            handshake.base == base || handshake.data && base.wrapping_sub(handshake.base) < NEAR
        };
        if let Some(handshake) = self.table.get_mut(&client).filter(|handshake| same(handshake)) {
            if handshake.syn_ack.is_none_or(|before| before.seq != syn_ack.seq) {
                handshake.proof = None;
            }
            handshake.syn_ack = Some(syn_ack);
            handshake.earlier = None;
            return;
        }
        let handshake = Handshake { syn_ack: Some(syn_ack), ..Handshake::new(segment.at, base) };
        self.insert(client, handshake);
    }

    fn insert(&mut self, flow: Flow, handshake: Handshake) {
        self.table.insert(flow, handshake);
        trim(&mut self.table, self.most);
    }

    /// Where the stream of `flow` begins.
    pub(super) fn base(&self, flow: &Flow) -> Option<u32> {
        self.table.get(flow).map(|handshake| handshake.base)
    }

    /// Whether a byte at `seq` is too far from where the connection of `flow` began to be near its hello.
    pub(super) fn is_foreign(&self, flow: &Flow, seq: u32) -> bool {
        let Some(handshake) = self.table.get(flow) else { return false };
        let far = |base: u32| seq.wrapping_sub(base) >= NEAR;
        far(handshake.base) && handshake.earlier.is_none_or(far)
    }

    /// Why Linux would discard a data segment, if it would.
    pub(super) fn discarded(&self, segment: &Segment<'_>) -> Option<Ignored> {
        let handshake = self.table.get(&segment.flow);
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
        let near = segment.seq.wrapping_sub(handshake.base) < NEAR;
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
        let handshake = self.table.get(flow).filter(|handshake| handshake.base == base)?;
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
