//! Room 5: the headers of a SYN in, what they say about the client's system out. The text is that of p0f 3
//! (<https://lcamtuf.coredump.cx/p0f3/README>, section 5 and appendix A): which options a system sends, in which order
//! and with which values. Written from that description; no table of p0f's is used. Nothing is kept, nothing allocated
//! for a SYN with at most 16 options.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

use std::fmt;

use smallvec::SmallVec;

use crate::capture::Network;

/// Bytes of a TCP header without options (RFC 9293 section 3.1).
const HEADER: usize = 20;
/// RFC 7323 section 2.3: a larger shift counts as this one.
const SCALE_MAX: u8 = 14;

/// Option kinds (IANA registry "TCP Option Kind Numbers").
pub mod option {
    /// End of option list (RFC 9293).
    pub const END: u8 = 0;
    /// No operation (RFC 9293).
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293).
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
}

/// What a SYN says about its sender's system. `Display` writes it as
/// `version:ttl+hops:IP options:MSS:window,scale:option layout:quirks:payload`; an absent MSS or scale is 0 there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SynSignature {
    /// 4 or 6; 0 where nothing is known of the IP header.
    pub ip_version: u8,
    /// Time to live or hop limit, as it arrived.
    pub ttl: u8,
    /// Bytes of IPv4 options, or of IPv6 extension headers.
    pub ip_options: u8,
    /// The window, unscaled.
    pub window: u16,
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Window scale: a shift in bits, as it was sent.
    pub window_scale: Option<u8>,
    /// The timestamps option.
    pub timestamps: Option<Timestamps>,
    /// Option kinds in the order they were sent, up to and with the end of the list. Of an option whose length
    /// contradicts the header, the kind is the last one here.
    pub options: SmallVec<[u8; 16]>,
    /// Bytes after the end of the option list.
    pub padding: u8,
    /// What is unusual.
    pub quirks: Quirks,
    /// The SYN carries payload (TCP Fast Open, RFC 7413). The headers don't tell: `parse` leaves it false.
    pub payload: bool,
}

/// The values of a timestamps option (RFC 7323 section 3), in the sender's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval.
    pub value: u32,
    /// TSecr: zero in an honest SYN.
    pub echo: u32,
}

