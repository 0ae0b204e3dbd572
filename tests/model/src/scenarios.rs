//! The scenarios that are explored, with and without their steps.

use crate::scenario::{Operation, Rule, Scenario, hold};
use crate::world::Row;
use Operation::*;

const ONE: Operation = Reserve { class: 1, amount: 1 };
const TWO: Operation = Reserve { class: 1, amount: 2 };

/// Two writers of two transactions each, one that settles above its hold, two checks.
pub fn core() -> Scenario {
    Scenario {
        name: "core",
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![TWO, TWO, End, ONE, End],
            vec![TWO, End, Release { hold: 20 }, ONE, End],
            vec![Settle { hold: 1, cost: 2 }, End],
            vec![Check { class: 1 }],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// Holds that are given back: by a release, and by a settle below them; one writer reserves again.
pub fn decreases() -> Scenario {
    Scenario {
        name: "decreases",
        rows: vec![hold(1, 2), hold(2, 1)],
        scripts: vec![
            vec![Release { hold: 1 }, TWO, End, Settle { hold: 1, cost: 1 }, End],
            vec![TWO, End, Release { hold: 2 }, End],
            vec![Settle { hold: 2, cost: 0 }, ONE, End],
        ],
        ..Scenario::default()
    }
}

/// Two limits that overlap: a call is admitted by both or held by none.
pub fn two_limits() -> Scenario {
    Scenario {
        name: "two limits",
        rules: vec![vec![
            Rule { amount: 3, classes: 3, zone: 0 },
            Rule { amount: 2, classes: 1, zone: 0 },
        ]],
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![ONE, Reserve { class: 2, amount: 1 }, End],
            vec![Reserve { class: 2, amount: 2 }, End],
            vec![Release { hold: 1 }, ONE, End],
        ],
        ..Scenario::default()
    }
}

/// Reserve, release and settle around nested savepoints that are rolled back to or released.
pub fn savepoints() -> Scenario {
    Scenario {
        name: "savepoints",
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![
                TWO,
                Savepoint,
                Release { hold: 10 },
                Savepoint,
                ONE,
                EndSavepoint,
                EndSavepoint,
                End,
            ],
            vec![TWO, End],
            vec![Savepoint, Settle { hold: 1, cost: 0 }, RollbackTo, ONE, EndSavepoint, End],
        ],
        ..Scenario::default()
    }
}

/// Plain inserts into the ledger: the row first, its trigger later.
pub fn inserts() -> Scenario {
    Scenario {
        name: "inserts",
        scripts: vec![
            vec![Insert { class: 1, amount: 1 }, ONE, End],
            vec![TWO, End],
            vec![Insert { class: 1, amount: 1 }, End],
        ],
        ..Scenario::default()
    }
}

