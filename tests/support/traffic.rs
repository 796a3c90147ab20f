//! Very many clients: plain TCP connections that begin with recorded hellos, at a rate, from any address; and a site
//! that answers their requests and reports each on the daemon's signal socket, as a web server does. No TLS is spoken: to
//! the daemon a connection is its hello, and to the test a client is stopped if it isn't answered.
//!
//! A site may ask on the decision socket before it answers, too.
//!
//! In: visits, each with a source, a hello and requests. Out: how many of its requests were answered, and when. Both ends
//! are threads of this process, each in its namespace. Memory: a line for each visit, and [`MOST_AT_ONCE`] connections.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixDatagram, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::daemon::signal_socket;
use crate::drafts::Dice;
use crate::lab::{CLIENT_V4, CLIENT_V6, Lab, Namespace, SERVER_V4, SERVER_V6};
use crate::replay::Recorded;

/// Networks of the clients: whole ones, so that a test may take any address of them.
const NETWORKS: [&str; 2] = ["10.80.0.0/12", "fd78::/16"];
const PORT: u16 = 443;
/// Connections at one time.
const MOST_AT_ONCE: usize = 8000;
/// Between requests of one connection nobody waits longer.
const SILENT: Duration = Duration::from_secs(60);
/// GREASE (RFC 8701), and the pre-shared key, which comes last: they keep their place.
const KEEP_PLACE: u16 = 41;

/// A recorded ClientHello that can be sent again, with another random each time.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Up to the extensions: record, message, ciphers and the extensions' length.
    head: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    permutes: bool,
}

/// One connection of a client.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Whatever tells visits apart in what comes of them.
    pub who: usize,
    /// Its address, in 10.80.0.0/12 or fd78::/16.
    pub source: IpAddr,
    /// What it sends first.
    pub hello: Vec<u8>,
    /// Its requests, one after the other: keys of a report beside the addresses, `"path":"/"` and so on.
    pub requests: Vec<String>,
    /// How long it waits for each answer.
    pub patience: Duration,
}

/// What came of one.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// Of the visit.
    pub who: usize,
    /// When it began, after the first one.
    pub at: Duration,
    /// Requests that it would send.
    pub asked: usize,
    /// Those that were answered.
    pub answered: usize,
}

impl Came {
    /// Whether all of them were.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.answered == self.asked
    }
}

/// The site. Its value gone, it is closed.
#[derive(Debug)]
pub struct Site {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Hello {
    /// The first one of the capture `name`; `permutes`: with its extensions in another order each time, as Chromium.
    ///
    /// # Errors
    /// There is no such capture, or no hello in one record in it.
    pub fn recorded(name: &str, permutes: bool) -> Result<Self> {
        let record = Recorded::nth(name, 0)?.hello();
        let (head, mut rest) = split(&record).with_context(|| format!("no hello in one record in `{name}`"))?;
        let mut extensions = Vec::new();
        while let [_, _, high, low, ..] = *rest {
            let (extension, more) = rest.split_at(4 + usize::from(u16::from_be_bytes([high, low])));
            extensions.push(extension.to_vec());
            rest = more;
        }
        Ok(Self { head: head.to_vec(), extensions, permutes })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.head.clone();
        // After the record's header, the message's and a version.
        bytes.iter_mut().skip(11).take(32).for_each(|byte| *byte = dice.number() as u8);
        let mut extensions = self.extensions.clone();
        if self.permutes {
            let code = |extension: &Vec<u8>| u16::from_be_bytes([extension[0], extension[1]]);
            let moves = |code: u16| code & 0x0f0f != 0x0a0a && code != KEEP_PLACE;
            let places: Vec<usize> = (0..extensions.len()).filter(|place| moves(code(&extensions[*place]))).collect();
            let mut shuffled = places.clone();
            dice.shuffle(&mut shuffled);
            places.iter().zip(shuffled).for_each(|(to, from)| extensions[*to] = self.extensions[from].clone());
        }
        bytes.extend(extensions.concat());
        bytes
    }
}

/// What stands before the first extension, and all extensions (RFC 8446 section 4.1.2).
fn split(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let after_session = 44 + usize::from(*record.get(43)?);
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*record.get(at)?, *record.get(at + 1)?])));
    let after_ciphers = after_session + 2 + word(after_session)?;
    let extensions = after_ciphers + 1 + usize::from(*record.get(after_ciphers)?) + 2;
    (record.len() == extensions + word(extensions - 2)?).then(|| record.split_at(extensions))
}

