//! P9 of the performance targets, its half about decisions: 20,000 questions a second to the real daemon's decision socket,
//! open loop, and what asking adds to requests through nginx at 1,000 a second. Needs root and nginx; touches nothing
//! of the host: all is in a network namespace of its own, on its loopback interface.
//!
//! The daemon knows the hellos of [`CLIENTS`] real connections, has [`ORDERS`] verdicts in force, and answers about those
//! connections in turn. A latency is counted from the time at which the question was due, whether it was sent then or
//! not.

use std::{
    collections::VecDeque,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};

mod figure;
use figure::{Figure, chrome_hello, median, print};

const CLIENTS: usize = 200;
const ORDERS: usize = 250;
const SERVER: &str = "127.0.0.1:443";
const SNIPPETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/nginx");

/// A program that ends with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().expect("a program that is installed");
    assert!(status.success(), "{command:?}");
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(Instant::now() < end, "no {what} in 20 s");
        thread::sleep(Duration::from_millis(5));
    }
}

trait Stream: Read + Write + AsFd + Send + Sync {}
impl<T: Read + Write + AsFd + Send + Sync> Stream for T {}

/// A connection that is kept, and when the requests on it that have no answer yet were due.
struct Kept<S> {
    stream: S,
    due: Mutex<VecDeque<Instant>>,
}

/// Sends `requests` in turn, `rate` a second for `lasts`, over `streams` in turn. The latencies, in milliseconds.
fn load<S: Stream>(streams: Vec<S>, requests: &[Vec<u8>], rate: u32, lasts: Duration) -> Vec<f64>
where
    for<'a> &'a S: Read + Write,
{
    let kept: Vec<Kept<S>> = streams.into_iter().map(|stream| Kept { stream, due: Mutex::default() }).collect();
    let (count, sent) = ((f64::from(rate) * lasts.as_secs_f64()) as u32, AtomicBool::new(false));
    thread::scope(|scope| {
        let answers = scope.spawn(|| receive(&kept, &sent));
        let start = Instant::now() + Duration::from_millis(50);
        for number in 0..count {
            let due = start + Duration::from_secs(1) * number / rate;
            while let Some(early) = due.checked_duration_since(Instant::now()) {
                thread::sleep(early);
            }
            let on = &kept[number as usize % kept.len()];
            on.due.lock().expect("no panic").push_back(due);
            (&on.stream).write_all(&requests[number as usize % requests.len()]).expect("room in the socket");
        }
        sent.store(true, Ordering::Relaxed);
        let latencies = answers.join().expect("a receiver that ends");
        assert_eq!(latencies.len(), count as usize, "every question is answered");
        latencies
    })
}

fn receive<S: Stream>(kept: &[Kept<S>], sent: &AtomicBool) -> Vec<f64>
where
    for<'a> &'a S: Read + Write,
{
    const HEAD: &[u8] = b"HTTP/1.1 200";
    let (mut latencies, mut tails) = (Vec::new(), vec![Vec::new(); kept.len()]);
    let mut bytes = vec![0; 64 * 1024];
    let mut quiet = 0;
    // A second without an answer after the last question: what has none gets none.
    while quiet < 10 || !sent.load(Ordering::Relaxed) {
        let fds: Vec<BorrowedFd<'_>> = kept.iter().map(|kept| kept.stream.as_fd()).collect();
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let ready = poll(&mut fds, PollTimeout::from(100_u8)).expect("poll");
        quiet = if ready == 0 { quiet + 1 } else { 0 };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        for ((kept, tail), _) in kept.iter().zip(&mut tails).zip(ready).filter(|(_, ready)| *ready) {
            let read = (&kept.stream).read(&mut bytes).expect("an open connection");
            let now = Instant::now();
            tail.extend_from_slice(&bytes[..read]);
            let heads = tail.windows(HEAD.len()).filter(|window| *window == HEAD).count();
            for _ in 0..heads {
                let due = kept.due.lock().expect("no panic").pop_front().expect("an answer to a question");
                latencies.push((now - due).as_secs_f64() * 1e3);
            }
            tail.drain(..tail.len().saturating_sub(HEAD.len() - 1));
        }
    }
    latencies
}

/// The median, and what 99 of 100 stay below.
fn quantiles(mut latencies: Vec<f64>) -> (f64, f64) {
    let middle = median(&mut latencies);
    (middle, latencies[latencies.len() * 99 / 100])
}

fn question(client: SocketAddr) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nhost: detector\r\nx-detector-client: {}\r\nx-detector-client-port: {}\r\n\
         x-detector-server: 127.0.0.1\r\nx-detector-server-port: 443\r\nx-detector-connection-age: 0.001\r\n\
         x-detector-protocol: HTTP/2.0\r\nx-detector-host: shop.example\r\nx-detector-method: GET\r\n\
         x-detector-uri: /products?page=2\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\r\n",
        client.ip(),
        client.port()
    )
    .into_bytes()
}

