//! A client of the race: it asks for its share of the dollar until it is told no, also when the
//! server dies under it.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use postgres::types::ToSql;
use postgres::{Client, Config, NoTls, Row};
use uuid::Uuid;

/// What the clients were answered, and whether they may go on.
#[derive(Default)]
pub struct Course {
    /// The server is up again.
    pub is_open: OnceLock<()>,
    known: Mutex<Known>,
}

/// What clients have had an answer to, and so may rely on.
#[derive(Default, Clone)]
pub struct Known {
    pub admitted: Vec<Uuid>,
    pub settled: Vec<Uuid>,
}

impl Course {
    pub fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Known)) {
        note(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

pub struct Guest<'a> {
    pub number: usize,
    pub client: Client,
    pub config: &'a Config,
    pub course: &'a Course,
    /// Takes the idempotency key.
    pub reserve: &'a str,
}

impl Guest<'_> {
    /// How many calls were admitted.
    pub fn race(mut self) -> Result<usize> {
        let mut admitted = 0;
        while self.call(admitted)? {
            admitted += 1;
            // The model is still at the first call when the server dies.
            self.course.is_open.wait();
        }
        Ok(admitted)
    }

    /// Makes a call, and every other client settles it at once; whether it was admitted.
    fn call(&mut self, number: usize) -> Result<bool> {
        let key = format!("guest-{}-{number}", self.number);
        let hold: Option<Uuid> = self.insist(self.reserve, &[&key])?.get(0);
        if let Some(hold) = hold {
            self.course.note(|known| known.admitted.push(hold));
        }
        if let Some(hold) = hold
            && self.number.is_multiple_of(2)
        {
            self.insist("SELECT ai_limiter.settle_ai_usage($1)", &[&hold])?;
            self.course.note(|known| known.settled.push(hold));
        }
        Ok(hold.is_some())
    }

    /// Where the server dies before it answers, nobody knows whether it did the work. The same
    /// statement again is right either way: a key or a hold that is known gives the first answer.
    fn insist(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        match self.client.query_one(sql, values) {
            // Not an error of the server's, so the connection is lost.
            Err(error) if error.code().is_none() => {
                self.course.is_open.wait();
                self.client = self.config.connect(NoTls).context("cannot connect again")?;
                Ok(self.client.query_one(sql, values)?)
            }
            answer => Ok(answer?),
        }
    }
}
