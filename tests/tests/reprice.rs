//! Pricing past rows again: what is looked at, what is booked, and that nothing is booked twice.

mod people;

use ai_limiter_tests::calls::{
    Session, agreed, assert_no_drift, backend_pid, database_with_a_dollar, disable_shipped_limits,
    wait_for_lock_wait,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database};
use people::{ask, outcome};
use std::thread;

const MODEL: &str = "SELECT ai_limiter.record_ai_usage(model => 'acme-1', input_tokens => 1000000";

fn reprice(dry_run: bool) -> String {
    format!(
        "SELECT model, rows, trim_scale(cost_usd_before), trim_scale(cost_usd_after), \
         trim_scale(difference_usd), unpriced \
         FROM ai_limiter.reprice_ai_usage('2020-01-01', clock_timestamp(), dry_run => {dry_run})"
    )
}

/// Two prices of one model, one after the other.
fn database(path: Path) -> Database {
    let database = path.cluster().fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run(
        "SELECT ai_limiter.ensure_ai_partitions();
         INSERT INTO ai_limiter.ai_prices (model, input_usd_per_million_tokens, valid_during) VALUES
            ('acme-1', 4, '(,2026-01-01)'), ('acme-1', 2, '[2026-01-01,)'), ('acme-2', 1, '(,)');
         INSERT INTO ai_limiter.ai_limits (name, per, period, amount, action) VALUES
            ('all', '{}', 'total', 1000000, 'warn'), ('months', '{user}', 'month', 1000000, 'warn')",
    );
    admin.run("INSERT INTO ai_limiter.ai_limits (name, rolling, amount, action) VALUES ('rolling', '1 day', 1e6, 'warn')");
    database
}

#[test]
fn rows_are_priced_at_their_time_as_prices_are_written_now_and_only_once() {
    for path in Path::BOTH {
        let database = database(path);
        let mut client = database.connect();
        client.run(&format!("{MODEL}, created_at => '2025-12-31 23:59Z')"));
        client.run(&format!("{MODEL}, created_at => '2026-01-01 00:00Z')"));
        client.run(&format!("{MODEL})"));
        client.run("SELECT ai_limiter.record_ai_usage(model => 'acme-2', input_tokens => 3000000)");
        // A cost that was told, with tokens and a model; an estimate without tokens; one with.
        client.run(&format!("{MODEL}, cost_usd => 7)"));
        client.run(
            "INSERT INTO ai_limiter.ai_usage (model, price_source, input_tokens, cost_usd) VALUES \
             ('acme-1', 'estimate', 0, 5), ('acme-1', 'estimate', 1000000, 5), \
             ('gone-1', 'ai_prices', 1000, 0.25), (NULL, 'ai_prices', 1000, 0.5)",
        );
        let before =
            "|1|0.5|0.5|0|1\nacme-1|4|13|10|-3|0\nacme-2|1|3|3|0|0\ngone-1|1|0.25|0.25|0|1";
        client.run("BEGIN READ ONLY");
        assert_eq!(ask(&mut client, &reprice(true)), before);
        assert_eq!(outcome(&mut client, &reprice(false)), "25006");
        client.run("ROLLBACK");
        client.run(
            "UPDATE ai_limiter.ai_prices SET input_usd_per_million_tokens = 3 WHERE valid_during @> timestamptz '2025-06-01' \
                AND model = 'acme-1'",
        );
        let expected = before.replace("10|-3", "9|-4");
        assert_eq!(ask(&mut client, &reprice(true)), expected);
        assert_eq!(
            client
                .value("SELECT count(*) FROM ai_limiter.ai_usage WHERE correction_of IS NOT NULL"),
            "0"
        );
        assert_eq!(ask(&mut client, &reprice(false)), expected);
        let booked = "SELECT c.created_at = u.created_at, trim_scale(c.cost_usd), trim_scale(c.list_cost_usd), \
            trim_scale(c.charge_usd), c.correction_reason, c.price_source, c.line_items \
            FROM ai_limiter.ai_usage c JOIN ai_limiter.ai_usage u ON u.id = c.correction_of ORDER BY c.cost_usd";
        let item = |cost: &str| {
            format!(
                "{cost}|{cost}|{cost}|reprice|reprice|[{{\"class\": \"adjustment\", \"cost_usd\": {cost}, \
                 \"quantity\": 1, \"price_source\": \"reprice\", \"unit_price_usd\": {cost}}}]"
            )
        };
        assert_eq!(ask(&mut client, booked), format!("t|{}\nt|{}", item("-3"), item("-1")));
        assert_no_drift(&mut client);
        agreed(&mut client, "cost_usd => 1");
        assert_eq!(ask(&mut client, &reprice(false)), expected.replace("13|9|-4", "9|9|0"));
        // And up again, in the transaction that changes the price, undone and done.
        for end in ["ROLLBACK", "COMMIT"] {
            client.run("BEGIN");
            client.run("UPDATE ai_limiter.ai_prices SET input_usd_per_million_tokens = 4 WHERE model = 'acme-2'");
            let sql =
                reprice(false).replace("clock_timestamp()", "clock_timestamp(), 'ACME/acme-2'");
            assert_eq!(ask(&mut client, &sql), "acme-2|1|3|12|9|0");
            client.run(end);
            assert_no_drift(&mut client);
        }
        assert_eq!(ask(&mut client, &reprice(true)).lines().nth(2), Some("acme-2|1|12|12|0|0"));
    }
}

