//! Sent a hundred times, charged once: idempotency keys, settles, and whatever races with them.

use ai_limiter_tests::calls::{
    LEVELS, Session, assert_sound, at_level, backend_pid, database_with_a_dollar, explained,
    reserve, try_extend, try_reserve, wait_for_lock_wait,
};
use ai_limiter_tests::{Cluster, sqlstate};
use postgres::{Client, Error};

const SENDERS: usize = 32;
const CALL: &str = "cost_usd => 0.01, idempotency_key => 'key'";

/// How many holds and charges there are, and what they come to.
fn books(session: &mut impl Session) -> String {
    session.value(
        "SELECT format('%s held %s, %s charged %s', h.count, h.sum, u.count, u.sum) FROM \
         (SELECT count(*), trim_scale(coalesce(sum(cost_usd), 0)) AS sum \
          FROM ai_limiter.ai_reservations WHERE state = 'open') h, \
         (SELECT count(*), trim_scale(coalesce(sum(cost_usd), 0)) AS sum FROM ai_limiter.ai_usage) u",
    )
}

/// What `settle_ai_usage` answers: the charge's id, its cost, and whether it was settled before.
fn try_settle(
    session: &mut impl Session,
    id: &str,
    cost: &str,
) -> Result<(String, String, bool), Error> {
    let rows = session.rows(&format!(
        "SELECT usage_id, trim_scale(cost_usd), already_settled \
         FROM ai_limiter.settle_ai_usage('{id}', cost_usd => {cost})"
    ))?;
    let text = |column| rows[0].get(column).unwrap().to_owned();
    Ok((text(0), text(1), text(2) == "t"))
}

#[test]
fn a_key_sent_by_many_at_once_holds_once() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let verdicts = database
            .clients(SENDERS, |_, client| at_level(client, level, |t| try_reserve(t, CALL)));
        // The first answer to all, also what it says was left before the call.
        assert!(verdicts[0].allowed);
        assert!(verdicts.iter().all(|v| v == &verdicts[0]), "at {level:?}: {verdicts:?}");
        let mut client = database.connect();
        assert_eq!(books(&mut client), "1 held 0.01, 0 charged 0");
        assert_sound(&mut client);
    }
}

#[test]
fn a_key_still_gives_its_answer_when_the_cap_is_full_or_the_call_is_settled() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let first = reserve(&mut client, CALL);
    assert!(reserve(&mut client, "cost_usd => 0.99").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.01").allowed);
    assert_eq!(reserve(&mut client, CALL), first);
    try_settle(&mut client, first.id(), "0.01").unwrap();
    assert_eq!(reserve(&mut client, CALL), first);
    assert_eq!(books(&mut client), "1 held 0.99, 1 charged 0.01");
    assert_sound(&mut client);
}

#[test]
fn a_key_waits_for_its_first_call_and_takes_over_when_that_is_undone() {
    for end in ["COMMIT", "ROLLBACK"] {
        let database = database_with_a_dollar(Cluster::shared());
        let (mut first, mut second) = (database.connect(), database.connect());
        first.run("BEGIN");
        let id = reserve(&mut first, CALL).id().to_owned();
        let pid = backend_pid(&mut second);
        let verdict = std::thread::scope(|scope| {
            let waiting = scope.spawn(move || try_reserve(&mut second, CALL));
            wait_for_lock_wait(&mut database.connect(), pid);
            first.run(end);
            waiting.join().unwrap().unwrap_or_else(|error| panic!("{}", explained(&error)))
        });
        assert!(verdict.allowed);
        assert_eq!(verdict.id() == id, end == "COMMIT");
        assert_eq!(books(&mut first), "1 held 0.01, 0 charged 0");
        assert_sound(&mut first);
    }
}

