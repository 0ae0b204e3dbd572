//! A rule that is added, edited or taken out under traffic: nothing is forgotten, nobody is stuck.

use std::thread;
use std::time::{Duration, Instant};

use ai_limiter_tests::calls::{
    Session, assert_no_drift, assert_sound, backend_pid, disable_shipped_limits, explained,
    reserve, try_reserve, wait_for_lock_wait, wait_until,
};
use ai_limiter_tests::waiting::Path;
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::{Client, Error, IsolationLevel};

fn database() -> Database {
    database_of(Cluster::shared())
}

fn database_of(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    database
}

fn add_rule(session: &mut impl Session, name: &str, amount: &str) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('{name}', 'cost_usd', 'total', {amount})"
    );
    session.rows(&sql).map(drop)
}

fn succeed(result: Result<(), Error>) {
    result.unwrap_or_else(|error| panic!("{}", explained(&error)));
}

/// An editor that is waiting for writers neither queues all the time nor shows it, so it is found
/// by what it has said last.
fn wait_for_edit(observer: &mut Client, pid: i32) {
    let waits = format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("the edit runs", || observer.value(&waits) == "active");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(observer.value(&waits), "active", "the edit waits for the open call");
}

#[test]
fn a_new_rule_counts_a_call_that_was_open_when_it_came() {
    for (end, held) in [("COMMIT", "0.6"), ("ROLLBACK", "0")] {
        let database = database();
        let (mut client, mut admin) = (database.connect(), database.connect());
        client.run("BEGIN");
        assert!(reserve(&mut client, "cost_usd => 0.6").allowed);
        let pid = backend_pid(&mut admin);
        let edit = thread::spawn(move || add_rule(&mut admin, "new", "1"));
        let mut observer = database.connect();
        wait_for_edit(&mut observer, pid);
        // The open transaction may even go on; the rule is not there yet.
        assert!(reserve(&mut client, "cost_usd => 0").allowed);
        client.run(end);
        succeed(edit.join().unwrap());
        let verdict = reserve(&mut observer, "cost_usd => 0.6");
        assert_eq!(verdict.allowed, end == "ROLLBACK");
        if !verdict.allowed {
            let counted = observer.value("SELECT sum(held) FROM ai_limiter.verify_ai_counters()");
            assert_eq!(counted, held);
        }
        assert_sound(&mut observer);
    }
}

#[test]
fn no_call_slips_past_a_rule_that_comes_under_way() {
    for round in 0..3 {
        let database = database();
        let held = "SELECT count(*) FROM ai_limiter.ai_reservations";
        let counts = database.clients(65, |number, client| {
            if number == 0 {
                let mut observer = database.connect();
                wait_until("calls are being admitted", || {
                    observer.value(held).parse::<usize>().unwrap() > 20
                });
                succeed(add_rule(client, "new", "30"));
                return client.value(held).parse().unwrap();
            }
            // At the latest at its 3,000th call a client finds the cap that all share.
            (0..3000).take_while(|_| reserve(client, "cost_usd => 0.01").allowed).count()
        });
        // An edit has a second: on a slow machine more than the cap may be held when it comes, and
        // then nothing may be admitted any more.
        let [held_when_it_came, admitted @ ..] = &counts[..] else { unreachable!() };
        let admitted: usize = admitted.iter().sum();
        assert_eq!(admitted, 3000.max(*held_when_it_came), "round {round}");
        assert_no_drift(&mut database.connect());
    }
}

#[test]
fn of_two_rows_that_tie_only_one_is_written() {
    let tie = |number: usize| {
        // Neither is more specific than the other: a call of both would have two rules of one name.
        let filter = if number == 0 { ("feature", "'chat'") } else { ("model", "'m'") };
        format!(
            "INSERT INTO ai_limiter.ai_limits (name, {}, metric, period, amount) \
             VALUES ('tie', {}, 'requests', 'total', 5)",
            filter.0, filter.1
        )
    };
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        for together in [true, false] {
            let database = database();
            let both_written = std::sync::Barrier::new(2);
            let codes = database.clients(2, |number, client| {
                let mut edit = client.build_transaction().isolation_level(level).start().unwrap();
                edit.run(&tie(number));
                both_written.wait();
                if number == 1 && !together {
                    thread::sleep(Duration::from_millis(300));
                }
                let result = edit.commit();
                result.map_or_else(|error| sqlstate(&error).to_owned(), |()| "00000".to_owned())
            });
            let mut sorted = codes.clone();
            sorted.sort();
            assert_eq!(sorted, ["00000", "23514"], "{codes:?}");
            assert!(together || codes[0] == "00000", "the second one to commit is refused");
            let mut admin = database.connect();
            let rows = admin.value("SELECT count(*) FROM ai_limiter.ai_limits WHERE name = 'tie'");
            assert_eq!(rows, "1");
        }
    }
}

