//! What is in a database: limits, users, prices, a ledger, and the bare tables to compare with.
//!
//! Six limits apply to each call, with amounts that nothing here reaches: the two global caps that
//! ship, and a user's day and month cost, a user's requests a day, and a tenant's month cost.

use std::time::Instant;

use ai_limiter_tests::calls::explained;
use anyhow::{Context, Result, anyhow, ensure};
use postgres::Client;

use crate::options::Plan;

/// How many limits apply to a call.
pub const LIMITS: i64 = 6;

/// A user's number as pgbench draws it. All have as many digits, so that a uuid is made by
/// appending: pgbench has numbers only.
pub const FIRST_USER: u64 = 100_000_000_001;

/// SQL for a user's uuid, from SQL for the number.
pub fn user_uuid(number: &str) -> String {
    format!("('00000000-0000-4000-8000-' || {number})::uuid")
}

/// SQL for a tenant's uuid, from SQL for the number.
pub fn tenant_uuid(number: &str) -> String {
    format!("('00000000-0000-4000-9000-' || {number})::uuid")
}

/// pgbench commands that draw a user of so many, and the user's tenant.
pub fn draw_user(plan: &Plan, users: u32) -> String {
    let last = FIRST_USER + u64::from(users) - 1;
    format!("\\set user random({FIRST_USER}, {last})\n{}", tenant_of_user(plan))
}

/// pgbench commands that draw a run of so many, and its user and tenant, which are the same each time.
pub fn draw_run(plan: &Plan) -> String {
    let (runs, users) = (plan.runs, plan.users);
    format!(
        "\\set run random(1, {runs})\n\\set user {FIRST_USER} + :run % {users}\n{}",
        tenant_of_user(plan)
    )
}

fn tenant_of_user(plan: &Plan) -> String {
    format!("\\set tenant {FIRST_USER} + :user % {}\n", plan.tenants)
}

/// Makes everything but the ledger's rows. Each user has an account without a tenant, and one in
/// a tenant.
pub fn create(client: &mut Client, plan: &Plan) -> Result<()> {
    let (first, last) = (FIRST_USER, FIRST_USER + u64::from(plan.users) - 1);
    let user = user_uuid("n::text");
    let tenant = tenant_uuid(&format!("({first} + n % {})::text", plan.tenants));
    run(
        client,
        &format!(
            "CREATE EXTENSION ai_limiter;
             SELECT ai_limiter.ensure_ai_partitions();
             INSERT INTO ai_limiter.ai_tiers (tier) VALUES ('bench');
             UPDATE ai_limiter.ai_limits SET amount = 1e9 WHERE id IN (-1, -2);
             INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) VALUES
                 ('bench_user_daily_cost', '{{user}}', 'cost_usd', 'day', 1e9),
                 ('bench_user_monthly_cost', '{{user}}', 'cost_usd', 'month', 1e9),
                 ('bench_user_daily_requests', '{{user}}', 'requests', 'day', 1e9),
                 ('bench_tenant_monthly_cost', '{{tenant}}', 'cost_usd', 'month', 1e9);
             INSERT INTO ai_limiter.ai_prices
                 (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
                 VALUES ('gpt-4o-mini', 0.15, 0.60);
             INSERT INTO ai_limiter.ai_accounts (user_id, tier)
                 SELECT {user}, 'bench' FROM generate_series({first}, {last}) n;
             INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier)
                 SELECT {tenant}, {user}, 'bench' FROM generate_series({first}, {last}) n"
        ),
    )?;
    run(client, BARE_TABLES)?;
    run(client, "VACUUM ANALYZE")?;
    let apply = format!(
        "SELECT count(*) FROM ai_limiter.get_ai_limits({})",
        user_uuid(&format!("'{first}'"))
    );
    let apply: i64 = client.query_one(&apply, &[])?.get(0);
    ensure!(apply == LIMITS, "{apply} limits apply to a user, not {LIMITS}");
    Ok(())
}

