//! Reading the arguments of a call: eleven that many functions share, in the order of `sql/`.

use crate::pg::uuid::from_pg;
use crate::pg::{json, numeric};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::{Call, Dimensions, Timestamp, error::Result};
use pgrx::{FromDatum, pg_sys};
use uuid::Uuid;

/// How many arguments [`Arguments::call`] reads.
pub const CALL: usize = 11;

pub struct Arguments(pg_sys::FunctionCallInfo);

impl Arguments {
    /// # Safety
    /// `fcinfo` is what Postgres passed to a function that is declared with the types that are asked
    /// of this.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Self(fcinfo)
    }

    pub fn get<T: FromDatum>(&self, index: usize) -> Option<T> {
        // SAFETY: as promised to `new`.
        unsafe { pgrx::fcinfo::pg_getarg(self.0, index) }
    }

    pub fn uuid(&self, index: usize) -> Option<Uuid> {
        self.get(index).map(from_pg)
    }

    /// A `jsonb`; `what` names it in an error.
    pub fn json(&self, index: usize, what: &str) -> Result<Option<serde_json::Value>> {
        // SAFETY: as promised to `new`.
        unsafe {
            pgrx::fcinfo::pg_getarg_datum(self.0, index)
                .map(|datum| json::from_jsonb(datum, what))
                .transpose()
        }
    }

    pub fn timestamp(&self, index: usize) -> Option<Timestamp> {
        self.get::<i64>(index).map(Timestamp)
    }

    /// The shared arguments of a call, checked; the account is as given, the tier not yet known.
    pub fn call(&self, requests: i64) -> Result<(Box<Call>, Option<Uuid>, Option<Uuid>)> {
        let attributes = self.json(7, "attributes")?;
        let mut call = Box::new(Call {
            dimensions: Dimensions {
                feature: call::text(self.get(4), "feature")?,
                api_key_id: call::api_key_id(self.get(5))?,
                run_id: call::text(self.get(6), "run_id")?,
                attributes: call::attributes(attributes.as_ref())?,
                ..Dimensions::default()
            },
            requests,
            input_tokens: call::count(self.get(8), "input_tokens")?,
            output_tokens: call::count(self.get(9), "output_tokens")?,
            cost_usd: numeric::to_charge(self.get(10), "cost_usd")?,
            ..Call::default()
        });
        call.set_model(self.get(2), self.get(3))?;
        Ok((call, self.uuid(1), self.uuid(0)))
    }

    /// The argument `requests`: at least one.
    pub fn requests(&self, index: usize) -> Result<i64> {
        let requests = i64::from(required(self.get::<i32>(index), "requests")?);
        if requests < 1 {
            return Err(ai_limiter_domain::Error::out_of_range("requests must be at least 1"));
        }
        Ok(requests)
    }
}
