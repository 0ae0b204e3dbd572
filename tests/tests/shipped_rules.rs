//! The rules that ship stay as one made them, through a dump too.

mod people;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, outcome, run};

const RULES: &str = "SELECT to_jsonb(l) FROM ai_limiter.ai_limits l ORDER BY l.id";
const TIERS: &str = "SELECT to_jsonb(t) FROM ai_limiter.ai_tiers t ORDER BY t.tier";

/// The database as a dump of it makes it anew.
fn dumped_and_restored(database: &Database) -> Database {
    let cluster = Cluster::shared();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let file = file.to_str().unwrap();
    cluster.run_ok("pg_dump", &["-f", file, database.name()]);
    let name = format!("{}_restored", database.name());
    let restored = cluster.create_database(&name);
    cluster.run_ok("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", file, &name]);
    restored
}

#[test]
fn a_database_with_nothing_but_the_extension_restores() {
    let database = Cluster::shared().fresh_database();
    let restored = dumped_and_restored(&database);
    let (mut owner, mut restored) = (database.connect(), restored.connect());
    for sql in [RULES, TIERS] {
        assert_eq!(ask(&mut restored, sql), ask(&mut owner, sql));
    }
    // Still as shipped: a second dump and an update of the extension find them so.
    let shipped = "SELECT count(*) FROM ai_limiter.ai_limits WHERE shipped";
    assert_eq!(ask(&mut restored, shipped), "7");
    run(&mut restored, "SELECT ai_limiter.reserve_ai_usage(cost_usd => 1)");
}

#[test]
fn a_shipped_rule_is_edited_and_neither_replaced_nor_deleted() {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    let same = "INSERT INTO ai_limiter.ai_limits (name, tier, per, metric, period, amount)
        VALUES ('user_daily_requests', 'free', '{user}', 'requests', 'day', 77)";
    assert_eq!(outcome(&mut owner, same), "23514");
    for delete in ["WHERE id = -4", "WHERE id < 0", ""] {
        let sql = format!("DELETE FROM ai_limiter.ai_limits {delete}");
        assert_eq!(outcome(&mut owner, &sql), "55000");
    }
    // Disabled, it makes room for a row of one's own; and both stay so.
    run(&mut owner, "UPDATE ai_limiter.ai_limits SET enabled = false WHERE id = -4");
    run(&mut owner, same);
    let restored = dumped_and_restored(&database);
    assert_eq!(ask(&mut restored.connect(), RULES), ask(&mut owner, RULES));
    run(&mut owner, "DELETE FROM ai_limiter.ai_limits WHERE amount = 77");
    let again = "UPDATE ai_limiter.ai_limits SET enabled = true WHERE id = -4 RETURNING amount";
    assert_eq!(ask(&mut owner, again), "50");
}

#[test]
fn shipped_rules_and_tiers_that_were_edited_stay_edited() {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    run(
        &mut owner,
        "UPDATE ai_limiter.ai_limits SET name = 'renamed' WHERE id = -3;
         UPDATE ai_limiter.ai_limits SET tier = 'pro', name = 'pro_gpt', model = 'gpt-4o' WHERE id = -7;
         UPDATE ai_limiter.ai_limits SET tenant_id = gen_random_uuid() WHERE id = -4;
         UPDATE ai_limiter.ai_limits SET rolling = '1 day', period = NULL WHERE id = -1;
         UPDATE ai_limiter.ai_tiers SET allowed_models = '{}' WHERE tier = 'free';
         INSERT INTO ai_limiter.ai_tiers VALUES ('team', NULL, NULL, 'ours');
         INSERT INTO ai_limiter.ai_accounts (user_id, tier) VALUES (gen_random_uuid(), 'team');
         INSERT INTO ai_limiter.ai_limits (name, tier, per, metric, period, amount)
            SELECT name, 'team', per, metric, period, amount FROM ai_limiter.ai_limits WHERE id = -6",
    );
    let restored = dumped_and_restored(&database);
    let mut restored = restored.connect();
    assert_eq!(ask(&mut restored, RULES), ask(&mut owner, RULES));
    assert_eq!(ask(&mut restored, TIERS), ask(&mut owner, TIERS));
}

/// The shipped row speaks of every model, the new one of some: the others would lose their cap.
#[test]
fn a_row_for_some_calls_of_a_tier_does_not_replace_the_rule_for_all_of_them() {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    for (column, value) in [
        ("model", "gpt-*"),
        ("provider", "openai"),
        ("feature", "chat"),
        ("api_key_id", "k"),
        ("attributes", r#"{"team": "a"}"#),
    ] {
        let sql = format!(
            "INSERT INTO ai_limiter.ai_limits (name, tier, per, period, amount, {column})
                VALUES ('user_daily_cost', 'free', '{{user}}', 'day', 5, '{value}')"
        );
        assert_eq!(outcome(&mut owner, &sql), "23514", "{column}");
        let shipped = "SELECT count(*) FROM ai_limiter.ai_limits WHERE id = -3";
        assert_eq!(ask(&mut owner, shipped), "1", "{column}");
    }
}
