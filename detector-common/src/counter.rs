//! What the program counts, for each CPU. The sums that must hold exactly are in [`Counter`]'s documentation.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Index into the `COUNTERS` map.
        ///
        /// Exact at every moment when no packet is in flight:
        /// - `Packets` = the sum of the `Pass*` and `Drop*` counters,
        /// - `CapturedConfirmed` = `SubmittedConfirmed` + `LostConfirmed`, and the same of `*Unconfirmed`,
        /// - `FirstData` = `FirstHello` + `FirstPartial` + `FirstNotTls` + `FirstUnparsed`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        impl Counter {
            /// All of them, in index order.
            pub const ALL: &[Counter] = &[$(Counter::$name,)*];

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Counter::$name => $label,)* }
            }
        }
    };
}

counters! {
    /// Frames the XDP program saw.
    Packets => "packets",
    /// Passed: to a protected port, no verdict against it.
    PassProtected => "protected",
    /// Passed: neither IPv4 nor IPv6 (ARP, a third VLAN tag, ...), or too short to tell.
    PassNotIp => "not_ip",
    /// Passed: a fragment of an IP datagram. Only the first one to a protected port is ever dropped.
    PassFragment => "fragment",
    /// Passed: IP, but neither TCP nor UDP, or behind more than eight IPv6 extension headers.
    PassOtherProtocol => "other_protocol",
    /// Passed: to a port that isn't protected.
    PassOtherPort => "other_port",
    /// Passed: to a protected port of an address that isn't this host's.
    PassOtherAddress => "other_address",
    /// Passed: lengths in the IP or transport header contradict the frame.
    PassMalformed => "malformed",
    /// Passed: a verdict matched, and an allow entry overruled it.
    PassAllowed => "allowed",
    /// Passed: a verdict matched, and only observes, or isn't in force: the mode, the share, the daemon's silence.
    PassObserved => "observed",
    /// Passed: a verdict matched, and leaves it to a challenge.
    PassChallenged => "challenged",
    /// Passed: a verdict limits the client's new connections, and this is none, or within the limit.
    PassLimited => "limited",
    /// Passed: a verdict matched, and its source is one that nothing may be dropped of.
    PassNeverBlock => "never_block",
    /// Dropped by a verdict on the source address.
    DropAddress => "address",
    /// Dropped by a verdict on the source prefix.
    DropPrefix => "prefix",
    /// Dropped by a verdict on the connection.
    DropConnection => "connection",
    /// Dropped by a verdict on the fingerprint of the hello that ends in it.
    DropFingerprint => "fingerprint",
    /// Dropped by a verdict on that fingerprint from its source.
    DropPair => "pair",
    /// Dropped by a verdict on its source's new QUIC connections: an Initial packet.
    DropInitial => "initial",
    /// Dropped: a new connection beyond a limit.
    DropRateLimit => "rate_limit",
    /// Packets for userspace of clients whose address is proven, and servers' answers to them.
    CapturedConfirmed => "captured_confirmed",
    /// Of those: in the ring.
    SubmittedConfirmed => "submitted_confirmed",
    /// Of those: not in the ring, since it was full or the bytes couldn't be read.
    LostConfirmed => "lost_confirmed",
    /// Packets for userspace of clients whose address isn't proven.
    CapturedUnconfirmed => "captured_unconfirmed",
    /// Of those: in their ring.
    SubmittedUnconfirmed => "submitted_unconfirmed",
    /// Of those: not in their ring.
    LostUnconfirmed => "lost_unconfirmed",
    /// SYNs to protected ports.
    Syns => "syns",
    /// SYNs, not among those, on 4-tuples on which the host has a connection: forged, and ignored as Linux does.
    SynsTaken => "syns_taken",
    /// First data segments of connections whose SYN was seen.
    FirstData => "first_data",
    /// Of those: a whole hello.
    FirstHello => "first_hello",
    /// Of those: the beginning or another part of what may be a hello.
    FirstPartial => "first_partial",
    /// Of those: something else.
    FirstNotTls => "first_not_tls",
    /// Of those: bytes that couldn't be read.
    FirstUnparsed => "first_unparsed",
    /// First fragments of datagrams that begin like a hello: counted, not put together.
    FragmentedHellos => "fragmented_hellos",
    /// Data segments without ACK, which Linux discards.
    SegmentsNoAck => "segments_no_ack",
    /// Hellos whose first segment was captured.
    HellosStarted => "hellos_started",
    /// Flows no longer followed since they used up their segments or time.
    FollowsExpired => "follow_expired",
    /// Flows that could not be followed: the map took no entry.
    FollowsRefused => "follow_refused",
    /// Hellos whose keys the program computed.
    KeysComputed => "keys_computed",
    /// Hellos whose keys it didn't: one of their segments came too far ahead of the others.
    KeysDisordered => "keys_disordered",
    /// The same: what came ahead had to make room for that of other hellos.
    KeysEvicted => "keys_evicted",
    /// The same: over several records, or too much for one look.
    KeysBeyond => "keys_beyond",
    /// The same: their lengths contradict each other.
    KeysMalformed => "keys_malformed",
    /// Connection verdicts ended by a SYN with another initial sequence number.
    ConnectionsReplaced => "connections_replaced",
    /// Dropped segments that became a RST for the host's own stack.
    ResetsMade => "resets_made",
    /// Those that did not, since this CPU had made its share.
    ResetsLimited => "resets_limited",
    /// Those that did not, since the frame could not be cut.
    ResetsFailed => "resets_failed",
    /// Frames the egress program saw.
    EgressPackets => "egress_packets",
    /// SYN-ACKs from protected ports.
    SynAcks => "syn_acks",
    /// New connections under a challenge that went to a challenge listener.
    Steered => "steered",
    /// Those that did not, since the never-block set or the allow list has their client.
    SteerSpared => "steer_spared",
    /// Those that did not, since their port has no healthy listener.
    SteerUnhealthy => "steer_unhealthy",
    /// Those that did not, since the kernel took no socket for them.
    SteerFailed => "steer_failed",
}

/// Entries of the `COUNTERS` map.
pub const COUNTERS_LEN: u32 = Counter::ALL.len() as u32;
