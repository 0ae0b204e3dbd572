//! What a call is held for: what such calls have returned, never more than its maximum, and the maximum
//! while nothing is known yet. On both paths.

mod people;
mod taught;
mod workers;

use ai_limiter_tests::calls::{Session, assert_sound, reserve, try_extend, wait_until};
use ai_limiter_tests::waiting::Path;
use people::{become_person, id};
use taught::{admit, book, database_with_ten_dollars, learn, newest_hold, taught};
use workers::server_with_worker;

#[test]
fn a_hold_is_for_what_such_calls_return_and_keeps_the_callers_maximum() {
    for path in Path::BOTH {
        let database = taught(path);
        let mut client = database.connect();
        reserve(&mut client, "model => 'm', output_tokens => 50");
        assert_eq!(newest_hold(&mut client), "10 1 of 50 5", "{path:?}");
        reserve(&mut client, "model => 'm', output_tokens => 4");
        assert_eq!(newest_hold(&mut client), "4 0.4 of 4 0.4", "{path:?}");
        reserve(&mut client, "model => 'm'");
        assert_eq!(newest_hold(&mut client), "10 1 of ? ?", "{path:?}");
        reserve(&mut client, "model => 'm', requests => 2, output_tokens => 30");
        assert_eq!(newest_hold(&mut client), "20 2 of 30 3", "{path:?}");
        assert_sound(&mut client);
    }
}

#[test]
fn the_maximum_is_held_while_too_few_calls_are_known() {
    for path in Path::BOTH {
        let database = database_with_ten_dollars(path.cluster());
        let mut client = database.connect();
        book(&mut client, 99, 10, "");
        assert_eq!(learn(&mut client), 99);
        reserve(&mut client, "model => 'm', output_tokens => 50");
        assert_eq!(newest_hold(&mut client), "50 5 of 50 5", "{path:?}");
        book(&mut client, 1, 10, "");
        assert_eq!((learn(&mut client), learn(&mut client)), (1, 0), "each call teaches once");
        let mut later = database.connect();
        reserve(&mut later, "model => 'm', output_tokens => 25");
        assert_eq!(newest_hold(&mut later), "10 1 of 25 2.5", "{path:?}");
    }
}

#[test]
fn a_feature_is_known_by_its_own_calls_once_it_has_enough() {
    let database = taught(Path::Memory);
    let mut client = database.connect();
    book(&mut client, 100, 2, ", feature => 'title'");
    book(&mut client, 99, 3, ", feature => 'rare'");
    learn(&mut client);
    for (feature, expected) in [("title", "2 learned_of_feature"), ("rare", "10 learned_of_model")]
    {
        let said = client.value(&format!(
            "SELECT concat_ws(' ', output_tokens, basis) \
             FROM ai_limiter.explain_ai_cost_estimate('m', output_tokens => 50, feature => '{feature}')"
        ));
        assert_eq!(said, expected);
        reserve(&mut client, &format!("model => 'm', output_tokens => 15, feature => '{feature}'"));
        assert!(newest_hold(&mut client).starts_with(expected.split(' ').next().unwrap()));
    }
}

#[test]
fn no_call_is_held_for_more_than_its_model_returns() {
    let database = taught(Path::Memory);
    let mut client = database.connect();
    client.run("UPDATE ai_limiter.ai_prices SET max_output_tokens = 12");
    reserve(&mut client, "model => 'm'");
    assert_eq!(newest_hold(&mut client), "10 1 of 12 1.2");
    client.run("UPDATE ai_limiter.ai_prices SET max_output_tokens = 7");
    reserve(&mut client, "model => 'm', output_tokens => 1000");
    assert_eq!(newest_hold(&mut client), "7 0.7 of 7 0.7");
}

#[test]
fn a_quantile_of_one_holds_the_maximum() {
    let database = taught(Path::Memory);
    let mut client = database.connect();
    client.run("SET ai_limiter.output_quantile = 1");
    reserve(&mut client, "model => 'm', output_tokens => 50");
    assert_eq!(newest_hold(&mut client), "50 5 of 50 5");
    client.run("SET ai_limiter.output_quantile = 0.99");
    reserve(&mut client, "model => 'm', output_tokens => 25");
    assert_eq!(newest_hold(&mut client), "20 2 of 25 2.5");
}

