//! The rules that ship give way to rows of one's own, and stay as one made them, through a dump too.

mod people;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, outcome, run};

const RULES: &str = "SELECT to_jsonb(l) FROM ai_limiter.ai_limits l ORDER BY l.id";

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
fn a_shipped_rule_that_was_replaced_does_not_come_back() {
    for after in [
        "",
        "UPDATE ai_limiter.ai_limits SET name = 'ours' WHERE amount = 77",
        "UPDATE ai_limiter.ai_limits SET tier = NULL WHERE amount = 77",
        "UPDATE ai_limiter.ai_limits SET enabled = false WHERE amount = 77",
        "DELETE FROM ai_limiter.ai_limits WHERE amount = 77",
    ] {
        let database = Cluster::shared().fresh_database();
        let mut owner = database.connect();
        run(
            &mut owner,
            "INSERT INTO ai_limiter.ai_limits (name, tier, per, metric, period, amount)
                VALUES ('user_daily_requests', 'free', '{user}', 'requests', 'day', 77)",
        );
        run(&mut owner, after);
        let restored = dumped_and_restored(&database);
        let (before, now) = (ask(&mut owner, RULES), ask(&mut restored.connect(), RULES));
        let added: Vec<&str> = now.lines().filter(|rule| !before.contains(rule)).collect();
        assert!(added.is_empty(), "{after}: {added:?}");
        assert_eq!(now, before, "{after}");
    }
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
         INSERT INTO ai_limiter.ai_limits (name, tier, per, metric, period, amount)
            SELECT name, 'team', per, metric, period, amount FROM ai_limiter.ai_limits WHERE id = -6",
    );
    let restored = dumped_and_restored(&database);
    let mut restored = restored.connect();
    assert_eq!(ask(&mut restored, RULES), ask(&mut owner, RULES));
    let tiers = "SELECT * FROM ai_limiter.ai_tiers ORDER BY 1";
    assert_eq!(ask(&mut restored, tiers), ask(&mut owner, tiers));
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
