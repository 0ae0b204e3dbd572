//! Holding and settling: `reserve_ai_usage()` and `settle_ai_usage()` against plain SQL that writes
//! the same rows.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ai_limiter_tests::Database;
use ai_limiter_tests::calls::Session;
use anyhow::{Result, ensure};
use postgres::Client;

use crate::measure::{Side, alternate};
use crate::options::Plan;
use crate::pgbench::{Load, Outcome};
use crate::report::{Line, Reach};
use crate::schema::{count, draw_run, draw_user, ensure_no_drift, tenant_uuid, user_uuid};
use crate::stage::Stage;

/// The arguments of each reserve, over the pgbench variables `user` and `tenant`.
fn arguments() -> String {
    format!(
        "user_id => {}, tenant_id => {}, model => 'gpt-4o-mini', input_tokens => 1200, \
         output_tokens => 800",
        user_uuid(":user"),
        tenant_uuid(":tenant")
    )
}

pub fn reserve_script(plan: &Plan, users: u32) -> String {
    format!(
        "{}SELECT * FROM ai_limiter.reserve_ai_usage({});\n",
        draw_user(plan, users),
        arguments()
    )
}

/// A hold as `reserve_ai_usage()` writes it, into the bare table.
fn insert_hold() -> String {
    format!(
        "INSERT INTO bare.hold (id, tenant_id, user_id, tier, model, requested_model, requests, \
         input_tokens, output_tokens, cost_usd, max_output_tokens, max_cost_usd, created_at, \
         expires_at) VALUES (gen_random_uuid(), {}, {}, 'bench', 'gpt-4o-mini', 'gpt-4o-mini', 1, \
         1200, 800, 0.00066, 800, 0.00066, clock_timestamp(), clock_timestamp() + interval '10 min')",
        tenant_uuid(":tenant"),
        user_uuid(":user")
    )
}

fn settle_script(plan: &Plan) -> String {
    format!(
        "{}SELECT reservation_id AS hold FROM ai_limiter.reserve_ai_usage({}) \\gset\n\
         SELECT * FROM ai_limiter.settle_ai_usage(:hold, \
         usage => '{{\"prompt_tokens\": 1187, \"completion_tokens\": 412}}');\n",
        draw_user(plan, plan.users),
        arguments()
    )
}

/// What the settled call's cost is made of, as `settle_ai_usage()` writes it.
const LINE_ITEMS: &str = r#"[{"class":"input_tokens","quantity":1187,"unit_price_usd":0.00000015,"price_source":"ai_prices 1","cost_usd":0.00017805,"list_unit_price_usd":0.00000015,"list_cost_usd":0.00017805},{"class":"output_tokens","quantity":412,"unit_price_usd":0.0000006,"price_source":"ai_prices 1","cost_usd":0.0002472,"list_unit_price_usd":0.0000006,"list_cost_usd":0.0002472}]"#;

/// The two inserts and the delete that a reserve and a settle are, in as many round trips.
fn plain_settle_script(plan: &Plan) -> String {
    format!(
        "{}{} RETURNING id AS hold \\gset\n\
         WITH settled AS (DELETE FROM bare.hold WHERE id = :hold RETURNING *) \
         INSERT INTO bare.ledger (id, tenant_id, user_id, tier, model, response_model, requests, \
         input_tokens, output_tokens, cost_usd, list_cost_usd, charge_usd, estimated_cost_usd, \
         price_source, line_items, created_at, recorded_at) SELECT id, tenant_id, user_id, tier, \
         model, requested_model, requests, 1187, 412, 0.00042525, 0.00042525, 0.00042525, cost_usd, \
         'ai_prices', '{LINE_ITEMS}', created_at, clock_timestamp() FROM settled;\n",
        draw_user(plan, plan.users),
        insert_hold()
    )
}

/// What a row of writes must have left behind.
pub struct Expected {
    pub holds: u64,
    pub charges: u64,
}

