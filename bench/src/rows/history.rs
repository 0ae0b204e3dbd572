//! What a long ledger costs: summing it, and the first verdict after a restart.

use std::time::Instant;

use ai_limiter_tests::Database;
use ai_limiter_tests::calls::Session;
use anyhow::{Result, ensure};

use crate::measure::{Side, alternate};
use crate::pgbench::Load;
use crate::report::{Line, Reach};
use crate::rows::verdicts::{asking, ensure_all_within, rate};
use crate::schema::{FIRST_USER, count, ensure_no_drift, user_uuid};
use crate::stage::Stage;

/// What an app without a limiter asks before a call: the user's day, the tenant's month, and
/// everybody's month.
const SUMS: &str = "SELECT \
    (SELECT coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_usage WHERE user_id = USER \
        AND tenant_id = '00000000-0000-0000-0000-000000000000' \
        AND created_at >= date_trunc('day', now())), \
    (SELECT coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_usage \
        WHERE tenant_id = '00000000-0000-0000-0000-000000000000' \
        AND created_at >= date_trunc('month', now())), \
    (SELECT coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_usage \
        WHERE created_at >= date_trunc('month', now()))";

pub fn sums(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(plan.sums_rows)?;
    ensure_all_within(&database, plan)?;
    let check = "SELECT * FROM ai_limiter.check_ai_limit(user_id => USER)";
    let check = Load::new(stage, &database, 8, &asking(plan, check))?;
    let sums = Load::new(stage, &database, 8, &asking(plan, SUMS))?;
    let rounds = alternate(plan.rounds, vec![rate(stage, &check)?, rate(stage, &sums)?])?;
    ensure_no_drift(&mut database.connect())?;
    Ok(vec![Line::of_rounds(
        "sums",
        (&format!("`check_ai_limit()`, {} ledger rows, 8 clients", plan.sums_rows), 0),
        ("three `sum()` over the ledger", 1),
        &rounds,
        "/s",
        Reach::AtLeast(5000.0),
    )])
}

pub fn restart(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let rows = plan.ledger_rows.last().copied().unwrap_or(0);
    stage.with_large_ledger(|database| {
        ensure_history_counts(database, rows)?;
        let user = user_uuid(&format!("'{FIRST_USER}'"));
        let check = format!(
            "SELECT allowed FROM ai_limiter.check_ai_limit(user_id => {user}, cost_usd => 0.01)"
        );
        let sum = "SELECT sum(cost_usd) FROM ai_limiter.ai_usage \
                   WHERE created_at >= date_trunc('month', now())";
        let first = |sql: &str| -> Result<(f64, String)> {
            stage.cluster().stop();
            stage.cluster().start_again();
            let mut client = database.connect();
            let begun = Instant::now();
            let answer = client.value(sql);
            Ok((begun.elapsed().as_secs_f64() * 1000.0, answer))
        };
        let checked: Side = Box::new(|| {
            let (milliseconds, allowed) = first(&check)?;
            ensure!(allowed == "t", "the first check was denied");
            Ok(milliseconds)
        });
        let summed: Side = Box::new(|| Ok(first(sum)?.0));
        let rounds = alternate(plan.rounds, vec![checked, summed])?;
        ensure_history_counts(database, rows)?;
        Ok(vec![Line::times_as_fast(
            "restart",
            (&format!("first `check_ai_limit()` after a restart, {rows} ledger rows"), 0),
            ("first `sum(cost_usd)` of the month after a restart", 1),
            &rounds,
            Reach::AtLeast(20.0),
        )])
    })
}

/// The limiter knows of each row: else a fast first verdict would be worth nothing.
fn ensure_history_counts(database: &Database, rows: u64) -> Result<()> {
    let sql = "SELECT (SELECT settled_usd FROM ai_limiter.get_global_ai_cost('month')) \
                   = (SELECT sum(cost_usd) FROM ai_limiter.ai_usage)";
    let mut client = database.connect();
    ensure!(client.value(sql) == "t", "the month's cost is not the ledger's");
    let ledger = count(&mut client, "SELECT count(*) FROM ai_limiter.ai_usage")?;
    ensure!(ledger == rows, "{ledger} ledger rows, not {rows}");
    Ok(())
}
