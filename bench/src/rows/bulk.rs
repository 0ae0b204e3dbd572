//! A bulk load into the ledger, against the same into a bare table, while others go on asking.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ai_limiter_tests::Database;
use ai_limiter_tests::calls::Session;
use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::measure::{Side, alternate, number};
use crate::options::Plan;
use crate::report::{Line, Reach};
use crate::schema::{
    FIRST_USER, LEDGER_COLUMNS, count, ensure_no_drift, ledger_rows, run, tenant_uuid, user_uuid,
};
use crate::stage::Stage;

const LEDGER: &str = "ai_limiter.ai_usage";
const BARE: &str = "bare.ledger";

/// How often the prober asks.
const PAUSE: Duration = Duration::from_millis(5);

/// What the others saw meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Service {
    calls: u64,
    worst_check: Duration,
    worst_reserve: Duration,
}

impl Service {
    fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            worst_check: self.worst_check.max(other.worst_check),
            worst_reserve: self.worst_reserve.max(other.worst_reserve),
        }
    }

    fn text(&self) -> String {
        let ms = |time: Duration| number(time.as_secs_f64() * 1000.0);
        let (check, reserve) = (ms(self.worst_check), ms(self.worst_reserve));
        format!("{check} ms check, {reserve} ms reserve, of {} each", self.calls)
    }
}

pub fn bulk(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let database = stage.database(0)?;
    let mut client = database.connect();
    let file = client.value("SHOW data_directory") + "/bench_bulk.copy";
    run(&mut client, &format!("COPY ({}) TO '{file}'", ledger_rows(plan, plan.bulk_rows)))?;

    let (mut beside_ours, mut beside_bare) = (Service::default(), Service::default());
    let side = |table: &'static str| load(&database, plan, table, &file);
    let ours: Side = Box::new(|| {
        let (seconds, service) = side(LEDGER)?;
        beside_ours = beside_ours.and(service);
        Ok(seconds)
    });
    let bare: Side = Box::new(|| {
        let (seconds, service) = side(BARE)?;
        beside_bare = beside_bare.and(service);
        Ok(seconds)
    });
    let rounds = alternate(plan.bulk_rounds, vec![ours, bare])?;

    let time = Line::of_rounds(
        "bulk",
        (&format!("`COPY` of {} rows into the ledger", plan.bulk_rows), 0),
        ("into a bare partitioned table", 1),
        &rounds,
        "s",
        Reach::AtMost(2.0),
    );
    let values = [beside_ours.text(), beside_bare.text()];
    let measured = "the slowest calls of another session meanwhile";
    // A call that is refused or takes a minute has failed the row by now.
    let service =
        Line::plain("bulk", measured, "beside the bare table", values).wanting("all served", true);
    Ok(vec![time, service])
}

/// Loads the file into an empty table, and says how many seconds that took.
fn load(database: &Database, plan: &Plan, table: &str, file: &str) -> Result<(f64, Service)> {
    let mut client = database.connect();
    // The ledger is append-only; a superuser can empty it all the same. Both, so that the others ask
    // the same of each side.
    run(
        &mut client,
        &format!(
            "SET session_replication_role = replica; TRUNCATE {LEDGER}, {BARE}; \
             RESET session_replication_role"
        ),
    )?;
    run(&mut client, "SELECT ai_limiter.refresh_ai_counters()")?;
    run(&mut client, "CHECKPOINT")?;

    let loaded = AtomicBool::new(false);
    let (seconds, service) = scope(|scope| {
        let prober = scope.spawn(|| probe(database, plan, &loaded));
        let begun = Instant::now();
        let outcome = run(&mut client, &format!("COPY {table} ({LEDGER_COLUMNS}) FROM '{file}'"));
        let seconds = begun.elapsed().as_secs_f64();
        loaded.store(true, Ordering::Relaxed);
        let service = prober.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and_then(|()| Ok((seconds, service?)))
    })?;
    let rows = count(&mut client, &format!("SELECT count(*) FROM {table}"))?;
    ensure!(rows == plan.bulk_rows, "{rows} of {} rows were loaded", plan.bulk_rows);
    ensure_no_drift(&mut client)?;
    Ok((seconds, service))
}

/// Asks and reserves until the load has ended. Whoever is not admitted within a minute is an error.
fn probe(database: &Database, plan: &Plan, ended: &AtomicBool) -> Result<Service> {
    let mut client = database.connect();
    run(&mut client, "SET statement_timeout = '1min'")?;
    let mut service = Service::default();
    while !ended.load(Ordering::Relaxed) {
        let number = service.calls % u64::from(plan.users);
        let user = user_uuid(&format!("'{}'", FIRST_USER + number));
        let tenant = tenant_uuid(&format!("'{}'", FIRST_USER + number % u64::from(plan.tenants)));
        let call = format!("user_id => {user}, tenant_id => {tenant}, cost_usd => 0.001");
        let check = timed(&mut client, &format!("ai_limiter.check_ai_limit({call})"))?;
        let reserve = timed(&mut client, &format!("ai_limiter.reserve_ai_usage({call})"))?;
        service = service.and(Service { calls: 1, worst_check: check, worst_reserve: reserve });
        sleep(PAUSE);
    }
    Ok(service)
}

fn timed(client: &mut Client, call: &str) -> Result<Duration> {
    let begun = Instant::now();
    let row = client.query_one(&format!("SELECT allowed, reason FROM {call}"), &[]);
    let row = row.with_context(|| format!("not served beside a bulk load: {call}"))?;
    let (allowed, reason): (bool, String) = (row.get(0), row.get(1));
    ensure!(allowed, "denied beside a bulk load, {reason}: {call}");
    Ok(begun.elapsed())
}
