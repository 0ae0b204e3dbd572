//! A counter that is loaded into shared memory is right, whatever happens to it meanwhile: others
//! write, load it too, or change the rule; the load fails.
//!
//! A load is made slow by a lock on the ledger, which it has to read.

use std::thread;
use std::time::{Duration, Instant};

use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, at_level, backend_pid,
    database_with_a_dollar, explained, reserve, try_reserve, wait_for_lock_wait,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::{Client, IsolationLevel, Transaction};

const ALL: &str = "cost_usd => 0.01";

/// A database in which 30 cents of the dollar are spent and 20 are held, and whose counters are in no
/// memory yet: an edit that changes nothing has taken them out.
fn with_half_a_dollar_gone() -> Database {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.3)");
    assert!(reserve(&mut client, "cost_usd => 0.2").allowed);
    take_counters_out(&mut client);
    database
}

fn take_counters_out(admin: &mut Client) {
    admin.run("UPDATE ai_limiter.ai_limits SET feature = 'none' WHERE name = 'cost'");
    admin.run("UPDATE ai_limiter.ai_limits SET feature = NULL WHERE name = 'cost'");
}

/// Makes every load wait until the transaction ends.
fn stopping_loads(client: &mut Client) -> Transaction<'_> {
    let mut transaction = client.transaction().unwrap();
    transaction.run("LOCK TABLE ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
    transaction
}

#[test]
fn two_that_load_one_counter_at_once_both_wait_and_are_both_right() {
    for level in LEVELS {
        let database = with_half_a_dollar_gone();
        let (mut stopper, mut observer) = (database.connect(), database.connect());
        let stopped = stopping_loads(&mut stopper);
        let allowed: Vec<bool> = thread::scope(|scope| {
            let askers: Vec<_> = (0..4)
                .map(|_| {
                    let mut client = database.connect();
                    let pid = backend_pid(&mut client);
                    let asker = scope.spawn(move || {
                        at_level(&mut client, level, |transaction| {
                            try_reserve(transaction, "cost_usd => 0.2").map(|v| v.allowed)
                        })
                    });
                    wait_for_lock_wait(&mut observer, pid);
                    asker
                })
                .collect();
            stopped.commit().unwrap();
            askers.into_iter().map(|asker| asker.join().unwrap()).collect()
        });
        assert_eq!(allowed.iter().filter(|&&allowed| allowed).count(), 2, "{level:?}");
        assert_eq!(agreed(&mut observer, ALL), "0.3 + 0.6");
        assert_sound(&mut observer);
    }
}

#[test]
fn a_check_that_loads_beside_an_open_writer_sees_what_is_committed_and_what_is_held() {
    for level in LEVELS {
        let database = with_half_a_dollar_gone();
        let (mut writer, mut other) = (database.connect(), database.connect());
        let mut open = writer.build_transaction().isolation_level(level).start().unwrap();
        open.run("SELECT count(*) FROM ai_limiter.ai_usage"); // takes its snapshot
        other.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.1)");
        take_counters_out(&mut other);
        // The writer loads under a snapshot of its own, later than its transaction's.
        let hold = try_reserve(&mut open, "cost_usd => 0.1").unwrap();
        assert_eq!(hold.remaining.as_deref(), Some("0.4"), "{level:?}");
        open.run("SAVEPOINT s; SELECT ai_limiter.record_ai_usage(cost_usd => 0.05)");
        assert_eq!(agreed(&mut open, ALL), "0.45 + 0.3");
        // What it may still undo keeps its room: 0.25 are left, nobody else gets more.
        assert!(!reserve(&mut other, "cost_usd => 0.26").allowed);
        open.run("ROLLBACK TO s");
        assert_eq!(agreed(&mut open, ALL), "0.4 + 0.3");
        assert!(reserve(&mut other, "cost_usd => 0.3").allowed);
        open.commit().unwrap();
        assert_eq!(agreed(&mut other, ALL), "0.4 + 0.6");
        assert_sound(&mut other);
    }
}

/// A load is stopped in its middle, ended by `end`, and everybody after it is served.
fn load_ended_by(setting: &str, end: impl FnOnce(&mut Client, i32), code: &str) {
    let database = with_half_a_dollar_gone();
    let (mut stopper, mut observer) = (database.connect(), database.connect());
    let (mut ended, mut next) = (database.connect(), database.connect());
    ended.run(&format!("SET ai_limiter.on_error = allow; {setting}"));
    let (pid, next_pid) = (backend_pid(&mut ended), backend_pid(&mut next));
    let stopped = stopping_loads(&mut stopper);
    thread::scope(|scope| {
        let ended = scope.spawn(move || (try_reserve(&mut ended, "cost_usd => 0.4"), ended));
        wait_for_lock_wait(&mut observer, pid);
        let next = scope.spawn(move || try_reserve(&mut next, "cost_usd => 0.5"));
        wait_for_lock_wait(&mut observer, next_pid);
        end(&mut observer, pid);
        let (answer, mut ended) = ended.join().unwrap();
        let error = answer.unwrap_err();
        assert!(sqlstate(&error) == code || error.is_closed(), "{}", explained(&error));
        stopped.commit().unwrap();
        let verdict = next.join().unwrap().unwrap_or_else(|error| panic!("{}", explained(&error)));
        assert!(verdict.allowed, "the whole half dollar is left");
        if code != "57P01" {
            assert_eq!(agreed(&mut ended, ALL), "0.3 + 0.7");
        }
    });
    assert_eq!(agreed(&mut observer, ALL), "0.3 + 0.7");
    assert_sound(&mut observer);
}

