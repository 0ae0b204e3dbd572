//! The window that a counter covers: a calendar minute, hour, day, week or month of a zone.
//!
//! Windows are computed, never reset: nothing runs at midnight, and an edit of a zone only changes
//! which rows the next sum covers. For every instant and zone, the windows of one period partition
//! time: each instant lies in exactly one, also where a clock is set forward over midnight, back
//! over midnight, or by half an hour. Postgres's `date_trunc(unit, instant, zone)` does not promise
//! that: at 00:30 before a clock goes back from 01:00 to 00:00 it names a midnight that has not come
//! yet. Elsewhere the two agree.
//!
//! The zone's rules come from the caller ([`Zone`]): Postgres in production, the tz database of the
//! `jiff` crate in the property tests.

use jiff::civil::{Date, DateTime, Weekday};
use std::fmt;

/// Microseconds since 2000-01-01 00:00 UTC: Postgres's own `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A half-open range of time; `None` means without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
}

impl Window {
    pub const ALL_TIME: Window = Window { start: None, end: None };

    /// The time that lies in both.
    #[must_use]
    pub fn intersection(self, other: Window) -> Window {
        Window {
            start: self.start.max(other.start),
            end: match (self.end, other.end) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
        }
    }

    pub fn contains(&self, at: Timestamp) -> bool {
        self.start.is_none_or(|s| s <= at) && self.end.is_none_or(|e| at < e)
    }
}

/// A calendar unit, as in `date_trunc`; weeks begin on Monday (ISO 8601).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    Minute,
    Hour,
    Day,
    Week,
    Month,
}

