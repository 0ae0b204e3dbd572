//! The story that `make demo` tells: what `ai_limiter` does, shown on a real database.
//!
//! Each scene runs real SQL, prints it with its answer, and checks what it claims: [`tell`] fails
//! when the database does not do what the text says. Then a trace of model calls is replayed.

mod answer;
mod books;
mod cast;
mod guest;
mod pace;
mod progress;
mod race;
mod replay;
mod scenes;
mod stage;
mod stat;
mod trace;

use std::io::Write;

use anyhow::Result;
use postgres::Config;
use rust_decimal::Decimal;

pub use pace::Pace;
pub use race::{Race, Tally};
pub use replay::Replay;
pub use stat::Stat;
pub use trace::{ModelCall, Trace};

use stage::Stage;

/// What came out, for those who check it.
#[derive(Debug)]
pub struct Facts {
    /// The limit that stopped the user.
    pub user_stopped_by: String,
    /// What the agent run had spent of its two dollars when it was stopped.
    pub run_spent: Decimal,
    /// What the stream held before and after it was refused more.
    pub stream_held: (Decimal, Decimal),
    pub race: Race,
    /// All settled cost before and after the transaction that was rolled back.
    pub around_rollback: (Decimal, Decimal),
    pub replay: Replay,
    pub pace: Pace,
    /// What all counters together differ from the raw rows, at the end.
    pub drift: Decimal,
}

/// Tells the story. The extension is dropped from that database first, with all its data.
///
/// `crash` kills every process of the server and starts it again at the same address.
///
/// # Errors
/// When the database cannot be reached, or did not do what the story says.
pub fn tell(
    config: &Config,
    crash: &dyn Fn() -> Result<()>,
    trace: &Trace,
    out: &mut dyn Write,
) -> Result<Facts> {
    let mut stage = Stage::open(config, out)?;
    stage.say(
        "ai_limiter stops AI spend inside Postgres, before it happens. An app asks before each \
         model call (reserve) and says afterwards what the call did cost (settle). Everything \
         below is real SQL on a real server. A name such as :ada stands for a uuid.",
    )?;
    cast::introduce(&mut stage)?;
    scenes::one_call(&mut stage)?;
    let user_stopped_by = scenes::a_user_runs_into_a_limit(&mut stage)?;
    let run_spent = scenes::a_run_with_its_own_cap(&mut stage)?;
    let stream_held = scenes::a_stream_asks_for_more(&mut stage)?;
    let race = race::race(&mut stage, crash)?;
    let around_rollback = scenes::a_rollback_leaves_nothing(&mut stage)?;
    books::open(&mut stage)?;
    let replay = replay::replay(&mut stage, trace)?;
    let pace = pace::compare(&mut stage)?;
    let drift = books::drift(&mut stage)?;
    stage.say(
        "That was it. The server keeps running: make psql opens a shell on it (try SELECT * FROM \
         ai_limiter.ai_limit_status;), and make clean-server removes it.",
    )?;
    Ok(Facts {
        user_stopped_by,
        run_spent,
        stream_held,
        race,
        around_rollback,
        replay,
        pace,
        drift,
    })
}
