//! What was undone was never there: rollbacks, savepoints, errors, cancelled and ended sessions.

use std::thread;

use ai_limiter_tests::calls::{
    LEVELS, Session, assert_sound, backend_pid, database_with_a_dollar, explained, held_cents,
    reserve, try_extend, try_reserve, wait_for_lock_wait, wait_until,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::{Client, Error};

/// Everything that calls leave behind, in one text.
fn traces(session: &mut impl Session) -> String {
    session.value(
        "SELECT concat_ws(E'\n', (SELECT string_agg(r::text, E'\n' ORDER BY r.id) \
            FROM ai_limiter.ai_reservations r), \
            (SELECT string_agg(u::text, E'\n' ORDER BY u.id) FROM ai_limiter.ai_usage u), \
            (SELECT string_agg(i::text, E'\n' ORDER BY i.key) FROM ai_limiter.ai_idempotency i), \
            (SELECT string_agg(l::text, E'\n') FROM ai_limiter.ai_run_limits l), \
            (SELECT string_agg(d::text, E'\n' ORDER BY d.id) FROM ai_limiter.ai_denials d), \
            (SELECT string_agg(v::text, E'\n') FROM ai_limiter.verify_ai_counters() v))",
    )
}

/// Does one of everything, with a hold that was there before.
fn do_everything(session: &mut impl Session, earlier: &str) {
    let mine = reserve(session, "cost_usd => 0.1, idempotency_key => 'k'").id().to_owned();
    assert!(reserve(session, "cost_usd => 0.1, run_id => 'r', run_limit_usd => 2").allowed);
    assert!(try_extend(session, &mine, "cost_usd => 0.2").unwrap().allowed);
    assert!(try_extend(session, earlier, "cost_usd => 0.3").unwrap().allowed);
    assert!(!reserve(session, "cost_usd => 0.9").allowed);
    session.run(&format!("SELECT ai_limiter.settle_ai_usage('{mine}', cost_usd => 0.15)"));
    session.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.01, idempotency_key => 'u')");
    session.run(
        "INSERT INTO ai_limiter.ai_usage (user_id, cost_usd) VALUES (gen_random_uuid(), 0.01)",
    );
    session.run(&format!("SELECT ai_limiter.release_ai_usage('{earlier}')"));
}

#[test]
fn a_rollback_leaves_no_trace_of_anything() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut observer) = (database.connect(), database.connect());
        let earlier = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
        let before = traces(&mut observer);
        let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
        do_everything(&mut transaction, &earlier);
        transaction.rollback().unwrap();
        assert_eq!(traces(&mut observer), before);
        assert_sound(&mut observer);
        for _ in 0..95 {
            assert!(reserve(&mut client, "cost_usd => 0.01").allowed);
        }
        assert!(!reserve(&mut client, "cost_usd => 0.01").allowed);
    }
}

#[test]
fn a_rollback_to_a_savepoint_leaves_no_trace_of_what_came_after() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut observer) = (database.connect(), database.connect());
        let earlier = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
        let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
        assert!(reserve(&mut transaction, "cost_usd => 0.1").allowed);
        let before = traces(&mut transaction);
        let mut savepoint = transaction.transaction().unwrap();
        do_everything(&mut savepoint, &earlier);
        let mut inner = savepoint.transaction().unwrap();
        assert!(reserve(&mut inner, "cost_usd => 0.02").allowed);
        inner.commit().unwrap();
        savepoint.rollback().unwrap();
        assert_eq!(traces(&mut transaction), before);
        // The same transaction may go on, and finds what it gave back.
        assert!(reserve(&mut transaction, "cost_usd => 0.85").allowed);
        assert!(!reserve(&mut transaction, "cost_usd => 0.01").allowed);
        transaction.commit().unwrap();
        assert_eq!(held_cents(&mut observer), 100);
        assert_sound(&mut observer);
    }
}

