//! What a call costs: the provider's response in, exact money and its line items out, whichever session
//! prices it and whatever becomes of the transaction.

use ai_limiter_tests::calls::{LEVELS, Session, assert_sound, explained, reserve};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;

/// A database whose shipped caps are out of the way of single dollars.
fn database() -> Database {
    let database = Cluster::shared().fresh_database();
    database.connect().run("UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE id < 0");
    database
}

/// OpenAI: 1,000 input tokens, 400 of them cached, and 200 output tokens, 50 of them reasoning.
const CHAT: &str = r#"{"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06",
    "choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 50}}}"#;

/// 600 x 2.5 + 400 x 1.25 + 200 x 10 dollars a million.
const CHAT_COST: &str = "0.004";

fn settle(session: &mut impl Session, id: &str, arguments: &str) -> String {
    session.value(&format!(
        "SELECT trim_scale(cost_usd) FROM ai_limiter.settle_ai_usage('{id}', {arguments})"
    ))
}

fn hold(session: &mut impl Session) -> String {
    reserve(session, "model => 'gpt-4o', input_tokens => 1000, output_tokens => 500")
        .id()
        .to_owned()
}

/// Cost, list cost and charge of the newest row.
fn amounts(session: &mut impl Session) -> String {
    session.value(
        "SELECT format('%s %s %s %s', trim_scale(cost_usd), trim_scale(list_cost_usd), \
         trim_scale(charge_usd), price_source) FROM ai_limiter.ai_usage ORDER BY recorded_at DESC LIMIT 1",
    )
}

fn line_items(session: &mut impl Session) -> String {
    session.value(
        "SELECT string_agg(format('%s %s x %s = %s', class, quantity, trim_scale(unit_price_usd), \
         trim_scale(cost_usd)), ', ' ORDER BY class) FROM ai_limiter.ai_usage_line_items",
    )
}

#[track_caller]
fn assert_items_add_up(session: &mut impl Session) {
    let wrong = session.value(
        "SELECT count(*) FROM ai_limiter.ai_usage u WHERE cost_usd <> (SELECT sum(i.cost_usd) \
         FROM ai_limiter.ai_usage_line_items i WHERE i.usage_id = u.id)",
    );
    assert_eq!(wrong, "0", "line items do not add up to their row");
}

#[test]
fn the_response_is_all_that_a_settle_needs() {
    let database = database();
    let mut client = database.connect();
    let id = hold(&mut client);
    assert_eq!(settle(&mut client, &id, &format!("usage => '{CHAT}'")), CHAT_COST);
    assert_eq!(
        line_items(&mut client),
        "cache_read_tokens 400 x 0.00000125 = 0.0005, input_tokens 600 x 0.0000025 = 0.0015, \
         output_tokens 200 x 0.00001 = 0.002"
    );
    let row = "SELECT format('%s %s %s %s', model, response_model, input_tokens, output_tokens) \
               FROM ai_limiter.ai_usage";
    assert_eq!(client.value(row), "gpt-4o gpt-4o-2024-08-06 1000 200");
    assert_eq!(amounts(&mut client), format!("{CHAT_COST} {CHAT_COST} {CHAT_COST} catalog"));
    // Sent again with something else it is what it was.
    assert_eq!(settle(&mut client, &id, "usage => '{\"prompt_tokens\": 1}'"), CHAT_COST);
    assert_items_add_up(&mut client);
    assert_sound(&mut client);
}

#[test]
fn a_response_can_be_recorded_without_saying_anything_else() {
    let database = database();
    let mut client = database.connect();
    client.run(&format!("SELECT ai_limiter.record_ai_usage(usage => '{CHAT}')"));
    assert_eq!(amounts(&mut client), format!("{CHAT_COST} {CHAT_COST} {CHAT_COST} catalog"));
    assert_eq!(client.value("SELECT model FROM ai_limiter.ai_usage"), "gpt-4o");
    assert_items_add_up(&mut client);
}

#[test]
fn what_cannot_be_read_leaves_the_hold_open_and_books_nothing() {
    let database = database();
    let mut client = database.connect();
    let id = hold(&mut client);
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let large = format!("{{\"text\": \"{}\"}}", "x".repeat(10_000_000));
    let bad = [
        "[7]",
        "7",
        "\"usage\"",
        r#"{"prompt_tokens": -1}"#,
        r#"{"prompt_tokens": "12"}"#,
        r#"{"prompt_tokens": 1.5}"#,
        r#"{"prompt_tokens": 1e300}"#,
        r#"{"prompt_tokens": 99999999999999999999999999}"#,
        r#"{"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}"#,
        r#"{"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 2}}"#,
        r#"{"who": "knows"}"#,
        &deep,
        &large,
    ];
    for usage in bad {
        let told = format!("SELECT ai_limiter.settle_ai_usage('{id}', usage => '{usage}')");
        let shown = &usage[..usage.len().min(80)];
        let error = client.rows(&told).err().unwrap_or_else(|| panic!("taken: {shown}"));
        let code = sqlstate(&error);
        assert!(["22023", "22003"].contains(&code), "{shown}: {}", explained(&error));
    }
    let books = "SELECT format('%s %s', (SELECT count(*) FROM ai_limiter.ai_reservations \
                 WHERE state = 'open'), (SELECT count(*) FROM ai_limiter.ai_usage))";
    assert_eq!(client.value(books), "1 0");
    assert_eq!(settle(&mut client, &id, &format!("usage => '{CHAT}'")), CHAT_COST);
    assert_sound(&mut client);
}

