//! What there is: the tables, the shared memory, and a process with its open transaction.
//!
//! Money is in small whole numbers and an entry holds one sum of settled and held, which is all
//! that admission looks at. Lists are kept sorted, so that states that differ only in the order of
//! arrival are one state.

pub type Money = i8;
/// How deep in savepoints: 0 is the transaction itself.
pub type Level = u8;
pub type ProcessId = u8;

/// A counter: of a rule, in the window that begins at an instant. (All calls are of one subject.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub rule: u8,
    pub window: u8,
}

/// A counter in shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub key: Key,
    pub value: Money,
    pub pins: u8,
}

/// A hold, or a charge in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// A charge that settles a hold has the hold's id.
    pub id: u8,
    pub charge: bool,
    /// What the filters of rules look at: a bit.
    pub class: u8,
    /// `created_at`, which decides the window.
    pub stamp: u8,
    pub amount: Money,
    /// By whom it was written, while that is uncommitted.
    pub written_by: Option<(ProcessId, Level)>,
    /// By whom a hold was settled, released or expired, while that is uncommitted.
    pub closed_by: Option<(ProcessId, Level)>,
    pub closed: bool,
    /// False while a direct insert has written the row and its trigger has not counted it yet.
    pub counted: bool,
}

/// Where a process stands within a step of its script. What each does is in `call.rs` and `end.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum At {
    #[default]
    Ready,
    Barrier,
    ResolveForCheck,
    Find,
    Lock,
    Snapshot,
    Publish,
    SumForBulk,
    Apply,
    /// Only in the variant that checks and applies in two critical sections.
    ApplyLater,
    /// The commit is visible, its callback still to come.
    Visible,
    /// Only in variants where something of the callback came too early.
    CalledBackEarly,
    /// Only in the variant that drops entries and bumps the epoch in two critical sections.
    Dropped,
}

/// What a call knows in its own memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Call {
    pub epoch: u8,
    pub rules: u8,
    pub keys: Vec<Key>,
    /// Which of the keys is being touched.
    pub next: usize,
    /// What the snapshot said, between load and publish.
    pub loaded: Option<Money>,
    /// Sums of the table, for the counters that are decided by them.
    pub sums: Vec<(Key, Money)>,
    /// What this call pinned and locked itself: given back at once when it is denied.
    pub pinned: Vec<Key>,
    pub kept: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Admitted,
    Denied,
    /// Admitted although rows that are committed, or may still be, leave no room.
    OverAdmitted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Process {
    /// The next operation of its script.
    pub operation: usize,
    pub at: At,
    pub call: Call,
    /// What the last step decided, for one step.
    pub verdict: Option<Verdict>,
    /// Whether a transaction is open.
    pub open: bool,
    pub level: Level,
    /// Pending deltas, a frame for each level.
    pub frames: Vec<Vec<(Key, Money)>>,
    pub pins: Vec<(Key, Level)>,
    /// The barrier in ROW SHARE, and in EXCLUSIVE.
    pub share: Option<Level>,
    pub exclusive: Option<Level>,
    /// Only looked at in the variant that believes it.
    pub took_barrier: bool,
    /// The load lock, while loading.
    pub loading: Option<u8>,
    /// Counters' locks that are kept because the table of counters was full.
    pub kept: Vec<(u8, Level)>,
    /// Locked holds.
    pub holds: Vec<(u8, Level)>,
    pub bulk: Option<Level>,
    /// Uncommitted rules.
    pub edited: Option<(u8, Level)>,
    /// The rules a check remembers, and the generation they are of.
    pub cached: (u8, u8),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct World {
    pub clock: u8,
    /// Shared memory.
    pub last_stamp: u8,
    pub epoch: u8,
    pub generation: u8,
    pub entries: Vec<Entry>,
    /// Tables. Of the rules, the committed ones: an index into the scenario's sets of rules.
    pub rules: u8,
    pub rows: Vec<Row>,
    pub processes: Vec<Process>,
}

impl Row {
    /// Neither closed nor being closed by the transaction that looks (no other can: it is locked).
    pub fn is_open(&self) -> bool {
        !self.closed && self.closed_by.is_none()
    }

    /// What it adds to its counters for everybody, by what is committed.
    fn committed(&self) -> Money {
        if self.written_by.is_none() && !self.closed { self.amount } else { 0 }
    }

    /// What `process` would add to that by committing all up to `level`.
    fn uncommitted(&self, process: ProcessId, level: Level) -> Money {
        let within = |by: Option<(ProcessId, Level)>| {
            by.is_some_and(|(owner, at)| owner == process && at <= level)
        };
        if !self.counted || self.closed {
            return 0;
        }
        match (self.written_by, within(self.written_by), within(self.closed_by)) {
            (Some(_), true, false) => self.amount,
            (None, _, true) => -self.amount,
            _ => 0,
        }
    }
}

impl World {
    pub fn entry(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }

    pub fn insert_row(&mut self, row: Row) {
        self.rows.push(row);
        self.rows.sort();
    }

    /// What is committed of the rows that `counts`.
    pub fn committed(&self, counts: impl Fn(&Row) -> bool) -> Money {
        self.rows.iter().filter(|row| counts(row)).map(Row::committed).sum()
    }

    /// What `process` would add by committing all it did up to `level`.
    pub fn uncommitted(
        &self,
        process: ProcessId,
        level: Level,
        counts: impl Fn(&Row) -> bool,
    ) -> Money {
        self.rows.iter().filter(|row| counts(row)).map(|row| row.uncommitted(process, level)).sum()
    }

    /// The most that `process` may add by what it did so far: it can roll back to any savepoint.
    pub fn most(&self, process: ProcessId, counts: impl Fn(&Row) -> bool) -> Money {
        let levels = 0..=self.processes[usize::from(process)].level;
        levels.map(|level| self.uncommitted(process, level, &counts)).max().unwrap_or(0).max(0)
    }
}
