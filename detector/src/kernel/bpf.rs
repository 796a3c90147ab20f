//! The few uses of bpf(2) that aya has no call for: objects of any kind by their pins, and maps whose sizes only the
//! kernel knows. Paths, keys and values as bytes in and out; the kernel's structures are those of its
//! `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;
/// Where a link attaches: the look-up of sockets (`BPF_SK_LOOKUP`).
const SK_LOOKUP: u32 = 36;

/// Of `union bpf_attr`, for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// For `BPF_MAP_*_ELEM` and `BPF_MAP_GET_NEXT_KEY`.
#[repr(C)]
struct ElementAttributes {
    fd: u32,
    reserved: u32,
    /// Address of the key; 0 for the one before the first.
    key: u64,
    /// Address of the value, or of the next key.
    value: u64,
    flags: u64,
}

/// For `BPF_LINK_DETACH`.
#[repr(C)]
struct LinkAttributes {
    fd: u32,
}

/// For `BPF_LINK_CREATE`.
#[repr(C)]
struct NewLinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `attributes` must be those of `command`, and every address in it valid for what the command reads or writes there.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise; the kernel reads no more than the size that it is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    RawFd::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// Opens what is pinned at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path lives until the call returns.
    let fd = unsafe { bpf(OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object at `path`, whether or not it is pinned elsewhere.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = object.as_raw_fd().cast_unsigned();
    let mut attributes = ObjectAttributes { path: path.as_ptr() as u64, fd, flags: 0 };
    // SAFETY: the path lives until the call returns.
    unsafe { bpf(OBJ_PIN, &mut attributes) }.map(drop)
}

/// Attaches a program to the look-up of sockets in a network namespace, until the link is closed.
pub(super) fn attach_to_lookup(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let [program, target] = [program, namespace].map(|fd| fd.as_raw_fd().cast_unsigned());
    let mut attributes = NewLinkAttributes { program, target, attach_type: SK_LOOKUP, flags: 0 };
    // SAFETY: there is no address in it.
    let fd = unsafe { bpf(LINK_CREATE, &mut attributes) }?;
    // SAFETY: the kernel has just made it for this caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a link's program off its interface at once, whoever else holds the link.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut attributes = LinkAttributes { fd: link.as_raw_fd().cast_unsigned() };
    // SAFETY: there is no address in it.
    unsafe { bpf(LINK_DETACH, &mut attributes) }.map(drop)
}

/// A hash table or trie of keys and values of known sizes, which need not be those of this build.
pub(super) struct Table {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Table {
    /// The map pinned at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let info = aya::maps::MapInfo::from_pin(path).map_err(io::Error::other)?;
        let fd = open(path)?;
        Ok(Self { fd, key_size: info.key_size() as usize, value_size: info.value_size() as usize })
    }

    fn attributes(&self, key: &[u8], value: u64) -> ElementAttributes {
        let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        ElementAttributes { fd: self.fd.as_raw_fd().cast_unsigned(), reserved: 0, key, value, flags: 0 }
    }

    /// The key after `key`; of an empty one: the first.
    fn key_after(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0u8; self.key_size];
        let mut attributes = self.attributes(key, next.as_mut_ptr() as u64);
        // SAFETY: both are as long as the map's keys, by `open`.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attributes) } {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn value(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0u8; self.value_size];
        let mut attributes = self.attributes(key, value.as_mut_ptr() as u64);
        // SAFETY: the key came of `key_after`, and the value is as long as the map's.
        unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) }.map(|_| value)
    }

    /// All entries. Exact only while nobody else writes.
    pub(super) fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (mut entries, mut key) = (Vec::new(), Vec::new());
        while let Some(next) = self.key_after(&key)? {
            match self.value(&next) {
                Ok(value) => entries.push((next.clone(), value)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            key = next;
        }
        Ok(entries)
    }

    /// Writes an entry: of a shorter value the rest is zero, of a longer one the rest is left out.
    pub(super) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key_size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut value = value.to_vec();
        value.resize(self.value_size, 0);
        let mut attributes = self.attributes(key, value.as_mut_ptr() as u64);
        // SAFETY: key and value are as long as the map's.
        unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
    }
}