#[test]
fn a_released_savepoint_keeps_what_it_did_and_shares_the_fate_of_its_transaction() {
    for (end, cents) in [("COMMIT", 30), ("ROLLBACK", 0)] {
        let database = database_with_a_dollar(Cluster::shared());
        let mut client = database.connect();
        client.run("BEGIN; SAVEPOINT a");
        assert!(reserve(&mut client, "cost_usd => 0.1").allowed);
        client.run("SAVEPOINT b");
        assert!(reserve(&mut client, "cost_usd => 0.2").allowed);
        client.run("RELEASE b; RELEASE a");
        assert_eq!(held_cents(&mut client), 30);
        client.run(end);
        assert_eq!(held_cents(&mut client), cents);
        assert_sound(&mut client);
    }
}

#[test]
fn a_rollback_to_a_savepoint_lets_waiting_calls_go_on() {
    let database = database_with_a_dollar(Cluster::shared_without_preload());
    let (mut client, mut other) = (database.connect(), database.connect());
    client.run("BEGIN; SAVEPOINT a");
    assert!(reserve(&mut client, "cost_usd => 0.9").allowed);
    let pid = backend_pid(&mut other);
    let waiting = thread::spawn(move || (reserve(&mut other, "cost_usd => 0.9").allowed, other));
    wait_for_lock_wait(&mut database.connect(), pid);
    client.run("ROLLBACK TO a");
    let (allowed, mut other) = waiting.join().unwrap();
    assert!(allowed, "nothing is held by the savepoint that was rolled back");
    assert!(!reserve(&mut client, "cost_usd => 0.9").allowed);
    client.run("COMMIT");
    assert_eq!(held_cents(&mut other), 90);
    assert_sound(&mut other);
}

#[test]
fn in_shared_memory_a_rollback_to_a_savepoint_frees_room_at_once() {
    let database = database_with_a_dollar(Cluster::shared_preloaded());
    let (mut client, mut other) = (database.connect(), database.connect());
    client.run("BEGIN; SAVEPOINT a");
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    client.run("SAVEPOINT b");
    assert!(reserve(&mut client, "cost_usd => 0.4").allowed);
    assert!(!reserve(&mut other, "cost_usd => 0.2").allowed);
    client.run("ROLLBACK TO b");
    assert!(reserve(&mut other, "cost_usd => 0.2").allowed);
    // A savepoint that is released is undone with the one around it, and not before.
    assert!(reserve(&mut client, "cost_usd => 0.2").allowed);
    client.run("RELEASE b");
    assert!(!reserve(&mut other, "cost_usd => 0.2").allowed);
    client.run("ROLLBACK TO a");
    assert!(reserve(&mut other, "cost_usd => 0.7").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.2").allowed);
    client.run("COMMIT");
    assert_eq!(held_cents(&mut other), 90);
    assert_sound(&mut other);
}

#[test]
fn in_shared_memory_room_that_a_savepoint_may_need_back_is_not_given_away() {
    let database = database_with_a_dollar(Cluster::shared_preloaded());
    let (mut client, mut other) = (database.connect(), database.connect());
    let hold = reserve(&mut client, "cost_usd => 0.9").id().to_owned();
    client.run("BEGIN; SAVEPOINT a");
    client.run(&format!("SELECT ai_limiter.release_ai_usage('{hold}')"));
    assert!(reserve(&mut client, "cost_usd => 0.3").allowed);
    assert!(!reserve(&mut other, "cost_usd => 0.2").allowed);
    client.run("RELEASE a; SAVEPOINT b");
    assert!(reserve(&mut client, "cost_usd => 0.7").allowed);
    client.run("ROLLBACK TO b");
    // Either end is possible: 30 cents, or the 90 of before.
    assert!(!reserve(&mut other, "cost_usd => 0.2").allowed);
    client.run("COMMIT");
    assert!(reserve(&mut other, "cost_usd => 0.7").allowed);
    assert_eq!(held_cents(&mut other), 100);
    assert_sound(&mut other);
}

#[test]
fn a_failing_statement_takes_its_hold_along() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let before = traces(&mut client);
    let sql = "SELECT ai_limiter.reserve_ai_usage(cost_usd => 0.1), 1 / count(*) \
        FROM pg_class WHERE false";
    assert_eq!(sqlstate(&client.rows(sql).unwrap_err()), "22012");
    assert_eq!(traces(&mut client), before);
    // In a block that catches the error, what was before the block stays.
    client.run(
        "DO $$ BEGIN \
         PERFORM ai_limiter.reserve_ai_usage(cost_usd => 0.1); \
         BEGIN \
             PERFORM ai_limiter.reserve_ai_usage(cost_usd => 0.9); \
             PERFORM ai_limiter.record_ai_usage(cost_usd => 0.5); \
             PERFORM 1 / 0; \
         EXCEPTION WHEN division_by_zero THEN \
             PERFORM ai_limiter.reserve_ai_usage(cost_usd => 0.2); \
         END; END $$",
    );
    assert_eq!(held_cents(&mut client), 30);
    assert_sound(&mut client);
}

