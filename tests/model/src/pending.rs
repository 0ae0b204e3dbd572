//! Pending deltas and pins of a transaction, by savepoint level, and what they publish.
//!
//! All of it is one critical section under the table's lightweight lock.

use crate::scenario::{Scenario, Without};
use crate::world::{Entry, Key, Level, Money, Process, ProcessId, World};

impl Process {
    /// What all levels up to the last add to a counter: D.
    pub fn net(&self, key: Key) -> Money {
        self.sums(key).last().unwrap_or(0)
    }

    /// D of each level.
    fn sums(&self, key: Key) -> impl Iterator<Item = Money> {
        self.frames.iter().scan(0, move |sum, frame| {
            *sum +=
                frame.iter().filter(|(of, _)| *of == key).map(|(_, delta)| delta).sum::<Money>();
            Some(*sum)
        })
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.frames.iter().flatten().map(|(key, _)| *key).collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

impl Scenario {
    /// What of a transaction's deltas is in the shared entry before it commits: p.
    pub(crate) fn published(&self, process: &Process, key: Key) -> Money {
        if self.lacks(Without::MostOverSavepoints) {
            return process.net(key).max(0);
        }
        let most = process.sums(key).max().unwrap_or(0);
        if self.lacks(Without::DecreasesAtCommit) { most } else { most.max(0) }
    }

    /// Lets a transaction's frames change, and the shared entries with them.
    fn republish(&self, world: &mut World, id: ProcessId, change: impl FnOnce(&mut Process)) {
        let at = usize::from(id);
        let before = world.processes[at].clone();
        change(&mut world.processes[at]);
        for frame in &mut world.processes[at].frames {
            merge(frame);
        }
        let after = world.processes[at].clone();
        for key in [before.keys(), after.keys()]
            .concat()
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
        {
            let difference = self.published(&after, key) - self.published(&before, key);
            // It is always there, but in variants.
            if let Some(entry) = world.entry(key) {
                entry.value += difference;
            }
        }
    }

    pub(crate) fn add(&self, world: &mut World, id: ProcessId, key: Key, delta: Money) {
        self.republish(world, id, |process| {
            let level = usize::from(process.level);
            process.frames.resize(level + 1, vec![]);
            process.frames[level].push((key, delta));
        });
    }

    pub(crate) fn pin(&self, world: &mut World, id: ProcessId, key: Key) {
        let process = &mut world.processes[usize::from(id)];
        if self.lacks(Without::Pins) || process.pins.iter().any(|(pinned, _)| *pinned == key) {
            return;
        }
        process.pins.push((key, process.level));
        process.pins.sort();
        process.call.pinned.push(key);
        world.entry(key).expect("what is pinned is there").pins += 1;
    }

    pub(crate) fn unpin(
        &self,
        world: &mut World,
        id: ProcessId,
        which: impl Fn(&(Key, Level)) -> bool,
    ) {
        let pins = &mut world.processes[usize::from(id)].pins;
        let gone: Vec<_> = pins.extract_if(.., |pin| which(pin)).collect();
        for (key, _) in gone {
            // An edit's own callback may have dropped it.
            if let Some(entry) = world.entry(key) {
                // In variants it may be another that was loaded meanwhile.
                entry.pins = entry.pins.saturating_sub(1);
            }
        }
    }

    /// Puts a loaded entry in, where there is room or something to evict.
    pub(crate) fn publish(&self, world: &mut World, key: Key, value: Money) -> bool {
        if world.entry(key).is_some() {
            return true;
        }
        if world.entries.len() >= self.capacity {
            let Some(victim) = world.entries.iter().position(|entry| entry.pins == 0) else {
                return false;
            };
            world.entries.remove(victim);
        }
        world.entries.push(Entry { key, value, pins: 0 });
        world.entries.sort();
        true
    }

    /// The rollback to a savepoint: what was done since leaves no trace.
    pub(crate) fn roll_back_to(&self, world: &mut World, id: ProcessId) {
        let level = world.processes[usize::from(id)].level;
        for row in &mut world.rows {
            if row.closed_by == Some((id, level)) {
                row.closed_by = None;
            }
        }
        world.rows.retain(|row| row.written_by != Some((id, level)));
        if !self.lacks(Without::FramesDropped) {
            self.republish(world, id, |process| process.frames.truncate(usize::from(level)));
        }
        if !self.lacks(Without::PinsGoWithSavepoint) {
            self.unpin(world, id, |(_, pinned)| *pinned >= level);
        }
        let process = &mut world.processes[usize::from(id)];
        process.share.take_if(|at| *at >= level);
        process.exclusive.take_if(|at| *at >= level);
        process.edited.take_if(|(_, at)| *at >= level);
        process.kept.retain(|(_, at)| *at < level);
        process.holds.retain(|(_, at)| *at < level);
        if self.lacks(Without::BulkEndsWithSavepoint) {
            process.bulk = process.bulk.map(|at| at.min(level - 1));
        } else {
            process.bulk.take_if(|at| *at >= level);
        }
    }

    /// A released savepoint is its parent's from now on.
    pub(crate) fn release_savepoint(&self, world: &mut World, id: ProcessId) {
        let level = world.processes[usize::from(id)].level;
        let parent = level - 1;
        let relabel = |at: &mut Level| *at = (*at).min(parent);
        for row in &mut world.rows {
            for by in [&mut row.written_by, &mut row.closed_by].into_iter().flatten() {
                if by.0 == id {
                    relabel(&mut by.1);
                }
            }
        }
        world.rows.sort();
        self.republish(world, id, |process| {
            if let Some(frame) = process.frames.get_mut(usize::from(level)).map(std::mem::take) {
                process.frames[usize::from(parent)].extend(frame);
            }
        });
        let process = &mut world.processes[usize::from(id)];
        process.level = parent;
        process.frames.truncate(usize::from(level));
        process.pins.iter_mut().for_each(|(_, at)| relabel(at));
        process.pins.sort();
        process.kept.iter_mut().for_each(|(_, at)| relabel(at));
        process.holds.iter_mut().for_each(|(_, at)| relabel(at));
        process.edited.iter_mut().for_each(|(_, at)| relabel(at));
        for at in [&mut process.share, &mut process.exclusive, &mut process.bulk] {
            at.iter_mut().for_each(relabel);
        }
    }

    /// Settles a transaction's deltas with the entries, and unpins: `committed` makes p into D.
    pub(crate) fn call_back(&self, world: &mut World, id: ProcessId, committed: bool) {
        let process = world.processes[usize::from(id)].clone();
        for key in process.keys() {
            let net = if committed { process.net(key) } else { 0 };
            if let Some(entry) = world.entry(key) {
                entry.value += net - self.published(&process, key);
            }
        }
        self.unpin(world, id, |_| true);
        world.processes[usize::from(id)].frames.clear();
    }
}

/// One delta a counter, and none that is 0.
fn merge(frame: &mut Vec<(Key, Money)>) {
    frame.sort();
    frame.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 += later.1;
        }
        same
    });
    frame.retain(|(_, delta)| *delta != 0);
}
