//! The control socket under honest, slow, wrong and many peers.

use std::fs;
use std::io::{BufRead, BufReader as StdBufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::unistd::Group;

use super::*;
use crate::door::socket::{CONTROL, SocketError};
use crate::telemetry::counters::Count;

/// Answers every request with what it is about, and counts; and the places it gave away.
#[derive(Default)]
struct Echo(AtomicUsize, Arc<()>);

impl Handler for Echo {
    fn handle(&self, request: Request, peer: Peer) -> Response {
        self.0.fetch_add(1, Ordering::Relaxed);
        Response::Refused { reason: request.verb().to_owned(), hint: peer.uid.to_string() }
    }

    fn admit(&self, load: &Load) -> Result<(), Box<Response>> {
        if load.total <= 3 { Ok(()) } else { Err(Box::new(Response::NotFound)) }
    }

    fn listen(&self, socket: Option<OwnedFd>, ports: Vec<u16>, _peer: Peer) -> (Response, Option<Place>) {
        match socket {
            Some(_) => (Response::Listening { ports }, Some(Box::new(Arc::clone(&self.1)))),
            None => (Response::NotFound, None),
        }
    }
}

/// A server on a socket of its own, gone when dropped.
struct Server {
    path: PathBuf,
    ended: Counters,
    handler: Arc<Echo>,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/control.sock");
        let control = Socket::listener(CONTROL, &path, "no-such-group").unwrap();
        let (handler, shutdown) = (Arc::new(Echo::default()), CancellationToken::new());
        let (served, stop) = (Arc::clone(&handler), shutdown.clone());
        let ended: Counters = End::ALL.iter().map(|end| (end.label(), Count::default())).collect();
        let counted = ended.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve((control, Access::Write), served, counted, stop)).unwrap();
        });
        Self { path, ended, handler, shutdown, thread: Some(thread), _directory: directory }
    }

    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(&self, frame: &[u8]) -> Response {
        let mut stream = self.connect();
        stream.write_all(frame).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        response(&stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.path.exists(), "the socket file outlived its server");
    }
}

fn response(stream: &StdStream) -> Response {
    let mut line = String::new();
    StdBufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

const STATUS: &[u8] = b"{\"verb\":\"status\"}\n";

#[test]
fn one_connection_asks_as_often_as_it_likes() {
    let server = Server::start();
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(STATUS).unwrap();
        let uid = nix::unistd::getuid().as_raw().to_string();
        assert_eq!(response(&stream), Response::Refused { reason: "status".to_owned(), hint: uid });
    }
    assert_eq!(server.handler.0.load(Ordering::Relaxed), 3);
}

/// A frame of a load of `total` entries, with `items` of them.
fn frame(total: usize, items: usize, more: bool) -> Vec<u8> {
    let items = vec![serde_json::json!({ "subject": "192.0.2.7" }); items];
    let load = serde_json::json!({
        "verb": "load", "list": "block", "ttl": "1h", "total": total, "items": items, "more": more
    });
    format!("{load}\n").into_bytes()
}

#[test]
fn a_load_is_one_request_when_its_last_frame_has_come() {
    let server = Server::start();
    let mut stream = server.connect();
    for entries in [1, 2] {
        stream.write_all(&frame(3, 1, true)).unwrap();
        assert_eq!(response(&stream), Response::Held { entries });
    }
    assert_eq!(server.handler.0.load(Ordering::Relaxed), 0, "nothing is done before the last frame");
    stream.write_all(&frame(3, 1, false)).unwrap();
    assert!(matches!(response(&stream), Response::Refused { reason, .. } if reason == "load"));
    assert_eq!(server.handler.0.load(Ordering::Relaxed), 1);
}

#[test]
fn loads_are_bounded_and_one_at_a_time() {
    let server = Server::start();
    assert_eq!(server.ask(&frame(4, 1, true)), Response::NotFound, "too many, by the first frame");
    let mut first = server.connect();
    first.write_all(&frame(2, 1, true)).unwrap();
    assert_eq!(response(&first), Response::Held { entries: 1 });
    let other = server.ask(&frame(2, 1, true));
    assert!(matches!(other, Response::Refused { reason, .. } if reason.contains("another load")));
    first.write_all(&frame(2, 2, true)).unwrap();
    assert!(matches!(response(&first), Response::Error { .. }), "more than it said");
    // With that connection its load is gone, and another may come.
    let end = Instant::now() + Duration::from_secs(20);
    while !matches!(server.ask(&frame(2, 1, true)), Response::Held { .. }) {
        assert!(Instant::now() < end, "the load was never given up");
    }
    assert_eq!(server.handler.0.load(Ordering::Relaxed), 0);
}

const LISTENER: &[u8] = b"{\"verb\":\"challenge-listener\",\"ports\":[443]}\n";