fn start_daemon(directory: &Path, socket: &Path) -> Running {
    let config = format!("[capture]\naddresses = \"any\"\n[inline]\nsocket = {socket:?}\n");
    fs::write(directory.join("detector.toml"), config).expect("a file");
    let detector = env!("CARGO_BIN_EXE_detector");
    let control = directory.join("control.sock");
    let mut command = Command::new(detector);
    command.args(["run", "--interface", "lo", "--metrics", "off", "--config"]).arg(directory.join("detector.toml"));
    command.arg("--control-socket").arg(&control).arg("--state-directory").arg(directory.join("state"));
    command.arg("--pins").arg(directory.join("pins")).stdout(Stdio::null());
    command.stderr(fs::File::create(directory.join("log")).expect("a file"));
    let daemon = Running(command.spawn().expect("the daemon"));
    wait_for("decision socket", || UnixStream::connect(socket).is_ok());
    for number in 0..ORDERS {
        let prefix = format!("10.0.{number}.0/24");
        let mut block = Command::new(detector);
        run(block.args(["block", &prefix, "--at", "inline", "--control-socket"]).arg(&control));
    }
    daemon
}

/// Connections that have sent a hello, and go on.
fn clients(listener: &TcpListener) -> Vec<(TcpStream, TcpStream)> {
    let hello = chrome_hello();
    let connect = |_| {
        let mut client = TcpStream::connect(SERVER).expect("a connection");
        client.write_all(&hello).expect("room in the socket");
        (client, listener.accept().expect("the connection's other end").0)
    };
    (0..CLIENTS).map(connect).collect()
}

/// Whether the daemon knows the hello of this client.
fn is_known(socket: &Path, client: SocketAddr) -> bool {
    let mut stream = UnixStream::connect(socket).expect("the socket");
    stream.write_all(&question(client)).expect("room in the socket");
    let mut head = [0; 1024];
    let read = stream.read(&mut head).expect("an answer");
    String::from_utf8_lossy(&head[..read]).contains("x-detector-ja4: t13")
}

fn start_nginx(directory: &Path, socket: &Path) -> Running {
    let snippet = |name: &str| {
        let text = fs::read_to_string(format!("{SNIPPETS}/detector-decision-{name}.conf")).expect("a snippet");
        text.replace("/run/detector/decision.sock", &socket.to_string_lossy())
    };
    let configuration = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log error.log; events {{ worker_connections 1024; }}\n\
         http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u;\n\
         scgi_temp_path s; keepalive_requests 1000000;\n{}\n\
         upstream page {{ server 127.0.0.1:8081; keepalive 32; keepalive_requests 1000000; }}\n\
         server {{ listen 127.0.0.1:8081; keepalive_requests 1000000; return 200 page; }}\n\
         server {{ listen 127.0.0.1:8080; proxy_http_version 1.1; proxy_set_header Connection '';\n{}\n\
         location /plain {{ auth_request off; proxy_pass http://page; }}\n\
         location /asked {{ {}\nproxy_pass http://page; }} }} }}",
        snippet("http"),
        snippet("location"),
        snippet("server"),
    );
    fs::write(directory.join("nginx.conf"), configuration).expect("a file");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).args(["-c", "nginx.conf", "-e", "error.log"]).stdout(Stdio::null());
    let nginx = Running(command.spawn().expect("nginx is installed"));
    wait_for("nginx", || TcpStream::connect("127.0.0.1:8080").is_ok());
    nginx
}

fn through_nginx(path: &str) -> Vec<f64> {
    let streams = || (0..16).map(|_| TcpStream::connect("127.0.0.1:8080").expect("a connection")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n").into_bytes();
    load::<TcpStream>(streams(), std::slice::from_ref(&request), 1000, Duration::from_secs(5))
}

fn main() {
    // Before any thread: what begins later is in it too.
    unshare(CloneFlags::CLONE_NEWNET).expect("root");
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("decision.sock");
    let listener = TcpListener::bind(SERVER).expect("a port of this namespace");
    let _daemon = start_daemon(directory.path(), &socket);
    run(Command::new("chmod").arg("0755").arg(directory.path()));
    run(Command::new("chmod").arg("0666").arg(&socket));
    let clients = clients(&listener);
    let addresses: Vec<SocketAddr> =
        clients.iter().map(|(client, _)| client.local_addr().expect("an address")).collect();
    for address in &addresses {
        wait_for("hello", || is_known(&socket, *address));
    }
    let questions: Vec<Vec<u8>> = addresses.iter().map(|address| question(*address)).collect();
    let streams = || (0..64).map(|_| UnixStream::connect(&socket).expect("the socket")).collect::<Vec<_>>();
    load(streams(), &questions, 20_000, Duration::from_secs(1));
    let decisions = quantiles(load(streams(), &questions, 20_000, Duration::from_secs(10)));
    let _nginx = start_nginx(directory.path(), &socket);
    through_nginx("/asked");
    let (plain, asked) = (quantiles(through_nginx("/plain")), quantiles(through_nginx("/asked")));
    let figure = |what, value, target: Option<f64>| Figure {
        id: "P9",
        what,
        value,
        unit: "ms",
        against: "",
        ratio: None,
        target: target.map_or_else(String::new, |target| format!("< {target}")),
        met: target.map(|target| value < target),
    };
    print(&[
        figure("decision at the socket, 20,000/s, median", decisions.0, None),
        figure("decision at the socket, 20,000/s, p99", decisions.1, Some(1.0)),
        figure("nginx at 1,000/s without asking, median", plain.0, None),
        figure("added by asking, median", asked.0 - plain.0, None),
        figure("added by asking, p99", asked.1 - plain.1, None),
    ]);
}
