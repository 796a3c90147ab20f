//! Unix sockets that a group may use: bound here, served elsewhere. A file that a dead daemon left is replaced, a live
//! one's never.

use std::{
    fs, io,
    os::fd::AsFd,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{
        getsockopt, setsockopt,
        sockopt::{PassCred, PeerCredentials, ReceiveTimestampns},
    },
    unistd::{Gid, Group},
};

/// What a socket is for, in the words of its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// As in "the control socket".
    pub name: &'static str,
    /// Where another path is chosen.
    pub setting: &'static str,
}

/// Operators' commands.
pub const CONTROL: Purpose = Purpose { name: "control socket", setting: "`--control-socket`" };
/// What changes nothing.
pub const STATUS: Purpose = Purpose { name: "status socket", setting: "`status_socket` in [admin]" };
/// Web servers' questions.
pub const DECISION: Purpose = Purpose { name: "decision socket", setting: "`socket` in [inline]" };
/// Web servers' reports.
pub const SIGNAL: Purpose = Purpose { name: "signal socket", setting: "`sockets` and `streams` in [signals]" };

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error(
        "another detector is running{} with the {} `{path}`; stop it, or choose another with {}",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), purpose.name, purpose.setting
    )]
    Running {
        /// What the socket is for.
        purpose: Purpose,
        /// The socket.
        path: PathBuf,
        /// The other daemon, if its socket says.
        pid: Option<i32>,
    },
    /// Something else is there.
    #[error("`{path}` is there and not a socket; remove it, or choose another with {}", purpose.setting)]
    NotASocket {
        /// What the socket would be for.
        purpose: Purpose,
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("can't make the {} `{path}`: {what}: {source}; choose another with {}", purpose.name, purpose.setting)]
    Io {
        /// What the socket would be for.
        purpose: Purpose,
        /// The socket.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl SocketError {
    /// The system refused for want of permission (exit code 77).
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Connections that wait for a listener; the kernel may allow fewer (net.core.somaxconn).
const QUEUE: i32 = 4096;

/// Makes a listener's queue as long as can be: whoever finds it full, waits a second before he tries again, or is told
/// that nobody is there.
///
/// # Errors
/// If it is no listener.
pub fn queue_up(listener: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(listener, QUEUE)?)
}

/// The group of that name.
#[must_use]
pub fn group(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

/// A bound socket, and the file that stands for it, which goes when this does.
#[derive(Debug)]
pub struct Socket<S> {
    socket: S,
    path: PathBuf,
    inode: u64,
}

impl Socket<UnixListener> {
    /// For streams, non-blocking. Makes the socket, and its directory if that is missing. A file that a dead daemon left
    /// is replaced. The mode is 0660, and the group `group` if there is one of that name.
    ///
    /// # Errors
    /// When a live daemon has it, or the system refuses.
    pub fn listener(purpose: Purpose, path: &Path, group: &str) -> Result<Self, SocketError> {
        place(purpose, path, group, |draft| {
            let listener = UnixListener::bind(draft)?;
            queue_up(&listener)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
    }
}

impl Socket<UnixDatagram> {
    /// The same for datagrams, each with its sender's credentials and when it was sent. SO_RCVBUF plays no part: what waits
    /// counts as its sender's.
    ///
    /// # Errors
    /// Likewise.
    pub fn datagram(purpose: Purpose, path: &Path, group: &str) -> Result<Self, SocketError> {
        place(purpose, path, group, |draft| {
            let socket = UnixDatagram::bind(draft)?;
            // Before anybody can know the socket: no message comes without credentials.
            setsockopt(&socket, PassCred, &true)?;
            setsockopt(&socket, ReceiveTimestampns, &true)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
    }
}

impl<S> Socket<S> {
    /// The socket itself.
    pub const fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S> Drop for Socket<S> {
    fn drop(&mut self) {
        // Only the file made here: a later daemon may have replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Binds under another name until mode and group are right, so that nobody else connects or sends before.
fn place<S>(
    purpose: Purpose,
    path: &Path,
    group_name: &str,
    bind: impl FnOnce(&Path) -> io::Result<S>,
) -> Result<Socket<S>, SocketError> {
    let fail = |what| move |source| SocketError::Io { purpose, path: path.to_owned(), what, source };
    check_free(purpose, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(fail("make its directory"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = parent.join(name);
    drop(fs::remove_file(&draft));
    let finish = || {
        let socket = bind(&draft).map_err(fail("bind"))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o660)).map_err(fail("set its mode"))?;
        match group(group_name) {
            Some(group) => chown(&draft, None, Some(group.as_raw())).map_err(fail("give it to its group"))?,
            None => tracing::info!(
                group = group_name,
                "no such group: only root and the user of the daemon may use the {}",
                purpose.name
            ),
        }
        let inode = fs::metadata(&draft).map_err(fail("look at it"))?.ino();
        fs::rename(&draft, path).map_err(fail("move it into place"))?;
        Ok(Socket { socket, path: path.to_owned(), inode })
    };
    finish().inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Whether nobody has the socket, of whichever type it is.
fn check_free(purpose: Purpose, path: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Io { purpose, path: path.to_owned(), what: "look whether it is in use", source };
    let is_nobodys =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { purpose, path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let running = |pid| Err(SocketError::Running { purpose, path: path.to_owned(), pid });
    match UnixStream::connect(path) {
        Ok(stream) => return running(getsockopt(&stream, PeerCredentials).ok().map(|peer| peer.pid())),
        Err(error) if is_nobodys(&error) => return Ok(()),
        // EPROTOTYPE: of another type than a stream socket. Anything else it is told again.
        Err(_) => {}
    }
    match UnixDatagram::unbound().and_then(|probe| probe.connect(path)) {
        Ok(()) => running(None),
        Err(error) if is_nobodys(&error) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}