#[test]
fn many_editors_at_once_all_succeed() {
    let database = database();
    database.clients(8, |number, client| {
        for round in 0..3 {
            succeed(add_rule(client, &format!("rule {number} {round}"), "1"));
        }
    });
    let mut admin = database.connect();
    let rules = admin.value("SELECT count(*) FROM ai_limiter.ai_limits WHERE name LIKE 'rule %'");
    assert_eq!(rules, "24");
}

#[test]
fn an_edit_that_is_left_uncommitted_stops_nobody() {
    let database = database();
    let (mut admin, mut client) = (database.connect(), database.connect());
    succeed(add_rule(&mut admin, "old", "1"));
    admin.run("BEGIN");
    succeed(add_rule(&mut admin, "new", "0"));
    admin.run("UPDATE ai_limiter.ai_limits SET period = 'day', amount = 0 WHERE name = 'old'");
    admin.run("DELETE FROM ai_limiter.ai_limits WHERE name = 'old'");
    client.run("SET statement_timeout = '5s'");
    let id = reserve(&mut client, "cost_usd => 0.9").id().to_owned();
    assert!(!reserve(&mut client, "cost_usd => 0.2").allowed, "the old rule still counts");
    client.run(&format!("SELECT ai_limiter.settle_ai_usage('{id}')"));
    assert!(reserve(&mut client, "cost_usd => 0.1").allowed);
    admin.run("COMMIT");
    assert!(!reserve(&mut client, "cost_usd => 0.1").allowed);
    let of_new = "SELECT used + held = 1 FROM ai_limiter.verify_ai_counters()";
    assert_eq!(admin.value(of_new), "t");
}

#[test]
fn an_edit_that_is_rolled_back_or_refused_changes_nothing() {
    let database = database();
    let (mut admin, mut client) = (database.connect(), database.connect());
    succeed(add_rule(&mut admin, "old", "1"));
    admin.run("BEGIN");
    succeed(add_rule(&mut admin, "new", "0"));
    admin.run("SET CONSTRAINTS ALL IMMEDIATE");
    admin.run("ROLLBACK");
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    assert_sound(&mut client);
}

#[test]
fn an_administrator_who_gives_up_waiting_keeps_a_usable_session() {
    let database = database();
    let (mut client, mut admin) = (database.connect(), database.connect());
    client.run("BEGIN");
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    let pid = backend_pid(&mut admin);
    let edit = thread::spawn(move || (add_rule(&mut admin, "new", "1"), admin));
    let mut observer = database.connect();
    wait_for_edit(&mut observer, pid);
    let cancelled = Instant::now();
    observer.run(&format!("SELECT pg_cancel_backend({pid})"));
    let (result, mut admin) = edit.join().unwrap();
    assert_eq!(sqlstate(&result.unwrap_err()), "57014");
    assert!(cancelled.elapsed() < Duration::from_secs(5), "a cancel is heard while it waits");
    assert_eq!(admin.value("SELECT count(*) FROM ai_limiter.ai_limits WHERE id > 0"), "0");
    client.run("COMMIT");
    succeed(add_rule(&mut admin, "new", "1"));
    assert!(!reserve(&mut client, "cost_usd => 0.6").allowed);
}

