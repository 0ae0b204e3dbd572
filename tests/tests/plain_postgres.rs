//! A Postgres without any role of Supabase: the owner works, and grants to roles of its own.

mod people;

use std::sync::OnceLock;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, claims, drift, id, outcome, refusal, run};
use postgres::Client;

fn plain_cluster() -> &'static Cluster {
    static PLAIN: OnceLock<Cluster> = OnceLock::new();
    PLAIN.get_or_init(|| {
        let cluster = Cluster::builder().setting("fsync", "off").start();
        run(
            &mut cluster.connect(),
            "CREATE ROLE app LOGIN; CREATE ROLE worker LOGIN; CREATE ROLE stranger LOGIN;
             CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor",
        );
        cluster
    })
}

/// With the grants that the reference names: `app` acts for anyone, `worker` for its own claims.
fn database_with_grants() -> Database {
    let database = plain_cluster().fresh_database();
    let name = database.name().to_owned();
    run(
        &mut database.connect(),
        &format!(
            "GRANT USAGE ON SCHEMA ai_limiter TO app, worker;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ai_limiter TO app, worker;
             GRANT INSERT ON ai_limiter.ai_reservations TO app;
             ALTER DATABASE {name} SET ai_limiter.claim_setters = 'other, worker'"
        ),
    );
    database
}

fn set_claims(client: &mut Client, user: u32) {
    let claims = claims(Some(user), Some(1), None);
    run(client, &format!("SELECT set_config('request.jwt.claims', '{claims}', false)"));
}

#[test]
fn the_owner_reserves_settles_and_reads_for_anyone() {
    let database = plain_cluster().fresh_database();
    let mut owner = database.connect();
    assert_eq!(ask(&mut owner, "SELECT count(*) FROM pg_roles WHERE rolname = 'anon'"), "0");
    let reserve = format!(
        "SELECT reservation_id FROM ai_limiter.reserve_ai_usage('{}', cost_usd => 0.5)",
        id(1)
    );
    let hold = ask(&mut owner, &reserve);
    let settle =
        format!("SELECT cost_usd FROM ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.4)");
    assert_eq!(ask(&mut owner, &settle), "0.4");
    assert_eq!(outcome(&mut owner, &reserve).len(), 36);
    assert_eq!(outcome(&mut owner, &reserve), "");
    assert_eq!(
        ask(&mut owner, "SELECT sum(cost_usd) FROM ai_limiter.ai_cost_by_day"),
        "0.400000000000"
    );
    assert_eq!(drift(&mut owner), "");
}

#[test]
fn nobody_else_gets_in_without_a_grant() {
    let database = plain_cluster().fresh_database();
    let mut stranger = database.connect_as("stranger");
    for sql in [
        "SELECT ai_limiter.within_ai_limit()",
        "SELECT ai_limiter.reserve_ai_usage(cost_usd => 1)",
        "SELECT ai_limiter.ai_current_role()",
        "SELECT * FROM ai_limiter.ai_limits",
        "SELECT * FROM ai_limiter.ai_limit_status",
        "INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (1)",
    ] {
        assert_eq!(outcome(&mut stranger, sql), "42501", "{sql}");
    }
}

#[test]
fn a_role_that_may_insert_holds_acts_for_anyone() {
    let database = database_with_grants();
    let mut app = database.connect_as("app");
    assert_eq!(ask(&mut app, "SELECT ai_limiter.ai_is_server()"), "t");
    let (user, tenant) = (id(1), id(7));
    let reserve = format!(
        "SELECT reservation_id FROM ai_limiter.reserve_ai_usage('{user}', '{tenant}', cost_usd => 0.5)"
    );
    // The first reserve makes the ledger's partitions, whoever it is of.
    let hold = ask(&mut app, &reserve);
    let settle = format!("SELECT already_settled FROM ai_limiter.settle_ai_usage('{hold}')");
    assert_eq!(ask(&mut app, &settle), "f");
    let hold = ask(&mut app, &reserve);
    let extend = format!(
        "SELECT allowed, limit_name FROM ai_limiter.extend_ai_reservation('{hold}', cost_usd => 0.6)"
    );
    assert_eq!(ask(&mut app, &extend), "f|user_daily_cost");
    assert_eq!(ask(&mut app, &format!("SELECT ai_limiter.release_ai_usage('{hold}')")), "t");
    let record =
        format!("SELECT ai_limiter.record_ai_usage('{user}', '{tenant}', cost_usd => 0.1)");
    assert_eq!(ask(&mut app, &record).len(), 36);
    assert_eq!(ask(&mut app, "SELECT cost_usd FROM ai_limiter.get_ai_cost()"), "0.6");
    assert_eq!(ask(&mut app, "SELECT ai_limiter.ensure_ai_partitions()"), "0");
    assert_eq!(drift(&mut app), "");
    // Which rules there are is not its to change, nor what was recorded.
    for sql in [
        "UPDATE ai_limiter.ai_limits SET amount = 1000000",
        "DELETE FROM ai_limiter.ai_usage",
        "SELECT ai_limiter.suspend_ai('all')",
        "UPDATE ai_limiter.ai_reservations SET state = 'released'",
    ] {
        assert_eq!(outcome(&mut app, sql), "42501", "{sql}");
    }
}

