//! Caps of single runs, and holds whose time is over: what counters in shared memory say of them.

use std::thread::sleep;
use std::time::Duration;

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, database_with_a_dollar, reserve,
    try_extend,
};

const RUN: &str = "run_id => 'r', cost_usd => 0.01";
const CAPPED: &str = "run_id => 'r', run_limit_usd => 0.5";

#[test]
fn a_run_that_gets_its_cap_late_counts_what_its_transaction_did_before() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut other) = (database.connect(), database.connect());
        other.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.1, run_id => 'r')");
        let mut open = client.build_transaction().isolation_level(level).start().unwrap();
        open.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.2, run_id => 'r')");
        assert!(reserve(&mut open, &format!("{CAPPED}, cost_usd => 0.1")).allowed);
        assert_eq!(agreed(&mut open, RUN), "0.3 + 0.1");
        assert!(!reserve(&mut open, "run_id => 'r', cost_usd => 0.11").allowed);
        assert!(reserve(&mut open, "run_id => 'r', cost_usd => 0.04").allowed);
        open.commit().unwrap();
        assert_eq!(agreed(&mut other, RUN), "0.3 + 0.14");
        assert!(!reserve(&mut other, "run_id => 'r', cost_usd => 0.07").allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn a_cap_that_was_not_fixed_after_all_leaves_no_counter_behind() {
    for undone in ["rolled back", "rolled back to a savepoint", "denied", "deleted"] {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut other) = (database.connect(), database.connect());
        let cap = format!("SELECT ai_limiter.reserve_ai_usage({CAPPED}, cost_usd => 0.1)");
        match undone {
            "rolled back" => client.run(&format!("BEGIN; {cap}; ROLLBACK")),
            "denied" => {
                assert!(!reserve(&mut client, &format!("{CAPPED}, cost_usd => 0.6")).allowed)
            }
            "deleted" => {
                client.run(&cap);
                assert_eq!(agreed(&mut other, RUN), "0 + 0.1");
                client.run("DELETE FROM ai_limiter.ai_run_limits");
            }
            _ => client.run(&format!("BEGIN; SAVEPOINT s; {cap}; ROLLBACK TO s; COMMIT")),
        }
        other.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.2, run_id => 'r')");
        let held = if undone == "deleted" { "0.1" } else { "0" };
        assert_eq!(agreed(&mut client, RUN), format!("0.2 + {held}"), "of the dollar for all");
        assert!(reserve(&mut client, &format!("{CAPPED}, cost_usd => 0.2")).allowed);
        let held = if undone == "deleted" { "0.3" } else { "0.2" };
        for session in [&mut client, &mut other] {
            assert_eq!(agreed(session, RUN), format!("0.2 + {held}"), "{undone}");
            assert!(!reserve(session, "run_id => 'r', cost_usd => 0.11").allowed, "{undone}");
        }
        assert_sound(&mut other);
    }
}

/// What an attempt that was undone has left in memory is not what the run has spent by the time that it
/// gets its cap, whoever gives it that: one who has written for the run before, or one who has not.
#[test]
fn a_cap_after_one_that_was_undone_counts_what_came_between() {
    for level in LEVELS {
        for before in ["", "SELECT ai_limiter.record_ai_usage(cost_usd => 0.1, run_id => 'r')"] {
            let database = database_with_a_dollar(Cluster::shared());
            let (mut client, mut other) = (database.connect(), database.connect());
            let cap = format!("SELECT ai_limiter.reserve_ai_usage({CAPPED}, cost_usd => 0.1)");
            client.run(&format!("BEGIN; {cap}; ROLLBACK"));
            other.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.2, run_id => 'r')");
            let mut open = client.build_transaction().isolation_level(level).start().unwrap();
            open.run(&format!("SAVEPOINT a; {cap}; ROLLBACK TO a; {before}"));
            let spent = if before.is_empty() { "0.2" } else { "0.3" };
            let call = |cents| format!("{CAPPED}, cost_usd => 0.{cents}");
            assert!(!reserve(&mut open, &call("31")).allowed);
            assert!(reserve(&mut open, &call("05")).allowed);
            open.run("SAVEPOINT b");
            assert!(reserve(&mut open, &call("02")).allowed);
            assert_eq!(agreed(&mut open, RUN), format!("{spent} + 0.07"));
            open.run("ROLLBACK TO b");
            assert_eq!(agreed(&mut open, RUN), format!("{spent} + 0.05"));
            open.commit().unwrap();
            assert_eq!(agreed(&mut other, RUN), format!("{spent} + 0.05"));
            assert!(!reserve(&mut other, &call("26")).allowed);
            assert!(reserve(&mut other, &call("15")).allowed);
            assert_sound(&mut other);
        }
    }
}