impl Site {
    /// Opens it, and asks on that decision socket before each answer; who isn't allowed gets none, and is reported as 403.
    ///
    /// # Errors
    /// Likewise.
    pub fn start_asking(lab: &Lab, socket: &Path) -> Result<Self> {
        Self::open(lab, Some(Questions { socket: socket.to_owned(), idle: tokio::sync::Mutex::default() }))
    }

    /// Opens it on port 443 of the server's addresses, reachable from all of the clients' networks.
    ///
    /// # Errors
    /// When a route can't be made, or it can't listen.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::open(lab, None)
    }

    fn open(lab: &Lab, questions: Option<Questions>) -> Result<Self> {
        let [v4, v6] = NETWORKS;
        lab.sysctl(lab.client(), "net.ipv6.ip_nonlocal_bind=1")?;
        lab.client().ip(&format!("route add local {v4} dev lo"))?;
        lab.client().ip(&format!("-6 route add local {v6} dev lo"))?;
        lab.server().ip(&format!("route add {v4} via {CLIENT_V4}"))?;
        lab.server().ip(&format!("-6 route add {v6} via {CLIENT_V6}"))?;
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let socket = signal_socket(lab);
        let thread = within(lab.server(), move || async move {
            let reports = UnixDatagram::unbound()?;
            reports.connect(&socket).with_context(|| socket.display().to_string())?;
            let doors = Arc::new(Doors { reports, questions });
            let (v4, v6) = (listen(SERVER_V4)?, listen(SERVER_V6)?);
            ready.send(())?;
            tokio::select! {
                ended = accept(&v4, &doors) => ended,
                ended = accept(&v6, &doors) => ended,
                _ = stopped => Ok(()),
            }
        })?;
        let mut site = Self { stop: Some(stop), thread: Some(thread) };
        if is_ready.recv().is_err() {
            site.stop.take();
            let ended = site.thread.take().and_then(|thread| thread.join().ok());
            ended.context("the site's thread panicked")?.context("the site can't be opened")?;
        }
        Ok(site)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.take();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Runs one task in a namespace, by a thread of its own.
fn within<T, F>(namespace: &Namespace, task: impl FnOnce() -> F + Send + 'static) -> Result<JoinHandle<Result<T>>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let name = namespace.name();
    let file = File::open(format!("/run/netns/{name}")).with_context(|| format!("the namespace {name}"))?;
    Ok(thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task())
    }))
}

/// With room for those who come in a moment in which the machine does something else.
fn listen(address: IpAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, PORT))?;
    Ok(socket.listen(4096)?)
}

/// What a site knows of the daemon.
struct Doors {
    reports: UnixDatagram,
    questions: Option<Questions>,
}

/// Connections with the decision socket, kept as a web server keeps them.
struct Questions {
    socket: PathBuf,
    idle: tokio::sync::Mutex<Vec<BufReader<UnixStream>>>,
}

impl Questions {
    /// Whether a request with these keys is to be answered.
    async fn admits(&self, client: SocketAddr, server: SocketAddr, keys: &str) -> Result<bool> {
        let keys: Value = serde_json::from_str(&format!("{{{keys}}}"))?;
        let named = [
            ("x-detector-uri", "path"),
            ("x-detector-session", "sid"),
            ("user-agent", "ua"),
            ("referer", "ref"),
            ("sec-fetch-dest", "sf_dest"),
        ];
        let lines = named.iter().filter_map(|(name, key)| Some(format!("{name}: {}\r\n", keys[*key].as_str()?)));
        let question = format!(
            "GET / HTTP/1.1\r\nhost: detector\r\nx-detector-host: shop.test\r\nx-detector-client: {}\r\n\
             x-detector-client-port: {}\r\nx-detector-server: {}\r\nx-detector-server-port: {}\r\n{}\r\n",
            client.ip(),
            client.port(),
            server.ip(),
            server.port(),
            lines.collect::<String>()
        );
        let idle = self.idle.lock().await.pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => BufReader::new(UnixStream::connect(&self.socket).await?),
        };
        stream.get_mut().write_all(question.as_bytes()).await?;
        let (mut head, mut length) = (Vec::new(), 0);
        while head.last().is_none_or(|line| line != "\r\n") {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "the decision socket was closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            head.push(line);
        }
        stream.read_exact(&mut vec![0; length]).await?;
        self.idle.lock().await.push(stream);
        let allowed = |line: &String| line.to_ascii_lowercase().starts_with("x-detector-decision: allow");
        Ok(head.iter().any(allowed))
    }
}

