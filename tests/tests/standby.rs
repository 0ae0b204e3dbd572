//! Where nothing can be written, everything can still be asked: on a standby and in a transaction
//! that is READ ONLY.

mod people;

use ai_limiter_tests::Cluster;
use people::{ask, become_person, drift, id, outcome, refusal, run};
use postgres::Client;

/// A user (1) of tenant 1 with a charge of 0.25, a hold of 0.5 and the denial of 5 dollars.
fn fill(owner: &mut Client) {
    let account = format!("'{}', '{}'", id(1), id(1));
    run(
        owner,
        &format!(
            "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('gpt-4o', 0.01);
             INSERT INTO ai_limiter.ai_limits (name, per, metric, rolling, amount)
                VALUES ('rolling', '{{tenant}}', 'requests', '60 days', 100);
             SELECT ai_limiter.settle_ai_usage(reservation_id, cost_usd => 0.25)
                FROM ai_limiter.reserve_ai_usage({account}, cost_usd => 0.3);
             SELECT ai_limiter.record_ai_usage(model => 'gpt-4o', input_tokens => 5);
             SELECT ai_limiter.reserve_ai_usage({account}, cost_usd => 0.5, ttl => '1 day');
             SELECT ai_limiter.reserve_ai_usage({account}, cost_usd => 5)"
        ),
    );
}

/// What only reads; `A` is the account. The wait until a retry is of the moment.
const READING: [&str; 22] = [
    "SELECT to_jsonb(v) - 'retry_after' FROM ai_limiter.check_ai_limit(A, cost_usd => 0.2) v",
    "SELECT to_jsonb(v) - 'retry_after' FROM ai_limiter.check_ai_limit(A, cost_usd => 0.3) v",
    "SELECT to_jsonb(v) - 'retry_after' FROM ai_limiter.check_ai_limit(A, 'gpt-4o') v",
    "SELECT ai_limiter.within_ai_limit(A, cost_usd => 0.25)",
    "SELECT ai_limiter.within_ai_limit(A, cost_usd => 0.250000000001)",
    "SELECT ai_limiter.require_ai_limit(A, cost_usd => 0.1)",
    "SELECT ai_limiter.get_ai_limits(A)",
    "SELECT ai_limiter.explain_ai_limit(A, 'gpt-4o')",
    "SELECT ai_limiter.get_ai_cost(group_by => '{user,day}')",
    "SELECT ai_limiter.get_global_ai_cost()",
    "SELECT * FROM ai_limiter.get_ai_cost_alerts()",
    "SELECT ai_limiter.estimate_ai_cost('gpt-4o')",
    "SELECT ai_limiter.verify_ai_counters()",
    "SELECT ai_limiter.reprice_ai_usage('2020-01-01', now())",
    "SELECT * FROM ai_limiter.ai_limit_status ORDER BY 1, 2, 3",
    "SELECT * FROM ai_limiter.ai_cost_by_day",
    "SELECT * FROM ai_limiter.ai_cost_by_user",
    "SELECT * FROM ai_limiter.ai_cost_by_tenant",
    "SELECT * FROM ai_limiter.ai_cost_by_model",
    "SELECT * FROM ai_limiter.ai_cost_by_feature",
    "SELECT * FROM ai_limiter.ai_cost_focus",
    "SELECT * FROM ai_limiter.reconcile_ai_invoice(invoice => '[]')",
];

const WRITING: [&str; 11] = [
    "SELECT ai_limiter.reserve_ai_usage(A, cost_usd => 0.1)",
    "SELECT ai_limiter.reserve_ai_usage(A, cost_usd => 100)",
    "SELECT ai_limiter.record_ai_usage(A, cost_usd => 0.1)",
    "SELECT ai_limiter.settle_ai_usage(id) FROM ai_limiter.ai_reservations",
    "SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations",
    "SELECT ai_limiter.extend_ai_reservation(id, cost_usd => 0.6) FROM ai_limiter.ai_reservations",
    "SELECT ai_limiter.adjust_ai_usage(id, -0.1, 'x') FROM ai_limiter.ai_usage",
    "SELECT ai_limiter.reprice_ai_usage('2020-01-01', now(), dry_run => false)",
    "SELECT ai_limiter.refresh_ai_counters()",
    "SELECT ai_limiter.suspend_ai('all')",
    "INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (1)",
];

fn of_account(sql: &str) -> String {
    sql.replace("(A", &format!("('{}', '{}'", id(1), id(1)))
}

