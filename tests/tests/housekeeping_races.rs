//! What the limiter does beside its calls, partitions and tidying up, costs no call its answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ai_limiter_tests::calls::{
    LEVELS, Session, assert_sound, at_level, backend_pid, disable_shipped_limits, explained,
    reserve, try_extend, try_reserve, wait_for_lock_wait, wait_until,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};

/// A database with a cap of a dollar, in which nothing has been written yet.
fn untouched_database() -> Database {
    untouched_database_of(Cluster::shared())
}

fn untouched_database_of(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'total', 1)",
    );
    database
}

fn count(session: &mut impl Session, of: &str) -> usize {
    session.value(&format!("SELECT count(*) FROM {of}")).parse().unwrap()
}

const PARTITIONS: &str = "pg_inherits WHERE inhparent = 'ai_limiter.ai_usage'::regclass";

#[test]
fn many_first_calls_at_once_are_all_booked() {
    for level in LEVELS {
        let database = untouched_database();
        database.clients(32, |number, client| {
            let months_ago = 3 + number % 2;
            let sql = format!(
                "SELECT ai_limiter.record_ai_usage(cost_usd => 0.01, \
                 created_at => now() - interval '{months_ago} months')"
            );
            at_level(client, level, |t| t.rows(&sql).map(drop));
        });
        let mut admin = database.connect();
        assert_eq!(count(&mut admin, "ai_limiter.ai_usage"), 32);
        assert_sound(&mut admin);
        database.clients(32, |_, client| {
            assert!(reserve(client, "cost_usd => 0.01").allowed);
        });
        assert_eq!(count(&mut admin, "ai_limiter.ai_reservations"), 32);
        assert_sound(&mut admin);
    }
}

#[test]
fn many_calls_for_partitions_make_each_once() {
    let database = untouched_database();
    let made = database.clients(16, |_, client| {
        client.value("SELECT ai_limiter.ensure_ai_partitions()").parse::<usize>().unwrap()
    });
    assert_eq!(made.iter().sum::<usize>(), 4);
    assert_eq!(count(&mut database.connect(), PARTITIONS), 4);
}

#[test]
fn a_first_call_that_is_left_open_or_undone_stops_nobody() {
    let database = untouched_database();
    database.connect().run("UPDATE ai_limiter.ai_limits SET per = '{feature}' WHERE id > 0");
    let (mut open, mut other) = (database.connect(), database.connect());
    open.run("BEGIN");
    assert!(reserve(&mut open, "cost_usd => 0.01, feature => 'a'").allowed);
    other.run("SET lock_timeout = '5s'");
    let hold = reserve(&mut other, "cost_usd => 0.01, feature => 'b'");
    open.run("ROLLBACK");
    other.run(&format!("SELECT ai_limiter.settle_ai_usage('{}')", hold.id()));
    assert_eq!(count(&mut other, "ai_limiter.ai_usage"), 1);
    assert_sound(&mut other);
}

#[test]
fn settling_and_extending_expired_holds_while_they_are_tidied_up_loses_nothing() {
    let database = untouched_database();
    let over = AtomicBool::new(false);
    /// Ends the tidying also when a client panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let settled: usize = thread::scope(|scope| {
        let _end = End(&over);
        for _ in 0..2 {
            let (mut client, over) = (database.connect(), &over);
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    // As many at once as the app likes, and at any moment.
                    client.run("SELECT ai_limiter.refresh_ai_counters()");
                }
            });
        }
        let settled = database.clients(12, |number, client| {
            let level = LEVELS[number % 3];
            for round in 0..15 {
                let call = "cost_usd => 0.001, ttl => '5 milliseconds'";
                let hold = at_level(client, level, |t| try_reserve(t, call));
                client.run("SELECT pg_sleep(0.005)");
                if round % 3 == 0 {
                    let again = "cost_usd => 0.002, ttl => '5 milliseconds'";
                    let verdict = at_level(client, level, |t| try_extend(t, hold.id(), again));
                    assert!(verdict.allowed);
                }
                let settle = format!("SELECT ai_limiter.settle_ai_usage('{}')", hold.id());
                at_level(client, level, |t| t.rows(&settle).map(drop));
            }
            15
        });
        settled.iter().sum()
    });
    let mut admin = database.connect();
    assert_eq!(count(&mut admin, "ai_limiter.ai_usage"), settled);
    assert_eq!(count(&mut admin, "ai_limiter.ai_reservations"), 0);
    let cost = "SELECT sum(cost_usd) = 12 * (10 * 0.001 + 5 * 0.002) FROM ai_limiter.ai_usage";
    assert_eq!(admin.value(cost), "t");
    assert_sound(&mut admin);
}

