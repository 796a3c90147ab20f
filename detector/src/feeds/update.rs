//! One list from its publisher to the disk, or not: then what was there stays.

use std::time::SystemTime;

use super::{Error, Fetcher, store};
use crate::config::{Checksum, FeedList, Feeds};
use crate::reputation::{List, Refused, changed_percent};

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Prefixes in it.
    pub entries: usize,
    /// Those that are new.
    pub added: usize,
    /// Those that are gone.
    pub removed: usize,
    /// Entries left out: nobody's on the Internet, or no prefix.
    pub left_out: usize,
}

/// Fetches a list and puts it in its place. `accept`: however much of it changed.
///
/// # Errors
/// Why what was there stays.
pub fn update(
    fetcher: &Fetcher,
    feeds: &Feeds,
    (name, list): (&str, &FeedList),
    (url, checksum): (&str, Option<&Checksum>),
    accept: bool,
    now: SystemTime,
) -> Result<Updated, Error> {
    let new = List::read(&fetcher.list(url, checksum)?, &feeds.bounds)?;
    // One that can't be read any more is as good as none.
    let old = store::read(feeds, name, list).map(|list| list.prefixes).unwrap_or_default();
    let changed = changed_percent(&old, &new.prefixes);
    if changed > u64::from(feeds.max_change_percent) && !accept {
        return Err(Refused::Changed(changed, feeds.max_change_percent).into());
    }
    let when = humantime::format_rfc3339_seconds(now);
    let says = format!("{name} ({}), fetched {when} from {url}", list.class.label());
    store::write(&store::path(feeds, name, list), &says, &new.prefixes)?;
    let same = new.prefixes.iter().filter(|prefix| old.binary_search(prefix).is_ok()).count();
    Ok(Updated {
        entries: new.prefixes.len(),
        added: new.prefixes.len() - same,
        removed: old.len() - same,
        left_out: new.special + new.unread,
    })
}
