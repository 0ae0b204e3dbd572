//! Transactions that write too much to tell the counters of it, a restore among them: nothing is lost,
//! nothing is admitted on what is not seen yet, and everybody else is served.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ai_limiter_tests::calls::{
    LEVELS, Session, agreed, assert_no_drift, assert_sound, database_with_a_dollar, explained,
    reserve, try_reserve, wait_until,
};
use ai_limiter_tests::{Cluster, Database, SUPERUSER, sqlstate};
use postgres::Client;

const ALL: &str = "cost_usd => 0.01";

/// A server on which a transaction is in bulk mode from its ninth counter on.
fn with_few_counters() -> Cluster {
    Cluster::builder()
        .supabase_roles()
        .setting("fsync", "off")
        .setting("ai_limiter.max_counters", "64")
        .start()
}

/// A dollar for all, and a counter for each user.
fn database(cluster: &Cluster) -> Database {
    let database = database_with_a_dollar(cluster);
    database.connect().run(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount, action) \
         VALUES ('users', '{user}', 'requests', 'day', 1, 'warn')",
    );
    database
}

/// Rows of the ledger, each of another user.
fn usage(users: u32, cost: &str) -> String {
    format!(
        "INSERT INTO ai_limiter.ai_usage (user_id, cost_usd) SELECT \
         ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, {cost} \
         FROM generate_series(1, {users}) n"
    )
}

fn of_user(number: u32) -> String {
    format!("user_id => '00000000-0000-4000-8000-{number:012}', cost_usd => 0.01")
}

fn assert_right(client: &mut Client, sums: &str) {
    assert_eq!(agreed(client, ALL), sums);
    for number in [1, 7, 30] {
        agreed(client, &of_user(number));
    }
    assert_no_drift(client);
}

#[test]
fn two_bulk_loads_at_once_are_both_counted_and_others_are_served_meanwhile() {
    let cluster = with_few_counters();
    let database = database(&cluster);
    let (loaded, both_are_open) = (AtomicBool::new(false), Barrier::new(2));
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..2)
            .map(|_| {
                let (mut client, both_are_open) = (database.connect(), &both_are_open);
                scope.spawn(move || {
                    for _ in 0..3 {
                        let mut transaction = client.transaction().unwrap();
                        transaction.run(&usage(40, "0.001"));
                        both_are_open.wait();
                        thread::sleep(Duration::from_millis(60));
                        transaction.commit().unwrap_or_else(|e| panic!("{}", explained(&e)));
                    }
                })
            })
            .collect();
        let (mut client, loaded) = (database.connect(), &loaded);
        let served = scope.spawn(move || {
            let mut served = 0;
            while !loaded.load(Ordering::SeqCst) {
                let verdict = reserve(&mut client, "cost_usd => 0.7");
                assert!(verdict.allowed, "{verdict:?}");
                client.run(&format!("SELECT ai_limiter.release_ai_usage('{}')", verdict.id()));
                served += 1;
            }
            served
        });
        let outcomes: Vec<_> = loaders.into_iter().map(|loader| loader.join()).collect();
        loaded.store(true, Ordering::SeqCst);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        assert!(served.join().unwrap() > 10);
    });
    assert_right(&mut database.connect(), "0.24 + 0");
    assert_sound(&mut database.connect());
}

#[test]
fn a_copy_into_the_ledger_is_counted_row_by_row() {
    use std::io::Write;
    let cluster = with_few_counters();
    let database = database(&cluster);
    let mut client = database.connect();
    assert_eq!(agreed(&mut client, ALL), "0 + 0");
    let mut copy =
        client.copy_in("COPY ai_limiter.ai_usage (user_id, cost_usd) FROM STDIN").unwrap();
    for number in 1..=50 {
        writeln!(copy, "00000000-0000-4000-8000-{number:012}\t0.002").unwrap();
    }
    copy.finish().unwrap();
    assert_right(&mut client, "0.1 + 0");
}