#[track_caller]
fn assert_only_reads(client: &mut Client, answers: &[String]) {
    for (sql, answer) in READING.iter().zip(answers) {
        assert_eq!(ask(client, &of_account(sql)), *answer, "{sql}");
    }
    for sql in WRITING {
        let refused = refusal(client, &of_account(sql));
        assert!(refused.starts_with("25006"), "{sql}: {refused}");
    }
}

#[test]
fn a_standby_answers_what_the_primary_would_and_is_exact_when_promoted() {
    let primary = Cluster::builder().supabase_roles().start();
    let database = primary.fresh_database();
    let mut owner = database.connect();
    fill(&mut owner);
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let answers: Vec<String> =
        READING.iter().map(|sql| ask(&mut owner, &of_account(sql))).collect();
    assert!(answers[0].contains(r#""held": 0.5"#), "{}", answers[0]);

    let mut reader = standby.database(database.name()).connect();
    assert_only_reads(&mut reader, &answers);
    // An outage that is to be let through is not what this is.
    run(&mut reader, "SET ai_limiter.on_error = 'allow'");
    assert_only_reads(&mut reader, &answers);

    // As whoever asks through a REST server that reads from replicas.
    become_person(&mut reader, 1, 1, None);
    let own = "SELECT used, held, remaining FROM ai_limiter.get_ai_limits()
        WHERE limit_name = 'user_daily_cost'";
    assert_eq!(ask(&mut reader, own), "0.25|0.5|0.25");
    assert_eq!(ask(&mut reader, "SELECT ai_limiter.within_ai_limit()"), "t");
    assert_eq!(ask(&mut reader, "SELECT count(*) FROM ai_limiter.ai_reservations"), "1");

    // A rule that the primary gets is the standby's at the next call.
    run(&mut owner, "UPDATE ai_limiter.ai_limits SET amount = 0.75 WHERE id = -3");
    standby.catch_up_with(&primary);
    assert_eq!(ask(&mut reader, "SELECT ai_limiter.within_ai_limit()"), "f");

    primary.stop();
    let promoted = standby.database(database.name());
    let mut owner = promoted.connect();
    assert_eq!(ask(&mut owner, "SELECT pg_promote()"), "t");
    assert_eq!(drift(&mut owner), "");
    let hold = ask(&mut owner, "SELECT id FROM ai_limiter.ai_reservations WHERE state = 'open'");
    let settle =
        format!("SELECT cost_usd FROM ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.4)");
    assert_eq!(ask(&mut owner, &settle), "0.4");
    let reserve = of_account(
        "SELECT allowed, used, held FROM ai_limiter.reserve_ai_usage(A, cost_usd => 0.1)",
    );
    assert_eq!(ask(&mut owner, &reserve), "t|0.65|0");
    assert_eq!(ask(&mut owner, &reserve), "f|0.65|0.1");
    assert_eq!(drift(&mut owner), "");
}

#[test]
fn a_read_only_transaction_asks_and_cannot_hold() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    fill(&mut client);
    let answers: Vec<String> =
        READING.iter().map(|sql| ask(&mut client, &of_account(sql))).collect();
    run(&mut client, "SET default_transaction_read_only = on");
    assert_only_reads(&mut client, &answers);
    for level in ["REPEATABLE READ", "SERIALIZABLE", "SERIALIZABLE READ ONLY DEFERRABLE"] {
        run(&mut client, &format!("BEGIN ISOLATION LEVEL {level}"));
        for (sql, answer) in READING.iter().zip(&answers) {
            assert_eq!(ask(&mut client, &of_account(sql)), *answer, "{level}: {sql}");
        }
        run(&mut client, "ROLLBACK");
    }
    run(&mut client, "SET default_transaction_read_only = off");
    assert_eq!(drift(&mut client), "");
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_denials"), "1");
}

#[test]
fn the_first_write_ever_cannot_be_made_where_nothing_can_be_written() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    run(&mut client, "SET default_transaction_read_only = on");
    // Without a partition of this month, a ledger is empty, not unreadable.
    let check = "SELECT allowed, reason, used FROM ai_limiter.check_ai_limit(cost_usd => 1)";
    assert_eq!(ask(&mut client, check), "t|ok|0");
    for sql in [
        "reserve_ai_usage(cost_usd => 1)",
        "record_ai_usage(cost_usd => 1)",
        "ensure_ai_partitions()",
    ] {
        assert_eq!(outcome(&mut client, &format!("SELECT ai_limiter.{sql}")), "25006", "{sql}");
    }
}
