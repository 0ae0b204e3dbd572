//! Savepoints, and the end of a transaction.
//!
//! A commit is two steps, as in Postgres: it becomes visible (ProcArrayEndTransaction), then the
//! callback runs and the locks go. A rollback is one: what it undoes nobody else could see.

use crate::apply::others;
use crate::scenario::{Operation, Scenario, Without};
use crate::world::{At, Process, ProcessId, World};

impl Scenario {
    /// One step of an operation that is no call. `commit` chooses where the script leaves a choice.
    pub(crate) fn step_end(
        &self,
        world: &mut World,
        id: ProcessId,
        does: Operation,
        commit: bool,
    ) -> Option<()> {
        let me = usize::from(id);
        let level = world.processes[me].level;
        match does {
            Operation::Edit { rules } => {
                let process = &mut world.processes[me];
                process.open = true;
                process.edited = Some((rules, level));
            }
            Operation::Savepoint => {
                let process = &mut world.processes[me];
                process.open = true;
                process.level += 1;
                process.frames.resize(usize::from(level) + 1, vec![]);
            }
            Operation::RollbackTo => self.roll_back_to(world, id),
            Operation::ReleaseSavepoint => self.release_savepoint(world, id),
            Operation::EndSavepoint if commit => self.release_savepoint(world, id),
            Operation::EndSavepoint => {
                self.roll_back_to(world, id);
                self.release_savepoint(world, id);
            }
            Operation::Abort => self.abort(world, id),
            Operation::End if !commit => self.abort(world, id),
            Operation::Commit | Operation::End => return self.commit(world, id),
            _ => unreachable!("{does:?} is a call"),
        }
        self.finish(world, id);
        Some(())
    }

    fn commit(&self, world: &mut World, id: ProcessId) -> Option<()> {
        let me = usize::from(id);
        let early = self.lacks(Without::CallbackAfterVisible);
        let edits_early =
            self.lacks(Without::EditCallbackAfterVisible) && world.processes[me].edited.is_some();
        match world.processes[me].at {
            At::Ready => {
                // A deferred trigger takes the barrier for the edit.
                if world.processes[me].edited.is_some() && !self.lacks(Without::EditBarrier) {
                    let mut others = others(world, id);
                    if others.any(|other| other.exclusive.is_some() || other.share.is_some()) {
                        return None;
                    }
                    drop(others);
                    let level = world.processes[me].level;
                    world.processes[me].exclusive.get_or_insert(level);
                }
                if early {
                    self.call_back(world, id, true);
                }
                if edits_early {
                    self.drop_entries(world, id);
                    self.bump(world, id);
                }
                if early || edits_early {
                    world.processes[me].at = At::CalledBackEarly;
                } else {
                    self.become_visible(world, id);
                    world.processes[me].at = At::Visible;
                }
                return Some(());
            }
            At::CalledBackEarly => {
                self.become_visible(world, id);
                world.processes[me].at = At::Visible;
                return Some(());
            }
            At::Dropped => self.bump(world, id),
            _ => {
                self.call_back(world, id, true);
                if !edits_early {
                    self.drop_entries(world, id);
                    if self.lacks(Without::DropAndBumpAtOnce) {
                        world.processes[me].at = At::Dropped;
                        return Some(());
                    }
                    self.bump(world, id);
                }
            }
        }
        self.leave(world, id);
        self.finish(world, id);
        Some(())
    }

    fn become_visible(&self, world: &mut World, id: ProcessId) {
        for row in &mut world.rows {
            row.written_by.take_if(|(writer, _)| *writer == id);
            row.closed |= row.closed_by.take_if(|(closer, _)| *closer == id).is_some();
        }
        world.rows.sort();
        let process = &mut world.processes[usize::from(id)];
        if self.lacks(Without::LocksAfterCallback) {
            (process.share, process.exclusive) = (None, None);
            process.kept.clear();
        }
        if let Some((rules, _)) = process.edited {
            // The callback compares with what was before.
            process.call.rules = world.rules;
            world.rules = rules;
        }
    }

    /// The part of the callback that edits and bulk add.
    fn drop_entries(&self, world: &mut World, id: ProcessId) {
        let process = world.processes[usize::from(id)].clone();
        if let Some((rules, _)) = process.edited
            && !self.lacks(Without::EditDrop)
        {
            let before = if world.rules == rules { process.call.rules } else { world.rules };
            world.entries.retain(|entry| !self.reshapes(before, rules, entry.key.rule));
        }
        if process.bulk.is_some() && !self.lacks(Without::BulkDrop) {
            world.entries.clear();
        }
    }

    fn bump(&self, world: &mut World, id: ProcessId) {
        let process = &world.processes[usize::from(id)];
        if process.edited.is_some() {
            world.epoch += 1;
            world.generation += 1;
        } else if process.bulk.is_some() && !self.lacks(Without::BulkEpoch) {
            world.epoch += 1;
        }
    }

    pub(crate) fn abort(&self, world: &mut World, id: ProcessId) {
        for row in &mut world.rows {
            row.closed_by.take_if(|(closer, _)| *closer == id);
        }
        world.rows.retain(|row| row.written_by.is_none_or(|(writer, _)| writer != id));
        world.rows.sort();
        self.call_back(world, id, false);
        self.leave(world, id);
    }

    /// The locks go, and all that was the transaction's.
    fn leave(&self, world: &mut World, id: ProcessId) {
        let process = &mut world.processes[usize::from(id)];
        *process =
            Process { operation: process.operation, cached: process.cached, ..Process::default() };
    }
}
