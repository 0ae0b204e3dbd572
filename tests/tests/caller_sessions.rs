//! What runs as the owner neither takes on the settings of the session that asks nor leaves anything
//! of its own behind.

mod people;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, become_person, id, outcome, run};

/// A database in which a user (1) of tenant 1 has a charge and a hold of 0.3 each.
fn database() -> Database {
    let database = Cluster::shared().fresh_database();
    let account = format!("'{}', '{}'", id(1), id(1));
    let spend = format!(
        "SELECT ai_limiter.record_ai_usage({account}, cost_usd => 0.3),
            ai_limiter.reserve_ai_usage({account}, cost_usd => 0.3, ttl => '1 day')"
    );
    run(&mut database.connect(), &spend);
    database
}

#[test]
fn what_a_session_sets_for_itself_changes_no_verdict() {
    let database = database();
    let mut owner = database.connect();
    run(
        &mut owner,
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('gpt_4*', 0.1), ('a\\b', 1);
         INSERT INTO ai_limiter.ai_limits (name, per, metric, rolling, amount)
            VALUES ('rolling', '{user}', 'requests', '90 minutes', 2)",
    );
    let claims = people::claims(Some(1), Some(1), None);
    let questions = [
        "SELECT to_jsonb(v) - 'retry_after' - 'resets_at' FROM ai_limiter.check_ai_limit(model => 'gpt_4o') v",
        "SELECT extract(epoch FROM resets_at), reason FROM ai_limiter.check_ai_limit(cost_usd => 5)",
        "SELECT period, used::text, remaining::text FROM ai_limiter.get_ai_limits() WHERE amount = 2",
    ];
    // A session of its own for each, since plans are kept.
    let answers = |settings: &str| {
        let mut client = database.connect_as("authenticator");
        run(&mut client, &format!("SET request.jwt.claims = '{claims}'; SET ROLE authenticated"));
        run(&mut client, settings);
        questions.map(|sql| ask(&mut client, sql)).join("\n")
    };
    run(
        &mut owner,
        &format!("ALTER DATABASE {} SET ai_limiter.on_error = 'allow'", database.name()),
    );
    let expected = answers("SELECT 1");
    assert!(expected.contains("rolling 01:30:00"), "{expected}");
    for settings in [
        "SET standard_conforming_strings = off; SET escape_string_warning = off",
        "SET backslash_quote = off; SET array_nulls = off",
        "SET IntervalStyle = 'iso_8601'",
        "SET IntervalStyle = 'sql_standard'",
        "SET DateStyle = 'German, DMY'",
        "SET TimeZone = 'Asia/Kathmandu'",
        "SET timezone_abbreviations = 'India'",
        "SET search_path = ''; SET row_security = off",
        "SET bytea_output = 'escape'; SET extra_float_digits = -15",
        "SET enable_partition_pruning = off; SET plan_cache_mode = 'force_custom_plan'",
        "SET default_transaction_isolation = 'serializable'",
        "SET client_encoding = 'LATIN1'",
        "SET transform_null_equals = on; SET quote_all_identifiers = on",
    ] {
        assert_eq!(answers(settings), expected, "{settings}");
    }
}

/// What runs as the owner, with a path of its own, ends with the call, whatever way it ends.
#[test]
fn whoever_asked_is_the_same_afterwards() {
    let database = database();
    let mut client = database.connect();
    let degraded = "ALTER TABLE ai_limiter.ai_usage RENAME cost_usd TO gone";
    for state in ["SELECT 1", degraded] {
        run(&mut client, state);
        become_person(&mut client, 1, 1, None);
        run(&mut client, "SET search_path = elsewhere, public");
        for sql in [
            "SELECT ai_limiter.check_ai_limit(cost_usd => 1)",
            "SELECT ai_limiter.check_ai_limit(cost_usd => -1)",
            "SELECT ai_limiter.check_ai_limit('00000000-0000-0000-0000-00000000000f')",
            "SELECT ai_limiter.get_ai_limits()",
            "SELECT ai_limiter.get_ai_cost(timezone => 'nowhere')",
            "SELECT * FROM ai_limiter.ai_limit_status",
            "DO $$ BEGIN PERFORM ai_limiter.get_ai_cost(timezone => 'nowhere');
                EXCEPTION WHEN OTHERS THEN NULL; END $$",
        ] {
            run(&mut client, "BEGIN; SAVEPOINT s");
            if outcome(&mut client, sql).len() == 5 {
                run(&mut client, "ROLLBACK TO s");
            }
            let who = "SELECT current_user, session_user, current_setting('search_path')";
            assert_eq!(ask(&mut client, who), "authenticated|postgres|elsewhere, public", "{sql}");
            let denied = outcome(&mut client, "SELECT * FROM ai_limiter.ai_run_limits");
            assert_eq!(denied, "42501", "{sql}");
            run(&mut client, "ROLLBACK");
        }
        run(&mut client, "RESET ROLE; RESET search_path");
    }
}
