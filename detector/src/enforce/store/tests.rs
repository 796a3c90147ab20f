//! The log under crashes, damage, full disks and clocks that jump.

use super::*;

/// An order about a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Word(String);

impl Order for Word {
    fn key(&self) -> String {
        self.0.clone()
    }
}

const DAY: u64 = 86_400;

/// Some second after boot, and after 1970.
fn at(monotonic: u64, wall: u64) -> Now {
    Now { monotonic: Timestamp::from_nanos(monotonic * 1_000_000_000), wall: UNIX_EPOCH + Duration::from_secs(wall) }
}

fn order(word: &str, seconds: Option<u64>, now: Now) -> Vec<Kept<Word>> {
    vec![Kept::new(Word(word.to_owned()), seconds.map(Duration::from_secs), now.monotonic)]
}

fn words(store: &Store<Word>) -> Vec<String> {
    store.iter().map(|(key, _)| key.to_owned()).collect()
}

fn left(store: &Store<Word>, word: &str, now: Now) -> Option<Duration> {
    store.find(word, now.monotonic).and_then(|kept| kept.until).map(|until| until.since(now.monotonic))
}

/// As if the host had been started anew meanwhile.
fn reboot(directory: &Path) {
    let path = directory.join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    let mut bytes = Vec::new();
    line(&mut bytes, &Line::<Word>::Log { version: VERSION, boot: "another".to_owned() });
    bytes.extend_from_slice(text.split_once('\n').unwrap().1.as_bytes());
    fs::write(&path, bytes).unwrap();
}

#[test]
fn orders_come_back_with_the_time_they_have_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/deep");
    let now = at(1000, 50 * DAY);
    let (mut store, found) = Store::open(&path, now).unwrap();
    assert_eq!(found, Found::default());
    store.put(order("a", None, now), now).unwrap();
    store.put(order("b", Some(100), now), now).unwrap();
    store.put(order("c", Some(10), now), now).unwrap();
    store.put(order("d", None, now), now).unwrap();
    store.remove(&["d".to_owned()], now).unwrap();
    drop(store);

    let later = at(1040, 50 * DAY + 40);
    let (store, found) = Store::<Word>::open(&path, later).unwrap();
    assert_eq!((words(&store), found.ended), (vec!["a".to_owned(), "b".to_owned()], 1));
    assert_eq!(left(&store, "b", later), Some(Duration::from_secs(60)));
    drop(store);

    reboot(&path);
    let (store, _) = Store::<Word>::open(&path, at(5, 50 * DAY + 70)).unwrap();
    assert_eq!(left(&store, "b", at(5, 0)), Some(Duration::from_secs(30)));
}

#[test]
fn a_wall_clock_that_jumps_moves_no_end() {
    let directory = tempfile::tempdir().unwrap();
    for (jumped, seen) in [(415 * DAY, "after"), (0, "before")] {
        let path = directory.path().join(seen);
        let now = at(1000, 50 * DAY);
        let (mut store, _) = Store::open(&path, now).unwrap();
        store.put(order("a", Some(3600), now), now).unwrap();
        // The daemon is restarted before it has seen the jump.
        drop(store);
        let now = at(1100, jumped);
        let (mut store, _) = Store::<Word>::open(&path, now).unwrap();
        assert_eq!(left(&store, "a", now), Some(Duration::from_secs(3500)), "{seen}");
        // The end on disk follows the jump: after a reboot, too, it is right.
        store.tend(now).unwrap();
        let now = at(1200, 300 * DAY);
        store.tend(now).unwrap();
        drop(store);
        reboot(&path);
        let now = at(3, 300 * DAY + 100);
        let (store, _) = Store::<Word>::open(&path, now).unwrap();
        assert_eq!(left(&store, "a", now), Some(Duration::from_secs(3300)), "{seen}");
        drop(store);
        // A host without a clock of its own begins in 1970: no order gets longer than it was.
        reboot(&path);
        let now = at(3, 5);
        let (store, _) = Store::<Word>::open(&path, now).unwrap();
        assert_eq!(left(&store, "a", now), Some(Duration::from_secs(3600)), "{seen}");
    }
}