/// The tables of holds and ledger once more, with the same columns, checks, indexes and
/// partitions, and with no trigger.
const BARE_TABLES: &str = "
    CREATE SCHEMA bare;
    CREATE TABLE bare.hold (LIKE ai_limiter.ai_reservations INCLUDING ALL);
    CREATE TABLE bare.ledger (LIKE ai_limiter.ai_usage INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
        PARTITION BY RANGE (created_at);
    DO $$
    DECLARE
        partition record;
        options text := (SELECT array_to_string(reloptions, ', ') FROM pg_class
            WHERE oid = 'ai_limiter.ai_reservations'::regclass);
    BEGIN
        IF options IS NOT NULL THEN
            EXECUTE format('ALTER TABLE bare.hold SET (%s)', options);
        END IF;
        FOR partition IN
            SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'ai_limiter.ai_usage'::regclass
        LOOP
            EXECUTE format('CREATE TABLE bare.%I (LIKE ai_limiter.%1$I INCLUDING ALL)', partition.name);
            EXECUTE format('ALTER TABLE bare.ledger ATTACH PARTITION bare.%I %s',
                partition.name, partition.bound);
        END LOOP;
    END $$";

/// The columns that [`ledger_rows`] gives.
pub const LEDGER_COLUMNS: &str = "id, tenant_id, user_id, tier, model, response_model, requests, \
    input_tokens, output_tokens, cost_usd, list_cost_usd, charge_usd, estimated_cost_usd, \
    price_source, created_at, recorded_at";

/// A query for rows of the ledger: calls of all users, without a tenant, from the beginning of the
/// month until now, in the order of time.
pub fn ledger_rows(plan: &Plan, rows: u64) -> String {
    // A version 7 uuid carries the time in its first 48 bits, as those of the extension do.
    format!(
        "SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
                || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
             '00000000-0000-0000-0000-000000000000'::uuid, {user}, 'bench', 'gpt-4o-mini',
             'gpt-4o-mini', 1, 1187, 412, 0.00042525, 0.00042525, 0.00042525, 0.00066, 'ai_prices', at, at
         FROM generate_series(1::bigint, {rows}) n,
             LATERAL (SELECT month + (now() - month) * (n / {rows}::float8) AS at
                 FROM date_trunc('month', now()) month) t",
        user = user_uuid(&format!("({FIRST_USER} + n * 7919 % {})::text", plan.users)),
    )
}

/// Fills the ledger as a restore would, with no trigger, and has everything derived made anew.
pub fn fill_ledger(client: &mut Client, plan: &Plan, rows: u64) -> Result<()> {
    if rows == 0 {
        return Ok(());
    }
    let begun = Instant::now();
    run(
        client,
        &format!(
            "SET session_replication_role = replica;
             INSERT INTO ai_limiter.ai_usage ({LEDGER_COLUMNS}) {};
             RESET session_replication_role",
            ledger_rows(plan, rows)
        ),
    )?;
    run(client, "VACUUM ANALYZE")?;
    run(client, "SELECT ai_limiter.refresh_ai_counters()")?;
    run(client, "CHECKPOINT")?;
    eprintln!("  a ledger of {rows} rows took {} s to fill", begun.elapsed().as_secs());
    Ok(())
}

pub fn run(client: &mut Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).map_err(|error| anyhow!("{}: {sql}", explained(&error)))
}

/// No counter differs from the raw rows.
pub fn ensure_no_drift(client: &mut Client) -> Result<()> {
    let sql =
        "SELECT count(*) FILTER (WHERE drift <> 0), count(*) FROM ai_limiter.verify_ai_counters()";
    let row = client.query_one(sql, &[]).context("cannot verify the counters")?;
    let (drifted, all): (i64, i64) = (row.get(0), row.get(1));
    ensure!(drifted == 0, "{drifted} of {all} counters drift");
    Ok(())
}

/// A number that a query counts.
pub fn count(client: &mut Client, sql: &str) -> Result<u64> {
    let row = client.query_one(sql, &[]);
    let row = row.map_err(|error| anyhow!("{}: {sql}", explained(&error)))?;
    Ok(u64::try_from(row.get::<_, i64>(0))?)
}