/// While 60 cents are held, another session's call for 30 waits and is ended by `end`. What that
/// call answered, and what can be held afterwards of the rest.
fn waiting_call_ended_by(
    path: Path,
    prepare: &str,
    end: impl FnOnce(&mut Client, i32),
) -> (Result<bool, Error>, Database) {
    let database = database_with_a_dollar(path.cluster());
    let (mut client, mut other) = (database.connect(), database.connect());
    path.hold_up(&mut client, "cost_usd => 0.6");
    let pid = backend_pid(&mut other);
    other.run(prepare);
    let mut observer = database.connect();
    let waiting = thread::spawn(move || {
        let call = "cost_usd => 0.3, idempotency_key => 'k', run_id => 'r', run_limit_usd => 1";
        let answer = try_reserve(&mut other, call).map(|verdict| verdict.allowed);
        (answer, other)
    });
    wait_for_lock_wait(&mut observer, pid);
    end(&mut observer, pid);
    let (answer, mut other) = waiting.join().unwrap();
    if matches!(&answer, Err(error) if sqlstate(error) != "57P01" && !error.is_closed()) {
        // Nothing of it is left open that would have to be rolled back.
        assert_eq!(other.value("SELECT 1"), "1");
    }
    client.run("COMMIT");
    assert_eq!(held_cents(&mut client), 60);
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_idempotency"), "0");
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_run_limits"), "0");
    assert_sound(&mut client);
    assert!(reserve(&mut client, "cost_usd => 0.4, idempotency_key => 'k'").allowed);
    (answer, database)
}

#[test]
fn a_cancelled_call_is_no_answer_and_leaves_nothing() {
    for (path, on_error) in Path::BOTH.into_iter().flat_map(|p| [(p, "deny"), (p, "allow")]) {
        let setting = format!("SET ai_limiter.on_error = {on_error}");
        let (answer, _) = waiting_call_ended_by(path, &setting, |observer, pid| {
            observer.run(&format!("SELECT pg_cancel_backend({pid})"));
        });
        assert_eq!(sqlstate(&answer.unwrap_err()), "57014");
    }
}

#[test]
fn a_call_that_runs_into_a_timeout_is_no_answer_and_leaves_nothing() {
    for path in Path::BOTH {
        for (setting, code) in [("statement_timeout", "57014"), ("lock_timeout", "55P03")] {
            let setting = format!("SET ai_limiter.on_error = allow; SET {setting} = '300ms'");
            let (answer, _) = waiting_call_ended_by(path, &setting, |observer, pid| {
                let waits = format!(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'"
                );
                wait_until("the call has given up", || observer.value(&waits) == "0");
            });
            assert_eq!(sqlstate(&answer.unwrap_err()), code);
        }
    }
}

