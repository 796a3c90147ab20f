//! A socket's file: path and group in, a bound socket out, whose file (mode 0660, in a directory of mode 0755) goes with it.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::socket::{
        setsockopt,
        sockopt::{PassCred, ReceiveTimestampns},
    },
    unistd::Gid,
};

use super::Error;

/// A bound socket, and the file that stands for it.
#[derive(Debug)]
pub(super) struct Socket<S> {
    pub(super) socket: S,
    path: PathBuf,
    inode: u64,
}

impl Socket<UnixDatagram> {
    /// For datagrams, each with its sender's credentials and when it was sent. SO_RCVBUF plays no part: what waits counts as its sender's.
    pub(super) fn datagram(path: &Path, group: Option<Gid>) -> Result<Self, Error> {
        check_free(path)?;
        place(path, group, |draft| {
            let socket = UnixDatagram::bind(draft)?;
            // Before anybody can know the socket: no message comes without credentials.
            setsockopt(&socket, PassCred, &true)?;
            setsockopt(&socket, ReceiveTimestampns, &true)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
    }
}

impl Socket<UnixListener> {
    /// For streams.
    pub(super) fn listener(path: &Path, group: Option<Gid>) -> Result<Self, Error> {
        check_free(path)?;
        place(path, group, |draft| {
            let listener = UnixListener::bind(draft)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
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

fn check_free(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Io { path: path.to_owned(), what: "look whether it is in use", source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    let probe = UnixDatagram::unbound().map_err(fail)?;
    match probe.connect(path) {
        Ok(()) => return Err(Error::Running { path: path.to_owned() }),
        // Nobody has it, whichever type it was of.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            return Ok(());
        }
        Err(_) => {}
    }
    // Of another type than a datagram socket.
    match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        _ => Err(Error::Running { path: path.to_owned() }),
    }
}

/// Binds under another name until mode and group are right, so that nobody else sends before.
fn place<S>(path: &Path, group: Option<Gid>, bind: impl FnOnce(&Path) -> io::Result<S>) -> Result<Socket<S>, Error> {
    let fail = |what| move |source| Error::Io { path: path.to_owned(), what, source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(fail("make its directory"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = parent.join(name);
    drop(fs::remove_file(&draft));
    let finish = || {
        let socket = bind(&draft).map_err(fail("bind"))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o660)).map_err(fail("set its mode"))?;
        if let Some(group) = group {
            chown(&draft, None, Some(group.as_raw())).map_err(fail("give it to its group"))?;
        }
        let inode = fs::metadata(&draft).map_err(fail("look at it"))?.ino();
        fs::rename(&draft, path).map_err(fail("move it into place"))?;
        Ok(Socket { socket, path: path.to_owned(), inode })
    };
    finish().inspect_err(|_| drop(fs::remove_file(&draft)))
}
