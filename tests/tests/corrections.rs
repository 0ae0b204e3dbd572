//! Corrections of the ledger: what they book, and that every counter says what row and corrections come
//! to, whoever looks and whenever, on both paths.

mod people;

use std::thread;

use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, at_level, backend_pid,
    database_with_a_dollar, disable_shipped_limits, explained, reserve, wait_for_lock_wait,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database, sqlstate};
use people::{ask, outcome, refusal};
use postgres::Client;

/// Books a cost, and gives the row's id.
#[track_caller]
fn spend(session: &mut impl Session, arguments: &str) -> String {
    session.value(&format!("SELECT ai_limiter.record_ai_usage({arguments})"))
}

fn adjustment(id: &str, delta: &str) -> String {
    format!("SELECT ai_limiter.adjust_ai_usage('{id}', {delta}, 'a test')")
}

/// What a dollar's rule says is used, in cents, as seen from a session.
fn used_cents(session: &mut impl Session) -> String {
    session.value(
        "SELECT trim_scale(used * 100) FROM ai_limiter.get_ai_limits() WHERE limit_name = 'cost'",
    )
}

/// Rules of every period and of several subjects, which refuse nothing.
const EVERY_PERIOD: &str = "
    INSERT INTO ai_limiter.ai_limits (name, per, metric, period, rolling, amount, action)
        SELECT concat_ws('_', period, rolling, per), per, 'cost_usd', period, rolling, 1e9, 'warn'
        FROM (VALUES ('minute', NULL), ('hour', NULL), ('day', NULL), ('week', NULL), ('month', NULL),
            ('total', NULL), (NULL, interval '1 hour'), (NULL, '40 days')) p (period, rolling),
        (VALUES ('{}'::text[]), ('{user}'), ('{tenant,model}'), ('{run}')) s (per);
    INSERT INTO ai_limiter.ai_limits (name, metric, period, amount, action)
        VALUES ('requests', 'requests', 'day', 1e9, 'warn'), ('tokens', 'total_tokens', 'month', 1e9, 'warn')";

fn database_of_every_period(path: Path) -> Database {
    let database = path.cluster().fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.batch_execute(EVERY_PERIOD).unwrap();
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    database
}

const SUBJECT: &str =
    "user_id => '00000000-0000-4000-8000-000000000001', model => 'gpt-4o', run_id => 'r1'";

#[test]
fn an_adjustment_counts_in_the_windows_of_its_row_in_every_period() {
    for path in Path::BOTH {
        let database = database_of_every_period(path);
        let mut client = database.connect();
        client.run(
            "SELECT ai_limiter.reserve_ai_usage(run_id => 'r1', cost_usd => 0, run_limit_usd => 9)",
        );
        for ago in ["0", "2 minutes", "2 hours", "30 hours", "9 days", "50 days", "400 days"] {
            let id = spend(
                &mut client,
                &format!(
                    "{SUBJECT}, cost_usd => 0.5, input_tokens => 7, created_at => clock_timestamp() - interval '{ago}'"
                ),
            );
            agreed(&mut client, &format!("{SUBJECT}, cost_usd => 0.1"));
            for delta in ["-0.3", "0.05", "-0.25"] {
                client.run(&adjustment(&id, delta));
                agreed(&mut client, &format!("{SUBJECT}, cost_usd => 0.1"));
                assert_no_drift(&mut client);
            }
            let copied = "SELECT count(*) FROM ai_limiter.ai_usage c JOIN ai_limiter.ai_usage u \
                ON u.id = c.correction_of WHERE (u.created_at, u.tenant_id, u.user_id, u.tier, u.model, \
                    u.provider, u.run_id, u.attributes) IS NOT DISTINCT FROM (c.created_at, c.tenant_id, \
                    c.user_id, c.tier, c.model, c.provider, c.run_id, c.attributes) \
                AND c.requests = 0 AND c.input_tokens = 0 AND c.output_tokens = 0 \
                AND c.recorded_at > u.recorded_at AND c.tableoid = u.tableoid";
            let corrections =
                "SELECT count(*) FROM ai_limiter.ai_usage WHERE correction_of IS NOT NULL";
            assert_eq!(client.value(copied), client.value(corrections));
        }
        assert_eq!(
            client.value(
                "SELECT trim_scale(sum(cost_usd)) || ' ' || sum(requests) FROM ai_limiter.ai_usage"
            ),
            "0 7"
        );
    }
}

