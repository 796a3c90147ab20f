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

fn memory(buckets: usize, stash: usize) -> Memory {
    Table::new(words(buckets * BUCKET_WORDS), words(buckets * CELLS), MemoryStash(HashMap::new(), stash))
}

/// What the program would find.
fn look_up(table: &Memory, name: u64) -> Option<Word> {
    let mut full = true;
    for cell in table.bucket(name) {
        let (check, word) = table.cell(cell).unwrap();
        let word = word.load(Relaxed);
        if check.load(Relaxed) ^ word == name {
            return Some(Word(word));
        }
        full &= word != 0;
    }
    let entry = (full && table.stash_in_use()).then(|| table.stash.get(name))?;
    entry.map(|entry| Word(entry.word))
}

fn entry(expires_at: u64) -> Word {
    Word::new(&Verdict::new(Action::Block, ORIGIN_OPERATOR, 1, expires_at))
}

proptest! {
    #[test]
    fn the_program_finds_what_is_there_and_nothing_else(
        steps in prop::collection::vec((1u64..40, prop::option::of(1u64..1000)), 1..300)
    ) {
        let (mut table, mut model) = (memory(2, 100), HashMap::<u64, Word>::new());
        for (now, (name, put)) in (0..).map(|step| step << 22).zip(steps) {
            match put {
                Some(ticks) => {
                    let word = entry(now + (ticks << 20));
                    table.put(name, word, now).unwrap();
                    model.insert(name, word);
                }
                None => {
                    table.remove(name).unwrap();
                    model.remove(&name);
                }
            }
            for name in 1..40 {
                let live = |word: &Word| word.is_live(now);
                let expected = model.get(&name).copied().filter(live);
                prop_assert_eq!(look_up(&table, name).filter(live), expected, "{}", name);
            }
        }
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
        for prefix in &prefixes {
            filter.add(*prefix);
        }
        let left: Vec<IpNet> = prefixes.iter().skip(gone).copied().collect();
        for prefix in prefixes.iter().take(gone).filter(|prefix| !left.contains(prefix)) {
            filter.remove(prefix);
        }
        filter.tidy();
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
        if left.is_empty() {
            prop_assert!(filter.words.iter().all(|word| word.load(Relaxed) == 0));
        }
    }
}

#[test]
fn ended_verdicts_make_room() {
    let mut table = memory(1, 0);
    for name in 1..=CELLS as u64 {
        table.put(name, entry(1 << 30), 0).unwrap();
    }
    assert!(matches!(table.put(100, entry(FOREVER), 0), Err(Error::Full(_))));
    table.put(100, entry(FOREVER), 1 << 40).unwrap();
    assert_eq!(look_up(&table, 100), Some(entry(FOREVER)));
}

#[test]
fn half_full_one_in_a_hundred_goes_to_the_stash() {
    let buckets = 1 << 12;
    let mut table = memory(buckets, usize::MAX);
    let mut name = 1u64;
    for _ in 0..buckets * CELLS / 2 {
        name = name.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        table.put(detector_common::key::mix(name), entry(FOREVER), 0).unwrap();
    }
    assert!(table.names_stashed * 80 < buckets * CELLS / 2, "{} of {}", table.names_stashed, buckets * CELLS / 2);
}
