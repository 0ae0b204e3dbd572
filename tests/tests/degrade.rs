//! When counters cannot be read the verdict says so, and is a denial unless the owner wants it
//! otherwise. A caller's own timeout or cancel is never turned into a verdict.

mod people;

use std::thread::{sleep, spawn};
use std::time::Duration;

use ai_limiter_tests::waiting::{Path, forget_accounts, forget_counters};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use people::{ask, become_person, drift, id, outcome, refusal, run, try_ask};

const CHECK: &str = "SELECT allowed, reason, limit_name, details ->> 'sqlstate'
    FROM ai_limiter.check_ai_limit(:u, :t, cost_usd => 0.1)";
const RESERVE: &str = "SELECT allowed, reason, reservation_id IS NOT NULL
    FROM ai_limiter.reserve_ai_usage(:u, :t, cost_usd => 0.1)";

fn of_user(sql: &str) -> String {
    sql.replace(":u", &format!("'{}'", id(1))).replace(":t", &format!("'{}'", id(1)))
}

/// A database with a charge and a hold of 0.3 each.
fn database() -> Database {
    database_on(Cluster::shared())
}

fn database_on(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let spend = "SELECT ai_limiter.record_ai_usage(:u, :t, cost_usd => 0.3);
        SELECT ai_limiter.reserve_ai_usage(:u, :t, cost_usd => 0.3, ttl => '1 day')";
    run(&mut database.connect(), &of_user(spend));
    database
}

/// What makes counters unreadable, what repairs it, and the SQLSTATE that a verdict gives.
const BREAKAGES: [(&str, &str, &str); 4] = [
    (
        "ALTER TABLE ai_limiter.ai_usage RENAME cost_usd TO gone",
        "ALTER TABLE ai_limiter.ai_usage RENAME gone TO cost_usd",
        "42703",
    ),
    (
        "ALTER TABLE ai_limiter.ai_usage RENAME TO gone",
        "ALTER TABLE ai_limiter.gone RENAME TO ai_usage",
        "42P01",
    ),
    (
        "ALTER TABLE ai_limiter.ai_limits RENAME amount TO gone",
        "ALTER TABLE ai_limiter.ai_limits RENAME gone TO amount",
        "42703",
    ),
    (
        "ALTER TABLE ai_limiter.ai_accounts RENAME TO gone",
        "ALTER TABLE ai_limiter.gone RENAME TO ai_accounts",
        "42P01",
    ),
];

fn on_both_paths<T: Copy, const N: usize>(of: [T; N]) -> impl Iterator<Item = (Path, T)> {
    Path::BOTH.into_iter().flat_map(move |path| of.map(|one| (path, one)))
}

#[test]
fn unreadable_counters_deny_by_a_value() {
    for (path, (breaks, repairs, code)) in on_both_paths(BREAKAGES) {
        let database = database_on(path.cluster());
        let mut client = database.connect();
        forget_counters(&mut client);
        forget_accounts(&mut client);
        run(&mut client, breaks);
        assert_eq!(ask(&mut client, &of_user(CHECK)), format!("f|degraded||{code}"), "{breaks}");
        assert_eq!(ask(&mut client, &of_user(RESERVE)), "f|degraded|f", "{breaks}");
        let within = of_user("SELECT ai_limiter.within_ai_limit(:u, :t)");
        assert_eq!(ask(&mut client, &within), "f", "{breaks}");
        let require = refusal(&mut client, "SELECT ai_limiter.require_ai_limit()");
        assert!(require.starts_with("PT429 AI usage denied: degraded"), "{require}");
        run(&mut client, repairs);
        assert_eq!(ask(&mut client, &of_user(CHECK)), "t|ok|user_daily_cost|", "{breaks}");
        assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_reservations"), "1");
        assert_eq!(drift(&mut client), "", "{breaks}");
    }
}

#[test]
fn a_degraded_hold_of_a_transaction_that_edited_rules_is_in_the_counters_afterwards() {
    let database = database_on(Cluster::shared_preloaded());
    let (mut client, mut admin) = (database.connect(), database.connect());
    let standing = of_user(
        "SELECT used, held FROM ai_limiter.get_ai_limits(:u, :t) WHERE limit_name = 'user_daily_cost'",
    );
    assert_eq!(ask(&mut client, &of_user(CHECK)), "t|ok|user_daily_cost|", "the counter is loaded");
    let [(breaks, repairs, _), ..] = BREAKAGES;
    run(&mut admin, breaks);
    run(&mut client, "SET ai_limiter.on_error = 'allow'; BEGIN");
    let other = "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount)
        VALUES ('another', 'requests', 'total', 1000)";
    run(&mut client, other);
    assert_eq!(ask(&mut client, &of_user(RESERVE)), "t|degraded|t");
    run(&mut client, "COMMIT");
    run(&mut admin, repairs);
    assert_eq!(ask(&mut admin, &standing), "0.3|0.4");
    assert_eq!(drift(&mut admin), "");
}