#[test]
fn a_reservation_in_a_bulk_transaction_counts_what_that_has_written() {
    let cluster = with_few_counters();
    for level in LEVELS {
        let database = database(&cluster);
        let (mut client, mut other) = (database.connect(), database.connect());
        assert_eq!(agreed(&mut other, ALL), "0 + 0");
        let mut open = client.build_transaction().isolation_level(level).start().unwrap();
        open.run(&usage(40, "0.02"));
        assert_eq!(agreed(&mut open, ALL), "0.8 + 0");
        assert!(!try_reserve(&mut open, "cost_usd => 0.21").unwrap().allowed);
        assert!(try_reserve(&mut open, "cost_usd => 0.15").unwrap().allowed);
        assert_eq!(agreed(&mut open, ALL), "0.8 + 0.15");
        // Who would be admitted on what is not seen yet waits until it is.
        other.run("SET lock_timeout = '200ms'");
        let error = try_reserve(&mut other, "cost_usd => 0.9").unwrap_err();
        assert_eq!(sqlstate(&error), "55P03", "{}", explained(&error));
        open.commit().unwrap();
        assert_right(&mut other, "0.8 + 0.15");
        assert!(!reserve(&mut other, "cost_usd => 0.06").allowed);
        assert!(reserve(&mut other, "cost_usd => 0.05").allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn a_rollback_to_a_savepoint_before_a_bulk_load_undoes_it_and_keeps_what_was_held() {
    let cluster = with_few_counters();
    for commits in [true, false] {
        let database = database(&cluster);
        let (mut client, mut other) = (database.connect(), database.connect());
        client.run("BEGIN");
        assert!(reserve(&mut client, "cost_usd => 0.3").allowed);
        client.run(&format!("SAVEPOINT s; {}", usage(40, "0.001")));
        assert_eq!(agreed(&mut client, ALL), "0.04 + 0.3");
        client.run("ROLLBACK TO s");
        assert_eq!(agreed(&mut client, ALL), "0 + 0.3");
        // The others go on at once, and count what is held.
        assert!(!reserve(&mut other, "cost_usd => 0.71").allowed);
        assert!(reserve(&mut other, "cost_usd => 0.5").allowed);
        client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.05)");
        assert_eq!(agreed(&mut client, ALL), "0.05 + 0.8");
        client.run(if commits { "COMMIT" } else { "ROLLBACK" });
        assert_right(&mut other, if commits { "0.05 + 0.8" } else { "0 + 0.5" });
        assert_sound(&mut other);
    }
}

#[test]
fn a_bulk_load_that_held_nothing_stays_one_after_a_rollback_to_a_savepoint() {
    let cluster = with_few_counters();
    let database = database(&cluster);
    let (mut client, mut other) = (database.connect(), database.connect());
    client.run(&format!("BEGIN; {}; SAVEPOINT s", usage(3, "0.1")));
    client.run(&format!("{}; ROLLBACK TO s", usage(40, "0.001")));
    assert_eq!(agreed(&mut client, ALL), "0.3 + 0");
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.2); COMMIT");
    assert_right(&mut other, "0.5 + 0");
    assert!(!reserve(&mut other, "cost_usd => 0.51").allowed);
    assert_sound(&mut other);
}

#[test]
fn two_bulk_loads_that_both_hold_something_do_not_wait_for_each_other_for_ever() {
    let cluster = with_few_counters();
    let database = database(&cluster);
    let both_hold = Barrier::new(2);
    let begun = Instant::now();
    let committed = database.clients(2, |_, client| {
        client.run("BEGIN");
        assert!(reserve(client, "cost_usd => 0.1").allowed);
        client.run(&usage(40, "0.001"));
        both_hold.wait();
        match client.batch_execute("COMMIT") {
            Ok(()) => true,
            Err(error) => {
                let code = sqlstate(&error).to_owned();
                assert!(["55P03", "40P01"].contains(&code.as_str()), "{}", explained(&error));
                false
            }
        }
    });
    let committed = committed.into_iter().filter(|&committed| committed).count();
    let expected = ["0 + 0", "0.04 + 0.1", "0.08 + 0.2"][committed];
    assert_right(&mut database.connect(), expected);
    // Each gives up after ten seconds, as an edit does; the other may have its turn then.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_dump_that_is_restored_while_checks_are_made_is_counted_whole() {
    let cluster = with_few_counters();
    let original = database(&cluster);
    let mut client = original.connect();
    client.run(&usage(50, "0.01"));
    assert!(reserve(&mut client, "cost_usd => 0.1, run_id => 'r', run_limit_usd => 0.15").allowed);
    assert_right(&mut client, "0.5 + 0.1");
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    cluster.run_ok("pg_dump", &["-f", path, original.name()]);
    let copy = cluster.create_database("restored");
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (config, ends) = (copy.config(SUPERUSER), &ends);
                scope.spawn(move || {
                    let mut client = config.connect(postgres::NoTls).unwrap();
                    while !ends.load(Ordering::SeqCst) {
                        // An error until there is an extension. Who reserves before the partitions are
                        // restored makes them, and the restore fails.
                        let _ = client.simple_query(
                            "SELECT ai_limiter.check_ai_limit(cost_usd => 0.01, run_id => 'r')",
                        );
                        thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        let restored = catch_unwind(AssertUnwindSafe(|| {
            cluster.run_ok("psql", &["-q", "-v", "ON_ERROR_STOP=1", "-f", path, "restored"]);
            thread::sleep(Duration::from_millis(50));
        }));
        ends.store(true, Ordering::SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        restored.unwrap_or_else(|panic| resume_unwind(panic));
    });
    let mut client = copy.connect();
    assert_right(&mut client, "0.5 + 0.1");
    assert_eq!(agreed(&mut client, "cost_usd => 0.01, run_id => 'r'"), "0 + 0.1");
    assert!(!reserve(&mut client, "cost_usd => 0.11, run_id => 'r'").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.41").allowed);
    assert_sound(&mut client);
    wait_until("the callers are gone", || {
        client.value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'restored'") == "1"
    });
}
