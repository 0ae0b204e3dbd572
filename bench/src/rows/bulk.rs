//! A bulk load into the ledger, against the same into a bare table, while others go on asking.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use ai_limiter_tests::Database;
use ai_limiter_tests::calls::{Session, explained};
use anyhow::{Result, ensure};
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

/// Whoever waits longer has not been served.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the others saw meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Service {
    checks: Answers,
    reserves: Answers,
}

#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    calls: u64,
    /// Denied, or ended by an error.
    refused: u64,
    slowest: Duration,
}

impl Answers {
    fn and(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            refused: self.refused + other.refused,
            slowest: self.slowest.max(other.slowest),
        }
    }

    fn text(&self) -> String {
        let slowest = number(self.slowest.as_secs_f64() * 1000.0);
        format!("{slowest} ms ({} calls, {} refused)", self.calls, self.refused)
    }

    fn all_served(&self) -> bool {
        self.refused == 0 && self.slowest <= PATIENCE
    }
}

impl Service {
    fn and(self, other: Self) -> Self {
        Self { checks: self.checks.and(other.checks), reserves: self.reserves.and(other.reserves) }
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
    let service = |what: &str, ours: Answers, bare: Answers| {
        let measured = format!("the slowest {what} of another session meanwhile");
        Line::plain("bulk", &measured, "beside the bare table", [ours.text(), bare.text()])
            .wanting("all served in a second", ours.all_served())
    };
    Ok(vec![
        time,
        service("`check_ai_limit()`", beside_ours.checks, beside_bare.checks),
        service("`reserve_ai_usage()`", beside_ours.reserves, beside_bare.reserves),
    ])
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

/// Asks and reserves until the load has ended.
fn probe(database: &Database, plan: &Plan, ended: &AtomicBool) -> Result<Service> {
    let mut client = database.connect();
    run(&mut client, "SET statement_timeout = '10min'")?;
    let mut service = Service::default();
    let mut first_refusal = None;
    while !ended.load(Ordering::Relaxed) {
        let number = service.checks.calls % u64::from(plan.users);
        let user = user_uuid(&format!("'{}'", FIRST_USER + number));
        let tenant = tenant_uuid(&format!("'{}'", FIRST_USER + number % u64::from(plan.tenants)));
        let call = format!("user_id => {user}, tenant_id => {tenant}, cost_usd => 0.001");
        let checks = ask(&mut client, &format!("check_ai_limit({call})"), &mut first_refusal);
        let reserves = ask(&mut client, &format!("reserve_ai_usage({call})"), &mut first_refusal);
        service = service.and(Service { checks, reserves });
        sleep(PAUSE);
    }
    if let Some(reason) = first_refusal {
        eprintln!("  refused beside a bulk load: {reason}");
    }
    Ok(service)
}

/// One call, which nothing but the load could make fail: the limits are far away.
fn ask(client: &mut Client, call: &str, first_refusal: &mut Option<String>) -> Answers {
    let begun = Instant::now();
    let row = client.query_one(&format!("SELECT allowed, reason FROM ai_limiter.{call}"), &[]);
    let slowest = begun.elapsed();
    let refused = match row {
        Ok(row) if row.get::<_, bool>(0) => None,
        Ok(row) => Some(row.get::<_, String>(1)),
        Err(error) => Some(explained(&error)),
    };
    let counts = u64::from(refused.is_some());
    *first_refusal = first_refusal.take().or(refused);
    Answers { calls: 1, refused: counts, slowest }
}
