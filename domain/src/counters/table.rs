//! The shared table of counters: a hash table of fixed size in memory that the caller provides.
//!
//! Every method but [`find`](Table::find) and [`sums`](Table::sums) wants exclusive access; those two
//! may run side by side. Nothing here allocates, fails half-way or waits. An entry stays where it is
//! until it is removed: who has pinned one may keep its number. A pinned entry is removed by
//! [`clear`](Table::clear) alone.
//!
//! Eviction is a clock: an entry that was used again since the hand last passed is spared once. It looks at
//! `SEARCH` entries at most, so that a table full of pinned ones costs a bounded time under the
//! lock.

use super::Sums;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many entries are looked at for one that may go.
const SEARCH: u32 = 256;
/// The end of a chain.
const NONE: u32 = u32::MAX;

/// One counter.
#[derive(Debug)]
#[repr(C)]
pub struct Entry {
    /// A hash of the rule, the subject and the window, wide enough to stand for them.
    key: u128,
    sums: Sums,
    labels: Labels,
    /// The next entry of the same bucket, or of the free list.
    next: u32,
    /// How many transactions have something to add or to take back.
    pins: u32,
    recently_used: AtomicBool,
    in_use: bool,
}

/// What entries are removed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Labels {
    /// The extension in its database.
    pub installation: u64,
    /// A hash of the rule's name.
    pub rule: u64,
    /// A hash of the account whose zone decides the windows; 0 for none.
    pub account: u64,
}

/// Which entries of an installation to remove.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    All,
    /// Of these rules and of these accounts.
    Of {
        rules: &'a [u64],
        accounts: &'a [u64],
    },
}

/// Where the table's parts begin; at the head of its memory.
#[derive(Debug)]
#[repr(C)]
pub struct Header {
    free: u32,
    hand: u32,
    used: u32,
    evictions: u64,
}

pub struct Table<'a> {
    header: &'a mut Header,
    buckets: &'a mut [u32],
    entries: &'a mut [Entry],
}

/// The table for those who only look.
pub struct View<'a> {
    buckets: &'a [u32],
    entries: &'a [Entry],
}

fn bucket(buckets: &[u32], key: u128) -> usize {
    key as usize & (buckets.len() - 1)
}

/// How many buckets a table of so many entries has: a power of two.
pub const fn buckets(entries: usize) -> usize {
    entries.next_power_of_two()
}

impl<'a> View<'a> {
    /// `buckets` has a power of two of elements.
    pub fn new(buckets: &'a [u32], entries: &'a [Entry]) -> Self {
        Self { buckets, entries }
    }