/// A rule is reshaped to count more, and back, while two write and one asks.
pub fn rule_edit() -> Scenario {
    let narrow = Rule { amount: 3, classes: 1, zone: 0 };
    Scenario {
        name: "rule edit",
        rules: vec![vec![narrow], vec![Rule { classes: 3, ..narrow }]],
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![Reserve { class: 2, amount: 2 }, End],
            vec![Settle { hold: 1, cost: 0 }, TWO, End],
            vec![Edit { rules: 1 }, End, Edit { rules: 0 }, Commit],
            vec![Check { class: 1 }, Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// A transaction that writes, reshapes a rule, asks, and writes on.
pub fn edit_and_write() -> Scenario {
    let narrow = Rule { amount: 3, classes: 1, zone: 0 };
    Scenario {
        name: "edit and write",
        rules: vec![vec![narrow], vec![Rule { classes: 3, ..narrow }]],
        rows: vec![Row { class: 2, ..hold(1, 1) }],
        scripts: vec![
            vec![
                Savepoint,
                Edit { rules: 1 },
                Check { class: 1 },
                Reserve { class: 2, amount: 1 },
                EndSavepoint,
                ONE,
                End,
            ],
            vec![TWO, End],
            vec![ONE, Reserve { class: 2, amount: 2 }, Edit { rules: 1 }, End],
            vec![Edit { rules: 1 }, Savepoint, ONE, EndSavepoint, ONE, End],
        ],
        ..Scenario::default()
    }
}

/// A window turns while three write, one of them into the window of its old hold.
pub fn window_turns() -> Scenario {
    Scenario {
        name: "window turns",
        turns: vec![1],
        last_instant: 1,
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![TWO, End],
            vec![TWO, End],
            vec![Extend { hold: 1, more: 1 }, Settle { hold: 1, cost: 3 }, ONE, End],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// A zone is edited, so that what was one window is two.
pub fn zone_edit() -> Scenario {
    let at = |zone| vec![Rule { amount: 3, classes: 1, zone }];
    Scenario {
        name: "zone edit",
        rules: vec![at(0), at(1)],
        turns: vec![2, 1],
        last_instant: 2,
        scripts: vec![
            vec![TWO, End],
            vec![TWO, End],
            vec![Edit { rules: 1 }, Commit],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// A transaction that pins more than one counter goes into bulk mode.
pub fn bulk() -> Scenario {
    Scenario {
        name: "bulk",
        rules: vec![vec![
            Rule { amount: 3, classes: 1, zone: 0 },
            Rule { amount: 3, classes: 2, zone: 0 },
        ]],
        bulk_after: 1,
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![Reserve { class: 2, amount: 1 }, Savepoint, ONE, EndSavepoint, ONE, End],
            vec![TWO, End],
            vec![Settle { hold: 1, cost: 2 }, End],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// A call is admitted although its counters could not be loaded, beside others that load them.
pub fn degraded() -> Scenario {
    Scenario {
        name: "degraded",
        scripts: vec![
            vec![Degraded { class: 1, amount: 2 }, End],
            vec![TWO, End, ONE, End],
            vec![TWO, End],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}

/// Room for one entry and two counters: whoever finds it pinned keeps the counter's lock.
pub fn table_full() -> Scenario {
    Scenario {
        name: "table full",
        rules: vec![vec![
            Rule { amount: 3, classes: 1, zone: 0 },
            Rule { amount: 3, classes: 2, zone: 0 },
        ]],
        capacity: 1,
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![Reserve { class: 2, amount: 1 }, End],
            vec![ONE, Check { class: 1 }, Savepoint, ONE, EndSavepoint, End],
            vec![TWO, End],
            vec![Settle { hold: 1, cost: 2 }, End],
        ],
        ..Scenario::default()
    }
}

/// After a rollback to a savepoint the barrier is free, and a rule is edited.
pub fn savepoint_and_edit() -> Scenario {
    let narrow = Rule { amount: 3, classes: 1, zone: 0 };
    Scenario {
        name: "savepoint and edit",
        rules: vec![vec![narrow], vec![Rule { classes: 3, ..narrow }]],
        scripts: vec![
            vec![Savepoint, ONE, RollbackTo, TWO, EndSavepoint, ONE, End],
            vec![TWO, End],
            vec![Edit { rules: 1 }, Commit],
            vec![Reserve { class: 2, amount: 2 }, End],
        ],
        ..Scenario::default()
    }
}

/// A hold expires: the worker marks it, or a reserve does it itself; and it is settled late.
pub fn expiry() -> Scenario {
    let expire = |hold| Release { hold };
    Scenario {
        name: "expiry",
        rows: vec![hold(1, 2)],
        scripts: vec![
            vec![expire(1), TWO, End],
            vec![expire(1), TWO, End],
            vec![expire(1), Commit],
            vec![Settle { hold: 1, cost: 2 }, End],
        ],
        ..Scenario::default()
    }
}

/// Much at once: room for one entry, two limits, bulk mode, savepoints, an edit.
pub fn mixed() -> Scenario {
    let rule = |amount, classes| Rule { amount, classes, zone: 0 };
    Scenario {
        name: "mixed",
        rules: vec![vec![rule(3, 1), rule(3, 2)], vec![rule(3, 3), rule(3, 2)]],
        capacity: 1,
        bulk_after: 1,
        rows: vec![hold(1, 1)],
        scripts: vec![
            vec![Reserve { class: 2, amount: 2 }, Savepoint, ONE, EndSavepoint, ONE, End],
            vec![Settle { hold: 1, cost: 2 }, TWO, End],
            vec![Savepoint, TWO, EndSavepoint, Reserve { class: 2, amount: 1 }, End],
            vec![Edit { rules: 1 }, Commit],
            vec![Check { class: 1 }],
        ],
        ..Scenario::default()
    }
}
