//! What 64 clients may have together is what one may have: never more, and never less either.

use std::sync::Barrier;

use ai_limiter_tests::calls::{
    LEVELS, Session, assert_sound, at_level, disable_shipped_limits, reserve, try_reserve,
};
use ai_limiter_tests::{Cluster, Database};
use postgres::{Client, IsolationLevel};

const CLIENTS: usize = 64;

/// Two limits of which each subject has its own, and which 100 calls of a cent fill.
fn database_with_caps_of_a_hundred() -> Database {
    let database = Cluster::shared().fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, per, metric, period, rolling, amount) VALUES \
         ('cost', '{feature}', 'cost_usd', 'total', NULL, 1), \
         ('requests', '{api_key_id}', 'requests', NULL, '1 hour', 100)",
    );
    database
}

/// How a call names its subject in this round: by turns one that a cost cap and one that a cap of
/// requests stops. Every round has a fresh subject.
fn subject(round: usize) -> String {
    match round % 2 {
        0 => format!("feature => 'round {round}', cost_usd => 0.01"),
        _ => format!("api_key_id => 'round {round}', cost_usd => 0"),
    }
}

fn count_holds(session: &mut impl Session, condition: &str) -> usize {
    let sql = format!("SELECT count(*) FROM ai_limiter.ai_reservations WHERE {condition}");
    session.value(&sql).parse().unwrap()
}

/// Every client asks until it is denied: exactly 100 are admitted, ten times over.
fn exactly_a_hundred_at(level: IsolationLevel) {
    let database = database_with_caps_of_a_hundred();
    let mut admin = database.connect();
    for round in 0..10 {
        let arguments = subject(round);
        let admitted = database.clients(CLIENTS, |_, client| {
            let mut ask = || at_level(client, level, |t| try_reserve(t, &arguments)).allowed;
            (0..).take_while(|_| ask()).count()
        });
        assert_eq!(admitted.iter().sum::<usize>(), 100, "round {round}");
        assert_eq!(count_holds(&mut admin, "true"), 100 * (round + 1));
        assert_sound(&mut admin);
    }
}

#[test]
fn exactly_what_fits_is_admitted_at_read_committed() {
    exactly_a_hundred_at(IsolationLevel::ReadCommitted);
}

#[test]
fn exactly_what_fits_is_admitted_at_repeatable_read() {
    exactly_a_hundred_at(IsolationLevel::RepeatableRead);
}

#[test]
fn exactly_what_fits_is_admitted_at_serializable() {
    exactly_a_hundred_at(IsolationLevel::Serializable);
}

/// `count` calls in one statement: how many were admitted.
fn in_one_statement(
    session: &mut impl Session,
    arguments: &str,
    count: usize,
) -> Result<usize, postgres::Error> {
    let rows = session.rows(&format!(
        "SELECT count(*) FILTER (WHERE (v).allowed) FROM (SELECT \
         ai_limiter.reserve_ai_usage({arguments}) AS v FROM generate_series(1, {count})) calls"
    ))?;
    Ok(rows[0].get(0).unwrap().parse().unwrap())
}

#[test]
fn one_statement_gets_no_more_than_fits() {
    let database = database_with_caps_of_a_hundred();
    let mut client = database.connect();
    for (round, level) in LEVELS.into_iter().enumerate() {
        for round in [2 * round, 2 * round + 1] {
            let arguments = subject(round);
            let admitted = at_level(&mut client, level, |t| in_one_statement(t, &arguments, 150));
            assert_eq!(admitted, 100, "at {level:?}");
        }
    }
    assert_sound(&mut client);
}

#[test]
fn many_clients_with_many_calls_a_statement_get_no_more_than_fits() {
    let database = database_with_caps_of_a_hundred();
    for (round, level) in LEVELS.into_iter().enumerate() {
        let arguments = subject(round);
        let admitted = database.clients(CLIENTS, |_, client| {
            at_level(client, level, |t| in_one_statement(t, &arguments, 5))
        });
        assert_eq!(admitted.iter().sum::<usize>(), 100, "at {level:?}");
        assert_sound(&mut database.connect());
    }
}