#[test]
fn an_interrupted_stream_settles_with_what_is_known() {
    let database = database();
    let mut client = database.connect();
    let start = r#"{"type": "message_start", "message": {"model": "claude-sonnet-4-5",
        "usage": {"input_tokens": 1000, "cache_read_input_tokens": 0, "output_tokens": 1}}}"#;
    let id = reserve(
        &mut client,
        "model => 'claude-sonnet-4-5', input_tokens => 900, output_tokens => 500",
    );
    // 1,000 x 3 + 1 x 15 dollars a million.
    assert_eq!(settle(&mut client, id.id(), &format!("usage => '{start}'")), "0.003015");
    // Nothing is known: what was held.
    let id = hold(&mut client);
    let held = "SELECT trim_scale(cost_usd) FROM ai_limiter.ai_reservations";
    let held = client.value(held);
    assert_eq!(settle(&mut client, &id, r#"usage => '{"usage": null}'"#), held);
    assert_items_add_up(&mut client);
}

#[test]
fn three_amounts_are_kept_apart() {
    let database = database();
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_tenants (tenant_id, name, markup_factor) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'acme', 1.5); \
         INSERT INTO ai_limiter.ai_prices (model, discount_factor) VALUES ('gpt-4o', 0.75)",
    );
    let record = |client: &mut Client, tenant: &str| {
        client.run(&format!("SELECT ai_limiter.record_ai_usage({tenant} usage => '{CHAT}')"));
        amounts(client)
    };
    let acme = "tenant_id => '00000000-0000-4000-8000-000000000001',";
    assert_eq!(record(&mut client, ""), "0.003 0.004 0.003 catalog");
    assert_eq!(record(&mut client, acme), "0.003 0.004 0.0045 catalog");
    // A row with a price of its own: the discount of the first that matches, the price of the first that has one.
    client.run(
        "INSERT INTO ai_limiter.ai_prices (tenant_id, model, input_usd_per_million_tokens, \
         output_usd_per_million_tokens, unit_prices, markup_factor) \
         VALUES ('00000000-0000-4000-8000-000000000001', 'gpt-*', 2, 8, '{\"cache_read_mtok\": 1}', 2)",
    );
    // 600 x 2 + 400 x 1 + 200 x 8.
    assert_eq!(record(&mut client, acme), "0.0032 0.004 0.0064 ai_prices");
    // Limits count what is paid; a cost that is told is what is paid.
    client.run(
        "SELECT ai_limiter.record_ai_usage(tenant_id => '00000000-0000-4000-8000-000000000001', \
         model => 'gpt-4o', cost_usd => 1)",
    );
    assert_eq!(amounts(&mut client), "1 1 2 caller");
    client.run("INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (0.5)");
    assert_eq!(amounts(&mut client), "0.5 0.5 0.5 caller");
    let (sum, list) = ("0.003 + 0.003 + 0.0032 + 1 + 0.5", "0.004 * 3 + 1 + 0.5");
    let sums = format!(
        "SELECT sum(cost_usd) = {sum}, sum(list_cost_usd) = {list} FROM ai_limiter.ai_usage"
    );
    let row = &client.rows(&sums).unwrap()[0];
    assert_eq!((row.get(0), row.get(1)), (Some("t"), Some("t")));
    assert_items_add_up(&mut client);
    assert_sound(&mut client);
}

/// The smallest catalogue in which `gpt-4o` costs so much a million input tokens.
fn catalog(price: &str) -> String {
    format!(
        r#"[{{"id": "openai", "name": "OpenAI", "api_pattern": "https://api\\.openai\\.com",
            "model_match": {{"starts_with": "gpt-"}}, "models": [{{"id": "gpt-4o",
            "match": {{"starts_with": "gpt-4o"}}, "prices": {{"input_mtok": {price}, "output_mtok": 0}}}}]}}]"#
    )
}

fn load(session: &mut impl Session, price: &str) {
    session.run(&format!(
        "SELECT * FROM ai_limiter.load_ai_price_catalog($catalog${}$catalog$)",
        catalog(price)
    ));
}

