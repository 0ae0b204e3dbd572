//! Postgres's clock and its time zones.

use ai_limiter_domain::window::{DAY, Zone};
use ai_limiter_domain::{Error, Timestamp, error::Result};
use pgrx::{IntoDatum, pg_sys};

/// The wall clock, not the transaction's start: a window turns also within a long transaction.
pub fn now() -> Timestamp {
    // SAFETY: reads the clock; no preconditions.
    Timestamp(unsafe { pg_sys::GetCurrentTimestamp() })
}

/// A zone by the rules that Postgres itself has: the same as in the caller's SQL.
pub struct PgZone(pub String);

impl Zone for PgZone {
    fn offset(&self, at: Timestamp) -> i64 {
        // SAFETY: timestamptz_zone(text, timestamptz) with non-null arguments of those types; an
        // unknown zone raises 22023, which unwinds.
        let local = unsafe {
            pgrx::direct_function_call::<i64>(
                pg_sys::timestamptz_zone,
                &[self.0.as_str().into_datum(), Some(pg_sys::Datum::from(at.0))],
            )
        };
        local.unwrap_or(at.0) - at.0
    }
}

/// A duration argument in microseconds; months and years have no fixed length.
pub fn interval_microseconds(interval: &pgrx::datum::Interval, what: &str) -> Result<i64> {
    if interval.months() != 0 {
        return Err(Error::invalid(format!("{what} cannot have months or years")));
    }
    i64::from(interval.days())
        .checked_mul(DAY)
        .and_then(|days| days.checked_add(interval.micros()))
        .ok_or_else(|| Error::out_of_range(format!("{what} is out of range")))
}
