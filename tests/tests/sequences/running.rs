//! Running a sequence, and asking after each step.
//!
//! Many transactions may be open, of which each sees only its own rows and, in shared memory, the holds
//! of all: so a session is only asked while no other has one open.

use std::thread::sleep;
use std::time::Duration;

use ai_limiter_tests::{Cluster, sqlstate};
use postgres::Client;

use super::{Act, SESSIONS, Step};
use crate::people::{describe, id, try_ask};

/// What went wrong, and after which step.
#[derive(Debug)]
pub struct Failure {
    pub at: usize,
    pub what: String,
}

/// Errors that a step may end with: it met a lock, a tie, a hold that is gone, its own bad arguments.
const EXPECTED: [&str; 11] = [
    "55P03", "40001", "40P01", "23514", "42704", "55000", "22012", "22003", "22023", "23503",
    "0A000",
];

#[derive(Clone, Copy, Default)]
struct Open {
    /// How many savepoints there are.
    savepoints: usize,
    /// An error has ended it but for the ROLLBACK.
    failed: bool,
    /// When it commits, it waits until nobody else is open.
    alone: bool,
    /// It keeps the snapshot of its first statement.
    keeps_snapshot: bool,
}

struct Sessions {
    clients: Vec<Client>,
    open: [Option<Open>; SESSIONS],
}

/// Runs the steps in a database of their own.
pub fn run(cluster: &Cluster, steps: &[Step]) -> Result<(), Failure> {
    let database = cluster.fresh_database();
    let mut clients: Vec<Client> = (0..SESSIONS).map(|_| database.connect()).collect();
    prepare(&mut clients[0]);
    for client in &mut clients {
        client.batch_execute("SET lock_timeout = '80ms'").expect("a setting");
    }
    let mut sessions = Sessions { clients, open: [None; SESSIONS] };
    let counters = sessions.value(0, "SHOW ai_limiter.max_counters");
    let interleaves = counters == "65536";
    for (at, step) in steps.iter().enumerate() {
        let session = sessions.who(step, interleaves);
        let done = sessions.act(session, &step.act).and_then(|()| {
            step.asked.iter().try_for_each(|call| sessions.compare(session, call))?;
            sessions.verify(at)
        });
        done.map_err(|what| Failure { at, what: format!("session {session}: {what}") })?;
    }
    (0..SESSIONS)
        .try_for_each(|session| sessions.end(session, "COMMIT"))
        .and_then(|()| sessions.verify(0))
        .map_err(|what| Failure { at: steps.len() - 1, what: format!("at the end: {what}") })
}

fn prepare(client: &mut Client) {
    let mut sql = "SELECT ai_limiter.ensure_ai_partitions();
        UPDATE ai_limiter.ai_limits SET amount = 1000 WHERE id < 0;
        INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('*', 0.001);
        SELECT ai_limiter.record_ai_usage(cost_usd => 0.01,
            created_at => now() - interval '42 days');"
        .to_owned();
    for (user, tenant, tier) in [(1, 1, "pro"), (2, 1, "free"), (3, 2, "pro")] {
        sql += &format!(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier, timezone)
                VALUES ('{}', '{}', '{tier}', 'Asia/Tokyo');",
            id(tenant),
            id(user)
        );
    }
    client.batch_execute(&sql).unwrap_or_else(|error| panic!("{}", describe(&error)));
}

impl Sessions {
    /// The one that takes the step: another one, where that would have to wait for it.
    fn who(&self, step: &Step, interleaves: bool) -> usize {
        let alone =
            self.open.iter().position(|open| open.is_some_and(|open| open.alone || !interleaves));
        alone.unwrap_or(step.session)
    }

    fn others_are_open(&self, session: usize) -> bool {
        (0..SESSIONS).any(|other| other != session && self.open[other].is_some())
    }

    fn value(&mut self, session: usize, sql: &str) -> String {
        try_ask(&mut self.clients[session], sql)
            .unwrap_or_else(|error| panic!("{sql}: {}", describe(&error)))
    }

