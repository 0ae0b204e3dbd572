//! Which rows are corrected, by whom and how: everything else is refused, and books nothing.

mod correcting;
mod people;

use ai_limiter_tests::calls::{
    Session, assert_no_drift, assert_sound, database_with_a_dollar, reserve,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, sqlstate};
use correcting::{adjustment, spend, used_cents};
use people::{ask, outcome, refusal};
use postgres::Client;

#[test]
fn rows_with_any_id_are_found_and_every_wrong_one_is_refused() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let own = client.value("INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (0.3) RETURNING id");
    let correction = client.value(&adjustment(&own, "-0.1"));
    let hold = reserve(&mut client, "cost_usd => 0.1").id().to_owned();
    for (id, delta, reason, expected) in [
        (own.as_str(), "-0.3", "'x'", "22003"),
        (&own, "0", "'x'", "22023"),
        (&own, "1e-13", "'x'", "22023"),
        (&own, "'NaN'", "'x'", "22023"),
        (&own, "'-Infinity'", "'x'", "22023"),
        (&own, "1e8", "'x'", "22003"),
        (&own, "-1e300", "'x'", "22003"),
        (&own, "99999999.9", "'x'", "22003"),
        (&own, "NULL", "'x'", "22004"),
        (&own, "0.1", "NULL", "22004"),
        (&own, "0.1", "'  '", "22004"),
        (&own, "0.1", "repeat('x', 300)", "22023"),
        (&correction, "0.05", "'x'", "22023"),
        (&hold, "0.05", "'x'", "42704"),
        ("00000000-0000-4000-8000-000000000009", "0.05", "'x'", "42704"),
        ("01700000-0000-7000-8000-000000000009", "0.05", "'x'", "42704"),
    ] {
        let sql = format!("SELECT ai_limiter.adjust_ai_usage('{id}', {delta}, {reason})");
        assert_eq!(outcome(&mut client, &sql), expected, "{sql}");
    }
    let refused = refusal(&mut client, &adjustment("01700000-0000-7000-8000-000000000009", "1"));
    assert!(refused.contains("no rows of the month"), "{refused}");
    // An app's ids may meet: nobody guesses which row is meant.
    spend(&mut client, "cost_usd => 0, created_at => now() - interval '40 days'");
    client.run(&format!(
        "INSERT INTO ai_limiter.ai_usage (id, cost_usd, created_at) VALUES ('{own}', 0.1, now() - interval '40 days')"
    ));
    assert_eq!(outcome(&mut client, &adjustment(&own, "0.1")), "55000");
    // Neither settled nor released is a correction.
    for function in ["settle_ai_usage", "release_ai_usage"] {
        let sql = format!("SELECT ai_limiter.{function}('{correction}')");
        assert_eq!(outcome(&mut client, &sql), "42704", "{function}");
    }
    client.run("BEGIN READ ONLY");
    assert_eq!(outcome(&mut client, &adjustment(&own, "0.1")), "25006");
    client.run("ROLLBACK");
    assert_no_drift(&mut client);
}

#[test]
fn rows_of_a_dropped_month_are_gone() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let id = spend(&mut client, "cost_usd => 0.5, created_at => '2024-02-29 12:00Z'");
    client.run(&adjustment(&id, "-0.1"));
    client.run("DROP TABLE ai_limiter.ai_usage_2024_02; SELECT ai_limiter.refresh_ai_counters()");
    let refused = refusal(&mut client, &adjustment(&id, "-0.1"));
    assert!(
        refused.starts_with("42704") && refused.contains("the month that the id names"),
        "{refused}"
    );
    assert_eq!(
        client.value("SELECT to_regclass('ai_limiter.ai_usage_2024_02')"),
        "",
        "not made again"
    );
}

/// A statement books it then, and the ledger's triggers tell the counters.
#[test]
fn what_somebody_has_added_to_the_ledger_sees_corrections_too() {
    for path in Path::BOTH {
        let database = database_with_a_dollar(path.cluster());
        let mut client = database.connect();
        client.run(
            "CREATE TABLE seen (cost numeric); CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO public.seen VALUES (NEW.cost_usd); RETURN NEW; END $$; \
             CREATE TRIGGER see AFTER INSERT ON ai_limiter.ai_usage FOR EACH ROW EXECUTE FUNCTION see()",
        );
        let id = spend(&mut client, "cost_usd => 0.5");
        client.run(&adjustment(&id, "-0.2"));
        assert_eq!(
            ask(&mut client, "SELECT trim_scale(cost) FROM seen ORDER BY cost"),
            "-0.2\n0.5"
        );
        assert_eq!(used_cents(&mut client), "30");
        let booked = format!(
            "INSERT INTO ai_limiter.ai_usage (cost_usd, correction_of, correction_reason) VALUES (-0.1, '{id}', 'x')"
        );
        assert_eq!(outcome(&mut client, &booked), "22023", "afterwards as before");
        assert_sound(&mut client);
    }
}

