//! What the host's own sockets say of a 4-tuple, asked in a network namespace with real connections over its loopback.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Instant,
};

use detector::kernel::{Lookup, SockDiag, Sockets as _};
use detector_tests::{
    deadline::{PATIENCE, until},
    figures::show,
    lab::require_root,
    process::output,
    programs::search_path,
};
use nix::sched::{CloneFlags, unshare};

const LOOPBACK_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Runs `test` on a thread in a network namespace of its own, which ends with it.
pub(crate) fn in_a_namespace(test: impl FnOnce() + Send) {
    require_root().unwrap();
    thread::scope(|scope| {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip", "link set lo up");
            test();
        };
        scope.spawn(run).join().unwrap();
    });
}

pub(crate) fn run(program: &str, arguments: &str) {
    let mut command = Command::new(program);
    command.env("PATH", search_path().unwrap()).args(arguments.split_whitespace());
    output(&mut command).unwrap();
}

/// Waits until the kernel says `wanted` of the connection between a client and a server.
fn expect(sockets: &mut SockDiag, (client, server): (SocketAddr, SocketAddr), wanted: Lookup, when: &str) {
    let mut last = Lookup::Failed;
    let became = until(when, PATIENCE, || {
        last = sockets.look_up(client, server);
        Ok((last == wanted).then_some(()))
    });
    assert!(became.is_ok(), "{when}: {last:?} instead of {wanted:?}, for {client} to {server}");
}

/// A new connection: the client's end, and the addresses of both.
fn connect(server: SocketAddr) -> (TcpStream, (SocketAddr, SocketAddr)) {
    let client = TcpStream::connect(server).unwrap();
    let ends = (client.local_addr().unwrap(), server);
    (client, ends)
}

/// The whole life of a connection to `address`, of which a listener on `bound` takes the connections.
fn life(bound: IpAddr, address: IpAddr) {
    let mut sockets = SockDiag::open().unwrap();
    let listener = TcpListener::bind((bound, 0)).unwrap();
    let server = SocketAddr::new(address, listener.local_addr().unwrap().port());
    let nobody = SocketAddr::new(address, 9);
    assert_eq!(sockets.look_up(nobody, nobody), Lookup::Absent, "nothing listens there");
    assert_eq!(sockets.look_up(nobody, server), Lookup::Other, "the listener is all there is");

    // The client's ACKs don't arrive: for it there is a connection, for the server there is half of one.
    let rule = format!("tcp dport {} tcp flags & (syn | ack) == ack drop", server.port());
    run("nft", &format!("table inet half {{ chain out {{ type filter hook output priority 0; {rule}; }}; }}"));
    let (mut client, ends) = connect(server);
    expect(&mut sockets, ends, Lookup::Other, "half open");
    run("nft", "delete table inet half");
    client.write_all(b"x").unwrap();
    expect(&mut sockets, ends, Lookup::Established, "established, not accepted");
    let (accepted, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    expect(&mut sockets, ends, Lookup::Established, "the client has closed its half");
    drop((accepted, client));

    let (client, ends) = connect(server);
    let (accepted, _) = listener.accept().unwrap();
    accepted.shutdown(Shutdown::Write).unwrap();
    expect(&mut sockets, ends, Lookup::Established, "the server has closed its half");
    drop(accepted);
    expect(&mut sockets, ends, Lookup::Other, "the server is gone, the client isn't");
    drop(client);
    expect(&mut sockets, ends, Lookup::Other, "over");
}

#[test]
fn a_socket_is_a_proof_only_while_its_connection_is() {
    in_a_namespace(|| {
        life(LOOPBACK_V4, LOOPBACK_V4);
        life(LOOPBACK_V6, LOOPBACK_V6);
    });
}

/// As many servers listen: one IPv6 socket for both.
#[test]
fn an_ipv4_connection_to_a_socket_of_both_families() {
    in_a_namespace(|| {
        life(IpAddr::V6(Ipv6Addr::UNSPECIFIED), LOOPBACK_V4);
        life(IpAddr::V6(Ipv6Addr::UNSPECIFIED), LOOPBACK_V6);
    });
}

#[test]
fn only_this_namespaces_sockets_are_seen() {
    let mut outside = SockDiag::open().unwrap();
    in_a_namespace(|| {
        let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
        let (_client, (client, server)) = connect(listener.local_addr().unwrap());
        expect(&mut SockDiag::open().unwrap(), (client, server), Lookup::Established, "inside");
        assert_ne!(outside.look_up(client, server), Lookup::Established);
    });
}

/// The packet path asks, so the answer must be there at once.
#[test]
fn a_look_up_is_quick() {
    in_a_namespace(|| {
        const LOOK_UPS: u32 = 10_000;
        let mut sockets = SockDiag::open().unwrap();
        let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
        let (_client, (client, server)) = connect(listener.local_addr().unwrap());
        let started = Instant::now();
        for _ in 0..LOOK_UPS {
            assert_eq!(sockets.look_up(client, server), Lookup::Established);
            assert_eq!(sockets.look_up(server, server), Lookup::Other);
        }
        let each = started.elapsed() / (2 * LOOK_UPS);
        show(&format!("a look-up of a socket takes {:.1} µs", each.as_secs_f64() * 1e6));
        assert!(each.as_micros() < 200, "{each:?} each");
    });
}
