//! The scenes in which one client asks.

use anyhow::{Result, ensure};
use rust_decimal::Decimal;

use crate::answer::Answer;
use crate::stage::Stage;

/// More tries than any scene needs: one that is never told no is a failure, not a hang.
const TRIES: usize = 20;

pub fn one_call(stage: &mut Stage) -> Result<()> {
    stage.scene(
        "One model call",
        "Before the call the app reserves what it may cost at most, with 2,000 output tokens as \
         its maximum. The estimate is held, so that nobody else can spend it meanwhile.",
    )?;
    let verdict = stage.ask(
        "SELECT allowed, reason, estimated_cost_usd, reservation_id
         FROM ai_limiter.reserve_ai_usage(tenant_id => :studio, user_id => :cleo,
         model => 'claude-sonnet-4-5', input_tokens => 1800, output_tokens => 2000);",
    )?;
    stage.name("hold", verdict.text("reservation_id")?);
    stage.say(
        "The model answers with 412 tokens, and the app hands on the usage object that the \
         provider sent. What was held too much is free again.",
    )?;
    let settled = stage.ask(
        "SELECT cost_usd, estimated_cost_usd
         FROM ai_limiter.settle_ai_usage(:hold,
         usage => '{\"input_tokens\": 1800, \"output_tokens\": 412}');",
    )?;
    ensure!(
        settled.number("cost_usd")? < settled.number("estimated_cost_usd")?,
        "the call was not settled with what it cost"
    );
    Ok(())
}

/// Says which limit stopped her.
pub fn a_user_runs_into_a_limit(stage: &mut Stage) -> Result<String> {
    stage.scene(
        "A user runs into a limit",
        "Ada is on the free tier: one dollar a day. Her app makes one call after the other, 18 \
         cents each, until it is told no. A no is an answer, not an error. It says which limit, \
         how much is left, and when it resets: at midnight in Tokyo, where her tenant is.",
    )?;
    let reserve = "SELECT allowed, limit_name, amount, used, remaining,
         resets_at AT TIME ZONE 'Asia/Tokyo' AS resets_in_tokyo, retry_after
         FROM ai_limiter.reserve_ai_usage(tenant_id => :hobby, user_id => :ada,
         model => 'claude-sonnet-4-5', input_tokens => 20000, output_tokens => 8000);";
    let (calls, denied) = spend_until_denied(stage, reserve)?;
    stage.show(reserve)?;
    stage.say(&format!("{calls} calls were admitted and settled. The next one:"))?;
    stage.table(&denied)?;
    stage.say("What has Ada left? A page of the app can ask at any time, without reserving:")?;
    stage.ask(
        "SELECT limit_name, metric, period, used, held, amount, remaining
         FROM ai_limiter.get_ai_limits(:ada, :hobby) WHERE limit_name LIKE 'user%';",
    )?;
    let limit = denied.text("limit_name")?.to_owned();
    ensure!(limit == "user_daily_cost", "the user was stopped by \"{limit}\"");
    Ok(limit)
}

/// Says what the run had spent.
pub fn a_run_with_its_own_cap(stage: &mut Stage) -> Result<Decimal> {
    stage.scene(
        "An agent run with its own two dollars",
        "Dan may spend 500 dollars a day. But this run of his agent shall not cost more than two, \
         so its first call says so. The agent works in steps of 30 cents.",
    )?;
    let reserve = "SELECT allowed, limit_name, amount, used, remaining, estimated_cost_usd
         FROM ai_limiter.reserve_ai_usage(tenant_id => :globex, user_id => :dan,
         model => 'claude-sonnet-4-5', input_tokens => 20000, output_tokens => 16000,
         run_id => 'research-42', run_limit_usd => 2);";
    let (steps, denied) = spend_until_denied(stage, reserve)?;
    stage.show(reserve)?;
    stage.say(&format!("{steps} steps were admitted and settled. The next one:"))?;
    stage.table(&denied)?;
    ensure!(denied.text("limit_name")? == "run_limit", "the run was not stopped by its own limit");
    denied.number("used")
}

