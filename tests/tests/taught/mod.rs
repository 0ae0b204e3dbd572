//! A model of which is known what its calls return. A token of its output costs a dime.
//!
//! Calls that teach are two days old, so that they count in no window of today.

// Each of the two files of tests uses a part of it.
#![allow(dead_code)]

use ai_limiter_tests::calls::{Session, disable_shipped_limits, reserve};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database};

/// A database in which everybody together may spend ten dollars a day.
pub fn database_with_ten_dollars(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    configure(&mut admin);
    database
}

pub fn configure(admin: &mut impl Session) {
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'day', 10)",
    );
    admin.run(
        "INSERT INTO ai_limiter.ai_prices (model, output_usd_per_million_tokens) VALUES ('m', 100000)",
    );
}

/// Books calls that returned so many tokens, two days ago.
pub fn book(session: &mut impl Session, calls: u32, output_tokens: u32, more: &str) {
    session.run(&format!(
        "SELECT count(ai_limiter.record_ai_usage(model => 'm', output_tokens => {output_tokens}, \
         created_at => now() - interval '2 days'{more})) FROM generate_series(1, {calls})"
    ));
}

pub fn learn(session: &mut impl Session) -> i64 {
    session.value("SELECT ai_limiter.refresh_ai_estimates()").parse().unwrap()
}

/// Tokens and cost that the newest hold is for, and the most that it may come to.
pub fn newest_hold(session: &mut impl Session) -> String {
    session.value(
        "SELECT concat_ws(' ', output_tokens, trim_scale(cost_usd), 'of', \
         coalesce(max_output_tokens::text, '?'), coalesce(trim_scale(max_cost_usd)::text, '?')) \
         FROM ai_limiter.ai_reservations ORDER BY created_at DESC LIMIT 1",
    )
}

/// Reserves what must be admitted.
pub fn admit(session: &mut impl Session, arguments: &str) {
    assert!(reserve(session, arguments).allowed, "{arguments}");
}

/// A database that has learned that calls to `m` return 10 tokens, and one in twenty 20.
pub fn taught(path: Path) -> Database {
    let database = database_with_ten_dollars(path.cluster());
    let mut teacher = database.connect();
    book(&mut teacher, 190, 10, "");
    book(&mut teacher, 10, 20, "");
    assert_eq!(learn(&mut teacher), 200);
    database
}
