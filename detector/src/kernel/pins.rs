//! What outlives the daemon: maps, programs and links by their names in a BPF file system. In: a directory there. Out:
//! where the loader finds or leaves each map; the links that are to be given another program.
//!
//! | path | what |
//! | --- | --- |
//! | `current` | link to the set of maps in force |
//! | `v<shapes>/` | a set: each map by its name; `xdp-`, `egress-` and `steer-<build>`, the programs that use it |
//! | `links/` | `native-`, `generic-` or `egress-<interface>`: what keeps a program attached |
//!
//! A set's name follows from the shapes of its maps, all five of their attributes: a set that isn't what its name says
//! is refused. A build, or a configuration, that wants other shapes gets a set of its own: a map whose shape is the same
//! in both is in both; of the others what must not be lost is copied. Only when all is there do the links get the new
//! programs, each in one step, and only after that `current` is another one and the old set goes. A crash in between
//! leaves the old set in force, and the next start begins anew.
//!
//! Maps and programs may be lent to a group: who belongs to it uses them without any capability, and can't change what is
//! attached, since the links stay their owner's. So there are two locks: on the directory, of whoever uses the maps, and
//! on that of the links, of whoever changes them.

use std::{
    fs::{self, DirBuilder, File},
    io,
    mem::offset_of,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use detector_common::{
    maps,
    table::{Stashed, Word},
    verdict::{ConnectionVerdict, Verdict},
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::Gid,
};

use super::{
    Attached, Error, Maps, bpf,
    shape::{Shapes, io_error},
    shared::Shared,
    table,
};
use crate::{clock::monotonic, config::XdpMode};

pub(super) const CURRENT: &str = "current";
const LINKS: &str = "links";
/// What the programs are pinned as, each with its build.
pub(super) const XDP_PROGRAM: &str = "xdp";
pub(super) const EGRESS_PROGRAM: &str = "egress";
pub(super) const STEER_PROGRAM: &str = "steer";
/// Of `current`, until it is in place.
const NEXT: &str = "next";
/// Of links of the egress program.
const EGRESS: &str = "egress";

/// What is copied, entry by entry, into a set whose map of that name has another shape; and where in a value its end
/// stands, if it has one. Values may grow at their end only: what two builds have in common stands at the same place.
const CARRIED: [(&str, Option<usize>); 8] = [
    (maps::SETTINGS, None),
    (maps::MODE, None),
    (maps::HEARTBEAT, None),
    (maps::RATES, None),
    (maps::NEVER_BLOCK, None),
    (maps::PREFIXES, Some(offset_of!(Verdict, expires_at))),
    (maps::ALLOW, Some(offset_of!(Verdict, expires_at))),
    (maps::CONNECTIONS, Some(offset_of!(ConnectionVerdict, verdict) + offset_of!(Verdict, expires_at))),
];

/// These have places in common: a set has all of them of the old one, or none.
const TABLE: [&str; 2] = [maps::VERDICTS, maps::STASH];

/// A directory of pins, and what this process may do there.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    /// To whom maps and programs are lent.
    group: Option<Gid>,
    _locks: Vec<Flock<File>>,
}

/// A set of maps.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) directory: PathBuf,
    /// The set in force until now, if that is another one.
    old: Option<(PathBuf, Shapes)>,
    shapes: Shapes,
}

impl Pins {
    /// Whether there is anything to use in the directory.
    #[must_use]
    pub fn are_in(root: &Path) -> bool {
        root.join(CURRENT).symlink_metadata().is_ok()
    }

    /// Takes the directory, and makes it if it is missing. What is pinned there is lent to `group`; without one, to whom it
    /// was before.
    ///
    /// # Errors
    /// If it isn't in a BPF file system, or this process may not; [`Error::InUse`] if another one has it.
    pub fn open(root: &Path, group: Option<Gid>) -> Result<Self, Error> {
        let there = root.ancestors().find(|path| path.is_dir()).unwrap_or(root);
        if statfs(there).is_ok_and(|found| found.filesystem_type() != BPF_FS_MAGIC) {
            let mount = root.parent().filter(|parent| parent.is_dir()).unwrap_or(Path::new("/sys/fs/bpf"));
            let hint = format!("mount one: `mount -t bpf bpf {}`", mount.display());
            return Err(unusable(root, "it isn't in a BPF file system", &hint));
        }
        let failed = |error| refused(root, error);
        // Whoever may write here decides about the host's packets.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let in_use = lock(root, root)?;
        let links = root.join(LINKS);
        DirBuilder::new().recursive(true).mode(0o700).create(&links).map_err(failed)?;
        let locks = vec![in_use, lock(root, &links)?];
        let group = group.map_or_else(|| lent_to(root).map_err(failed), |group| Ok(Some(group)))?;
        let this = Self { root: root.to_owned(), group, _locks: locks };
        this.lend(root)?;
        this.lend(&links)?;
        Ok(this)
    }

