//! Torture: everything at once over budgets too small for all, while processes of the server die.
//!
//! In each round eight clients drive all operations, in a database of their own, each with a log of what
//! it was answered. At random moments the whole server is killed, or its postmaster alone, or single
//! backends (SIGKILL, after which Postgres restarts them all; SIGTERM; cancel), or a background worker
//! of the extension. The clients connect again and go on. At the end of the round, when all is quiet:
//! no cap is exceeded, all that was answered is in the tables, once and with its amount, and no counter
//! drifts.
//!
//! What is done and what is killed, and when, comes from a seed: `AI_LIMITER_TORTURE_SEED` (1). Rounds are
//! `AI_LIMITER_TORTURE_ROUNDS` (8); `make torture` runs a hundred. How far each client comes in a
//! moment is the machine's, so a round that failed is only likely to fail again.

mod people;
mod torturing;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ai_limiter_tests::calls::{Session, wait_until};
use ai_limiter_tests::{Cluster, Random, SUPERUSER};
use people::id;
use torturing::audit::audit;
use torturing::client::{Client, Log};
use torturing::injuries;
use torturing::{CHURNING, FREE, MONOTONE, USERS};

const CLIENTS: u64 = 8;

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Budgets for a fraction of what is asked for. Settling never costs more than was held, so that a
/// cap is exceeded by admission alone.
fn rules() -> String {
    format!(
        "UPDATE ai_limiter.ai_limits SET enabled = false WHERE id < 0;
         SELECT ai_limiter.ensure_ai_partitions();
         INSERT INTO ai_limiter.ai_limits (name, tenant_id, per, metric, period, amount, action) VALUES
            ('churning', '{churning}', '{{}}', 'cost_usd', 'total', 0.4, 'deny'),
            ('churning_users', '{churning}', '{{user}}', 'cost_usd', 'day', 0.2, 'deny'),
            ('churning_now', '{churning}', '{{}}', 'concurrent', 'total', 9, 'deny'),
            ('monotone', '{monotone}', '{{}}', 'cost_usd', 'total', 0.5, 'deny'),
            ('monotone_users', '{monotone}', '{{user}}', 'requests', 'day', 15, 'deny'),
            ('everybody', NULL, '{{}}', 'cost_usd', 'minute', 1000, 'warn'),
            ('by_user', NULL, '{{user,tenant}}', 'requests', 'hour', 100000, 'warn'),
            ('by_run', NULL, '{{run}}', 'total_tokens', 'day', 100000, 'warn');
         -- Not for all: who meets a rolling limit waits for others who do.
         INSERT INTO ai_limiter.ai_limits (name, tenant_id, metric, rolling, amount, action) VALUES
            ('rolling', '{free}', 'cost_usd', '1 hour', 1000, 'warn');",
        free = id(FREE),
        churning = id(CHURNING),
        monotone = id(MONOTONE),
    )
}

/// Has the worker keep house in this database, or in none.
fn serve(cluster: &Cluster, database: &str) {
    let mut admin = cluster.connect();
    admin.run(&format!("ALTER SYSTEM SET ai_limiter.databases = '{database}'"));
    admin.run("SELECT pg_reload_conf()");
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ai_limiter worker'";
    let expected = if database.is_empty() { "0" } else { "1" };
    wait_until("the worker comes and goes", || admin.value(workers) == expected);
}

fn round(cluster: &Cluster, seed: u64) {
    let database = cluster.fresh_database();
    database.connect().batch_execute(&rules()).expect("rules");
    // Every third round is one without.
    serve(cluster, if seed.is_multiple_of(3) { "" } else { database.name() });
    let ends = AtomicBool::new(false);
    let mut random = Random::new(seed);
    let logs: Vec<Log> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (config, ends) = (database.config(SUPERUSER), &ends);
                let mut client = Client::new(config, number, seed);
                scope.spawn(move || client.work(ends))
            })
            .collect();
        let injured = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..1 + random.below(3) {
                thread::sleep(Duration::from_millis(100 + random.below(400)));
                injuries::injure(cluster, &database, &mut random);
            }
            thread::sleep(Duration::from_millis(300));
        }));
        ends.store(true, Ordering::SeqCst);
        let logs = clients.into_iter().map(|client| client.join()).collect::<Vec<_>>();
        injured.unwrap_or_else(|panic| resume_unwind(panic));
        logs.into_iter().map(|log| log.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let answered: usize = logs.iter().map(|log| log.holds.len()).sum();
    assert!(answered > 0, "nothing was admitted: nothing was tried");
    serve(cluster, "");
    let mut admin = database.connect();
    wait_until("all clients are gone", || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
            AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        admin.value(others) == "0"
    });
    audit(&mut admin, &logs, USERS);
}

#[test]
fn whoever_dies_no_cap_is_exceeded_and_nothing_that_was_answered_is_lost() {
    let seed = environment("AI_LIMITER_TORTURE_SEED", 1);
    let rounds = environment("AI_LIMITER_TORTURE_ROUNDS", 8);
    // One server evicts counters all the time.
    let clusters = ["65536", "128"].map(|counters| {
        Cluster::builder()
            .setting("ai_limiter.max_counters", counters)
            .setting("restart_after_crash", "on")
            .setting("deadlock_timeout", "100ms")
            // What is killed leaves its writes to the operating system, which lives.
            .setting("fsync", "off")
            .start()
    });
    for number in 0..rounds {
        let seed = seed.wrapping_add(number);
        let cluster = &clusters[(seed % 2) as usize];
        let outcome = catch_unwind(AssertUnwindSafe(|| round(cluster, seed)));
        if let Err(panic) = outcome {
            eprintln!(
                "round {number} failed; AI_LIMITER_TORTURE_SEED={seed} AI_LIMITER_TORTURE_ROUNDS=1 \
                 runs it alone"
            );
            resume_unwind(panic);
        }
    }
}
