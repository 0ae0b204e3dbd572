//! When a price holds: from a date on, or at a time of day. Both in UTC.

use crate::error::{Error, Result};
use crate::window::Timestamp;
use serde::Deserialize;

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A condition of a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    From(Timestamp),
    /// Microseconds since midnight; past midnight when `end` is before `start`.
    Daily {
        start: i64,
        end: i64,
    },
}

/// As the catalogue has it.
#[derive(Deserialize)]
pub struct ConstraintDocument {
    start_date: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
}

impl Condition {
    pub fn holds(self, at: Timestamp) -> bool {
        match self {
            Self::From(start) => at >= start,
            Self::Daily { start, end } => {
                // 2000-01-01 began at midnight UTC too.
                let time = at.0.rem_euclid(MICROS_PER_DAY);
                if end < start { time >= start || time < end } else { time >= start && time < end }
            }
        }
    }

    /// The next moment after `at` when it can come to hold, or not any more.
    pub fn next_change(self, at: Timestamp) -> Option<Timestamp> {
        let next = |time: i64| {
            let wait = (time - at.0.rem_euclid(MICROS_PER_DAY)).rem_euclid(MICROS_PER_DAY);
            at.0.checked_add(if wait == 0 { MICROS_PER_DAY } else { wait }).map(Timestamp)
        };
        match self {
            Self::From(start) => (start > at).then_some(start),
            Self::Daily { start, end } => next(start).min(next(end)),
        }
    }

    /// Reads a condition.
    ///
    /// # Errors
    /// 22023 when it is neither a date nor two times of day.
    pub fn from_document(document: &ConstraintDocument) -> Result<Self> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let condition = match (
            given(&document.start_date),
            given(&document.start_time),
            given(&document.end_time),
        ) {
            (Some(date), None, None) => midnight(&date).map(Condition::From),
            (None, Some(start), Some(end)) => time_of_day(&start)
                .zip(time_of_day(&end))
                .map(|(start, end)| Condition::Daily { start, end }),
            _ => None,
        };
        condition.ok_or_else(|| {
            Error::invalid("constraint of a price is not valid").hint(
                "A constraint is a \"start_date\" as 2026-01-31, or a \"start_time\" and an \"end_time\" as 06:00:00Z.",
            )
        })
    }
}

/// Of a date as `2026-01-31`, in UTC.
pub fn midnight(date: &str) -> Option<Timestamp> {
    let date: jiff::civil::Date = date.parse().ok()?;
    let days = date.since(jiff::civil::date(2000, 1, 1)).ok()?.get_days();
    Some(Timestamp(i64::from(days) * MICROS_PER_DAY))
}

/// Of a time as `06:00:00.5Z` or `06:00:00+01:00`, in microseconds since midnight UTC, rounded up: the
/// clock shows whole ones, so that the comparisons come out alike.
fn time_of_day(text: &str) -> Option<i64> {
    let (time, offset) = match text.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let (time, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let sign = match offset.as_bytes()[0] {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = offset[1..].split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            (time, sign * minutes * 60 * MICROS_PER_SECOND)
        }
    };
    let time: jiff::civil::Time = time.parse().ok()?;
    let nanos = time.duration_since(jiff::civil::Time::midnight()).as_nanos();
    let micros = i64::try_from((nanos + 999) / 1_000).ok()?;
    Some((micros - offset).rem_euclid(MICROS_PER_DAY))
}
