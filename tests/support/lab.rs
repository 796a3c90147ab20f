//! Two network namespaces, a client's and a server's, joined by a veth pair; no interface of the machine is touched.
//!
//! In: the wire's MTU. Out: namespaces that commands run in. Their names hold this process's id (`det<pid>-<n>-c` and
//! `-s`; the directory's too), so that two runs never meet and a run that was killed is told from a live one:
//! [`Lab::new`] first removes what dead runs left.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::process::output;
use crate::programs::search_path;

/// The server's end of the wire, in the server's namespace: what the daemon attaches to.
pub const SERVER_INTERFACE: &str = "server0";
/// The client's end.
pub const CLIENT_INTERFACE: &str = "client0";
/// The server.
pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
/// The client.
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
/// A second address of the client.
pub const OTHER_CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
/// The server, unless the MTU is below IPv6's 1280.
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
/// The client, likewise.
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));

/// The backend, behind the server.
const BACKEND: &str = "10.78.0.2";
const BACKEND_GATEWAY: &str = "10.78.0.1";

/// The least MTU of IPv6 (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;
const NAME_PREFIX: &str = "det";
const DIRECTORY_PREFIX: &str = "detector-lab-";

/// What a lab is like.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// MTU of both ends of the wire, bytes.
    pub mtu: u32,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { mtu: 1500 }
    }
}

/// A network namespace. [`Lab`] owns its life.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    search_path: OsString,
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        Ok(Self { name, search_path: search_path()? })
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in it. `ip` becomes the program, so the child's process id is the program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.env("PATH", &self.search_path).args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs `ip` in it, and returns what it printed.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }
}

/// The two namespaces and a directory for files. Dropping it removes them and ends what still runs in them.
#[derive(Debug)]
pub struct Lab {
    client: Namespace,
    server: Namespace,
    backend: Option<Namespace>,
    directory: TempDir,
}

impl Lab {
    /// Makes a lab.
    ///
    /// # Errors
    /// Without root, without iproute2, or when the kernel refuses namespaces.
    pub fn new(options: LabOptions) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        require_root()?;
        remove_leftovers()?;
        let stem = format!("{NAME_PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            client: Namespace::new(format!("{stem}-c"))?,
            server: Namespace::new(format!("{stem}-s"))?,
            backend: None,
            directory: tempfile::Builder::new().prefix(&format!("{DIRECTORY_PREFIX}{}-", process::id())).tempdir()?,
        };
        // From here on `lab` is dropped, and so cleaned up, if a step fails.
        for namespace in [&lab.client, &lab.server] {
            output(Command::new("ip").args(["netns", "add", namespace.name()]))?;
            // A link that goes down keeps its IPv6 addresses, as its IPv4 ones.
            let keep = "net.ipv6.conf.default.keep_addr_on_down=1";
            output(namespace.command("sysctl").args(["-q", "-w", keep]))?;
            namespace.ip("link set lo up")?;
        }
        lab.lay_wire(options.mtu)?;
        Ok(lab)
    }

    /// Where the clients run.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where the web server, tcpdump and the daemon run.
    #[must_use]
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Adds a third namespace behind the server's, where a web server may run: the server's namespace forwards TCP port
    /// 443 of its own IPv4 address to it (DNAT), as it does for containers.
    ///
    /// # Errors
    /// When the kernel or nft refuses.
    pub fn add_backend(&mut self) -> Result<()> {
        let name = format!("{}b", self.server.name().strip_suffix('s').context("a server's name ends so")?);
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let backend = self.backend.insert(Namespace::new(name)?);
        backend.ip("link set lo up")?;
        let inside = backend.name();
        self.server.ip(&format!("link add back0 type veth peer name eth0 netns {inside}"))?;
        self.server.ip(&format!("address add {BACKEND_GATEWAY}/24 dev back0"))?;
        self.server.ip("link set back0 up")?;
        backend.ip(&format!("address add {BACKEND}/24 dev eth0"))?;
        backend.ip("link set eth0 up")?;
        backend.ip(&format!("route add default via {BACKEND_GATEWAY}"))?;
        output(self.server.command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]))?;
        let rules = format!(
            "table ip nat {{ chain before {{ type nat hook prerouting priority dstnat; \
             ip daddr {SERVER_V4} tcp dport 443 dnat to {BACKEND}; }}; }}"
        );
        output(self.server.command("nft").arg(rules))?;
        Ok(())
    }

    /// Where the web server runs: the backend's namespace if there is one, else the server's.
    #[must_use]
    pub fn web(&self) -> &Namespace {
        self.backend.as_ref().unwrap_or(&self.server)
    }

    /// Sets a kernel parameter of a namespace.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn sysctl(&self, namespace: &Namespace, setting: &str) -> Result<()> {
        output(namespace.command("sysctl").args(["-q", "-w", setting])).map(drop)
    }

    /// A file in the lab's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lay_wire(&self, mtu: u32) -> Result<()> {
        let server = self.server.name();
        self.client.ip(&format!(
            "link add {CLIENT_INTERFACE} mtu {mtu} type veth peer name {SERVER_INTERFACE} mtu {mtu} netns {server}"
        ))?;
        self.server.ip(&format!("address add {SERVER_V4}/24 dev {SERVER_INTERFACE}"))?;
        self.client.ip(&format!("address add {CLIENT_V4}/24 dev {CLIENT_INTERFACE}"))?;
        self.client.ip(&format!("address add {OTHER_CLIENT_V4}/24 dev {CLIENT_INTERFACE}"))?;
        if mtu >= IPV6_MIN_MTU {
            // nodad: usable at once, without the second of duplicate address detection (RFC 4862 section 5.4).
            self.server.ip(&format!("address add {SERVER_V6}/64 dev {SERVER_INTERFACE} nodad"))?;
            self.client.ip(&format!("address add {CLIENT_V6}/64 dev {CLIENT_INTERFACE} nodad"))?;
            // Whose source is another address asks for its neighbour from a link-local one (RFC 4861 section 7.2.2). The
            // kernel's own come with the carrier and are usable two seconds later: by then it has given up.
            self.server.ip(&format!("address add fe80::1/64 dev {SERVER_INTERFACE} nodad"))?;
            self.client.ip(&format!("address add fe80::2/64 dev {CLIENT_INTERFACE} nodad"))?;
        }
        self.server.ip(&format!("link set {SERVER_INTERFACE} up"))?;
        self.client.ip(&format!("link set {CLIENT_INTERFACE} up"))?;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server].into_iter().chain(&self.backend) {
            // Never made, or removed already: nothing to say.
            let _ = remove(namespace.name());
        }
    }
}