/// A transaction whose snapshot is taken, and older than whatever comes next.
fn with_old_snapshot(client: &mut Client, level: IsolationLevel) -> postgres::Transaction<'_> {
    let mut old = client.build_transaction().isolation_level(level).start().unwrap();
    assert_eq!(count_holds(&mut old, "true"), 0);
    old
}

#[test]
fn a_transaction_with_an_old_snapshot_sees_what_others_hold_since() {
    for level in [IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let database = database_with_caps_of_a_hundred();
        let (mut client, mut other) = (database.connect(), database.connect());
        let mut old = with_old_snapshot(&mut client, level);
        for round in [0, 1] {
            assert_eq!(in_one_statement(&mut other, &subject(round), 60).unwrap(), 60);
        }
        // The query still shows nothing: it is the limiter that looks at the present.
        assert_eq!(count_holds(&mut old, "true"), 0);
        for round in [0, 1] {
            let arguments = subject(round);
            for _ in 0..40 {
                assert!(reserve(&mut old, &arguments).allowed);
            }
            assert!(!reserve(&mut old, &arguments).allowed);
            assert_eq!(in_one_statement(&mut old, &arguments, 5).unwrap(), 0);
        }
        old.commit().unwrap();
        assert_eq!(count_holds(&mut other, "true"), 200);
        assert_sound(&mut other);
    }
}

#[test]
fn a_transaction_with_an_old_snapshot_meets_a_new_rule() {
    let database = database_with_caps_of_a_hundred();
    let (mut client, mut admin) = (database.connect(), database.connect());
    let mut old = with_old_snapshot(&mut client, IsolationLevel::RepeatableRead);
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, feature, metric, period, amount) \
         VALUES ('none', 'new', 'requests', 'total', 0)",
    );
    let verdict = reserve(&mut old, "feature => 'new', cost_usd => 0.01");
    assert_eq!((verdict.allowed, verdict.limit_name.as_deref()), (false, Some("none")));
}

#[test]
fn many_transactions_with_old_snapshots_get_no_more_than_fits() {
    for level in LEVELS {
        let database = database_with_caps_of_a_hundred();
        let arguments = subject(0);
        let snapshots_taken = Barrier::new(CLIENTS);
        let admitted = database.clients(CLIENTS, |_, client| {
            let mut first = true;
            at_level(client, level, |t| {
                t.rows("SELECT count(*) FROM ai_limiter.ai_reservations")?;
                if std::mem::take(&mut first) {
                    snapshots_taken.wait();
                }
                let mut admitted = 0;
                for _ in 0..3 {
                    admitted += usize::from(try_reserve(t, &arguments)?.allowed);
                }
                Ok(admitted)
            })
        });
        assert_eq!(admitted.iter().sum::<usize>(), 100, "at {level:?}");
        assert_sound(&mut database.connect());
    }
}

#[test]
fn one_dollar_is_given_out_to_the_last_cent_and_no_further() {
    let database = database_with_caps_of_a_hundred();
    let cents = database.clients(CLIENTS, |_, client| {
        // Smaller and smaller calls, until not even a cent is left.
        let mut held = 0;
        for cents in [7, 5, 3, 1] {
            let arguments = format!("feature => 'dollar', cost_usd => 0.0{cents}");
            while reserve(client, &arguments).allowed {
                held += cents;
            }
        }
        held
    });
    assert_eq!(cents.iter().sum::<i32>(), 100);
    let mut admin = database.connect();
    assert_eq!(admin.value("SELECT sum(cost_usd) = 1 FROM ai_limiter.ai_reservations"), "t");
    assert_sound(&mut admin);
}

#[test]
fn a_call_that_does_not_fit_leaves_what_is_left_to_others() {
    let database = database_with_caps_of_a_hundred();
    let admitted = database.clients(CLIENTS, |_, client| {
        usize::from(reserve(client, "feature => 'thirds', cost_usd => 0.03").allowed)
    });
    assert_eq!(admitted.iter().sum::<usize>(), 33);
    let last = reserve(&mut database.connect(), "feature => 'thirds', cost_usd => 0.01");
    assert!(last.allowed);
    assert_sound(&mut database.connect());
}
