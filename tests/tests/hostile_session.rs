//! What a login of the attacker's own can put around a call: settings written before the library is
//! loaded, operators and functions of its own first in the `search_path`, tables that shadow ours.
//! And what a message tells of a secret that was passed by mistake.

mod people;

use std::sync::OnceLock;

use ai_limiter_tests::{Cluster, Database, sqlstate};
use people::{ask, claims, describe, drift, id, outcome, refusal, run};
use postgres::NoTls;

const MALLORY: &str = "CREATE ROLE mallory LOGIN; GRANT authenticated TO mallory";

fn cluster() -> &'static Cluster {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| run(&mut Cluster::shared().connect(), MALLORY));
    Cluster::shared()
}

const ASK: &str = "SELECT reason FROM ai_limiter.check_ai_limit(cost_usd => 100000)";

#[test]
fn a_setting_written_before_the_library_is_loaded_gains_nothing() {
    let cluster = Cluster::builder().supabase_roles().without_preload().start();
    run(&mut cluster.connect(), MALLORY);
    let database = cluster.fresh_database();
    let options = "-c ai_limiter.mode=off -c ai_limiter.claim_setters=mallory \
        -c ai_limiter.on_error=allow";
    let mut config = database.config("mallory");
    let mut by_option = config.options(options).connect(NoTls).unwrap();
    let claims = claims(Some(1), Some(1), Some("platform_admin"));
    run(&mut by_option, &format!("SET request.jwt.claims = '{claims}'; SET ROLE authenticated"));
    let who = "SELECT ai_limiter.ai_current_user(), ai_limiter.ai_current_role()";
    assert_eq!(ask(&mut by_option, who), "|member");
    assert_eq!(ask(&mut by_option, ASK), "limit_exceeded");
    assert_eq!(ask(&mut by_option, "SHOW ai_limiter.mode"), "enforce");

    for before in [
        "SET ai_limiter.mode = 'off'",
        "BEGIN; SET LOCAL ai_limiter.mode = 'shadow'",
        "BEGIN; SET ai_limiter.mode = 'off'; SAVEPOINT s; SET LOCAL ai_limiter.mode = 'shadow'",
        "SELECT set_config('ai_limiter.mode', 'off', false)",
    ] {
        let mut mallory = database.connect_as("mallory");
        run(&mut mallory, before);
        run(&mut mallory, "SET ROLE authenticated");
        assert_eq!(ask(&mut mallory, ASK), "limit_exceeded", "{before}");
        assert_eq!(ask(&mut mallory, "SHOW ai_limiter.mode"), "enforce", "{before}");
    }
    // Nor does a function bring it along, or the login itself.
    let mut mallory = database.connect_as("mallory");
    let function = "CREATE FUNCTION pg_temp.ask() RETURNS void LANGUAGE sql
        SET ai_limiter.mode = 'off' AS ''";
    assert_eq!(outcome(&mut mallory, function), "42501");
    let alter = "ALTER ROLE mallory SET ai_limiter.mode = 'off'";
    assert_eq!(outcome(&mut mallory, alter), "42501");
}

/// Where the library is loaded before anybody logs in there is no such moment.
#[test]
fn with_the_library_preloaded_no_login_can_bring_a_setting_along() {
    let cluster = Cluster::builder().supabase_roles().preloaded().start();
    run(&mut cluster.connect(), MALLORY);
    let database = cluster.fresh_database();
    for setting in ["ai_limiter.mode=off", "ai_limiter.claim_setters=mallory"] {
        let mut config = database.config("mallory");
        let refused =
            config.options(&format!("-c {setting}")).connect(NoTls).map(drop).unwrap_err();
        assert_eq!(sqlstate(&refused), "42501", "{setting}");
    }
    let mut mallory = database.connect_as("mallory");
    for before in
        ["SET ai_limiter.mode = 'off'", "SELECT set_config('ai_limiter.mode', 'off', false)"]
    {
        assert_eq!(outcome(&mut mallory, before), "42501", "{before}");
    }
    run(&mut mallory, "SET ROLE authenticated");
    assert_eq!(ask(&mut mallory, ASK), "limit_exceeded");
}