#[test]
fn an_extension_is_never_granted_to_a_hold_that_is_forgotten_meanwhile() {
    let database = untouched_database_of(Cluster::shared_without_preload());
    let (mut client, mut extending) = (database.connect(), database.connect());
    let (mut tidying, mut observer) = (database.connect(), database.connect());
    let hold = reserve(&mut client, "cost_usd => 0.1, ttl => '10 milliseconds'").id().to_owned();
    client.run("SELECT pg_sleep(0.02)");
    client.run("BEGIN");
    assert!(reserve(&mut client, "cost_usd => 0.1").allowed);
    // The extension has found its hold, and waits for the counter.
    let (pid, id) = (backend_pid(&mut extending), hold.clone());
    let thread = thread::spawn(move || try_extend(&mut extending, &id, "cost_usd => 0.2"));
    wait_for_lock_wait(&mut observer, pid);
    tidying.run("SET ai_limiter.reservation_retention = 0; SET lock_timeout = '5s'");
    tidying.run("SELECT ai_limiter.refresh_ai_counters()");
    client.run("COMMIT");
    match thread.join().unwrap() {
        Ok(verdict) => {
            assert!(verdict.allowed);
            client.run(&format!("SELECT ai_limiter.settle_ai_usage('{hold}')"));
            assert_eq!(client.value("SELECT sum(cost_usd) = 0.2 FROM ai_limiter.ai_usage"), "t");
        }
        Err(error) => assert_eq!(sqlstate(&error), "42704", "{}", explained(&error)),
    }
    assert_sound(&mut client);
}

#[test]
fn a_hold_that_expires_frees_its_budget_for_waiting_clients() {
    let database = untouched_database();
    let mut client = database.connect();
    let hold = reserve(&mut client, "cost_usd => 1, ttl => '300 milliseconds'").id().to_owned();
    assert!(!reserve(&mut client, "cost_usd => 0.01").allowed);
    wait_until("the hold has expired", || reserve(&mut client, "cost_usd => 0.01").allowed);
    let admitted = database.clients(32, |_, client| {
        (0..10).filter(|_| reserve(client, "cost_usd => 0.01").allowed).count()
    });
    assert_eq!(admitted.iter().sum::<usize>(), 99);
    assert_sound(&mut client);
    // The late truth is booked all the same, beyond the cap.
    client.run(&format!("SELECT ai_limiter.settle_ai_usage('{hold}')"));
    let over = "SELECT used + held = 2 AND drift = 0 FROM ai_limiter.verify_ai_counters()";
    assert_eq!(client.value(over), "t");
    assert!(!reserve(&mut client, "cost_usd => 0.01").allowed);
}

/// Marking what is due belongs to the transaction that does it; what comes due later is anybody's.
#[test]
fn an_open_transaction_that_found_a_hold_expired_keeps_nobody_from_finding_others() {
    for end in ["COMMIT", "ROLLBACK"] {
        let database = untouched_database();
        let (mut client, mut open) = (database.connect(), database.connect());
        client.run("UPDATE ai_limiter.ai_limits SET per = '{feature}' WHERE id > 0");
        for (feature, ttl) in [("a", 100), ("b", 100), ("b", 600)] {
            let call =
                format!("cost_usd => 0.5, feature => '{feature}', ttl => '{ttl} milliseconds'");
            assert!(reserve(&mut client, &call).allowed);
        }
        client.run("SELECT pg_sleep(0.2)");
        open.run("BEGIN; SAVEPOINT a");
        assert!(reserve(&mut open, "cost_usd => 1, feature => 'a'").allowed);
        open.run("RELEASE a");
        client.run("SELECT pg_sleep(0.6)");
        client.run("SET statement_timeout = '5s'");
        // The one that came due since, at least, and all when the transaction has ended.
        assert!(reserve(&mut client, "cost_usd => 0.5, feature => 'b'").allowed);
        open.run(end);
        assert!(reserve(&mut client, "cost_usd => 0.5, feature => 'b'").allowed);
        assert!(!reserve(&mut client, "cost_usd => 0.01, feature => 'b'").allowed);
        let a = reserve(&mut client, "cost_usd => 1, feature => 'a'");
        assert_eq!(a.allowed, end == "ROLLBACK");
        assert_sound(&mut client);
    }
}

#[test]
fn many_holds_that_an_open_transaction_found_expired_hide_no_other() {
    let database = untouched_database();
    let (mut client, mut open) = (database.connect(), database.connect());
    client.run("UPDATE ai_limiter.ai_limits SET per = '{feature}' WHERE id > 0");
    assert!(reserve(&mut client, "cost_usd => 0.5, feature => 'b', ttl => '50 ms'").allowed);
    client.run(
        "INSERT INTO ai_limiter.ai_reservations (id, tenant_id, tier, feature, attributes, requests, \
         cost_usd, created_at, expires_at) SELECT gen_random_uuid(), tenant_id, tier, 'a', attributes, \
         1, 0.001, created_at, created_at FROM ai_limiter.ai_reservations, generate_series(1, 600)",
    );
    client.run("SELECT pg_sleep(0.1)");
    open.run("BEGIN");
    assert!(reserve(&mut open, "cost_usd => 0.8, feature => 'a'").allowed);
    client.run("SET statement_timeout = '5s'");
    assert!(reserve(&mut client, "cost_usd => 1, feature => 'b'").allowed);
    open.run("COMMIT");
    assert!(reserve(&mut client, "cost_usd => 0.2, feature => 'a'").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.01, feature => 'a'").allowed);
    assert_sound(&mut client);
}
