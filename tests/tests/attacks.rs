//! What an attacker with a token, or with a login of their own, tries first.

mod people;

use std::sync::OnceLock;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, become_one, become_person, claims, id, outcome, refusal, run};
use postgres::Client;

/// A server with a login of the attacker's own, who may become whatever a token may.
fn cluster() -> &'static Cluster {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        run(
            &mut Cluster::shared().connect(),
            "CREATE ROLE mallory LOGIN; GRANT authenticated, anon, authenticator TO mallory",
        );
    });
    Cluster::shared()
}

/// Ann (1) and Bob (2) of tenant 1, Eve (3) of tenant 2; each has used 0.9 of a dollar.
fn database() -> Database {
    let database = cluster().fresh_database();
    let mut owner = database.connect();
    run(&mut owner, "SELECT ai_limiter.ensure_ai_partitions()");
    for (user, tenant) in [(1, 1), (2, 1), (3, 2)] {
        let sql = format!(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id) VALUES ('{0}', '{1}');
             INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, cost_usd) VALUES ('{0}', '{1}', 0.9)",
            id(tenant),
            id(user)
        );
        run(&mut owner, &sql);
    }
    database
}

#[test]
fn asking_about_others_reveals_nothing_not_even_whether_they_exist() {
    let database = database();
    let mut client = database.connect();
    for role in ["member", "viewer"] {
        become_person(&mut client, 1, 1, Some(role));
        for question in [
            "SELECT ai_limiter.check_ai_limit(WHO)",
            "SELECT ai_limiter.within_ai_limit(WHO)",
            "SELECT ai_limiter.require_ai_limit(WHO, cost_usd => 0.5)",
            "SELECT * FROM ai_limiter.get_ai_limits(WHO)",
            "SELECT * FROM ai_limiter.explain_ai_limit(WHO)",
        ] {
            let mut answers: Vec<String> = [
                format!("'{}'", id(2)),
                format!("'{}'", id(3)),
                format!("'{}'", id(99)),
                format!("tenant_id => '{}'", id(2)),
                format!("tenant_id => '{}'", id(98)),
                format!("user_id => '{}', tenant_id => '{}'", id(1), id(2)),
                format!("user_id => '{}', tenant_id => '{}'", id(3), id(2)),
            ]
            .iter()
            .map(|who| refusal(&mut client, &question.replace("WHO", who)))
            .collect();
            answers.dedup();
            assert_eq!(answers.len(), 1, "{question}: {answers:?}");
            assert!(answers[0].starts_with("42501"), "{question}: {answers:?}");
        }
        let daily = |n| format!("SELECT * FROM ai_limiter.get_user_daily_ai_usage('{}')", id(n));
        assert_eq!(refusal(&mut client, &daily(2)), refusal(&mut client, &daily(99)));
    }
}

#[test]
fn anothers_settled_call_looks_like_none() {
    let database = database();
    let mut client = database.connect();
    let functions = "ai_limiter.settle_ai_usage, ai_limiter.release_ai_usage, \
        ai_limiter.extend_ai_reservation";
    run(&mut client, &format!("GRANT EXECUTE ON FUNCTION {functions} TO authenticated"));
    let reserve = format!(
        "SELECT reservation_id FROM ai_limiter.reserve_ai_usage('{}', '{}', cost_usd => 0.01)",
        id(2),
        id(1)
    );
    let (open, settled) = (ask(&mut client, &reserve), ask(&mut client, &reserve));
    run(&mut client, &format!("SELECT ai_limiter.settle_ai_usage('{settled}')"));
    // A colleague's, for whoever sees people, is not theirs to settle either.
    for role in ["member", "tenant_admin", "platform_admin"] {
        become_person(&mut client, 1, 1, Some(role));
        for act in
            ["settle_ai_usage('ID')", "release_ai_usage('ID')", "extend_ai_reservation('ID')"]
        {
            for id in [open.as_str(), settled.as_str(), "01900000-0000-7000-8000-000000000000"] {
                let sql = format!("SELECT ai_limiter.{}", act.replace("ID", id));
                let refused = refusal(&mut client, &sql).replace(id, "ID");
                let expected = "42704 reservation \"ID\" does not exist";
                assert!(refused.starts_with(expected), "{role} {act}: {refused}");
            }
        }
    }
}