    fn act(&mut self, session: usize, act: &Act) -> Result<(), String> {
        let open = self.open[session];
        match (act, open) {
            (Act::Begin(level), None) => {
                self.execute(session, &format!("BEGIN ISOLATION LEVEL {level}"))?;
                let keeps_snapshot = *level != "READ COMMITTED";
                self.open[session] = Some(Open { keeps_snapshot, ..Open::default() });
            }
            (Act::Commit, Some(open)) if !(open.alone && self.others_are_open(session)) => {
                return self.end(session, "COMMIT");
            }
            (Act::Rollback, Some(_)) => return self.end(session, "ROLLBACK"),
            (Act::Savepoint, Some(open)) if !open.failed => {
                self.set(session, |open| open.savepoints += 1);
                self.execute(session, &format!("SAVEPOINT s{}", open.savepoints + 1))?;
            }
            (Act::Release, Some(open)) if !open.failed && open.savepoints > 0 => {
                self.set(session, |open| open.savepoints -= 1);
                self.execute(session, &format!("RELEASE SAVEPOINT s{}", open.savepoints))?;
            }
            (Act::RollbackToSavepoint, Some(open)) if open.savepoints > 0 => {
                self.set(session, |open| open.failed = false);
                self.execute(session, &format!("ROLLBACK TO SAVEPOINT s{}", open.savepoints))?;
            }
            (Act::Alone(sql), open)
                if !open.is_some_and(|open| open.failed) && !self.others_are_open(session) =>
            {
                self.set(session, |open| open.alone = true);
                self.execute(session, sql)?;
            }
            (Act::Call(sql), open) if !open.is_some_and(|open| open.failed) => {
                self.execute(session, sql)?;
            }
            (Act::Sleep, _) => sleep(Duration::from_millis(25)),
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, session: usize, change: impl FnOnce(&mut Open)) {
        if let Some(open) = &mut self.open[session] {
            change(open);
        }
    }

    fn execute(&mut self, session: usize, sql: &str) -> Result<(), String> {
        if let Err(error) = self.clients[session].batch_execute(sql) {
            if !EXPECTED.contains(&sqlstate(&error)) {
                return Err(format!("{sql}\n{}", describe(&error)));
            }
            self.set(session, |open| open.failed = true);
        }
        Ok(())
    }

    fn end(&mut self, session: usize, how: &str) -> Result<(), String> {
        if self.open[session].take().is_none() {
            return Ok(());
        }
        self.execute(session, how)
    }

    /// Asks the counters in shared memory and the tables.
    fn compare(&mut self, session: usize, call: &str) -> Result<(), String> {
        let open = self.open[session].unwrap_or_default();
        if open.failed || self.others_are_open(session) {
            return Ok(());
        }
        // Between two questions a window may turn, or a hold expire.
        const MOMENT: &str = "SELECT date_trunc('minute', clock_timestamp()), count(*)
            FROM ai_limiter.ai_reservations
            WHERE state = 'open' AND expires_at > clock_timestamp()";
        let ask = format!(
            "SELECT jsonb_pretty(to_jsonb(v) - 'retry_after') FROM ai_limiter.check_ai_limit({call}) v"
        );
        let mut answers = Default::default();
        for _ in 0..3 {
            let mut asked = Vec::new();
            for sql in [
                MOMENT,
                &ask,
                "SET ai_limiter.counter_source = 'tables'",
                &ask,
                "SET ai_limiter.counter_source = 'memory'",
                MOMENT,
            ] {
                match try_ask(&mut self.clients[session], sql) {
                    Ok(answer) => asked.push(answer),
                    // Reading alone may end a serializable transaction.
                    Err(error) if sqlstate(&error) == "40001" => {
                        self.set(session, |open| open.failed = true);
                        return Ok(());
                    }
                    Err(error) => return Err(format!("{sql}: {}", describe(&error))),
                }
            }
            let [before, memory, _, tables, _, after] =
                <[String; 6]>::try_from(asked).expect("six");
            if memory == tables {
                return Ok(());
            }
            answers = (memory, tables);
            if before == after && !open.keeps_snapshot {
                break;
            }
        }
        let (memory, tables) = answers;
        let difference: Vec<String> = memory
            .lines()
            .zip(tables.lines())
            .filter(|(memory, tables)| memory != tables)
            .map(|(memory, tables)| format!("{} | {}", memory.trim(), tables.trim()))
            .collect();
        Err(format!(
            "memory | tables differ for check_ai_limit({call}):\n{}\nof\n{tables}",
            difference.join("\n")
        ))
    }

    /// While nothing is open, no counter drifts.
    fn verify(&mut self, at: usize) -> Result<(), String> {
        if !at.is_multiple_of(4) || self.open.iter().any(Option::is_some) {
            return Ok(());
        }
        let drift = self.value(0, "SELECT * FROM ai_limiter.verify_ai_counters() WHERE drift <> 0");
        if drift.is_empty() { Ok(()) } else { Err(format!("counters drift:\n{drift}")) }
    }
}
