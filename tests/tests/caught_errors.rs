//! A call that ends in an error leaves the caller's transaction as it would be after any other
//! error: usable where the caller caught it, over where not.

use std::thread;

use ai_limiter_tests::calls::{
    Session, assert_sound, backend_pid, disable_shipped_limits, explained, reserve,
    wait_for_lock_wait,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

fn database_with_a_dollar(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'total', 1)",
    );
    admin.run("CREATE TABLE steps (step text); CREATE TABLE caught (sqlstate text)");
    database
}

/// A block that goes on after whatever error ends the call.
fn catching_block(call: &str) -> String {
    format!(
        "DO $$ BEGIN \
         INSERT INTO steps VALUES ('before'); \
         BEGIN \
             INSERT INTO steps VALUES ('undone'); \
             PERFORM {call}; \
             INSERT INTO steps VALUES ('not reached'); \
         EXCEPTION WHEN query_canceled OR lock_not_available OR deadlock_detected OR raise_exception \
             OR invalid_parameter_value THEN \
             INSERT INTO caught VALUES (SQLSTATE); \
         END; \
         INSERT INTO steps VALUES ('after'); END $$"
    )
}

/// What others see of the block, and that its session is where it was before.
fn assert_only_the_inner_block_is_undone(session: &mut Client, other: &mut Client, code: &str) {
    let steps = "SELECT coalesce(string_agg(step, ' ' ORDER BY step), '') FROM steps";
    assert_eq!(other.value(steps), "after before");
    assert_eq!(other.value("SELECT string_agg(sqlstate, ' ') FROM caught"), code);
    session.run("INSERT INTO steps VALUES ('later')");
    assert_eq!(other.value(steps), "after before later", "the session commits as before");
    let clock = "SELECT now() > pg_postmaster_start_time() AND now() - statement_timestamp() = '0'";
    assert_eq!(session.value(clock), "t", "each statement is a transaction of its own");
    other.run("TRUNCATE steps, caught");
}

#[test]
fn a_block_that_catches_a_timeout_or_a_cancel_is_undone_alone() {
    for (setting, code) in [
        ("SET lock_timeout = '200ms'", "55P03"),
        ("SET statement_timeout = '1s'", "57014"),
        ("SELECT 1", "57014"),
    ] {
        for (path, extends) in Path::BOTH.into_iter().flat_map(|p| [(p, false), (p, true)]) {
            let database = database_with_a_dollar(path.cluster());
            let (mut open, mut caller) = (database.connect(), database.connect());
            let hold = reserve(&mut open, "cost_usd => 0.1").id().to_owned();
            path.hold_up(&mut open, "cost_usd => 0.5");
            let call = match extends {
                true => format!("ai_limiter.extend_ai_reservation('{hold}', cost_usd => 0.2)"),
                false => "ai_limiter.reserve_ai_usage(cost_usd => 1)".to_owned(),
            };
            caller.run("SET ai_limiter.on_error = allow");
            caller.run(setting);
            let pid = backend_pid(&mut caller);
            let mut observer = database.connect();
            let thread = thread::spawn(move || {
                let result = caller.rows(&catching_block(&call));
                result.unwrap_or_else(|error| panic!("{}", explained(&error)));
                caller
            });
            if setting == "SELECT 1" {
                wait_for_lock_wait(&mut observer, pid);
                observer.run(&format!("SELECT pg_cancel_backend({pid})"));
            }
            let mut caller = thread.join().unwrap();
            assert_only_the_inner_block_is_undone(&mut caller, &mut observer, code);
            open.run("COMMIT");
            assert_sound(&mut open);
            assert!(reserve(&mut caller, "cost_usd => 0.4").allowed);
        }
    }
}

#[test]
fn a_block_that_catches_a_deadlock_is_undone_alone() {
    // In shared memory calls do not wait for each other.
    let database = database_with_a_dollar(Cluster::shared_without_preload());
    database.connect().run("UPDATE ai_limiter.ai_limits SET per = '{feature}' WHERE id > 0");
    let (mut patient, mut caller) = (database.connect(), database.connect());
    let call = |feature| format!("cost_usd => 0.1, feature => '{feature}'");
    // Only one of the two looks for deadlocks in time, and so is the one that is chosen.
    patient.run("SET deadlock_timeout = '1min'; BEGIN");
    caller.run("SET deadlock_timeout = '100ms'; SET ai_limiter.on_error = allow");
    assert!(reserve(&mut patient, &call("a")).allowed);
    let pid = backend_pid(&mut patient);
    caller.run("BEGIN");
    let hold = reserve(&mut caller, &call("b")).id().to_owned();
    let thread = thread::spawn(move || {
        let allowed = reserve(&mut patient, "cost_usd => 0.1, feature => 'b'").allowed;
        (allowed, patient)
    });
    let mut observer = database.connect();
    wait_for_lock_wait(&mut observer, pid);
    let reserving = format!("ai_limiter.reserve_ai_usage({})", call("a"));
    caller.run(&catching_block(&reserving));
    caller.run("COMMIT");
    let (allowed, mut patient) = thread.join().unwrap();
    assert!(allowed);
    patient.run("COMMIT");
    assert_only_the_inner_block_is_undone(&mut caller, &mut observer, "40P01");
    let holds = "SELECT count(*) FROM ai_limiter.ai_reservations";
    assert_eq!(observer.value(holds), "3");
    let kept = format!("{holds} WHERE id = '{hold}'");
    assert_eq!(observer.value(&kept), "1", "what came before the block stays");
    assert_sound(&mut observer);
}

#[test]
fn a_block_that_catches_bad_input_is_undone_alone() {
    let database = database_with_a_dollar(Cluster::shared());
    let (mut caller, mut observer) = (database.connect(), database.connect());
    for call in [
        "ai_limiter.reserve_ai_usage(feature => 'chat')",
        "ai_limiter.reserve_ai_usage(cost_usd => 'NaN')",
        "ai_limiter.check_ai_limit(attributes => '[1]')",
        "ai_limiter.record_ai_usage(cost_usd => 1, created_at => now() + interval '1 day')",
    ] {
        caller.run(&catching_block(call));
        assert_only_the_inner_block_is_undone(&mut caller, &mut observer, "22023");
    }
    assert_sound(&mut observer);
}
