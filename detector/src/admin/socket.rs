//! Unix sockets that a group may use: bound here, served elsewhere. A file that a dead daemon left is replaced, a live
//! one's never.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Group;

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
/// Web servers' questions.
pub const DECISION: Purpose = Purpose { name: "decision socket", setting: "`socket` in [inline]" };

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error(
        "another detector is running (pid {pid}) with the {} `{path}`; stop it, or choose another with {}",
        purpose.name, purpose.setting
    )]
    Running {
        /// What the socket is for.
        purpose: Purpose,
        /// The socket.
        path: PathBuf,
        /// The other daemon.
        pid: i32,
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

/// A socket that listens. Its file goes when this does.
#[derive(Debug)]
pub struct Socket {
    listener: StdListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Makes the socket, and its directory if that is missing. A file that a dead daemon left is replaced. The mode is
    /// 0660, and the group `group` if there is one of that name.
    ///
    /// # Errors
    /// When a live daemon has it, or the system refuses.
    pub fn bind(purpose: Purpose, path: &Path, group: &str) -> Result<Self, SocketError> {
        let fail = |what| move |source| SocketError::Io { purpose, path: path.to_owned(), what, source };
        check_free(purpose, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(fail("make its directory"))?;
        // Under another name until mode and group are right: nobody else connects in between.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let draft = parent.join(name);
        drop(fs::remove_file(&draft));
        let listener = StdListener::bind(&draft).map_err(fail("bind"))?;
        let finish = || {
            listener.set_nonblocking(true).map_err(fail("set non-blocking"))?;
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o660)).map_err(fail("set its mode"))?;
            match Group::from_name(group) {
                Ok(Some(group)) => std::os::unix::fs::chown(&draft, None, Some(group.gid.as_raw()))
                    .map_err(fail("give it to its group"))?,
                _ => tracing::info!(group, "no such group: only the user of the daemon may use the {}", purpose.name),
            }
            let inode = fs::metadata(&draft).map_err(fail("look at it"))?.ino();
            fs::rename(&draft, path).map_err(fail("move it into place"))?;
            Ok(inode)
        };
        let inode = finish().inspect_err(|_| drop(fs::remove_file(&draft)))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// What accepts, for a runtime.
    ///
    /// # Errors
    /// Without descriptors.
    pub fn listener(&self) -> io::Result<StdListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only the file made here: a later daemon may have replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn check_free(purpose: Purpose, path: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Io { purpose, path: path.to_owned(), what: "look whether it is in use", source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket { purpose, path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(stream) => {
            let pid = getsockopt(&stream, PeerCredentials).map_or(0, |peer| peer.pid());
            Err(SocketError::Running { purpose, path: path.to_owned(), pid })
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}
