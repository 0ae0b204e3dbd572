//! What a decision reads of the configuration, from either of two places: the tables, under the
//! snapshot of the decision, or what this backend has kept ([`cache`](super::cache)).

use crate::ledger::config::{self, Account, Suspension};
use crate::ledger::estimates;
use crate::ledger::prices::{self, Prices};
use crate::pg::spi::{Snapshot, Spi};
use ai_limiter_domain::estimates::output::Learned;
use ai_limiter_domain::{Amount, Call, Dimensions, Error, Timestamp};
use std::rc::Rc;
use uuid::Uuid;

/// Why something was not decided.
#[derive(Debug)]
pub enum Undecided {
    /// Something has to be read first.
    NotKept,
    Refused(Error),
}

impl From<Error> for Undecided {
    fn from(error: Error) -> Self {
        Undecided::Refused(error)
    }
}

impl From<Undecided> for Error {
    /// For those who read the tables, where nothing waits to be read.
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Refused(error) => error,
            Undecided::NotKept => Error::invalid("configuration could not be read"),
        }
    }
}

pub type Decided<T> = std::result::Result<T, Undecided>;

pub trait Configuration {
    fn account(&self, tenant: Uuid, user: Option<Uuid>) -> Decided<Rc<Account>>;
    fn suspension(&self, call: &Dimensions) -> Decided<Option<Suspension>>;
    fn prices(&self, call: &Call, at: Timestamp) -> Decided<Rc<Prices>>;
    /// What such calls have returned.
    fn learned(&self, model: &str, feature: Option<&str>) -> Decided<Option<Learned>>;
    /// The cap that a run was given on its own.
    fn run_limit(&self, tenant: Uuid, run: &str) -> Decided<Option<Amount>>;
}

/// The tables as a snapshot shows them.
pub struct Tables<'a> {
    pub spi: &'a Spi,
    pub snapshot: &'a Snapshot,
}

impl Configuration for Tables<'_> {
    fn account(&self, tenant: Uuid, user: Option<Uuid>) -> Decided<Rc<Account>> {
        Ok(Rc::new(config::account(self.spi, self.snapshot, tenant, user)?))
    }

    fn suspension(&self, call: &Dimensions) -> Decided<Option<Suspension>> {
        Ok(config::suspension(self.spi, self.snapshot, call)?)
    }

    fn prices(&self, call: &Call, at: Timestamp) -> Decided<Rc<Prices>> {
        Ok(Rc::new(prices::read(self.spi, self.snapshot, call, at)?))
    }

    fn learned(&self, model: &str, feature: Option<&str>) -> Decided<Option<Learned>> {
        Ok(estimates::learned(self.spi, self.snapshot, model, feature)?)
    }

    fn run_limit(&self, tenant: Uuid, run: &str) -> Decided<Option<Amount>> {
        Ok(config::run_limit(self.spi, self.snapshot, tenant, run)?)
    }
}
