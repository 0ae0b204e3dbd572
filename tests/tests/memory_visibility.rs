//! What one session changes, the very next call of another goes by: nothing that a backend keeps of the
//! configuration outlives a commit. And what counts whatever is enforced.

use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, database_with_a_dollar, reserve,
    try_reserve,
};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

const USER: &str = "user_id => '00000000-0000-4000-8000-000000000001'";

/// A database and two sessions that have asked before, so that both keep what they have read.
fn two_sessions() -> (Database, Client, Client) {
    let database = database_with_a_dollar(Cluster::shared());
    let (mut admin, mut app) = (database.connect(), database.connect());
    admin.run(
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('m', 0.1); \
         UPDATE ai_limiter.ai_tiers SET allowed_models = '{m}' WHERE tier = 'pro'",
    );
    for client in [&mut admin, &mut app] {
        agreed(client, &format!("{USER}, model => 'm', run_id => 'r'"));
    }
    (database, admin, app)
}

/// Column `column` of what the call is answered now; twice, in case the first one only reads anew.
fn told(client: &mut Client, column: &str, call: &str) -> String {
    let ask = format!("SELECT {column} FROM ai_limiter.check_ai_limit({call})");
    let first = client.value(&ask);
    assert_eq!(client.value(&ask), first);
    agreed(client, call);
    first
}

#[test]
fn an_edit_is_what_the_next_call_of_another_session_goes_by() {
    let (_database, mut admin, mut app) = two_sessions();
    let call = format!("{USER}, model => 'm', run_id => 'r'");
    let other = format!("{USER}, model => 'other', cost_usd => 0.1");
    let mut after = |edit: &str, column: &str, call: &str| {
        admin.run(edit);
        told(&mut app, column, call)
    };
    assert_eq!(after("SELECT 1", "estimated_cost_usd", &call), "0.1");
    assert_eq!(
        after("UPDATE ai_limiter.ai_prices SET usd_per_request = 0.2", "estimated_cost_usd", &call),
        "0.2"
    );
    assert_eq!(
        after("UPDATE ai_limiter.ai_limits SET amount = 3 WHERE name = 'cost'", "amount", &call),
        "3"
    );
    assert_eq!(
        after("UPDATE ai_limiter.ai_limits SET amount = 0.1 WHERE name = 'cost'", "reason", &call),
        "limit_exceeded"
    );
    assert_eq!(
        after("UPDATE ai_limiter.ai_limits SET amount = 2 WHERE name = 'cost'", "reason", &call),
        "ok"
    );
    assert_eq!(after("SELECT ai_limiter.suspend_ai('model', 'm')", "reason", &call), "suspended");
    assert_eq!(after("SELECT ai_limiter.resume_ai('model', 'm')", "reason", &call), "ok");
    let account = "INSERT INTO ai_limiter.ai_accounts (user_id, tier) \
                   VALUES ('00000000-0000-4000-8000-000000000001', 'pro')";
    assert_eq!(after(account, "reason", &other), "model_not_allowed");
    assert_eq!(
        after("UPDATE ai_limiter.ai_accounts SET suspended = true", "reason", &call),
        "suspended"
    );
    assert_eq!(after("UPDATE ai_limiter.ai_accounts SET suspended = false", "reason", &call), "ok");
    assert_eq!(
        after(
            "UPDATE ai_limiter.ai_tiers SET allowed_models = NULL WHERE tier = 'pro'",
            "reason",
            &other
        ),
        "ok"
    );
    assert_eq!(
        after(
            "INSERT INTO ai_limiter.ai_limits (name, tier, metric, period, amount) \
             VALUES ('of_pro', 'pro', 'requests', 'day', 0)",
            "limit_name",
            &call
        ),
        "of_pro"
    );
    assert_eq!(
        after("UPDATE ai_limiter.ai_accounts SET tier = 'free'", "limit_name", &call),
        "cost"
    );
    assert_eq!(
        after(
            "SELECT ai_limiter.reserve_ai_usage(run_id => 'r', cost_usd => 0.01, \
                run_limit_usd => 0.05)",
            "limit_name",
            &call
        ),
        "run_limit"
    );
    assert_sound(&mut app);
}