#[test]
fn unreadable_counters_admit_where_the_owner_wants_it_and_the_hold_counts_later() {
    for (path, (breaks, repairs, code)) in on_both_paths(BREAKAGES) {
        let database = database_on(path.cluster());
        let mut client = database.connect();
        forget_counters(&mut client);
        forget_accounts(&mut client);
        run(&mut client, breaks);
        run(&mut client, "SET ai_limiter.on_error = 'allow'");
        assert_eq!(ask(&mut client, &of_user(CHECK)), format!("t|degraded||{code}"), "{breaks}");
        let reserve = of_user(RESERVE).replace("IS NOT NULL", "");
        let held = ask(&mut client, &reserve);
        let hold = held.strip_prefix("t|degraded|").expect(&held).to_owned();
        run(&mut client, repairs);
        // It counts like any other as soon as counters can be read.
        let standing = "SELECT used, held FROM ai_limiter.get_ai_limits(:u, :t)
            WHERE limit_name = 'user_daily_cost'";
        assert_eq!(ask(&mut client, &of_user(standing)), "0.3|0.4", "{breaks}");
        assert_eq!(drift(&mut client), "", "{breaks}");
        let settle = format!(
            "SELECT cost_usd, already_settled FROM ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.2)"
        );
        assert_eq!(ask(&mut client, &settle), "0.2|f", "{breaks}");
        assert_eq!(ask(&mut client, &settle), "0.2|t", "{breaks}");
        assert_eq!(ask(&mut client, &of_user(standing)), "0.5|0.3", "{breaks}");
        assert_eq!(drift(&mut client), "", "{breaks}");
    }
}

#[test]
fn a_settle_that_cannot_be_booked_is_an_error_and_loses_nothing() {
    let database = database();
    let mut client = database.connect();
    let (breaks, repairs, code) = BREAKAGES[0];
    run(&mut client, breaks);
    run(&mut client, "SET ai_limiter.on_error = 'allow'");
    let settle = "SELECT (ai_limiter.settle_ai_usage(id, cost_usd => 0.25)).cost_usd
        FROM ai_limiter.ai_reservations";
    assert_eq!(outcome(&mut client, settle), code);
    let record = of_user("SELECT ai_limiter.record_ai_usage(:u, :t, cost_usd => 0.2)");
    assert_eq!(outcome(&mut client, &record), code);
    run(&mut client, repairs);
    assert_eq!(ask(&mut client, settle), "0.25");
    assert_eq!(drift(&mut client), "");
}

/// Counters that are known, and sessions that know the rules, need no table.
#[test]
fn counters_in_shared_memory_answer_while_their_tables_are_broken() {
    for (breaks, repairs, _) in BREAKAGES {
        let database = database_on(Cluster::shared_preloaded());
        let mut client = database.connect();
        assert_eq!(ask(&mut client, &of_user(CHECK)), "t|ok|user_daily_cost|");
        run(&mut client, breaks);
        assert_eq!(ask(&mut client, &of_user(CHECK)), "t|ok|user_daily_cost|", "{breaks}");
        // The limit is a dollar, of which 0.6 are gone.
        assert_eq!(ask(&mut client, &of_user(RESERVE)), "t|ok|t", "{breaks}");
        let more = of_user(RESERVE).replace("0.1", "0.31");
        assert_eq!(ask(&mut client, &more), "f|limit_exceeded|f", "{breaks}");
        run(&mut client, repairs);
        let holds = "SELECT count(*), trim_scale(sum(cost_usd)) FROM ai_limiter.ai_reservations";
        assert_eq!(ask(&mut client, holds), "2|0.4", "{breaks}");
        assert_eq!(drift(&mut client), "", "{breaks}");
    }
}

/// A hold that cannot be written is not counted either.
#[test]
fn a_hold_that_fails_to_be_written_is_given_back() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, "ALTER TABLE ai_limiter.ai_reservations ADD CHECK (cost_usd < 0.2) NOT VALID");
    run(&mut client, "SET ai_limiter.on_error = 'allow'");
    let reserve = of_user(RESERVE);
    assert_eq!(outcome(&mut client, &reserve.replace("0.1", "0.35")), "23514");
    run(&mut client, "BEGIN; SAVEPOINT s");
    assert_eq!(outcome(&mut client, &reserve.replace("0.1", "0.35")), "23514");
    run(&mut client, "ROLLBACK TO s");
    for _ in 0..4 {
        assert_eq!(ask(&mut client, &reserve), "t|ok|t");
    }
    assert_eq!(ask(&mut client, &reserve), "f|limit_exceeded|f");
    run(&mut client, "COMMIT");
    assert_eq!(drift(&mut client), "");
}

/// What the other session holds.
const HOLD: &str = "user_id => :u, tenant_id => :t, cost_usd => 0.01";

