//! Scripts that nobody thought of: drawn at random, the same ones each time, each explored to the
//! end.

use ai_limiter_model::explore::holds_everywhere;
use ai_limiter_model::scenario::{Operation, Rule, Scenario, hold};

const SCENARIOS: u64 = 60;

/// A small generator of its own (an LCG), so that a seed means the same scenario for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u8) -> u8 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from((self.0 >> 33) % u64::from(end)).expect("less than a u8")
    }

    fn chance(&mut self, one_in: u8) -> bool {
        self.below(one_in) == 0
    }
}

/// A transaction of up to `calls` calls, which may lie in savepoints.
fn transaction(dice: &mut Dice, process: u8, calls: u8, edits: bool) -> Vec<Operation> {
    let mut script = vec![];
    let mut depth = 0;
    for _ in 0..calls {
        if depth < 2 && dice.chance(4) {
            script.push(Operation::Savepoint);
            depth += 1;
        }
        // Rows that the scenario begins with, or what this script may have reserved first.
        let hold = [1, 2, 10 * (process + 1)][usize::from(dice.below(3))];
        script.push(match dice.below(if edits { 13 } else { 12 }) {
            0..4 => {
                Operation::Reserve { class: 1 + dice.below(2), amount: 1 + dice.below(2) as i8 }
            }
            4 | 5 => Operation::Settle { hold, cost: dice.below(4) as i8 },
            6 | 7 => Operation::Release { hold },
            8 => Operation::Extend { hold, more: 1 },
            9 | 10 => Operation::Insert { class: 1 + dice.below(2), amount: 1 },
            11 => Operation::Check { class: 1 + dice.below(2) },
            _ => Operation::Edit { rules: dice.below(2) },
        });
        if depth > 0 && dice.chance(2) {
            let ends = [Operation::EndSavepoint, Operation::RollbackTo];
            let end = ends[usize::from(dice.below(2))];
            script.push(end);
            depth -= u8::from(end == Operation::EndSavepoint);
        }
    }
    script.push(Operation::End);
    script
}

fn scenario(seed: u64) -> Scenario {
    let mut dice = Dice(seed);
    for _ in 0..8 {
        dice.below(2);
    }
    let rule = |amount, classes, zone| Rule { amount, classes, zone };
    let before = vec![rule(3, 1, 0), rule(3, 2, 0)];
    let after = match dice.below(3) {
        0 => vec![rule(3, 3, 0), rule(3, 2, 0)],
        1 => vec![rule(3, 1, 1), rule(3, 2, 0)],
        _ => vec![rule(3, 1, 0), rule(3, 3, 0)],
    };
    let edits = dice.chance(2);
    let mut scripts: Vec<_> = (0..3)
        .map(|id| {
            let calls = 1 + dice.below(3);
            transaction(&mut dice, id, calls, edits)
        })
        .collect();
    if dice.chance(2) {
        scripts.push(vec![Operation::Check { class: 1 }]);
    }
    Scenario {
        name: "random",
        rules: vec![before, after],
        turns: vec![2, 1],
        last_instant: u8::from(dice.chance(3)),
        capacity: if dice.chance(3) { 1 } else { usize::MAX },
        bulk_after: if dice.chance(4) { 1 } else { usize::MAX },
        kills: dice.chance(3),
        rows: vec![hold(1, 1), hold(2, 1)],
        scripts,
        ..Scenario::default()
    }
}

#[test]
fn whatever_they_do() {
    let states: usize =
        (0..SCENARIOS).map(|seed| holds_everywhere(&format!("seed {seed}"), scenario(seed))).sum();
    println!("{SCENARIOS} scenarios, {states} states");
}
