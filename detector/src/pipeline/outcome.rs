//! What the pipeline says. The sums that hold exactly, at any moment:
//! packets pushed (segments and datagrams) = those of all [`Hello`]s + those of all [`Outcome::Lost`] + [`Outcome::Ignored`] + those held;
//! hellos started = `Hello` + `Lost` + those in progress.

use smallvec::SmallVec;

use crate::capture::{Flow, Proof};
use crate::clock::Timestamp;
use crate::fingerprint::{Fingerprint, Transport};
use crate::signature::SynSignature;
use crate::tls::Reason;

/// The fate of a segment or of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A ClientHello is complete.
    Hello(Box<Hello>),
    /// One that had begun never will be.
    Lost {
        /// Whose it was.
        flow: Flow,
        /// Why.
        cause: Cause,
        /// The segments or datagrams that had brought bytes of it.
        segments: u32,
    },
    /// A segment has no part in any hello.
    Ignored(Ignored),
    /// A client has the address it sends from. Beside a fate, not one.
    Proven {
        /// Whose, client first.
        flow: Flow,
        /// [`Hello::stream_seq`] of the connection, if it is known which one on this 4-tuple it is.
        stream: Option<u32>,
        /// Why it is sure.
        proof: Proof,
    },
    /// The server answered a hello. Beside a fate, not one.
    Answer(Box<Answer>),
    /// A hello that was told before may be another one than the server's. Beside a fate, not one.
    Void {
        /// Whose, client first.
        flow: Flow,
        /// [`Hello::stream_seq`] of the connection: others on this 4-tuple have nothing to do with it.
        stream: u32,
        /// Why.
        why: Void,
    },
}

macro_rules! labels {
    ($(#[$doc:meta])* $type:ident { $($(#[$each:meta])* $name:ident => $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$each])* $name,)* }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

labels! {
    /// Why a hello that had begun is never complete.
    Cause {
        /// The connection or the capture ended before it did, or the capture cut its bytes off.
        Truncated => "truncated",
        /// It took longer than [`crate::flow::Limits::partial_age`].
        Timeout => "timeout",
        /// Lengths that contradict each other, or records that TLS forbids.
        Malformed => "malformed",
        /// It claims more than 65,535 bytes.
        Oversize => "oversize",
        /// It needs more bytes, segments or gaps than a flow may have.
        Evasive => "evasive",
        /// A byte was sent again as another: nobody can know which one the server took.
        OverlapConflict => "overlap_conflict",
        /// Others needed the memory.
        Evicted => "evicted",
        /// The client reset the connection.
        Reset => "reset",
        /// A new connection took over the 4-tuple.
        Replaced => "replaced",
    }
}

labels! {
    /// Why a segment has no part in any hello.
    Ignored {
        /// It carries no payload.
        NoPayload => "no_payload",
        /// It carries payload, but the capture holds none of it.
        Cut => "cut",
        /// Not the beginning of a TLS handshake record, on a flow of which nothing is known.
        NotTls => "not_tls",
        /// A TLS handshake message, but another than a ClientHello: what a server sends.
        NotHello => "not_hello",
        /// All of its bytes were there before: a retransmission.
        Duplicate => "duplicate",
        /// It follows the hello of its flow.
        AfterHello => "after_hello",
        /// It belongs to a hello that was lost for cause.
        AfterLost => "after_lost",
        /// Its sequence number is far from the hello in progress on its flow, or from the SYN of its connection.
        OutOfWindow => "out_of_window",
        /// It has no ACK flag: Linux discards it (RFC 9293 section 3.10.7.4).
        NoAck => "no_ack",
        /// Its checksum is wrong: Linux discards it.
        BadChecksum => "bad_checksum",
        /// Its timestamp is older than that of the SYN: Linux discards it (RFC 7323 section 5).
        OldTimestamp => "old_timestamp",
        /// A UDP datagram that is no QUIC packet or DTLS record a hello could be in.
        NotQuic => "not_quic",
        /// A QUIC packet that can't be opened with the keys of its connection ID: damaged or forged.
        Undecryptable => "undecryptable",
        /// A QUIC Initial packet in a datagram of less than 1,200 bytes: servers discard it (RFC 9000 section 14.1).
        ShortDatagram => "short_datagram",
    }
}

impl From<Reason> for Result<Cause, Ignored> {
    /// A cause, if the bytes were those of a ClientHello.
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Malformed => Ok(Cause::Malformed),
            Reason::Oversize => Ok(Cause::Oversize),
            Reason::NotTls => Err(Ignored::NotTls),
            Reason::NotHello => Err(Ignored::NotHello),
        }
    }
}

/// A complete ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The connection.
    pub flow: Flow,
    /// When its first segment came.
    pub at: Timestamp,
    /// When the segment came that completed it.
    pub completed_at: Timestamp,
    /// Sequence number of the first byte of its first record; 0 over UDP.
    pub first_seq: u32,
    /// Which connection of its 4-tuple it is of. Over TCP, sequence number of the first byte the client sent on it: its
    /// initial one and 1. Over QUIC, the connection's number among those that were seen; with a Retry packet in between
    /// it is one. Over DTLS 0.
    pub stream_seq: u32,
    /// 0 for the first hello of a connection, 1 for the one after a HelloRetryRequest (rule 13).
    pub index: u32,
    /// The segments or datagrams that brought bytes of it.
    pub segments: u32,
    /// Bytes of the message, with its header of four.
    pub bytes: u32,
    /// How it was carried.
    pub transport: Transport,
    /// What it says about its client.
    pub fingerprint: Fingerprint,
    /// What else is in it.
    pub facts: Facts,
    /// What the server's answer must fit.
    pub offer: Offer,
    /// The SYN of its connection, if that was seen.
    pub syn: Option<Syn>,
    /// Why the client's address is sure, if that was known when the hello was complete.
    pub proof: Option<Proof>,
    /// What the kernel made of it.
    pub keys: KeyCheck,
}