#[test]
fn a_timeout_while_waiting_for_a_counter_is_the_callers_own() {
    for (path, on_error) in on_both_paths(["deny", "allow"]) {
        let database = database_on(path.cluster());
        let (mut holder, mut client) = (database.connect(), database.connect());
        path.hold_up(&mut holder, &of_user(HOLD));
        run(&mut client, &format!("SET ai_limiter.on_error = '{on_error}'"));
        for (setting, code) in [("statement_timeout", "57014"), ("lock_timeout", "55P03")] {
            run(&mut client, &format!("SET {setting} = '150ms'"));
            assert_eq!(outcome(&mut client, &of_user(RESERVE)), code, "{on_error} {setting}");
            run(&mut client, &format!("RESET {setting}"));
            // The session goes on, and whoever only asks waits for no other call.
            if path == Path::Tables {
                assert_eq!(ask(&mut client, &of_user(CHECK)), "t|ok|user_daily_cost|");
            }
        }
        // Also when the call is one of many in a transaction that goes on.
        run(&mut client, "BEGIN; SAVEPOINT s; SET LOCAL lock_timeout = '150ms'");
        assert_eq!(outcome(&mut client, &of_user(RESERVE)), "55P03");
        run(&mut client, "ROLLBACK TO s");
        run(&mut holder, "COMMIT");
        assert_eq!(ask(&mut client, &of_user(RESERVE)), "t|ok|t");
        run(&mut client, "COMMIT");
        assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_reservations"), "3");
        assert_eq!(drift(&mut client), "");
    }
}

#[test]
fn a_cancelled_or_terminated_wait_admits_nothing() {
    for (path, (function, code)) in
        on_both_paths([("pg_cancel_backend", "57014"), ("pg_terminate_backend", "")])
    {
        let database = database_on(path.cluster());
        let (mut holder, mut watcher) = (database.connect(), database.connect());
        path.hold_up(&mut holder, &of_user(HOLD));
        let mut client = database.connect();
        run(&mut client, "SET ai_limiter.on_error = 'allow'");
        let pid = ask(&mut client, "SELECT pg_backend_pid()");
        let waiting = spawn(move || try_ask(&mut client, &of_user(RESERVE)));
        let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
        for _ in 0..500 {
            if ask(&mut watcher, &waits) == "1" {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        assert_eq!(ask(&mut watcher, &format!("SELECT {function}({pid})")), "t");
        // The connection of the terminated one is gone, and says no more than that.
        let error = waiting.join().unwrap().expect_err(function);
        assert!(["57P01", code].contains(&sqlstate(&error)), "{function}: {error}");
        run(&mut holder, "COMMIT");
        assert_eq!(ask(&mut watcher, "SELECT count(*) FROM ai_limiter.ai_reservations"), "2");
        assert_eq!(drift(&mut watcher), "");
    }
}

#[test]
fn a_policy_judges_parallel_queries() {
    let database = database();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE public.documents AS SELECT g AS i FROM generate_series(1, 50000) g;
         ALTER TABLE public.documents ENABLE ROW LEVEL SECURITY;
         CREATE POLICY asks ON public.documents USING ((SELECT ai_limiter.within_ai_limit()));
         CREATE POLICY adds ON public.documents FOR INSERT
            WITH CHECK ((SELECT ai_limiter.within_ai_limit(cost_usd => 0.1)));
         GRANT SELECT, INSERT ON public.documents TO authenticated;
         ANALYZE public.documents;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
         SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2",
    );
    let force = match ask(&mut client, "SHOW server_version_num").parse::<u32>().unwrap() {
        160_000.. => "debug_parallel_query",
        _ => "force_parallel_mode",
    };
    for mode in ["off", "on", "regress"] {
        run(&mut client, &format!("RESET ROLE; SET {force} = '{mode}'"));
        for (amount, seen) in [("100", "50000"), ("0.6", "0")] {
            let limit = format!(
                "RESET ROLE; UPDATE ai_limiter.ai_limits SET amount = {amount} WHERE id = -3"
            );
            run(&mut client, &limit);
            become_person(&mut client, 1, 1, None);
            let count = "SELECT count(*) FROM public.documents";
            assert!(ask(&mut client, &format!("EXPLAIN {count}")).contains("Parallel Seq Scan"));
            assert_eq!(ask(&mut client, count), seen, "{mode} {amount}");
            let insert = outcome(&mut client, "INSERT INTO public.documents VALUES (0)");
            assert_eq!(insert, if seen == "0" { "42501" } else { "" });
            run(&mut client, "RESET ROLE; DELETE FROM public.documents WHERE i = 0");
            let verdicts =
                "SELECT count(*) FILTER (WHERE ai_limiter.within_ai_limit(cost_usd => i))
                FROM (SELECT i FROM public.documents ORDER BY i LIMIT 5) d";
            become_person(&mut client, 1, 1, None);
            let expected = if seen == "0" { "0" } else { "5" };
            assert_eq!(ask(&mut client, verdicts), expected, "{mode}");
        }
    }
}