/// What others have read of an account is shared: a session that begins goes by it, until it is edited.
#[test]
fn a_session_that_begins_goes_by_accounts_as_they_are() {
    let (database, mut admin, mut app) = two_sessions();
    let call = format!("{USER}, model => 'other', cost_usd => 0.1");
    let user = "user_id = '00000000-0000-4000-8000-000000000001'";
    admin.run(
        "INSERT INTO ai_limiter.ai_accounts (user_id, tier) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'free')",
    );
    let begins = |column: &str| told(&mut database.connect(), column, &call);
    let tier =
        |tier: &str| format!("UPDATE ai_limiter.ai_accounts SET tier = '{tier}' WHERE {user}");
    assert_eq!(told(&mut app, "reason", &call), "ok");
    assert_eq!(begins("reason"), "ok");
    // Whoever edits sees it at once, and nobody else, whoever reads in between.
    admin.run(&format!("BEGIN; {}", tier("pro")));
    assert_eq!(told(&mut admin, "reason", &call), "model_not_allowed");
    assert_eq!(begins("reason"), "ok");
    admin.run("ROLLBACK");
    assert_eq!(begins("reason"), "ok");
    assert_eq!(told(&mut admin, "reason", &call), "ok");
    admin.run(&tier("pro"));
    assert_eq!(begins("reason"), "model_not_allowed");
    admin.run("UPDATE ai_limiter.ai_tiers SET allowed_models = NULL WHERE tier = 'pro'");
    assert_eq!(begins("reason"), "ok");
    admin.run(&format!("UPDATE ai_limiter.ai_accounts SET suspended = true WHERE {user}"));
    assert_eq!(begins("reason"), "suspended");
    admin.run(&format!("DELETE FROM ai_limiter.ai_accounts WHERE {user}"));
    assert_eq!(begins("reason"), "ok");
    // Without a row the tier is what the session's setting says, also where others read it.
    admin.run("INSERT INTO ai_limiter.ai_tiers (tier, allowed_models) VALUES ('none', '{}')");
    admin.run("SET ai_limiter.default_tier = 'none'");
    assert_eq!(told(&mut admin, "reason", &call), "model_not_allowed");
    assert_eq!(begins("reason"), "ok");
    // A row that is too long to be shared is read all the same.
    let long = "long".repeat(15);
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_tiers (tier, allowed_models) VALUES ('{long}', '{{}}')"
    ));
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_accounts (user_id, tier, timezone) \
         VALUES ('00000000-0000-4000-8000-000000000001', '{long}', 'America/Argentina/Buenos_Aires')"
    ));
    assert_eq!(begins("reason"), "model_not_allowed");
    assert_eq!(begins("reason"), "model_not_allowed");
}

/// Nobody is taken for another: not the user for nobody, not one tenant's account for another's.
#[test]
fn accounts_that_are_shared_are_each_their_own() {
    let (database, mut admin, _app) = two_sessions();
    admin.run("INSERT INTO ai_limiter.ai_tiers (tier, allowed_models) VALUES ('none', '{}')");
    let id = |n: u32| format!("00000000-0000-4000-8000-{n:012}");
    let nil = "00000000-0000-0000-0000-000000000000";
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier) \
         SELECT '{nil}'::uuid, format('00000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid, \
                CASE WHEN n % 2 = 0 THEN 'none' ELSE 'free' END FROM generate_series(2, 60) n \
         UNION ALL VALUES ('{}'::uuid, '{}'::uuid, 'none'), ('{nil}', '{nil}', 'none')",
        id(7),
        id(9)
    ));
    let expected = |who: &str, n: u32| {
        let refused = match who {
            "user" => n.is_multiple_of(2),
            "tenant" => n == 9,
            _ => false,
        };
        if refused { "model_not_allowed" } else { "ok" }
    };
    for _session in 0..3 {
        let mut client = database.connect();
        for n in 2..60 {
            for (who, call) in [
                ("user", format!("user_id => '{}'", id(n))),
                ("tenant", format!("tenant_id => '{}', user_id => '{}'", id(7), id(n))),
                ("nobody", format!("tenant_id => '{}'", id(n))),
                ("nobody", format!("tenant_id => '{nil}'")),
            ] {
                let call = format!("{call}, model => 'x', cost_usd => 0");
                let ask = format!("SELECT reason FROM ai_limiter.check_ai_limit({call})");
                assert_eq!(client.value(&ask), expected(who, n), "{call}");
            }
        }
        let nil_user = format!("user_id => '{nil}', model => 'x', cost_usd => 0");
        let ask = format!("SELECT reason FROM ai_limiter.check_ai_limit({nil_user})");
        assert_eq!(client.value(&ask), "model_not_allowed");
    }
}