    /// Beside a daemon that uses the maps: to see to the links, and to nothing else.
    ///
    /// # Errors
    /// If this process may not; [`Error::InUse`] if another one sees to them.
    pub fn beside(root: &Path) -> Result<Self, Error> {
        let locks = vec![lock(root, &root.join(LINKS))?];
        let group = lent_to(root).map_err(|error| refused(root, error))?;
        Ok(Self { root: root.to_owned(), group, _locks: locks })
    }

    /// To use the maps and change nothing else, which takes no capability from Linux 5.19 on.
    ///
    /// # Errors
    /// If they aren't lent to this process; [`Error::InUse`] if another one uses them.
    pub fn borrow(root: &Path) -> Result<Self, Error> {
        Ok(Self { root: root.to_owned(), group: None, _locks: vec![lock(root, root)?] })
    }

    /// Where the maps of these shapes are, or will be once the loader has made those that are missing.
    pub(super) fn set(&self, wanted: Shapes) -> Result<Set, Error> {
        let current = fs::read_link(self.root.join(CURRENT)).ok();
        let directory = self.root.join(wanted.directory());
        let Some(current) = current.map(|name| self.root.join(name)) else {
            return self.new_set(Set { directory, old: None, shapes: wanted });
        };
        let found = Shapes::pinned(&current).map_err(|error| refused(&current, error))?;
        if current == directory && found != wanted {
            let what = wanted.difference(&found).unwrap_or_else(|| "there is a map too many".to_owned());
            return Err(unusable(&current, &what, REMOVE));
        }
        if current == directory {
            return Ok(Set { directory, old: None, shapes: wanted });
        }
        if current.file_name().is_none_or(|name| *name != *found.directory()) {
            return Err(unusable(&current, "its maps aren't those that its name stands for", REMOVE));
        }
        self.new_set(Set { directory, old: Some((current, found)), shapes: wanted })
    }

    /// The set in force, if its maps have these shapes.
    pub(super) fn set_in_force(&self, wanted: Shapes) -> Result<Set, Error> {
        let current = self.root.join(CURRENT);
        let name = fs::read_link(&current).map_err(|error| refused(&current, error))?;
        let directory = self.root.join(name);
        let found = Shapes::pinned(&directory).map_err(|error| refused(&directory, error))?;
        match wanted.difference(&found) {
            Some(what) => Err(unusable(&directory, &what, ATTACH)),
            None => Ok(Set { directory, old: None, shapes: wanted }),
        }
    }

    /// Lets the group use what is at `path`: look into a directory, read and write a map, run a program.
    fn lend(&self, path: &Path) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        let lend = || {
            let found = path.symlink_metadata()?;
            let mode = if found.is_dir() { 0o750 } else { 0o660 };
            if found.gid() != group.as_raw() {
                chown(path, None, Some(group.as_raw()))?;
            }
            if found.mode() & 0o777 != mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        lend().map_err(|error| refused(path, error))
    }

    /// An empty directory for it, and in that the maps that it has in common with the old one.
    fn new_set(&self, set: Set) -> Result<Set, Error> {
        let Set { directory, old, shapes } = &set;
        let failed = |error| refused(directory, error);
        // Left by a start that didn't come to its end: no link relies on what is pinned there.
        remove(directory).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
        if let Some((old, found)) = old {
            for name in shapes.names().filter(|name| shares(shapes, found, name)) {
                bpf::pin(&bpf::open(&old.join(name)).map_err(failed)?, &directory.join(name)).map_err(failed)?;
            }
        }
        Ok(set)
    }