#[test]
fn what_is_taken_away_is_free_when_it_commits_and_not_before() {
    for path in Path::BOTH {
        let database = database_with_a_dollar(path.cluster());
        let (mut client, mut other) = (database.connect(), database.connect());
        let id = spend(&mut client, "cost_usd => 1");
        client.run("BEGIN");
        client.run(&adjustment(&id, "-0.6"));
        assert_eq!(used_cents(&mut client), "40", "its own transaction sees it");
        assert!(!reserve(&mut other, "cost_usd => 0.1").allowed, "not committed");
        client.run("ROLLBACK");
        assert!(!reserve(&mut other, "cost_usd => 0.1").allowed, "rolled back");

        client.run("BEGIN; SAVEPOINT a");
        client.run(&adjustment(&id, "-0.6"));
        client.run("ROLLBACK TO a");
        assert!(!reserve(&mut client, "cost_usd => 0.1").allowed, "rolled back to the savepoint");
        client.run("SAVEPOINT b");
        client.run(&adjustment(&id, "-0.3"));
        client.run("RELEASE b");
        assert!(reserve(&mut client, "cost_usd => 0.2").allowed, "its own room");
        if path == Path::Memory {
            assert!(!reserve(&mut other, "cost_usd => 0.1").allowed, "not committed");
        }
        client.run("COMMIT");
        assert!(!reserve(&mut other, "cost_usd => 0.2").allowed);
        assert!(reserve(&mut other, "cost_usd => 0.1").allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn an_increase_takes_its_room_and_gives_it_back_when_it_is_undone() {
    for path in Path::BOTH {
        let database = database_with_a_dollar(path.cluster());
        let (mut client, mut other) = (database.connect(), database.connect());
        let id = spend(&mut client, "cost_usd => 0.5");
        client.run("BEGIN");
        client.run(&adjustment(&id, "0.4"));
        assert!(!reserve(&mut client, "cost_usd => 0.2").allowed);
        if path == Path::Memory {
            assert!(!reserve(&mut other, "cost_usd => 0.2").allowed, "it counts at once");
        }
        client.run("ROLLBACK");
        assert!(reserve(&mut other, "cost_usd => 0.5").allowed);
        // What happened counts, whatever the limits say.
        client.run(&adjustment(&id, "0.4"));
        assert_eq!(used_cents(&mut other), "90");
        assert_no_drift(&mut other);
    }
}

#[test]
fn two_who_adjust_one_row_at_once_take_no_more_than_it_comes_to() {
    for path in Path::BOTH {
        for level in LEVELS {
            let database = database_with_a_dollar(path.cluster());
            let (mut client, mut other) = (database.connect(), database.connect());
            let id = spend(&mut client, "cost_usd => 0.5");
            let mut transaction =
                client.build_transaction().isolation_level(level).start().unwrap();
            transaction.run(&adjustment(&id, "-0.3"));
            let pid = backend_pid(&mut other);
            let waiting = thread::spawn({
                let sql = adjustment(&id, "-0.3");
                move || {
                    let mut second =
                        other.build_transaction().isolation_level(level).start().unwrap();
                    // A snapshot from before the other's commit.
                    second.run("SELECT count(*) FROM ai_limiter.ai_usage");
                    second.rows(&sql).map(|_| ()).map_err(|error| sqlstate(&error).to_owned())
                }
            });
            wait_for_lock_wait(&mut database.connect(), pid);
            transaction.commit().unwrap();
            assert_eq!(waiting.join().unwrap(), Err("22003".to_owned()), "{level:?}");
            assert_eq!(used_cents(&mut client), "20");
            assert_sound(&mut client);
        }
    }
}

#[test]
fn an_old_snapshot_adjusts_and_is_judged_by_what_is_committed_now() {
    for path in Path::BOTH {
        for level in LEVELS {
            let database = database_with_a_dollar(path.cluster());
            let (mut client, mut other) = (database.connect(), database.connect());
            let mut transaction =
                client.build_transaction().isolation_level(level).start().unwrap();
            transaction.run("SELECT count(*) FROM ai_limiter.ai_usage");
            let id = spend(&mut other, "cost_usd => 1");
            other.run(&adjustment(&id, "-0.1"));
            transaction.run(&adjustment(&id, "-0.4"));
            assert!(reserve(&mut transaction, "cost_usd => 0.5").allowed, "{level:?}");
            assert!(!reserve(&mut transaction, "cost_usd => 0.1").allowed, "{level:?}");
            transaction.commit().unwrap_or_else(|error| panic!("{level:?}: {}", explained(&error)));
            assert_eq!(used_cents(&mut other), "50");
            assert_sound(&mut other);
        }
    }
}

#[test]
fn reserves_beside_adjustments_that_commit_and_roll_back_never_exceed_the_limit() {
    for path in Path::BOTH {
        let database = database_with_a_dollar(path.cluster());
        let mut admin = database.connect();
        let ids: Vec<String> = (0..5).map(|_| spend(&mut admin, "cost_usd => 0.2")).collect();
        database.clients(8, |number, client| {
            for turn in 0..30_usize {
                if number % 2 == 0 {
                    let id = &ids[(turn + number) % ids.len()];
                    client.run("BEGIN");
                    let taken = client.rows(&adjustment(id, "-0.05")).is_ok();
                    client.run(if taken && turn % 3 == 0 { "COMMIT" } else { "ROLLBACK" });
                } else {
                    reserve(client, "cost_usd => 0.03");
                }
                // No moment at which more is booked and held than there is.
                let sum = "SELECT (SELECT coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_usage) \
                    + (SELECT coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_reservations) <= 1";
                assert_eq!(client.value(sum), "t");
            }
        });
        assert_sound(&mut admin);
        let taken = "SELECT count(*) > 0 FROM ai_limiter.ai_usage WHERE correction_of IS NOT NULL";
        assert_eq!(admin.value(taken), "t");
    }
}

#[test]
fn many_adjustments_of_one_transaction_and_statement_see_each_other() {
    for path in Path::BOTH {
        for level in LEVELS {
            let database = database_with_a_dollar(path.cluster());
            let mut client = database.connect();
            let id = spend(&mut client, "cost_usd => 0.5");
            at_level(&mut client, level, |t| {
                t.rows(&format!(
                    "SELECT ai_limiter.adjust_ai_usage('{id}', -0.1, 'one of five') FROM generate_series(1, 5)"
                ))
            });
            let more = adjustment(&id, "-0.000000000001");
            assert_eq!(outcome(&mut client, &more), "22003");
            assert_eq!(used_cents(&mut client), "0");
            assert!(reserve(&mut client, "cost_usd => 1").allowed);
            assert_sound(&mut client);
        }
    }
}

#[test]
fn a_corrected_row_of_a_closed_month_is_in_the_rollup_once() {
    for path in Path::BOTH {
        let database = database_of_every_period(path);
        let (mut client, mut other) = (database.connect(), database.connect());
        let advance = "SELECT ai_limiter.advance_ai_rollup()";
        let rows: Vec<String> = (0..4)
            .map(|i| {
                spend(
                    &mut client,
                    &format!(
                        "{SUBJECT}, cost_usd => 1, created_at => now() - interval '{} days'",
                        i * 40
                    ),
                )
            })
            .collect();
        // Not yet rolled up.
        client.run(&adjustment(&rows[1], "-0.25"));
        assert_no_drift(&mut client);
        while client.value(advance) == "t" {}
        assert_no_drift(&mut client);
        // Rolled up, and the correction not.
        for id in &rows {
            client.run(&adjustment(id, "-0.5"));
        }
        assert_no_drift(&mut client);
        other.run("BEGIN");
        other.run(&adjustment(&rows[2], "-0.5"));
        while client.value(advance) == "t" {}
        other.run("COMMIT");
        assert_no_drift(&mut client);
        while client.value(advance) == "t" {}
        assert_no_drift(&mut client);
        let used = "SELECT trim_scale(used) FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'total_{}'";
        assert_eq!(client.value(used), "1.25");
        agreed(&mut other, &format!("{SUBJECT}, cost_usd => 0.1"));
    }
}

#[test]
fn counters_that_are_loaded_after_a_restart_know_the_corrections() {
    let cluster = Cluster::builder().preloaded().setting("fsync", "off").start();
    let name = {
        let database = cluster.create_database("corrected");
        let mut client = database.connect();
        client.run("CREATE EXTENSION IF NOT EXISTS ai_limiter");
        disable_shipped_limits(&mut client);
        client.run(
            "INSERT INTO ai_limiter.ai_limits (name, period, amount) VALUES ('cost', 'total', 1)",
        );
        let id = spend(&mut client, "cost_usd => 0.9");
        client.run(&adjustment(&id, "-0.7"));
        database.name().to_owned()
    };
    cluster.stop();
    cluster.start_again();
    let mut client = cluster.database(&name).connect();
    assert!(!reserve(&mut client, "cost_usd => 0.81").allowed);
    assert!(reserve(&mut client, "cost_usd => 0.8").allowed);
    assert_sound(&mut client);
}

#[test]
fn a_cost_as_of_an_instant_leaves_out_what_was_corrected_later() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let id = spend(&mut client, "cost_usd => 0.5, created_at => now() - interval '40 days'");
    let before = client.value("SELECT clock_timestamp()");
    client.run(&adjustment(&id, "-0.125"));
    let cost = |client: &mut Client, as_of: &str| {
        client.value(&format!(
            "SELECT trim_scale(cost_usd) FROM ai_limiter.get_ai_cost('2020-01-01', as_of => {as_of})"
        ))
    };
    assert_eq!(cost(&mut client, &format!("'{before}'")), "0.5");
    assert_eq!(cost(&mut client, "NULL"), "0.375");
}

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
            ask(&mut client, "SELECT * FROM seen ORDER BY 1"),
            "-0.2\n0.5".replace("0.2", "0.200000000000").replace("0.5", "0.500000000000")
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
