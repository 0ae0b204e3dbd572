//! A client that does everything, remembers what it was answered, and survives the server.
//!
//! An error of a statement says that it is undone. A connection that breaks says nothing: what was
//! sent is asked again where that is safe (a key, a settle, a release, an extension to the same total),
//! and else is left as unsure.

mod uncapped;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use ai_limiter_tests::calls::{Session, Verdict, explained, try_extend, try_reserve};
use ai_limiter_tests::{Random, sqlstate};
use postgres::{Config, Error, NoTls};

use super::{CHURNING, MONOTONE, MONOTONE_RUN_LIMIT, RUN_LIMIT, USERS, usd};
use crate::people::id;

/// What a client was told of a hold, costs in millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open(u64),
    Settled(u64),
    Released,
    /// The connection broke before the answer.
    Unsure,
}

#[derive(Debug, Default)]
pub struct Log {
    pub holds: BTreeMap<String, Fate>,
    /// Reservations without an answer: each may have left a hold that no log names.
    pub unanswered: u64,
}

pub struct Client {
    config: Config,
    number: u64,
    random: Random,
    connection: Option<postgres::Client>,
    log: Log,
    keys: u64,
}

/// The server does not answer any more; else the statement is undone.
fn is_lost(error: &Error) -> bool {
    // Whoever is told to end may have committed just before.
    error.is_closed() || error.as_db_error().is_none_or(|e| e.severity() != "ERROR")
}

/// What a statement may be undone for: a lock, a cancel, an edit that met another.
fn assert_expected(error: &Error, of: &str) {
    let expected = ["57014", "40P01", "40001", "55P03", "23514", "23505", "55000"];
    assert!(expected.contains(&sqlstate(error)), "{of}: {}", explained(error));
}

impl Client {
    pub fn new(config: Config, number: u64, seed: u64) -> Self {
        let random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
        Self { config, number, random, connection: None, log: Log::default(), keys: 0 }
    }

    /// Works until the round ends, and gives its log.
    pub fn work(&mut self, ends: &AtomicBool) -> Log {
        while !ends.load(Ordering::SeqCst) {
            if self.connection.is_none() {
                self.connection = self.config.connect(NoTls).ok();
            }
            if self.connection.is_some() {
                self.act();
            } else {
                sleep(Duration::from_millis(5));
            }
        }
        self.connection = None;
        std::mem::take(&mut self.log)
    }

    fn act(&mut self) {
        match self.random.below(20) {
            0..=4 => self.reserve(CHURNING),
            5 => self.reserve(MONOTONE),
            6..=7 => self.hold_open(),
            8..=10 => self.settle(),
            11 => self.release(),
            12 => self.extend(),
            13..=14 => self.transaction(),
            15..=16 => self.book(),
            17 if self.number == 0 => self.edit(),
            17 => self.check(),
            _ => self.reserve_freely(),
        }
    }

    /// Runs one statement; `None` where it was undone.
    fn run(&mut self, sql: &str) -> Option<()> {
        self.done(sql, |client| client.batch_execute(sql)).ok().flatten()
    }