/// Sends a frame, and as many descriptors along with it.
fn send_with(stream: &StdStream, frame: &[u8], descriptors: usize) {
    let file = fs::File::open("/dev/null").unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut along = rustix::net::SendAncillaryBuffer::new(&mut space);
    let descriptors = vec![std::os::fd::AsFd::as_fd(&file); descriptors];
    assert!(along.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors)));
    let frame = [io::IoSlice::new(frame)];
    rustix::net::sendmsg(stream, &frame, &mut along, rustix::net::SendFlags::empty()).unwrap();
}

fn wait(what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_listener_has_its_place_until_it_hangs_up() {
    let server = Server::start();
    let places = || Arc::strong_count(&server.handler.1) - 1;
    let stream = server.connect();
    send_with(&stream, LISTENER, 1);
    assert_eq!(response(&stream), Response::Listening { ports: vec![443] });
    // Longer than any other peer may be silent.
    let start = Instant::now();
    wait("the deadline of a silent peer", || start.elapsed() > FRAME_DEADLINE + Duration::from_millis(500));
    assert_eq!(places(), 1);
    drop(stream);
    wait("the place to be free", || places() == 0);
    assert_eq!(server.ask(LISTENER), Response::NotFound, "without a descriptor");
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let server = Server::start();
    server.ask(STATUS);
    let before = open();
    for frame in [STATUS, b"\n", b"{\"verb\":"] {
        let stream = server.connect();
        send_with(&stream, frame, 8);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        response(&stream);
    }
    // Other tests of this process open some, too, and close them.
    wait("as many open descriptors as before", || open() <= before);
}

#[test]
fn the_file_is_for_its_user_and_group_alone() {
    let server = Server::start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.path), 0o660);
    assert_eq!(mode(server.path.parent().unwrap()) & 0o022, 0);
}

#[test]
fn the_file_goes_to_its_group() {
    let gid = nix::unistd::getgid();
    let group = Group::from_gid(gid).unwrap().expect("the group of this test has a name");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    let _control = Socket::listener(CONTROL, &path, &group.name).unwrap();
    assert_eq!(fs::metadata(path).unwrap().gid(), gid.as_raw());
}

#[test]
fn garbage_is_answered_with_an_error() {
    let server = Server::start();
    let long = vec![b'x'; FRAME_MAX + 10];
    for frame in [b"\n".as_slice(), b"{\n", b"\xff\xfe\x1b[2J\n", b"{\"verb\":\"status\"}", &long] {
        assert!(matches!(server.ask(frame), Response::Error { .. }));
    }
    let deep = [vec![b'['; 50_000], b"\n".to_vec()].concat();
    assert!(matches!(server.ask(&deep), Response::Error { .. }));
    assert_eq!(server.handler.0.load(Ordering::Relaxed), 0);
}

#[test]
fn random_bytes_are_answered_with_an_error() {
    use proptest::strategy::{Strategy, ValueTree};
    let server = Server::start();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..300 {
        let mut frame =
            proptest::collection::vec(proptest::num::u8::ANY, 0..300).new_tree(&mut runner).unwrap().current();
        frame.push(b'\n');
        assert!(matches!(server.ask(&frame), Response::Error { .. }));
    }
}

#[test]
fn slow_and_garbage_peers_do_not_keep_out_an_honest_one() {
    let server = Server::start();
    let slow: Vec<StdStream> = (0..100)
        .map(|index| {
            let mut stream = server.connect();
            let frame: &[u8] = if index % 2 == 0 { b"{\"verb\":" } else { b"\x16\x03\x01\n" };
            stream.write_all(frame).unwrap();
            stream
        })
        .collect();
    let start = Instant::now();
    assert!(matches!(server.ask(STATUS), Response::Refused { .. }));
    assert!(start.elapsed() < Duration::from_secs(1), "they are in its way: {:?}", start.elapsed());
    for mut stream in slow {
        // Each is answered or closed by its deadline.
        drop(stream.read_to_end(&mut Vec::new()));
    }
    wait("the end of all", || End::ALL.iter().map(|end| server.ended.value(end.label())).sum::<u64>() == 101);
    assert!(server.ended.value("slow") > 0, "those that were begun last had their time");
}

#[test]
fn a_dead_daemons_socket_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let control = Socket::listener(CONTROL, &path, "no-such-group").unwrap();
    StdStream::connect(&path).unwrap();
    drop(control);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_live_daemons_socket_is_left_alone() {
    let server = Server::start();
    let error = Socket::listener(CONTROL, &server.path, "no-such-group").unwrap_err();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(error, SocketError::Running { pid: found, .. } if found == Some(pid)), "{error}");
    assert!(matches!(server.ask(STATUS), Response::Refused { .. }));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Socket::listener(CONTROL, file.path(), "g"), Err(SocketError::NotASocket { .. })));
    assert!(file.path().exists());
}