/// A call that waits for its counter while an administrator changes something in `edit`; the
/// counter is free when the change is committed. What that call is told.
fn told_after_waiting(path: Path, is_rolling: bool, edit: &str) -> (bool, String) {
    let database = database_of(path.cluster());
    let (rule, path) = match is_rolling {
        // Summed from the tables in any case.
        true => ("period = NULL, rolling = '1 hour'", Path::Tables),
        false => ("period = 'total'", path),
    };
    let (mut client, mut waiting) = (database.connect(), database.connect());
    let mut admin = database.connect();
    succeed(add_rule(&mut admin, "cost", "1"));
    admin.run(&format!("UPDATE ai_limiter.ai_limits SET {rule} WHERE name = 'cost'"));
    admin.run(
        "INSERT INTO ai_limiter.ai_accounts (user_id) \
         VALUES ('00000000-0000-0000-0000-000000000001')",
    );
    path.hold_up(&mut client, "cost_usd => 0.5");
    let pid = backend_pid(&mut waiting);
    let call = "user_id => '00000000-0000-0000-0000-000000000001', cost_usd => 0.4, feature => 'f'";
    let thread = thread::spawn(move || try_reserve(&mut waiting, call));
    wait_for_lock_wait(&mut database.connect(), pid);
    admin.run("SET statement_timeout = '5s'");
    admin.run(edit);
    client.run("COMMIT");
    let verdict = thread.join().unwrap().unwrap_or_else(|error| panic!("{}", explained(&error)));
    (verdict.allowed, verdict.reason)
}

#[test]
fn a_waiting_call_is_judged_by_what_is_configured_when_its_turn_comes() {
    for (path, is_rolling) in Path::BOTH.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        assert_eq!(told_after_waiting(path, is_rolling, "SELECT 1"), (true, "ok".to_owned()));
        for (edit, reason) in [
            ("SELECT ai_limiter.suspend_ai('feature', 'f')", "suspended"),
            ("UPDATE ai_limiter.ai_limits SET amount = 0.8 WHERE name = 'cost'", "limit_exceeded"),
            ("UPDATE ai_limiter.ai_accounts SET suspended = true", "suspended"),
        ] {
            let told = told_after_waiting(path, is_rolling, edit);
            assert_eq!(told, (false, reason.to_owned()), "{path:?} {is_rolling} {edit}");
        }
    }
}

#[test]
fn a_zone_that_changes_while_a_call_waits_lets_it_pass_no_cap() {
    const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";
    // With counters in shared memory an edit of a zone waits for whoever may be overtaken.
    let database = database_of(Cluster::shared_without_preload());
    let mut admin = database.connect();
    // A call for the chat takes two locks, in an order that hangs on its user: with some users it
    // waits for the user's before it has the tenant's.
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_tenants (tenant_id) VALUES ('{TENANT}'); \
         INSERT INTO ai_limiter.ai_limits (name, feature, per, metric, period, amount) VALUES \
         ('user', NULL, '{{user}}', 'requests', 'total', 100), \
         ('tenant', 'chat', '{{tenant}}', 'cost_usd', 'day', 1); \
         SELECT ai_limiter.record_ai_usage(tenant_id => '{TENANT}', feature => 'chat', \
         cost_usd => 0.9, created_at => now() - interval '150 minutes')"
    ));
    let call = |user: usize, feature: &str| {
        format!(
            "user_id => '00000000-0000-0000-0000-{user:012}', tenant_id => '{TENANT}', \
             feature => '{feature}', cost_usd => 0.1"
        )
    };
    let mut overtaken = 0;
    for user in 1..=12 {
        // At one in the morning what was spent is of yesterday, at noon of today.
        let zone = |hour| {
            format!(
                "UPDATE ai_limiter.ai_tenants SET timezone = 'Etc/GMT' || to_char(12 - \
                 ({hour} - extract(hour FROM now() AT TIME ZONE 'UTC')::int + 36) % 24, 'FMSG99')"
            )
        };
        admin.run(&zone(1));
        let (mut open, mut waiting) = (database.connect(), database.connect());
        open.run("BEGIN");
        assert!(reserve(&mut open, &call(user, "other")).allowed);
        let (pid, chat) = (backend_pid(&mut waiting), call(user, "chat"));
        let thread = thread::spawn(move || reserve(&mut waiting, &chat));
        wait_for_lock_wait(&mut database.connect(), pid);
        admin.run(&zone(12));
        admin.run("SET lock_timeout = '300ms'");
        let other = try_reserve(&mut admin, &call(0, "chat"));
        open.run("ROLLBACK");
        let first = thread.join().unwrap();
        if let Ok(other) = other {
            overtaken += 1;
            assert!(other.allowed);
            assert!(!first.allowed, "both are admitted, and a tenth is left");
        }
        assert_sound(&mut admin);
        admin.run("SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations");
    }
    assert!(overtaken > 0, "no call was overtaken");
}
