//! What pricing adds to a call: the same calls with a cost of their own, and with a model that is priced.
//! In loops of one statement, so that nothing but the call is measured; holds are rolled back.

use std::time::Instant;

use ai_limiter_tests::Database;
use ai_limiter_tests::calls::Session;
use anyhow::Result;

use crate::measure::{Side, alternate};
use crate::report::Line;
use crate::stage::Stage;

/// Calls of one statement.
const CALLS: u32 = 2_000;
const WANTED_MICROSECONDS: f64 = 15.0;

/// A model with a price of its own, one of the catalogue's, and the response that settles it.
const MODELS: [(&str, &str); 2] =
    [("a row of `ai_prices`", "gpt-4o-mini"), ("the catalogue", "claude-sonnet-4-5")];
const USAGE: &str =
    r#"'{"input_tokens": 187, "cache_read_input_tokens": 1000, "output_tokens": 412}'"#;

pub fn prices(stage: &Stage) -> Result<Vec<Line>> {
    let database = stage.database(0)?;
    let mut lines = Vec::new();
    for (priced_by, model) in MODELS {
        let call = format!("model => '{model}', input_tokens => 1200, output_tokens => 800");
        for (what, function) in [
            ("reserve_ai_usage()", "reserve_ai_usage({})"),
            ("check_ai_limit()", "check_ai_limit({})"),
            ("record_ai_usage()", "record_ai_usage({})"),
        ] {
            let told = match what {
                "record_ai_usage()" => format!("{call}, cost_usd => 0.0066, requests => n * 0 + 1"),
                _ => format!("{call}, cost_usd => n * 0 + 0.0066"),
            };
            let priced = match what {
                "record_ai_usage()" => {
                    format!("model => '{model}', usage => {USAGE}, requests => n * 0 + 1")
                }
                _ => call.replace("1200", "n * 0 + 1200"),
            };
            lines.push(added(stage, &database, (what, function, priced_by), &told, &priced)?);
        }
    }
    Ok(lines)
}

fn added(
    stage: &Stage,
    database: &Database,
    (what, function, priced_by): (&str, &str, &str),
    told: &str,
    priced: &str,
) -> Result<Line> {
    let sides = [priced, told].map(|arguments| -> Side {
        let mut client = database.connect();
        let call = function.replace("{}", arguments);
        let sql = format!("SELECT count(ai_limiter.{call}) FROM generate_series(1, {CALLS}) n");
        let mut measure = move || {
            client.run("BEGIN");
            let begun = Instant::now();
            client.run(&sql);
            let took = begun.elapsed();
            client.run("ROLLBACK");
            took.as_secs_f64() * 1e6 / f64::from(CALLS)
        };
        measure();
        Box::new(move || Ok(measure()))
    });
    let rounds = alternate(stage.plan().rounds, sides.into())?;
    let (priced, told) = (rounds.median(0), rounds.median(1));
    let values = [format!("{priced:.1} µs"), format!("{told:.1} µs")];
    let line = Line::plain(
        "prices",
        &format!("`{what}` priced by {priced_by}"),
        "with a given cost",
        values,
    );
    // What reading a response and writing line items takes has no wish of its own: see `settle`.
    Ok(match what {
        "reserve_ai_usage()" => {
            line.wanting("15 µs more at most", priced - told <= WANTED_MICROSECONDS)
        }
        _ => line,
    })
}
