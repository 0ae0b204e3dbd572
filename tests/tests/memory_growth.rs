//! The memory of a backend: what it has after its first calls is what it has after all others.
//!
//! `AI_LIMITER_MEMORY_CALLS` (100,000) is how many; a fiftieth of them are holds that are settled.

use std::fs;

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{Session, assert_no_drift, backend_pid, database_with_a_dollar};
use postgres::Client;

/// Bytes in Postgres's contexts, and resident of its own (without the shared buffers).
fn memory(client: &mut Client, pid: i32) -> (i64, i64) {
    let contexts = client
        .value("SELECT sum(total_bytes) FROM pg_backend_memory_contexts")
        .parse()
        .expect("a number");
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("the backend runs");
    let pages: Vec<i64> = statm.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    (contexts, (pages[1] - pages[2]) * 4096)
}

/// Asks for a hundred users and runs, holds and settles, and is denied, in many transactions.
fn call(client: &mut Client, calls: u64) {
    client.run(&format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP \
            PERFORM ai_limiter.check_ai_limit(cost_usd => 0.01, run_id => 'r' || i, \
                user_id => ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid) \
                FROM generate_series(1, 100) i; \
            PERFORM ai_limiter.settle_ai_usage(reservation_id, cost_usd => 0.00000001) \
                FROM ai_limiter.reserve_ai_usage(cost_usd => 0.1, run_id => 'r' || n % 100, \
                run_limit_usd => 1, idempotency_key => CASE n % 10 WHEN 0 THEN 'k' || n || '-' || \
                clock_timestamp() END); \
            PERFORM ai_limiter.reserve_ai_usage(cost_usd => 5, \
                user_id => '00000000-0000-4000-8000-000000000001'); \
            COMMIT; \
         END LOOP; END $$",
        calls / 102
    ));
}

#[test]
fn a_backend_that_has_made_many_calls_has_no_more_memory_than_after_a_few() {
    let calls = std::env::var("AI_LIMITER_MEMORY_CALLS")
        .map_or(100_000, |calls| calls.parse().expect("a number"));
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let pid = backend_pid(&mut client);
    // A dollar a user, so that the test does not end with it; and rules of other kinds.
    client.run(
        "UPDATE ai_limiter.ai_limits SET per = '{user}' WHERE name = 'cost'; \
         INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) VALUES \
            ('requests', '{user}', 'requests', 'day', 1000000), \
            ('runs', '{run}', 'requests', 'hour', 1000000)",
    );
    call(&mut client, calls / 5);
    let before = memory(&mut client, pid);
    call(&mut client, calls);
    let after = memory(&mut client, pid);
    let grown = (after.0 - before.0, after.1 - before.1);
    assert!(grown.0 < 256 << 10 && grown.1 < 2 << 20, "{before:?}, then {after:?}");
    assert_no_drift(&mut client);
}