#[test]
fn a_terminated_call_leaves_nothing() {
    for path in Path::BOTH {
        let allow = "SET ai_limiter.on_error = allow";
        let (answer, _) = waiting_call_ended_by(path, allow, |observer, pid| {
            observer.run(&format!("SELECT pg_terminate_backend({pid})"));
        });
        let error = answer.unwrap_err();
        assert!(sqlstate(&error) == "57P01" || error.is_closed(), "{}", explained(&error));
    }
}

#[test]
fn a_terminated_session_gives_back_what_its_open_transaction_held() {
    let database = database_with_a_dollar(Cluster::shared_without_preload());
    let (mut client, mut other) = (database.connect(), database.connect());
    let earlier = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
    let before = traces(&mut other);
    client.run("BEGIN");
    do_everything(&mut client, &earlier);
    let (open, waiting) = (backend_pid(&mut client), backend_pid(&mut other));
    let thread = thread::spawn(move || (reserve(&mut other, "cost_usd => 0.95").allowed, other));
    let mut observer = database.connect();
    wait_for_lock_wait(&mut observer, waiting);
    assert_eq!(traces(&mut observer), before);
    observer.run(&format!("SELECT pg_terminate_backend({open})"));
    let (allowed, mut other) = thread.join().unwrap();
    assert!(allowed);
    assert_eq!(held_cents(&mut other), 100);
    assert_sound(&mut other);
}

#[test]
fn in_shared_memory_a_terminated_session_gives_back_what_its_open_transaction_held() {
    let database = database_with_a_dollar(Cluster::shared_preloaded());
    let (mut client, mut other) = (database.connect(), database.connect());
    let earlier = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
    let before = traces(&mut other);
    client.run("BEGIN");
    do_everything(&mut client, &earlier);
    let open = backend_pid(&mut client);
    assert!(!reserve(&mut other, "cost_usd => 0.95").allowed);
    other.run(&format!("SELECT pg_terminate_backend({open})"));
    wait_until("all is given back", || reserve(&mut other, "cost_usd => 0.95").allowed);
    assert_eq!(held_cents(&mut other), 100);
    other.run("SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations WHERE cost_usd = 0.95");
    other.run("DELETE FROM ai_limiter.ai_reservations WHERE cost_usd = 0.95; DELETE FROM ai_limiter.ai_denials");
    assert_eq!(traces(&mut other), before);
    assert_sound(&mut other);
}

#[test]
fn a_deadlock_of_two_transactions_ends_with_an_error_and_no_drift() {
    // In shared memory calls do not wait for each other.
    let database = database_with_a_dollar(Cluster::shared_without_preload());
    database.connect().run(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) \
         VALUES ('feature', '{feature}', 'requests', 'total', 10); \
         UPDATE ai_limiter.ai_limits SET enabled = false WHERE name = 'cost'",
    );
    let both_hold_one = std::sync::Barrier::new(2);
    let committed = database.clients(2, |number, client| {
        client.run("SET deadlock_timeout = '100ms'; SET ai_limiter.on_error = allow");
        let mut transaction = client.transaction().unwrap();
        let features = if number == 0 { ["a", "b"] } else { ["b", "a"] };
        let call = |feature| format!("cost_usd => 0.01, feature => '{feature}'");
        assert!(reserve(&mut transaction, &call(features[0])).allowed);
        both_hold_one.wait();
        match try_reserve(&mut transaction, &call(features[1])) {
            Ok(verdict) => {
                transaction.commit().unwrap();
                assert_eq!(verdict.reason, "ok");
                true
            }
            Err(error) => {
                assert_eq!(sqlstate(&error), "40P01");
                false
            }
        }
    });
    assert_eq!(committed.iter().filter(|&&c| c).count(), 1);
    let mut admin = database.connect();
    assert_eq!(admin.value("SELECT count(*) FROM ai_limiter.ai_reservations"), "2");
    assert_sound(&mut admin);
}