#[test]
fn no_session_can_change_a_setting() {
    let database = cluster().fresh_database();
    let settings = "SELECT name FROM pg_settings WHERE name LIKE 'ai\\_limiter.%' ORDER BY 1";
    let mut mallory = database.connect_as("mallory");
    run(&mut mallory, "SET ROLE authenticated");
    run(&mut mallory, ASK);
    let names = ask(&mut mallory, settings);
    assert!(names.lines().count() >= 11, "{names}");
    for name in names.lines() {
        let value = ask(&mut mallory, &format!("SHOW {name}"));
        // 55P02 is of settings that the configuration file alone can set.
        for sql in [
            format!("SET {name} = '{value}'"),
            format!("SET LOCAL {name} = '{value}'"),
            format!("SELECT set_config('{name}', '{value}', true)"),
            format!("ALTER ROLE mallory SET {name} = '{value}'"),
        ] {
            let refusal = outcome(&mut mallory, &sql);
            assert!(["42501", "55P02"].contains(&refusal.as_str()), "{sql}: {refusal}");
        }
    }
    let misspelt = mallory.batch_execute("SET ai_limiter.mod = 'off'").unwrap_err();
    assert_eq!(sqlstate(&misspelt), "42602");
}

/// Whatever the limiter could call by an unqualified name, with a body that notes who ran it.
fn set_trap(database: &Database) {
    let mut sql = "CREATE SCHEMA evil AUTHORIZATION mallory;
        CREATE TABLE public.caught (who text, what text); GRANT INSERT ON public.caught TO PUBLIC;
        CREATE FUNCTION evil.note(what text) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.caught VALUES (current_user, what); RETURN true;
        END $$;"
        .to_owned();
    let types = ["uuid", "text", "timestamptz", "numeric", "bigint", "boolean", "jsonb"];
    for operator in ["=", "<>", ">", "<", ">=", "<="] {
        for (n, of) in types.iter().enumerate() {
            let function = format!("evil.op{}_{n}", operator.bytes().map(u32::from).sum::<u32>());
            sql += &format!(
                "CREATE FUNCTION {function}({of}, {of}) RETURNS boolean LANGUAGE sql AS
                    $$SELECT evil.note('{operator} {of}')$$;
                 CREATE OPERATOR evil.{operator} (FUNCTION = {function}, LEFTARG = {of}, RIGHTARG = {of});"
            );
        }
    }
    for (operator, left, right) in [
        ("->>", "jsonb", "text"),
        ("?", "jsonb", "text"),
        ("@>", "jsonb", "jsonb"),
        ("@>", "tstzrange", "timestamptz"),
        ("~~", "text", "text"),
        ("||", "text", "text"),
        ("+", "numeric", "numeric"),
        ("-", "numeric", "numeric"),
        ("*", "numeric", "integer"),
    ] {
        let n = operator.bytes().map(u32::from).sum::<u32>() + left.len() as u32;
        sql += &format!(
            "CREATE FUNCTION evil.other{n}({left}, {right}) RETURNS boolean LANGUAGE sql AS
                $$SELECT evil.note('{operator}')$$;
             CREATE OPERATOR evil.{operator} (FUNCTION = evil.other{n}, LEFTARG = {left}, RIGHTARG = {right});"
        );
    }
    for (signature, returns) in [
        ("date_bin(interval, timestamptz, timestamptz)", "timestamptz"),
        ("date_trunc(text, timestamp)", "timestamp"),
        ("clock_timestamp()", "timestamptz"),
        ("now()", "timestamptz"),
        ("timezone(text, timestamptz)", "timestamp"),
        ("lower(text)", "text"),
        ("replace(text, text, text)", "text"),
        ("length(text)", "integer"),
        ("to_jsonb(anyelement)", "jsonb"),
        ("gen_random_uuid()", "uuid"),
        ("sha256(bytea)", "bytea"),
        ("current_setting(text)", "text"),
        ("array_position(anycompatiblearray, anycompatible)", "integer"),
        ("pg_backend_pid()", "integer"),
        ("int8(numeric)", "bigint"),
        ("numeric(bigint)", "numeric"),
    ] {
        sql += &format!(
            "CREATE FUNCTION evil.{signature} RETURNS {returns} LANGUAGE sql AS
                $$SELECT NULL::{returns} FROM evil.note('{signature}')$$;"
        );
    }
    for (name, of) in
        [("sum", "numeric"), ("sum", "bigint"), ("max", "timestamptz"), ("min", "numeric")]
    {
        sql += &format!(
            "CREATE FUNCTION evil.{name}_step({of}, {of}) RETURNS {of} LANGUAGE sql AS
                $$SELECT NULL::{of} FROM evil.note('{name}')$$;
             CREATE AGGREGATE evil.{name}({of}) (SFUNC = evil.{name}_step, STYPE = {of});"
        );
    }
    sql += "GRANT USAGE ON SCHEMA evil TO PUBLIC;
        GRANT USAGE ON SCHEMA ai_limiter TO mallory;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ai_limiter TO mallory;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ai_limiter TO mallory;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA ai_limiter TO mallory;";
    run(&mut database.connect(), &sql);
}

