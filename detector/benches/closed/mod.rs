//! P8: how long a server's socket outlives a hello that is blocked by its key: from the client's write, through the loopback
//! interface of a network namespace of this process's own, to the reset that the server reads. No connection may stay.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use detector::{
    clock::monotonic,
    config::XdpMode,
    fingerprint::{Transport, key},
    kernel::{Kernel, LoadOptions, Slot, VerdictMaps as _},
    tls::{
        Parsed, hello,
        record::{self, Deframer},
    },
};
use detector_common::{
    key::{Keys, Seeds},
    settings::{IN_USE_KEYS, Settings},
};

use crate::{
    figure::{Figure, median},
    peers::{block, settings, told},
};

const CONNECTIONS: usize = 2_000;
/// How long the server waits before a connection counts as left.
const PATIENCE: Duration = Duration::from_secs(1);

fn keys(stream: &[u8]) -> Keys {
    let Parsed::Complete(extent) = Deframer::new().advance(stream) else { panic!("not a hello") };
    let mut scratch = Vec::new();
    let Parsed::Complete(hello) = hello::parse(record::message(stream, &extent, &mut scratch)) else {
        panic!("malformed")
    };
    key::keys(&hello, Transport::Tcp, &Seeds::default())
}

/// The microseconds until the server was rid of a connection whose hello is blocked; `None`: it wasn't.
fn closed(listener: &TcpListener, hello: &[u8]) -> Option<f64> {
    let server = listener.local_addr().expect("a bound listener");
    let mut client = TcpStream::connect(server).expect("a listener of ours");
    let (mut accepted, _) = listener.accept().expect("the connection just made");
    accepted.set_read_timeout(Some(PATIENCE)).expect("a socket of ours");
    let before = monotonic();
    client.write_all(hello).expect("a connection of ours");
    let read = accepted.read(&mut [0]);
    let after = monotonic();
    let reset = matches!(read, Err(error) if error.kind() == ErrorKind::ConnectionReset);
    reset.then(|| after.since(before).as_nanos() as f64 / 1e3)
}

/// P8.
pub(crate) fn servers(hello: &[u8]) -> Vec<Figure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of our own network");
    let port = listener.local_addr().expect("a bound listener").port();
    let (mut kernel, mut maps, _rings, _counters, _log) = Kernel::load(&LoadOptions::default()).expect("run as root");
    maps.protect_ports(&[port]).expect("a map of ours");
    maps.protect_addresses(vec![Ipv4Addr::LOCALHOST.into()]).expect("room for one");
    // As many resets as there are connections: that they are bounded is another matter.
    maps.set(Settings { resets: CONNECTIONS as u32, ..settings(IN_USE_KEYS) }).expect("a map of ours");
    maps.put(&Slot::Fingerprint(keys(hello).key), block()).expect("room for one");
    kernel.attach("lo", XdpMode::Generic).expect("a loopback interface of our own");

    let runs: Vec<Option<f64>> = (0..CONNECTIONS).map(|_| closed(&listener, hello)).collect();
    let left = runs.iter().filter(|run| run.is_none()).count();
    let mut times: Vec<f64> = runs.into_iter().flatten().collect();
    assert!(!times.is_empty(), "a blocked hello ends its connection");
    let p50 = median(&mut times);
    let p99 = times[times.len() * 99 / 100];
    let target = |id, what, value, unit, target: &str, met| Figure {
        target: target.to_owned(),
        met: Some(met),
        ..told(id, what, value, unit)
    };
    vec![
        target("P8.p50", "blocked hello to its server's socket closed, p50", p50, "µs", "<= 1000", p50 <= 1000.0),
        target("P8.p99", "the same, p99", p99, "µs", "<= 1000", p99 <= 1000.0),
        target("P8.left", "of 2,000 such connections, left open", left as f64, "", "0", left == 0),
    ]
}
