use std::collections::HashMap;

use detector_common::{
    flow::Address,
    verdict::{Action, FOREVER, ORIGIN_AUTOMATIC, ORIGIN_OPERATOR, Verdict},
};
use proptest::prelude::*;

use super::*;

#[derive(Debug, Default)]
struct MemoryStash(HashMap<u64, Stashed>, usize);

impl Stash for MemoryStash {
    fn put(&mut self, name: u64, entry: Stashed) -> Result<(), Error> {
        if self.0.len() >= self.1 && !self.0.contains_key(&name) {
            return Err(Error::Full("addresses"));
        }
        self.0.insert(name, entry);
        Ok(())
    }

    fn remove(&mut self, name: u64) -> Result<(), Error> {
        self.0.remove(&name);
        Ok(())
    }

    fn get(&self, name: u64) -> Option<Stashed> {
        self.0.get(&name).copied()
    }
}

type Memory = Table<Vec<AtomicU64>, MemoryStash>;

fn words(len: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default).take(len).collect()
}

/// A table of so many buckets, of which two are in use at first.
fn memory(buckets: usize, stash: usize) -> Memory {
    Table::new(words(buckets * BUCKET_WORDS), MemoryStash(HashMap::new(), stash), 1)
}

/// What the program would find by this mask.
fn look_up_by(mask: u32, table: &Memory, name: u64) -> Option<Word> {
    let home = table::bucket(name, mask);
    for bucket in [home, neighbour(home)] {
        let words: Vec<u64> = table.bucket(bucket).unwrap().iter().map(|word| word.load(Relaxed)).collect();
        if let Some(cell) = words[..HITS_WORD].chunks(CELL_WORDS).find(|cell| cell[0] ^ cell[1] == name) {
            return Some(Word(cell[1]));
        }
        if halves(words[HITS_WORD + 1])[1] & elsewhere(name) == 0 {
            return None;
        }
    }
    table.stash.get(name).map(|entry| Word(entry.word))
}

/// What the program would find.
fn look_up(table: &Memory, name: u64) -> Option<Word> {
    look_up_by(table.mask(), table, name)
}

/// A name for each small number, as far apart as real ones.
fn name(number: u64) -> u64 {
    detector_common::key::mix(number)
}

fn entry(expires_at: u64) -> Word {
    Word::new(&Verdict::new(Action::Block, ORIGIN_OPERATOR, 1, expires_at))
}

proptest! {
    #[test]
    fn the_program_finds_what_is_there_and_nothing_else(
        steps in prop::collection::vec((1u64..40, prop::option::of(1u64..1000)), 1..300)
    ) {
        let (mut table, mut model) = (memory(16, 100), HashMap::<u64, Word>::new());
        for (now, (number, put)) in (0..).map(|step| step << 22).zip(steps) {
            match put {
                Some(ticks) => {
                    let word = entry(now + (ticks << 20));
                    let before = table.mask();
                    let grows = table.is_dense();
                    if grows {
                        table.grow();
                        for name in (1..40).map(name) {
                            prop_assert_eq!(look_up_by(before, &table, name), look_up(&table, name));
                        }
                        table.settle().unwrap();
                    }
                    table.put(name(number), word, now).unwrap();
                    model.insert(number, word);
                }
                None => {
                    table.remove(name(number)).unwrap();
                    model.remove(&number);
                }
            }
            for number in 1..40 {
                let live = |word: &Word| word.is_live(now);
                let expected = model.get(&number).copied().filter(live);
                prop_assert_eq!(look_up(&table, name(number)).filter(live), expected, "{}", number);
            }
        }
        for number in 1..40 {
            table.remove(name(number)).unwrap();
        }
        prop_assert_eq!((table.placed, table.names_stashed), (0, 0));
        prop_assert!(table.words.iter().enumerate().all(|(index, word)| {
            let [_, last] = halves(word.load(Relaxed));
            index % BUCKET_WORDS != HITS_WORD + 1 || last == 0
        }), "nothing is looked for elsewhere");
    }

    #[test]
    fn a_word_keeps_what_the_verdict_says(expires_at: u64, reason: u8, hard: bool, automatic: bool) {
        let expires_at = if expires_at % 7 == 0 { FOREVER } else { expires_at >> 2 };
        let action = if hard { Action::Block } else { Action::Observe };
        let origin = if automatic { ORIGIN_AUTOMATIC } else { ORIGIN_OPERATOR };
        let word = Word::new(&Verdict::new(action, origin, reason, expires_at));
        prop_assert_eq!((word.action(), word.origin(), word.reason()), (action as u8, origin, reason));
        if expires_at == FOREVER {
            prop_assert!(word.is_live(FOREVER) && word.expires_at() == FOREVER);
        } else {
            // Never early, and at most two units of 2^20 ns late.
            prop_assert!(word.is_live(expires_at));
            prop_assert!(!word.is_live(expires_at + (2 << 20)));
        }
    }

    #[test]
    fn the_filter_lets_every_address_of_a_prefix_through(
        prefixes in prop::collection::vec((any::<[u8; 16]>(), any::<bool>(), 0u8..=128), 1..30),
        within: [u8; 16],
        gone in 0usize..30,
    ) {
        let prefixes: Vec<IpNet> = prefixes.into_iter().map(|(address, ipv4, len)| {
            let net = if ipv4 {
                let [a, b, c, d, ..] = address;
                IpNet::new([a, b, c, d].into(), len % 33)
            } else {
                IpNet::new(address.into(), len.max(FILTER_IPV6_BITS as u8))
            };
            net.unwrap().trunc()
        }).collect();
        let mut filter = Filter::new(words(1 << (FILTER_BITS - 6)));
        let mut exempt = Filter::new(words(table::EXEMPT_WORDS as usize));
        for prefix in &prefixes {
            filter.add(Trie::Prefixes, *prefix);
            exempt.add(Trie::Allow, *prefix);
            exempt.add(Trie::NeverBlock, *prefix);
        }
        let left: Vec<IpNet> = prefixes.iter().skip(gone).copied().collect();
        for prefix in prefixes.iter().take(gone).filter(|prefix| !left.contains(prefix)) {
            filter.remove(Trie::Prefixes, prefix);
            exempt.remove(Trie::Allow, prefix);
        }
        filter.tidy();
        exempt.tidy();
        let set = |address: &Address| {
            let place = table::filter_place(address);
            filter.words.get(place as usize >> 6).unwrap().load(Relaxed) >> (place & 63) & 1 == 1
        };
        for prefix in &left {
            // An address of it, with the rest of its bits at random.
            let mut address = mapped(prefix.network());
            let len = match prefix { IpNet::V4(net) => net.prefix_len() + 96, IpNet::V6(net) => net.prefix_len() };
            for (bit, byte) in (0u8..).zip(address.iter_mut()) {
                let host = match (bit * 8 + 8).checked_sub(len) {
                    None | Some(0) => 0,
                    Some(bits) => if bits >= 8 { 0xff } else { (1u8 << bits) - 1 },
                };
                *byte |= within[usize::from(bit)] & host;
            }
            prop_assert!(set(&address), "{} of {}", std::net::Ipv6Addr::from(address), prefix);
        }
        // Of one trie they are gone, of the other not.
        for prefix in &prefixes {
            let place = table::exempt_place(&mapped(prefix.network()));
            prop_assert!(exempt.words[place as usize >> 6].load(Relaxed) >> (place & 63) & 1 == 1, "{}", prefix);
        }
        if left.is_empty() {
            prop_assert!(filter.words.iter().all(|word| word.load(Relaxed) == 0));
        }
    }
}

