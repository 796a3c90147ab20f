//! The other end of the control socket: a [`Request`] out, its [`Response`] in, or a [`Failure`] that says what to do
//! next. Blocking, five seconds at most for each step but a load. Bound: one frame.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Group};

use super::{Exit, Failure};
use crate::admin::protocol::{FRAME_MAX, Request, Response};
use crate::admin::ssh;
use crate::config::{Config, DEFAULT_CONTROL_SOCKET, Overrides};

/// For one request, or one response.
const DEADLINE: Duration = Duration::from_secs(5);

/// Environment variable with the path of the control socket.
pub const SOCKET_VARIABLE: &str = "DETECTOR_CONTROL_SOCKET";

/// Where the daemon is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ControlArgs {
    /// Control socket of the daemon [default: the configuration's, /run/detector/control.sock]
    #[arg(long, value_name = "PATH", env = SOCKET_VARIABLE, hide_env_values = true)]
    pub control_socket: Option<PathBuf>,
}

impl ControlArgs {
    /// The flag, the environment, the configuration or the default, in this order. A configuration that can't be read
    /// is passed over: an operator must get at the daemon while someone edits that.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let configured = || Config::load(&Overrides::default()).map(|config| config.admin.control_socket);
        self.control_socket.clone().unwrap_or_else(|| configured().unwrap_or_else(|_| DEFAULT_CONTROL_SOCKET.into()))
    }

    /// The socket beside it, on which nothing can be changed.
    fn status_path(&self) -> PathBuf {
        let overrides = Overrides { control_socket: self.control_socket.clone(), ..Overrides::default() };
        let default = || Config::default().admin.status_socket;
        Config::load(&overrides).map_or_else(|_| default(), |config| config.admin.status_socket)
    }

    /// What a further command needs to reach the same daemon: nothing, or ` --control-socket PATH`.
    #[must_use]
    pub fn suffix(&self) -> String {
        let from_environment = || std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        match &self.control_socket {
            Some(path) if self.control_socket != from_environment() => format!(" --control-socket {}", quoted(path)),
            _ => String::new(),
        }
    }
}

/// Where the SSH session comes from that this process runs in, if it or an ancestor says so. The daemon looks too, but as
/// a user of its own it doesn't see what belongs to others.
#[must_use]
pub fn ssh_client() -> Option<IpAddr> {
    ssh::client_of(i32::try_from(std::process::id()).ok()?)
}

/// As a shell reads it back.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A conversation with the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    deadline: Duration,
}

impl Client {
    /// Connects to look and not to change: for who may not do that, to the socket beside it.
    ///
    /// # Errors
    /// When there is no daemon, or the caller may not even look.
    pub fn reader(args: &ControlArgs) -> Result<Self, Failure> {
        let failure = match Self::connect(args) {
            Err(failure) if failure.exit == Exit::Permission => failure,
            done => return done,
        };
        let path = args.status_path();
        // What is said of it is about the control socket: to look is the least that the caller may want.
        UnixStream::connect(&path).map_err(|_| failure).and_then(|stream| Self::over(stream, path))
    }

    /// Connects.
    ///
    /// # Errors
    /// When there is no daemon, or the caller may not speak to it.
    pub fn connect(args: &ControlArgs) -> Result<Self, Failure> {
        let path = args.path();
        let stream = UnixStream::connect(&path).map_err(|error| unreachable(&path, &error))?;
        Self::over(stream, path)
    }

    fn over(stream: UnixStream, path: PathBuf) -> Result<Self, Failure> {
        let client = Self { stream: BufReader::new(stream), path, deadline: DEADLINE };
        let stream = client.stream.get_ref();
        let deadlines = stream.set_read_timeout(Some(DEADLINE)).and(stream.set_write_timeout(Some(DEADLINE)));
        deadlines.map_err(|error| client.lost(&error))?;
        Ok(client)
    }