    /// Makes a set the one in force, and removes all others, and programs of other builds than `build`.
    pub(super) fn commit(&self, set: &Set, build: &str) -> Result<(), Error> {
        let failed = |error| refused(&self.root, error);
        let name = set.directory.file_name().unwrap_or_default();
        self.lend(&set.directory)?;
        for entry in names(&set.directory).map_err(failed)? {
            self.lend(&set.directory.join(entry))?;
        }
        let next = self.root.join(NEXT);
        remove(&next).map_err(failed)?;
        symlink(name, &next).map_err(failed)?;
        fs::rename(&next, self.root.join(CURRENT)).map_err(failed)?;
        for entry in names(&self.root).map_err(failed)? {
            if entry.starts_with('v') && *entry != *name {
                remove(&self.root.join(entry)).map_err(failed)?;
            }
        }
        for entry in names(&set.directory).map_err(failed)? {
            if entry.split_once('-').is_some_and(|(_, of)| of != build) {
                remove(&set.directory.join(entry)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Where the link of an interface is pinned.
    pub(super) fn link(&self, kind: LinkKind, interface: &str) -> PathBuf {
        // A BPF file system has no names with a dot, and Linux no interfaces with a colon.
        self.root.join(LINKS).join(format!("{}-{}", kind.word(), interface.replace('.', ":")))
    }

    /// The links there are.
    pub(super) fn links(&self) -> Result<Vec<(LinkKind, String)>, Error> {
        let directory = self.root.join(LINKS);
        let names = names(&directory).map_err(|error| refused(&directory, error))?;
        Ok(names.iter().filter_map(|name| LinkKind::read(name)).collect())
    }

    /// The interfaces that have a pinned link.
    ///
    /// # Errors
    /// If the pins can't be read.
    pub fn attached(&self) -> Result<Vec<Attached>, Error> {
        let xdp = self.links()?.into_iter().filter_map(|(kind, interface)| match kind {
            LinkKind::Xdp(mode) => Some(Attached { pin: Some(self.link(kind, &interface)), interface, mode }),
            LinkKind::Egress => None,
        });
        Ok(xdp.collect())
    }

    /// Removes a link, if it is there: its program is off the interface when this returns.
    pub(super) fn unlink(&self, kind: LinkKind, interface: &str) -> Result<(), Error> {
        unlink(&self.link(kind, interface)).map_err(|error| refused(&self.root, error))
    }
}

/// What a link keeps attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The XDP program: [`XdpMode::Native`] or [`XdpMode::Generic`].
    Xdp(XdpMode),
    /// The egress program.
    Egress,
}

impl LinkKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Xdp(mode) => mode.label(),
            Self::Egress => EGRESS,
        }
    }

    /// Kind and interface, from the name of a pin.
    fn read(name: &str) -> Option<(Self, String)> {
        let (word, interface) = name.split_once('-')?;
        let kinds = [Self::Xdp(XdpMode::Native), Self::Xdp(XdpMode::Generic), Self::Egress];
        let kind = kinds.into_iter().find(|kind| kind.word() == word)?;
        Some((kind, interface.replace(':', ".")))
    }
}

impl Set {
    /// The maps' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.shapes.names()
    }

    /// Where the program `what` of a build is pinned.
    pub(super) fn program(&self, what: &str, build: &str) -> PathBuf {
        self.directory.join(format!("{what}-{build}"))
    }

    /// The first of these builds whose programs are pinned.
    pub(super) fn build(&self, builds: [String; 2]) -> Result<String, Error> {
        let found = builds.into_iter().find(|build| self.program(XDP_PROGRAM, build).exists());
        found.ok_or_else(|| unusable(&self.directory, "the programs are another build's", ATTACH))
    }

    /// Copies from the old set what must not be lost and is in no map of both.
    pub(super) fn carry_over(&self) -> Result<(), Error> {
        let Some((old, found)) = &self.old else { return Ok(()) };
        let now = monotonic().as_nanos();
        for (name, end) in CARRIED {
            if shares(&self.shapes, found, name) || !old.join(name).exists() {
                continue;
            }
            let failed = |error| refused(&old.join(name), error);
            let from = bpf::Table::open(&old.join(name)).map_err(failed)?;
            let to = bpf::Table::open(&self.directory.join(name)).map_err(failed)?;
            for (key, value) in from.entries().map_err(failed)? {
                if end.and_then(|at| number(&value, at)).is_none_or(|end| end > now) {
                    to.put(&key, &value).map_err(|error| too_small(old, name, &error))?;
                }
            }
        }
        Ok(())
    }

    /// Likewise, of the table: there a verdict's place follows from the table's size.
    pub(super) fn carry_table(&self, to: &mut Maps) -> Result<(), Error> {
        let Some((old, found)) = &self.old else { return Ok(()) };
        let [verdicts, stash] = TABLE.map(|name| old.join(name));
        if shares(&self.shapes, found, maps::VERDICTS) || ![&verdicts, &stash].iter().all(|path| path.exists()) {
            return Ok(());
        }
        let map = MapData::from_pin(&verdicts).map_err(|error| refused(&verdicts, io_error(error)))?;
        let (verdicts, words) = Shared::whole(maps::VERDICTS, map)?;
        let failed = |error| refused(&stash, error);
        let stashed = bpf::Table::open(&stash).and_then(|stash| stash.entries()).map_err(failed)?;
        let stashed = stashed.iter().filter_map(|(name, entry)| {
            Some((
                number(name, 0)?,
                Word(number(entry, offset_of!(Stashed, word))?),
                number(entry, offset_of!(Stashed, hits))?,
            ))
        });
        to.carry_over(table::read(&verdicts, words).chain(stashed))
            .map_err(|error| too_small(old, maps::VERDICTS, &error))
    }

    /// Removes what a start that failed has made: nothing, where the set is in force.
    pub(super) fn give_up(&self, pins: &Pins) {
        if fs::read_link(pins.root.join(CURRENT)).map(|name| pins.root.join(name)).ok().as_ref()
            != Some(&self.directory)
        {
            // What can't be removed now is removed by the next start.
            let _ = remove(&self.directory);
        }
    }
}