#[test]
fn a_token_cannot_hold_settle_or_change_anything() {
    let database = database();
    let mut client = database.connect();
    let private = [
        "reserve_ai_usage(cost_usd => 0)",
        "record_ai_usage(cost_usd => 0)",
        "settle_ai_usage(gen_random_uuid())",
        "release_ai_usage(gen_random_uuid())",
        "extend_ai_reservation(gen_random_uuid())",
        "suspend_ai('all')",
        "resume_ai('all')",
        "verify_ai_counters()",
        "refresh_ai_counters()",
        "ensure_ai_partitions()",
    ];
    for (role, claims) in [
        ("anon", claims(None, None, None)),
        ("authenticated", claims(Some(1), Some(1), Some("tenant_admin"))),
        ("authenticated", claims(Some(1), Some(1), Some("platform_admin"))),
    ] {
        become_one(&mut client, role, &claims);
        for call in private {
            let sql = format!("SELECT ai_limiter.{call}");
            assert_eq!(outcome(&mut client, &sql), "42501", "{role} {sql}");
        }
    }
}

#[test]
fn only_what_asks_can_be_called() {
    let database = database();
    let mut client = database.connect();
    let whoever_asks = "ai_current_role ai_current_tenant ai_current_user ai_is_server \
        ai_sees_people ai_sees_platform check_ai_limit get_ai_limits require_ai_limit within_ai_limit";
    let reports = "ai_catalog_prices ai_counters ai_hold_exposure ai_window canonical_model_name \
        count_tokens estimate_ai_cost explain_ai_cost_estimate explain_ai_limit get_ai_cost \
        get_ai_cost_alerts get_global_ai_cost get_user_daily_ai_usage";
    for (role, expected) in
        [("anon", whoever_asks.to_owned()), ("authenticated", format!("{whoever_asks} {reports}"))]
    {
        let callable = format!(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'ai_limiter'::regnamespace
                AND has_function_privilege('{role}', oid, 'EXECUTE')"
        );
        let callable = ask(&mut client, &callable);
        let mut callable: Vec<&str> = callable.lines().collect();
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        callable.sort_unstable();
        expected.sort_unstable();
        assert_eq!(callable, expected, "{role}");
    }
}

#[test]
fn no_table_can_be_written_and_no_partition_read() {
    let database = database();
    let mut client = database.connect();
    // All of them: tables, views, sequences, and partitions that come later.
    let relations = "SELECT relname, relkind FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'S')
        AND relnamespace = 'ai_limiter'::regnamespace ORDER BY 1";
    let relations = ask(&mut client, relations);
    let mut partitions = 0;
    for role in ["anon", "authenticated"] {
        become_one(&mut client, role, &claims(Some(1), Some(1), Some("platform_admin")));
        for relation in relations.lines() {
            let (name, kind) = relation.split_once('|').unwrap();
            if kind == "S" {
                let sql = format!("SELECT nextval('ai_limiter.{name}')");
                assert_eq!(outcome(&mut client, &sql), "42501", "{role} {sql}");
                continue;
            }
            let mut tries = vec![
                format!("INSERT INTO ai_limiter.{name} SELECT * FROM ai_limiter.{name}"),
                format!("DELETE FROM ai_limiter.{name}"),
                format!("TRUNCATE ai_limiter.{name}"),
                format!("COPY ai_limiter.{name} FROM STDIN"),
            ];
            if kind == "v" {
                tries.truncate(2);
            }
            if name.starts_with("ai_usage_2") {
                partitions += 1;
                tries.push(format!("SELECT * FROM ai_limiter.{name}"));
                tries.push(format!("SELECT tableoid FROM ONLY ai_limiter.{name}"));
            }
            for sql in tries {
                let refused = outcome(&mut client, &sql);
                let no_view = kind == "v" && refused == "55000";
                assert!(refused == "42501" || no_view, "{role} {sql}: {refused}");
            }
        }
        let update = "UPDATE ai_limiter.ai_accounts SET role = 'platform_admin'";
        assert_eq!(outcome(&mut client, update), "42501");
        assert_eq!(outcome(&mut client, "CREATE TABLE ai_limiter.t ()"), "42501");
    }
    assert_eq!(partitions, 2 * 4);
}

