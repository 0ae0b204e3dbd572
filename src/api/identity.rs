//! Who is asking, and the small pure functions that SQL shares with the library.

use super::{Answered, answered};
use crate::admission::caller::Caller;
use crate::pg::clock::PgZone;
use crate::pg::uuid::to_pg;
use ai_limiter_domain::window::{Unit, calendar_window};
use ai_limiter_domain::{Error, Timestamp, model_name};
use pgrx::datum::RangeBound;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn ai_current_user() -> Answered<Option<pgrx::Uuid>> {
    answered(|| Ok(Caller::current()?.user_id.map(to_pg)))
}

#[pg_extern(sql = false)]
fn ai_current_tenant() -> Answered<pgrx::Uuid> {
    answered(|| Ok(to_pg(Caller::current()?.tenant_id())))
}

#[pg_extern(sql = false)]
fn ai_current_role() -> Answered<&'static str> {
    answered(|| Ok(Caller::current()?.role()?.name()))
}

#[pg_extern(sql = false)]
fn ai_is_server() -> Answered<bool> {
    answered(|| Ok(Caller::current()?.is_server))
}

#[pg_extern(sql = false)]
fn ai_sees_platform() -> Answered<bool> {
    answered(|| Caller::current()?.sees_platform())
}

#[pg_extern(sql = false)]
fn ai_sees_people() -> Answered<bool> {
    answered(|| Caller::current()?.sees_people())
}

#[pg_extern(sql = false)]
fn canonical_model_name(model: &str) -> String {
    model_name::canonicalize(model).model
}

/// Where dates have the arithmetic that windows need, with room to spare, in microseconds from 2000.
const YEARS: std::ops::Range<i64> = -9_467_000_000_000_000..220_900_000_000_000_000;

#[pg_extern(sql = false)]
fn ai_window(
    period: &str,
    at: TimestampWithTimeZone,
    timezone: String,
) -> Answered<pgrx::Range<TimestampWithTimeZone>> {
    answered(|| {
        if period == "total" {
            return Ok(pgrx::Range::new(RangeBound::Infinite, RangeBound::Infinite));
        }
        let unit = Unit::parse(period).ok_or_else(|| {
            Error::invalid(format!("period \"{period}\" does not exist"))
                .hint("Use one of minute, hour, day, week, month, total.")
        })?;
        let at = Timestamp(pg_sys::TimestampTz::from(at));
        if !YEARS.contains(&at.0) {
            return Err(Error::invalid("at is out of range")
                .detail("It must be between the years 1700 and 9000."));
        }
        let window = calendar_window(unit, at, &PgZone(timezone));
        let bound =
            |t: Option<Timestamp>| t.and_then(|t| TimestampWithTimeZone::try_from(t.0).ok());
        Ok(match (bound(window.start), bound(window.end)) {
            (Some(start), Some(end)) => {
                pgrx::Range::new(RangeBound::Inclusive(start), RangeBound::Exclusive(end))
            }
            _ => pgrx::Range::empty(),
        })
    })
}
