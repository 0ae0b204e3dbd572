//! What one transaction has added to counters and not yet ended with.
//!
//! An increase is in the shared counter at once, so that nobody else takes the room; a decrease comes
//! when the transaction commits, so that nobody takes room that an abort would need back. With
//! savepoints there are several ways to end: a rollback to any of them. So what is shared beforehand
//! ("published") is the largest of what could remain: the greatest sum over the levels that are open,
//! and nothing when all of them would give room back.
//!
//! What this transaction itself sees is exact: the shared counter, less what it has published, and
//! all that it has done.
//!
//! Lives in one backend, to the end of its transaction. Nothing here fails or allocates but
//! [`touch`](Pending::touch) and [`add`](Pending::add): the rest runs when a transaction is already
//! ending.

use super::{Sums, Table};
use std::collections::HashMap;

/// The nesting level of a (sub)transaction: 1 is the transaction itself.
pub type Level = i32;

#[derive(Debug, Clone, Copy)]
struct Frame {
    level: Level,
    sums: Sums,
}

/// A pinned counter, and what was done to it.
#[derive(Debug)]
struct Touched {
    key: u128,
    at: u32,
    /// By rising level. Never empty: the first is of the level that pinned it.
    frames: Vec<Frame>,
    published: Sums,
}

impl Touched {
    fn done(&self) -> Sums {
        self.frames.iter().fold(Sums::ZERO, |sum, frame| sum.plus(frame.sums))
    }

    /// The most that a rollback to some savepoint, or a commit, could leave.
    fn most(&self) -> Sums {
        let (mut most, mut sum) = (Sums::ZERO, Sums::ZERO);
        for frame in &self.frames {
            sum = sum.plus(frame.sums);
            if sum.total() > most.total() {
                most = sum;
            }
        }
        most
    }

    fn publish(&mut self, table: &mut Table) {
        let most = self.most();
        if most != self.published {
            table.add(self.at, most.minus(self.published));
            self.published = most;
        }
    }
}

#[derive(Debug, Default)]
pub struct Pending {
    touched: Vec<Touched>,
    by_key: HashMap<u128, usize>,
}

impl Pending {
    /// How many counters are pinned.
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// The number of a counter that this transaction has pinned.
    pub fn find(&self, key: u128) -> Option<u32> {
        self.by_key.get(&key).map(|index| self.touched[*index].at)
    }

    /// Makes room for so many more counters, so that [`touch`](Self::touch) does not allocate.
    pub fn reserve(&mut self, more: usize) {
        self.touched.reserve(more);
        self.by_key.reserve(more);
    }

    /// Pins a counter, unless this transaction has.
    pub fn touch(&mut self, key: u128, at: u32, level: Level, table: &mut Table) {
        if self.by_key.contains_key(&key) {
            return;
        }
        let frame = Frame { level, sums: Sums::ZERO };
        self.by_key.insert(key, self.touched.len());
        self.touched.push(Touched { key, at, frames: vec![frame], published: Sums::ZERO });
        table.pin(at);
    }

    fn remove(&mut self, index: usize, table: &mut Table) {
        let touched = self.touched.swap_remove(index);
        self.by_key.remove(&touched.key);
        if let Some(moved) = self.touched.get(index) {
            self.by_key.insert(moved.key, index);
        }
        table.unpin(touched.at);
    }

    /// What this transaction sees of a counter. One that it has not touched says what all see.
    pub fn seen(&self, key: u128, shared: Sums) -> Sums {
        match self.by_key.get(&key) {
            Some(index) => {
                let touched = &self.touched[*index];
                shared.minus(touched.published).plus(touched.done())
            }
            None => shared,
        }
    }

    /// Adds to a counter that was touched.
    pub fn add(&mut self, key: u128, sums: Sums, level: Level, table: &mut Table) {
        let index = self.by_key[&key];
        let touched = &mut self.touched[index];
        match touched.frames.last_mut() {
            Some(frame) if frame.level == level => frame.sums = frame.sums.plus(sums),
            _ => touched.frames.push(Frame { level, sums }),
        }
        touched.publish(table);
    }

    /// A savepoint was released: what was done since belongs to the level below.
    pub fn merge(&mut self, level: Level, table: &mut Table) {
        for touched in &mut self.touched {
            let Some(last) = touched.frames.last_mut().filter(|f| f.level == level) else {
                continue;
            };
            last.level = level - 1;
            let merged = *last;
            if let [.., below, _] = &mut touched.frames[..]
                && below.level == merged.level
            {
                below.sums = below.sums.plus(merged.sums);
                touched.frames.pop();
                touched.publish(table);
            }
        }
    }

    /// A savepoint was rolled back to: what was done since is undone.
    pub fn undo(&mut self, level: Level, table: &mut Table) {
        for index in (0..self.touched.len()).rev() {
            let touched = &mut self.touched[index];
            if touched.frames.last().is_some_and(|f| f.level == level) {
                touched.frames.pop();
                touched.publish(table);
                if touched.frames.is_empty() {
                    self.remove(index, table);
                }
            }
        }
    }

    /// The transaction is over, and visible if it committed: the counters say what remains of it.
    pub fn end(&mut self, committed: bool, table: &mut Table) {
        for touched in &self.touched {
            let remains = if committed { touched.done() } else { Sums::ZERO };
            table.add(touched.at, remains.minus(touched.published));
            table.unpin(touched.at);
        }
        self.forget();
    }