    /// Waits so long for a response from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn patience(&mut self, deadline: Duration) -> Result<(), Failure> {
        self.deadline = deadline;
        self.stream.get_ref().set_read_timeout(Some(deadline)).map_err(|error| self.lost(&error))
    }

    /// Asks, and waits for the response. An error of the daemon is a [`Failure`].
    ///
    /// # Errors
    /// When the daemon doesn't answer, or answers with an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response, Failure> {
        let mut line = serde_json::to_vec(request).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| self.lost(&error))?;
        line.clear();
        let read = (&mut self.stream).take(FRAME_MAX as u64).read_until(b'\n', &mut line);
        read.map_err(|error| self.lost(&error))?;
        if line.is_empty() {
            return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&line) {
            Ok(Response::Error { message }) => Err(Failure::new(Exit::Failed, format!("the daemon says: {message}"))),
            Ok(Response::Forbidden { message }) => Err(Failure::new(Exit::Permission, message)),
            Ok(Response::Refused { reason, hint }) => Err(Failure::new(Exit::Failed, format!("{reason}\n{hint}"))),
            Ok(response) => Ok(response),
            Err(error) => {
                let what = format!("`{}` answers what this detector doesn't understand: {error}", self.path.display());
                Err(Failure::new(Exit::Failed, format!("{what}\nis the daemon of another version? restart it")))
            }
        }
    }

    /// The daemon is there and doesn't answer.
    fn lost(&self, error: &io::Error) -> Failure {
        let pid = getsockopt(self.stream.get_ref(), PeerCredentials).map_or(0, |peer| peer.pid());
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer in {} s", self.deadline.as_secs())
            }
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            _ => error.to_string(),
        };
        let path = self.path.display();
        let what = format!("the daemon (pid {pid}) doesn't answer on `{path}`: {reason}");
        Failure::new(Exit::Unavailable, format!("{what}\nis it stopped or overloaded? `ps -o pid,stat,time -p {pid}`"))
    }
}

/// What starts the daemon of the host at `root`: as a service, where it is installed as one.
fn start(root: &Path) -> &'static str {
    let is_service = ["run/systemd/system", "usr/lib/systemd/system/detector.service"];
    let is_service = is_service.iter().all(|path| root.join(path).exists());
    if is_service { "systemctl start detector" } else { "detector run" }
}

/// Nobody took the connection.
fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    if error.kind() != io::ErrorKind::PermissionDenied {
        let what = format!("can't reach the daemon on `{shown}`: {error}");
        let hint = format!("is it running? start it with `{}`", start(Path::new("/")));
        return Failure::new(Exit::Unavailable, format!("{what}\n{hint}"));
    }
    let group = fs::metadata(path).ok().map(|found| Gid::from_raw(found.gid())).filter(|gid| gid.as_raw() != 0);
    let group = group.and_then(|gid| Group::from_gid(gid).ok().flatten());
    let hint = match group {
        Some(group) => {
            format!("use sudo, or join its group: `sudo usermod -aG {} $USER`, and log in again", group.name)
        }
        None => "use sudo".to_owned(),
    };
    Failure::new(Exit::Permission, format!("you may not use the control socket `{shown}`\n{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> ControlArgs {
        ControlArgs { control_socket: Some(path.to_owned()) }
    }

    #[test]
    fn no_daemon_is_said_with_the_command_that_starts_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let missing = Client::connect(&at(&path)).unwrap_err();
        assert_eq!(missing.exit, Exit::Unavailable);
        let hint = format!("\nis it running? start it with `{}`", start(Path::new("/")));
        assert!(missing.message.ends_with(&hint), "{}", missing.message);
        let root = directory.path();
        fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        assert_eq!(start(root), "detector run");
        fs::create_dir_all(root.join("usr/lib/systemd/system/detector.service")).unwrap();
        assert_eq!(start(root), "systemctl start detector");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(Client::connect(&at(&path)).unwrap_err().exit, Exit::Unavailable);
    }

    #[test]
    fn a_permission_is_never_taken_for_a_missing_daemon() {
        let failure = unreachable(Path::new("/run/x.sock"), &io::ErrorKind::PermissionDenied.into());
        assert_eq!(failure.exit, Exit::Permission);
        assert_eq!(failure.message, "you may not use the control socket `/run/x.sock`\nuse sudo");
    }

    #[test]
    fn a_daemon_that_hangs_up_is_unavailable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            BufReader::new(stream).read_line(&mut String::new()).unwrap();
        });
        let failure = Client::connect(&at(&path)).unwrap().ask(&Request::Status).unwrap_err();
        server.join().unwrap();
        assert_eq!(failure.exit, Exit::Unavailable);
        let pid = format!("(pid {}) doesn't answer", std::process::id());
        assert!(failure.message.contains(&pid) && failure.message.contains("closed the connection"), "{failure}");
    }

    #[test]
    fn undo_lines_reach_the_same_daemon() {
        assert_eq!(ControlArgs::default().suffix(), "");
        assert_eq!(at(Path::new("/tmp/c.sock")).suffix(), " --control-socket /tmp/c.sock");
        assert_eq!(at(Path::new("/tmp/it's")).suffix(), r" --control-socket '/tmp/it'\''s'");
    }
}