/// Whether the map `name` of a set is that of the old one.
fn shares(set: &Shapes, old: &Shapes, name: &str) -> bool {
    let together: &[&str] = if TABLE.contains(&name) { &TABLE } else { &[name] };
    together.iter().all(|name| set.agree(old, name))
}

fn too_small(old: &Path, name: &str, error: &impl std::fmt::Display) -> Error {
    let hint = "raise its bound in `limits`, or remove entries; nothing was changed";
    unusable(old, &format!("the entries of `{name}` can't be copied: {error}"), hint)
}

/// The eight bytes at `at`, in the host's order.
fn number(value: &[u8], at: usize) -> Option<u64> {
    value.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

/// Removes everything that is pinned in the directory, and the directory. Returns the interfaces that had a program; none
/// if there was nothing.
///
/// # Errors
/// If this process may not.
pub fn detach(root: &Path) -> Result<Option<Vec<Attached>>, Error> {
    if !root.join(LINKS).exists() && !Pins::are_in(root) {
        return Ok(None);
    }
    // Not `Pins::open`: this must work beside a daemon that hangs.
    let failed = |error| refused(root, error);
    let mut attached = Vec::new();
    for name in names(&root.join(LINKS)).map_err(failed)? {
        unlink(&root.join(LINKS).join(&name)).map_err(failed)?;
        if let Some((LinkKind::Xdp(mode), interface)) = LinkKind::read(&name) {
            attached.push(Attached { interface, mode, pin: None });
        }
    }
    remove(root).map_err(failed)?;
    Ok(Some(attached))
}

const REMOVE: &str = "if nobody needs it: `detector detach`, then `detector attach`";
const ATTACH: &str = "`detector attach` makes it this one's; of services: `systemctl restart detector`";

/// Takes the directory `at`, which is `root` or in it.
fn lock(root: &Path, at: &Path) -> Result<Flock<File>, Error> {
    let directory = File::open(at).map_err(|error| refused(root, error))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| Error::InUse { directory: root.to_owned() })
}

/// The group that may look into a directory, if that isn't root's.
fn lent_to(root: &Path) -> io::Result<Option<Gid>> {
    let found = root.metadata()?;
    Ok((found.gid() != 0 && found.mode() & 0o050 == 0o050).then(|| Gid::from_raw(found.gid())))
}

fn unusable(directory: &Path, reason: &str, hint: &str) -> Error {
    Error::Pins { directory: directory.to_owned(), reason: reason.to_owned(), hint: hint.to_owned() }
}

pub(super) fn refused(directory: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::Permission(format!("{}: {error}", directory.display())),
        _ => unusable(directory, &error.to_string(), REMOVE),
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = match fs::read_dir(directory) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    names.sort_unstable();
    Ok(names)
}

fn unlink(path: &Path) -> io::Result<()> {
    // A pin alone goes at once, its link when the kernel gets to it, and never while another process has it open.
    if let Ok(link) = bpf::open(path) {
        // Fails of what is no link, or of one whose interface is gone.
        let _ = bpf::detach(&link);
    }
    remove(path)
}

/// Whatever is at `path`; nothing is fine.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_name_says_what_it_is_and_where() {
        let native = LinkKind::Xdp(XdpMode::Native);
        assert_eq!(LinkKind::read("native-eth0:5"), Some((native, "eth0.5".to_owned())));
        assert_eq!(LinkKind::read("egress-br-lan"), Some((LinkKind::Egress, "br-lan".to_owned())));
        for other in ["eth0", "auto-eth0", ""] {
            assert_eq!(LinkKind::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_elsewhere_is_refused_with_the_command_that_mounts_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("detector");
        let said = Pins::open(&root, None).unwrap_err().to_string();
        assert!(said.contains(&format!("mount -t bpf bpf {}", directory.path().display())), "{said}");
        assert!(!root.exists() && said.lines().count() <= 3, "{said}");
        assert_eq!(detach(&root).unwrap(), None);
    }
}
