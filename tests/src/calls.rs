//! The calls that tests make most, and what must hold after any of them.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Cluster, Database};
use postgres::error::SqlState;
use postgres::{Client, Error, IsolationLevel, SimpleQueryMessage, SimpleQueryRow, Transaction};

/// The levels at which Postgres behaves differently.
pub const LEVELS: [IsolationLevel; 3] =
    [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];

/// A connection, or a transaction on it.
pub trait Session {
    /// Runs one statement and gives its rows, every value as text.
    fn rows(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error>;

    /// The only value of a statement that must succeed; null is an empty text.
    #[track_caller]
    fn value(&mut self, sql: &str) -> String {
        let rows = self.rows(sql).unwrap_or_else(|error| panic!("{sql}: {}", explained(&error)));
        let [row] = &rows[..] else { panic!("{} rows: {sql}", rows.len()) };
        row.get(0).unwrap_or_default().to_owned()
    }

    /// Runs what must succeed.
    #[track_caller]
    fn run(&mut self, sql: &str) {
        self.rows(sql).unwrap_or_else(|error| panic!("{sql}: {}", explained(&error)));
    }
}

impl Session for Client {
    fn rows(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        self.simple_query(sql).map(only_rows)
    }
}

impl Session for Transaction<'_> {
    fn rows(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        self.simple_query(sql).map(only_rows)
    }
}

fn only_rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// An error of the server with its SQLSTATE and its DETAIL, which `Display` leaves out.
#[must_use]
pub fn explained(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            format!("{} {} {}", db.code().code(), db.message(), db.detail().unwrap_or_default())
        }
        None => error.to_string(),
    }
}

/// What `reserve_ai_usage` or `extend_ai_reservation` answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
    pub limit_name: Option<String>,
    pub remaining: Option<String>,
    pub reservation_id: Option<String>,
}

impl Verdict {
    /// The hold of a call that must have been admitted.
    #[track_caller]
    #[must_use]
    pub fn id(&self) -> &str {
        self.reservation_id.as_deref().unwrap_or_else(|| panic!("not admitted: {self:?}"))
    }
}

/// `reserve_ai_usage` with arguments as SQL.
pub fn try_reserve(session: &mut impl Session, arguments: &str) -> Result<Verdict, Error> {
    verdict(session, &format!("ai_limiter.reserve_ai_usage({arguments})"))
}

/// Like [`try_reserve`], where an error is the test's failure.
#[track_caller]
pub fn reserve(session: &mut impl Session, arguments: &str) -> Verdict {
    try_reserve(session, arguments)
        .unwrap_or_else(|error| panic!("reserve({arguments}): {}", explained(&error)))
}

/// `extend_ai_reservation` of a hold, with the other arguments as SQL.
pub fn try_extend(session: &mut impl Session, id: &str, to: &str) -> Result<Verdict, Error> {
    verdict(session, &format!("ai_limiter.extend_ai_reservation('{id}', {to})"))
}

fn verdict(session: &mut impl Session, call: &str) -> Result<Verdict, Error> {
    let rows = session.rows(&format!(
        "SELECT allowed, reason, limit_name, remaining, reservation_id FROM {call}"
    ))?;
    let [row] = &rows[..] else { panic!("a verdict is one row, not {}", rows.len()) };
    let text = |column: &str| row.get(column).map(str::to_owned);
    Ok(Verdict {
        allowed: row.get("allowed") == Some("t"),
        reason: text("reason").unwrap_or_default(),
        limit_name: text("limit_name"),
        remaining: text("remaining"),
        reservation_id: text("reservation_id"),
    })
}

/// Runs `work` in a transaction of this level and commits, again and again while the answer is a
/// serialization failure, as an app must at the two upper levels.
#[track_caller]
pub fn at_level<T>(
    client: &mut Client,
    level: IsolationLevel,
    mut work: impl FnMut(&mut Transaction) -> Result<T, Error>,
) -> T {
    loop {
        let mut attempt = || {
            let mut transaction = client.build_transaction().isolation_level(level).start()?;
            let result = work(&mut transaction)?;
            transaction.commit().map(|()| result)
        };
        match attempt() {
            Ok(result) => return result,
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {}
            Err(error) => panic!("{}", explained(&error)),
        }
    }
}

