//! Corrections of the ledger: what they book, and that every counter says what row and corrections come
//! to, whoever looks and whenever, on both paths.

mod correcting;
mod people;

use std::thread;

use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, at_level, backend_pid,
    database_with_a_dollar, disable_shipped_limits, explained, reserve, wait_for_lock_wait,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database, sqlstate};
use correcting::{adjustment, spend, used_cents};
use people::outcome;
use postgres::Client;

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