    /// The counters that were touched are gone: others have removed them, with this one's consent.
    pub fn forget(&mut self) {
        self.touched.clear();
        self.by_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Entry, Header, Labels, buckets};
    use super::*;
    use proptest::prelude::*;

    struct Memory(Header, Vec<u32>, Vec<Entry>);

    impl Memory {
        fn new() -> Self {
            // SAFETY: an entry and a header are integers and flags, for which zero is a value.
            let (header, entries): (Header, [Entry; 8]) = unsafe { std::mem::zeroed() };
            let mut memory = Self(header, vec![0; buckets(8)], entries.into());
            memory.table().format();
            memory
        }

        fn table(&mut self) -> Table<'_> {
            Table::new(&mut self.0, &mut self.1, &mut self.2)
        }
    }

    fn held(held: i128) -> Sums {
        Sums { used: 0, held }
    }

    fn counter(table: &mut Table, pending: &mut Pending) -> u32 {
        let at = table.insert(1, Labels::default(), held(100)).unwrap();
        pending.touch(1, at, 1, table);
        at
    }

    #[test]
    fn an_increase_is_seen_at_once_and_a_decrease_when_it_commits() {
        let mut memory = Memory::new();
        let (mut table, mut pending) = (memory.table(), Pending::default());
        let at = counter(&mut table, &mut pending);
        pending.add(1, held(5), 1, &mut table);
        assert_eq!(table.sums(at), held(105));
        pending.add(1, held(-25), 1, &mut table);
        assert_eq!((table.sums(at), pending.seen(1, table.sums(at))), (held(100), held(80)));
        pending.end(true, &mut table);
        assert_eq!((table.sums(at), table.is_pinned(at)), (held(80), false));
    }

    #[test]
    fn room_that_a_rollback_to_a_savepoint_would_need_is_not_given_away() {
        let mut memory = Memory::new();
        let (mut table, mut pending) = (memory.table(), Pending::default());
        let at = counter(&mut table, &mut pending);
        pending.add(1, held(10), 1, &mut table);
        pending.add(1, held(-10), 2, &mut table);
        assert_eq!(table.sums(at), held(110), "a rollback to the savepoint holds 10 again");
        pending.undo(2, &mut table);
        assert_eq!(table.sums(at), held(110));
        pending.add(1, held(-10), 2, &mut table);
        pending.merge(2, &mut table);
        assert_eq!(table.sums(at), held(100), "once released, it cannot come back alone");
    }

    #[test]
    fn a_rollback_to_a_savepoint_gives_back_what_was_pinned_since() {
        let mut memory = Memory::new();
        let (mut table, mut pending) = (memory.table(), Pending::default());
        let at = table.insert(1, Labels::default(), held(0)).unwrap();
        pending.touch(1, at, 3, &mut table);
        pending.add(1, held(4), 3, &mut table);
        pending.merge(3, &mut table);
        assert!(table.is_pinned(at));
        pending.undo(2, &mut table);
        assert_eq!((table.sums(at), table.is_pinned(at)), (held(0), false));
        assert!(pending.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8, i8),
        Savepoint,
        Release,
        RollBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3_u8, any::<i8>()).prop_map(|(k, v)| Step::Add(k, v)),
            2 => Just(Step::Savepoint),
            1 => Just(Step::Release),
            1 => Just(Step::RollBack),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn however_a_transaction_goes_on_nobody_was_given_room_that_it_still_needs(
            steps in steps(), commits in any::<bool>(),
        ) {
            let mut memory = Memory::new();
            let (mut table, mut pending) = (memory.table(), Pending::default());
            // What is done at each level, per counter: the plain reading.
            let mut levels: Vec<[i128; 3]> = vec![[0; 3]];
            for key in 0..3 {
                table.insert(key, Labels::default(), Sums::ZERO).unwrap();
            }
            for step in steps {
                let level = levels.len() as Level;
                match step {
                    Step::Add(key, v) => {
                        let at = table.find(key.into()).unwrap();
                        pending.touch(key.into(), at, level, &mut table);
                        pending.add(key.into(), held(v.into()), level, &mut table);
                        levels.last_mut().unwrap()[usize::from(key)] += i128::from(v);
                    }
                    Step::Savepoint => levels.push([0; 3]),
                    Step::Release if level > 1 => {
                        pending.merge(level, &mut table);
                        let done = levels.pop().unwrap();
                        for (sum, d) in levels.last_mut().unwrap().iter_mut().zip(done) {
                            *sum += d;
                        }
                    }
                    Step::RollBack if level > 1 => {
                        pending.undo(level, &mut table);
                        levels.pop();
                    }
                    Step::Release | Step::RollBack => {}
                }
                for key in 0..3_usize {
                    let mut sum = 0;
                    let sums = levels.iter().map(|l| { sum += l[key]; sum });
                    let most = sums.max().unwrap().max(0);
                    let shared = table.sums(table.find(key as u128).unwrap());
                    prop_assert_eq!(shared.total(), most);
                    prop_assert_eq!(pending.seen(key as u128, shared).total(), sum);
                }
            }
            pending.end(commits, &mut table);
            for key in 0..3_usize {
                let at = table.find(key as u128).unwrap();
                let done: i128 = levels.iter().map(|l| l[key]).sum();
                prop_assert_eq!(table.sums(at).total(), if commits { done } else { 0 });
                prop_assert!(!table.is_pinned(at));
            }
        }
    }
}
