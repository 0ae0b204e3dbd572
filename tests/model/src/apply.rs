//! Deciding and writing: the critical section of a call, and the guarantee it is measured by.

use crate::scenario::{Operation, Scenario, Without};
use crate::world::{At, Key, Money, Process, ProcessId, Row, Verdict, World};

impl Scenario {
    /// Takes the stamp, checks all limits and applies to all, in one critical section; then writes
    /// the row, which nobody else can see yet.
    pub(crate) fn apply(&self, world: &mut World, id: ProcessId, does: Operation) {
        let me = usize::from(id);
        let (row, closes, delta) = match does {
            Operation::Reserve { class, amount } => {
                (Some(self.new_row(world, id, class, amount)), None, amount)
            }
            Operation::Settle { hold, cost } => {
                let held = find_hold(world, id, hold).expect("it is locked").clone();
                let level = world.processes[me].level;
                let written_by = Some((id, level));
                let row = Row { charge: true, amount: cost, closed: false, written_by, ..held };
                let held_open = held.closed_by.is_none() && !held.closed;
                (Some(row), Some(hold), if held_open { cost - held.amount } else { cost })
            }
            Operation::Release { hold } => {
                let held = find_hold(world, id, hold).expect("it is locked");
                let open = held.closed_by.is_none() && !held.closed;
                (None, Some(hold), if open { -held.amount } else { 0 })
            }
            _ => {
                let at = self.inserted(world, id).expect("the row is written");
                (None, None, world.rows[at].amount)
            }
        };
        if let Operation::Reserve { class, .. } = does {
            let stamp = self.now(world);
            let call = &world.processes[me].call;
            if self.keys(call.rules, class, stamp) != call.keys
                && !self.lacks(Without::WindowChecked)
            {
                // A window turned since the keys were computed.
                world.processes[me].at = At::Ready;
                return;
            }
            if world.processes[me].at == At::Apply {
                if !self.fits(world, id, delta) {
                    return self.deny(world, id);
                }
                if self.lacks(Without::ApplyAtOnce) {
                    world.processes[me].at = At::ApplyLater;
                    return;
                }
            }
            world.last_stamp = stamp;
            let over = self.over_admits(world, id, class, stamp, delta);
            world.processes[me].verdict =
                Some(if over { Verdict::OverAdmitted } else { Verdict::Admitted });
        }
        let call = &world.processes[me].call;
        let summed: Vec<Key> = call.sums.iter().map(|(key, _)| *key).collect();
        for key in call.keys.clone() {
            if !summed.contains(&key) {
                self.add(world, id, key, delta);
            }
        }
        let level = world.processes[me].level;
        if let Some(at) = closes.and_then(|hold| hold_at(world, id, hold)) {
            let row = &mut world.rows[at];
            if row.closed_by.is_none() && !row.closed {
                row.closed_by = Some((id, level));
            }
        }
        if let Operation::Insert { .. } = does {
            let at = self.inserted(world, id).expect("the row is written");
            world.rows[at].counted = true;
        }
        world.rows.extend(row);
        world.rows.sort();
        if self.lacks(Without::KeptLock) {
            let taken = world.processes[me].call.kept.clone();
            world.processes[me].kept.retain(|(rule, _)| !taken.contains(rule));
        }
        self.finish(world, id);
    }

    /// Whether others' view of each counter, and one's own uncommitted, leave room.
    fn fits(&self, world: &mut World, id: ProcessId, amount: Money) -> bool {
        let process = world.processes[usize::from(id)].clone();
        process.call.keys.iter().all(|key| {
            let sum = process.call.sums.iter().find(|(of, _)| of == key).map(|(_, sum)| *sum);
            let used = sum.unwrap_or_else(|| {
                let value = world.entry(*key).map_or(0, |entry| entry.value);
                value - self.published(&process, *key) + process.net(*key)
            });
            used + amount <= self.amount(process.call.rules, *key)
        })
    }

    /// Gives back what the call pinned and locked.
    fn deny(&self, world: &mut World, id: ProcessId) {
        let call = world.processes[usize::from(id)].call.clone();
        self.unpin(world, id, |(key, _)| call.pinned.contains(key));
        let process = &mut world.processes[usize::from(id)];
        process.kept.retain(|(rule, _)| !call.kept.contains(rule));
        process.verdict = Some(Verdict::Denied);
        self.finish(world, id);
    }

    /// The guarantee, by the rows alone: is there a counter that could end up over its amount?
    fn over_admits(
        &self,
        world: &World,
        id: ProcessId,
        class: u8,
        stamp: u8,
        amount: Money,
    ) -> bool {
        let rules = world.processes[usize::from(id)].edited.map_or(world.rules, |(rules, _)| rules);
        self.keys(rules, class, stamp).into_iter().any(|key| {
            let counts = self.counts(rules, key);
            let others: Money = (0..)
                .take(world.processes.len())
                .filter(|other| *other != id)
                .map(|other| world.most(other, &counts))
                .sum();
            let sum = world.committed(&counts) + others + own(world, id, &counts) + amount;
            sum > self.amount(rules, key)
        })
    }

    pub(crate) fn now(&self, world: &World) -> u8 {
        world.clock.max(world.last_stamp)
    }

    pub(crate) fn new_row(&self, world: &World, id: ProcessId, class: u8, amount: Money) -> Row {
        let process = &world.processes[usize::from(id)];
        Row {
            id: row_id(id, process.operation),
            charge: false,
            class,
            stamp: self.now(world),
            amount,
            written_by: Some((id, process.level)),
            closed_by: None,
            closed: false,
            counted: true,
        }
    }

    /// The row of the direct insert under way.
    pub(crate) fn inserted(&self, world: &World, id: ProcessId) -> Option<usize> {
        let wanted = row_id(id, world.processes[usize::from(id)].operation);
        world.rows.iter().position(|row| row.id == wanted)
    }
}

/// The id of the hold or charge that an operation of a script writes.
pub(crate) fn row_id(process: ProcessId, operation: usize) -> u8 {
    10 * (process + 1) + u8::try_from(operation).expect("scripts are short")
}

pub(crate) fn others(world: &World, id: ProcessId) -> impl Iterator<Item = &Process> {
    (0..).zip(&world.processes).filter(move |(other, _)| *other != id).map(|(_, process)| process)
}

pub(crate) fn own(world: &World, id: ProcessId, counts: impl Fn(&Row) -> bool) -> Money {
    world.uncommitted(id, world.processes[usize::from(id)].level, counts)
}

/// A hold that the latest snapshot shows and that is not settled.
fn hold_at(world: &World, id: ProcessId, hold: u8) -> Option<usize> {
    let visible = |row: &&Row| row.written_by.is_none_or(|(writer, _)| writer == id);
    if world.rows.iter().filter(visible).any(|row| row.id == hold && row.charge) {
        return None;
    }
    world.rows.iter().position(|row| row.id == hold && visible(&row))
}

pub(crate) fn find_hold(world: &World, id: ProcessId, hold: u8) -> Option<&Row> {
    hold_at(world, id, hold).map(|at| &world.rows[at])
}
