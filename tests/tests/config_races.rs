//! Administrators at once, in two phases, in savepoints, and in bulk.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ai_limiter_tests::calls::{
    LEVELS, Session, assert_sound, disable_shipped_limits, explained, reserve,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};

fn database_of(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    database
}

fn rule(name: &str, filter: &str, value: &str) -> String {
    format!(
        "INSERT INTO ai_limiter.ai_limits (name, {filter}, metric, period, amount) \
         VALUES ('{name}', '{value}', 'requests', 'total', 1)"
    )
}

#[test]
fn prices_are_written_at_once_without_a_deadlock() {
    let database = database_of(Cluster::shared());
    database.clients(8, |number, client| {
        for round in 0..20 {
            client.run(&format!(
                "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) \
                 VALUES ('m-{number}-{round}', 1), ('n-{round}-{number}', 1)"
            ));
        }
    });
    let mut admin = database.connect();
    assert_eq!(admin.value("SELECT count(*) FROM ai_limiter.ai_prices"), "320");
}

#[test]
fn of_two_prices_that_overlap_only_one_is_written() {
    for level in LEVELS {
        let database = database_of(Cluster::shared());
        let snapshots_taken = Barrier::new(2);
        let codes = database.clients(2, |_, client| {
            let mut edit = client.build_transaction().isolation_level(level).start().unwrap();
            edit.run("SELECT count(*) FROM ai_limiter.ai_prices");
            snapshots_taken.wait();
            let price = "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('m', 1)";
            let result = edit.rows(price).and_then(|_| edit.commit());
            result.map_or_else(|error| sqlstate(&error).to_owned(), |()| "00000".to_owned())
        });
        assert_eq!(codes.iter().filter(|code| *code == "00000").count(), 1, "{codes:?}");
        // At the upper levels it may also be told to try again, and is then refused.
        assert!(codes.iter().any(|code| code == "23P01" || code == "40001"), "{codes:?}");
        let count = database.connect().value("SELECT count(*) FROM ai_limiter.ai_prices");
        assert_eq!(count, "1");
    }
}

#[test]
fn an_edit_that_was_checked_and_taken_back_is_checked_again() {
    let database = database_of(Cluster::shared());
    let (mut admin, mut client) = (database.connect(), database.connect());
    client.run("SET statement_timeout = '5s'");
    admin.run("BEGIN; SAVEPOINT a");
    admin.run(&rule("tie", "feature", "chat"));
    admin.run("SET CONSTRAINTS ALL IMMEDIATE");
    admin.run("ROLLBACK TO a");
    // Writers are let in again, and the next edit has to wait for them and is looked at anew.
    assert!(reserve(&mut client, "cost_usd => 0, feature => 'chat'").allowed);
    admin.run("SET CONSTRAINTS ALL DEFERRED");
    admin.run(&rule("tie", "feature", "chat"));
    admin.run(&rule("tie", "model", "m"));
    let error = admin.rows("COMMIT").unwrap_err();
    assert_eq!(sqlstate(&error), "23514", "{}", explained(&error));

    admin.run("BEGIN");
    admin.run(&rule("late", "feature", "chat"));
    admin.run("SET CONSTRAINTS ALL IMMEDIATE");
    // Checked row by row from here on.
    let error = admin.rows(&rule("late", "model", "m")).unwrap_err();
    assert_eq!(sqlstate(&error), "23514", "{}", explained(&error));
    admin.run("ROLLBACK");
    assert!(reserve(&mut client, "cost_usd => 0, feature => 'chat'").allowed);
    assert_sound(&mut client);
}

#[test]
fn an_edit_is_not_prepared_to_keep_everybody_out_for_long() {
    let preparing = || Cluster::builder().setting("max_prepared_transactions", "5");
    edits_are_prepared_on(&preparing().without_preload().start(), "7");
    edits_are_prepared_on(&preparing().preloaded().start(), "");
}

/// Prepares an edit of a shape, which is refused, and one of an amount; `amount` is what that becomes,
/// nothing where it is refused.
fn edits_are_prepared_on(cluster: &Cluster, amount: &str) {
    let database = database_of(cluster);
    let (mut admin, mut client) = (database.connect(), database.connect());
    admin.run("BEGIN");
    admin.run(&rule("new", "feature", "chat"));
    let error = admin.rows("PREPARE TRANSACTION 'edit'").unwrap_err();
    assert_eq!(sqlstate(&error), "0A000", "{}", explained(&error));
    client.run("SET statement_timeout = '5s'");
    for _ in 0..2 {
        assert!(reserve(&mut client, "cost_usd => 0, feature => 'chat'").allowed);
    }
    // What waits for nobody may be prepared, unless sessions have to be told of it.
    let before = admin.value("SELECT amount FROM ai_limiter.ai_limits WHERE id = -1");
    admin.run("BEGIN; UPDATE ai_limiter.ai_limits SET amount = 7 WHERE id = -1");
    let prepared = admin.rows("PREPARE TRANSACTION 'amount'");
    assert!(reserve(&mut client, "cost_usd => 0, feature => 'chat'").allowed);
    let expected = if amount.is_empty() {
        assert_eq!(sqlstate(&prepared.unwrap_err()), "0A000");
        &before
    } else {
        prepared.unwrap();
        admin.run("COMMIT PREPARED 'amount'");
        amount
    };
    assert_eq!(admin.value("SELECT amount FROM ai_limiter.ai_limits WHERE id = -1"), expected);
}

#[test]
fn many_rules_in_one_statement_stop_admission_only_for_a_moment() {
    let database = database_of(Cluster::shared());
    let over = AtomicBool::new(false);
    /// Ends the load also when something panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (took, longest) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, over) = (database.connect(), &over);
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    while !over.load(Ordering::SeqCst) {
                        let begun = Instant::now();
                        reserve(&mut client, "user_id => gen_random_uuid(), cost_usd => 0");
                        longest = longest.max(begun.elapsed());
                    }
                    longest
                })
            })
            .collect();
        let end = End(&over);
        let begun = Instant::now();
        database.connect().run(
            "INSERT INTO ai_limiter.ai_limits (name, user_id, metric, period, amount) \
             SELECT 'own', gen_random_uuid(), 'requests', 'day', 10 FROM generate_series(1, 300)",
        );
        let took = begun.elapsed();
        drop(end);
        let longest = clients.into_iter().map(|client| client.join().unwrap()).max().unwrap();
        (took, longest)
    });
    println!("300 rules took {took:?}; the longest call meanwhile took {longest:?}");
    assert!(longest < Duration::from_secs(2), "a call waited for {longest:?}");
    assert_sound(&mut database.connect());
}
