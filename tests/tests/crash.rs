//! A server that dies, and transactions that outlive their session.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ai_limiter_tests::calls::{
    Session, assert_no_drift, assert_sound, backend_pid, database_with_a_dollar, explained,
    held_cents, reserve, try_extend, try_reserve, wait_for_lock_wait, wait_until,
};
use ai_limiter_tests::{Builder, Cluster, sqlstate};

fn open_holds(session: &mut impl Session) -> HashSet<String> {
    let rows = session.rows("SELECT id FROM ai_limiter.ai_reservations WHERE state = 'open'");
    rows.unwrap().iter().map(|row| row.get(0).unwrap().to_owned()).collect()
}

#[test]
fn a_crash_keeps_every_hold_that_was_answered_and_nothing_of_what_was_open() {
    let cluster = Cluster::start();
    let database = database_with_a_dollar(&cluster);
    let mut open = database.connect();
    open.run("BEGIN");
    // A key of its own, so that it does not keep the others waiting for its counter.
    open.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.5, idempotency_key => 'open')");
    let answered = AtomicUsize::new(0);
    let holds: Vec<Vec<String>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, answered) = (database.connect(), &answered);
                scope.spawn(move || {
                    // An app's own choice for its own tables, which holds do not follow.
                    client.run("SET synchronous_commit = off");
                    let mut holds = Vec::new();
                    while let Ok(verdict) = try_reserve(&mut client, "cost_usd => 0.001") {
                        holds.push(verdict.id().to_owned());
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    holds
                })
            })
            .collect();
        wait_until("some holds are answered", || answered.load(Ordering::SeqCst) >= 200);
        cluster.stop_immediately();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    cluster.start_again();

    let mut client = database.connect();
    let kept = open_holds(&mut client);
    let lost: Vec<_> = holds.iter().flatten().filter(|&id| !kept.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} holds are lost", lost.len(), kept.len());
    // Each client may have had one more that was committed and not yet answered.
    let answered = answered.into_inner();
    assert!((answered..=answered + 8).contains(&kept.len()), "{answered}, {}", kept.len());
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_usage"), "0");
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_idempotency"), "0");
    assert_sound(&mut client);
    while reserve(&mut client, "cost_usd => 0.001").allowed {}
    assert_eq!(open_holds(&mut client).len(), 1000);
    assert_sound(&mut client);
}

#[test]
fn holds_are_extended_and_settled_after_a_crash_as_if_there_had_been_none() {
    let cluster = Cluster::start();
    let database = database_with_a_dollar(&cluster);
    let mut client = database.connect();
    let call = "cost_usd => 0.1, run_id => 'r', run_limit_usd => 0.5, idempotency_key => 'k'";
    let first = reserve(&mut client, call);
    let second = reserve(&mut client, "cost_usd => 0.2, run_id => 'r'");
    client.run("BEGIN; SAVEPOINT a");
    client.run(&format!("SELECT ai_limiter.settle_ai_usage('{}')", first.id()));
    assert!(try_extend(&mut client, second.id(), "cost_usd => 0.4").unwrap().allowed);
    cluster.stop_immediately();
    cluster.start_again();

    let mut client = database.connect();
    assert_eq!(held_cents(&mut client), 30);
    assert_eq!(reserve(&mut client, call), first, "the key is known");
    assert!(!try_extend(&mut client, second.id(), "cost_usd => 0.41").unwrap().allowed);
    assert!(try_extend(&mut client, second.id(), "cost_usd => 0.4").unwrap().allowed);
    for id in [first.id(), second.id()] {
        client.run(&format!("SELECT ai_limiter.settle_ai_usage('{id}')"));
    }
    let booked = "SELECT count(*) = 2 AND sum(cost_usd) = 0.5 FROM ai_limiter.ai_usage";
    assert_eq!(client.value(booked), "t");
    assert_sound(&mut client);
}

fn preparing() -> Builder {
    Cluster::builder().setting("max_prepared_transactions", "5")
}