/// Refuses to go on without root.
///
/// # Errors
/// When the effective user isn't root.
pub fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("network namespaces and XDP need root: run `sudo -E env \"PATH=$PATH\" cargo xtask test`");
    }
    Ok(())
}

/// Removes what runs that are no more have left, and ends what still runs in their namespaces.
///
/// # Errors
/// When `ip netns` can't list them.
pub fn remove_leftovers() -> Result<()> {
    for left in everything()? {
        if !Path::new(&format!("/proc/{}", left.owner)).exists() {
            // Another run may be removing it at this very moment; if it stays, its name stays unused.
            let _ = left.remove();
        }
    }
    Ok(())
}

/// Removes what this process has made: for the end by a signal, when no value is dropped.
///
/// # Errors
/// When something can't be removed.
pub fn remove_own() -> Result<()> {
    own()?.iter().try_for_each(Left::remove)
}

/// The names of the namespaces and directories that this process has made and not removed.
///
/// # Errors
/// When `ip netns` can't list them.
pub fn own_names() -> Result<Vec<String>> {
    Ok(own()?.into_iter().map(|left| left.name).collect())
}

/// A namespace or a directory of some lab on this machine.
struct Left {
    name: String,
    /// The process that made it.
    owner: u32,
    directory: bool,
}

impl Left {
    fn remove(&self) -> Result<()> {
        if !self.directory {
            return remove(&self.name);
        }
        let path = env::temp_dir().join(&self.name);
        // Of a test that was killed: its pins go with the file system they are in.
        let _ = umount2(&path.join("bpf"), MntFlags::MNT_DETACH);
        Ok(fs::remove_dir_all(path)?)
    }
}

fn own() -> Result<Vec<Left>> {
    let mut all = everything()?;
    all.retain(|left| left.owner == process::id());
    Ok(all)
}

/// What all labs on this machine have made, the namespaces first: what runs there may have files open.
fn everything() -> Result<Vec<Left>> {
    let listed = output(Command::new("ip").args(["netns", "list"])).context("is iproute2 installed?")?;
    // A line is `NAME` or `NAME (id: N)`.
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    let mut all: Vec<Left> = names
        .filter_map(|name| Some(Left { name: name.to_owned(), owner: namespace_owner(name)?, directory: false }))
        .collect();
    for entry in fs::read_dir(env::temp_dir())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(owner) = directory_owner(&name) {
            all.push(Left { name, owner, directory: true });
        }
    }
    Ok(all)
}

/// The process id in a lab directory's name.
fn directory_owner(name: &str) -> Option<u32> {
    name.strip_prefix(DIRECTORY_PREFIX)?.split_once('-')?.0.parse().ok()
}

/// The process id in a lab namespace's name.
fn namespace_owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(NAME_PREFIX)?.split('-');
    let owner = parts.next()?.parse().ok()?;
    let _count: u32 = parts.next()?.parse().ok()?;
    matches!((parts.next(), parts.next()), (Some("c" | "s" | "b"), None)).then_some(owner)
}

/// Ends what runs in a lab's namespace (only a lab puts processes there), then removes it.
fn remove(name: &str) -> Result<()> {
    for pid in output(Command::new("ip").args(["netns", "pids", name]))?.lines() {
        let _ = kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL);
    }
    output(Command::new("ip").args(["netns", "delete", name]))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{directory_owner, namespace_owner};

    #[test]
    fn only_what_a_lab_made_has_an_owner() {
        assert_eq!(namespace_owner("det123-0-c"), Some(123));
        assert_eq!(namespace_owner("det123-17-s"), Some(123));
        assert_eq!(namespace_owner("det123-17-b"), Some(123));
        for other in ["det123", "det123-0", "det123-0-x", "det123-0-c-d", "detector-0-c", "web", "det-0-c", ""] {
            assert_eq!(namespace_owner(other), None, "{other}");
        }
        assert_eq!(directory_owner("detector-lab-123-x7Yz"), Some(123));
        for other in ["detector-lab-", "detector-lab-x-1", "detector-lab-123", "detector", ""] {
            assert_eq!(directory_owner(other), None, "{other}");
        }
    }
}