/// Reserves and settles what was reserved, again and again; the number of calls, and the denial.
fn spend_until_denied(stage: &mut Stage, reserve: &str) -> Result<(usize, Answer)> {
    // The id is of no interest to the reader of the verdict.
    let reserve = reserve.replacen("SELECT", "SELECT reservation_id,", 1);
    for calls in 0..TRIES {
        let verdict = stage.run(&reserve)?;
        if !verdict.is("allowed")? {
            return Ok((calls, verdict.without("reservation_id")));
        }
        stage.name("hold", verdict.text("reservation_id")?);
        stage.run("SELECT ai_limiter.settle_ai_usage(:hold)")?;
    }
    anyhow::bail!("{TRIES} calls were admitted, and no limit stopped them")
}

/// Says what the stream held before and after it was told no.
pub fn a_stream_asks_for_more(stage: &mut Stage) -> Result<(Decimal, Decimal)> {
    stage.scene(
        "A long stream asks for more, and is told no",
        "Ben, on the free tier too, streams a long answer. The app reserves 20,000 output tokens \
         (30 cents) and raises the hold when the answer gets longer. 50,000 tokens are fine, \
         80,000 would be more than his dollar: the app ends the stream there, cleanly.",
    )?;
    let verdict = stage.run(
        "SELECT reservation_id FROM ai_limiter.reserve_ai_usage(tenant_id => :hobby,
         user_id => :ben, model => 'claude-sonnet-4-5', input_tokens => 0, output_tokens => 20000)",
    )?;
    stage.name("hold", verdict.text("reservation_id")?);
    let held = "SELECT cost_usd FROM ai_limiter.ai_reservations WHERE id = :hold";
    let more = stage.ask(
        "SELECT allowed, reason, estimated_cost_usd
         FROM ai_limiter.extend_ai_reservation(:hold, output_tokens => 50000);",
    )?;
    ensure!(more.is("allowed")?, "the stream did not get what was free");
    let before = stage.run(held)?.number("cost_usd")?;
    let too_much = stage.ask(
        "SELECT allowed, reason, estimated_cost_usd, limit_name, amount
         FROM ai_limiter.extend_ai_reservation(:hold, output_tokens => 80000);",
    )?;
    ensure!(!too_much.is("allowed")?, "the stream got more than the limit");
    let after = stage.run(held)?.number("cost_usd")?;
    ensure!(before == after, "a denied extension changed the hold");
    stage.say("The hold stays as it was, and the stream is settled with what it did use:")?;
    stage.ask(
        "SELECT cost_usd, estimated_cost_usd
         FROM ai_limiter.settle_ai_usage(:hold, output_tokens => 48200);",
    )?;
    Ok((before, after))
}

/// All settled cost before and after.
pub fn a_rollback_leaves_nothing(stage: &mut Stage) -> Result<(Decimal, Decimal)> {
    stage.scene(
        "A transaction that is rolled back leaves no charge",
        "Usage is booked in the app's own transaction. If that fails, the charge of 4.50 dollars \
         is gone with it: no counter knows of it.",
    )?;
    let total = "SELECT settled_usd FROM ai_limiter.get_global_ai_cost('month')";
    let book = "SELECT ai_limiter.record_ai_usage(tenant_id => :globex, user_id => :dan,
         model => 'claude-sonnet-4-5', input_tokens => 1000000, output_tokens => 100000);";
    stage.show(&format!("BEGIN;\n{book}\nROLLBACK;"))?;
    let before = stage.run(total)?.number("settled_usd")?;
    stage.run("BEGIN")?;
    stage.run(book)?;
    let within = stage.run(total)?.number("settled_usd")?;
    stage.run("ROLLBACK")?;
    let after = stage.run(total)?.number("settled_usd")?;
    let row = |when: &str, settled| vec![when.to_owned(), crate::answer::money(settled)];
    stage.table(&Answer::new(
        &["all cost of this month", "settled_usd"],
        vec![row("before", before), row("within the transaction", within), row("after", after)],
    ))?;
    ensure!(within > before, "the transaction did not see its own charge");
    ensure!(after == before, "a rolled-back transaction left a charge");
    Ok((before, after))
}
