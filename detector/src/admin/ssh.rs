//! Where an operator sits: a process in, that of a command or the one at the other end of the control socket; the address
//! its SSH session comes from out. sshd says so in the environment of what it starts (sshd(8), SSH_CONNECTION); sudo
//! leaves it out, so the ancestors are asked too.

use std::{fs, net::IpAddr};

use crate::policy::never_block::{SSH_VARIABLES, ssh_client};

/// Ancestors looked at: shells in shells have an end.
const ANCESTORS: usize = 32;

/// The address that the SSH session of process `pid` comes from, if it has one and this process may see it.
pub fn client_of(pid: i32) -> Option<IpAddr> {
    let mut pid = pid;
    for _ in 0..ANCESTORS {
        if let Some(address) = fs::read(format!("/proc/{pid}/environ")).ok().and_then(|bytes| client_in(&bytes)) {
            return Some(address);
        }
        pid = parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    }
    None
}

/// The client in an environment, whose variables end with a zero byte each.
fn client_in(environ: &[u8]) -> Option<IpAddr> {
    environ.split(|byte| *byte == 0).find_map(|variable| {
        let variable = std::str::from_utf8(variable).ok()?;
        let (name, value) = variable.split_once('=')?;
        if SSH_VARIABLES.contains(&name) { ssh_client(value) } else { None }
    })
}

/// The fourth field of proc(5)'s `stat`; the second, in parentheses, may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn the_client_of_a_session_is_found() {
        let environ = b"HOME=/root\0SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 22\0A=\xff\0";
        assert_eq!(client_in(environ), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(client_in(b"SSH_CLIENT=fe80::1%eth0 5 22\0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(client_in(b"SSH_CLIENT=nobody\0XSSH_CLIENT=192.0.2.7 1 2\0"), None);
    }

    #[test]
    fn an_ancestors_session_is_its_own() {
        // As sudo does it: what runs inside has no such variable.
        let script = "env -u SSH_CONNECTION -u SSH_CLIENT sh -c 'echo $$; exec sleep 60'; true";
        let mut session = Command::new("sh")
            .args(["-c", script])
            .env("SSH_CONNECTION", "192.0.2.9 1 192.0.2.1 22")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(session.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let inside: i32 = line.trim().parse().unwrap();
        let found = client_of(inside);
        kill(Pid::from_raw(inside), Signal::SIGKILL).unwrap();
        session.wait().unwrap();
        assert_eq!(found, Some("192.0.2.9".parse().unwrap()));
    }

    #[test]
    fn names_of_programs_don_t_confuse() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12"), Some(7));
        assert_eq!(parent("1 (init) S 0 1 1"), None);
        assert_eq!(parent(""), None);
    }
}
