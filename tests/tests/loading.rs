//! Counters in shared memory are loaded while others write to them, by several at once, and by
//! sessions that are ended half-way.

use std::sync::Barrier;
use std::thread;

use ai_limiter_tests::calls::{
    LEVELS, Session, Verdict, assert_sound, at_level, backend_pid, database_with_a_dollar,
    explained, held_cents, reserve, try_reserve, wait_for_lock_wait,
};
use ai_limiter_tests::waiting::forget_counters;
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;

fn database() -> Database {
    database_with_a_dollar(Cluster::shared_preloaded())
}

/// Leaves the session in a transaction that whoever loads a counter waits for.
fn keep_from_loading(session: &mut impl Session) {
    forget_counters(session);
    session.run("BEGIN; LOCK TABLE ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
}

/// What became of a call in a thread of its own.
type Waiting = thread::JoinHandle<(Result<Verdict, postgres::Error>, Client)>;

/// A call that waits, and the process that it waits in.
fn waiting_call(database: &Database, arguments: &'static str) -> (i32, Waiting) {
    let mut client = database.connect();
    let pid = backend_pid(&mut client);
    let thread = thread::spawn(move || (try_reserve(&mut client, arguments), client));
    wait_for_lock_wait(&mut database.connect(), pid);
    (pid, thread)
}

#[test]
fn a_load_that_is_ended_half_way_leaves_the_counter_to_the_next() {
    for (function, code) in [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01")] {
        let database = database();
        let (mut keeper, mut observer) = (database.connect(), database.connect());
        assert!(reserve(&mut keeper, "cost_usd => 0.3").allowed);
        keep_from_loading(&mut keeper);
        // One loads, three wait for it: a call that fits, one that does not, and a check.
        let (loading, loader) = waiting_call(&database, "cost_usd => 0.7");
        let (_, fits) = waiting_call(&database, "cost_usd => 0.5");
        let (_, does_not) = waiting_call(&database, "cost_usd => 0.71");
        let mut asking = database.connect();
        let pid = backend_pid(&mut asking);
        let asking = thread::spawn(move || {
            asking.value("SELECT held >= 0.3 FROM ai_limiter.check_ai_limit(cost_usd => 0.1)")
        });
        wait_for_lock_wait(&mut observer, pid);
        observer.run(&format!("SELECT {function}({loading})"));
        let (ended, _) = loader.join().unwrap();
        let error = ended.unwrap_err();
        assert!(sqlstate(&error) == code || error.is_closed(), "{}", explained(&error));
        keeper.run("COMMIT");
        assert!(fits.join().unwrap().0.unwrap().allowed);
        assert!(!does_not.join().unwrap().0.unwrap().allowed);
        assert_eq!(asking.join().unwrap(), "t");
        assert_eq!(held_cents(&mut observer), 80);
        assert!(!reserve(&mut observer, "cost_usd => 0.21").allowed);
        assert!(reserve(&mut observer, "cost_usd => 0.2").allowed);
        assert_sound(&mut observer);
    }
}

#[test]
fn a_call_whose_load_fails_is_degraded_and_the_next_loads() {
    for (on_error, allowed) in [("deny", false), ("allow", true)] {
        let database = database();
        let (mut client, mut other) = (database.connect(), database.connect());
        assert!(reserve(&mut client, "cost_usd => 0.3").allowed);
        forget_counters(&mut client);
        client.run("ALTER TABLE ai_limiter.ai_usage RENAME cost_usd TO gone");
        client.run(&format!("SET ai_limiter.on_error = {on_error}; BEGIN; SAVEPOINT a"));
        let verdict = reserve(&mut client, "cost_usd => 0.4");
        assert_eq!((verdict.allowed, verdict.reason.as_str()), (allowed, "degraded"));
        // It has written a hold that is in no counter: whatever it holds next is not in any either.
        client.run("RELEASE a");
        let verdict = reserve(&mut client, "cost_usd => 0.2");
        assert_eq!((verdict.allowed, verdict.reason.as_str()), (allowed, "degraded"));
        client.run("COMMIT");
        other.run("ALTER TABLE ai_limiter.ai_usage RENAME gone TO cost_usd");
        assert_eq!(held_cents(&mut other), if allowed { 90 } else { 30 });
        assert_eq!(reserve(&mut other, "cost_usd => 0.11").allowed, !allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn a_counter_that_is_loaded_while_others_write_to_it_misses_nothing() {
    for level in LEVELS {
        let database = database();
        database.connect().run("UPDATE ai_limiter.ai_limits SET amount = 100 WHERE id > 0");
        let start = Barrier::new(13);
        let cents: i32 = thread::scope(|scope| {
            let writers: Vec<_> = (0..12)
                .map(|number| {
                    let (mut client, start) = (database.connect(), &start);
                    scope.spawn(move || {
                        start.wait();
                        (0..25)
                            .map(|round| {
                                let at = |t: &mut postgres::Transaction| {
                                    let hold = try_reserve(t, "cost_usd => 0.05")?;
                                    let id = hold.id();
                                    match (number + round) % 4 {
                                        0 => t.rows(&format!("SELECT ai_limiter.release_ai_usage('{id}')"))?,
                                        1 => t.rows(&format!("SELECT ai_limiter.settle_ai_usage('{id}', cost_usd => 0.02)"))?,
                                        2 => t.rows("INSERT INTO ai_limiter.ai_usage (cost_usd) VALUES (0.01)")?,
                                        _ => vec![],
                                    };
                                    Ok([0, 2, 6, 5][(number + round) as usize % 4])
                                };
                                at_level(&mut client, level, at)
                            })
                            .sum::<i32>()
                    })
                })
                .collect();
            let (mut client, start) = (database.connect(), &start);
            scope.spawn(move || {
                start.wait();
                // Waits for whoever is open, and has all of them load it again.
                for _ in 0..15 {
                    forget_counters(&mut client);
                    client.run("SELECT ai_limiter.check_ai_limit(cost_usd => 0.01)");
                }
            });
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        let mut admin = database.connect();
        let says = "SELECT ((used + held) * 100)::int FROM ai_limiter.verify_ai_counters()";
        assert_eq!(admin.value(says), cents.to_string(), "at {level:?}");
        assert_sound(&mut admin);
    }
}

/// A transaction that loads a counter in which it has rows of its own counts them once.
#[test]
fn a_load_leaves_out_what_its_own_transaction_has_written() {
    for level in LEVELS {
        let database = database();
        let (mut client, mut other) = (database.connect(), database.connect());
        assert!(reserve(&mut other, "cost_usd => 0.1").allowed);
        client.run(&format!(
            "BEGIN ISOLATION LEVEL {}",
            match level {
                postgres::IsolationLevel::ReadCommitted => "READ COMMITTED",
                postgres::IsolationLevel::RepeatableRead => "REPEATABLE READ",
                _ => "SERIALIZABLE",
            }
        ));
        client.run("SELECT 1 FROM ai_limiter.ai_usage");
        assert!(reserve(&mut client, "cost_usd => 0.2, feature => 'f'").allowed);
        client.run("INSERT INTO ai_limiter.ai_usage (cost_usd, run_id) VALUES (0.1, 'r')");
        // A cap that is new to it: of the run, with what the transaction itself has booked for it.
        let call = "cost_usd => 0.1, run_id => 'r', run_limit_usd => 0.25";
        assert!(reserve(&mut client, call).allowed);
        assert!(!reserve(&mut client, call).allowed);
        assert!(reserve(&mut client, "cost_usd => 0.05, run_id => 'r'").allowed);
        assert!(!reserve(&mut other, "cost_usd => 0.46").allowed);
        assert!(reserve(&mut other, "cost_usd => 0.45").allowed);
        assert!(!reserve(&mut client, "cost_usd => 0.01").allowed);
        client.run("COMMIT");
        let says = "SELECT string_agg((used + held)::numeric(5,2)::text, ' ' ORDER BY limit_id) \
            FROM ai_limiter.verify_ai_counters()";
        assert_eq!(other.value(says), "0.25 1.00");
        assert_sound(&mut other);
    }
}

fn run_cents(session: &mut impl Session) -> String {
    session.value(
        "SELECT coalesce(sum((used + held) * 100), -1)::int FROM ai_limiter.verify_ai_counters() \
         WHERE limit_name = 'run_limit'",
    )
}

#[test]
fn a_run_that_gets_a_cap_late_has_spent_what_it_did_before() {
    const CAPPED: &str = "run_id => 'r', run_limit_usd => 0.5, cost_usd => ";
    let first_caps = [
        // Denied, rolled back, or taken out by hand: each leaves the run without a cap.
        "SELECT ai_limiter.reserve_ai_usage(run_id => 'r', run_limit_usd => 0.1, cost_usd => 0.2)",
        "BEGIN; SELECT ai_limiter.reserve_ai_usage(run_id => 'r', run_limit_usd => 0.1, \
            cost_usd => 0); ROLLBACK",
        "BEGIN; SAVEPOINT a; SELECT ai_limiter.reserve_ai_usage(run_id => 'r', \
            run_limit_usd => 0.1, cost_usd => 0); ROLLBACK TO a; COMMIT",
        "SELECT ai_limiter.check_ai_limit(run_id => 'r', cost_usd => 0.1)",
        "SELECT ai_limiter.reserve_ai_usage(run_id => 'r', run_limit_usd => 0.1, cost_usd => 0); \
            SELECT ai_limiter.reserve_ai_usage(run_id => 'r', cost_usd => 0); \
            DELETE FROM ai_limiter.ai_run_limits",
    ];
    for first_cap in first_caps {
        let database = database();
        let (mut client, mut other) = (database.connect(), database.connect());
        client.run(first_cap);
        assert!(reserve(&mut client, "run_id => 'r', cost_usd => 0.3").allowed);
        client.run("INSERT INTO ai_limiter.ai_usage (run_id, cost_usd) VALUES ('r', 0.1)");
        assert!(!reserve(&mut other, &format!("{CAPPED} 0.11")).allowed, "{first_cap}");
        assert!(reserve(&mut other, &format!("{CAPPED} 0.1")).allowed, "{first_cap}");
        assert!(!reserve(&mut client, "run_id => 'r', cost_usd => 0.01").allowed, "{first_cap}");
        assert_eq!(run_cents(&mut client), "50", "{first_cap}");
        assert_sound(&mut client);
    }
}

#[test]
fn a_run_whose_cap_is_written_by_hand_counts_what_was_open() {
    let database = database();
    let (mut open, mut admin) = (database.connect(), database.connect());
    open.run("BEGIN");
    assert!(reserve(&mut open, "run_id => 'r', cost_usd => 0.3").allowed);
    let cap = "INSERT INTO ai_limiter.ai_run_limits (tenant_id, run_id, amount_usd) \
        VALUES ('00000000-0000-0000-0000-000000000000', 'r', 0.5)";
    let writing = thread::spawn(move || {
        admin.run(cap);
        admin
    });
    thread::sleep(std::time::Duration::from_millis(200));
    assert!(!writing.is_finished(), "it waits for the open call");
    open.run("COMMIT");
    let mut admin = writing.join().unwrap();
    assert!(!reserve(&mut open, "run_id => 'r', cost_usd => 0.21").allowed);
    assert!(reserve(&mut open, "run_id => 'r', cost_usd => 0.2").allowed);
    assert_eq!(run_cents(&mut admin), "50");
    // Another amount is at once another amount.
    admin.run("UPDATE ai_limiter.ai_run_limits SET amount_usd = 0.6");
    assert!(reserve(&mut open, "run_id => 'r', cost_usd => 0.1").allowed);
    assert!(!reserve(&mut open, "run_id => 'r', cost_usd => 0.01").allowed);
    assert_eq!(run_cents(&mut admin), "60");
    assert_sound(&mut admin);
}

#[test]
fn a_session_that_met_empty_tables_still_finds_the_rows_of_a_user_and_a_run_by_their_indexes() {
    let database = database();
    let (mut client, mut admin) = (database.connect(), database.connect());
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) VALUES \
            ('of_user', '{user}', 'cost_usd', 'day', 100), ('of_total', '{user}', 'cost_usd', 'total', 100); \
         UPDATE ai_limiter.ai_limits SET amount = 1000000 WHERE name NOT LIKE 'of_%'; \
         ALTER TABLE ai_limiter.ai_reservations SET (autovacuum_enabled = off); \
         ALTER TABLE ai_limiter.ai_run_limits SET (autovacuum_enabled = off); \
         DO $$ DECLARE name text; BEGIN FOR name IN SELECT c.relname FROM pg_class c \
            WHERE c.relname ~ '^ai_usage_20.._..$' LOOP \
            EXECUTE format('ALTER TABLE ai_limiter.%I SET (autovacuum_enabled = off)', name); \
         END LOOP; END $$",
    );
    admin.run(
        "VACUUM ANALYZE ai_limiter.ai_reservations, ai_limiter.ai_usage, ai_limiter.ai_run_limits",
    );
    // Ten new users, and a run of each that gets a cap.
    let meet = |client: &mut Client, first: u32| {
        for number in first..first + 10 {
            let call = format!(
                "user_id => '00000000-0000-4000-8000-{number:012}', run_id => 'r{number}', \
                 cost_usd => 0.01"
            );
            assert!(reserve(client, &format!("{call}, run_limit_usd => 1")).allowed);
            assert!(reserve(client, &call).allowed);
        }
        // What this transaction alone has read.
        client.value(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int \
             FROM pg_stat_xact_user_tables \
             WHERE schemaname = 'ai_limiter' AND (relname ~ '^ai_usage_[0-9]' \
                OR relname IN ('ai_reservations', 'ai_run_limits'))",
        )
    };
    meet(&mut client, 0);
    admin.run(
        "INSERT INTO ai_limiter.ai_reservations (id, user_id, tenant_id, tier, run_id, requests, \
            cost_usd, created_at, expires_at) \
         SELECT gen_random_uuid(), ('00000000-0000-4000-9000-' || lpad(n::text, 12, '0'))::uuid, \
            '00000000-0000-0000-0000-000000000000', 'free', 'h' || n, 1, 0.01, clock_timestamp(), \
            clock_timestamp() + interval '1 h' FROM generate_series(1, 3000) n; \
         INSERT INTO ai_limiter.ai_usage (user_id, run_id, cost_usd) \
         SELECT ('00000000-0000-4000-9000-' || lpad(n::text, 12, '0'))::uuid, 'h' || n, 0.01 \
            FROM generate_series(1, 3000) n; \
         INSERT INTO ai_limiter.ai_run_limits (tenant_id, run_id, amount_usd) \
         SELECT '00000000-0000-0000-0000-000000000000', 'h' || n, 1 FROM generate_series(1, 3000) n",
    );
    // What everybody shares is loaded once, and what expires next is looked for once, by another.
    assert!(reserve(&mut admin, "run_id => 'another', run_limit_usd => 1, cost_usd => 0").allowed);
    client.run("BEGIN");
    let read: u32 = meet(&mut client, 10).parse().unwrap();
    client.run("COMMIT");
    assert!((1..1000).contains(&read), "{read} rows were read");
    assert_sound(&mut admin);
}