    pub fn find(&self, key: u128) -> Option<u32> {
        let mut at = self.buckets[bucket(self.buckets, key)];
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.key == key {
                entry.recently_used.store(true, Ordering::Relaxed);
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    pub fn sums(&self, at: u32) -> Sums {
        self.entries[at as usize].sums
    }
}

impl<'a> Table<'a> {
    /// `buckets` has [`buckets()`] elements for `entries`.
    pub fn new(header: &'a mut Header, buckets: &'a mut [u32], entries: &'a mut [Entry]) -> Self {
        Self { header, buckets, entries }
    }

    /// Makes the memory an empty table, whatever it held.
    pub fn format(&mut self) {
        self.buckets.fill(NONE);
        let count = self.entries.len() as u32;
        for (number, entry) in self.entries.iter_mut().enumerate() {
            let next = number as u32 + 1;
            entry.in_use = false;
            entry.next = if next < count { next } else { NONE };
        }
        *self.header = Header { free: 0, hand: 0, used: 0, evictions: 0 };
    }

    fn view(&self) -> View<'_> {
        View { buckets: self.buckets, entries: self.entries }
    }

    pub fn find(&self, key: u128) -> Option<u32> {
        self.view().find(key)
    }

    pub fn sums(&self, at: u32) -> Sums {
        self.entries[at as usize].sums
    }

    /// How many counters there are.
    pub fn len(&self) -> u32 {
        self.header.used
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many counters had to go for others.
    pub fn evictions(&self) -> u64 {
        self.header.evictions
    }

    /// Puts a counter that is not there, without a pin; `None` when every entry that was looked at is
    /// pinned.
    pub fn insert(&mut self, key: u128, labels: Labels, sums: Sums) -> Option<u32> {
        debug_assert!(self.find(key).is_none());
        if self.header.free == NONE {
            self.evict()?;
        }
        let at = self.header.free;
        let bucket = bucket(self.buckets, key);
        let entry = &mut self.entries[at as usize];
        self.header.free = entry.next;
        *entry = Entry {
            key,
            sums,
            labels,
            next: self.buckets[bucket],
            pins: 0,
            recently_used: AtomicBool::new(false),
            in_use: true,
        };
        self.buckets[bucket] = at;
        self.header.used += 1;
        Some(at)
    }

    /// Removes one entry that is not pinned, and was not used of late if there is such.
    fn evict(&mut self) -> Option<()> {
        let mut spared = None;
        for _ in 0..SEARCH.min(self.entries.len() as u32) {
            let at = self.header.hand;
            self.header.hand = (at + 1) % self.entries.len() as u32;
            let entry = &mut self.entries[at as usize];
            if !entry.in_use || entry.pins > 0 {
                continue;
            }
            if !std::mem::take(entry.recently_used.get_mut()) {
                spared = Some(at);
                break;
            }
            spared = spared.or(Some(at));
        }
        self.header.evictions += u64::from(spared.is_some());
        spared.map(|at| self.remove(at))
    }

    fn remove(&mut self, at: u32) {
        let bucket = bucket(self.buckets, self.entries[at as usize].key);
        let next = self.entries[at as usize].next;
        let mut link = self.buckets[bucket];
        if link == at {
            self.buckets[bucket] = next;
        } else {
            while self.entries[link as usize].next != at {
                link = self.entries[link as usize].next;
            }
            self.entries[link as usize].next = next;
        }
        let entry = &mut self.entries[at as usize];
        entry.in_use = false;
        entry.next = self.header.free;
        self.header.free = at;
        self.header.used -= 1;
    }

    /// Removes a counter if it is there and nobody has pinned it.
    pub fn forget(&mut self, key: u128) {
        if let Some(at) = self.find(key).filter(|at| !self.is_pinned(*at)) {
            self.remove(at);
        }
    }

    pub fn pin(&mut self, at: u32) {
        self.entries[at as usize].pins += 1;
    }

    pub fn unpin(&mut self, at: u32) {
        self.entries[at as usize].pins -= 1;
    }

    pub fn is_pinned(&self, at: u32) -> bool {
        self.entries[at as usize].pins > 0
    }

    /// Adds to a counter that the caller has pinned.
    pub fn add(&mut self, at: u32, sums: Sums) {
        let entry = &mut self.entries[at as usize];
        debug_assert!(entry.in_use && entry.pins > 0);
        entry.sums = entry.sums.plus(sums);
    }

    /// Removes entries of an installation, pinned or not: the caller keeps every writer out.
    pub fn clear(&mut self, installation: u64, which: Which<'_>) {
        for at in 0..self.entries.len() as u32 {
            let entry = &self.entries[at as usize];
            let of = |label: u64, labels: &[u64]| label != 0 && labels.contains(&label);
            let goes = match which {
                Which::All => true,
                Which::Of { rules, accounts } => {
                    of(entry.labels.rule, rules) || of(entry.labels.account, accounts)
                }
            };
            if entry.in_use && entry.labels.installation == installation && goes {
                self.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    struct Memory {
        header: Header,
        buckets: Vec<u32>,
        entries: Vec<Entry>,
    }

    impl Memory {
        fn new(count: usize) -> Self {
            let entry = || Entry {
                key: 7,
                sums: Sums::ZERO,
                labels: Labels::default(),
                next: 0,
                pins: 3,
                recently_used: AtomicBool::new(false),
                in_use: true,
            };
            let mut memory = Self {
                header: Header { free: 9, hand: 9, used: 9, evictions: 9 },
                buckets: vec![5; buckets(count)],
                entries: (0..count).map(|_| entry()).collect(),
            };
            memory.table().format();
            memory
        }

        fn table(&mut self) -> Table<'_> {
            Table::new(&mut self.header, &mut self.buckets, &mut self.entries)
        }
    }

    fn sums(used: i128) -> Sums {
        Sums { used, held: -used }
    }

    #[test]
    fn an_entry_fits_192_bytes_with_its_bucket() {
        assert!(size_of::<Entry>() + 2 * size_of::<u32>() <= 192);
    }

    #[test]
    fn a_table_of_pinned_entries_takes_no_more() {
        let mut memory = Memory::new(4);
        let mut table = memory.table();
        for key in 0..4 {
            let at = table.insert(key, Labels::default(), Sums::ZERO).unwrap();
            table.pin(at);
        }
        assert_eq!(table.insert(9, Labels::default(), Sums::ZERO), None);
        let third = table.find(2).unwrap();
        table.unpin(third);
        assert_eq!(table.insert(9, Labels::default(), Sums::ZERO), Some(third));
        assert_eq!(table.find(2), None);
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut memory = Memory::new(8);
        let mut table = memory.table();
        for key in 0..8 {
            table.insert(key, Labels::default(), Sums::ZERO);
        }
        for key in 100..200 {
            table.find(3).expect("used between any two evictions");
            table.insert(key, Labels::default(), Sums::ZERO).unwrap();
        }
        assert!(table.find(3).is_some());
        assert_eq!(table.header.evictions, 100);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8),
        Add(u8, i8),
        Pin(u8),
        Unpin(u8),
        Find(u8),
        Forget(u8),
        Clear(u8, u8, u8),
        ClearAll(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..24_u8).prop_map(Step::Insert),
            4 => (0..24_u8, any::<i8>()).prop_map(|(k, v)| Step::Add(k, v)),
            2 => (0..24_u8).prop_map(Step::Pin),
            2 => (0..24_u8).prop_map(Step::Unpin),
            2 => (0..24_u8).prop_map(Step::Find),
            1 => (0..24_u8).prop_map(Step::Forget),
            1 => (0..2_u8, 0..4_u8, 0..4_u8).prop_map(|(i, r, a)| Step::Clear(i, r, a)),
            1 => (0..2_u8).prop_map(Step::ClearAll),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// Few buckets, so that chains are long: keys that differ only above the mask.
    fn key(of: u8) -> u128 {
        u128::from(of % 2) | u128::from(of) << 64
    }

    fn labels(of: u8) -> Labels {
        Labels {
            installation: u64::from(of % 2),
            rule: u64::from(of % 4),
            account: u64::from(of % 3),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_and_never_loses_a_pinned_counter(steps in steps()) {
            let mut memory = Memory::new(12);
            let mut table = memory.table();
            let mut known: HashMap<u8, (Sums, u32)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Insert(k) if table.find(key(k)).is_none() => {
                        let put = table.insert(key(k), labels(k), sums(i128::from(k)));
                        let pinned = known.values().filter(|(_, pins)| *pins > 0).count();
                        prop_assert_eq!(put.is_none(), pinned == 12);
                        if put.is_some() {
                            known.insert(k, (sums(i128::from(k)), 0));
                        }
                    }
                    Step::Add(k, v) => {
                        if let Some(at) = table.find(key(k)).filter(|at| table.is_pinned(*at)) {
                            table.add(at, sums(i128::from(v)));
                            let (sum, _) = known.get_mut(&k).unwrap();
                            *sum = sum.plus(sums(i128::from(v)));
                        }
                    }
                    Step::Pin(k) => {
                        if let Some(at) = table.find(key(k)) {
                            table.pin(at);
                            known.get_mut(&k).unwrap().1 += 1;
                        }
                    }
                    Step::Unpin(k) => {
                        if let Some(at) = table.find(key(k)).filter(|at| table.is_pinned(*at)) {
                            table.unpin(at);
                            known.get_mut(&k).unwrap().1 -= 1;
                        }
                    }
                    Step::Forget(k) => {
                        table.forget(key(k));
                        known.retain(|other, (_, pins)| *other != k || *pins > 0);
                    }
                    Step::Clear(i, r, a) => {
                        let (rules, accounts) = ([u64::from(r)], [u64::from(a)]);
                        let which = Which::Of { rules: &rules, accounts: &accounts };
                        table.clear(u64::from(i), which);
                        known.retain(|k, _| {
                            let l = labels(*k);
                            let named = (l.rule == rules[0] && r != 0)
                                || (l.account == accounts[0] && a != 0);
                            l.installation != u64::from(i) || !named
                        });
                    }
                    Step::ClearAll(i) => {
                        table.clear(u64::from(i), Which::All);
                        known.retain(|k, _| labels(*k).installation != u64::from(i));
                    }
                    Step::Find(k) => prop_assert_eq!(
                        table.find(key(k)).is_some(),
                        known.contains_key(&k)
                    ),
                    Step::Insert(_) => {}
                }
                // What was evicted is forgotten; what is there is what it should be.
                known.retain(|k, (_, pins)| *pins > 0 || table.find(key(*k)).is_some());
                prop_assert_eq!(table.len() as usize, known.len());
                for (k, (sum, pins)) in &known {
                    let at = table.find(key(*k));
                    prop_assert!(at.is_some(), "{} is lost", k);
                    prop_assert_eq!(table.sums(at.unwrap()), *sum);
                    prop_assert_eq!(table.entries[at.unwrap() as usize].pins, *pins);
                }
            }
        }
    }
}
