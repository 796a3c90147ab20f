//! The mode as it is pinned: a command changes it by itself, with the daemon hung, or with none.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use detector_common::{maps, mode::Mode};

use super::{Error, maps::Plain, pins, shape::io_error};

/// The map with the mode.
pub struct PinnedMode(Array<MapData, Plain<Mode>>);

impl PinnedMode {
    /// That of the set in force in a directory of pins; `None` if nothing is pinned there.
    ///
    /// # Errors
    /// If this process may not, or the map is another build's.
    pub fn open(root: &Path) -> Result<Option<Self>, Error> {
        if !pins::Pins::are_in(root) {
            return Ok(None);
        }
        let path = root.join(pins::CURRENT).join(maps::MODE);
        // The sizes are the kernel's own, and so checked.
        let map = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(Array::try_from);
        map.map(|map| Some(Self(map))).map_err(|error| pins::refused(&path, io_error(error)))
    }

    /// The mode.
    ///
    /// # Errors
    /// The kernel's, which has none for this map.
    pub fn read(&self) -> Result<Mode, Error> {
        let mode = self.0.get(&0, 0).map_err(|error| Error::System("reading the mode", error.to_string()))?;
        Ok(mode.0)
    }

    /// Puts another one in force.
    ///
    /// # Errors
    /// As above.
    pub fn write(&mut self, mode: Mode) -> Result<(), Error> {
        self.0.set(0, Plain(mode), 0).map_err(|error| Error::System("writing the mode", error.to_string()))
    }
}
