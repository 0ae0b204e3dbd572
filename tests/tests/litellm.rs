//! LiteLLM's list of prices taken in: thousands of entries at once, two imports and calls beside each
//! other, a rollback, and rows that somebody wrote by hand.

use ai_limiter_tests::calls::{Session, assert_sound, reserve};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;
use std::time::Duration;

const ENTRIES: usize = 3_000;

/// As many entries, each at its own price: `m<n>` at `n` times `factor` dollars a million.
fn list(factor: usize) -> String {
    let entry = |n: usize| {
        let provider = if n.is_multiple_of(2) { "openai" } else { "azure" };
        let prefix = if n.is_multiple_of(2) { "" } else { "azure/" };
        format!(
            r#""{prefix}m{n}": {{"litellm_provider": "{provider}", "mode": "chat",
                "input_cost_per_token": {}e-06, "output_cost_per_token": {}e-05,
                "output_cost_per_token_flex": 1e-06}}"#,
            n * factor,
            n
        )
    };
    format!("{{{}}}", (1..=ENTRIES).map(entry).collect::<Vec<_>>().join(","))
}

fn import(list: &str) -> String {
    format!(
        "SELECT format('%s %s %s %s %s', imported, updated, unchanged, kept_manual, cardinality(gone)) \
         FROM ai_limiter.import_litellm_prices($list${list}$list$)"
    )
}

fn database() -> Database {
    let database = Cluster::shared().fresh_database();
    database.connect().run("UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE id < 0");
    database
}

/// Of a row without a name of a provider there are two: half of the entries.
const ROWS: usize = ENTRIES + ENTRIES / 2;

/// Price rows that overlap another one for the same.
fn overlaps(client: &mut Client) -> String {
    client.value(
        "SELECT count(*) FROM ai_limiter.ai_prices a JOIN ai_limiter.ai_prices b ON a.id < b.id \
         AND lower(a.model) = lower(b.model) AND lower(a.provider) IS NOT DISTINCT FROM lower(b.provider) \
         AND a.tenant_id IS NOT DISTINCT FROM b.tenant_id AND a.valid_during && b.valid_during",
    )
}

fn cost(client: &mut Client, model: &str) -> String {
    client.value(&format!(
        "SELECT trim_scale(ai_limiter.estimate_ai_cost('{model}', input_tokens => 1000000, \
         output_tokens => 0))"
    ))
}

#[test]
fn thousands_of_entries_come_in_at_once_and_again_change_nothing() {
    let database = database();
    let mut client = database.connect();
    assert_eq!(client.value(&import(&list(1))), format!("{ROWS} 0 0 0 0"));
    assert_eq!(client.value(&import(&list(1))), format!("0 0 {ROWS} 0 0"));
    assert_eq!(cost(&mut client, "m100"), "100");
    assert_eq!(client.value(&import(&list(2))), format!("0 {ROWS} 0 0 0"));
    assert_eq!(cost(&mut client, "m100"), "200");
    assert_eq!(overlaps(&mut client), "0");
    let audited =
        "SELECT count(*) FROM ai_limiter.ai_config_changes WHERE table_name = 'ai_prices'";
    assert_eq!(client.value(audited), (3 * ROWS).to_string());
}

#[test]
fn a_rollback_takes_all_of_an_import_back() {
    let database = database();
    let mut client = database.connect();
    client.run("BEGIN");
    client.run(&import(&list(1)));
    assert_eq!(cost(&mut client, "m100"), "100");
    client.run("ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_prices"), "0");
    assert_eq!(
        client.value("SELECT ai_limiter.estimate_ai_cost('m100') IS NULL"),
        "t",
        "a price that was rolled back still prices"
    );
}

#[test]
fn two_imports_and_a_row_by_hand_come_one_after_the_other() {
    let database = database();
    let mut first = database.connect();
    first.run("BEGIN");
    first.run(&import(&list(1)));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| database.connect().value(&import(&list(1))));
        let by_hand = scope.spawn(|| {
            let row = "INSERT INTO ai_limiter.ai_prices (provider, model, usd_per_request) \
                       VALUES ('OpenAI', 'm100', 1)";
            database.connect().rows(row).err().map(|error| sqlstate(&error).to_owned())
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(!second.is_finished() && !by_hand.is_finished(), "nobody waits for the import");
        first.run("COMMIT");
        assert_eq!(second.join().unwrap(), format!("0 0 {ROWS} 0 0"));
        assert_eq!(by_hand.join().unwrap().as_deref(), Some("23P01"));
    });
    assert_eq!(overlaps(&mut first), "0");
}

#[test]
fn calls_go_on_during_an_import_and_keep_the_price_of_their_time() {
    let database = database();
    let mut client = database.connect();
    client.run(&import(&list(1)));
    let call = "model => 'm100', input_tokens => 1000000, output_tokens => 0";
    let settle = |client: &mut Client, id: &str| {
        client.value(&format!(
            "SELECT trim_scale(cost_usd) FROM ai_limiter.settle_ai_usage('{id}', \
             input_tokens => 1000000, output_tokens => 0)"
        ))
    };
    let mut importing = database.connect();
    importing.run("BEGIN");
    importing.run(&import(&list(3)));
    client.run("SET statement_timeout = '5s'");
    let before = reserve(&mut client, call).id().to_owned();
    assert_eq!(settle(&mut client, &before), "100");
    importing.run("COMMIT");
    let after = reserve(&mut client, call).id().to_owned();
    assert_eq!(settle(&mut client, &after), "300");
    let costs = "SELECT string_agg(trim_scale(cost_usd)::text, ' ' ORDER BY recorded_at) \
                 FROM ai_limiter.ai_usage";
    assert_eq!(client.value(costs), "100 300");
    assert_sound(&mut client);
}

#[test]
fn a_row_by_hand_stays_as_it_is() {
    let database = database();
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_prices (provider, model, input_usd_per_million_tokens) \
         VALUES ('openai', 'M100', 7), (NULL, 'm102', 8), ('azure', 'm101', 9)",
    );
    let by_hand = "SELECT string_agg(p::text, ';' ORDER BY id) FROM ai_limiter.ai_prices p \
                   WHERE source = 'manual'";
    let before = client.value(by_hand);
    assert_eq!(client.value(&import(&list(1))), format!("{} 0 0 2 0", ROWS - 2));
    assert_eq!(client.value(&import(&list(2))), format!("0 {} 0 2 0", ROWS - 2));
    assert_eq!(client.value(by_hand), before);
    let costs = ["openai/m100", "openai/m102", "azure/m101", "m102", "m104"]
        .map(|model| cost(&mut client, model));
    assert_eq!(costs, ["7", "8", "9", "8", "208"]);
}