#[test]
fn what_was_adjusted_by_hand_is_part_of_what_a_row_cost_before() {
    let database = database(Path::Memory);
    let mut client = database.connect();
    let id = client.value(&format!("{MODEL})"));
    client.run(&format!("SELECT ai_limiter.adjust_ai_usage('{id}', -0.5, 'invoice')"));
    assert_eq!(ask(&mut client, &reprice(false)), "acme-1|1|1.5|2|0.5|0");
    assert_eq!(ask(&mut client, &reprice(false)), "acme-1|1|2|2|0|0");
    assert_no_drift(&mut client);
}

#[test]
fn thousands_of_rows_are_repriced_and_no_counter_drifts() {
    for path in Path::BOTH {
        let database = database(path);
        let (mut client, mut other) = (database.connect(), database.connect());
        client.run(
            "INSERT INTO ai_limiter.ai_usage (model, user_id, price_source, input_tokens, cost_usd, created_at) \
             SELECT 'acme-1', ('00000000-0000-4000-8000-00000000000' || i % 7)::uuid, 'ai_prices', 1000, \
                0.01, greatest(now() - i * interval '3 minutes', date_trunc('month', now())) \
             FROM generate_series(1, 12000) i",
        );
        for user in 0..7 {
            agreed(
                &mut client,
                &format!("user_id => '00000000-0000-4000-8000-00000000000{user}', cost_usd => 1"),
            );
        }
        client.run("SET statement_timeout = '60s'");
        let once = "acme-1|12000|120|24|-96|0";
        client.run("BEGIN");
        assert_eq!(ask(&mut client, &reprice(false)), once);
        agreed(&mut client, "cost_usd => 1");
        client.run("ROLLBACK");
        assert_no_drift(&mut other);
        client.run("BEGIN; SAVEPOINT a");
        assert_eq!(ask(&mut client, &reprice(false)), once);
        client.run("ROLLBACK TO a; COMMIT");
        assert_no_drift(&mut other);
        assert_eq!(ask(&mut client, &reprice(false)), once);
        assert_no_drift(&mut other);
        for user in 0..7 {
            agreed(
                &mut other,
                &format!("user_id => '00000000-0000-4000-8000-00000000000{user}', cost_usd => 1"),
            );
        }
        assert_eq!(ask(&mut client, &reprice(false)), "acme-1|12000|24|24|0|0");
    }
}

#[test]
fn a_row_that_somebody_adjusts_meanwhile_is_repriced_as_it_stands() {
    for path in Path::BOTH {
        let database = database(path);
        let (mut client, mut other) = (database.connect(), database.connect());
        let id = client.value(&format!("{MODEL})"));
        client.run(&format!("BEGIN; SELECT ai_limiter.adjust_ai_usage('{id}', -1.5, 'x')"));
        let pid = backend_pid(&mut other);
        let waiting = thread::spawn(move || {
            other.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
            let answer = ask(&mut other, &reprice(false));
            other.run("COMMIT");
            answer
        });
        wait_for_lock_wait(&mut database.connect(), pid);
        client.run("COMMIT");
        assert_eq!(waiting.join().unwrap(), "acme-1|1|0.5|2|1.5|0");
        assert_no_drift(&mut client);
    }
}

#[test]
fn a_time_that_is_empty_or_missing_is_refused() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    for (arguments, expected) in [
        ("now(), now()", "22023"),
        ("now(), '2020-01-01'", "22023"),
        ("NULL, now()", "22004"),
        ("now(), NULL", "22004"),
        ("'2020-01-01', now(), dry_run => NULL", "22004"),
        ("'-infinity', 'infinity'", ""),
    ] {
        let sql = format!("SELECT ai_limiter.reprice_ai_usage({arguments})");
        assert_eq!(outcome(&mut client, &sql), expected, "{arguments}");
    }
}

#[test]
fn a_row_that_cannot_be_priced_is_named() {
    let database = database(Path::BOTH[0]);
    let mut client = database.connect();
    let id = client.value(
        "INSERT INTO ai_limiter.ai_usage (model, price_source, input_tokens, cost_usd) \
         VALUES ('acme-1', 'ai_prices', 900000000000, 5) RETURNING id",
    );
    client.run("UPDATE ai_limiter.ai_prices SET input_usd_per_million_tokens = 1000 WHERE model = 'acme-1'");
    let error = client.rows(&reprice(true)).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "22003");
    assert!(error.detail().unwrap().contains(&id), "{error:?}");
}