/// Between asking the counters and adding to them others add: what is held is decided at that instant.
#[test]
fn calls_whose_tokens_nobody_told_teach_nothing() {
    let database = database_with_ten_dollars(Path::Memory.cluster());
    let mut client = database.connect();
    client.run("UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE name = 'cost'");
    for settled in ["", ", cost_usd => 0.1"] {
        client.run(&format!(
            "SELECT count(ai_limiter.settle_ai_usage(r.reservation_id{settled})) \
             FROM generate_series(1, 150), LATERAL ai_limiter.reserve_ai_usage(model => 'm', \
             output_tokens => 40, cost_usd => 0.01 + generate_series * 0) r"
        ));
    }
    assert_eq!(learn(&mut client), 0);
    let told = "SELECT count(ai_limiter.settle_ai_usage(r.reservation_id, output_tokens => 5)) \
        FROM generate_series(1, 150) n, LATERAL ai_limiter.reserve_ai_usage(model => 'm', \
        output_tokens => 40 + n * 0) r";
    client.run(told);
    assert_eq!(learn(&mut client), 150);
    assert_eq!(
        client.value("SELECT histogram FROM ai_limiter.ai_output_estimates"),
        r#"{"5": 150}"#
    );
}

#[test]
fn the_overspend_bound_is_what_open_holds_may_come_to_beyond_what_is_held() {
    for path in Path::BOTH {
        let database = taught(path);
        let mut client = database.connect();
        let bound = |client: &mut postgres::Client| {
            client.value(
                "SELECT string_agg(concat_ws(' ', limit_name, open_holds, unbounded_holds, held, \
                 held_at_most, overspend_bound), '; ' ORDER BY limit_name) \
                 FROM ai_limiter.ai_overspend_bound WHERE metric = 'cost_usd'",
            )
        };
        let first = reserve(&mut client, "model => 'm', output_tokens => 30").id().to_owned();
        reserve(
            &mut client,
            "model => 'm', output_tokens => 40, run_id => 'r', run_limit_usd => 5",
        );
        assert_eq!(bound(&mut client), "cost 2 0 2 7 5; run_limit 1 0 1 4 3", "{path:?}");
        let unbounded = reserve(&mut client, "model => 'm'").id().to_owned();
        assert_eq!(bound(&mut client), "cost 3 1 3 8 5; run_limit 1 0 1 4 3", "{path:?}");
        assert!(try_extend(&mut client, &unbounded, "ttl => '1 hour'").unwrap().allowed);
        assert_eq!(bound(&mut client), "cost 3 1 3 8 5; run_limit 1 0 1 4 3", "{path:?}");
        assert!(try_extend(&mut client, &first, "output_tokens => 35").unwrap().allowed);
        assert_eq!(bound(&mut client), "cost 3 1 5.5 8.5 3; run_limit 1 0 1 4 3", "{path:?}");
        client.run("SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations");
        assert_eq!(bound(&mut client), "", "{path:?}");
    }
}

#[test]
fn a_member_sees_the_bound_of_their_own_counters_only() {
    let database = taught(Path::Memory);
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) \
         VALUES ('own', '{user}', 'cost_usd', 'day', 10)",
    );
    for user in [1, 2] {
        let whose = format!("tenant_id => '{}', user_id => '{}'", id(1), id(user));
        admit(&mut client, &format!("{whose}, model => 'm', output_tokens => {}", 20 + user));
    }
    let bounds = "SELECT coalesce(string_agg(concat_ws(' ', limit_name, overspend_bound), ', ' \
        ORDER BY limit_name, overspend_bound), '') FROM ai_limiter.ai_overspend_bound WHERE metric = 'cost_usd'";
    assert_eq!(client.value(bounds), "cost 2.3, own 1.1, own 1.2");
    become_person(&mut client, 1, 1, None);
    assert_eq!(client.value(bounds), "own 1.1");
}

#[test]
fn the_worker_learns_by_itself() {
    let cluster = server_with_worker(&["app"]);
    let mut client = cluster.database("app").connect();
    client.run(
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('free-of-charge', 0)",
    );
    client.run(
        "SELECT count(ai_limiter.record_ai_usage(model => 'free-of-charge', output_tokens => 7)) \
         FROM generate_series(1, 100)",
    );
    let calls = "SELECT coalesce(sum(calls), 0) FROM ai_limiter.ai_output_estimates";
    wait_until("it has learned", || client.value(calls) == "100");
    let said = "SELECT concat_ws(' ', output_tokens, basis) FROM ai_limiter.explain_ai_cost_estimate('free-of-charge')";
    assert_eq!(client.value(said), "7 learned_of_model");
}