/// Takes the shipped limits out, so that only those of the test count.
#[track_caller]
pub fn disable_shipped_limits(session: &mut impl Session) {
    session.run("UPDATE ai_limiter.ai_limits SET enabled = false WHERE id < 0");
}

/// What must hold whenever nothing is in flight: no counter differs from the raw rows, and no
/// limit that denies is exceeded. Not for tests that settle more than they held.
#[track_caller]
pub fn assert_sound(session: &mut impl Session) {
    assert_no_drift(session);
    let exceeded = session.value(
        "SELECT coalesce(string_agg(format('%s of %s: %s + %s of %s', v.limit_name, v.subject, \
         v.used, v.held, l.amount), E'\n'), '') FROM ai_limiter.verify_ai_counters() v \
         JOIN ai_limiter.ai_limits l ON l.id = v.limit_id \
         WHERE l.action = 'deny' AND v.used + v.held > l.amount",
    );
    assert_eq!(exceeded, "", "limits are exceeded");
}

/// No counter differs from the raw rows.
#[track_caller]
pub fn assert_no_drift(session: &mut impl Session) {
    let drifted = session.value(
        "SELECT coalesce(string_agg(v::text, E'\n'), '') \
         FROM ai_limiter.verify_ai_counters() v WHERE v.drift <> 0",
    );
    assert_eq!(drifted, "", "counters drift");
}

/// The number of the server process behind a connection.
#[track_caller]
pub fn backend_pid(session: &mut impl Session) -> i32 {
    session.value("SELECT pg_backend_pid()").parse().expect("a number")
}

/// Waits until that process waits for a lock.
#[track_caller]
pub fn wait_for_lock_wait(observer: &mut Client, pid: i32) {
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
    );
    wait_until("the other session waits for a lock", || observer.value(&waits) == "1");
}

/// Waits for what must come true within half a minute.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not true in time: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// A database in which everybody together may spend one dollar in all, and nothing else is limited.
#[track_caller]
pub fn database_with_a_dollar(cluster: &Cluster) -> Database {
    let database = cluster.fresh_database();
    let mut admin = database.connect();
    disable_shipped_limits(&mut admin);
    admin.run("SELECT ai_limiter.ensure_ai_partitions()");
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'total', 1)",
    );
    database
}

/// What is held of that dollar, in cents.
pub fn held_cents(session: &mut impl Session) -> i32 {
    // By the one rule that is there: a run's own cap has a counter of its own.
    let sql = "SELECT coalesce(sum(held) * 100, 0)::int FROM ai_limiter.verify_ai_counters() \
               WHERE limit_id <> 0";
    session.value(sql).parse().unwrap()
}

/// Asks of a call twice, the counters in shared memory and the tables: they must answer alike, whatever
/// the transaction that asks has done. Gives what is used and held of the binding limit.
#[track_caller]
pub fn agreed(session: &mut impl Session, arguments: &str) -> String {
    let ask =
        format!("SELECT to_jsonb(v) - 'retry_after' FROM ai_limiter.check_ai_limit({arguments}) v");
    let mut answers = (String::new(), String::new());
    // A window may turn in between, or a hold expire.
    for _ in 0..3 {
        answers.0 = session.value(&ask);
        session.run("SET ai_limiter.counter_source = 'tables'");
        answers.1 = session.value(&ask);
        let sums = session.value(&format!(
            "SELECT concat_ws(' + ', used, held) FROM ai_limiter.check_ai_limit({arguments})"
        ));
        session.run("SET ai_limiter.counter_source = 'memory'");
        if answers.0 == answers.1 {
            return sums;
        }
    }
    panic!(
        "memory and tables differ for check_ai_limit({arguments}):\n{}\n{}",
        answers.0, answers.1
    );
}
