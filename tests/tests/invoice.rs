//! `reconcile_ai_invoice` where its parts must add up whatever the numbers, and among others who book.

use ai_limiter_tests::calls::Session;
use ai_limiter_tests::{Cluster, Database, Random};

const DAY: &str = "2025-06-03";

fn invoice(cost: &str, book: bool) -> String {
    let lines = format!(r#"[{{"day": "{DAY}", "model": "m", "cost_usd": "{cost}"}}]"#);
    format!("ai_limiter.reconcile_ai_invoice(invoice => '{lines}', book => {book})")
}

/// Calls of one day and model by `accounts`, of costs with up to twelve decimals.
fn database_with_calls(random: &mut Random, calls: u64, accounts: u64) -> Database {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    for _ in 0..calls {
        let user = format!("00000000-0000-4000-8000-{:012}", random.below(accounts));
        let (whole, fraction) = (random.below(3), random.below(1_000_000_000_000));
        client.run(&format!(
            "SELECT ai_limiter.record_ai_usage('{user}', model => 'm', cost_usd => {whole}.{fraction:012},
                created_at => '{DAY} {:02}:00:00+00')",
            random.below(24)
        ));
    }
    database
}

#[test]
fn what_is_booked_is_the_difference_to_the_last_digit_and_no_row_falls_below_zero() {
    let mut random = Random::new(4);
    let database = database_with_calls(&mut random, 60, 7);
    let mut client = database.connect();
    let total = "(SELECT sum(cost_usd) FROM ai_limiter.ai_usage)";
    for _ in 0..12 {
        // Between nothing and three times what is there.
        let share = format!("{}.{:03}", random.below(3), random.below(1000));
        let cost = client.value(&format!("SELECT round({total} * {share}, 12)"));
        let booked = client
            .value(&format!("SELECT adjusted_usd = difference_usd FROM {}", invoice(&cost, true)));
        assert_eq!(booked, "t", "{cost}");
        assert_eq!(client.value(&format!("SELECT {total} = {cost}")), "t");
        let lowest =
            "SELECT min(usd) >= 0 FROM (SELECT sum(cost_usd) AS usd FROM ai_limiter.ai_usage
            GROUP BY coalesce(correction_of, id)) r";
        assert_eq!(client.value(lowest), "t");
        let again = format!("SELECT difference_usd FROM {}", invoice(&cost, true));
        assert_eq!(client.value(&again), "0");
    }
    let drift = "SELECT coalesce(sum(abs(drift)), 0) FROM ai_limiter.verify_ai_counters()";
    assert_eq!(client.value(drift), "0");
}

#[test]
fn an_account_bears_its_share_and_has_one_correction() {
    let mut random = Random::new(5);
    let database = database_with_calls(&mut random, 40, 4);
    let mut client = database.connect();
    let before = "CREATE TABLE public.before AS SELECT user_id, sum(cost_usd) AS usd FROM ai_limiter.ai_usage GROUP BY 1";
    client.run(before);
    let half_more = client.value("SELECT round(sum(usd) * 1.5, 12) FROM public.before");
    client.run(&format!("SELECT FROM {}", invoice(&half_more, true)));
    let fair = "SELECT count(*) = (SELECT count(*) FROM public.before) AND max(abs(c.cost_usd - b.usd / 2)) <= 1e-12
        FROM ai_limiter.ai_usage c JOIN public.before b USING (user_id) WHERE c.correction_of IS NOT NULL";
    assert_eq!(client.value(fair), "t");
}

#[test]
fn several_who_book_one_invoice_book_it_once() {
    let mut random = Random::new(6);
    let database = database_with_calls(&mut random, 10, 3);
    database.clients(6, |_, client| client.run(&format!("SELECT FROM {}", invoice("50", true))));
    let mut client = database.connect();
    assert_eq!(client.value("SELECT sum(cost_usd) = 50 FROM ai_limiter.ai_usage"), "t");
}

#[test]
fn looking_books_nothing() {
    let mut random = Random::new(7);
    let database = database_with_calls(&mut random, 5, 2);
    let mut client = database.connect();
    client.run(&format!("SELECT FROM {}", invoice("50", false)));
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_usage"), "5");
}
