//! The program on the bench: loaded, fed with frames, asked for what it did.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use detector::{
    clock::{Timestamp, monotonic},
    kernel::{
        CounterMap, Counters, EventSource as _, Kernel, KernelLog, LoadOptions, Maps, Rings, Slot, VerdictMaps as _,
    },
};
use detector_common::{
    counter::Counter,
    event::EventHeader,
    mode::{Mode, WHOLE_SHARE},
    settings::Settings,
    verdict::{Action, FOREVER, ORIGIN_OPERATOR, REASON_NONE, Verdict},
};
use detector_tests::lab::require_root;
use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};

/// `XDP_DROP` and `XDP_PASS` of linux/bpf.h.
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;

pub(crate) const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
pub(crate) const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub(crate) const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7));

/// A segment to build.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) seq: u32,
    /// The acknowledgement number.
    pub(crate) ack: u32,
    pub(crate) syn: bool,
    /// The ACK flag.
    pub(crate) acks: bool,
    pub(crate) rst: bool,
    pub(crate) fin: bool,
    pub(crate) payload: Vec<u8>,
}

impl Row {
    pub(crate) fn new(payload: &[u8]) -> Self {
        Self {
            source: SocketAddr::new(CLIENT, 40_000),
            destination: SocketAddr::new(SERVER, 443),
            seq: 1000,
            ack: 0,
            syn: false,
            acks: true,
            rst: false,
            fin: false,
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn v6(mut self) -> Self {
        self.source.set_ip(CLIENT_V6);
        self.destination.set_ip(SERVER_V6);
        self
    }

    pub(crate) fn seq(mut self, seq: u32) -> Self {
        self.seq = seq;
        self
    }

    pub(crate) fn syn(mut self) -> Self {
        (self.syn, self.acks) = (true, false);
        self
    }

    /// Acknowledges `ack`.
    pub(crate) fn ack(mut self, ack: u32) -> Self {
        (self.ack, self.acks) = (ack, true);
        self
    }

    /// From the server to the client.
    pub(crate) fn back(mut self) -> Self {
        (self.source, self.destination) = (self.destination, self.source);
        self
    }

    pub(crate) fn rst(mut self) -> Self {
        self.rst = true;
        self
    }

    pub(crate) fn fin(mut self) -> Self {
        self.fin = true;
        self
    }

    pub(crate) fn service(mut self, port: u16) -> Self {
        self.destination.set_port(port);
        self
    }

    pub(crate) fn client_port(mut self, port: u16) -> Self {
        self.source.set_port(port);
        self
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ipv4(source.octets(), destination.octets(), 64),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
            mixed => panic!("a row of two families: {mixed:?}"),
        };
        let mut header = TcpHeader::new(self.source.port(), self.destination.port(), self.seq, 64_240);
        (header.syn, header.rst, header.ack, header.fin) = (self.syn, self.rst, self.acks, self.fin);
        header.acknowledgment_number = self.ack;
        let tcp: PacketBuilderStep<TcpHeader> = ip.tcp_header(header);
        let mut frame = Vec::with_capacity(tcp.size(self.payload.len()));
        tcp.write(&mut frame, &self.payload).expect("a frame of bounded size");
        // The kernel refuses shorter ones.
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

/// A fixed sequence of numbers: a failure can be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % bound
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A ClientHello's record of `len` bytes, all told.
pub(crate) fn hello(len: usize) -> Vec<u8> {
    let (record, message) = (len - 5, len - 9);
    let mut bytes = vec![22, 3, 1, (record >> 8) as u8, record as u8, 1, 0, (message >> 8) as u8, message as u8, 3, 3];
    bytes.extend((bytes.len()..len).map(|place| place as u8));
    bytes
}

/// The loaded program.
pub(crate) struct Bench {
    pub(crate) kernel: Kernel,
    pub(crate) maps: Maps,
    rings: Rings,
    counters: CounterMap,
    pub(crate) settings: Settings,
    _log: KernelLog,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(LoadOptions::default())
    }

    /// With tables of other sizes.
    pub(crate) fn with(options: LoadOptions) -> Self {
        require_root().expect("root");
        let options = LoadOptions { ring_bytes: 1 << 20, unconfirmed_ring_bytes: 1 << 20, ..options };
        let (kernel, mut maps, rings, counters, log) = Kernel::load(&options).expect("the program loads");
        let settings = Settings {
            local_only: 1,
            segments_per_flow: 64,
            syns: 1,
            answers: 1,
            udp: 1,
            follow_ns: 10_000_000_000,
            ..Settings::default()
        };
        maps.protect_ports(&[443, 8443]).expect("ports");
        maps.protect_addresses(vec![SERVER, SERVER_V6]).expect("addresses");
        maps.set(settings).expect("settings");
        maps.set_mode(Mode::lasting(false, WHOLE_SHARE)).expect("a mode");
        Self { kernel, maps, rings, counters, settings, _log: log }
    }

    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.maps.set(self.settings).expect("settings");
    }

    /// Whether verdicts that aren't an operator's hold, and for which share of the addresses; the daemon lives.
    pub(crate) fn enforce(&mut self, enforce: bool, share: u32) {
        self.maps.set_mode(Mode::lasting(enforce, share)).expect("a mode");
        self.maps.beat(monotonic()).expect("a sign of life");
    }

    /// Blocks what `slot` names for `seconds`, or for good.
    pub(crate) fn block(&mut self, slot: Slot, seconds: Option<u64>) {
        self.put(slot, Action::Block, ORIGIN_OPERATOR, seconds);
    }

    pub(crate) fn put(&mut self, slot: Slot, action: Action, origin: u8, seconds: Option<u64>) {
        let end = |seconds| monotonic().plus(std::time::Duration::from_secs(seconds));
        let expires_at = seconds.map_or(FOREVER, |seconds| Timestamp::as_nanos(end(seconds)));
        let verdict = Verdict::new(action, origin, REASON_NONE, expires_at);
        self.maps.put(&slot, verdict).expect("room in the table");
        self.set(|settings| settings.in_use |= slot.in_use());
    }

    /// What the program does with a frame, and how it counts it.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (u32, Vec<&'static str>) {
        let before = self.counters();
        let (action, _) = self.kernel.test_run(frame, 1).expect("the kernel takes the frame");
        let after = self.counters();
        self.assert_sums();
        let counted = after.iter().filter(|(counter, value)| {
            let fate = counter.label() != "packets" && (*counter as u32) < Counter::CapturedConfirmed as u32;
            fate && *value != before.of(*counter)
        });
        (action, counted.map(|(counter, _)| counter.label()).collect())
    }

