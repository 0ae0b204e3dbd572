//! Ledger and holds that are written by statements of one's own, as an import, a restore or a repair
//! does: in one statement or many, undone or not, the next call counts exactly what is there.

use std::io::Write;

use ai_limiter_tests::calls::{
    Session, assert_sound, backend_pid, database_with_a_dollar, explained, held_cents, reserve,
    wait_until,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;

/// A dollar, of which ten cents are held; the counter is known.
fn database() -> (Database, String) {
    let database = database_with_a_dollar(Cluster::shared());
    let hold = reserve(&mut database.connect(), "cost_usd => 0.1").id().to_owned();
    (database, hold)
}

fn cents(session: &mut impl Session) -> String {
    session.value(
        "SELECT coalesce(sum((used + held) * 100), 0)::int FROM ai_limiter.verify_ai_counters()",
    )
}

/// The most that can still be held, as the calls of another session find it.
#[track_caller]
fn assert_left(client: &mut Client, cents: i32) {
    let call = |cents: i32| format!("cost_usd => {cents} * 0.01");
    assert!(!reserve(client, &call(cents + 1)).allowed, "more than {cents} cents are left");
    let verdict = reserve(client, &call(cents));
    assert!(verdict.allowed, "less than {cents} cents are left");
    client.run(&format!("SELECT ai_limiter.release_ai_usage('{}')", verdict.id()));
}

fn copy(client: &mut Client, rows: &[&str]) -> Result<u64, postgres::Error> {
    let mut writer = client.copy_in("COPY ai_limiter.ai_usage (cost_usd) FROM STDIN")?;
    for row in rows {
        writer.write_all(format!("{row}\n").as_bytes()).unwrap();
    }
    writer.finish()
}

#[test]
fn rows_of_the_ledger_count_from_the_statement_on_and_not_when_they_are_undone() {
    let (database, _) = database();
    let (mut client, mut other) = (database.connect(), database.connect());
    client.run("BEGIN");
    client.run("INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (0.1), (0.1)");
    client.run("SAVEPOINT a");
    assert_eq!(copy(&mut client, &["0.1", "0.2"]).unwrap(), 2);
    // Its own transaction sees all of it.
    assert!(!reserve(&mut client, "cost_usd => 0.41").allowed);
    client.run("SAVEPOINT b");
    client
        .run("INSERT INTO ai_limiter.ai_usage (cost_usd) SELECT 0.01 FROM generate_series(1, 20)");
    assert!(!reserve(&mut client, "cost_usd => 0.21").allowed);
    client.run("ROLLBACK TO b");
    client.run("RELEASE a");
    assert!(reserve(&mut client, "cost_usd => 0.4").allowed);
    client.run("ROLLBACK");
    assert_left(&mut other, 90);

    client.run("BEGIN; SAVEPOINT a");
    assert_eq!(copy(&mut client, &["0.1", "0.2"]).unwrap(), 2);
    client.run("RELEASE a; SAVEPOINT b");
    assert_eq!(sqlstate(&copy(&mut client, &["0.1", "-1"]).unwrap_err()), "23514");
    client.run("ROLLBACK TO b; COMMIT");
    assert_left(&mut other, 60);
    assert_sound(&mut other);
}

#[test]
fn a_row_that_is_left_out_on_conflict_counts_once() {
    let (database, _) = database();
    let mut client = database.connect();
    let insert = "INSERT INTO ai_limiter.ai_usage (id, created_at, cost_usd) \
        SELECT '00000000-0000-7000-8000-000000000001', date_trunc('day', now()), 0.2 \
        FROM generate_series(1, 3) ON CONFLICT DO NOTHING";
    for _ in 0..2 {
        client.run(insert);
    }
    client.run(&format!("BEGIN; {insert}; ROLLBACK"));
    assert_eq!(cents(&mut client), "30");
    assert_left(&mut client, 70);
    assert_sound(&mut client);
}

#[test]
fn a_replica_that_applies_rows_counts_them() {
    let (database, _) = database();
    let (mut client, mut other) = (database.connect(), database.connect());
    client.run("SET session_replication_role = replica");
    client.run(
        "INSERT INTO ai_limiter.ai_usage (id, tenant_id, tier, requests, cost_usd, \
        price_source, created_at, recorded_at) SELECT gen_random_uuid(), \
        '00000000-0000-0000-0000-000000000000', 'free', 1, 0.2, 'caller', now(), now()",
    );
    assert_left(&mut other, 70);
    assert_sound(&mut other);
}

/// What is held, summed from the rows themselves.
const OPEN_CENTS: &str = "SELECT coalesce(sum(cost_usd) * 100, 0)::int \
    FROM ai_limiter.ai_reservations WHERE state = 'open' AND expires_at > clock_timestamp()";

#[test]
fn holds_that_are_changed_by_hand_count_as_they_are() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (database, _) = database();
        let (mut client, mut other) = (database.connect(), database.connect());
        for change in [
            "UPDATE ai_limiter.ai_reservations SET cost_usd = 0.3 WHERE cost_usd = 0.1",
            "INSERT INTO ai_limiter.ai_reservations (id, tenant_id, tier, attributes, requests, \
                cost_usd, created_at, expires_at) SELECT gen_random_uuid(), tenant_id, tier, \
                attributes, 1, 0.2, now(), now() + interval '1 hour' \
                FROM ai_limiter.ai_reservations LIMIT 1",
            "UPDATE ai_limiter.ai_reservations SET expires_at = clock_timestamp() WHERE cost_usd > 0.1",
            "UPDATE ai_limiter.ai_reservations SET state = 'released' WHERE cost_usd < 0.1",
            "UPDATE ai_limiter.ai_reservations SET state = 'open', expires_at = now() + interval '1 h' \
                WHERE cost_usd < 0.4",
            "DELETE FROM ai_limiter.ai_reservations WHERE cost_usd = 0.3",
            "TRUNCATE ai_limiter.ai_reservations",
        ] {
            let before = other.value(OPEN_CENTS);
            // Before it in its transaction, and after it, are calls: nothing is lost of what they hold.
            client.run("BEGIN; SAVEPOINT a");
            assert!(reserve(&mut client, "cost_usd => 0.02").allowed);
            client.run("SAVEPOINT b");
            client.run(change);
            client.run("RELEASE b; SAVEPOINT c");
            let after = client.value(OPEN_CENTS);
            let left = 100 - after.parse::<i32>().unwrap();
            let more = format!("cost_usd => {} * 0.01", left + 1);
            assert!(!reserve(&mut client, &more).allowed, "{change}");
            let most = format!("cost_usd => {left} * 0.01");
            assert!(reserve(&mut client, &most).allowed, "{change}");
            client.run("ROLLBACK TO c");
            client.run(end);
            let expected = if end == "COMMIT" { after } else { before };
            assert_eq!(other.value(OPEN_CENTS), expected, "{change}, {end}");
            assert_eq!(held_cents(&mut other).to_string(), expected, "{change}, {end}");
            assert_left(&mut other, 100 - expected.parse::<i32>().unwrap());
            assert_sound(&mut other);
            other.run("DELETE FROM ai_limiter.ai_reservations WHERE state = 'released'");
        }
    }
}

