//! Deciding and writing: the critical section of a call, and the guarantee it is measured by.

use crate::scenario::{Operation, Scenario, Without};
use crate::world::{At, Money, Process, ProcessId, Row, Verdict, World};

struct Change {
    row: Option<Row>,
    /// The hold that it settles, releases, or replaces by a larger one.
    closes: Option<usize>,
    delta: Money,
}

impl Scenario {
    /// Takes the stamp, checks all limits and applies to all, in one critical section; then writes
    /// the row, which nobody else can see yet.
    pub(crate) fn apply(&self, world: &mut World, id: ProcessId, does: Operation) {
        let me = usize::from(id);
        let Change { row, closes, delta } = self.change(world, id, does);
        let call = world.processes[me].call.clone();
        if let Operation::Reserve { class, .. } = does {
            let turned = self.keys(call.rules, class, self.now(world)) != call.keys;
            if turned && !self.lacks(Without::WindowChecked) {
                // A window turned since the keys were computed: anew.
                world.processes[me].at = At::Ready;
                return;
            }
        }
        if let Operation::Reserve { .. } | Operation::Extend { .. } = does {
            if world.processes[me].at == At::Apply {
                if !self.fits(world, id, delta) {
                    return self.deny(world, id);
                }
                if self.lacks(Without::ApplyAtOnce) {
                    world.processes[me].at = At::ApplyLater;
                    return;
                }
            }
            let over = row.as_ref().is_some_and(|row| self.over_admits(world, id, row, delta));
            world.processes[me].verdict =
                Some(if over { Verdict::OverAdmitted } else { Verdict::Admitted });
            world.last_stamp = self.now(world);
        }
        let summed = |key| call.sums.iter().any(|(of, _)| *of == key);
        for key in call.keys.iter().copied().filter(|key| !summed(*key)) {
            self.add(world, id, key, delta);
        }
        let level = world.processes[me].level;
        if let Some(row) = closes.map(|at| &mut world.rows[at])
            && row.closed_by.is_none()
            && !row.closed
        {
            row.closed_by = Some((id, level));
        }
        if let Operation::Insert { .. } = does {
            let at = self.inserted(world, id).expect("the row is written");
            world.rows[at].counted = true;
        }
        world.rows.extend(row);
        world.rows.sort();
        if self.lacks(Without::KeptLock) {
            world.processes[me].kept.retain(|(rule, _)| !call.kept.contains(rule));
        }
        self.finish(world, id);
    }

    /// What an operation does to the tables.
    fn change(&self, world: &World, id: ProcessId, does: Operation) -> Change {
        let written_by = Some((id, world.processes[usize::from(id)].level));
        match does {
            Operation::Reserve { class, amount } | Operation::Degraded { class, amount } => {
                let row = Some(self.new_row(world, id, class, amount));
                Change { row, closes: None, delta: amount }
            }
            Operation::Settle { hold, .. }
            | Operation::Release { hold }
            | Operation::Extend { hold, .. } => {
                let closes = hold_at(world, id, hold);
                let held = &world.rows[closes.expect("it is locked")];
                let counted = if held.is_open() { held.amount } else { 0 };
                let row = |charge, amount| {
                    Some(Row {
                        charge,
                        amount,
                        written_by,
                        closed: false,
                        closed_by: None,
                        ..*held
                    })
                };
                match does {
                    Operation::Settle { cost, .. } => {
                        Change { row: row(true, cost), closes, delta: cost - counted }
                    }
                    Operation::Extend { more, .. } => {
                        Change { row: row(false, held.amount + more), closes, delta: more }
                    }
                    _ => Change { row: None, closes, delta: -counted },
                }
            }
            _ => {
                let at = self.inserted(world, id).expect("the row is written");
                Change { row: None, closes: None, delta: world.rows[at].amount }
            }
        }
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

    /// Gives back what the call pinned and locked, and nothing that earlier calls did.
    fn deny(&self, world: &mut World, id: ProcessId) {
        let call = world.processes[usize::from(id)].call.clone();
        let all = self.lacks(Without::DenialGivesBackItsOwn);
        self.unpin(world, id, |(key, _)| call.pinned.contains(key) || all);
        let process = &mut world.processes[usize::from(id)];
        process.kept.retain(|(rule, _)| !call.kept.contains(rule) && !all);
        process.verdict = Some(Verdict::Denied);
        self.finish(world, id);
    }

    /// The guarantee, by the rows alone: is there a counter that could end up over its amount?
    fn over_admits(&self, world: &World, id: ProcessId, row: &Row, delta: Money) -> bool {
        let rules = world.processes[usize::from(id)].edited.map_or(world.rules, |(rules, _)| rules);
        self.keys(rules, row.class, row.stamp).into_iter().any(|key| {
            let counts = self.counts(rules, key);
            let others: Money = (0..)
                .take(world.processes.len())
                .filter(|other| *other != id)
                .map(|other| world.most(other, &counts))
                .sum();
            let sum = world.committed(&counts) + others + own(world, id, &counts) + delta;
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

/// A hold that the latest snapshot shows and that is not settled: its open version, if it has one.
fn hold_at(world: &World, id: ProcessId, hold: u8) -> Option<usize> {
    let versions = || {
        let visible = |row: &Row| row.written_by.is_none_or(|(writer, _)| writer == id);
        world.rows.iter().enumerate().filter(move |(_, row)| row.id == hold && visible(row))
    };
    if versions().any(|(_, row)| row.charge) {
        return None;
    }
    versions().max_by_key(|(_, row)| row.is_open()).map(|(at, _)| at)
}

pub(crate) fn find_hold(world: &World, id: ProcessId, hold: u8) -> Option<&Row> {
    hold_at(world, id, hold).map(|at| &world.rows[at])
}