pub fn ensure_written(database: &Database, expected: &Expected) -> Result<()> {
    let mut client = database.connect();
    let holds =
        count(&mut client, "SELECT count(*) FROM ai_limiter.ai_reservations WHERE state = 'open'")?;
    ensure!(holds == expected.holds, "{} reserves left {holds} open holds", expected.holds);
    let charges = count(&mut client, "SELECT count(*) FROM ai_limiter.ai_usage")?;
    ensure!(charges == expected.charges, "{} settles left {charges} charges", expected.charges);
    let denials = client.value("SELECT count(*) FROM ai_limiter.ai_denials");
    ensure!(denials == "0", "{denials} reserves were denied");
    ensure_no_drift(&mut client)
}

/// A load that counts how often it ran, the warm-up included.
pub struct Counted<'a> {
    load: Load<'a>,
    ran: std::cell::Cell<u64>,
}

impl<'a> Counted<'a> {
    pub fn new(stage: &'a Stage, database: &Database, clients: u32, script: &str) -> Result<Self> {
        Ok(Self { load: Load::new(stage, database, clients, script)?, ran: 0.into() })
    }

    fn noted(&self, outcome: Outcome) -> Outcome {
        self.ran.set(self.ran.get() + outcome.transactions);
        outcome
    }

    pub fn ran(&self) -> u64 {
        self.ran.get()
    }

    /// Warms it up; the side then gives its rate.
    pub fn rate(&'a self, plan: &'a Plan) -> Result<Side<'a>> {
        self.noted(self.load.run(plan.warm_up)?);
        Ok(Box::new(|| Ok(self.noted(self.load.run(plan.time)?).rate)))
    }

    fn times(&self, transactions: u32) -> Result<()> {
        self.noted(self.load.run_times(transactions)?);
        Ok(())
    }
}

pub fn reserve(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let mut lines = Vec::new();
    for clients in [8, 32] {
        let database = stage.database(0)?;
        let load = |script: &str| Counted::new(stage, &database, clients, script);
        let ours = load(&reserve_script(plan, plan.users))?;
        let bare = load(&format!("{}{};\n", draw_user(plan, plan.users), insert_hold()))?;
        let rounds = alternate(plan.rounds, vec![ours.rate(plan)?, bare.rate(plan)?])?;
        ensure_written(&database, &Expected { holds: ours.ran(), charges: 0 })?;
        lines.push(Line::of_rounds(
            "reserve",
            (&format!("`reserve_ai_usage()`, spread users, {clients} clients"), 0),
            ("a bare durable `INSERT` of the hold", 1),
            &rounds,
            "/s",
            Reach::AtLeast(0.8),
        ));
    }
    Ok(lines)
}

pub fn settle(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    let ours = Counted::new(stage, &database, 8, &settle_script(plan))?;
    let plain = Counted::new(stage, &database, 8, &plain_settle_script(plan))?;
    let rounds = alternate(plan.rounds, vec![ours.rate(plan)?, plain.rate(plan)?])?;
    ensure_written(&database, &Expected { holds: 0, charges: ours.ran() })?;
    Ok(vec![Line::of_rounds(
        "settle",
        ("reserve, then settle, 8 clients", 0),
        ("two inserts and a delete in plain SQL", 1),
        &rounds,
        "/s",
        Reach::AtLeast(0.7),
    )])
}

/// Bytes of WAL. Autovacuum and full-page writes would add theirs at random.
pub fn wal(stage: &Stage) -> Result<Vec<Line>> {
    let database = stage.database(0)?;
    let mut admin = stage.cluster().connect();
    for setting in ["full_page_writes", "autovacuum"] {
        admin.run(&format!("ALTER SYSTEM SET {setting} = off"));
    }
    admin.run("SELECT pg_reload_conf()");
    let measured = wal_rounds(stage, &database);
    for setting in ["full_page_writes", "autovacuum"] {
        admin.run(&format!("ALTER SYSTEM RESET {setting}"));
    }
    admin.run("SELECT pg_reload_conf()");
    // A page that was changed without its image must not be the base of a later record.
    admin.run("CHECKPOINT");
    measured.map(|line| vec![line])
}