#[test]
fn wherever_a_crash_cuts_the_log_what_was_acknowledged_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let now = at(1000, 50 * DAY);
    let (mut store, _) = Store::open(directory.path(), now).unwrap();
    let log = directory.path().join(FILE);
    let mut ends = Vec::new();
    for word in ["a", "b", "c"] {
        store.put(order(word, None, now), now).unwrap();
        ends.push(fs::metadata(&log).unwrap().len());
    }
    drop(store);
    let whole = fs::read(&log).unwrap();
    for cut in ends[0]..=ends[2] {
        fs::write(&log, &whole[..cut as usize]).unwrap();
        let (store, found) = Store::<Word>::open(directory.path(), now).unwrap();
        assert_eq!(store.len(), ends.iter().filter(|end| **end <= cut).count(), "cut at {cut}");
        assert_eq!(found.damaged, 0, "cut at {cut}: nobody is alarmed by what a crash leaves");
    }
}

#[test]
fn damage_is_put_aside_and_the_rest_holds() {
    let directory = tempfile::tempdir().unwrap();
    let now = at(1000, 50 * DAY);
    let (mut store, _) = Store::open(directory.path(), now).unwrap();
    for word in ["a", "b", "c"] {
        store.put(order(word, None, now), now).unwrap();
    }
    drop(store);
    let log = directory.path().join(FILE);
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace(r#""b""#, r#""x""#)).unwrap();
    let (store, found) = Store::<Word>::open(directory.path(), now).unwrap();
    assert_eq!(words(&store), ["a", "c"]);
    assert_eq!(found.damaged, 1);
    assert!(fs::read_to_string(found.aside.unwrap()).unwrap().contains(r#""x""#));
    drop(store);
    let (store, found) = Store::<Word>::open(directory.path(), now).unwrap();
    assert_eq!((words(&store), found.damaged), (vec!["a".to_owned(), "c".to_owned()], 0));
    drop(store);
    for (second, garbage) in (1..).zip([&b"\0\xff"[..], b"\n\n", b"{}", &[b'x'; 100_000], b"deadbeef {}\n"]) {
        fs::write(&log, garbage).unwrap();
        let (store, found) = Store::<Word>::open(directory.path(), at(1000, 50 * DAY + second)).unwrap();
        assert!(store.is_empty() && found.damaged > 0 && found.aside.is_some());
    }
}

#[test]
fn many_are_one_write_and_the_log_does_not_grow_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let now = at(1000, 50 * DAY);
    let (mut store, _) = Store::open(directory.path(), now).unwrap();
    let many = |count: u32| (0..count).flat_map(|word| order(&format!("{word}"), None, now)).collect::<Vec<_>>();
    store.put(many(10_000), now).unwrap();
    assert_eq!(store.len(), 10_000);
    let keys: Vec<String> = (1..10_000).map(|word| word.to_string()).collect();
    store.remove(&keys, now).unwrap();
    store.tend(now).unwrap();
    let log = fs::read_to_string(directory.path().join(FILE)).unwrap();
    assert_eq!(log.lines().count(), 2, "the first line, and the one order that is left");
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let directory = tempfile::tempdir().unwrap();
    let now = at(1000, 50 * DAY);
    let (mut store, _) = Store::open(directory.path(), now).unwrap();
    // In the way of the draft, for root too.
    let obstacle = directory.path().join(format!("{FILE}.new"));
    fs::create_dir(&obstacle).unwrap();
    assert!(store.put(order("a", None, now), now).is_err());
    assert!(store.find("a", now.monotonic).is_some(), "it is in force all the same");
    assert!(store.tend(now).is_err());
    fs::remove_dir(&obstacle).unwrap();
    store.tend(now).unwrap();
    drop(store);
    let (store, _) = Store::<Word>::open(directory.path(), now).unwrap();
    assert_eq!(words(&store), ["a"]);
}

#[test]
fn two_daemons_never_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let now = at(1000, 50 * DAY);
    let (_first, _) = Store::<Word>::open(directory.path(), now).unwrap();
    let second = Store::<Word>::open(directory.path(), now).unwrap_err();
    assert!(second.to_string().ends_with("another detector uses this directory"), "{second}");
}
