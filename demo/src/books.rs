//! What the owner of the database can ask afterwards.

use anyhow::{Result, ensure};
use rust_decimal::Decimal;

use crate::stage::Stage;

pub fn open(stage: &mut Stage) -> Result<()> {
    stage.scene("The books", "What did Ada use today, model by model?")?;
    stage.ask("SELECT * FROM ai_limiter.get_user_daily_ai_usage(:ada);")?;
    stage.say("Who is near a limit, or at it?")?;
    stage.ask("SELECT severity, message FROM ai_limiter.get_ai_cost_alerts();")?;
    stage.say("What do the tenants cost, and what do the models?")?;
    stage.ask(
        "SELECT name, requests, input_tokens, output_tokens, cost_usd
         FROM ai_limiter.ai_cost_by_tenant ORDER BY cost_usd DESC;",
    )?;
    stage.ask(
        "SELECT coalesce(model, '(not named)') AS model, sum(requests) AS requests,
         sum(cost_usd) AS cost_usd FROM ai_limiter.ai_cost_by_model GROUP BY 1 ORDER BY 3 DESC;",
    )?;
    stage.say("Every counter of every limit: settled, held, and what is left of it.")?;
    stage.ask(
        "SELECT limit_name, subject, used, held, amount, headroom
         FROM ai_limiter.ai_limit_status ORDER BY headroom / amount, limit_name, subject;",
    )?;
    drift(stage)?;
    Ok(())
}

/// Counters against the raw rows.
pub fn drift(stage: &mut Stage) -> Result<Decimal> {
    stage.say("Do the counters agree with the ledger? A drift of 0 says yes.")?;
    let answer = stage.ask(
        "SELECT count(*) AS counters, sum(abs(drift)) AS drift
         FROM ai_limiter.verify_ai_counters();",
    )?;
    let drift = answer.number("drift")?;
    ensure!(drift.is_zero(), "the counters differ from the ledger by {drift}");
    Ok(drift)
}
