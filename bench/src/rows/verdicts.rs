//! Asking: `within_ai_limit()` and `check_ai_limit()` against queries that do the least.

use ai_limiter_tests::Database;
use anyhow::{Context, Result, ensure};

use crate::measure::{Side, alternate};
use crate::options::Plan;
use crate::pgbench::Load;
use crate::report::{Line, Reach};
use crate::schema::{count, draw_user, user_uuid};
use crate::stage::Stage;

const CLIENTS: [u32; 2] = [8, 32];

/// A row of constants with the columns and types of `ai_verdict`.
const CONSTANT_ROW: &str = "true, 'ok'::text, 'bench_user_daily_cost'::text, 'cost_usd'::text, \
    'day'::text, 0::numeric, 0::numeric, 1000000000::numeric, 1000000000::numeric, \
    '2026-01-01 00:00:00+00'::timestamptz, '12:34:56'::interval, NULL::numeric, '[]'::jsonb, \
    NULL::jsonb";

/// A script that asks about a random user.
pub fn asking(plan: &Plan, query: &str) -> String {
    let user = user_uuid(":user");
    format!("{}{};\n", draw_user(plan, plan.users), query.replace("USER", &user))
}

/// Every user is within all limits. Also loads every counter there is.
pub fn ensure_all_within(database: &Database, plan: &Plan) -> Result<()> {
    let mut client = database.connect();
    client.batch_execute("SET statement_timeout = '10min'")?;
    let sql = "SELECT count(*) FROM ai_limiter.ai_accounts \
               WHERE tenant_id = '00000000-0000-0000-0000-000000000000' \
                 AND ai_limiter.within_ai_limit(user_id)";
    let within = count(&mut client, sql).context("cannot ask about every user")?;
    ensure!(within == u64::from(plan.users), "only {within} of {} users are within", plan.users);
    Ok(())
}

pub fn within(stage: &Stage) -> Result<Vec<Line>> {
    let comparison = Comparison {
        row: "within",
        measured: "`within_ai_limit()`",
        query: "SELECT ai_limiter.within_ai_limit(user_id => USER)",
        against: "a query that only decodes the argument",
        floor: "SELECT USER IS NOT NULL".to_owned(),
    };
    compare(stage, &[comparison])
}

pub fn check(stage: &Stage) -> Result<Vec<Line>> {
    let columns = Comparison {
        row: "check",
        measured: "`SELECT * FROM check_ai_limit()`",
        query: "SELECT * FROM ai_limiter.check_ai_limit(user_id => USER)",
        against: "a constant row of the same columns",
        floor: format!("SELECT {CONSTANT_ROW}"),
    };
    let composite = Comparison {
        row: "check",
        measured: "`SELECT check_ai_limit()`",
        query: "SELECT ai_limiter.check_ai_limit(user_id => USER)",
        against: "a constant `ai_verdict`",
        floor: format!("SELECT ROW({CONSTANT_ROW})::ai_limiter.ai_verdict"),
    };
    compare(stage, &[columns, composite])
}

struct Comparison {
    row: &'static str,
    measured: &'static str,
    query: &'static str,
    against: &'static str,
    floor: String,
}

fn compare(stage: &Stage, comparisons: &[Comparison]) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    ensure_all_within(&database, plan)?;
    let mut lines = Vec::new();
    for comparison in comparisons {
        for clients in CLIENTS {
            let load = |query| Load::new(stage, &database, clients, &asking(plan, query));
            let (ours, floor) = (load(comparison.query)?, load(&comparison.floor)?);
            let rounds = alternate(plan.rounds, vec![rate(stage, &ours)?, rate(stage, &floor)?])?;
            lines.push(Line::of_rounds(
                comparison.row,
                (&format!("{}, {clients} clients", comparison.measured), 0),
                (comparison.against, 1),
                &rounds,
                "/s",
                Reach::AtLeast(0.85),
            ));
        }
    }
    ensure_all_within(&database, plan)?;
    Ok(lines)
}

/// Warms a load up; the side then gives its rate.
pub fn rate<'a>(stage: &'a Stage, load: &'a Load) -> Result<Side<'a>> {
    load.run(stage.plan().warm_up)?;
    Ok(Box::new(|| Ok(load.run(stage.plan().time)?.rate)))
}

/// `check_ai_limit()` over ledgers of several sizes, each against the first.
pub fn ledger(stage: &Stage) -> Result<Vec<Line>> {
    stage.with_room_for_databases(|| ledger_sizes(stage))
}

fn ledger_sizes(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let [smaller @ .., largest] = &plan.ledger_rows[..] else { return Ok(Vec::new()) };
    stage.with_large_ledger(|large| {
        let scratch = smaller.iter().map(|&rows| stage.database(rows));
        let scratch = scratch.collect::<Result<Vec<_>>>()?;
        let databases: Vec<&Database> = scratch.iter().map(|s| &**s).chain([large]).collect();
        let script = asking(plan, "SELECT * FROM ai_limiter.check_ai_limit(user_id => USER)");
        let mut loads = Vec::new();
        for database in &databases {
            ensure_all_within(database, plan)?;
            loads.push(Load::new(stage, database, 8, &script)?);
        }
        let sides = loads.iter().map(|load| rate(stage, load)).collect::<Result<Vec<_>>>()?;
        let rounds = alternate(plan.rounds, sides)?;
        let names: Vec<String> = smaller
            .iter()
            .chain([largest])
            .map(|rows| format!("`check_ai_limit()`, {rows} ledger rows"))
            .collect();
        let line = |side: usize| {
            let (measured, against) = ((names[side].as_str(), side), (names[0].as_str(), 0));
            Line::of_rounds("ledger", measured, against, &rounds, "/s", Reach::Within(0.1))
        };
        Ok((1..names.len()).map(line).collect())
    })
}