/// Everything that a server role can make the limiter do.
fn all_that_runs() -> Vec<String> {
    let (user, tenant) = (id(1), id(1));
    let call = format!(
        "'{user}', '{tenant}', 'openai/gpt-4o', feature => 'chat', run_id => 'r', \
         attributes => '{{\"team\": \"a\"}}', input_tokens => 10, output_tokens => 10"
    );
    [
        "INSERT INTO ai_limiter.ai_tenants VALUES ('T', 'T', 'Europe/Berlin')",
        "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, timezone) VALUES ('T', 'U', 'UTC')",
        "INSERT INTO ai_limiter.ai_tiers VALUES ('trial', '{gpt-*}', '{chat}')",
        "UPDATE ai_limiter.ai_tiers SET description = 'x' WHERE tier OPERATOR(pg_catalog.=) 'trial'",
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('gpt-4o', 0.01)",
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, rolling, amount, attributes)
            VALUES ('trap', '{attribute:team}', 'total_tokens', '1 hour', 1000, '{\"team\": \"a\"}')",
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount, model, user_id)
            VALUES ('user_daily_cost', '{model,user}', 'cost_usd', 'week', 1, 'gpt-*', 'U')",
        "UPDATE ai_limiter.ai_limits SET amount = 2 WHERE name OPERATOR(pg_catalog.=) 'trap'",
        "SELECT ai_limiter.suspend_ai('model', 'other', until => 'tomorrow')",
        "SELECT ai_limiter.check_ai_limit(CALL)",
        "SELECT ai_limiter.reserve_ai_usage(CALL, idempotency_key => 'k', run_limit_usd => 1)",
        "SELECT ai_limiter.reserve_ai_usage(CALL, idempotency_key => 'k', run_limit_usd => 1)",
        "SELECT ai_limiter.reserve_ai_usage(CALL, cost_usd => 1000)",
        "SELECT ai_limiter.record_ai_usage(CALL)",
        "INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, model, cost_usd) VALUES ('T', 'U', 'm', 1)",
        "SELECT ai_limiter.extend_ai_reservation(id, 20),
            ai_limiter.settle_ai_usage(id, '{\"input_tokens\": 3, \"output_tokens\": 4}')
            FROM ai_limiter.ai_reservations",
        "SELECT ai_limiter.get_ai_limits('U', 'T'), ai_limiter.explain_ai_limit(CALL)",
        "SELECT ai_limiter.get_ai_cost(group_by => '{attribute:team,day,user}')",
        "SELECT ai_limiter.get_user_daily_ai_usage('U'), ai_limiter.get_global_ai_cost()",
        "SELECT ai_limiter.get_ai_cost_alerts(), ai_limiter.estimate_ai_cost('gpt-4o')",
        "SELECT ai_limiter.verify_ai_counters(), ai_limiter.refresh_ai_counters()",
        "SELECT * FROM ai_limiter.ai_limit_status, ai_limiter.ai_cost_by_day",
        "SELECT ai_limiter.require_ai_limit(CALL)",
        "SELECT ai_limiter.resume_ai('model', 'other'), ai_limiter.ensure_ai_partitions()",
        "DELETE FROM ai_limiter.ai_limits WHERE name OPERATOR(pg_catalog.=) 'trap'",
    ]
    .map(|sql| sql.replace("CALL", &call).replace("'T'", &format!("'{tenant}'")).replace("'U'", &format!("'{user}'")))
    .into()
}

