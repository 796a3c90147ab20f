//! Lists on the disk: one file each, written whole and put in its place with one step, so that a reader sees the old one
//! or the new one. A line tells what it is, then a prefix a line.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use maxminddb::Reader;

use super::Error;
use crate::config::{FeedList, FeedSource, Feeds, Reputation};
use crate::reputation::{Book, Database, Databases, List};

/// The largest database that is read.
const DATABASE_MAX: u64 = 512 << 20;

/// What changes when a file does; `None`: it isn't there.
pub type Stamp = Option<(SystemTime, u64)>;

/// Where a list is on the disk.
#[must_use]
pub fn path(feeds: &Feeds, name: &str, list: &FeedList) -> PathBuf {
    match &list.source {
        FeedSource::File(path) => path.clone(),
        FeedSource::Url { .. } => feeds.directory.join(format!("{name}.list")),
    }
}

/// What changes when that file does.
#[must_use]
pub fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

/// How long ago the list was fetched for which that is longest. One that never was is as old as can be.
#[must_use]
pub fn age(feeds: &Feeds, now: SystemTime) -> Duration {
    let fetched = feeds.lists.iter().filter(|(_, list)| matches!(list.source, FeedSource::Url { .. }));
    let times = fetched.map(|(name, list)| stamp(&path(feeds, name, list)));
    let oldest = times.map(|stamp| stamp.map_or(UNIX_EPOCH, |(written, _)| written)).min();
    oldest.and_then(|oldest| now.duration_since(oldest).ok()).unwrap_or_default()
}

/// Reads one, with the same care as when it was fetched: the disk may have been written by anybody who may.
///
/// # Errors
/// Why it is not taken.
pub fn read(feeds: &Feeds, name: &str, list: &FeedList) -> Result<List, Error> {
    let text = text(&path(feeds, name, list), feeds.max_bytes)?;
    Ok(match list.class.is_own() {
        true => List::read_own(&text, feeds.bounds.entries)?,
        false => List::read(&text, &feeds.bounds)?,
    })
}

/// Reads an address database, and looks at all of it: one that is broken somewhere would say nothing of some addresses.
///
/// # Errors
/// Why not.
pub fn database(path: &Path) -> Result<Database, Error> {
    let fail = |source| Error::Disk { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(DATABASE_MAX + 1).read_to_end(&mut bytes));
    if read.map_err(fail)? as u64 > DATABASE_MAX {
        return Err(fail(io::Error::other("it is over 512 MiB")));
    }
    let whole = Reader::from_source(bytes).and_then(|reader| reader.verify().map(|()| reader));
    whole.map(Arc::new).map_err(|error| Error::Database { path: path.to_owned(), why: error.to_string() })
}

/// Everything that is on the disk, at once.
///
/// # Errors
/// Why one of it can't be read.
pub fn book(feeds: &Feeds, reputation: &Reputation) -> Result<Book, Error> {
    let open = |path: &Option<PathBuf>| path.as_deref().map(database).transpose();
    let databases = Databases {
        asn: open(&reputation.asn_database)?,
        country: open(&reputation.country_database)?,
        hosting: reputation.hosting_asns.clone(),
    };
    let lists =
        feeds.lists.iter().map(|(name, list)| Ok((name.clone(), list.class, read(feeds, name, list)?.prefixes)));
    Ok(Book::new(lists.collect::<Result<Vec<_>, Error>>()?, databases))
}

fn text(path: &Path, most: u64) -> Result<String, Error> {
    let fail = |source| Error::Disk { what: "read", path: path.to_owned(), source };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(most.saturating_add(1)).read_to_string(&mut text));
    match read.map_err(fail)? as u64 > most {
        true => Err(fail(io::Error::other(format!("it is over {most} bytes; see `max_bytes` in [feeds]")))),
        false => Ok(text),
    }
}

/// Puts one in its place, with this line before it.
///
/// # Errors
/// The disk's.
pub fn write(path: &Path, says: &str, prefixes: &[IpNet]) -> Result<(), Error> {
    let fail = |source| Error::Disk { what: "write", path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(fail)?;
    // In the same directory, for one step; with a name that no list has.
    let draft = path.with_extension("draft");
    let written = File::create(&draft).and_then(|file| {
        let mut out = io::BufWriter::new(file);
        writeln!(out, "# {says}")?;
        prefixes.iter().try_for_each(|prefix| writeln!(out, "{prefix}"))?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&draft, path)).and_then(|()| File::open(directory)?.sync_all());
    placed.map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FeedSource;
    use crate::reputation::Class;

    #[test]
    fn what_is_written_is_read_and_the_old_one_stays_if_it_cannot_be() {
        let directory = tempfile::tempdir().unwrap();
        let feeds = Feeds { directory: directory.path().join("lists"), max_bytes: 1000, ..Feeds::default() };
        let source = FeedSource::Url { url: "https://a.example/".to_owned(), checksum: None };
        let list = FeedList { class: Class::Abuse, source };
        let path = path(&feeds, "bad", &list);
        assert_eq!((stamp(&path), read(&feeds, "bad", &list).unwrap_err().label()), (None, "unreadable"));
        let prefixes = ["192.0.2.0/24".parse().unwrap(), "2001:db8::/48".parse().unwrap()];
        write(&path, "bad: abuse", &prefixes).unwrap();
        assert_eq!(read(&feeds, "bad", &list).unwrap().prefixes, prefixes);
        assert!(stamp(&path).is_some());
        fs::write(&path, "0.0.0.0/0\n").unwrap();
        assert_eq!(read(&feeds, "bad", &list).unwrap_err().label(), "too_wide");
        fs::write(&path, "192.0.2.1\n".repeat(101)).unwrap();
        assert!(read(&feeds, "bad", &list).unwrap_err().to_string().contains("over 1000 bytes"));
    }

    #[test]
    fn the_oldest_fetched_list_is_told_and_one_that_never_was_is_older_than_any() {
        let directory = tempfile::tempdir().unwrap();
        let mut feeds = Feeds { directory: directory.path().to_owned(), ..Feeds::default() };
        let day = Duration::from_secs(86_400);
        assert_eq!(age(&feeds, UNIX_EPOCH + day), Duration::ZERO);
        let own = FeedSource::File(directory.path().join("absent"));
        feeds.lists.insert("own".to_owned(), FeedList { class: Class::Trusted, source: own });
        assert_eq!(age(&feeds, UNIX_EPOCH + day), Duration::ZERO, "nobody fetches the operator's own");
        for name in ["a", "b"] {
            let source = FeedSource::Url { url: "https://a.example/".to_owned(), checksum: None };
            feeds.lists.insert(name.to_owned(), FeedList { class: Class::Abuse, source });
        }
        write(&directory.path().join("a.list"), "a", &[]).unwrap();
        assert_eq!(age(&feeds, UNIX_EPOCH + day), day, "b is missing");
        write(&directory.path().join("b.list"), "b", &[]).unwrap();
        let (written, _) = stamp(&directory.path().join("a.list")).unwrap();
        assert_eq!(age(&feeds, written + day), day);
    }

    #[test]
    fn an_operators_own_list_means_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("office.txt");
        fs::write(&path, "10.0.0.0/8 # the office\n").unwrap();
        let feeds = Feeds::default();
        let list = |class| FeedList { class, source: FeedSource::File(path.clone()) };
        assert_eq!(read(&feeds, "office", &list(Class::Trusted)).unwrap().prefixes.len(), 1);
        assert_eq!(read(&feeds, "office", &list(Class::Abuse)).unwrap().prefixes.len(), 0);
    }
}
