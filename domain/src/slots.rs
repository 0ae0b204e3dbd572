//! A cache of small records in memory that many share and nobody locks.
//!
//! A record lies in one of the four slots that its hash names, under a *key*, what it is of, and a
//! *version*, what it was read under. Only the same version is found again: who changes what a record
//! was made of changes the version, and need not come here. Each slot is a sequence lock: its number is odd while
//! somebody writes, who never waits (a slot that another writes is left to them), and a reader that
//! saw two numbers has found nothing. So any record may be gone at any time, and no one is half of
//! two. A writer that dies in between leaves a slot that is never used again.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Tells what a record is of.
pub type Key = [u64; KEY];
/// What it was read under.
pub type Version = [u64; VERSION];
/// What it says.
pub type Record = [u64; RECORD];

const KEY: usize = 6;
const VERSION: usize = 4;
const RECORD: usize = 13;
const WORDS: usize = KEY + VERSION + RECORD;
const WAYS: usize = 4;

/// 192 bytes; zeroed memory is an empty one.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Slot {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The bytes that fit into a record.
pub const RECORD_BYTES: usize = RECORD * size_of::<u64>();

/// How many slots are made for as many records as `wanted` or a few more.
pub fn slots(wanted: usize) -> usize {
    wanted.next_power_of_two().max(WAYS)
}

/// The slots of a hash; their number is a power of two.
fn set(slots: &[Slot], hash: u64) -> &[Slot] {
    let first = (hash as usize).wrapping_mul(WAYS) & (slots.len() - 1);
    &slots[first..first + WAYS]
}

fn load<const N: usize>(words: &[AtomicU64]) -> [u64; N] {
    std::array::from_fn(|i| words[i].load(Ordering::Relaxed))
}

fn store(words: &[AtomicU64], values: &[u64]) {
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
}

impl Slot {
    fn key(&self) -> Key {
        load(&self.words)
    }

    /// The record, unless another lies here or somebody writes meanwhile.
    fn read(&self, key: &Key, version: &Version) -> Option<Record> {
        let before = self.sequence.load(Ordering::Acquire);
        // Zero is an empty slot, which is like one that holds a record of zeros.
        if before == 0
            || before & 1 == 1
            || self.key() != *key
            || load(&self.words[KEY..]) != *version
        {
            return None;
        }
        let record = load(&self.words[KEY + VERSION..]);
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(record)
    }
}

/// Finds what was kept of `key` under this very `version`.
pub fn find(slots: &[Slot], hash: u64, key: &Key, version: &Version) -> Option<Record> {
    set(slots, hash).iter().find_map(|slot| slot.read(key, version))
}

/// Keeps a record: where its key has been, else in an empty slot, else in the place of another.
pub fn keep(slots: &[Slot], hash: u64, key: &Key, version: &Version, record: &Record) {
    let set = set(slots, hash);
    let is_free = |slot: &&Slot| slot.sequence.load(Ordering::Relaxed) == 0;
    let slot = set.iter().find(|slot| slot.key() == *key).or_else(|| set.iter().find(is_free));
    let slot = slot.unwrap_or_else(|| {
        // Whichever: the sum of the numbers differs from one time to the next.
        let written = set.iter().map(|slot| slot.sequence.load(Ordering::Relaxed) >> 1);
        &set[(hash >> 32).wrapping_add(written.sum()) as usize % WAYS]
    });
    let before = slot.sequence.load(Ordering::Relaxed);
    let claim = |odd| {
        slot.sequence.compare_exchange(before, odd, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    if before & 1 == 1 || !claim(before + 1) {
        return;
    }
    fence(Ordering::Release);
    store(&slot.words, key);
    store(&slot.words[KEY..], version);
    store(&slot.words[KEY + VERSION..], record);
    slot.sequence.store(before + 2, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn empty(count: usize) -> Vec<Slot> {
        let slot = || Slot {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        (0..slots(count)).map(|_| slot()).collect()
    }

    fn hash(key: u64) -> u64 {
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_slot_is_192_bytes() {
        assert_eq!(size_of::<Slot>(), 192);
    }

    #[test]
    fn what_was_kept_is_found_under_its_version_alone() {
        let slots = empty(64);
        keep(&slots, 7, &[1; KEY], &[1; VERSION], &[5; RECORD]);
        assert_eq!(find(&slots, 7, &[1; KEY], &[1; VERSION]), Some([5; RECORD]));
        assert_eq!(find(&slots, 7, &[1; KEY], &[1, 1, 1, 2]), None);
        assert_eq!(find(&slots, 7, &[2; KEY], &[1; VERSION]), None);
        keep(&slots, 7, &[1; KEY], &[2; VERSION], &[6; RECORD]);
        assert_eq!(find(&slots, 7, &[1; KEY], &[1; VERSION]), None, "the newer one took its place");
        assert_eq!(find(&slots, 7, &[1; KEY], &[2; VERSION]), Some([6; RECORD]));
    }

    #[test]
    fn four_that_share_their_slots_are_kept_and_a_fifth_takes_one_place() {
        let slots = empty(16);
        for key in 0..5 {
            keep(&slots, 1, &[key; KEY], &[0; VERSION], &[key; RECORD]);
        }
        let found = (0..5).filter(|key| find(&slots, 1, &[*key; KEY], &[0; VERSION]).is_some());
        assert_eq!(found.count(), 4);
        assert!(find(&slots, 1, &[4; KEY], &[0; VERSION]).is_some());
    }

    #[test]
    fn a_slot_that_is_being_written_is_not_read_and_not_written() {
        let slots = empty(4);
        keep(&slots, 0, &[1; KEY], &[1; VERSION], &[1; RECORD]);
        slots[0].sequence.fetch_add(1, Ordering::Relaxed);
        assert_eq!(find(&slots, 0, &[1; KEY], &[1; VERSION]), None);
        keep(&slots, 0, &[1; KEY], &[1; VERSION], &[2; RECORD]);
        assert_eq!(find(&slots, 0, &[1; KEY], &[1; VERSION]), None);
    }

    #[test]
    fn readers_beside_writers_see_no_mixture() {
        const ROUNDS: u64 = 200_000;
        let slots = empty(4);
        std::thread::scope(|scope| {
            for writer in 0..2_u64 {
                let slots = &slots;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let value = writer << 40 | round;
                        keep(slots, 0, &[round % 3; KEY], &[round % 2; VERSION], &[value; RECORD]);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        let found = find(&slots, 0, &[round % 3; KEY], &[round % 2; VERSION]);
                        if let Some(record) = found {
                            assert!(record.iter().all(|word| *word == record[0]), "{record:?}");
                            let round_of = record[0] & ((1 << 40) - 1);
                            assert_eq!((round_of % 3, round_of % 2), (round % 3, round % 2));
                        }
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn only_the_last_record_of_a_key_is_ever_found(
            steps in prop::collection::vec((0..40_u64, 0..3_u64, any::<u64>(), any::<bool>()), 1..300),
        ) {
            let slots = empty(16);
            let mut last = HashMap::new();
            for (key, version, value, keeps) in steps {
                if keeps {
                    keep(&slots, hash(key), &[key; KEY], &[version; VERSION], &[value; RECORD]);
                    last.insert(key, (version, value));
                }
                if let Some(record) = find(&slots, hash(key), &[key; KEY], &[version; VERSION]) {
                    prop_assert_eq!(last.get(&key), Some(&(version, record[0])));
                }
            }
        }
    }
}