#[test]
fn a_denied_key_may_be_tried_again() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let hold = reserve(&mut client, "cost_usd => 1").id().to_owned();
    assert!(!reserve(&mut client, CALL).allowed);
    client.run(&format!("SELECT ai_limiter.release_ai_usage('{hold}')"));
    let admitted = reserve(&mut client, CALL);
    assert!(admitted.allowed);
    assert_eq!(reserve(&mut client, CALL), admitted);
    assert_eq!(books(&mut client), "1 held 0.01, 0 charged 0");
}

#[test]
fn keys_of_two_tenants_do_not_meet() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let of = |tenant| format!("tenant_id => '00000000-0000-0000-0000-00000000000{tenant}', {CALL}");
    let (one, two) = (reserve(&mut client, &of(1)), reserve(&mut client, &of(2)));
    assert_ne!(one.id(), two.id());
    assert_eq!(reserve(&mut client, &of(1)), one);
}

#[test]
fn a_key_with_other_arguments_is_refused_and_holds_nothing() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let first = reserve(&mut client, CALL);
    for other in [
        "cost_usd => 0.02, idempotency_key => 'key'",
        "cost_usd => 0.01, feature => 'chat', idempotency_key => 'key'",
        "cost_usd => 0.01, requests => 2, idempotency_key => 'key'",
        "cost_usd => 0.01, ttl => '1 hour', idempotency_key => 'key'",
        "cost_usd => 0.01, attributes => '{\"team\": \"a\"}', idempotency_key => 'key'",
        "cost_usd => 0.01, run_id => 'r', run_limit_usd => 1, idempotency_key => 'key'",
    ] {
        let error = try_reserve(&mut client, other).unwrap_err();
        assert_eq!(sqlstate(&error), "22023", "{other}");
    }
    let record = format!("SELECT ai_limiter.record_ai_usage({CALL})");
    assert_eq!(sqlstate(&client.rows(&record).unwrap_err()), "22023");
    assert_eq!(reserve(&mut client, CALL), first);
    // The same number, written otherwise, is the same argument.
    assert_eq!(reserve(&mut client, "cost_usd => 0.010, idempotency_key => 'key'"), first);
    assert_eq!(books(&mut client), "1 held 0.01, 0 charged 0");
    assert_sound(&mut client);
}

#[test]
fn of_two_calls_with_one_key_sent_at_once_one_is_refused() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let refused = database.clients(SENDERS, |number, client| {
            let call = format!("cost_usd => 0.0{}, idempotency_key => 'key'", 1 + number % 2);
            at_level(client, level, |t| match try_reserve(t, &call) {
                Err(error) if sqlstate(&error) == "22023" => Ok(true),
                other => other.map(|_| false),
            })
        });
        assert_eq!(refused.iter().filter(|&&refused| refused).count(), SENDERS / 2);
        let books = books(&mut database.connect());
        assert!(books.starts_with("1 held 0.0"), "at {level:?}: {books}");
    }
}

#[test]
fn a_record_sent_by_many_at_once_is_one_charge() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let record = format!("SELECT ai_limiter.record_ai_usage({CALL})");
        let ids = database.clients(SENDERS, |_, client| {
            at_level(client, level, |t| Ok(t.rows(&record)?[0].get(0).unwrap().to_owned()))
        });
        assert!(ids.iter().all(|id| id == &ids[0]), "at {level:?}");
        let mut client = database.connect();
        assert_eq!(client.value("SELECT id FROM ai_limiter.ai_usage"), ids[0]);
        assert_eq!(books(&mut client), "0 held 0, 1 charged 0.01");
        assert_sound(&mut client);
    }
}

#[test]
fn a_settle_sent_by_many_at_once_charges_once() {
    for level in LEVELS {
        let database = database_with_a_dollar(Cluster::shared());
        let mut client = database.connect();
        let id = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
        // Each says another cost: the first one to come is booked, and told to all.
        let answers = database.clients(SENDERS, |number, client| {
            let cost = format!("0.0{}", 1 + number % 5);
            at_level(client, level, |t| try_settle(t, &id, &cost))
        });
        let (_, cost, _) = &answers[0];
        assert!(answers.iter().all(|(usage, c, _)| usage == &id && c == cost), "at {level:?}");
        assert_eq!(answers.iter().filter(|(_, _, already)| !already).count(), 1);
        assert_eq!(books(&mut client), format!("0 held 0, 1 charged {cost}"));
        assert_sound(&mut client);
    }
}