#[test]
fn nothing_in_the_search_path_runs_as_the_owner() {
    let database = cluster().fresh_database();
    run(&mut database.connect(), "SELECT ai_limiter.ensure_ai_partitions()");
    set_trap(&database);
    let mut mallory = database.connect_as("mallory");
    // Tables and types of the names that the limiter uses, where no schema comes before.
    run(
        &mut mallory,
        "CREATE TEMP TABLE ai_usage (cost_usd numeric); CREATE TEMP TABLE ai_limits (id bigint);
         CREATE TEMP TABLE ai_reservations (id uuid); CREATE TEMP TABLE pg_locks (pid int);
         CREATE TEMP TABLE pg_database (oid oid); CREATE DOMAIN pg_temp.uuid AS text;
         SET search_path = evil, pg_temp, ai_limiter, pg_catalog",
    );
    for sql in all_that_runs() {
        let mut tried = |sql: &str| mallory.batch_execute(sql).map_err(|e| describe(&e));
        let (hostile, denied) = (tried(&sql), sql.contains("require_ai_limit"));
        assert!(hostile.is_ok() || denied, "{sql}\n{hostile:?}");
    }
    let caught = "SELECT DISTINCT who, what FROM public.caught WHERE who <> 'mallory'";
    let mut owner = database.connect();
    assert_eq!(ask(&mut owner, caught), "");
    assert_eq!(drift(&mut owner), "");
    // The trap works: it catches what mallory herself runs.
    run(
        &mut mallory,
        "SELECT max(t), sum(n) FROM (VALUES (now(), 1::numeric)) v (t, n) WHERE n = 2 AND n >= 1;
         SELECT lower('A'::text), date_bin('1 minute'::interval, t, t), attributes @> '{}',
            attributes ->> 'a', to_jsonb(1) FROM (SELECT clock_timestamp() AS t, '{}'::jsonb AS attributes) v",
    );
    for what in ["= numeric", ">= numeric", "max", "sum", "lower(text)", "->>", "@>", "now()"] {
        let caught = format!("SELECT count(*) > 0 FROM public.caught WHERE what = '{what}'");
        assert_eq!(ask(&mut owner, &caught), "t", "{what}");
    }
}

#[test]
fn no_message_repeats_a_secret_or_a_claim() {
    let database = cluster().fresh_database();
    let mut client = database.connect();
    run(&mut client, "SELECT ai_limiter.record_ai_usage(cost_usd => 1)");
    for key in [
        "sk-proj-Abc123Def456Ghi789Jkl012",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AKIAIOSFODNN7EXAMPLEKEY",
        "0123456789abcdef0123456789ABCDEF0123456789",
    ] {
        for sql in [
            "SELECT ai_limiter.check_ai_limit(api_key_id => 'KEY')",
            "SELECT ai_limiter.within_ai_limit(api_key_id => 'KEY')",
            "SELECT ai_limiter.reserve_ai_usage(api_key_id => 'KEY', cost_usd => 1)",
            "SELECT ai_limiter.record_ai_usage(api_key_id => 'KEY', cost_usd => 1)",
            "SELECT ai_limiter.explain_ai_limit(api_key_id => 'KEY')",
            "INSERT INTO ai_limiter.ai_usage (api_key_id, cost_usd) VALUES ('KEY', 1)",
            "INSERT INTO ai_limiter.ai_usage (api_key_id, cost_usd) VALUES ('KEY', -1)",
            "INSERT INTO ai_limiter.ai_limits (name, period, amount, api_key_id)
                VALUES ('n', 'day', 1, 'KEY')",
            "SELECT ai_limiter.suspend_ai('api_key_id', 'KEY')",
        ] {
            let refused = refusal(&mut client, &sql.replace("KEY", key));
            assert!(refused.starts_with("22023"), "{sql}: {refused}");
            assert!(!refused.contains(key), "{refused}");
        }
    }
    for claims in [
        "my-secret",
        r#"{"sub": "my-secret"}"#,
        r#"{"sub": {"my-secret": 1}}"#,
        r#"["my-secret"]"#,
        r#"{"app_metadata": {"tenant_id": "my-secret"}}"#,
        r#"{"app_metadata": {"role": "my-secret"}}"#,
    ] {
        run(&mut client, &format!("SELECT set_config('request.jwt.claims', '{claims}', false)"));
        for sql in [
            "SELECT ai_limiter.check_ai_limit()",
            "SELECT ai_limiter.ai_current_user()",
            "SET ROLE authenticated; SELECT * FROM ai_limiter.ai_usage",
        ] {
            let refused = refusal(&mut client, sql);
            assert!(refused.starts_with("22023"), "{refused}");
            assert!(!refused.contains("my-secret"), "{refused}");
        }
        run(&mut client, "RESET ROLE");
    }
}
