//! Whatever is edited, usage stays: a rule counts what the ledger already holds for its window.

use ai_limiter_tests::calls::{
    Session, assert_no_drift, assert_sound, disable_shipped_limits, reserve, try_extend,
};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";
const USER: &str = "00000000-0000-0000-0000-000000000001";

fn database() -> Database {
    let database = Cluster::shared().fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    database
}

/// Books cents of the user at so many minutes before now.
fn record(client: &mut Client, cents: i32, minutes_ago: i32) {
    client.run(&format!(
        "SELECT ai_limiter.record_ai_usage(user_id => '{USER}', tenant_id => '{TENANT}', \
         cost_usd => {cents} * 0.01, created_at => now() - interval '{minutes_ago} minutes')"
    ));
}

/// What the rule counts for the user, in cents, as a verdict says it.
fn counted(client: &mut Client, rule: &str) -> String {
    let counted = client.value(&format!(
        "SELECT coalesce((used + held) * 100, -1)::int FROM ai_limiter.get_ai_limits('{USER}', \
         '{TENANT}') WHERE limit_name = '{rule}'"
    ));
    assert_no_drift(client);
    counted
}

fn edit(client: &mut Client, set: &str) {
    client.run(&format!("UPDATE ai_limiter.ai_limits SET {set} WHERE name = 'cost'"));
}

fn add_cost_rule(client: &mut Client, per: &str, period: &str) {
    client.run(&format!(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) \
         VALUES ('cost', '{per}', 'cost_usd', '{period}', 1)"
    ));
}

/// A zone in which it is now between `hour` o'clock and the next full hour.
fn zone_where_it_is(client: &mut Client, hour: i32) -> String {
    // The names count westwards: Etc/GMT-5 is five hours ahead of UTC.
    client.value(&format!(
        "SELECT 'Etc/GMT' || to_char(-((({hour} - extract(hour FROM now() AT TIME ZONE 'UTC')::int \
         + 36) % 24) - 12), 'FMSG99') FROM (SELECT 1) one"
    ))
}

#[test]
fn a_new_rule_counts_what_was_spent_and_held_before_it() {
    let database = database();
    let mut client = database.connect();
    record(&mut client, 30, 0);
    let call = format!("user_id => '{USER}', tenant_id => '{TENANT}'");
    assert!(reserve(&mut client, &format!("{call}, cost_usd => 0.3")).allowed);
    client.run(&format!(
        "INSERT INTO ai_limiter.ai_usage (user_id, tenant_id, cost_usd) \
         VALUES ('{USER}', '{TENANT}', 0.2)"
    ));
    add_cost_rule(&mut client, "{user}", "total");
    assert_eq!(counted(&mut client, "cost"), "80");
    assert!(!reserve(&mut client, &format!("{call}, cost_usd => 0.21")).allowed);
    assert!(reserve(&mut client, &format!("{call}, cost_usd => 0.2")).allowed);
    assert_sound(&mut client);
}

#[test]
fn a_rule_that_was_disabled_counts_what_came_meanwhile() {
    let database = database();
    let mut client = database.connect();
    add_cost_rule(&mut client, "{user}", "total");
    record(&mut client, 40, 0);
    edit(&mut client, "enabled = false");
    record(&mut client, 50, 0);
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.verify_ai_counters()"), "0");
    edit(&mut client, "enabled = true");
    assert_eq!(counted(&mut client, "cost"), "90");
    client.run("DELETE FROM ai_limiter.ai_limits WHERE name = 'cost'");
    add_cost_rule(&mut client, "{tenant}", "total");
    assert_eq!(counted(&mut client, "cost"), "90");
}

#[test]
fn an_edited_rule_counts_what_its_new_shape_covers() {
    let database = database();
    let mut client = database.connect();
    add_cost_rule(&mut client, "{user}", "total");
    record(&mut client, 1, 0);
    record(&mut client, 10, 30);
    record(&mut client, 20, 150);
    record(&mut client, 40, 60 * 24 * 40);
    for (set, cents) in [
        ("period = NULL, rolling = '1 hour'", "11"),
        ("rolling = '3 hours'", "31"),
        ("rolling = '60 days'", "71"),
        ("rolling = NULL, period = 'total'", "71"),
        ("per = '{tenant}'", "71"),
        ("per = '{}'", "71"),
        ("feature = 'chat'", "-"),
        ("feature = NULL", "71"),
        ("amount = 5, action = 'warn'", "71"),
    ] {
        edit(&mut client, set);
        // A rule that speaks of a feature is none of the user's whatever he calls.
        if cents != "-" {
            assert_eq!(counted(&mut client, "cost"), cents, "after {set}");
        }
    }
    edit(&mut client, "metric = 'requests', amount = 4");
    assert_eq!(counted(&mut client, "cost"), "400");
}

