//! The sockets: there, for whom they are meant, and for nobody else.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::super::client::quoted;
use super::finding::{Finding, problem, warning, well};
use crate::admin::protocol::Status;
use crate::config::Config;
use crate::door;

/// What every one of them is made with.
const MODE: u32 = 0o660;

/// Looks at those that a daemon has; without one there are none to look at.
pub(super) fn look(config: &Config, control: &Path, status: Option<&Status>) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let admin = &config.admin;
    let mut sockets = vec![
        ("control socket", control.to_owned(), &admin.control_group),
        ("status socket", admin.status_socket.clone(), &admin.status_group),
    ];
    let signals =
        status.signals.sockets.iter().map(|path| ("signal socket", PathBuf::from(path), &config.signals.group));
    sockets.extend(signals);
    sockets.extend(config.inline.socket.iter().map(|path| ("decision socket", path.clone(), &config.inline.group)));
    sockets.into_iter().map(|(name, path, group)| one(name, &path, group)).collect()
}

fn one(name: &str, path: &Path, group: &str) -> Finding {
    let shown = path.display();
    let restart = "systemctl restart detector";
    let found = match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => found,
        Ok(_) => {
            return problem(
                "sockets",
                format!("{name} {shown} is no socket"),
                format!("rm {}; {restart}", quoted(path)),
            );
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return warning("sockets", format!("this user may not look at the {name} {shown}"), "sudo detector doctor");
        }
        Err(error) => return problem("sockets", format!("{name} {shown}: {error}"), restart),
    };
    let mode = found.mode() & 0o7777;
    if mode & 0o7 != 0 {
        let what = format!("{name} {shown} has mode {mode:04o}: anybody on this host may use it");
        return problem("sockets", what, format!("chmod {MODE:04o} {}", quoted(path)));
    }
    if mode != MODE {
        let what = format!("{name} {shown} has mode {mode:04o}, not {MODE:04o}");
        return warning("sockets", what, format!("chmod {MODE:04o} {}", quoted(path)));
    }
    match door::socket::group(group) {
        Some(gid) if gid.as_raw() != found.gid() => {
            let what = format!("{name} {shown} is not of the group {group}: its members can't use it");
            warning("sockets", what, format!("chgrp {group} {}", quoted(path)))
        }
        Some(_) => well("sockets", format!("{name} {shown}: mode {mode:04o}, group {group}")),
        None => well("sockets", format!("{name} {shown}: mode {mode:04o}, for root alone: there is no group {group}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::super::finding::State;
    use super::*;

    #[test]
    fn a_socket_is_for_whom_it_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.sock");
        let none = "no-such-group";
        assert_eq!(one("control socket", &path, none).state, State::Problem, "it is missing");
        let _socket = UnixListener::bind(&path).unwrap();
        for (mode, state) in [(0o660, State::Ok), (0o600, State::Warning), (0o666, State::Problem)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let found = one("control socket", &path, none);
            assert_eq!(found.state, state, "{mode:o}: {found:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(one("control socket", &path, none).state, State::Problem, "it is a file");
    }
}