/// What a million input tokens are estimated at.
fn estimate(session: &mut impl Session) -> String {
    session.value(
        "SELECT trim_scale(estimated_cost_usd) FROM ai_limiter.check_ai_limit(model => 'gpt-4o', \
         input_tokens => 1000000, output_tokens => 0)",
    )
}

#[test]
fn a_catalogue_that_is_loaded_prices_in_every_session_from_its_commit_on() {
    for level in LEVELS {
        let database = database();
        let (mut loader, mut other) = (database.connect(), database.connect());
        assert_eq!(estimate(&mut other), "2.5");
        let mut old = database.connect();
        let mut old = old.build_transaction().isolation_level(level).start().unwrap();
        assert_eq!(estimate(&mut old), "2.5");
        let mut open = loader.transaction().unwrap();
        load(&mut open, "7");
        assert_eq!(estimate(&mut open), "7", "the loader's own transaction");
        assert_eq!(estimate(&mut other), "2.5", "not committed");
        open.rollback().unwrap();
        assert_eq!(estimate(&mut loader), "2.5", "rolled back");
        load(&mut loader, "8");
        for session in [&mut loader, &mut other, &mut database.connect()] {
            assert_eq!(estimate(session), "8");
        }
        // What decides is read as it is now, under any snapshot.
        assert_eq!(estimate(&mut old), "8", "at {level:?}");
        load(&mut other, "9");
        assert_eq!(estimate(&mut loader), "9");
        loader.run("DELETE FROM ai_limiter.ai_price_catalogs WHERE id = (SELECT max(id) FROM ai_limiter.ai_price_catalogs)");
        assert_eq!(estimate(&mut other), "8", "back to the one before");
    }
}

#[test]
fn a_catalogue_with_anything_wrong_is_not_taken() {
    let database = database();
    let mut client = database.connect();
    load(&mut client, "8");
    for wrong in [
        "{}",
        "[]",
        "null",
        "[7]",
        &catalog("-1"),
        &catalog("\"8\""),
        &catalog("[]"),
        &catalog("8").replace("api_pattern", "pattern"),
        &catalog("8").replace("starts_with", "sounds_like"),
        &catalog("8").replace("https://api", "(https://api"),
    ] {
        let load = format!("SELECT ai_limiter.load_ai_price_catalog($catalog${wrong}$catalog$)");
        let error = client.rows(&load).err().unwrap_or_else(|| panic!("taken: {wrong}"));
        assert!(["22023", "22004"].contains(&sqlstate(&error)), "{}", explained(&error));
        assert_eq!(estimate(&mut client), "8", "after {wrong}");
    }
    let row = "SELECT format('%s %s %s', count(*), min(models), bool_and(loaded_by = session_user)) \
               FROM ai_limiter.ai_price_catalogs";
    assert_eq!(client.value(row), "1 1 t");
}

#[test]
fn the_price_of_the_call_s_own_time_counts_whenever_it_is_settled() {
    let database = database();
    let mut client = database.connect();
    let id = hold(&mut client);
    client.run(
        "INSERT INTO ai_limiter.ai_prices (model, input_usd_per_million_tokens, valid_during) \
         VALUES ('gpt-4o', 100, tstzrange(clock_timestamp(), NULL))",
    );
    assert_eq!(settle(&mut client, &id, &format!("usage => '{CHAT}'")), CHAT_COST);
    let id = hold(&mut client);
    assert_eq!(settle(&mut client, &id, &format!("usage => '{CHAT}'")), "0.1");
}

#[test]
fn what_a_price_depends_on_is_taken_from_the_response() {
    let database = database();
    let mut client = database.connect();
    let flex = CHAT.replace("gpt-4o-2024-08-06", "o3").replace(
        r#""object": "chat.completion","#,
        r#""object": "chat.completion", "service_tier": "flex","#,
    );
    client.run(&format!("SELECT ai_limiter.record_ai_usage(usage => '{flex}')"));
    client.run(&format!(
        "SELECT ai_limiter.record_ai_usage(usage => '{}')",
        flex.replace("flex", "default")
    ));
    let context = "SELECT string_agg(price_context ->> 'service_tier', ' ' ORDER BY cost_usd) \
                   FROM ai_limiter.ai_usage";
    assert_eq!(client.value(context), "flex default");
    assert_eq!(
        client.value("SELECT min(cost_usd) = max(cost_usd) / 2 FROM ai_limiter.ai_usage"),
        "t"
    );
    assert_items_add_up(&mut client);
}