#[test]
fn default_privileges_make_nobody_a_server() {
    let database = cluster().create_database("default_privileges");
    let mut client = database.connect();
    run(
        &mut client,
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO anon, authenticated;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO anon, authenticated;
         CREATE EXTENSION ai_limiter;
         SELECT ai_limiter.record_ai_usage(cost_usd => 1)",
    );
    become_person(&mut client, 1, 1, None);
    let partition = ask(&mut client, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')");
    let read = format!("SELECT count(*) FROM ai_limiter.ai_usage_{partition}");
    assert!(["42501", "0"].contains(&outcome(&mut client, &read).as_str()));
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_is_server()"), "f");
    let raise = "UPDATE ai_limiter.ai_limits SET amount = 1000000";
    assert_eq!(outcome(&mut client, raise), "42501");
    assert_eq!(outcome(&mut client, "SELECT ai_limiter.ensure_ai_partitions()"), "42501");
}

#[test]
fn claims_that_an_ordinary_session_sets_count_for_nothing() {
    let database = database();
    let mut mallory = database.connect_as("mallory");
    let set = format!(
        "SET request.jwt.claims = '{}'; SET ROLE authenticated",
        claims(Some(1), Some(1), Some("platform_admin"))
    );
    run(&mut mallory, &set);
    assert_is_nobody(&mut mallory);
    // Nor by way of the role that may set them: session_user stays who logged in.
    run(&mut mallory, "SET ROLE authenticator");
    run(&mut mallory, "SET ROLE authenticated");
    assert_is_nobody(&mut mallory);
    assert_eq!(outcome(&mut mallory, "SET SESSION AUTHORIZATION authenticator"), "42501");

    // They count in a session of the role that is trusted with them.
    let mut trusted = database.connect_as("authenticator");
    run(&mut trusted, &set);
    assert_eq!(ask(&mut trusted, "SELECT ai_limiter.ai_current_role()"), "platform_admin");
}

#[track_caller]
fn assert_is_nobody(client: &mut Client) {
    let who = "SELECT ai_limiter.ai_current_user(), ai_limiter.ai_current_tenant(),
        ai_limiter.ai_current_role(), ai_limiter.ai_sees_platform(), ai_limiter.ai_sees_people()";
    assert_eq!(ask(client, who), "|00000000-0000-0000-0000-000000000000|member|f|f");
    assert_eq!(ask(client, "SELECT count(*) FROM ai_limiter.ai_usage"), "0");
    let about = format!("SELECT ai_limiter.check_ai_limit('{}', '{}')", id(1), id(1));
    assert_eq!(outcome(client, &about), "42501");
}

#[test]
fn what_users_can_edit_of_their_token_is_not_believed() {
    let database = database();
    let mut client = database.connect();
    let forged = format!(
        r#"{{"sub": "{}", "role": "service_role", "tenant_id": "{t}", "user_role": "platform_admin",
            "app_metadata": {{"tenant_id": "{}"}},
            "user_metadata": {{"tenant_id": "{t}", "role": "platform_admin"}}}}"#,
        id(1),
        id(1),
        t = id(2)
    );
    become_one(&mut client, "authenticated", &forged);
    let who = "SELECT ai_limiter.ai_current_tenant(), ai_limiter.ai_current_role(),
        ai_limiter.ai_is_server(), (SELECT count(*) FROM ai_limiter.ai_usage)";
    assert_eq!(ask(&mut client, who), format!("{}|member|f|1", id(1)));
}
