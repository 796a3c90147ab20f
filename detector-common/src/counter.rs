//! What the program counts, for each CPU. The sums that must hold exactly are in [`Counter`]'s documentation.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Index into the `COUNTERS` map.
        ///
        /// Exact at every moment when no packet is in flight:
        /// - `Packets` = the sum of the `Pass*` and `Drop*` counters,
        /// - `SegmentsCaptured` = `SegmentsSubmitted` + `SegmentsLost`.
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
    /// Frames the program saw.
    Packets => "packets",
    /// Passed: to a protected port, no verdict against it.
    PassProtected => "protected",
    /// Passed: neither IPv4 nor IPv6 (ARP, VLAN tags, ...), or too short to tell.
    PassNotIp => "not_ip",
    /// Passed: a fragment of an IP datagram.
    PassFragment => "fragment",
    /// Passed: IP, but not TCP (IPv6 with extension headers among them).
    PassNotTcp => "not_tcp",
    /// Passed: TCP to a port that isn't protected.
    PassOtherPort => "other_port",
    /// Passed: to a protected port of an address that isn't this host's.
    PassOtherAddress => "other_address",
    /// Passed: lengths in the IP or TCP header contradict the frame.
    PassMalformed => "malformed",
    /// Passed: a verdict matched, and an allow entry overruled it.
    PassAllowed => "allowed",
    /// Passed: a verdict matched, and the mode is observe.
    PassObserved => "observed",
    /// Dropped by a verdict on the source address.
    DropAddress => "address",
    /// Dropped by a verdict on the source prefix.
    DropPrefix => "prefix",
    /// Dropped by a verdict on the connection.
    DropConnection => "connection",
    /// Segments of a ClientHello that were to go to userspace.
    SegmentsCaptured => "captured",
    /// Of those: in the ring.
    SegmentsSubmitted => "submitted",
    /// Of those: not in the ring, since it was full or the bytes couldn't be read.
    SegmentsLost => "lost",
    /// Hellos whose first segment was captured.
    HellosStarted => "started",
    /// Flows no longer followed since they used up their segments or time.
    FollowsExpired => "follow_expired",
    /// Flows that could not be followed: the map took no entry.
    FollowsRefused => "follow_refused",
    /// Connection verdicts ended by a SYN with another initial sequence number.
    ConnectionsReplaced => "connections_replaced",
}

/// Entries of the `COUNTERS` map.
pub const COUNTERS_LEN: u32 = Counter::ALL.len() as u32;