/// Counters in shared memory follow a transaction to its end, in the session that began it.
#[test]
fn in_shared_memory_a_transaction_that_has_written_usage_is_not_prepared() {
    let cluster = preparing().preloaded().start();
    let database = database_with_a_dollar(&cluster);
    let (mut client, mut other) = (database.connect(), database.connect());
    let hold = reserve(&mut other, "cost_usd => 0.4").id().to_owned();
    for writes in [
        "SELECT ai_limiter.reserve_ai_usage(cost_usd => 0.6)".to_owned(),
        format!("SELECT ai_limiter.extend_ai_reservation('{hold}', cost_usd => 0.5)"),
        format!("SELECT ai_limiter.settle_ai_usage('{hold}')"),
        format!("SELECT ai_limiter.release_ai_usage('{hold}')"),
        "SELECT ai_limiter.record_ai_usage(cost_usd => 1)".to_owned(),
        "INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (1)".to_owned(),
        "DELETE FROM ai_limiter.ai_reservations".to_owned(),
    ] {
        client.run("BEGIN");
        client.run(&writes);
        let error = client.rows("PREPARE TRANSACTION 'refused'").unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{writes}: {}", explained(&error));
        assert_eq!(client.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
        assert_eq!(held_cents(&mut other), 40, "{writes}");
        assert!(!reserve(&mut other, "cost_usd => 0.61").allowed, "{writes}");
        let verdict = reserve(&mut other, "cost_usd => 0.6");
        assert!(verdict.allowed, "{writes}");
        other.run(&format!("SELECT ai_limiter.release_ai_usage('{}')", verdict.id()));
        assert_sound(&mut other);
    }
    // What was denied or undone has written nothing, and other transactions are none of ours.
    client.run("BEGIN; SAVEPOINT a");
    assert!(reserve(&mut client, "cost_usd => 0.1").allowed);
    client.run("ROLLBACK TO a");
    assert!(client.value("SELECT allowed FROM ai_limiter.check_ai_limit(cost_usd => 0.1)") == "t");
    client.run("PREPARE TRANSACTION 'other'");
    client.run("COMMIT PREPARED 'other'");
    assert_sound(&mut other);
}

#[test]
fn a_prepared_transaction_keeps_its_hold_through_the_end_of_its_session_and_a_crash() {
    let cluster = preparing().without_preload().start();
    let database = database_with_a_dollar(&cluster);
    let mut client = database.connect();
    let earlier = reserve(&mut client, "cost_usd => 0.1").id().to_owned();
    client.run("BEGIN");
    let hold = reserve(&mut client, "cost_usd => 0.5, idempotency_key => 'k'").id().to_owned();
    client.run("PREPARE TRANSACTION 'held'");
    drop(client);

    let mut observer = database.connect();
    for crashed in [false, true] {
        if crashed {
            cluster.stop_immediately();
            cluster.start_again();
            observer = database.connect();
        }
        // Whoever wants of the same counter waits for the outcome; nobody is admitted past it.
        let mut other = database.connect();
        other.run("SET lock_timeout = '500ms'");
        for call in ["cost_usd => 0.5", "cost_usd => 0.5, idempotency_key => 'k'"] {
            let error = try_reserve(&mut other, call).unwrap_err();
            assert_eq!(sqlstate(&error), "55P03", "{}", explained(&error));
        }
        // What only gives back or books waits for nobody.
        other.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0)");
        assert_eq!(held_cents(&mut other), 10);
        assert_no_drift(&mut other);
    }
    let mut waiting = database.connect();
    let pid = backend_pid(&mut waiting);
    let thread = thread::spawn(move || try_reserve(&mut waiting, "cost_usd => 0.5"));
    wait_for_lock_wait(&mut observer, pid);
    observer.run("COMMIT PREPARED 'held'");
    let verdict = thread.join().unwrap().unwrap_or_else(|error| panic!("{}", explained(&error)));
    assert!(!verdict.allowed);
    assert_eq!(held_cents(&mut observer), 60);
    let again = reserve(&mut observer, "cost_usd => 0.5, idempotency_key => 'k'");
    assert_eq!(again.id(), hold);
    for id in [earlier, hold] {
        observer.run(&format!("SELECT ai_limiter.settle_ai_usage('{id}')"));
    }
    assert!(reserve(&mut observer, "cost_usd => 0.4").allowed);
    assert_sound(&mut observer);
}

#[test]
fn a_prepared_transaction_that_is_rolled_back_held_nothing() {
    let cluster = preparing().without_preload().start();
    let database = database_with_a_dollar(&cluster);
    let mut client = database.connect();
    client.run("BEGIN");
    assert!(reserve(&mut client, "cost_usd => 1").allowed);
    client.run("PREPARE TRANSACTION 'held'");
    client.run("ROLLBACK PREPARED 'held'");
    assert_eq!(held_cents(&mut client), 0);
    assert!(reserve(&mut client, "cost_usd => 1").allowed);
    assert_sound(&mut client);
}

#[test]
fn an_edit_names_the_prepared_transaction_that_blocks_it() {
    let cluster = preparing().without_preload().start();
    let database = database_with_a_dollar(&cluster);
    let mut client = database.connect();
    client.run("BEGIN");
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    client.run("PREPARE TRANSACTION 'forgotten'");
    for restarted in [false, true] {
        if restarted {
            cluster.stop_immediately();
            cluster.start_again();
            client = database.connect();
        }
        let error = client
            .rows(
                "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
                 VALUES ('late', 'requests', 'total', 10)",
            )
            .unwrap_err();
        assert_eq!(sqlstate(&error), "55P03");
        // It has no process that could be ended: only its name helps.
        assert!(explained(&error).contains("forgotten"), "{}", explained(&error));
    }
}
