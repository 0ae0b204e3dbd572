//! Random sequences of everything that changes counters, or what they mean.
//!
//! A [`Step`] is plain SQL that stands for itself, so that a sequence can be run again, with any of its
//! steps left out. What it is about ("the second oldest hold") is found when it runs.

mod running;
mod statements;

use std::fmt;

use ai_limiter_tests::Random;

pub use running::{Failure, run};
use statements::{call, dimensions, heavy_edit, light_edit, rule};

/// How many sessions there are.
pub const SESSIONS: usize = 3;

#[derive(Clone, Debug)]
pub enum Act {
    /// With the isolation level.
    Begin(&'static str),
    Commit,
    Rollback,
    Savepoint,
    Release,
    RollbackToSavepoint,
    /// A statement of one who uses the extension.
    Call(String),
    /// A statement that waits, now or when it commits, until no other transaction is open.
    Alone(String),
    /// Lets short holds expire.
    Sleep,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub session: usize,
    pub act: Act,
    /// The arguments of the calls that are asked about afterwards.
    pub asked: Vec<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let act = match &self.act {
            Act::Call(sql) | Act::Alone(sql) => sql.clone(),
            other => format!("{other:?}"),
        };
        write!(f, "{}: {}", self.session, act.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// The steps of a seed; the first make rules and accounts.
pub fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    for _ in 0..8 {
        let act = Act::Alone(rule(&mut random));
        steps.push(Step { session: 0, act, asked: Vec::new() });
    }
    // A session often goes on for a while.
    let mut session = 0;
    while steps.len() < count {
        if random.one_in(4) {
            session = random.below(SESSIONS as u64) as usize;
        }
        let act = match random.below(40) {
            0..=4 => Act::Begin(random.of(&["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])),
            5..=6 => Act::Commit,
            7 => Act::Rollback,
            8..=9 => Act::Savepoint,
            10 => Act::Release,
            11..=12 => Act::RollbackToSavepoint,
            13..=14 => Act::Call(light_edit(&mut random)),
            15..=18 => Act::Alone(heavy_edit(&mut random)),
            19 => Act::Call(format!(
                "SET ai_limiter.mode = {}",
                random.of(&["shadow", "off", "enforce", "enforce"])
            )),
            20 => Act::Sleep,
            _ => Act::Call(call(&mut random)),
        };
        let asked = (0..3)
            .map(|_| {
                let of = dimensions(&mut random).join(", ");
                format!("{of}, input_tokens => 10, output_tokens => 10, cost_usd => 0.1")
            })
            .collect();
        steps.push(Step { session, act, asked });
    }
    steps
}