/// A repair that is rolled back to a savepoint from before it is no repair, and the transaction tells
/// the counters of what it does next as any other.
#[test]
fn a_change_of_holds_that_is_rolled_back_to_a_savepoint_is_forgotten() {
    for first_holds in [false, true] {
        let (database, hold) = database();
        let (mut client, mut other) = (database.connect(), database.connect());
        client.run("BEGIN");
        if first_holds {
            assert!(reserve(&mut client, "cost_usd => 0.2").allowed);
        }
        client.run("SAVEPOINT a");
        client.run(&format!(
            "UPDATE ai_limiter.ai_reservations SET cost_usd = 0.9 WHERE id = '{hold}'"
        ));
        assert!(!reserve(&mut client, "cost_usd => 0.2").allowed);
        client.run("ROLLBACK TO a");
        assert!(reserve(&mut client, "cost_usd => 0.3").allowed);
        other.run("SET lock_timeout = '5s'");
        client.run("COMMIT");
        let held = if first_holds { 60 } else { 40 };
        assert_eq!(held_cents(&mut other), held);
        assert_left(&mut other, 100 - held);
        assert_sound(&mut other);
    }
}

/// Everybody else goes on while a load is open, and it waits for those that are open when it commits.
#[test]
fn a_load_of_many_rows_lets_others_go_on_and_then_counts() {
    let (database, _) = database();
    database.connect().run("UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE id > 0");
    let (mut client, mut other) = (database.connect(), database.connect());
    let (mut open, mut observer) = (database.connect(), database.connect());
    other.run("SET statement_timeout = '5s'");
    // As pg_dump's scripts do.
    client.run("BEGIN; SET LOCAL row_security = off");
    client.run(
        "INSERT INTO ai_limiter.ai_usage (user_id, cost_usd) \
         SELECT gen_random_uuid(), 1 FROM generate_series(1, 2000)",
    );
    assert!(reserve(&mut other, "cost_usd => 1").allowed);
    open.run("BEGIN");
    assert!(reserve(&mut open, "cost_usd => 1").allowed);
    let pid = backend_pid(&mut client);
    let is_preloaded = observer.value("SHOW shared_preload_libraries") == "ai_limiter";
    let commits = std::thread::spawn(move || client.rows("COMMIT").map(drop));
    if is_preloaded {
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!commits.is_finished(), "the load waits for the open call");
    }
    open.run("COMMIT");
    commits.join().unwrap().unwrap_or_else(|error| panic!("{}", explained(&error)));
    wait_until("the load is over", || {
        let state =
            format!("SELECT coalesce(max(state), '') FROM pg_stat_activity WHERE pid = {pid}");
        observer.value(&state) != "active"
    });
    assert_eq!(cents(&mut observer), "200210");
    assert_left(&mut observer, 100_000_000 - 200_210);
    assert_sound(&mut observer);
}
