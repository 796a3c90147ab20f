//! The broker at work: what it opens, what it refuses, and for whom.

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::net::UnixListener,
    thread,
    time::Instant,
};

use nix::{
    sys::socket::{getsockopt, sockopt::BindToDevice},
    unistd::getuid,
};
use rustix::net::connect_unspec;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{
    names::{Names, Relayed},
    protocol::Transport,
    serve::{CONNECTIONS_MAX, Rules, serve},
    *,
};

const SOON: Duration = Duration::from_secs(20);

/// Runs `check` against a broker for the processes of `owner`; it gets the broker's socket.
fn with_broker(owner: u32, rules: Rules, check: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sockets.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let broker = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, owner, move || rules.clone(), stop)).unwrap();
    });
    check(&path);
    shutdown.cancel();
    broker.join().unwrap();
}

fn own() -> u32 {
    getuid().as_raw()
}

fn opener(path: &Path) -> Opener {
    Opener::Broker(path.into())
}

/// Why there is none, in the words of the error.
fn refusal<T>(result: io::Result<T>) -> String {
    let error = result.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    error.to_string()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn a_listener_is_passed_and_outlives_the_broker() {
    let mut listener = None;
    with_broker(own(), Rules::default(), |path| {
        listener = Some(opener(path).listen(local(0)).unwrap());
        let taken = listener.as_ref().unwrap().local_addr().unwrap();
        let error = opener(path).listen(taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "as the system says it");
    });
    let listener = listener.unwrap();
    listener.set_nonblocking(false).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).unwrap();
}

/// Who holds a listener, or what it accepted, can disconnect it and connect it anew: to this host only.
#[test]
fn nothing_that_is_passed_leaves_the_loopback_interface() {
    for address in [local(0), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))] {
        with_broker(own(), Rules::default(), |path| {
            let listener = opener(path).listen(address).unwrap();
            listener.set_nonblocking(false).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            for socket in [OwnedFd::from(accepted), OwnedFd::from(listener)] {
                connect_unspec(&socket).unwrap();
                assert_eq!(getsockopt(&socket, BindToDevice).unwrap(), "lo");
            }
        });
    }
}

#[test]
fn beyond_loopback_is_listened_on_as_the_configuration_says() {
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap();
    with_broker(own(), Rules::default(), |path| {
        for address in [free, "192.0.2.1:9464".parse().unwrap(), "[::]:9464".parse().unwrap()] {
            let why = refusal(opener(path).listen(address));
            assert!(why.contains("beyond this host") && why.contains("[admin]"), "{why}");
        }
    });
    with_broker(own(), Rules { listen: vec![free], ..Rules::default() }, |path| {
        assert_eq!(opener(path).listen(free).unwrap().local_addr().unwrap(), free);
        let other = SocketAddr::new(free.ip(), free.port().wrapping_add(1).max(1024));
        refusal(opener(path).listen(other));
    });
}

#[test]
fn checks_reach_this_host_and_nobody_else() {
    let server = TcpListener::bind(local(0)).unwrap();
    let address = server.local_addr().unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    with_broker(own(), Rules::default(), |path| {
        let Stream::Relayed(mut stream) = opener(path).check(address, SOON).unwrap() else { panic!("its own socket") };
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"hello");
        echo.join().unwrap();
        let gone = opener(path).check(address, SOON).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::ConnectionRefused, "nobody listens there any more");
        for foreign in ["192.0.2.1:443", "[2001:db8::1]:443", "0.0.0.0:443"] {
            let why = refusal(opener(path).check(foreign.parse().unwrap(), SOON));
            assert!(why.contains("no address of this host"), "{why}");
        }
    });
}

#[test]
fn only_resolvers_of_this_host_are_asked() {
    let named: IpAddr = "127.0.0.1".parse().unwrap();
    with_broker(own(), Rules { resolvers: vec![named], ..Rules::default() }, |path| {
        for over in [Transport::Udp, Transport::Tcp] {
            for address in ["192.0.2.53", "127.0.0.2", "::1"] {
                let request = Request::Resolver { address: address.parse().unwrap(), over };
                let why = refusal(ask(path, request, SOON));
                assert!(why.contains("no resolver of this host"), "{why}");
            }
        }
        ask(path, Request::Resolver { address: named, over: Transport::Udp }, SOON).unwrap();
    });
}