    /// `Err` where the server did not say.
    fn done<T>(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut postgres::Client) -> Result<T, Error>,
    ) -> Result<Option<T>, ()> {
        let Some(client) = &mut self.connection else { return Err(()) };
        match work(client) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_lost(&error) => {
                self.connection = None;
                Err(())
            }
            Err(error) => {
                assert_expected(&error, what);
                Ok(None)
            }
        }
    }

    /// Asks again after the connection broke, until the server says.
    fn insist<T>(
        &mut self,
        what: &str,
        mut work: impl FnMut(&mut postgres::Client) -> Result<T, Error>,
    ) -> Result<Option<T>, ()> {
        let mut outcome = self.done(what, &mut work);
        for _ in 0..2000 {
            // A statement that was undone is asked again as well, once it was ever unsure.
            if outcome.is_ok() {
                return outcome;
            }
            while self.connection.is_none() {
                sleep(Duration::from_millis(5));
                self.connection = self.config.connect(NoTls).ok();
            }
            outcome = loop {
                match self.done(what, &mut work) {
                    Ok(None) => {}
                    outcome => break outcome,
                }
            };
        }
        panic!("the server does not come back: {what}");
    }

    fn call(&mut self, tenant: u32, cost: u64) -> String {
        // Each run has a cap that its own calls reach.
        let run = match tenant {
            CHURNING if self.random.one_in(3) => Some((self.random.below(6), RUN_LIMIT)),
            MONOTONE if self.random.one_in(2) => Some((self.random.below(8), MONOTONE_RUN_LIMIT)),
            _ => None,
        };
        let run = run.map_or(String::new(), |(number, limit)| {
            format!(", run_id => 'run-{number}', run_limit_usd => {}", usd(limit))
        });
        format!(
            "tenant_id => '{}', user_id => '{}', cost_usd => {}{run}, ttl => '1 hour'",
            id(tenant),
            id(1 + self.random.below(u64::from(USERS)) as u32),
            usd(cost),
        )
    }

    fn cost(&mut self, tenant: u32) -> u64 {
        match tenant {
            MONOTONE => 10_000,
            _ => 20_000 + self.random.below(30_000),
        }
    }

    fn reserve(&mut self, tenant: u32) {
        let cost = self.cost(tenant);
        let mut call = self.call(tenant, cost);
        let has_key = self.random.one_in(3);
        if has_key {
            self.keys += 1;
            call += &format!(", idempotency_key => 'key-{}-{}'", self.number, self.keys);
        }
        let ask = |client: &mut postgres::Client| try_reserve(client, &call);
        let answer = match has_key {
            true => self.insist(&call, ask),
            false => self.done(&call, ask),
        };
        match answer {
            Ok(Some(verdict)) => self.admitted(&verdict, cost),
            Ok(None) => {}
            Err(()) => self.log.unanswered += 1,
        }
    }

    /// Holds something in a transaction that stays open for a moment: whoever asks meanwhile must not be
    /// given the same room.
    fn hold_open(&mut self) {
        let cost = self.cost(MONOTONE);
        let call = self.call(MONOTONE, cost);
        let (milliseconds, commits) = (1 + self.random.below(20), !self.random.one_in(5));
        let end = if commits { "COMMIT" } else { "ROLLBACK" };
        let outcome = self.done(&call, |client| {
            client.batch_execute("BEGIN")?;
            let verdict = try_reserve(client, &call)?;
            client.batch_execute(&format!("SELECT pg_sleep({milliseconds} * 0.001)"))?;
            client.batch_execute(end).map(|()| verdict)
        });
        match outcome {
            Ok(Some(verdict)) if commits => self.admitted(&verdict, cost),
            Ok(Some(_)) => {}
            Ok(None) => {
                self.run("ROLLBACK");
            }
            Err(()) => self.log.unanswered += 1,
        }
    }

    fn admitted(&mut self, verdict: &Verdict, cost: u64) {
        assert!(["ok", "limit_exceeded"].contains(&verdict.reason.as_str()), "{verdict:?}");
        if verdict.allowed {
            self.log.holds.insert(verdict.id().to_owned(), Fate::Open(cost));
        }
    }

    /// One of the holds that are open, and what it holds.
    fn open_hold(&mut self) -> Option<(String, u64)> {
        let open: Vec<(&String, u64)> = self
            .log
            .holds
            .iter()
            .filter_map(|(id, fate)| match fate {
                Fate::Open(cost) => Some((id, *cost)),
                _ => None,
            })
            .collect();
        if open.is_empty() {
            return None;
        }
        let (id, cost) = open[self.random.below(open.len() as u64) as usize];
        Some((id.clone(), cost))
    }

    /// What a hold is settled for: the monotone tenant's all have the one cost.
    fn actual(&mut self, held: u64) -> u64 {
        if held == 10_000 { held } else { self.random.below(300) }
    }

    fn settle(&mut self) {
        let Some((id, held)) = self.open_hold() else { return };
        let cost = self.actual(held);
        // Asked again it names another cost, and is told the first.
        let mut asked = 0;
        let answer = self.insist(&id.clone(), |client| {
            asked += 1;
            let cost = if asked == 1 || held == 10_000 { cost } else { cost / 2 };
            let sql = format!(
                "SELECT (cost_usd * 1000000)::bigint FROM \
                 ai_limiter.settle_ai_usage('{id}', cost_usd => {})",
                usd(cost)
            );
            Ok(client.rows(&sql)?[0].get(0).and_then(|cost| cost.parse().ok()).expect("a cost"))
        });
        if let Ok(Some(cost)) = answer {
            self.log.holds.insert(id, Fate::Settled(cost));
        }
    }

    fn release(&mut self) {
        let Some((id, _)) = self.open_hold().filter(|(_, held)| *held != 10_000) else { return };
        let sql = format!("SELECT ai_limiter.release_ai_usage('{id}')");
        if let Ok(Some(())) = self.insist(&sql, |client| client.batch_execute(&sql)) {
            self.log.holds.insert(id, Fate::Released);
        }
    }

    fn extend(&mut self) {
        let Some((id, held)) = self.open_hold().filter(|(_, held)| *held != 10_000) else { return };
        let total = held + 10_000;
        let to = format!("cost_usd => {}", usd(total));
        if let Ok(Some(verdict)) = self.insist(&id.clone(), |client| try_extend(client, &id, &to))
            && verdict.allowed
        {
            self.log.holds.insert(id, Fate::Open(total));
        }
    }

    /// Several things that are done together or not at all, some of them undone on the way.
    fn transaction(&mut self) {
        let mut fates: Vec<(String, Fate)> = Vec::new();
        let settled = self.open_hold();
        let level = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
        let level = level[self.random.below(3) as usize];
        let (undone, commits) = (self.random.one_in(2), !self.random.one_in(4));
        let (cost, other) = (self.cost(CHURNING), self.cost(CHURNING));
        let (call, second) = (self.call(CHURNING, cost), self.call(CHURNING, other));
        let actual = settled.as_ref().map(|(_, held)| self.actual(*held));
        let mut work = |client: &mut postgres::Client| {
            client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
            let first = try_reserve(client, &call)?;
            if first.allowed {
                fates.push((first.id().to_owned(), Fate::Open(cost)));
            }
            client.batch_execute("SAVEPOINT a")?;
            let kept = fates.len();
            if let Some(((id, _), actual)) = settled.as_ref().zip(actual) {
                let settle = format!(
                    "SELECT ai_limiter.settle_ai_usage('{id}', cost_usd => {})",
                    usd(actual)
                );
                client.batch_execute(&settle)?;
                fates.push((id.clone(), Fate::Settled(actual)));
            }
            if first.allowed && undone {
                client.batch_execute(&format!(
                    "SELECT ai_limiter.release_ai_usage('{}')",
                    first.id()
                ))?;
            }
            client.batch_execute("SAVEPOINT b")?;
            let verdict = try_reserve(client, &second)?;
            if verdict.allowed {
                fates.push((verdict.id().to_owned(), Fate::Open(other)));
            }
            if undone {
                client.batch_execute("ROLLBACK TO SAVEPOINT a")?;
                fates.truncate(kept);
            } else {
                client.batch_execute("RELEASE SAVEPOINT b; RELEASE SAVEPOINT a")?;
            }
            client.batch_execute(if commits { "COMMIT" } else { "ROLLBACK" })
        };
        let outcome = self.done("transaction", &mut work);
        match outcome {
            Ok(Some(())) if commits => self.log.holds.extend(fates),
            Ok(Some(())) => {}
            Ok(None) => {
                self.run("ROLLBACK");
            }
            Err(()) if commits => {
                self.log.unanswered += 2;
                for (id, _) in fates.into_iter().chain(settled.map(|(id, _)| (id, Fate::Unsure))) {
                    self.log.holds.insert(id, Fate::Unsure);
                }
            }
            Err(()) => {}
        }
    }
}