#[test]
fn who_gives_a_run_its_cap_has_its_counter_loaded_for_all() {
    let database = database_with_a_dollar(Cluster::shared_preloaded());
    let (mut client, mut other) = (database.connect(), database.connect());
    assert!(reserve(&mut client, &format!("{CAPPED}, cost_usd => 0.3")).allowed);
    // Nothing can be summed now.
    client.run("BEGIN; LOCK TABLE ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
    other.run("SET lock_timeout = '1s'");
    assert!(!reserve(&mut other, "run_id => 'r', cost_usd => 0.21").allowed);
    assert!(reserve(&mut other, "run_id => 'r', cost_usd => 0.2").allowed);
    client.run("COMMIT");
    assert_eq!(agreed(&mut client, RUN), "0 + 0.5");
    assert_sound(&mut client);
}

#[test]
fn a_cap_finds_a_run_without_what_has_expired_in_it() {
    for expired in ["0.1", "0.3"] {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut other) = (database.connect(), database.connect());
        let hold = "run_id => 'r', ttl => '20 milliseconds', cost_usd =>";
        assert!(reserve(&mut other, &format!("{hold} {expired}")).allowed);
        assert!(reserve(&mut other, "run_id => 'r', cost_usd => 0.1").allowed);
        sleep(Duration::from_millis(30));
        assert!(reserve(&mut client, &format!("{CAPPED}, cost_usd => 0.3")).allowed);
        for session in [&mut client, &mut other] {
            assert!(!reserve(session, "run_id => 'r', cost_usd => 0.11").allowed);
            assert_eq!(agreed(session, RUN), "0 + 0.4");
        }
        assert!(reserve(&mut other, "run_id => 'r', cost_usd => 0.1").allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn a_hold_that_is_extended_after_its_time_is_admitted_anew_as_a_whole() {
    for others_hold in ["0.2", "0.5"] {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut client, mut other) = (database.connect(), database.connect());
        let due = reserve(&mut client, "cost_usd => 0.4, ttl => '20 milliseconds'");
        sleep(Duration::from_millis(30));
        assert!(reserve(&mut other, &format!("cost_usd => {others_hold}")).allowed);
        let fits = others_hold == "0.2";
        let extended = try_extend(&mut client, due.id(), "cost_usd => 0.6, ttl => '1 hour'");
        assert_eq!(extended.unwrap().allowed, fits);
        let held = if fits { "0.8" } else { "0.5" };
        for session in [&mut client, &mut other] {
            assert_eq!(agreed(session, "cost_usd => 0.01"), format!("0 + {held}"));
        }
        assert!(!reserve(&mut other, "cost_usd => 0.51").allowed);
        assert_sound(&mut other);
    }
}

/// A hold whose time is over counts in shared memory until it is marked, and in the tables no longer.
#[test]
fn holds_that_expire_while_counters_are_verified_are_no_drift() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    for round in 0..600 {
        // Due anywhere between the first and the last step of verifying, and of the worker's sweep.
        let ttl = format!("'{} microseconds'", 500 + round % 60 * 100);
        client.run(&format!(
            "SELECT ai_limiter.reserve_ai_usage(cost_usd => 0.001, ttl => {ttl}) FROM generate_series(1, 3)"
        ));
        assert_no_drift(&mut client);
    }
}