#[test]
fn a_role_without_that_grant_acts_for_its_own_claims_only() {
    let database = database_with_grants();
    let mut worker = database.connect_as("worker");
    assert_eq!(ask(&mut worker, "SELECT ai_limiter.ai_is_server()"), "f");
    let reserve = "SELECT reservation_id FROM ai_limiter.reserve_ai_usage(cost_usd => 0.25)";
    let nobody = refusal(&mut worker, reserve);
    assert!(nobody.starts_with("42501"), "{nobody}");

    set_claims(&mut worker, 1);
    let own = ask(&mut worker, reserve);
    assert_eq!(own.len(), 36);
    for others in [
        format!("SELECT ai_limiter.reserve_ai_usage('{}', cost_usd => 0.1)", id(2)),
        format!("SELECT ai_limiter.reserve_ai_usage(tenant_id => '{}', cost_usd => 0.1)", id(2)),
        format!("SELECT ai_limiter.record_ai_usage('{}', cost_usd => 0.1)", id(2)),
        format!("SELECT ai_limiter.record_ai_usage('{}', '{}', cost_usd => 0.1)", id(1), id(2)),
        "SELECT ai_limiter.verify_ai_counters()".to_owned(),
        "SELECT ai_limiter.refresh_ai_counters()".to_owned(),
        "SELECT ai_limiter.ensure_ai_partitions()".to_owned(),
        "SELECT ai_limiter.get_global_ai_cost()".to_owned(),
        "SELECT ai_limiter.explain_ai_limit()".to_owned(),
    ] {
        assert_eq!(outcome(&mut worker, &others), "42501", "{others}");
    }
    // What it may not see it cannot settle: as if it were not there.
    set_claims(&mut worker, 2);
    let nil = "00000000-0000-0000-0000-000000000000";
    for act in [
        "settle_ai_usage('ID', cost_usd => 0)",
        "release_ai_usage('ID')",
        "extend_ai_reservation('ID', cost_usd => 0.3)",
    ] {
        let mut answer = |id: &str| {
            let sql = format!("SELECT ai_limiter.{}", act.replace("ID", id));
            refusal(&mut worker, &sql).replace(id, "ID")
        };
        let (others, absent) = (answer(&own), answer(nil));
        assert!(others.starts_with("42704"), "{others}");
        assert_eq!(others, absent);
    }
    set_claims(&mut worker, 1);
    let settle = format!("SELECT cost_usd FROM ai_limiter.settle_ai_usage('{own}')");
    assert_eq!(ask(&mut worker, &settle), "0.25");
    assert_eq!(drift(&mut database.connect()), "");
}

#[test]
fn a_role_that_sees_people_still_holds_for_itself_only() {
    let database = database_with_grants();
    let mut owner = database.connect();
    let account = format!(
        "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, role)
         VALUES ('{}', '{}', 'platform_admin')",
        id(1),
        id(1)
    );
    run(&mut owner, &account);
    let mut worker = database.connect_as("worker");
    set_claims(&mut worker, 1);
    let colleague = id(2);
    let check = format!("SELECT ai_limiter.within_ai_limit('{colleague}')");
    assert_eq!(ask(&mut worker, &check), "t");
    for sql in [
        format!("SELECT ai_limiter.reserve_ai_usage('{colleague}', cost_usd => 0.1)"),
        format!("SELECT ai_limiter.record_ai_usage('{colleague}', cost_usd => 0.1)"),
    ] {
        assert_eq!(outcome(&mut worker, &sql), "42501", "{sql}");
    }
}

#[test]
fn whoever_monitors_the_server_sees_all_counters_and_holds_nothing() {
    let database = plain_cluster().fresh_database();
    let mut owner = database.connect();
    let spend = format!(
        "SELECT ai_limiter.record_ai_usage('{}', '{}', cost_usd => 0.25);
         SELECT ai_limiter.reserve_ai_usage('{}', '{}', cost_usd => 0.5)",
        id(1),
        id(1),
        id(2),
        id(2)
    );
    run(&mut owner, &spend);
    let mut monitor = database.connect_as("monitor");
    let global = "SELECT used, held, amount FROM ai_limiter.ai_limit_status
        WHERE limit_name = 'global_daily_cost'";
    assert_eq!(ask(&mut monitor, global), "0.25|0.5|1000");
    let users = "SELECT count(*) FROM ai_limiter.ai_limit_status WHERE limit_name LIKE 'user%'";
    assert_eq!(ask(&mut monitor, users), "4");
    assert_eq!(ask(&mut monitor, "SELECT cost_usd FROM ai_limiter.ai_usage"), "0.250000000000");
    assert_eq!(ask(&mut monitor, "SELECT count(*) FROM ai_limiter.ai_reservations"), "1");
    for sql in [
        "SELECT ai_limiter.reserve_ai_usage(cost_usd => 0)",
        "SELECT ai_limiter.suspend_ai('all')",
        "UPDATE ai_limiter.ai_limits SET amount = 0",
        "INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (0)",
    ] {
        assert_eq!(outcome(&mut monitor, sql), "42501", "{sql}");
    }
}
