//! What this kernel has of what is used, without loading a program of ours. In: an interface's name. Out: what is missing,
//! and what the interface does to frames before a program sees them.

use std::{ffi::c_char, fs, io, mem, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use nix::{
    libc,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

/// What the programs and their maps are, by the names of bpftool.
const PROGRAMS: [(ProgramType, &str); 3] = [
    (ProgramType::Xdp, "xdp programs"),
    (ProgramType::SchedClassifier, "sched_cls programs"),
    (ProgramType::SkLookup, "sk_lookup programs"),
];
const MAPS: [(MapType, &str); 4] = [
    (MapType::RingBuf, "ringbuf maps"),
    (MapType::LpmTrie, "lpm_trie maps"),
    (MapType::LruHash, "lru_hash maps"),
    (MapType::SockMap, "sockmap maps"),
];

/// From `include/uapi/linux/ethtool.h`.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Kinds of programs and maps that this kernel lacks.
///
/// # Errors
/// Why it can't be asked: for want of permission, mostly.
pub fn missing() -> Result<Vec<&'static str>, String> {
    let mut missing = Vec::new();
    for (kind, name) in PROGRAMS {
        if !is_program_supported(kind).map_err(|error| error.to_string())? {
            missing.push(name);
        }
    }
    for (kind, name) in MAPS {
        if !is_map_supported(kind).map_err(|error| error.to_string())? {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// This kernel's release, and its first two numbers.
#[must_use]
pub fn release() -> Option<(String, (u32, u32))> {
    let release = nix::sys::utsname::uname().ok()?.release().to_str()?.to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((release, version))
}

/// Whether it describes its own types.
#[must_use]
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether it compiles programs; `None`: it doesn't say.
#[must_use]
pub fn compiles() -> Option<bool> {
    Some(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?.trim() != "0")
}

/// Whether a path, or what of it exists, is in a BPF file system.
#[must_use]
pub fn is_bpf_fs(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.is_dir()).unwrap_or(path);
    statfs(there).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// The driver of an interface; virtual ones name none.
#[must_use]
pub fn driver(interface: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/sys/class/net").join(interface).join("device/driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// Whether an interface puts segments together before a program sees them (large receive offload).
///
/// # Errors
/// The kernel's.
pub fn merges(interface: &str) -> io::Result<bool> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: every field of it may be zero.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.ifr_name.iter_mut().zip(interface.bytes()).for_each(|(place, byte)| *place = byte as c_char);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the kernel reads the name and the address, and writes the eight bytes of `value` there, which outlives it.
    let result = unsafe { libc::ioctl(descriptor, libc::SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data & ETH_FLAG_LRO != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells_its_release_and_what_the_loopback_does() {
        let (release, version) = release().unwrap();
        assert!(release.starts_with(&format!("{}.{}", version.0, version.1)), "{release}");
        assert!(!merges("lo").unwrap(), "nothing is merged where nothing is received");
        assert!(merges("nosuch0").is_err() && merges(&"x".repeat(64)).is_err());
        assert_eq!(driver("lo"), None);
        assert!(!is_bpf_fs(Path::new("/proc/nonexistent")));
    }
}
