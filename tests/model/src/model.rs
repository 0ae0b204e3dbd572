//! The scenario as stateright's model: its actions, and its properties.

use crate::scenario::{Operation, Scenario};
use crate::world::{At, Key, Process, ProcessId, Verdict, World};
use stateright::{Model, Property};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The next atomic step of a process.
    Step(ProcessId),
    /// The other choice at `End` and `EndSavepoint`: abort, or roll back.
    GiveUp(ProcessId),
    Kill(ProcessId),
    Evict(Key),
    Tick,
}

pub const NO_OVER_ADMISSION: &str = "no over-admission";
pub const NO_PHANTOM: &str = "no phantom: with nothing open, an entry is the sum of its rows";
const EXACT: &str = "an entry is what is committed and what is published of open transactions";
const ABSENT: &str =
    "with its entry absent, a counter has no uncommitted rows (or they are locked)";
const PINNED: &str = "pins are those of open transactions";
const ADMITTED: &str = "something is admitted";
const DENIED: &str = "something is denied";
const LEFT: &str = "an entry is left when all is done";

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let processes = vec![Process::default(); self.scripts.len()];
        vec![World { rows: self.rows.clone(), processes, ..World::default() }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (id, process) in (0..).zip(&world.processes) {
            let Some(does) = self.scripts[usize::from(id)].get(process.operation) else { continue };
            actions.push(Action::Step(id));
            if matches!(does, Operation::End | Operation::EndSavepoint) && process.at == At::Ready {
                actions.push(Action::GiveUp(id));
            }
            let visible = matches!(process.at, At::Visible | At::CalledBackEarly | At::Dropped);
            if self.kills && (process.open || process.at != At::Ready) && !visible {
                actions.push(Action::Kill(id));
            }
        }
        if self.evicts {
            let unpinned = world.entries.iter().filter(|entry| entry.pins == 0);
            actions.extend(unpinned.map(|entry| Action::Evict(entry.key)));
        }
        if world.clock < self.last_instant {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Step(id) => self.step(&mut world, id, true)?,
            Action::GiveUp(id) => self.step(&mut world, id, false)?,
            Action::Kill(id) => {
                self.abort(&mut world, id);
                world.processes[usize::from(id)].operation = self.scripts[usize::from(id)].len();
            }
            Action::Evict(key) => world.entries.retain(|entry| entry.key != key),
            Action::Tick => world.clock += 1,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_OVER_ADMISSION, |_: &Scenario, world: &World| {
                world.processes.iter().all(|process| process.verdict != Some(Verdict::OverAdmitted))
            }),
            Property::always(NO_PHANTOM, |scenario: &Scenario, world: &World| {
                world.processes.iter().any(|process| process.open)
                    || world.entries.iter().all(|entry| {
                        let counts = scenario.counts(world.rules, entry.key);
                        entry.pins == 0 && entry.value == world.committed(counts)
                    })
            }),
            Property::always(EXACT, Scenario::is_exact),
            Property::always(ABSENT, Scenario::absent_is_settled),
            Property::always(PINNED, |_: &Scenario, world: &World| {
                world.entries.iter().all(|entry| {
                    let pins = world.processes.iter().flat_map(|process| &process.pins);
                    pins.filter(|(key, _)| *key == entry.key).count() == usize::from(entry.pins)
                })
            }),
            Property::sometimes(ADMITTED, |_, world: &World| {
                world.processes.iter().any(|process| process.verdict == Some(Verdict::Admitted))
            }),
            Property::sometimes(DENIED, |_, world: &World| {
                world.processes.iter().any(|process| process.verdict == Some(Verdict::Denied))
            }),
            Property::sometimes(LEFT, |scenario: &Scenario, world: &World| {
                let scripts = scenario.scripts.iter().zip(&world.processes);
                !world.entries.is_empty()
                    && scripts
                        .into_iter()
                        .all(|(script, process)| process.operation == script.len())
            }),
        ]
    }
}

impl Scenario {
    pub(crate) fn operation(&self, world: &World, id: ProcessId) -> Operation {
        self.scripts[usize::from(id)][world.processes[usize::from(id)].operation]
    }

    fn step(&self, world: &mut World, id: ProcessId, commit: bool) -> Option<()> {
        let does = self.operation(world, id);
        world.processes[usize::from(id)].verdict = None;
        match does {
            Operation::Reserve { .. }
            | Operation::Degraded { .. }
            | Operation::Extend { .. }
            | Operation::Settle { .. }
            | Operation::Release { .. }
            | Operation::Insert { .. }
            | Operation::Check { .. } => self.step_call(world, id, does),
            _ => self.step_end(world, id, does, commit),
        }
    }

    fn is_exact(&self, world: &World) -> bool {
        let drops = |process: &Process| {
            process.at == At::Visible && (process.bulk.is_some() || process.edited.is_some())
        };
        if world.processes.iter().any(drops) {
            return true;
        }
        world.entries.iter().all(|entry| {
            let pending = world.processes.iter().map(|process| {
                let settled = if process.at == At::Visible { process.net(entry.key) } else { 0 };
                self.published(process, entry.key) - settled
            });
            let committed = world.committed(self.counts(world.rules, entry.key));
            entry.value == committed + pending.sum::<i8>()
        })
    }

    fn absent_is_settled(&self, world: &World) -> bool {
        world.rows.iter().filter(|row| row.counted).all(|row| {
            let keys = || self.keys(world.rules, row.class, row.stamp).into_iter();
            [row.written_by, row.closed_by].into_iter().flatten().all(|(id, _)| {
                let process = &world.processes[usize::from(id)];
                let locked = |rule| process.kept.iter().any(|(kept, _)| *kept == rule);
                process.bulk.is_some()
                    || keys().all(|key| {
                        locked(key.rule) || world.entries.iter().any(|entry| entry.key == key)
                    })
            })
        })
    }
}