#[test]
fn what_has_no_price_is_shown_and_not_hidden() {
    let database = database();
    let mut client = database.connect();
    load(&mut client, "8");
    let searched = r#"{"usage": {"prompt_tokens": 1000000, "completion_tokens": 0},
        "model": "gpt-4o", "object": "chat.completion", "choices": []}"#;
    client.run(&format!("SELECT ai_limiter.record_ai_usage(usage => '{searched}')"));
    assert_eq!(line_items(&mut client), "input_tokens 1000000 x 0.000008 = 8");
    let audio = r#"{"usage": {"type": "duration", "seconds": 30}, "text": "hello"}"#;
    let record = |cost: &str| {
        format!("SELECT ai_limiter.record_ai_usage(model => 'gpt-4o', usage => '{audio}' {cost})")
    };
    // Nothing of it has a price: it is not free.
    let refused = client.rows(&record("")).unwrap_err();
    assert_eq!(sqlstate(&refused), "22023");
    client.run(&record(", cost_usd => 0.003"));
    let searched = r#"{"usage": {"input_tokens": 1000000, "output_tokens": 0,
        "server_tool_use": {"web_search_requests": 2}}, "type": "message", "model": "gpt-4o"}"#;
    client.run(&format!("SELECT ai_limiter.record_ai_usage(usage => '{searched}')"));
    let unpriced = "SELECT string_agg(format('%s %s', class, quantity), ', ') \
                    FROM ai_limiter.ai_usage_line_items WHERE price_source = 'unpriced'";
    assert_eq!(client.value(unpriced), "web_searches 2");
    // Where the provider tells the whole, that is what is paid.
    let told = r#"{"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12,
        "cost": 0.5}, "model": "some/new-model", "object": "chat.completion", "choices": []}"#;
    client.run(&format!("SELECT ai_limiter.record_ai_usage(usage => '{told}')"));
    assert_eq!(amounts(&mut client), "0.5 0.5 0.5 provider");
}

#[test]
fn a_response_that_names_its_deployment_has_the_price_of_what_was_asked_for() {
    let database = database();
    let mut client = database.connect();
    let deployed = CHAT.replace("gpt-4o-2024-08-06", "our-deployment-7");
    let id = hold(&mut client);
    assert_eq!(settle(&mut client, &id, &format!("usage => '{deployed}'")), CHAT_COST);
    let row = "SELECT format('%s %s %s', response_model, price_source, price_context ->> 'model') \
               FROM ai_limiter.ai_usage";
    assert_eq!(client.value(row), "our-deployment-7 catalog gpt-4o");
    client.run(&format!(
        "SELECT ai_limiter.record_ai_usage(model => 'gpt-4o-2024-05-13', usage => '{deployed}')"
    ));
    // Its own, at 5 and 15 dollars, and the name that was priced is kept.
    assert_eq!(amounts(&mut client), "0.008 0.008 0.008 catalog");
    let priced = "SELECT price_context ->> 'model' FROM ai_limiter.ai_usage WHERE cost_usd = 0.008";
    assert_eq!(client.value(priced), "gpt-4o-2024-05-13");
    let again =
        "SELECT difference_usd FROM ai_limiter.reprice_ai_usage('2020-01-01', now() + '1 s')";
    assert_eq!(client.value(&format!("SELECT sum(difference_usd) = 0 FROM ({again}) d")), "t");
    // What the caller says goes before.
    let id = hold(&mut client);
    let told = format!("usage => '{deployed}', model => 'nobody-knows'");
    let held = client.value("SELECT trim_scale(cost_usd) FROM ai_limiter.ai_reservations");
    assert_eq!(settle(&mut client, &id, &told), held);
}

#[test]
fn a_cost_that_is_told_is_booked_whatever_the_price_list_would_make_of_it() {
    let database = database();
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_prices (model, input_usd_per_million_tokens) VALUES ('acme-1', 90000000)",
    );
    let id = reserve(&mut client, "model => 'acme-1', cost_usd => 1").id().to_owned();
    let told = "cost_usd => 5, input_tokens => 2000000";
    assert_eq!(settle(&mut client, &id, told), "5");
    assert_eq!(amounts(&mut client), "5 5 5 caller");
    client.run(&format!("SELECT ai_limiter.record_ai_usage(model => 'acme-1', {told})"));
    assert_items_add_up(&mut client);
    let unknown = "SELECT ai_limiter.record_ai_usage(model => 'acme-1', input_tokens => 2000000)";
    assert_eq!(sqlstate(&client.rows(unknown).unwrap_err()), "22003", "no cost is told");
    // Also where another model has answered.
    let answer = r#"usage => '{"object": "chat.completion", "model": "acme-1",
        "usage": {"prompt_tokens": 2000000, "completion_tokens": 1}}'"#;
    let id = hold(&mut client);
    assert_eq!(settle(&mut client, &id, &format!("cost_usd => 5, {answer}")), "5");
    assert_eq!(amounts(&mut client), "5 5 5 caller");
}