#[test]
fn what_nobody_knows_of_is_swept_away_unless_it_is_automatic() {
    let mut table = memory(4, 100);
    let automatic = Word::new(&Verdict::new(Action::Block, ORIGIN_AUTOMATIC, 1, FOREVER));
    for number in 1..=40 {
        table.put(name(number), if number % 4 == 0 { automatic } else { entry(FOREVER) }, 0).unwrap();
    }
    let known: HashSet<u64> = (1..=20).map(name).collect();
    assert_eq!(table.sweep(&known, |word| word.origin() != ORIGIN_AUTOMATIC).unwrap(), 15);
    for number in 1..=40 {
        assert_eq!(look_up(&table, name(number)).is_some(), number <= 20 || number % 4 == 0, "{number}");
    }
}

#[test]
fn ended_verdicts_make_room() {
    let mut table = memory(2, 0);
    for name in 1..=2 * CELLS as u64 {
        table.put(name, entry(1 << 30), 0).unwrap();
    }
    assert!(matches!(table.put(100, entry(FOREVER), 0), Err(Error::Full(_))));
    table.put(100, entry(FOREVER), 1 << 40).unwrap();
    assert_eq!(look_up(&table, 100), Some(entry(FOREVER)));
}

#[test]
fn hits_go_along_as_the_table_grows_and_are_counted_to_their_bound() {
    let mut table = memory(1 << 6, 1000);
    for number in 1..=120 {
        table.put(name(number), entry(FOREVER), 0).unwrap();
        if let Some(place) = table.find(name(number)) {
            table.count_from(place, number);
        } else {
            table.stash.0.get_mut(&name(number)).unwrap().hits = number;
        }
        if table.is_dense() {
            table.grow();
            table.settle().unwrap();
        }
    }
    assert_eq!(table.mask(), (1 << 6) - 1);
    for number in 1..=120 {
        assert_eq!(table.verdict(name(number)).map(|(_, hits)| hits), Some(number));
    }
    // Another process takes up what this one has left behind.
    let (mask, words) = (table.mask(), table.words);
    let stashed: Vec<u64> = table.stash.0.keys().copied().collect();
    let mut table = Table::new(words, table.stash, mask);
    table.take_up(stashed).unwrap();
    table.carry_over(name(7), entry(FOREVER), 1 << 40, 0).unwrap();
    let hits = |number| table.verdict(name(number)).map(|(_, hits)| hits);
    assert_eq!((hits(7), hits(8)), (Some(u64::from(u32::MAX)), Some(8)));
}

#[test]
fn as_full_as_it_gets_one_in_ten_goes_to_the_stash() {
    let buckets = 1 << 12;
    let mut table = memory(buckets, usize::MAX);
    let share = |table: &mut Memory, from: usize, to: usize| {
        for number in from..to {
            if table.is_dense() {
                table.grow();
                table.settle().unwrap();
            }
            table.put(name(number as u64 + 1), entry(FOREVER), 0).unwrap();
        }
        table.names_stashed as f64 / to as f64
    };
    let usual = share(&mut table, 0, 2 * buckets);
    let full = share(&mut table, 2 * buckets, buckets * 5 / 2);
    assert!((0.02..0.06).contains(&usual) && (0.06..0.11).contains(&full), "{usual}, {full}");
}