macro_rules! quirks {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Something in the headers that not every system does. The order is that of the text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Quirk { $($(#[$doc])* $name,)* }

        impl Quirk {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As the text has it.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

quirks! {
    /// IPv4: "don't fragment" is set.
    DontFragment => "df",
    /// IPv4: "don't fragment" is set, yet there is an identification.
    IdWithDf => "id+",
    /// IPv4: fragments are allowed, yet the identification is zero.
    NoId => "id-",
    /// ECN is offered or in use (RFC 3168): bits of the IP header, or ECE or CWR.
    Ecn => "ecn",
    /// A header bit that must be zero isn't (RFC 791, RFC 9293).
    Reserved => "0+",
    /// IPv6: the flow label isn't zero.
    FlowLabel => "flow",
    /// The sequence number is zero.
    ZeroSequence => "seq-",
    /// An acknowledgement number without the ACK flag.
    AckWithoutFlag => "ack+",
    /// The ACK flag with an acknowledgement number of zero.
    ZeroAck => "ack-",
    /// An urgent pointer without the URG flag.
    UrgentPointer => "uptr+",
    /// The URG flag.
    Urgent => "urgf+",
    /// The PSH flag.
    Push => "pushf+",
    /// The sender's own timestamp is zero.
    ZeroTimestamp => "ts1-",
    /// A SYN echoes a timestamp.
    EchoedTimestamp => "ts2+",
    /// Bytes after the end of the option list that aren't zero.
    TrailingData => "opt+",
    /// A window scale above 14.
    ExcessiveScale => "exws",
    /// An option whose length contradicts the header or the option's own kind.
    BadOptions => "bad",
}

/// A set of [`Quirk`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks(u32);

impl Quirks {
    const fn bit(quirk: Quirk) -> u32 {
        // Fewer than 32 of them.
        1_u32.wrapping_shl(quirk as u32)
    }

    /// Whether `quirk` is in it.
    #[must_use]
    pub const fn has(self, quirk: Quirk) -> bool {
        self.0 & Self::bit(quirk) != 0
    }

    /// Those in it, in the order of the text.
    pub fn iter(self) -> impl Iterator<Item = Quirk> {
        Quirk::ALL.iter().copied().filter(move |quirk| self.has(*quirk))
    }

    const fn add_if(&mut self, quirk: Quirk, is: bool) {
        if is {
            self.0 |= Self::bit(quirk);
        }
    }
}

/// Which kind of system wrote a SYN, as far as that is sure: a cue, never a proof. Relays, VPNs and proxies have their
/// own system, and a scanner can copy any header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A Linux kernel: Android and ChromeOS too, whose SYNs are the same.
    Linux,
    /// Windows.
    Windows,
    /// macOS, iOS and their kin.
    Apple,
    /// FreeBSD or OpenBSD.
    Bsd,
    /// No system's own connection: a port scanner's hand-made SYN.
    Scanner,
    /// None of these for sure.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Linux, Self::Windows, Self::Apple, Self::Bsd, Self::Scanner, Self::Unknown];

    /// As reports and metrics have it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::Apple => "macos_ios",
            Self::Bsd => "bsd",
            Self::Scanner => "scanner",
            Self::Unknown => "unknown",
        }
    }
}

impl SynSignature {
    /// Reads the TCP header `tcp`, options included. `None` if it is too short to be one, or for what it says of its
    /// own length.
    #[must_use]
    pub fn parse(network: &Network, tcp: &[u8]) -> Option<Self> {
        let (header, rest) = tcp.split_first_chunk::<HEADER>()?;
        let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, w0, w1, _, _, u0, u1] = *header;
        let options = rest.get(..usize::from(offset >> 4).checked_mul(4)?.checked_sub(HEADER)?)?;
        let mut signature = Self {
            ip_version: network.version,
            ttl: network.ttl,
            ip_options: network.extra,
            window: u16::from_be_bytes([w0, w1]),
            ..Self::default()
        };
        let flag = |bit: u8| flags & bit != 0;
        let [ece_cwr, urg, ack, psh] = [flag(0xc0), flag(0x20), flag(0x10), flag(0x08)];
        let acknowledges = [a0, a1, a2, a3] != [0; 4];
        let has_id = network.id != 0;
        let v4 = network.version == 4;
        for (quirk, is) in [
            (Quirk::DontFragment, network.dont_fragment),
            (Quirk::IdWithDf, network.dont_fragment && has_id),
            (Quirk::NoId, v4 && !network.dont_fragment && !has_id),
            (Quirk::Ecn, ece_cwr || network.traffic_class & 3 != 0),
            (Quirk::Reserved, network.reserved || offset & 0x0f != 0),
            (Quirk::FlowLabel, network.flow_label),
            (Quirk::ZeroSequence, [s0, s1, s2, s3] == [0; 4]),
            (Quirk::AckWithoutFlag, acknowledges && !ack),
            (Quirk::ZeroAck, !acknowledges && ack),
            (Quirk::UrgentPointer, [u0, u1] != [0; 2] && !urg),
            (Quirk::Urgent, urg),
            (Quirk::Push, psh),
        ] {
            signature.quirks.add_if(quirk, is);
        }
        signature.read_options(options, !ack);
        Some(signature)
    }

    fn read_options(&mut self, mut left: &[u8], initial: bool) {
        while let Some((kind, rest)) = left.split_first() {
            self.options.push(*kind);
            match *kind {
                option::END => {
                    self.padding = u8::try_from(rest.len()).unwrap_or(u8::MAX);
                    self.quirks.add_if(Quirk::TrailingData, rest.iter().any(|byte| *byte != 0));
                    return;
                }
                option::NOP => left = rest,
                _ => {
                    // The length counts kind and length themselves.
                    let split = rest
                        .split_first()
                        .and_then(|(length, rest)| rest.split_at_checked(usize::from(*length).checked_sub(2)?));
                    let Some((value, rest)) = split else {
                        self.quirks.add_if(Quirk::BadOptions, true);
                        return;
                    };
                    self.read_option(*kind, value, initial);
                    left = rest;
                }
            }
        }
    }

    /// One option. Its length is right for the header, but perhaps not for its kind; of duplicates the last counts, as
    /// for Linux.
    fn read_option(&mut self, kind: u8, value: &[u8], initial: bool) {
        match (kind, value) {
            (option::MSS, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
            (option::WINDOW_SCALE, [scale]) => {
                self.window_scale = Some(*scale);
                self.quirks.add_if(Quirk::ExcessiveScale, *scale > SCALE_MAX);
            }
            (option::TIMESTAMPS, [v0, v1, v2, v3, e0, e1, e2, e3]) => {
                let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
                let echo = u32::from_be_bytes([*e0, *e1, *e2, *e3]);
                self.timestamps = Some(Timestamps { value, echo });
                self.quirks.add_if(Quirk::ZeroTimestamp, value == 0);
                self.quirks.add_if(Quirk::EchoedTimestamp, initial && echo != 0);
            }
            (option::MSS | option::WINDOW_SCALE | option::TIMESTAMPS, _) => self.quirks.add_if(Quirk::BadOptions, true),
            (option::SACK_PERMITTED, value) => self.quirks.add_if(Quirk::BadOptions, !value.is_empty()),
            // RFC 2018 section 3: one to four blocks of eight bytes.
            (option::SACK, value) => {
                self.quirks.add_if(Quirk::BadOptions, value.is_empty() || !value.len().is_multiple_of(8));
            }
            _ => {}
        }
    }

    /// The sender's timestamp.
    #[must_use]
    pub fn tsval(&self) -> Option<u32> {
        self.timestamps.map(|timestamps| timestamps.value)
    }

    /// The TTL that the packet probably set out with: the least of 32, 64, 128 and 255 that isn't below the one seen.
    #[must_use]
    pub const fn initial_ttl(&self) -> u8 {
        match self.ttl {
            0..=32 => 32,
            33..=64 => 64,
            65..=128 => 128,
            129.. => 255,
        }
    }

    /// Which kind of system wrote it. The order of the options decides: it is compiled into a kernel, while TTL, window
    /// and MSS are settings and imitators set them. The TTL decides only between systems that share an order.
    #[must_use]
    pub fn class(&self) -> Class {
        use option::{END, MSS, NOP, SACK_PERMITTED as SOK, TIMESTAMPS as TS, WINDOW_SCALE as WS};
        if self.quirks.has(Quirk::BadOptions) {
            return Class::Unknown;
        }
        let ttl = self.initial_ttl();
        // A Fast Open cookie or Multipath TCP comes after what a system always sends.
        match self.options.as_slice() {
            [MSS, SOK, TS, NOP, WS, ..] => Class::Linux,
            // Without timestamps, without SACK, without window scaling (net.ipv4.tcp_*).
            [MSS, NOP, NOP, TS, NOP, WS] | [MSS, SOK, TS] if ttl == 64 => Class::Linux,
            [MSS, NOP, NOP, SOK, NOP, WS] if ttl == 64 => Class::Linux,
            [MSS, NOP, WS, NOP, NOP, TS, SOK, END, ..] => Class::Apple,
            [MSS, NOP, WS, NOP, NOP, SOK, ..] | [MSS, NOP, WS, SOK, TS, ..] if ttl == 128 => Class::Windows,
            [MSS, NOP, WS, SOK, TS, ..] | [MSS, NOP, NOP, SOK, NOP, WS, NOP, NOP, TS] if ttl == 64 => Class::Bsd,
            // Every system of this century offers SACK or window scaling. One that was told not to sets "don't
            // fragment" still, which the probes of zmap, masscan and nmap don't.
            [] | [MSS] if self.ip_version == 4 && !self.quirks.has(Quirk::DontFragment) => Class::Scanner,
            _ => Class::Unknown,
        }
    }
}

impl fmt::Display for SynSignature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hops = self.initial_ttl().saturating_sub(self.ttl);
        write!(out, "{}:{}+{hops}:{}:", self.ip_version, self.ttl, self.ip_options)?;
        write!(out, "{}:{},{}:", self.mss.unwrap_or(0), self.window, self.window_scale.unwrap_or(0))?;
        for (index, kind) in self.options.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match *kind {
                option::END => write!(out, "{comma}eol+{}", self.padding)?,
                option::NOP => write!(out, "{comma}nop")?,
                option::MSS => write!(out, "{comma}mss")?,
                option::WINDOW_SCALE => write!(out, "{comma}ws")?,
                option::SACK_PERMITTED => write!(out, "{comma}sok")?,
                option::SACK => write!(out, "{comma}sack")?,
                option::TIMESTAMPS => write!(out, "{comma}ts")?,
                other => write!(out, "{comma}?{other}")?,
            }
        }
        out.write_str(":")?;
        for (index, quirk) in self.quirks.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(out, "{comma}{}", quirk.label())?;
        }
        out.write_str(if self.payload { ":+" } else { ":0" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINUX: &[u8] = &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7];
    const WINDOWS: &[u8] = &[2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2];
    const MACOS: &[u8] = &[2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 4, 2, 0, 0];
    const FREEBSD: &[u8] = &[2, 4, 5, 180, 1, 3, 3, 6, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0];
    const OPENBSD: &[u8] = &[2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0];
    const MSS: &[u8] = &[2, 4, 5, 180];

    fn v4(ttl: u8) -> Network {
        Network { version: 4, ttl, id: 7, dont_fragment: true, ..Network::default() }
    }

    /// A SYN of sequence number 1 and window 64240.
    fn syn(options: &[u8]) -> Vec<u8> {
        let offset = u8::try_from((HEADER + options.len()) / 4 * 16).unwrap();
        let fixed = [0x12, 0x34, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, offset, 2, 0xfa, 0xf0, 0, 0, 0, 0];
        [&fixed, options].concat()
    }

    fn text(network: &Network, tcp: &[u8]) -> String {
        SynSignature::parse(network, tcp).unwrap().to_string()
    }

    #[test]
    fn known_systems_read_as_p0f_writes_them() {
        let cases = [
            (64, LINUX, "4:64+0:0:1460:64240,7:mss,sok,ts,nop,ws:df,id+:0", Class::Linux),
            (117, WINDOWS, "4:117+11:0:1460:64240,8:mss,nop,ws,nop,nop,sok:df,id+:0", Class::Windows),
            (50, MACOS, "4:50+14:0:1460:64240,6:mss,nop,ws,nop,nop,ts,sok,eol+1:df,id+:0", Class::Apple),
            (60, FREEBSD, "4:60+4:0:1460:64240,6:mss,nop,ws,sok,ts:df,id+:0", Class::Bsd),
            (128, FREEBSD, "4:128+0:0:1460:64240,6:mss,nop,ws,sok,ts:df,id+:0", Class::Windows),
            (64, OPENBSD, "4:64+0:0:1460:64240,6:mss,nop,nop,sok,nop,ws,nop,nop,ts:df,id+:0", Class::Bsd),
            (128, LINUX, "4:128+0:0:1460:64240,7:mss,sok,ts,nop,ws:df,id+:0", Class::Linux),
            (64, WINDOWS, "4:64+0:0:1460:64240,8:mss,nop,ws,nop,nop,sok:df,id+:0", Class::Unknown),
            (64, MSS, "4:64+0:0:1460:64240,0:mss:df,id+:0", Class::Unknown),
        ];
        for (ttl, options, wanted, class) in cases {
            let signature = SynSignature::parse(&v4(ttl), &syn(options)).unwrap();
            assert_eq!((signature.to_string().as_str(), signature.class()), (wanted, class));
        }
        let zmap = Network { version: 4, ttl: 240, id: 54_321, ..Network::default() };
        for options in [&[][..], MSS] {
            assert_eq!(SynSignature::parse(&zmap, &syn(options)).unwrap().class(), Class::Scanner);
        }
        let v6 = Network { version: 6, ttl: 64, extra: 8, flow_label: true, ..Network::default() };
        assert_eq!(text(&v6, &syn(LINUX)), "6:64+0:8:1460:64240,7:mss,sok,ts,nop,ws:flow:0");
        assert_eq!(SynSignature::parse(&v6, &syn(LINUX)).unwrap().tsval(), Some(7));
    }

    #[test]
    fn every_quirk_is_seen() {
        let mut seen = Quirks::default();
        let mut check = |network: Network, change: &dyn Fn(&mut Vec<u8>), wanted: &str| {
            let mut tcp = syn(LINUX);
            change(&mut tcp);
            let signature = SynSignature::parse(&network, &tcp).unwrap();
            let text = signature.to_string();
            assert_eq!(text.split(':').nth(6), Some(wanted), "{text}");
            seen.0 |= signature.quirks.0;
        };
        let plain = Network { version: 4, ttl: 64, id: 1, ..Network::default() };
        check(v4(64), &|_| {}, "df,id+");
        check(Network { id: 0, ..plain }, &|_| {}, "id-");
        check(Network { traffic_class: 2, ..plain }, &|_| {}, "ecn");
        check(plain, &|tcp| tcp[13] |= 0x40, "ecn");
        check(Network { reserved: true, ..plain }, &|_| {}, "0+");
        check(plain, &|tcp| tcp[12] |= 1, "0+");
        check(Network { flow_label: true, version: 6, ..plain }, &|_| {}, "flow");
        check(plain, &|tcp| tcp[7] = 0, "seq-");
        check(plain, &|tcp| tcp[11] = 1, "ack+");
        check(plain, &|tcp| tcp[13] |= 0x10, "ack-");
        check(plain, &|tcp| tcp[19] = 1, "uptr+");
        check(plain, &|tcp| tcp[13] |= 0x20, "urgf+");
        check(plain, &|tcp| tcp[13] |= 0x08, "pushf+");
        check(plain, &|tcp| tcp[31] = 0, "ts1-");
        check(plain, &|tcp| tcp[35] = 1, "ts2+");
        check(plain, &|tcp| tcp[36] = 0, "opt+");
        check(plain, &|tcp| tcp[39] = 15, "exws");
        check(plain, &|tcp| tcp[38] = 4, "bad");
        check(plain, &|tcp| tcp[21] = 1, "bad");
        check(plain, &|tcp| tcp[25] = 3, "bad");
        assert_eq!(seen.iter().count(), Quirk::ALL.len());
    }

    #[test]
    fn an_option_that_leaves_the_header_is_the_last() {
        let tcp = syn(&[2, 4, 5, 180, 8, 3, 3, 3, 3, 3, 254, 40]);
        assert_eq!(text(&v4(64), &tcp), "4:64+0:0:1460:64240,3:mss,ts,ws,?254:df,id+,bad:0");
        assert_eq!(SynSignature::parse(&v4(64), &tcp).unwrap().class(), Class::Unknown);
        for length in 0..tcp.len() {
            assert_eq!(SynSignature::parse(&v4(64), &tcp[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_text(
            tcp in prop::collection::vec(any::<u8>(), 0..80),
            offset in 5u8..16,
            (version, ttl, traffic_class, extra) in any::<(u8, u8, u8, u8)>(),
            (id, dont_fragment, reserved, flow_label) in any::<(u16, bool, bool, bool)>(),
        ) {
            let network = Network { version, ttl, traffic_class, extra, id, dont_fragment, reserved, flow_label };
            let mut tcp = tcp;
            if let Some(byte) = tcp.get_mut(12) {
                *byte = offset << 4;
            }
            let signature = SynSignature::parse(&network, &tcp);
            prop_assert_eq!(signature.is_some(), tcp.len() >= usize::from(offset) * 4);
            let Some(signature) = signature else { return Ok(()) };
            let text = signature.to_string();
            prop_assert_eq!(text.split(':').count(), 8);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() < 300);
            // What is behind the header, and the ports and checksum in it, change nothing.
            tcp.push(1);
            for index in [0, 1, 2, 3, 16, 17] {
                tcp[index] ^= 0xff;
            }
            prop_assert_eq!(SynSignature::parse(&network, &tcp), Some(signature.clone()));
            prop_assert!(signature.options.len() <= 40);
            prop_assert_ne!(signature.class().label(), "");
        }
    }
}