#[test]
fn nobody_else_writes_a_negative_row_or_a_correction() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let id = spend(&mut client, "cost_usd => 0.5");
    let correction = client.value(&adjustment(&id, "-0.1"));
    client.run("SET ROLE service_role");
    for (columns, values, expected) in [
        ("cost_usd", "-1".to_owned(), "23514"),
        ("cost_usd, charge_usd", "1, -1".to_owned(), "23514"),
        ("cost_usd, list_cost_usd", "1, -1".to_owned(), "23514"),
        ("cost_usd, correction_of, correction_reason", format!("-1, '{id}', 'x'"), "22023"),
        ("cost_usd, correction_of", format!("1, '{id}'"), "22023"),
        ("cost_usd, correction_reason", "1, 'x'".to_owned(), "23514"),
    ] {
        let sql = format!("INSERT INTO ai_limiter.ai_usage ({columns}) VALUES ({values})");
        assert_eq!(outcome(&mut client, &sql), expected, "{sql}");
        let copied = copy(&mut client, columns, &values.replace('\'', "").replace(", ", "\t"));
        assert_eq!(copied, expected, "{columns}");
    }
    // As a dump's script sets it, and anybody may.
    client.run("SET row_security = off");
    let restored = format!(
        "INSERT INTO ai_limiter.ai_usage (cost_usd, correction_of, correction_reason) \
         VALUES (-1, '{id}', 'x')"
    );
    assert_eq!(outcome(&mut client, &restored), "22023");
    client.run("RESET row_security; RESET ROLE");
    for sql in ["UPDATE ai_limiter.ai_usage SET cost_usd = -1", "DELETE FROM ai_limiter.ai_usage"] {
        let sql = format!("{sql} WHERE id = '{correction}'");
        assert_eq!(outcome(&mut client, &sql), "55000", "{sql}");
    }
    assert_eq!(used_cents(&mut client), "40");
}

fn copy(client: &mut Client, columns: &str, row: &str) -> String {
    use std::io::Write;
    let sql = format!("COPY ai_limiter.ai_usage ({columns}) FROM STDIN");
    let mut writer = client.copy_in(&sql).unwrap();
    writer.write_all(format!("{row}\n").as_bytes()).unwrap();
    writer.finish().map_or_else(|error| sqlstate(&error).to_owned(), |_| String::new())
}

#[test]
fn only_servers_correct() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let id = spend(&mut client, "cost_usd => 0.5");
    let reprice = "SELECT ai_limiter.reprice_ai_usage('2020-01-01', now())";
    client.run("SET ROLE service_role");
    client.run(&adjustment(&id, "-0.1"));
    client.run(reprice);
    for granted in [false, true] {
        if granted {
            client.run("RESET ROLE");
            client.run("GRANT EXECUTE ON FUNCTION ai_limiter.adjust_ai_usage, ai_limiter.reprice_ai_usage TO authenticated");
        }
        client.run("SET ROLE authenticated");
        assert_eq!(outcome(&mut client, &adjustment(&id, "-0.1")), "42501", "{granted}");
        assert_eq!(outcome(&mut client, reprice), "42501", "{granted}");
    }
}

#[test]
fn a_charge_follows_in_the_proportion_of_its_row() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let marked_up = client.value(
        "INSERT INTO ai_limiter.ai_usage (cost_usd, list_cost_usd, charge_usd) VALUES (0.3, 0.4, 0.45) RETURNING id",
    );
    let free = client.value(
        "INSERT INTO ai_limiter.ai_usage (cost_usd, charge_usd) VALUES (0, 0.5) RETURNING id",
    );
    for (id, delta) in [(&marked_up, "-0.1"), (&marked_up, "-0.2"), (&free, "0.25")] {
        client.run(&adjustment(id, delta));
    }
    let booked = "SELECT trim_scale(cost_usd), trim_scale(list_cost_usd), trim_scale(charge_usd), \
        price_source, trim_scale(cost_usd - (line_items -> 0 ->> 'cost_usd')::numeric) \
        FROM ai_limiter.ai_usage WHERE correction_of IS NOT NULL ORDER BY recorded_at";
    assert_eq!(
        ask(&mut client, booked),
        "-0.1|0|-0.15|adjustment|0\n-0.2|0|-0.3|adjustment|0\n0.25|0|0.25|adjustment|0"
    );
}