#[test]
fn a_load_that_is_cancelled_leaves_nothing_and_lets_the_next_one_load() {
    let cancel = |observer: &mut Client, pid| {
        observer.run(&format!("SELECT pg_cancel_backend({pid})"));
    };
    load_ended_by("", cancel, "57014");
}

#[test]
fn a_load_whose_session_is_ended_leaves_nothing_and_lets_the_next_one_load() {
    let terminate = |observer: &mut Client, pid| {
        observer.run(&format!("SELECT pg_terminate_backend({pid})"));
    };
    load_ended_by("", terminate, "57P01");
}

#[test]
fn a_load_that_fails_leaves_nothing_and_lets_the_next_one_load() {
    load_ended_by("SET lock_timeout = '400ms'", |_, _| {}, "55P03");
    load_ended_by("SET statement_timeout = '400ms'", |_, _| {}, "57014");
}

#[test]
fn a_rule_that_changes_beside_an_open_transaction_counts_what_that_did_under_the_old_one() {
    for level in LEVELS {
        let database = with_half_a_dollar_gone();
        let (mut writer, mut admin) = (database.connect(), database.connect());
        let mut observer = database.connect();
        let mut open = writer.build_transaction().isolation_level(level).start().unwrap();
        let user = "user_id => '00000000-0000-4000-8000-000000000001'";
        assert!(try_reserve(&mut open, &format!("{user}, cost_usd => 0.3")).unwrap().allowed);
        let pid = backend_pid(&mut admin);
        let edit = thread::spawn(move || {
            admin.run("UPDATE ai_limiter.ai_limits SET per = '{user}' WHERE name = 'cost'");
            admin
        });
        // It waits in tries, the first of which are short.
        wait_for_lock_wait(&mut observer, pid);
        assert_eq!(agreed(&mut open, ALL), "0.3 + 0.5", "the old rule still counts for all");
        open.commit().unwrap();
        let mut admin = edit.join().unwrap();
        let of_user = format!("{user}, cost_usd => 0.01");
        for client in [&mut admin, &mut observer, &mut writer] {
            assert_eq!(agreed(client, &of_user), "0 + 0.3", "the new one of the user");
        }
        assert!(!reserve(&mut writer, &format!("{user}, cost_usd => 0.71")).allowed);
        assert_sound(&mut observer);
    }
}

#[test]
fn counters_are_right_while_their_rule_changes_and_they_are_loaded_and_written() {
    let database = database_with_a_dollar(Cluster::shared());
    let ends = Instant::now() + Duration::from_secs(2);
    database.clients(5, |number, client| {
        let shapes = ["{user}", "{}", "{tenant}", "{feature}"];
        for turn in 0.. {
            if Instant::now() > ends {
                break;
            }
            if number == 0 {
                client.run(&format!(
                    "UPDATE ai_limiter.ai_limits SET per = '{}' WHERE name = 'cost'",
                    shapes[turn % 4]
                ));
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            let level: IsolationLevel = LEVELS[turn % 3];
            let call = "user_id => '00000000-0000-4000-8000-000000000001', feature => 'f', \
                        cost_usd => 0.3";
            at_level(client, level, |transaction| {
                let verdict = try_reserve(transaction, call)?;
                if let Some(hold) = verdict.reservation_id.filter(|_| turn % 2 == 0) {
                    transaction.simple_query(&format!(
                        "SELECT ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.00001)"
                    ))?;
                } else {
                    transaction.simple_query(
                        "SELECT ai_limiter.release_ai_usage(id) FROM (SELECT id FROM \
                         ai_limiter.ai_reservations WHERE state = 'open' LIMIT 1) r",
                    )?;
                }
                Ok(())
            });
        }
    });
    let mut admin = database.connect();
    for per in ["{user}", "{}", "{tenant}"] {
        admin.run(&format!("UPDATE ai_limiter.ai_limits SET per = '{per}' WHERE name = 'cost'"));
        agreed(&mut admin, "user_id => '00000000-0000-4000-8000-000000000001', cost_usd => 1");
    }
    assert_no_drift(&mut admin);
}
