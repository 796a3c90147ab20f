//! What the kernel knows maps by, and the name that follows from it: a daemon uses a pinned map only if it has the shape
//! that its own program was built for. aya takes any map (threats.md M7), and typed access to another one reads and
//! writes beyond its buffers.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use aya::maps::{MapError, MapInfo};
use aya_obj::{EbpfSectionKind, Object};
use sha2::{Digest as _, Sha256};

/// Maps that no other program and no later one has a use for.
const PRIVATE: [&str; 1] = ["SCRATCH"];

/// What the kernel knows a map by, besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `BPF_MAP_TYPE_*`.
    kind: u32,
    /// Bytes.
    key_size: u32,
    /// Bytes.
    value_size: u32,
    max_entries: u32,
    /// `BPF_F_*`.
    flags: u32,
}

impl Shape {
    fn of(info: &MapInfo) -> Self {
        Self {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        }
    }

    /// What is different in `other`, in the words of `bpftool map`.
    fn difference(&self, other: &Self) -> Option<String> {
        let rows = [
            ("type", self.kind, other.kind),
            ("key size", self.key_size, other.key_size),
            ("value size", self.value_size, other.value_size),
            ("max_entries", self.max_entries, other.max_entries),
            ("flags", self.flags, other.flags),
        ];
        rows.into_iter().find(|(_, a, b)| a != b).map(|(what, a, b)| format!("{what} {b} in place of {a}"))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key_size, value_size, max_entries, flags } = self;
        write!(f, "{kind} {key_size} {value_size} {max_entries} {flags}")
    }
}

/// The maps of a set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shapes(BTreeMap<String, Shape>);

impl Shapes {
    /// Those an object asks for, with `sizes` in place of its own numbers of entries; without its private ones.
    pub(super) fn wanted(object: &[u8], sizes: &[(&'static str, u32)]) -> Result<Self, String> {
        let object = Object::parse(object).map_err(|error| error.to_string())?;
        let shared = object.maps.into_iter().filter(|(name, map)| {
            use EbpfSectionKind::{Bss, Data, Rodata};
            !matches!(map.section_kind(), Bss | Data | Rodata) && !PRIVATE.contains(&name.as_str())
        });
        Ok(Self(
            shared
                .map(|(name, map)| {
                    let size = sizes.iter().find(|(of, _)| *of == name).map(|(_, size)| *size);
                    let shape = Shape {
                        kind: map.map_type(),
                        key_size: map.key_size(),
                        value_size: map.value_size(),
                        max_entries: size.unwrap_or(map.max_entries()),
                        flags: map.map_flags(),
                    };
                    (name, shape)
                })
                .collect(),
        ))
    }

    /// Those that are pinned in a directory; a name with a `-` isn't a map's.
    pub(super) fn pinned(directory: &Path) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.contains('-') {
                let info = MapInfo::from_pin(directory.join(&name)).map_err(io_error)?;
                found.insert(name, Shape::of(&info));
            }
        }
        Ok(Self(found))
    }

    /// The directory's name for a set of these: no two sets of different maps have the same.
    pub(super) fn directory(&self) -> String {
        let mut digest = Sha256::new();
        for (name, shape) in &self.0 {
            digest.update(format!("{name} {shape}\n"));
        }
        let digest = digest.finalize();
        digest.iter().take(8).fold("v".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether the map `name` is the same in both.
    pub(super) fn agree(&self, other: &Self, name: &str) -> bool {
        self.0.get(name).is_some_and(|shape| other.0.get(name) == Some(shape))
    }

    /// The first map that `found` has otherwise, or hasn't.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        self.0.iter().find_map(|(name, shape)| match found.0.get(name) {
            None => Some(format!("the map `{name}` is missing")),
            Some(other) => shape.difference(other).map(|what| format!("the map `{name}` has {what}")),
        })
    }
}

/// The kernel's words, without those around them.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape { kind: 1, key_size: 16, value_size: 24, max_entries: 100, flags: 1 }
    }

    fn set(shape: Shape) -> Shapes {
        Shapes([("A".to_owned(), shape)].into())
    }

    #[test]
    fn each_attribute_makes_another_name_and_is_told() {
        let own = set(shape());
        assert_eq!(own.directory(), set(shape()).directory());
        assert_eq!(own.difference(&own), None);
        for (other, told) in [
            (Shape { kind: 2, ..shape() }, "type 2 in place of 1"),
            (Shape { key_size: 4, ..shape() }, "key size 4 in place of 16"),
            (Shape { value_size: 32, ..shape() }, "value size 32 in place of 24"),
            (Shape { max_entries: 99, ..shape() }, "max_entries 99 in place of 100"),
            (Shape { flags: 0, ..shape() }, "flags 0 in place of 1"),
        ] {
            assert_ne!(own.directory(), set(other).directory(), "{told}");
            assert_eq!(own.difference(&set(other)), Some(format!("the map `A` has {told}")));
            assert!(!own.agree(&set(other), "A"));
        }
        assert_eq!(own.difference(&Shapes::default()), Some("the map `A` is missing".to_owned()));
    }
}
