//! Several limits, runs, open calls and growing holds, under clients that race for them.

use std::sync::atomic::{AtomicI64, Ordering};

use ai_limiter_tests::calls::{
    Session, Verdict, assert_sound, backend_pid, disable_shipped_limits, explained, reserve,
    try_extend, try_reserve, wait_for_lock_wait,
};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

const CLIENTS: usize = 64;

/// A database with these rows of (name, per, metric, amount) as its only limits, of period total.
fn database_with(limits: &str) -> Database {
    database_on(Cluster::shared(), limits)
}

fn database_on(cluster: &Cluster, limits: &str) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    if !limits.is_empty() {
        admin.run(&format!(
            "INSERT INTO ai_limiter.ai_limits (name, per, metric, amount, period) \
             SELECT *, 'total' FROM (VALUES {limits}) l (name, per, metric, amount)"
        ));
    }
    database
}

fn user(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

fn status(session: &mut impl Session) -> String {
    session.value(
        "SELECT string_agg(format('%s %s %s %s', limit_name, subject, used, held), E'\n' \
         ORDER BY limit_name, subject) FROM ai_limiter.verify_ai_counters()",
    )
}

#[test]
fn a_call_that_one_of_its_limits_denies_is_held_in_none() {
    let database = database_with(
        "('user', '{user}'::text[], 'requests', 5), ('feature', '{feature}', 'cost_usd', 0.3), \
         ('everybody', '{}', 'output_tokens', 1000)",
    );
    let mut client = database.connect();
    let call = |user_number, feature, more| {
        let user = user(user_number);
        format!("user_id => '{user}', feature => '{feature}', cost_usd => 0.1, {more}")
    };
    for _ in 0..3 {
        assert!(reserve(&mut client, &call(1, "chat", "output_tokens => 10")).allowed);
    }
    let before = status(&mut client);
    for (arguments, limit) in [
        (call(1, "chat", "output_tokens => 10"), "feature"),
        (call(1, "search", "output_tokens => 971"), "everybody"),
        (call(1, "search", "requests => 3"), "user"),
    ] {
        let verdict = reserve(&mut client, &arguments);
        assert_eq!((verdict.allowed, verdict.limit_name.as_deref()), (false, Some(limit)));
        assert_eq!(verdict.reservation_id, None);
        assert_eq!(status(&mut client), before);
    }
    assert!(reserve(&mut client, &call(1, "search", "output_tokens => 970")).allowed);
    assert_sound(&mut client);
}

#[test]
fn overlapping_limits_admit_all_or_nothing_without_a_deadlock() {
    let database = database_with(
        "('user', '{user}'::text[], 'requests', 10), ('feature', '{feature}', 'cost_usd', 0.5), \
         ('key', '{api_key_id}', 'requests', 30), ('model', '{model}', 'input_tokens', 4000), \
         ('everybody', '{}', 'cost_usd', 1.5)",
    );
    let admitted = database.clients(CLIENTS, |number, client| {
        let call = |round: usize| {
            format!(
                "user_id => '{}', feature => 'f{}', api_key_id => 'k{}', model => 'm{}', \
                 input_tokens => 25, cost_usd => 0.01",
                user((number + round) % 24),
                number % 5,
                (number + round) % 7,
                number % 3
            )
        };
        (0..12).filter(|&round| reserve(client, &call(round)).allowed).count()
    });
    let admitted: usize = admitted.iter().sum();
    let mut admin = database.connect();
    let holds = admin.value("SELECT count(*) FROM ai_limiter.ai_reservations");
    assert_eq!(holds, admitted.to_string());
    // Every limit counts the same holds, each call in exactly one counter of each.
    let counted = "SELECT string_agg(DISTINCT sum::text, ' ') FROM (SELECT sum(CASE limit_name \
        WHEN 'feature' THEN held * 100 WHEN 'everybody' THEN held * 100 \
        WHEN 'model' THEN held / 25 ELSE held END)::int \
        FROM ai_limiter.verify_ai_counters() GROUP BY limit_name) s";
    assert_eq!(admin.value(counted), holds);
    assert_eq!(admitted, 150, "the cap on everybody is what binds in the end");
    assert_sound(&mut admin);
}

#[test]
fn concurrent_calls_of_one_run_stay_within_its_cap() {
    let database = database_with("");
    let admitted = database.clients(CLIENTS, |_, client| {
        let call = "run_id => 'agent', cost_usd => 0.1, run_limit_usd => 2";
        let verdicts: Vec<Verdict> = (0..2).map(|_| reserve(client, call)).collect();
        for verdict in verdicts.iter().filter(|v| !v.allowed) {
            assert_eq!(verdict.limit_name.as_deref(), Some("run_limit"));
        }
        verdicts.iter().filter(|v| v.allowed).count()
    });
    assert_eq!(admitted.iter().sum::<usize>(), 20);
    let mut admin = database.connect();
    assert!(reserve(&mut admin, "run_id => 'another', cost_usd => 5").allowed);
    assert_sound(&mut admin);
}

#[test]
fn the_first_call_of_a_run_fixes_its_cap_for_all() {
    let database = database_with("");
    for round in 0..5 {
        let admitted = database.clients(CLIENTS, |number, client| {
            let cap = 1 + number % 3;
            let call = format!("run_id => 'r{round}', cost_usd => 0.1, run_limit_usd => {cap}");
            usize::from(reserve(client, &call).allowed)
        });
        let mut admin = database.connect();
        let tenths = admin.value(&format!(
            "SELECT (amount_usd * 10)::int FROM ai_limiter.ai_run_limits WHERE run_id = 'r{round}'"
        ));
        assert_eq!(admitted.iter().sum::<usize>().to_string(), tenths);
    }
}

#[test]
fn a_limit_on_open_calls_is_never_passed() {
    let database = database_with("('open', '{}'::text[], 'concurrent', 8)");
    let open = AtomicI64::new(0);
    let most = AtomicI64::new(0);
    let admitted = database.clients(CLIENTS, |number, client| {
        let mut admitted = 0;
        for _ in 0..20 {
            let verdict = reserve(client, "cost_usd => 0.01");
            if !verdict.allowed {
                continue;
            }
            // Counted from after the answer until before it is given back: never more than there are.
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            admitted += 1;
            client.run("SELECT pg_sleep(0.002)");
            open.fetch_sub(1, Ordering::SeqCst);
            let end = if number % 2 == 0 { "settle" } else { "release" };
            client.run(&format!("SELECT ai_limiter.{end}_ai_usage('{}')", verdict.id()));
        }
        admitted
    });
    assert!(admitted.iter().sum::<i32>() > 8, "what is settled or released makes room");
    let most = most.into_inner();
    assert!((1..=8).contains(&most), "{most} calls were open at once");

    let mut client = database.connect();
    for number in 0..9 {
        assert_eq!(reserve(&mut client, "cost_usd => 0.01").allowed, number < 8);
    }
    assert_sound(&mut client);
}

/// Raises a hold of a cent to five; what is held afterwards, in cents.
fn extend_to_five_cents(client: &mut Client, id: &str) -> i32 {
    let verdict = try_extend(client, id, "cost_usd => 0.05").unwrap();
    if verdict.allowed { 5 } else { 1 }
}

#[test]
fn extending_and_reserving_at_once_stay_within_the_cap() {
    let database = database_with("('cost', '{}'::text[], 'cost_usd', 1)");
    let cents: i32 = database
        .clients(CLIENTS, |number, client| {
            if number % 2 == 0 {
                let verdict = reserve(client, "cost_usd => 0.01");
                if verdict.allowed { extend_to_five_cents(client, verdict.id()) } else { 0 }
            } else {
                (0..3).filter(|_| reserve(client, "cost_usd => 0.02").allowed).count() as i32 * 2
            }
        })
        .iter()
        .sum();
    let mut admin = database.connect();
    let held = "SELECT (sum(cost_usd) * 100)::int FROM ai_limiter.ai_reservations";
    assert_eq!(admin.value(held), cents.to_string(), "a denied extension changes nothing");
    assert!((98..=100).contains(&cents), "{cents} cents are held");
    assert_sound(&mut admin);
}

#[test]
fn many_extensions_of_one_hold_count_it_once() {
    let database = database_with("('cost', '{}'::text[], 'cost_usd', 1)");
    let mut admin = database.connect();
    let id = reserve(&mut admin, "cost_usd => 0.5").id().to_owned();
    assert!(reserve(&mut admin, "cost_usd => 0.3").allowed);
    let allowed = database.clients(CLIENTS, |number, client| {
        let to = format!("cost_usd => 0.{}", 60 + number % 20);
        try_extend(client, &id, &to).unwrap().allowed
    });
    for (number, allowed) in allowed.into_iter().enumerate() {
        assert_eq!(allowed, 60 + number % 20 <= 70);
    }
    let held =
        format!("SELECT cost_usd * 100 = 70 FROM ai_limiter.ai_reservations WHERE id = '{id}'");
    assert_eq!(admin.value(&held), "t");
    assert_sound(&mut admin);
}

#[test]
fn spending_at_full_speed_ends_at_the_cap() {
    let database = database_with("('cost', '{}'::text[], 'cost_usd', 1)");
    // Held at three cents, settled at one or two: what a settle frees is given out again.
    let cents: i32 = database
        .clients(CLIENTS, |number, client| {
            let mut cents = 0;
            loop {
                let verdict = reserve(client, "cost_usd => 0.03");
                if !verdict.allowed {
                    break cents;
                }
                let cost = 1 + number as i32 % 2;
                let settle = format!(
                    "ai_limiter.settle_ai_usage('{}', cost_usd => 0.0{cost})",
                    verdict.id()
                );
                client.run(&format!("SELECT {settle}"));
                cents += cost;
            }
        })
        .iter()
        .sum();
    let mut admin = database.connect();
    let settled = "SELECT (sum(cost_usd) * 100)::int FROM ai_limiter.ai_usage";
    assert_eq!(admin.value(settled), cents.to_string());
    assert!(cents <= 100, "{cents} cents were spent");
    while reserve(&mut admin, "cost_usd => 0.01").allowed {}
    assert_eq!(admin.value("SELECT used + held = 1 FROM ai_limiter.verify_ai_counters()"), "t");
    assert_sound(&mut admin);
}

#[test]
fn a_budget_of_nothing_admits_nothing_that_costs() {
    let database = database_with("('cost', '{}'::text[], 'cost_usd', 0)");
    let allowed = database.clients(CLIENTS, |number, client| {
        let cost = if number % 2 == 0 { "0" } else { "0.000000000001" };
        reserve(client, &format!("cost_usd => {cost}")).allowed
    });
    assert!(allowed.iter().enumerate().all(|(number, &allowed)| allowed == (number % 2 == 0)));
    assert_sound(&mut database.connect());
}

#[test]
fn calls_of_other_subjects_do_not_wait_for_an_open_one() {
    let limit = "('user', '{user}'::text[], 'requests', 1)";
    let database = database_on(Cluster::shared_without_preload(), limit);
    let (mut one, mut other) = (database.connect(), database.connect());
    let mut open = one.transaction().unwrap();
    assert!(reserve(&mut open, &format!("user_id => '{}', cost_usd => 0", user(1))).allowed);
    other.run("SET statement_timeout = '5s'");
    assert!(reserve(&mut other, &format!("user_id => '{}', cost_usd => 0", user(2))).allowed);
    // Of the same subject they do wait, and then see what became of it.
    let (mut waiting, mut observer) = (database.connect(), database.connect());
    let pid = backend_pid(&mut waiting);
    std::thread::scope(|scope| {
        let same = format!("user_id => '{}', cost_usd => 0", user(1));
        let thread = scope.spawn(move || try_reserve(&mut waiting, &same));
        wait_for_lock_wait(&mut observer, pid);
        open.commit().unwrap();
        let verdict = thread.join().unwrap().unwrap_or_else(|e| panic!("{}", explained(&e)));
        assert_eq!((verdict.allowed, verdict.remaining.as_deref()), (false, Some("0")));
    });
    assert_sound(&mut other);
}

#[test]
fn in_shared_memory_nobody_waits_for_an_open_call_and_what_it_holds_is_taken() {
    let database =
        database_on(Cluster::shared_preloaded(), "('user', '{user}'::text[], 'requests', 1)");
    let (mut open, mut other) = (database.connect(), database.connect());
    other.run("SET statement_timeout = '5s'");
    let call = |number| format!("user_id => '{}', cost_usd => 0", user(number));
    for (end, then_allowed) in [("ROLLBACK", true), ("COMMIT", false)] {
        open.run("BEGIN");
        assert!(reserve(&mut open, &call(1)).allowed);
        assert!(reserve(&mut other, &call(if then_allowed { 2 } else { 3 })).allowed);
        // Told no at once; not yes, since the open one may commit.
        let verdict = reserve(&mut other, &call(1));
        assert_eq!((verdict.allowed, verdict.remaining.as_deref()), (false, Some("0")));
        open.run(end);
        if then_allowed {
            let verdict = reserve(&mut other, &call(1));
            assert!(verdict.allowed);
            other.run(&format!("SELECT ai_limiter.release_ai_usage('{}')", verdict.id()));
        } else {
            assert!(!reserve(&mut other, &call(1)).allowed);
        }
        assert_sound(&mut other);
    }
}

#[test]
fn in_shared_memory_what_a_transaction_gives_back_is_free_when_it_commits() {
    for gives_back in ["release_ai_usage(:id)", "settle_ai_usage(:id, cost_usd => 0.2)"] {
        for end in ["ROLLBACK", "COMMIT"] {
            let limit = "('cost', '{}'::text[], 'cost_usd', 1)";
            let database = database_on(Cluster::shared_preloaded(), limit);
            let (mut open, mut other) = (database.connect(), database.connect());
            let hold = reserve(&mut open, "cost_usd => 1");
            let gives_back = gives_back.replace(":id", &format!("'{}'", hold.id()));
            open.run(&format!("BEGIN; SELECT ai_limiter.{gives_back}"));
            // The transaction itself has the room already; to others it may still be taken back.
            assert!(reserve(&mut open, "cost_usd => 0.5").allowed);
            assert!(!reserve(&mut other, "cost_usd => 0.1").allowed, "{gives_back} is open");
            open.run(end);
            let verdict = reserve(&mut other, "cost_usd => 0.3");
            assert_eq!(verdict.allowed, end == "COMMIT", "{gives_back}, {end}");
            assert_sound(&mut other);
        }
    }
}
