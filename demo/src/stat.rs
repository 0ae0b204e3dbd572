//! The limiter's own counts, `ai_limiter_stat`, as the story shows them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rust_decimal::Decimal;

use crate::stage::Stage;

/// The worker looks for an extension that was just created every five seconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Stat {
    pub checks: Decimal,
    pub admitted: Decimal,
    pub denied: Decimal,
    pub loads: Decimal,
    pub entries: Decimal,
    pub worker_rounds: Decimal,
}

/// Shows the counts, once the worker has done a round.
pub fn show(stage: &mut Stage) -> Result<Stat> {
    let deadline = Instant::now() + PATIENCE;
    let seen = "SELECT worker_state, coalesce(worker_rounds, 0) AS rounds
         FROM ai_limiter.ai_limiter_stat";
    loop {
        let answer = stage.run(seen)?;
        if answer.number("rounds")? > Decimal::ZERO {
            break;
        }
        let state = answer.text("worker_state")?;
        ensure!(Instant::now() < deadline, "the worker does not begin: \"{state}\"");
        sleep(Duration::from_millis(50));
    }
    let answer = stage.ask(
        "SELECT checks, admitted, denied_limit_exceeded, denied_model_not_allowed,
         loads, entries, worker_state, worker_rounds FROM ai_limiter.ai_limiter_stat;",
    )?;
    Ok(Stat {
        checks: answer.number("checks")?,
        admitted: answer.number("admitted")?,
        denied: answer.number("denied_limit_exceeded")?,
        loads: answer.number("loads")?,
        entries: answer.number("entries")?,
        worker_rounds: answer.number("worker_rounds")?,
    })
}