async fn accept(listener: &TcpListener, doors: &Arc<Doors>) -> Result<()> {
    loop {
        let (stream, client) = listener.accept().await?;
        let doors = Arc::clone(doors);
        // A client that goes amid its request was stopped, and knows.
        tokio::spawn(async move { timeout(SILENT, answer(stream, client, &doors)).await });
    }
}

/// Reads a hello, then requests; answers and reports each, until the client says that it was the last one.
async fn answer(mut stream: TcpStream, client: SocketAddr, doors: &Doors) -> Result<()> {
    let server = stream.local_addr()?;
    stream.set_nodelay(true)?;
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))]).await?;
    let mut stream = BufReader::new(stream);
    for number in 1.. {
        let mut keys = String::new();
        stream.read_line(&mut keys).await?;
        let Some(keys) = keys.strip_suffix('\n').filter(|keys| !keys.is_empty()) else { break };
        let admitted = match &doors.questions {
            Some(questions) => questions.admits(client, server, keys).await?,
            None => true,
        };
        let (status, answer) = if admitted { (200, "page\n") } else { (403, "no\n") };
        let report = format!(
            "{{\"v\":1,\"ip\":\"{}\",\"port\":{},\"sip\":\"{}\",\"sport\":{},\"n\":{number},\"dur\":0.0001,\
             \"host\":\"shop.test\",\"method\":\"GET\",\"proto\":\"HTTP/2.0\",\"status\":{status},{keys}}}",
            client.ip(),
            client.port(),
            server.ip(),
            server.port()
        );
        stream.get_mut().write_all(answer.as_bytes()).await?;
        doors.reports.send(report.as_bytes()).await?;
    }
    Ok(())
}

/// How visits follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// As one program sends them, by the clock.
    Even,
    /// As people come who don't know of each other, like rain (a Poisson process).
    Random,
}

/// Sends so many visits a second from the lab's client namespace, and waits for the last one.
///
/// # Errors
/// When a client can't even try.
pub fn send(lab: &Lab, per_second: f64, arrivals: Arrivals, visits: Vec<Visit>) -> Result<Vec<Came>> {
    let count = visits.len();
    let thread = within(lab.client(), move || async move {
        let (came, at_once) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(MOST_AT_ONCE)));
        let (begin, mut next, mut dice) = (Instant::now(), 0.0, Dice(1));
        for visit in visits {
            sleep_until(begin + Duration::from_secs_f64(next)).await;
            let chance = (dice.below(1 << 20) as f64 + 0.5) / f64::from(1 << 20);
            next += if arrivals == Arrivals::Even { 1.0 } else { -chance.ln() } / per_second;
            let seat = Arc::clone(&at_once).acquire_owned().await?;
            let (came, at) = (Arc::clone(&came), begin.elapsed());
            tokio::spawn(async move {
                let answered = make(&visit).await;
                let (who, asked) = (visit.who, visit.requests.len());
                came.lock().unwrap_or_else(PoisonError::into_inner).push(Came { who, at, asked, answered });
                drop(seat);
            });
        }
        let _all = at_once.acquire_many(u32::try_from(MOST_AT_ONCE)?).await?;
        let mut came = came.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *came))
    })?;
    let mut came = thread.join().ok().context("the clients' thread panicked")??;
    ensure!(came.len() == count, "{} of {count} visits were made", came.len());
    came.sort_by_key(|came| came.at);
    Ok(came)
}

/// Makes a visit; how many of its requests were answered.
async fn make(visit: &Visit) -> usize {
    let mut answered = 0;
    let Ok(Ok(mut stream)) = timeout(visit.patience, connect(visit)).await else { return 0 };
    for request in &visit.requests {
        let exchange = async {
            stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await.map(|_| answer)
        };
        match timeout(visit.patience, exchange).await {
            Ok(Ok(answer)) if !answer.is_empty() => answered += usize::from(answer == "page\n"),
            _ => return answered,
        }
    }
    // The server closes, so that its side waits with the ports.
    let _ = timeout(visit.patience, async {
        stream.get_mut().write_all(b"\n").await?;
        stream.read_line(&mut String::new()).await
    })
    .await;
    answered
}

async fn connect(visit: &Visit) -> Result<BufReader<TcpStream>> {
    let (socket, server) = match visit.source {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, SERVER_V4),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, SERVER_V6),
    };
    socket.bind(SocketAddr::new(visit.source, 0))?;
    let mut stream = socket.connect(SocketAddr::new(server, PORT)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&visit.hello).await?;
    Ok(BufReader::new(stream))
}