#[test]
fn a_settle_sent_a_hundred_times_charges_once() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut client = database.connect();
    let id = reserve(&mut client, "cost_usd => 0.05").id().to_owned();
    for number in 0..100 {
        let (usage, cost, already) = try_settle(&mut client, &id, "0.04").unwrap();
        assert_eq!((usage == id, cost.as_str(), already), (true, "0.04", number > 0));
    }
    assert_eq!(books(&mut client), "0 held 0, 1 charged 0.04");
    assert_sound(&mut client);
}

/// Eight clients on one hold of five cents, eight times over at each level: half do one thing, half
/// the other. Whoever comes first, one settle of four cents is booked.
fn settle_against(other: impl Fn(&mut postgres::Transaction, &str) -> Result<(), Error> + Sync) {
    let database = database_with_a_dollar(Cluster::shared());
    let mut admin = database.connect();
    for level in LEVELS.into_iter().cycle().take(24) {
        let id = reserve(&mut admin, "cost_usd => 0.05").id().to_owned();
        let settled = database.clients(8, |number, client: &mut Client| {
            at_level(client, level, |t| match number % 2 {
                0 => try_settle(t, &id, "0.04").map(|(_, _, already)| !already),
                _ => other(t, &id).map(|()| false),
            })
        });
        assert_eq!(settled.iter().filter(|&&first| first).count(), 1);
        let holds = format!("SELECT count(*) FROM ai_limiter.ai_reservations WHERE id = '{id}'");
        assert_eq!(admin.value(&holds), "0");
        let usage = format!("SELECT count(*) FROM ai_limiter.ai_usage WHERE id = '{id}'");
        assert_eq!(admin.value(&usage), "1");
    }
    assert_eq!(books(&mut admin), "0 held 0, 24 charged 0.96");
    assert_sound(&mut admin);
}

#[test]
fn a_settle_that_races_with_a_release_is_booked_once() {
    settle_against(|t, id| {
        t.rows(&format!("SELECT ai_limiter.release_ai_usage('{id}')")).map(drop)
    });
}

#[test]
fn a_settle_that_races_with_an_extension_is_booked_once() {
    settle_against(|t, id| match try_extend(t, id, "cost_usd => 0.06") {
        Err(error) if sqlstate(&error) == "55000" => {
            assert!(explained(&error).contains("was settled"), "{}", explained(&error));
            // The transaction has failed; what it did before is not the point.
            t.rows("ROLLBACK AND CHAIN").map(drop)
        }
        other => other.map(|verdict| assert!(verdict.allowed)),
    });
}

#[test]
fn an_extension_that_races_with_a_release_leaves_no_open_hold() {
    let database = database_with_a_dollar(Cluster::shared());
    let mut admin = database.connect();
    for level in LEVELS.into_iter().cycle().take(12) {
        let id = reserve(&mut admin, "cost_usd => 0.05").id().to_owned();
        database.clients(4, |number, client| {
            at_level(client, level, |t| match number % 2 {
                0 => t.rows(&format!("SELECT ai_limiter.release_ai_usage('{id}')")).map(drop),
                _ => match try_extend(t, &id, "cost_usd => 0.06") {
                    Err(error) if sqlstate(&error) == "55000" => {
                        t.rows("ROLLBACK AND CHAIN").map(drop)
                    }
                    other => other.map(drop),
                },
            });
        });
        assert_eq!(books(&mut admin), "0 held 0, 0 charged 0");
    }
    assert_sound(&mut admin);
}
