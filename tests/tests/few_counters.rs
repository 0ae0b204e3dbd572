//! More counters than fit into shared memory: those that nobody uses make room, and where all are in
//! use the tables are asked. Every answer is the same.

use std::sync::OnceLock;

use ai_limiter_tests::calls::{Session, assert_sound, disable_shipped_limits, reserve, try_extend};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

const MOST: usize = 16;

fn server() -> &'static Cluster {
    static FEW: OnceLock<Cluster> = OnceLock::new();
    FEW.get_or_init(|| {
        let most = MOST.to_string();
        let builder = Cluster::builder().preloaded().setting("fsync", "off");
        builder.setting("ai_limiter.max_counters", &most).start()
    })
}

/// Ten calls a user, and `everybody` in all.
fn database(everybody: usize) -> Database {
    let database = server().fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    admin.run(&format!(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, amount) VALUES \
         ('user', '{{user}}', 'requests', 'day', 10), \
         ('everybody', '{{}}', 'requests', 'total', {everybody})"
    ));
    database
}

fn of(user: usize) -> String {
    format!("user_id => '00000000-0000-0000-0000-{user:012}', cost_usd => 0.01")
}

fn holds(session: &mut impl Session) -> usize {
    let count = "SELECT count(*) FROM ai_limiter.ai_reservations WHERE state = 'open'";
    session.value(count).parse().unwrap()
}

#[test]
fn counters_that_come_and_go_give_out_exactly_what_there_is() {
    let database = database(400);
    let admitted = database.clients(16, |number, client| {
        let mut admitted = 0;
        for round in 0..60 {
            // Sixty users, each asked by everybody at other times: ever another sixteen are there.
            let user = (round * 7 + number * 13) % 60;
            let verdict = reserve(client, &of(user));
            if verdict.allowed {
                admitted += 1;
                let id = verdict.id();
                match round % 5 {
                    0 => {
                        client.run(&format!("SELECT ai_limiter.release_ai_usage('{id}')"));
                        admitted -= 1;
                    }
                    1 => client.run(&format!("SELECT ai_limiter.settle_ai_usage('{id}')")),
                    2 => assert!(try_extend(client, id, "cost_usd => 0.02").unwrap().allowed),
                    _ => {}
                }
            }
        }
        admitted
    });
    let mut admin = database.connect();
    let counted = admin.value(
        "SELECT sum(used + held)::int FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'everybody'",
    );
    assert_eq!(counted, admitted.iter().sum::<i32>().to_string());
    assert_sound(&mut admin);
    let mut all = 0;
    while all < 600 && reserve(&mut admin, &of(100 + all)).allowed {
        all += 1;
    }
    let counted: usize = counted.parse().unwrap();
    assert_eq!(all, 400 - counted);
    assert_sound(&mut admin);
}

/// Leaves as many transactions open as it takes to have every counter in use.
fn fill(database: &Database) -> Vec<Client> {
    (0..MOST + 4)
        .map(|number| {
            let mut client = database.connect();
            client.run("BEGIN");
            assert!(reserve(&mut client, &of(1000 + number)).allowed);
            client
        })
        .collect()
}