#[test]
fn nobody_else_is_answered() {
    with_broker(own() + 1, Rules::default(), |path| {
        let error = opener(path).listen(local(0)).unwrap_err();
        // It closes without reading: which of these it is depends on who was faster.
        let closed = [ErrorKind::InvalidData, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(closed.contains(&error.kind()), "{error}");
    });
}

/// What comes of a frame.
fn answer(path: &Path, frame: &[u8]) -> io::Result<Response> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(frame)?;
    receive(&stream).map(|(response, _)| response)
}

#[test]
fn what_is_no_request_is_refused() {
    with_broker(own(), Rules::default(), |path| {
        for frame in [&b"\n"[..], b"{}\n", b"listen\n", b"\xff\xfe\n", &[b'x'; FRAME_MAX]] {
            let refused = answer(path, frame).unwrap();
            assert!(matches!(&refused, Response::Refused { reason } if reason.contains("request")), "{refused:?}");
        }
        assert!(opener(path).listen(local(0)).is_ok(), "it goes on");
    });
}

#[test]
fn who_asks_nothing_holds_up_nobody() {
    with_broker(own(), Rules::default(), |path| {
        let silent: Vec<_> = (0..2 * CONNECTIONS_MAX).map(|_| UnixStream::connect(path).unwrap()).collect();
        assert!(opener(path).listen(local(0)).is_ok());
        let began = Instant::now();
        for mut stream in &silent {
            stream.set_read_timeout(Some(SOON)).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is let go");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
}

#[test]
fn a_broker_that_is_not_there_is_told_with_what_to_do() {
    let error = opener(Path::new("/nonexistent/sockets.sock")).listen(local(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("systemctl status detector-sockets"), "{error}");
}

/// Datagrams keep their borders, either way.
#[test]
fn datagrams_are_relayed_whole() {
    use hickory_resolver::net::runtime::DnsUdpSocket as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let resolver = UdpSocket::bind(local(0)).await.unwrap();
        let socket = UdpSocket::bind(local(0)).await.unwrap();
        socket.connect(resolver.local_addr().unwrap()).await.unwrap();
        let from = socket.local_addr().unwrap();
        let (daemon, broker) = tokio::net::UnixStream::pair().unwrap();
        let relay = tokio::spawn(relay::datagrams(broker, socket));
        let server = local(53);
        let names = names::Datagrams::Relayed(Relayed::new(daemon, server));
        let long = vec![7; 1200];
        for sent in [&b"a"[..], b"", &long] {
            assert_eq!(names.send_to(sent, server).await.unwrap(), sent.len());
        }
        assert!(names.send_to(b"x", local(54)).await.is_err(), "another server than it is for");
        let mut bytes = [0; 2000];
        for expected in [1, 0, 1200] {
            assert_eq!(resolver.recv(&mut bytes).await.unwrap(), expected);
        }
        for answer in [&long[..], b"b"] {
            resolver.send_to(answer, from).await.unwrap();
        }
        assert_eq!(names.recv_from(&mut bytes).await.unwrap(), (1200, server));
        assert_eq!(names.recv_from(&mut bytes).await.unwrap(), (1, server));
        drop(names);
        assert!(relay.await.unwrap().is_err(), "it ends with the daemon's side");
    });
}

#[test]
fn without_a_broker_names_are_asked_by_own_sockets() {
    use hickory_resolver::net::runtime::RuntimeProvider as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let names = Names::new(Opener::Own);
        let socket = names.bind_udp(local(0), local(53)).await.unwrap();
        assert!(matches!(socket, names::Datagrams::Own(_)));
        let beyond = Names::new(opener(Path::new("/nonexistent"))).bind_udp(local(0), local(5353)).await;
        assert_eq!(beyond.err().map(|error| error.kind()), Some(ErrorKind::InvalidInput), "no port but 53");
    });
}
