//! Arguments made to break out of what they are: SQL in a dimension's name, JSON that cannot be read.

mod people;

use ai_limiter_tests::Cluster;
use people::{ask, become_person, drift, id, outcome, refusal, run};

#[test]
fn a_name_in_group_by_is_never_sql() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    let spent = format!(
        "SELECT ai_limiter.record_ai_usage('{}', '{}', cost_usd => 1),
            ai_limiter.record_ai_usage('{}', '{}', cost_usd => 987)",
        id(1),
        id(1),
        id(2),
        id(2)
    );
    run(&mut client, &spent);
    let secret = "(SELECT string_agg(cost_usd::text, ' ') FROM ai_limiter.ai_usage)";
    for strings in ["on", "off"] {
        become_person(&mut client, 1, 1, None);
        run(&mut client, &format!("SET standard_conforming_strings = {strings}"));
        for attempt in [
            format!("attribute:x'), {secret}, jsonb_build_object('y"),
            format!("attribute:x\\'), {secret}) --"),
            format!("attribute:x\\\\'), {secret}) --"),
            format!("attribute:' || {secret} || '"),
            "attribute:x' OR true --".to_owned(),
            "attribute:$1$2$5".to_owned(),
        ] {
            let name = attempt.replace('\\', "\\\\").replace('\'', "\\'");
            let sql = format!(
                "SELECT dimensions -> E'{name}', (SELECT count(*) FROM jsonb_object_keys(dimensions)),
                    cost_usd FROM ai_limiter.get_ai_cost(group_by => ARRAY[E'{name}'])"
            );
            assert_eq!(ask(&mut client, &sql), "null|1|1", "{strings}: {attempt}");
        }
        for name in ["user; DROP TABLE x", "cost_usd", "day'", "attribute:", "", "tenant_id"] {
            let name = name.replace('\'', "''");
            let sql = format!("SELECT * FROM ai_limiter.get_ai_cost(group_by => ARRAY['{name}'])");
            assert_eq!(outcome(&mut client, &sql), "22023", "{name}");
        }
        let many = "SELECT * FROM ai_limiter.get_ai_cost(group_by =>
            (SELECT array_agg('attribute:' || i) FROM generate_series(1, 60) i))";
        assert_eq!(outcome(&mut client, many), "22023");
        let zone = "SELECT * FROM ai_limiter.get_ai_cost(timezone => 'UTC'' || x')";
        assert_eq!(outcome(&mut client, zone), "22023");
        run(&mut client, "RESET ROLE; SET standard_conforming_strings = on");
    }
}

#[test]
fn text_of_any_kind_stays_what_it_is() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    run(
        &mut client,
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) VALUES
            ('odd \"name''s\\', ARRAY['feature', 'run', 'api_key_id', 'attribute:a\"b''c\\'], 'requests', 'total', 2)",
    );
    // Parts of a counter's name must not run into each other: each of these is a subject of its own.
    let odd =
        ["x'y", "x\\", "x\"", "x=1, run=2", "x/y", "x, attribute:a=1", "%", "_", "ünïcode 🦀"];
    for feature in odd {
        for run_id in odd {
            let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
            let attributes = format!(
                "jsonb_build_object('a\"b''c\\', {}::text)",
                quoted(if feature == run_id { "same" } else { feature })
            );
            let reserve = format!(
                "SELECT allowed, coalesce(used, 0) + coalesce(held, 0) FROM ai_limiter.reserve_ai_usage(
                    cost_usd => 0, feature => {}, run_id => {}, api_key_id => 'k', attributes => {attributes})",
                quoted(feature),
                quoted(run_id)
            );
            for before in ["t|0", "t|1", "f|2"] {
                assert_eq!(ask(&mut client, &reserve), before, "{feature} {run_id}");
            }
        }
    }
    assert_eq!(drift(&mut client), "");
    let counters = "SELECT count(DISTINCT subject), min(held), max(held)
        FROM ai_limiter.verify_ai_counters() WHERE limit_name LIKE 'odd%'";
    assert_eq!(ask(&mut client, counters), "81|2|2");
}

#[test]
fn json_that_cannot_be_read_is_the_callers_mistake() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    run(&mut client, "SELECT ai_limiter.ensure_ai_partitions()");
    run(
        &mut client,
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('m', 0.01);
         SET ai_limiter.on_error = 'allow'",
    );
    let nested = |depth: usize| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    for json in [r#"{"a": 1e400}"#.to_owned(), nested(200), nested(5000)] {
        for sql in [
            "SELECT ai_limiter.check_ai_limit(attributes => 'JSON')",
            "SELECT ai_limiter.within_ai_limit(attributes => 'JSON')",
            "SELECT ai_limiter.reserve_ai_usage(attributes => 'JSON', cost_usd => 1)",
            "SELECT ai_limiter.record_ai_usage(attributes => 'JSON', cost_usd => 1)",
            "INSERT INTO ai_limiter.ai_usage (attributes, cost_usd) VALUES ('JSON', 1)",
            "INSERT INTO ai_limiter.ai_limits (name, period, amount, attributes)
                VALUES ('n', 'day', 1, 'JSON')",
        ] {
            let refused = refusal(&mut client, &sql.replace("JSON", &json));
            assert!(refused.starts_with("22023"), "{sql}: {refused}");
        }
    }
    for usage in
        [r#"{"input_tokens": 1e400}"#, r#"{"input_tokens": "7"}"#, r#"{"input_tokens": []}"#]
    {
        let sql = format!("SELECT ai_limiter.estimate_ai_cost('m', usage => '{usage}')");
        let code = outcome(&mut client, &sql);
        assert!(["22003", "22023"].contains(&code.as_str()), "{usage}: {code}");
    }
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_usage"), "0");
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_reservations"), "0");
    // Such a usage object cannot settle a call; its tokens still can, and nothing is lost meanwhile.
    for other in ["1e400".to_owned(), nested(200)] {
        let reserve = "SELECT reservation_id FROM ai_limiter.reserve_ai_usage(model => 'm')";
        let hold = ask(&mut client, reserve);
        let usage = format!(r#"{{"input_tokens": 5, "output_tokens": 6, "other": {other}}}"#);
        let settle = format!("SELECT ai_limiter.settle_ai_usage('{hold}', '{usage}')");
        assert_eq!(outcome(&mut client, &settle), "22023", "{other:.40}");
        let settle = format!(
            "SELECT already_settled FROM ai_limiter.settle_ai_usage('{hold}', input_tokens => 5)"
        );
        assert_eq!(ask(&mut client, &settle), "f");
    }
    assert_eq!(ask(&mut client, "SELECT sum(input_tokens) FROM ai_limiter.ai_usage"), "10");
}
