//! The real daemon in a network namespace of the benchmark's own, with the hellos of many real connections, and what the
//! system says of its process. Needs root; touches nothing of the host.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare},
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
    },
    unistd::Pid,
};
use tempfile::TempDir;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

use crate::figure::chrome_hello;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 443);
const METRICS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9465);
/// A ServerHello before its random, and after it (RFC 5246 section 7.4.1.3): no session, a cipher, no compression.
const ANSWER: [u8; 11] = [22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
const CHOSEN: [u8; 4] = [0, 0x13, 1, 0];
/// Verdicts on requests.
const ORDERS: usize = 250;
/// JA4 values among the clients.
const JA4_VALUES: usize = 1000;
/// Server's ends that are kept open until their clients are surely gone: they must not be the ones to hang up.
const OPEN: usize = 1000;

/// A program that ends with its value, and what it has started.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Killed, nginx would leave its workers behind.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A client whose hello the daemon knows.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: SocketAddrV4,
    /// When it connected.
    pub(crate) since: Instant,
}

/// A running daemon.
pub(crate) struct Host {
    daemon: Running,
    directory: TempDir,
}

/// Makes all that follows be in a network of its own. Before any thread begins.
pub(crate) fn leave_the_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root");
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
}

/// While it lasts, the system prefers what this process starts to what else goes on: by groups of processes (sched(7),
/// autogroup), since a nice value counts within one's own alone.
pub(crate) struct First(());

const GROUP: &str = "/proc/self/autogroup";

impl First {
    pub(crate) fn come() -> Self {
        if fs::write(GROUP, "-20").is_err() {
            eprintln!("no groups of processes: other work counts as much as the daemon's");
        }
        Self(())
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = fs::write(GROUP, "0");
    }
}

/// How many datagrams may wait for a socket that is made from now on, in this network namespace.
pub(crate) fn set_queue(length: u32) {
    fs::write("/proc/sys/net/unix/max_dgram_qlen", length.to_string()).expect("root");
}

pub(crate) fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status().expect("a program that is installed");
    assert!(status.success(), "{command:?}");
}

pub(crate) fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < end, "no {what} in 30 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes this thread one of those that stand for other machines: what it has to do is done when it is due, however busy
/// the daemon keeps this one. They all take of one processor, so that the daemon's threads, which may use any, aren't
/// interrupted wherever they are. With the most `priority` are those which say how long something took: they hold up no other
/// for more than some microseconds, and would else tell of others' work.
pub(crate) fn be_elsewhere(priority: ThreadPriority) {
    let this = Pid::from_raw(0);
    let may = sched_getaffinity(this).expect("a processor");
    let first = (0..CpuSet::count()).find(|processor| may.is_set(*processor).unwrap_or(false));
    let mut only = CpuSet::new();
    only.set(first.expect("a processor")).expect("one that it may use");
    sched_setaffinity(this, &only).expect("a processor that it may use");
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), priority, policy).expect("root");
}

impl Host {
    /// Starts the daemon, which then knows nobody.
    pub(crate) fn start() -> Self {
        Self::writing(Stdio::null())
    }

    /// How long after a client's first hello its line comes, of a daemon that has just started.
    pub(crate) fn first_line() -> Duration {
        let mut host = Self::writing(Stdio::piped());
        let lines = host.daemon.0.stdout.take().expect("a pipe");
        let listener = TcpListener::bind(SERVER).expect("a port of this namespace");
        let mut client = TcpStream::connect(SERVER).expect("a connection");
        let (mut server, _) = listener.accept().expect("its other end");
        let begun = Instant::now();
        client.write_all(&chrome_hello()).expect("room in the socket");
        server.write_all(&[&ANSWER[..], &[0; 32], &CHOSEN].concat()).expect("room in the socket");
        let mut line = String::new();
        BufReader::new(lines).read_line(&mut line).expect("a line");
        let took = begun.elapsed();
        assert!(line.contains("127.0.0.1"), "{line}");
        took
    }

    /// What `detector explain` takes of a client that was assessed lately; `None` if the daemon remembers none of these.
    pub(crate) fn explain(&self, client: &Client) -> Option<Duration> {
        let mut explain = Command::new(env!("CARGO_BIN_EXE_detector"));
        explain.arg("explain").arg(client.address.ip().to_string());
        explain.arg("--control-socket").arg(self.file("control.sock")).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let status = explain.status().expect("a program that runs");
        status.success().then(|| begun.elapsed())
    }