impl Unit {
    pub const ALL: [Unit; 5] = [Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a time zone must tell: local time minus UTC, in microseconds, at an instant.
pub trait Zone {
    fn offset(&self, at: Timestamp) -> i64;
}

const SECOND: i64 = 1_000_000;
/// In microseconds.
pub const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// A day of 24 hours, in microseconds.
pub const DAY: i64 = 24 * HOUR;
/// What every zone's offset, and so every edge of a day, is a multiple of.
pub const QUARTER: i64 = 15 * MINUTE;
/// 2000-01-01 is Postgres's day zero.
const EPOCH: Date = Date::constant(2000, 1, 1);

/// The window of `unit` in `zone` that contains `at`.
pub fn calendar_window(unit: Unit, at: Timestamp, zone: &impl Zone) -> Window {
    let (start, end) = match unit {
        Unit::Minute => clock_window(MINUTE, at, zone),
        Unit::Hour => clock_window(HOUR, at, zone),
        Unit::Day | Unit::Week | Unit::Month => date_window(unit, at, zone),
    };
    Window { start: Some(start), end: Some(end) }
}

/// The window of the calendar day `date` in `zone`.
pub fn day_window(date: Date, zone: &impl Zone) -> Window {
    let next = date.tomorrow().unwrap_or(Date::MAX);
    Window { start: Some(first_instant(date, zone)), end: Some(first_instant(next, zone)) }
}

/// Minutes and hours keep the offset they are in: the hour that a clock repeats is two windows, as
/// in `date_trunc`, and a change within an hour (Lord Howe's half hour) cuts it in two.
fn clock_window(length: i64, at: Timestamp, zone: &impl Zone) -> (Timestamp, Timestamp) {
    let offset = zone.offset(at);
    let local = at.0 + offset;
    let mut start = Timestamp(local - local.rem_euclid(length) - offset);
    let mut end = Timestamp(start.0 + length);
    if zone.offset(start) != offset {
        start = transition(start, at, zone);
    }
    if zone.offset(Timestamp(end.0 - 1)) != offset {
        end = transition(at, end, zone);
    }
    (start, end)
}

/// Days and longer run from the first instant of one local date to that of another.
fn date_window(unit: Unit, at: Timestamp, zone: &impl Zone) -> (Timestamp, Timestamp) {
    let mut date = begin_of(unit, local_date(at, zone));
    // Where a clock goes back over midnight, the local date runs back too: the window is then the
    // one that had begun, which the first instants tell. One step suffices; where dates end, none
    // would.
    for _ in 0..3 {
        let start = first_instant(date, zone);
        let next = following(unit, date);
        let end = first_instant(next, zone);
        if at < start {
            date = begin_of(unit, date.yesterday().unwrap_or(Date::MIN));
        } else if at >= end {
            date = next;
        } else {
            return (start, end);
        }
    }
    (first_instant(date, zone), first_instant(following(unit, date), zone))
}

fn begin_of(unit: Unit, date: Date) -> Date {
    match unit {
        Unit::Month => date.first_of_month(),
        Unit::Week if date.weekday() != Weekday::Monday => {
            date.nth_weekday(-1, Weekday::Monday).unwrap_or(Date::MIN)
        }
        _ => date,
    }
}

fn following(unit: Unit, date: Date) -> Date {
    let next = match unit {
        Unit::Month => date.last_of_month().tomorrow(),
        Unit::Week => date.nth_weekday(1, Weekday::Monday),
        _ => date.tomorrow(),
    };
    next.unwrap_or(Date::MAX)
}

fn local_date(at: Timestamp, zone: &impl Zone) -> Date {
    let days = (at.0 + zone.offset(at)).div_euclid(DAY);
    // Postgres's timestamps reach beyond the year 9999, jiff's dates do not; a call is never there.
    EPOCH.checked_add(jiff::Span::new().days(days.clamp(-700_000, 2_900_000))).unwrap_or(Date::MAX)
}

fn local_midnight(date: Date) -> i64 {
    let days = DateTime::from(date).duration_since(DateTime::from(EPOCH)).as_hours() / 24;
    days * DAY
}

/// The first instant at which local time reaches the midnight that begins `date`.
fn first_instant(date: Date, zone: &impl Zone) -> Timestamp {
    let midnight = local_midnight(date);
    let guess = midnight - zone.offset(Timestamp(midnight));
    let (before, after) = (Timestamp(guess - DAY), Timestamp(guess + DAY));
    let (offset_before, offset_after) = (zone.offset(before), zone.offset(after));
    if offset_before == offset_after {
        return Timestamp(midnight - offset_before);
    }
    let change = transition(before, after, zone);
    let with_old = Timestamp(midnight - offset_before);
    if with_old < change {
        return with_old; // reached before the clock changes; a second midnight does not count
    }
    Timestamp((midnight - offset_after).max(change.0)) // the change itself, where it skips midnight
}

/// The instant in `(from, to]` at which the offset stops being what it is at `from`.
fn transition(from: Timestamp, to: Timestamp, zone: &impl Zone) -> Timestamp {
    let old = zone.offset(from);
    let (mut low, mut high) = (from.0, to.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if zone.offset(Timestamp(middle)) == old {
            low = middle;
        } else {
            high = middle;
        }
    }
    Timestamp(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    const EPOCH_SECONDS: i64 = 946_684_800;

    struct Tz(TimeZone);
    impl Zone for Tz {
        fn offset(&self, at: Timestamp) -> i64 {
            i64::from(self.0.to_offset(instant(at)).seconds()) * SECOND
        }
    }

    fn instant(at: Timestamp) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(at.0 + EPOCH_SECONDS * SECOND).unwrap()
    }

    fn zone(name: &str) -> Tz {
        Tz(TimeZone::get(name).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        let t: jiff::Timestamp = text.parse().unwrap();
        Timestamp(t.as_microsecond() - EPOCH_SECONDS * SECOND)
    }

    fn assert_window(unit: Unit, tz: &str, when: &str, start: &str, end: &str) {
        let w = calendar_window(unit, at(when), &zone(tz));
        assert_eq!((w.start, w.end), (Some(at(start)), Some(at(end))), "{unit} of {when} in {tz}");
    }

    #[test]
    fn a_day_lasts_23_or_25_hours_when_the_clock_changes() {
        assert_window(
            Unit::Day,
            "Europe/Berlin",
            "2026-03-29T12:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
        );
        assert_window(
            Unit::Day,
            "Europe/Berlin",
            "2026-10-25T12:00:00Z",
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
        );
    }

    #[test]
    fn a_day_whose_midnight_is_skipped_begins_when_the_clock_jumps() {
        // Beirut 2024-03-31: 00:00 becomes 01:00.
        assert_window(
            Unit::Day,
            "Asia/Beirut",
            "2024-03-31T10:00:00Z",
            "2024-03-30T22:00:00Z",
            "2024-03-31T21:00:00Z",
        );
        assert_window(
            Unit::Day,
            "Asia/Beirut",
            "2024-03-30T21:59:59Z",
            "2024-03-29T22:00:00Z",
            "2024-03-30T22:00:00Z",
        );
    }

    #[test]
    fn a_day_whose_midnight_comes_twice_begins_at_the_first() {
        // Havana 2026-11-01: 01:00 becomes 00:00, so the half hour after midnight runs twice.
        assert_window(
            Unit::Day,
            "America/Havana",
            "2026-11-01T04:30:00Z",
            "2026-11-01T04:00:00Z",
            "2026-11-02T05:00:00Z",
        );
        assert_window(
            Unit::Day,
            "America/Havana",
            "2026-11-01T05:30:00Z",
            "2026-11-01T04:00:00Z",
            "2026-11-02T05:00:00Z",
        );
    }

    #[test]
    fn a_clock_set_back_over_midnight_does_not_reopen_yesterday() {
        // St. John's 2010-11-07: 00:01 becomes 23:01 of the day before.
        assert_window(
            Unit::Day,
            "America/St_Johns",
            "2010-11-07T02:45:00Z",
            "2010-11-07T02:30:00Z",
            "2010-11-08T03:30:00Z",
        );
    }

    #[test]
    fn a_repeated_hour_is_two_windows() {
        assert_window(
            Unit::Hour,
            "Europe/Berlin",
            "2026-10-25T00:30:00Z",
            "2026-10-25T00:00:00Z",
            "2026-10-25T01:00:00Z",
        );
        assert_window(
            Unit::Hour,
            "Europe/Berlin",
            "2026-10-25T01:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T02:00:00Z",
        );
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        assert_window(
            Unit::Month,
            "Asia/Kathmandu",
            "2024-02-29T20:00:00Z",
            "2024-02-29T18:15:00Z",
            "2024-03-31T18:15:00Z",
        );
        assert_window(
            Unit::Month,
            "UTC",
            "2024-02-29T20:00:00Z",
            "2024-02-01T00:00:00Z",
            "2024-03-01T00:00:00Z",
        );
        assert_window(
            Unit::Month,
            "UTC",
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
    }

    #[test]
    fn a_week_begins_on_monday() {
        assert_window(
            Unit::Week,
            "UTC",
            "2026-11-24T04:00:00Z",
            "2026-11-23T00:00:00Z",
            "2026-11-30T00:00:00Z",
        );
        assert_window(
            Unit::Week,
            "UTC",
            "2026-11-23T00:00:00Z",
            "2026-11-23T00:00:00Z",
            "2026-11-30T00:00:00Z",
        );
    }

    fn zones() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "America/Sao_Paulo",
            "Australia/Lord_Howe",
            "Asia/Beirut",
            "America/Havana",
            "America/St_Johns",
            "Asia/Kathmandu",
            "Pacific/Apia",
            "Africa/Casablanca",
            "America/Asuncion",
            "Africa/Cairo",
            "Asia/Tehran",
            "Antarctica/Troll",
            "Pacific/Chatham",
            "America/Santiago",
            "Asia/Gaza",
        ])
    }

    fn units() -> impl Strategy<Value = Unit> {
        prop::sample::select(Unit::ALL.to_vec())
    }

    /// Instants of 2000 to 2037, half of them within two hours of a change of the zone's clock.
    fn instants(tz: &Tz, uniform: i64, near: bool, delta: i64) -> Timestamp {
        let t = Timestamp(uniform);
        if !near {
            return t;
        }
        match tz.0.following(instant(t)).next() {
            Some(change) => {
                Timestamp(change.timestamp().as_microsecond() - EPOCH_SECONDS * SECOND + delta)
            }
            None => t,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn windows_partition_time(
            name in zones(), unit in units(), uniform in 0..37 * 365 * DAY, near: bool, delta in -2 * HOUR..2 * HOUR,
        ) {
            let tz = zone(name);
            let t = instants(&tz, uniform, near, delta);
            let w = calendar_window(unit, t, &tz);
            let (start, end) = (w.start.unwrap(), w.end.unwrap());
            prop_assert!(start <= t && t < end, "{w:?} does not contain {t:?}");
            // Both edges lie in windows that meet there: no gap, no overlap.
            prop_assert_eq!(calendar_window(unit, start, &tz), w);
            prop_assert_eq!(calendar_window(unit, Timestamp(end.0 - 1), &tz), w);
            prop_assert_eq!(calendar_window(unit, end, &tz).start, Some(end));
            prop_assert_eq!(calendar_window(unit, Timestamp(start.0 - 1), &tz).end, Some(start));
        }

        #[test]
        fn a_calendar_day_holds_only_its_date_unless_the_clock_went_back_over_midnight(
            name in zones(), uniform in 0..37 * 365 * DAY, near: bool, delta in -2 * HOUR..2 * HOUR,
        ) {
            let tz = zone(name);
            let t = instants(&tz, uniform, near, delta);
            let date = local_date(t, &tz);
            let w = calendar_window(Unit::Day, t, &tz);
            let began = local_date(w.start.unwrap(), &tz);
            prop_assert!(date == began || date == began.yesterday().unwrap());
        }

        #[test]
        fn minutes_and_hours_are_never_longer_than_their_name(
            name in zones(), uniform in 0..37 * 365 * DAY, near: bool, delta in -2 * HOUR..2 * HOUR,
        ) {
            let tz = zone(name);
            let t = instants(&tz, uniform, near, delta);
            for (unit, length) in [(Unit::Minute, MINUTE), (Unit::Hour, HOUR)] {
                let w = calendar_window(unit, t, &tz);
                prop_assert!(w.end.unwrap().0 - w.start.unwrap().0 <= length);
            }
        }
    }
}