fn wal_rounds(stage: &Stage, database: &Database) -> Result<Line> {
    let plan = stage.plan();
    let ours = Counted::new(stage, database, 1, &settle_script(plan))?;
    let plain = Counted::new(stage, database, 1, &plain_settle_script(plan))?;
    let bytes = |load: &Counted| -> Result<f64> {
        let mut client = database.connect();
        let before = wal_at_rest(&mut client, plan)?;
        load.times(plan.wal_operations)?;
        let written = wal_at_rest(&mut client, plan)? - before;
        Ok(written as f64 / f64::from(plan.wal_operations))
    };
    for load in [&ours, &plain] {
        load.times(plan.wal_operations)?;
    }
    database.connect().run("CHECKPOINT");
    let sides: Vec<Side> = vec![Box::new(|| bytes(&ours)), Box::new(|| bytes(&plain))];
    let rounds = alternate(plan.rounds, sides)?;
    ensure_written(database, &Expected { holds: 0, charges: ours.ran() })?;
    Ok(Line::of_rounds(
        "wal",
        ("WAL of a reserve and a settle", 0),
        ("of two inserts and a delete in plain SQL", 1),
        &rounds,
        "bytes",
        Reach::AtMost(1.25),
    ))
}

/// The end of the WAL once nobody writes: what is done afterwards on behalf of a call belongs to it.
fn wal_at_rest(client: &mut Client, plan: &Plan) -> Result<u64> {
    let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let rest = if plan.quick { Duration::from_millis(100) } else { Duration::from_secs(2) };
    let begun = Instant::now();
    let mut last = count(client, position)?;
    loop {
        sleep(rest);
        let now = count(client, position)?;
        // Something may write a little for ever.
        if now == last || begun.elapsed() > 3 * rest {
            return Ok(now);
        }
        last = now;
    }
}

/// Everybody writes to the counters of one user.
pub fn hot(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    let load = |users| Counted::new(stage, &database, 8, &reserve_script(plan, users));
    let (one, spread) = (load(1)?, load(plan.users)?);
    let rounds = alternate(plan.rounds, vec![one.rate(plan)?, spread.rate(plan)?])?;
    ensure_written(&database, &Expected { holds: one.ran() + spread.ran(), charges: 0 })?;
    Ok(vec![Line::of_rounds(
        "hot",
        ("`reserve_ai_usage()`, 8 clients on one user", 0),
        ("the same, spread users", 1),
        &rounds,
        "/s",
        Reach::AtLeast(0.9),
    )])
}

/// Calls of many runs at once, each of one user and with a cap of its own.
pub fn runs(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    let script = |run: &str, cap: &str| {
        format!(
            "{}SELECT * FROM ai_limiter.reserve_ai_usage({}, run_id => '{run}' || :run{cap});\n",
            draw_run(plan),
            arguments()
        )
    };
    let load = |script: &str| Counted::new(stage, &database, 8, script);
    let capped = load(&script("capped-", ", run_limit_usd => 100000"))?;
    let free = load(&script("free-", ""))?;
    let rounds = alternate(plan.rounds, vec![capped.rate(plan)?, free.rate(plan)?])?;
    ensure_written(&database, &Expected { holds: capped.ran() + free.ran(), charges: 0 })?;
    Ok(vec![Line::of_rounds(
        "runs",
        (&format!("`reserve_ai_usage()` in {} runs with a cap each, 8 clients", plan.runs), 0),
        ("the same calls without caps", 1),
        &rounds,
        "/s",
        Reach::AtLeast(0.9),
    )])
}