    fn writing(lines: Stdio) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        let config = format!(
            "[capture]\naddresses = \"any\"\n[inline]\nsocket = {:?}\n[signals]\nsockets = [{:?}]\n",
            file("decision.sock"),
            file("signals.sock")
        );
        fs::write(file("detector.toml"), config).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_detector"));
        command.args(["run", "--interface", "lo", "--metrics", &METRICS.to_string(), "--config"]);
        command.arg(file("detector.toml")).arg("--control-socket").arg(file("control.sock"));
        command.arg("--state-directory").arg(file("state")).arg("--pins").arg(file("pins"));
        command.stdout(lines).stderr(fs::File::create(file("log")).expect("a file"));
        let daemon = Running(command.spawn().expect("the daemon"));
        let host = Self { daemon, directory };
        wait_for("decision socket", || UnixStream::connect(host.decision()).is_ok());
        for number in 0..ORDERS {
            let prefix = format!("10.{}.{}.0/24", number / 250, number % 250);
            let mut block = Command::new(env!("CARGO_BIN_EXE_detector"));
            run(block.args(["block", &prefix, "--at", "inline", "--control-socket"]).arg(host.file("control.sock")));
        }
        host
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn decision(&self) -> PathBuf {
        self.file("decision.sock")
    }

    pub(crate) fn signals(&self) -> PathBuf {
        self.file("signals.sock")
    }

    /// Connects so many clients, each from an address of its own, which send a hello and are gone without a word of the
    /// server's: for the daemon their connections go on.
    pub(crate) fn connect(&self, count: usize) -> Vec<Client> {
        let listener = TcpListener::bind(SERVER).expect("a port of this namespace");
        let mut hello = chrome_hello();
        let mut open = VecDeque::new();
        let clients = (0..count).map(|number| {
            name(&mut hello, number % JA4_VALUES);
            let client = hail(number, &hello);
            open.push_back(listener.accept().expect("the connection's other end"));
            if open.len() > OPEN {
                open.pop_front();
            }
            client
        });
        let clients = clients.collect();
        let known = || self.metric("detector_table_entries", "\"known_connections\"");
        wait_for("hellos of all clients", || known() >= count as f64 * 0.999);
        clients
    }

    /// The sum of a metric's rows with this text in their labels.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let mut page = TcpStream::connect(METRICS).expect("the metrics page");
        page.write_all(b"GET /metrics HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n").expect("room in the socket");
        let mut text = String::new();
        page.read_to_string(&mut text).expect("the page");
        let rows = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(labels))
        });
        rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The most memory that was resident at one time, MiB.
    pub(crate) fn peak_mebibytes(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.0.id())).expect("a running daemon");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    /// CPU seconds of each of its threads.
    pub(crate) fn threads(&self) -> BTreeMap<String, f64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.daemon.0.id())).expect("a running daemon");
        let mut threads = BTreeMap::new();
        for task in tasks.filter_map(Result::ok) {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let nanos: f64 = read("schedstat").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
            *threads.entry(read("comm").trim().to_owned()).or_default() += nanos / 1e9;
        }
        threads
    }
}

/// Gives a hello a JA4 value of its own: its last cipher suite becomes a number that nobody has.
fn name(hello: &mut [u8], number: usize) {
    // A record's and a message's header, version and random; then the session id, then the cipher suites.
    let session = 43;
    let suites = session + 1 + usize::from(hello[session]);
    let length = usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    let last = suites + length;
    hello[last..last + 2].copy_from_slice(&(0xd000 + number as u16).to_be_bytes());
}

fn hail(number: usize, hello: &[u8]) -> Client {
    let [_, a, b, c] = (number as u32 + (1 << 16)).to_be_bytes();
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, a, b, c, 0)).expect("an address of this namespace");
    connect(fd.as_raw_fd(), &SockaddrIn::from(SERVER)).expect("a connection");
    // When it is closed, it is reset.
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("an open socket");
    let mut stream = TcpStream::from(fd);
    let since = Instant::now();
    stream.write_all(hello).expect("room in the socket");
    match stream.local_addr().expect("an address") {
        SocketAddr::V4(address) => Client { address, since },
        SocketAddr::V6(_) => unreachable!("an IPv4 socket"),
    }
}
