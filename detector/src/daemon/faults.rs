//! Faults on purpose, for the tests of what happens then (threats.md T50). Built by the feature `faults` alone, which no
//! package has. In: the file that [`FILE`] names, with the name of a part in it. Out: that part never gets on again.
//! Memory: none.

use std::{env, fs, sync::Barrier};

use super::progress::Part;

/// The variable. `cargo xtask package` looks for it in what it packs.
const FILE: &str = "DETECTOR_FAULT";

/// Stands still for ever if the file names this part, as the log does. The file is gone by then, so that the next process
/// isn't meant too.
pub(super) fn may_stand_still(part: Part) {
    let Some(file) = env::var_os(FILE) else { return };
    let named = fs::read_to_string(&file).is_ok_and(|named| named.trim() == part.label());
    if named && fs::remove_file(&file).is_ok() {
        // For a second thread, which never comes: as when two wait for each other.
        Barrier::new(2).wait();
    }
}
