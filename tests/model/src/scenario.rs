//! What is explored: rules, room, scripts of the processes, and the step that is left out.

use crate::world::{Key, Money, Row};

/// A deny limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub amount: Money,
    /// The classes of calls that it counts, as bits.
    pub classes: u8,
    /// Which of the scenario's zones its windows are of.
    pub zone: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Reserve {
        class: u8,
        amount: Money,
    },
    /// Admitted under `on_error = allow`, because its counters could not be loaded.
    Degraded {
        class: u8,
        amount: Money,
    },
    /// Raises an open hold, in the windows of its `created_at`.
    Extend {
        hold: u8,
        more: Money,
    },
    /// Books `cost` for a hold, whatever it held; also for one that is expired or released.
    Settle {
        hold: u8,
        cost: Money,
    },
    /// Gives a hold back. Expiring one is the same to the counters.
    Release {
        hold: u8,
    },
    /// A plain INSERT into the ledger: the row first, its AFTER trigger later.
    Insert {
        class: u8,
        amount: Money,
    },
    /// Asks, and loads what it finds absent.
    Check {
        class: u8,
    },
    Edit {
        rules: u8,
    },
    Savepoint,
    RollbackTo,
    ReleaseSavepoint,
    /// Either of the two.
    EndSavepoint,
    Commit,
    Abort,
    /// Either of the two.
    End,
}

/// A step of the protocol that is left out or misplaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Without {
    #[default]
    Nothing,
    WritersBarrier,
    /// A rollback to a savepoint releases the barrier, and the next call doesn't take it again.
    BarrierInEveryCall,
    RulesAfterBarrier,
    LoadLock,
    SnapshotAfterLoadLock,
    OwnRowsHidden,
    SecondLook,
    ApplyAtOnce,
    Pins,
    /// Decreases are published before the commit.
    DecreasesAtCommit,
    /// The callback comes before the transaction is visible.
    CallbackAfterVisible,
    /// Published is the net of the deltas, not the most over the savepoints.
    MostOverSavepoints,
    /// A rollback to a savepoint keeps its frames.
    FramesDropped,
    /// Pins outlive the rollback to a savepoint, the barrier does not.
    PinsGoWithSavepoint,
    EpochCheck,
    EpochBeforeRules,
    GenerationCheck,
    /// The epoch is bumped and the entries dropped before the edit is visible.
    EditCallbackAfterVisible,
    EditBarrier,
    EditDrop,
    BulkDrop,
    BulkEpoch,
    BulkBarrier,
    /// Bulk mode outlives the rollback to a savepoint from before it.
    BulkEndsWithSavepoint,
    /// A call whose counters could not be loaded writes without touching them, not in bulk mode.
    DegradedInBulk,
    KeptLock,
    /// A transaction that keeps a counter's lock loads the counter when there is room again.
    KeeperStaysWithSums,
    /// A check publishes although its own transaction keeps the counter's lock.
    KeeperNeverPublishes,
    /// A check publishes although its own transaction has edited the rules.
    EditorNeverPublishes,
    /// A transaction that edited rules goes on writing as any other.
    EditorsBulk,
    WindowChecked,
    /// A denied call gives back all pins and locks of its transaction.
    DenialGivesBackItsOwn,
    /// The locks go before the callback.
    LocksAfterCallback,
    /// Entries are dropped in one critical section, the epoch is bumped in the next.
    DropAndBumpAtOnce,
}

impl Operation {
    pub(crate) fn hold(self) -> Option<u8> {
        match self {
            Operation::Settle { hold, .. }
            | Operation::Release { hold }
            | Operation::Extend { hold, .. } => Some(hold),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// The sets of rules that edits switch between; the first is in force at the start.
    pub rules: Vec<Vec<Rule>>,
    /// Per zone, when its second window begins. The first begins at 0.
    pub turns: Vec<u8>,
    /// How far the clock may go.
    pub last_instant: u8,
    /// How many entries fit.
    pub capacity: usize,
    /// From how many pins on a transaction is in bulk mode.
    pub bulk_after: usize,
    /// Whether unpinned entries may be evicted at any time.
    pub evicts: bool,
    /// Whether any backend may be killed at any step.
    pub kills: bool,
    /// Committed rows at the start.
    pub rows: Vec<Row>,
    pub scripts: Vec<Vec<Operation>>,
    pub without: Without,
}

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            name: "",
            rules: vec![vec![Rule { amount: 3, classes: 1, zone: 0 }]],
            turns: vec![u8::MAX],
            last_instant: 0,
            capacity: usize::MAX,
            bulk_after: usize::MAX,
            evicts: true,
            kills: true,
            rows: vec![],
            scripts: vec![],
            without: Without::Nothing,
        }
    }
}

impl Scenario {
    pub fn without(&self, without: Without) -> Self {
        Scenario { without, ..self.clone() }
    }

    pub(crate) fn lacks(&self, step: Without) -> bool {
        self.without == step
    }

    fn window(&self, rule: &Rule, stamp: u8) -> u8 {
        let turn = self.turns[rule.zone];
        if stamp < turn { 0 } else { turn }
    }

    /// The counters that a row counts in: the one definition, for adder and loader.
    pub(crate) fn keys(&self, rules: u8, class: u8, stamp: u8) -> Vec<Key> {
        (0..)
            .zip(&self.rules[usize::from(rules)])
            .filter(|(_, rule)| rule.classes & class != 0)
            .map(|(index, rule)| Key { rule: index, window: self.window(rule, stamp) })
            .collect()
    }

    pub(crate) fn counts(&self, rules: u8, key: Key) -> impl Fn(&Row) -> bool {
        move |row| self.keys(rules, row.class, row.stamp).contains(&key)
    }

    pub(crate) fn amount(&self, rules: u8, key: Key) -> Money {
        self.rules[usize::from(rules)][usize::from(key.rule)].amount
    }

    /// Whether an edit from one set of rules to another changes which rows a rule counts.
    pub(crate) fn reshapes(&self, from: u8, to: u8, rule: u8) -> bool {
        let of = |set: u8| self.rules[usize::from(set)].get(usize::from(rule));
        of(from).map(|rule| (rule.classes, rule.zone))
            != of(to).map(|rule| (rule.classes, rule.zone))
    }
}

/// A committed open hold, for the start of a scenario.
pub fn hold(id: u8, amount: Money) -> Row {
    Row {
        id,
        charge: false,
        class: 1,
        stamp: 0,
        amount,
        written_by: None,
        closed_by: None,
        closed: false,
        counted: true,
    }
}