#[test]
fn a_zone_that_is_moved_is_what_the_next_call_of_another_session_goes_by() {
    let (_database, mut admin, mut app) = two_sessions();
    admin.run("UPDATE ai_limiter.ai_limits SET per = '{user}', period = 'day' WHERE name = 'cost'");
    let resets = "timezone('UTC', resets_at)::time::text";
    assert_eq!(told(&mut app, resets, USER), "00:00:00");
    let of_nobody = "INSERT INTO ai_limiter.ai_tenants (tenant_id, timezone) \
                     VALUES ('00000000-0000-0000-0000-000000000000', 'Asia/Tokyo')";
    admin.run(of_nobody);
    assert_eq!(told(&mut app, resets, USER), "15:00:00");
    admin.run(
        "INSERT INTO ai_limiter.ai_accounts (user_id, timezone) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'Asia/Kathmandu')",
    );
    assert_eq!(told(&mut app, resets, USER), "18:15:00");
    admin.run("DELETE FROM ai_limiter.ai_accounts");
    assert_eq!(told(&mut app, resets, USER), "15:00:00");
    admin.run("DELETE FROM ai_limiter.ai_tenants");
    assert_eq!(told(&mut app, resets, USER), "00:00:00");
}

#[test]
fn an_edit_is_seen_by_its_own_transaction_at_once_and_by_others_when_it_commits() {
    for level in LEVELS {
        let (_database, mut admin, mut app) = two_sessions();
        let mut open = admin.build_transaction().isolation_level(level).start().unwrap();
        open.run("UPDATE ai_limiter.ai_limits SET amount = 5 WHERE name = 'cost'");
        open.run("SAVEPOINT s; UPDATE ai_limiter.ai_prices SET usd_per_request = 0.7");
        let call = format!("{USER}, model => 'm'");
        let own = |open: &mut postgres::Transaction| {
            agreed(open, &call);
            open.value(&format!(
                "SELECT concat_ws(' ', amount, estimated_cost_usd) \
                 FROM ai_limiter.check_ai_limit({call})"
            ))
        };
        assert_eq!(own(&mut open), "5 0.7");
        assert_eq!(told(&mut app, "concat_ws(' ', amount, estimated_cost_usd)", &call), "1 0.1");
        open.run("ROLLBACK TO s");
        assert_eq!(own(&mut open), "5 0.1");
        open.commit().unwrap();
        assert_eq!(told(&mut app, "concat_ws(' ', amount, estimated_cost_usd)", &call), "5 0.1");
    }
}