labels! {
    /// Whether the kernel has a hello's keys, and ours.
    KeyCheck {
        /// It has none: the hello came over UDP or from a capture file, or the kernel left it to us.
        Absent => "absent",
        /// It has the same.
        Equal => "equal",
        /// It has others, of a hello that begins where ours does: one of the two is wrong.
        Mismatch => "mismatch",
    }
}

/// The SYN under a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    /// When it came.
    pub at: Timestamp,
    /// What it says about the client's system.
    pub signature: SynSignature,
}

/// What a server may choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// legacy_session_id.
    pub session_id: SmallVec<[u8; 32]>,
    /// cipher_suites, GREASE included.
    pub cipher_suites: SmallVec<[u16; 32]>,
}

/// A ServerHello or HelloRetryRequest, as far as it tells of the hello it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The connection, client first.
    pub flow: Flow,
    /// When it was seen.
    pub at: Timestamp,
    /// It is a HelloRetryRequest (RFC 8446 section 4.1.4).
    pub retry: bool,
    /// The version that was chosen: supported_versions, else legacy_version.
    pub version: u16,
    /// legacy_session_id_echo.
    pub session_id: SmallVec<[u8; 32]>,
    /// cipher_suite.
    pub cipher_suite: u16,
    /// The JA3S string (ja4-rules.md rule 16).
    pub ja3s_raw: String,
    /// MD5 of `ja3s_raw`, lower-case hex.
    pub ja3s: String,
}

labels! {
    /// Why a hello's fingerprint says nothing about the client.
    Void {
        /// A byte of it came again as another: nobody can know which one the server took.
        OverlapConflict => "overlap_conflict",
        /// The server's answer doesn't fit: it has read another hello.
        Desync => "desync",
    }
}

/// What is in a hello beside its fingerprint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// legacy_version.
    pub legacy_version: u16,
    /// Cipher suites, GREASE included.
    pub cipher_suites: u32,
    /// Extensions, GREASE included.
    pub extensions: u32,
    /// TLS or DTLS records, or QUIC Initial packets, the message was spread over.
    pub records: u32,
    /// It sends GREASE.
    pub grease: bool,
    /// It offers to resume a session: a pre-shared key, or a ticket that isn't empty.
    pub resumption: bool,
    /// It announces early data.
    pub early_data: bool,
}