#[test]
fn where_every_counter_is_in_use_calls_are_decided_by_the_tables() {
    for end in ["COMMIT", "ROLLBACK"] {
        // Everybody's counter would be one more that is in use; here each call has its own only.
        let database = database(1_000_000);
        database.connect().run("DELETE FROM ai_limiter.ai_limits WHERE name = 'everybody'");
        let (mut client, mut other) = (database.connect(), database.connect());
        for _ in 0..4 {
            assert!(reserve(&mut client, &of(1)).allowed);
        }
        let open = fill(&database);
        other.run("SET lock_timeout = '500ms'");
        client.run("BEGIN");
        for _ in 0..5 {
            assert!(reserve(&mut client, &of(1)).allowed);
        }
        client.run("SAVEPOINT a");
        assert!(reserve(&mut client, &of(1)).allowed);
        assert!(!reserve(&mut client, &of(1)).allowed);
        client.run("ROLLBACK TO a");
        // Decided by sums, to the end of the transaction; a reader sees what is committed, and its own.
        let remaining = |session: &mut Client| {
            let call = of(1);
            session.value(&format!("SELECT used + held FROM ai_limiter.check_ai_limit({call})"))
        };
        assert_eq!(remaining(&mut client), "9");
        assert_eq!(remaining(&mut other), "4");
        let error = other
            .rows(&format!("SELECT ai_limiter.reserve_ai_usage({})", of(1)))
            .expect_err("who holds in a counter that has no place keeps others waiting");
        assert_eq!(ai_limiter_tests::sqlstate(&error), "55P03");
        for mut open in open {
            open.run(end);
        }
        // There is room again, and still nobody overtakes the transaction that sums.
        assert_eq!(remaining(&mut client), "9");
        let id = reserve(&mut client, &of(1)).id().to_owned();
        client.run(&format!("SELECT ai_limiter.settle_ai_usage('{id}')"));
        assert!(!reserve(&mut client, &of(1)).allowed);
        client.run("COMMIT");
        assert!(!reserve(&mut other, &of(1)).allowed);
        assert_eq!(remaining(&mut other), "10");
        assert_sound(&mut other);
    }
}

#[test]
fn a_transaction_that_adds_to_more_counters_than_there_are_counts_them_all() {
    for end in ["COMMIT", "ROLLBACK"] {
        let database = database(1000);
        let (mut client, mut other) = (database.connect(), database.connect());
        assert!(reserve(&mut other, &of(0)).allowed);
        client.run("BEGIN; SAVEPOINT a");
        for user in 0..40 {
            assert!(reserve(&mut client, &of(user)).allowed);
        }
        client.run("RELEASE a; SAVEPOINT b");
        for user in 0..40 {
            assert!(
                reserve(&mut client, &format!("{}, requests => 9", of(user))).allowed == (user > 0)
            );
        }
        client.run("ROLLBACK TO b");
        client.run(
            "INSERT INTO ai_limiter.ai_usage (user_id, cost_usd, requests) SELECT \
             ('00000000-0000-0000-0000-' || lpad(u::text, 12, '0'))::uuid, 0, 8 FROM generate_series(1, 39) u",
        );
        for user in 1..40 {
            assert!(!reserve(&mut client, &format!("{}, requests => 2", of(user))).allowed);
        }
        assert!(reserve(&mut client, &of(39)).allowed);
        client.run(end);
        assert_eq!(holds(&mut other), if end == "COMMIT" { 42 } else { 1 });
        assert_sound(&mut other);
        let call = format!("{}, requests => 2", of(7));
        assert_eq!(reserve(&mut other, &call).allowed, end == "ROLLBACK");
        assert!(reserve(&mut other, &of(7)).allowed);
        assert_sound(&mut other);
    }
}

#[test]
fn many_transactions_that_add_to_many_counters_neither_stick_nor_lose_anything() {
    let database = database(100_000);
    let admitted = database.clients(6, |number, client| {
        let mut admitted = 0;
        for round in 0..6 {
            let mut transaction = client.transaction().unwrap();
            let mut mine = 0;
            for call in 0..6 {
                // In one order, as an app must: what waits, waits for counters that have no place.
                let user = 10 * call + (number + round) % 3;
                match ai_limiter_tests::calls::try_reserve(&mut transaction, &of(user)) {
                    Ok(verdict) => mine += usize::from(verdict.allowed),
                    Err(error) => {
                        let code = ai_limiter_tests::sqlstate(&error);
                        assert!(["40P01", "55P03"].contains(&code), "{error:?}");
                        mine = usize::MAX;
                        break;
                    }
                }
            }
            match mine {
                usize::MAX => transaction.rollback().unwrap(),
                mine if round % 3 == 2 => {
                    transaction.rollback().unwrap();
                    let _ = mine;
                }
                mine => {
                    if transaction.commit().is_ok() {
                        admitted += mine;
                    }
                }
            }
        }
        admitted
    });
    let mut admin = database.connect();
    assert_eq!(holds(&mut admin), admitted.iter().sum::<usize>());
    assert!(admitted.iter().sum::<usize>() > 0);
    assert_sound(&mut admin);
}
