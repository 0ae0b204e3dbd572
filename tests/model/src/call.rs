//! A call, step by step: barrier, rules, touch or load, apply.
//!
//! Deciding and writing is in `apply.rs`. Each arm of `step_call` is one atomic step. `None` says that it has to wait.

use crate::apply::{find_hold, others, own};
use crate::scenario::{Operation, Scenario, Without};
use crate::world::{At, Call, Key, Process, ProcessId, Row, World};

impl Scenario {
    pub(crate) fn step_call(
        &self,
        world: &mut World,
        id: ProcessId,
        does: Operation,
    ) -> Option<()> {
        let me = usize::from(id);
        match world.processes[me].at {
            At::Ready => match does {
                Operation::Insert { class, amount } if self.inserted(world, id).is_none() => {
                    let row = self.new_row(world, id, class, amount);
                    world.insert_row(Row { charge: true, counted: false, ..row });
                    world.processes[me].open = true;
                }
                Operation::Check { .. } => {
                    if self.lacks(Without::EpochBeforeRules) {
                        self.resolve_for_check(world, id);
                    } else {
                        world.processes[me].call.epoch = world.epoch;
                    }
                    world.processes[me].at = At::ResolveForCheck;
                }
                _ if self.lacks(Without::RulesAfterBarrier) => {
                    self.resolve(world, id, does);
                    world.processes[me].at = At::Barrier;
                }
                _ => self.begin(world, id, does)?,
            },
            At::Barrier => self.begin(world, id, does)?,
            At::ResolveForCheck => {
                if self.lacks(Without::EpochBeforeRules) {
                    world.processes[me].call.epoch = world.epoch;
                } else {
                    self.resolve_for_check(world, id);
                }
                self.touched(world, id);
            }
            At::Find => {
                let key = world.processes[me].call.keys[world.processes[me].call.next];
                if world.entry(key).is_some() {
                    self.found(world, id, does, key);
                } else if world.processes[me].kept.iter().any(|(rule, _)| *rule == key.rule)
                    && !self.lacks(Without::KeeperStaysWithSums)
                {
                    world.processes[me].at = At::Snapshot;
                } else {
                    if self.lacks(Without::SnapshotAfterLoadLock) {
                        self.snapshot(world, id, key);
                    }
                    world.processes[me].at = At::Lock;
                }
            }
            At::Lock => {
                let key = world.processes[me].call.keys[world.processes[me].call.next];
                if !self.lacks(Without::LoadLock) {
                    let mut others = others(world, id);
                    if others.any(|other| {
                        other.loading == Some(key.rule)
                            || other.kept.iter().any(|(rule, _)| *rule == key.rule)
                    }) {
                        return None;
                    }
                    drop(others);
                    world.processes[me].loading = Some(key.rule);
                }
                if world.entry(key).is_some() && !self.lacks(Without::SecondLook) {
                    self.found(world, id, does, key);
                } else if world.processes[me].call.loaded.is_some() {
                    world.processes[me].at = At::Publish;
                } else {
                    world.processes[me].at = At::Snapshot;
                }
            }
            At::Snapshot => {
                let key = world.processes[me].call.keys[world.processes[me].call.next];
                self.snapshot(world, id, key);
                world.processes[me].at = At::Publish;
            }
            At::Publish => self.publish_or_sum(world, id, does),
            At::SumForBulk => {
                for key in world.processes[me].call.keys.clone() {
                    self.snapshot(world, id, key);
                    self.decide_by_sum(world, id, key);
                }
                world.processes[me].at = At::Apply;
            }
            At::Apply | At::ApplyLater => self.apply(world, id, does),
            at @ (At::Visible | At::CalledBackEarly | At::Dropped) => {
                unreachable!("{at:?} within a call")
            }
        }
        Some(())
    }

    /// Locks the hold and the barrier, and resolves the rules.
    fn begin(&self, world: &mut World, id: ProcessId, does: Operation) -> Option<()> {
        let me = usize::from(id);
        if let Some(hold) = does.hold() {
            let locked = |other: &Process| other.holds.iter().any(|(held, _)| *held == hold);
            if others(world, id).any(locked) {
                return None;
            }
            let found = find_hold(world, id, hold);
            let extends = matches!(does, Operation::Extend { .. });
            if found.is_none_or(|row| extends && !row.is_open()) {
                self.finish(world, id);
                return Some(());
            }
        }
        let writes_bulk = world.processes[me].bulk.is_some()
            || world.processes[me].pins.len() >= self.bulk_after
            || matches!(does, Operation::Degraded { .. }) && !self.lacks(Without::DegradedInBulk)
            || world.processes[me].edited.is_some() && !self.lacks(Without::EditorsBulk);
        let survived =
            world.processes[me].bulk.is_some() && world.processes[me].exclusive.is_none();
        let exclusive = writes_bulk && !survived && !self.lacks(Without::BulkBarrier);
        let believes = self.lacks(Without::BarrierInEveryCall) && world.processes[me].took_barrier;
        let joins = !self.lacks(Without::WritersBarrier) && !believes;
        let conflicts = |other: &Process| {
            other.exclusive.is_some() && joins || other.share.is_some() && exclusive
        };
        if others(world, id).any(conflicts) {
            return None;
        }
        let process = &mut world.processes[me];
        let level = process.level;
        process.open = true;
        if let Some(hold) = does.hold()
            && !process.holds.iter().any(|(held, _)| *held == hold)
        {
            process.holds.push((hold, level));
        }
        if writes_bulk {
            process.bulk.get_or_insert(level);
        }
        if exclusive {
            process.exclusive.get_or_insert(level);
        } else if joins {
            process.took_barrier = self.lacks(Without::BarrierInEveryCall);
            process.share.get_or_insert(level);
        }
        if process.at != At::Barrier {
            self.resolve(world, id, does);
        }
        self.touched(world, id);
        Some(())
    }