    /// Only what it does with a frame: for frames by the thousand.
    pub(crate) fn act(&mut self, frame: &[u8]) -> u32 {
        self.kernel.test_run(frame, 1).expect("the kernel takes the frame").0
    }

    pub(crate) fn row(&mut self, row: &Row) -> (u32, Vec<&'static str>) {
        self.run(&row.frame())
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters.read().expect("counters")
    }

    /// The sums of `Counter`, exact.
    pub(crate) fn assert_sums(&self) {
        let counters = self.counters();
        let fates: u64 = counters
            .iter()
            .filter(|(counter, _)| {
                *counter != Counter::Packets && (*counter as u32) < Counter::CapturedConfirmed as u32
            })
            .map(|(_, value)| value)
            .sum();
        assert_eq!(counters.of(Counter::Packets), fates, "{counters:?}");
        for [captured, submitted, lost] in [
            [Counter::CapturedConfirmed, Counter::SubmittedConfirmed, Counter::LostConfirmed],
            [Counter::CapturedUnconfirmed, Counter::SubmittedUnconfirmed, Counter::LostUnconfirmed],
        ] {
            assert_eq!(counters.of(captured), counters.of(submitted) + counters.of(lost), "{counters:?}");
        }
        let kinds = [Counter::FirstHello, Counter::FirstPartial, Counter::FirstNotTls, Counter::FirstUnparsed];
        let kinds: u64 = kinds.iter().map(|kind| counters.of(*kind)).sum();
        assert_eq!(counters.of(Counter::FirstData), kinds, "{counters:?}");
    }

    /// The events so far, of confirmed clients first: header and payload.
    pub(crate) fn events(&mut self) -> Vec<(EventHeader, Vec<u8>)> {
        let mut events = Vec::new();
        let mut take = |bytes: &[u8]| {
            let (header, payload) = zerocopy::FromBytes::read_from_prefix(bytes)
                .map(|(header, payload): (EventHeader, &[u8])| (header, payload.to_vec()))
                .expect("an event of the program");
            events.push((header, payload));
        };
        self.rings.confirmed.drain(usize::MAX, &mut take);
        self.rings.unconfirmed.drain(usize::MAX, &mut take);
        events
    }
}