#[test]
fn what_is_not_enforced_is_counted_all_the_same() {
    for mode in ["off", "shadow"] {
        let (_database, mut enforcing, mut app) = two_sessions();
        app.run(&format!("SET ai_limiter.mode = {mode}"));
        app.run("BEGIN");
        let undone = reserve(&mut app, "cost_usd => 5");
        assert!(undone.allowed, "{mode}: {undone:?}");
        app.run("ROLLBACK");
        let (first, second) =
            (reserve(&mut app, "cost_usd => 0.7"), reserve(&mut app, "cost_usd => 0.8"));
        assert!(first.allowed && second.allowed, "{mode}: {first:?} {second:?}");
        assert_eq!(agreed(&mut enforcing, "cost_usd => 0.1"), "0 + 1.5");
        assert!(!reserve(&mut enforcing, "cost_usd => 0.1").allowed);
        app.run(&format!("SELECT ai_limiter.settle_ai_usage('{}')", first.id()));
        app.run(&format!(
            "SELECT ai_limiter.extend_ai_reservation('{}', cost_usd => 0.9)",
            second.id()
        ));
        app.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.01)");
        assert_eq!(agreed(&mut enforcing, "cost_usd => 0.1"), "0.71 + 0.9");
        app.run(&format!("SELECT ai_limiter.release_ai_usage('{}')", second.id()));
        assert_eq!(agreed(&mut enforcing, "cost_usd => 0.1"), "0.71 + 0");
        assert!(!reserve(&mut enforcing, "cost_usd => 0.3").allowed);
        assert!(reserve(&mut enforcing, "cost_usd => 0.29").allowed);
        assert_no_drift(&mut enforcing);
    }
}

/// A table whose rows are only seen by whose calls are within their limits.
const GUARDED: &str = "
    CREATE TABLE notes AS SELECT n FROM generate_series(1, 2000) n;
    ANALYZE notes;
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    CREATE POLICY once ON notes USING ((SELECT ai_limiter.within_ai_limit(cost_usd => 0.1)));
    GRANT SELECT ON notes TO authenticated";

#[test]
fn a_policy_of_a_parallel_plan_is_answered_as_any_other() {
    let (database, mut admin, mut app) = two_sessions();
    admin.run(GUARDED);
    let forced = match admin.value("SHOW server_version_num").starts_with("15") {
        true => "force_parallel_mode",
        false => "debug_parallel_query",
    };
    let parallel = format!(
        "SET {forced} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; \
         SET min_parallel_table_scan_size = 0"
    );
    let claims = "SELECT set_config('request.jwt.claims', \
        '{\"sub\": \"00000000-0000-4000-8000-000000000001\"}', false); SET ROLE authenticated";
    // The policy asks before the workers begin, the query again while they run.
    let seen = "SELECT count(*) FROM (SELECT n FROM notes OFFSET 0) s \
                WHERE n % 500 > 0 OR ai_limiter.within_ai_limit(cost_usd => 0.1)";
    // A backend that keeps nothing has to read in parallel mode; one that has asked before does not.
    let fresh = |sql: &str| {
        let mut client = database.connect();
        client.run(&parallel);
        client.run(claims);
        client.value(sql)
    };
    app.run(&parallel);
    app.run(claims);
    let plan: Vec<String> = app
        .rows(&format!("EXPLAIN {seen}"))
        .unwrap()
        .iter()
        .map(|row| row.get(0).unwrap().to_owned())
        .collect();
    assert!(plan.join("\n").contains("Gather"), "{plan:?}");
    for (edit, rows) in [
        ("SELECT 1", "2000"),
        ("SELECT ai_limiter.reserve_ai_usage(cost_usd => 0.95)", "0"),
        ("UPDATE ai_limiter.ai_limits SET amount = 2 WHERE name = 'cost'", "2000"),
        ("UPDATE ai_limiter.ai_limits SET per = '{tenant}' WHERE name = 'cost'", "2000"),
        ("SELECT ai_limiter.record_ai_usage(cost_usd => 1)", "0"),
    ] {
        admin.run(edit);
        assert_eq!(app.value(seen), rows, "after {edit}");
        assert_eq!(fresh(seen), rows, "after {edit}");
    }
    // A transaction whose own writes nobody else sees yet.
    app.run("RESET ROLE; BEGIN; UPDATE ai_limiter.ai_limits SET amount = 9 WHERE name = 'cost'");
    app.run("SELECT ai_limiter.record_ai_usage(cost_usd => 1); SET LOCAL ROLE authenticated");
    assert_eq!(app.value(seen), "2000");
    app.run("ROLLBACK; RESET ROLE; SELECT set_config('request.jwt.claims', '', false)");
    assert!(!try_reserve(&mut app, "cost_usd => 1").unwrap().allowed);
    assert_no_drift(&mut app);
}
