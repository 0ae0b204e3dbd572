//! The sealed watermark: the rollup holds what was recorded before it, the tail is the rest.
//!
//! A model of its own, since all it shares with the counters is the stamp. A loader adds rollup and
//! tail under one snapshot. So if these make the ledger at every instant, the other model may sum
//! the ledger alone, and does.
//!
//! What matters here is the order of xids and stamps; every row is of one unit of money.

mod steps;

use stateright::{Model, Property};

/// A step that is left out or misplaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lacks {
    #[default]
    Nothing,
    /// Writers take the stamp first.
    XidBeforeStamp,
    /// The stamp is the clock, which may be set back.
    StampThatNeverGoesBack,
    /// The last stamp is read in one critical section and written in another.
    StampAtOnce,
    /// After a restart the stamp starts from the clock.
    StampFromWatermarkAfterRestart,
    /// The worker takes X first, then W.
    WBeforeX,
    /// X is `pg_snapshot_xmax`, and not an xid of its own.
    XOfItsOwn,
    /// The worker doesn't wait until no older transaction runs.
    Wait,
    /// Rollup and watermark are committed one after the other.
    SealAtOnce,
    /// Rows with a given `recorded_at` leave the watermark alone.
    GivenTimesResetWatermark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A transaction that records so many rows.
    Rows(u8),
    /// Inserts a row with a `recorded_at` of long ago, as a restore does.
    GivenTime,
}

#[derive(Clone, Debug)]
pub struct Ledger {
    pub writers: Vec<Writer>,
    /// How often the worker seals.
    pub rounds: u8,
    pub last_instant: u8,
    pub set_backs: u8,
    pub crashes: u8,
    pub lacks: Lacks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Recorded {
    by: usize,
    stamp: u8,
    committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Transaction {
    xid: Option<u8>,
    stamp: Option<u8>,
    rows: u8,
    ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Worker {
    at: u8,
    w: u8,
    x: u8,
    version: u8,
    sum: u8,
    rounds: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct State {
    clock: u8,
    set_backs: u8,
    crashes: u8,
    last_stamp: u8,
    next_xid: u8,
    latest_completed: u8,
    rows: Vec<Recorded>,
    writers: Vec<Transaction>,
    worker: Worker,
    /// Of the worker's own short transaction.
    worker_xid: Option<u8>,
    /// The one row that says what is sealed, with its row lock.
    rollup: u8,
    watermark: u8,
    version: u8,
    locked_by: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Write(usize),
    Abort(usize),
    Work,
    Tick,
    SetBack,
    Crash,
}

pub const ROLLUP_AND_TAIL: &str = "rollup and tail are the ledger";
const SEALED_BESIDE: &str = "something is sealed while a transaction is open";

impl Model for Ledger {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let writers = vec![Transaction::default(); self.writers.len()];
        vec![State { writers, next_xid: 1, clock: 1, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (id, transaction) in state.writers.iter().enumerate() {
            if !transaction.ended {
                actions.push(Step::Write(id));
            }
            if transaction.xid.is_some() {
                actions.push(Step::Abort(id));
            }
        }
        let may = [
            (state.worker.rounds < self.rounds, Step::Work),
            (state.clock < self.last_instant, Step::Tick),
            (state.set_backs < self.set_backs && state.clock > 1, Step::SetBack),
            (state.crashes < self.crashes, Step::Crash),
        ];
        actions.extend(may.into_iter().filter(|(may, _)| *may).map(|(_, step)| step));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut state = state.clone();
        match step {
            Step::Write(id) => self.write(&mut state, id)?,
            Step::Abort(id) => self.end(&mut state, id),
            Step::Work => self.work(&mut state)?,
            Step::Tick => state.clock += 1,
            Step::SetBack => {
                state.clock = 1;
                state.set_backs += 1;
            }
            Step::Crash => {
                self.crash(&mut state);
                state.crashes += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ROLLUP_AND_TAIL, |_, state: &State| {
                let ledger = state.rows.iter().filter(|row| row.committed);
                let tail = ledger.clone().filter(|row| row.stamp >= state.watermark);
                usize::from(state.rollup) + tail.count() == ledger.count()
            }),
            Property::sometimes(SEALED_BESIDE, |_, state: &State| {
                state.rollup > 0 && state.writers.iter().any(|writer| writer.xid.is_some())
            }),
        ]
    }
}