#[test]
fn a_zone_moves_the_window_and_never_the_usage() {
    for (per, zone_of) in [
        ("{user}", "ai_accounts"),
        ("{user}", "ai_tenants"),
        ("{tenant}", "ai_tenants"),
        ("{}", "the zero tenant"),
    ] {
        let database = database();
        let mut client = database.connect();
        client.run(&format!(
            "INSERT INTO ai_limiter.ai_tenants (tenant_id) VALUES ('{TENANT}'), \
             ('00000000-0000-0000-0000-000000000000'); \
             INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id) VALUES ('{TENANT}', '{USER}')"
        ));
        record(&mut client, 10, 0);
        record(&mut client, 20, 150);
        add_cost_rule(&mut client, per, "day");
        let move_to = |client: &mut Client, hour| {
            let zone = zone_where_it_is(client, hour);
            let set = format!("SET timezone = '{zone}' WHERE tenant_id");
            client.run(&match zone_of {
                "ai_accounts" => format!("UPDATE ai_limiter.ai_accounts {set} = '{TENANT}'"),
                "ai_tenants" => format!("UPDATE ai_limiter.ai_tenants {set} = '{TENANT}'"),
                _ => format!("UPDATE ai_limiter.ai_tenants {set} <> '{TENANT}'"),
            });
        };
        // At noon the day has both calls; at one in the morning the earlier one was yesterday.
        for (hour, cents) in [(12, "30"), (1, "10"), (20, "30"), (1, "10"), (12, "30")] {
            move_to(&mut client, hour);
            assert_eq!(counted(&mut client, "cost"), cents, "{per} at {hour} by {zone_of}");
        }
        let call = format!("user_id => '{USER}', tenant_id => '{TENANT}', cost_usd => 0.71");
        assert!(!reserve(&mut client, &call).allowed);
        move_to(&mut client, 1);
        assert!(reserve(&mut client, &call).allowed);
        assert_no_drift(&mut client);
    }
}

#[test]
fn a_call_stays_in_the_tier_that_it_was_made_in() {
    let database = database();
    let mut client = database.connect();
    client.run(&format!(
        "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id) VALUES ('{TENANT}', '{USER}'); \
         UPDATE ai_limiter.ai_limits SET enabled = true WHERE id IN (-3, -5)"
    ));
    let call = format!("user_id => '{USER}', tenant_id => '{TENANT}'");
    record(&mut client, 40, 0);
    let hold = reserve(&mut client, &format!("{call}, cost_usd => 0.5")).id().to_owned();
    let to_tier = |client: &mut Client, tier| {
        client.run(&format!("UPDATE ai_limiter.ai_accounts SET tier = '{tier}'"));
    };
    to_tier(&mut client, "pro");
    assert_eq!(counted(&mut client, "user_daily_cost"), "0");
    assert!(reserve(&mut client, &format!("{call}, cost_usd => 2")).allowed);
    assert_eq!(counted(&mut client, "user_daily_cost"), "200");
    // What was held before still belongs to the tier free: extended, and when it is settled.
    assert!(!try_extend(&mut client, &hold, "cost_usd => 0.61").unwrap().allowed);
    assert!(try_extend(&mut client, &hold, "cost_usd => 0.6").unwrap().allowed);
    client.run(&format!("SELECT ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.55)"));
    to_tier(&mut client, "free");
    assert_eq!(counted(&mut client, "user_daily_cost"), "95");
    assert!(!reserve(&mut client, &format!("{call}, cost_usd => 0.06")).allowed);
    to_tier(&mut client, "pro");
    assert_eq!(counted(&mut client, "user_daily_cost"), "200");
    assert_sound(&mut client);
}

#[test]
fn a_row_that_replaces_another_counts_its_own_calls_and_the_other_forgets_none() {
    let database = database();
    let mut client = database.connect();
    add_cost_rule(&mut client, "{user}", "total");
    record(&mut client, 60, 0);
    // More specific, and so in place of the first for this tenant's calls, past ones included.
    client.run(&format!(
        "INSERT INTO ai_limiter.ai_limits (name, tenant_id, per, metric, period, amount) \
         VALUES ('cost', '{TENANT}', '{{user}}', 'cost_usd', 'total', 0.7)"
    ));
    assert_eq!(counted(&mut client, "cost"), "60");
    let call = format!("user_id => '{USER}', tenant_id => '{TENANT}', cost_usd => 0.2");
    assert!(!reserve(&mut client, &call).allowed);
    client.run("DELETE FROM ai_limiter.ai_limits WHERE name = 'cost' AND tenant_id IS NOT NULL");
    assert_eq!(counted(&mut client, "cost"), "60");
    assert!(reserve(&mut client, &call).allowed);
    assert_sound(&mut client);
}