    /// Under the barrier, so that epoch and rules cannot change any more.
    fn resolve(&self, world: &mut World, id: ProcessId, does: Operation) {
        let process = &world.processes[usize::from(id)];
        let rules = process.edited.map_or(world.rules, |(rules, _)| rules);
        let keys = if let Operation::Degraded { .. } = does {
            vec![]
        } else if let Operation::Reserve { class, .. } = does {
            self.keys(rules, class, self.now(world))
        } else {
            let row = match does.hold() {
                Some(hold) => find_hold(world, id, hold),
                None => self.inserted(world, id).map(|at| &world.rows[at]),
            };
            row.map_or(vec![], |row| self.keys(rules, row.class, row.stamp))
        };
        let epoch = world.epoch;
        let call = &mut world.processes[usize::from(id)].call;
        *call = Call { epoch, rules, keys, pinned: call.pinned.clone(), ..Call::default() };
    }

    /// A check has no barrier. Its rules are remembered, and of the shared generation or read anew.
    fn resolve_for_check(&self, world: &mut World, id: ProcessId) {
        let Operation::Check { class } = self.operation(world, id) else { unreachable!() };
        let (now, committed, generation) = (self.now(world), world.rules, world.generation);
        let process = &mut world.processes[usize::from(id)];
        if process.cached.1 != generation && !self.lacks(Without::GenerationCheck) {
            process.cached = (committed, generation);
        }
        process.call.rules = process.edited.map_or(process.cached.0, |(rules, _)| rules);
        process.call.keys = self.keys(process.call.rules, class, now);
    }

    fn found(&self, world: &mut World, id: ProcessId, does: Operation, key: Key) {
        if !matches!(does, Operation::Check { .. }) {
            self.pin(world, id, key);
        }
        let process = &mut world.processes[usize::from(id)];
        process.loading = None;
        process.call.loaded = None;
        process.call.next += 1;
        self.touched(world, id);
    }

    /// Goes on with the next counter, or to what comes after the last.
    fn touched(&self, world: &mut World, id: ProcessId) {
        let checks = matches!(self.operation(world, id), Operation::Check { .. });
        let process = &mut world.processes[usize::from(id)];
        if process.bulk.is_some() && process.call.sums.len() < process.call.keys.len() && !checks {
            process.at = At::SumForBulk;
        } else if process.call.next < process.call.keys.len() {
            process.at = At::Find;
        } else if checks {
            self.finish(world, id);
        } else {
            process.at = At::Apply;
        }
    }

    /// Sums what is committed, as of now, by the rules that the call knows.
    fn snapshot(&self, world: &mut World, id: ProcessId, key: Key) {
        let me = usize::from(id);
        let counts = self.counts(world.processes[me].call.rules, key);
        let mut sum = world.committed(&counts);
        if self.lacks(Without::OwnRowsHidden) {
            // That of a direct insert is there before its trigger counts it.
            let uncounted = world.rows.iter().filter(|row| !row.counted && counts(row));
            let mine = uncounted.filter(|row| row.written_by.is_some_and(|by| by.0 == id));
            sum += own(world, id, &counts) + mine.map(|row| row.amount).sum::<i8>();
        }
        world.processes[me].call.loaded = Some(sum);
    }

    /// Decides a counter by the sum: others', and one's own rows.
    fn decide_by_sum(&self, world: &mut World, id: ProcessId, key: Key) {
        let counts = self.counts(world.processes[usize::from(id)].call.rules, key);
        let mine = world.uncommitted(id, world.processes[usize::from(id)].level, counts);
        let call = &mut world.processes[usize::from(id)].call;
        let sum = call.loaded.take().expect("a snapshot was taken") + mine;
        call.sums.push((key, sum));
    }

    fn publish_or_sum(&self, world: &mut World, id: ProcessId, does: Operation) {
        let me = usize::from(id);
        let process = &mut world.processes[me];
        let key = process.call.keys[process.call.next];
        let keeps = process.kept.iter().any(|(rule, _)| *rule == key.rule)
            && !self.lacks(Without::KeeperStaysWithSums);
        if let Operation::Check { .. } = does {
            let apart = keeps && !self.lacks(Without::KeeperNeverPublishes)
                || process.edited.is_some() && !self.lacks(Without::EditorNeverPublishes);
            if !apart && process.call.epoch != world.epoch && !self.lacks(Without::EpochCheck) {
                (process.at, process.call, process.loading) = (At::Ready, Call::default(), None);
                return;
            }
            let value = process.call.loaded.expect("a snapshot was taken");
            if !apart {
                self.publish(world, key, value);
            }
            return self.found(world, id, does, key);
        }
        if !keeps {
            if process.call.epoch != world.epoch && !self.lacks(Without::EpochCheck) {
                process.loading = None;
                process.call = Call { pinned: process.call.pinned.clone(), ..Call::default() };
                process.at = At::Ready;
                return;
            }
            let value = process.call.loaded.expect("a snapshot was taken");
            if self.publish(world, key, value) {
                return self.found(world, id, does, key);
            }
            let process = &mut world.processes[me];
            process.kept.push((key.rule, process.level));
            process.call.kept.push(key.rule);
        }
        self.decide_by_sum(world, id, key);
        let process = &mut world.processes[me];
        process.loading = None;
        process.call.next += 1;
        self.touched(world, id);
    }

    /// The call is over.
    pub(crate) fn finish(&self, world: &mut World, id: ProcessId) {
        let process = &mut world.processes[usize::from(id)];
        (process.at, process.call, process.loading) = (At::Ready, Call::default(), None);
        process.operation += 1;
    }
}
