//! A rolling limit: the last `interval`, in sixty equal buckets.
//!
//! A bucket counts as a whole until its newest call is `interval` old, so that the limit never
//! admits more than a true sliding window would, and frees late by at most one sixtieth of it.

use crate::Timestamp;
use crate::amount::Amount;
use crate::error::Result;
use crate::window::DAY;
use std::fmt;

pub const BUCKETS: i64 = 60;

/// The length of a rolling limit, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub i64);

impl Interval {
    /// Shorter would make a bucket shorter than the clock's own noise.
    pub const MIN: Interval = Interval(1_000_000);
    /// A leap year: the ledger is read over all of it at each call.
    pub const MAX: Interval = Interval(366 * 24 * 3600 * 1_000_000);

    pub fn bucket_width(self) -> i64 {
        (self.0 + BUCKETS - 1) / BUCKETS
    }

    pub fn bucket_of(self, at: Timestamp) -> Timestamp {
        let width = self.bucket_width();
        Timestamp(at.0.div_euclid(width) * width)
    }

    /// Where the oldest bucket begins that may still count at `now`.
    pub fn earliest(self, now: Timestamp) -> Timestamp {
        self.bucket_of(Timestamp(now.0 - self.0))
    }
}

impl fmt::Display for Interval {
    /// Days and the time, whatever the session's IntervalStyle: `30 days`, `00:05:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / DAY, self.0 % DAY);
        if days > 0 {
            write!(f, "{days} day{}", if days == 1 { "" } else { "s" })?;
        }
        if rest > 0 {
            let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
            let space = if days > 0 { " " } else { "" };
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            write!(f, "{space}{hours:02}:{minutes:02}:{:02}", seconds % 60)?;
            if micros > 0 {
                write!(f, "{}", format!(".{micros:06}").trim_end_matches('0'))?;
            }
        }
        Ok(())
    }
}

/// What one bucket holds; `newest` is the latest `created_at` in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub newest: Timestamp,
    pub used: Amount,
    pub held: Amount,
}

/// The sum over the buckets that count at `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    pub used: Amount,
    pub held: Amount,
    /// When the oldest counted bucket leaves; `None` when nothing counts.
    pub frees_at: Option<Timestamp>,
}

pub fn sum(
    interval: Interval,
    now: Timestamp,
    buckets: impl IntoIterator<Item = Bucket>,
) -> Result<Sum> {
    let mut total = Sum { used: Amount::ZERO, held: Amount::ZERO, frees_at: None };
    for bucket in buckets {
        let leaves = Timestamp(bucket.newest.0 + interval.0);
        if leaves <= now {
            continue;
        }
        total.used = total.used.checked_add(bucket.used)?;
        total.held = total.held.checked_add(bucket.held)?;
        total.frees_at = Some(total.frees_at.map_or(leaves, |t| t.min(leaves)));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn bucketed(interval: Interval, calls: &[(i64, i64)]) -> Vec<Bucket> {
        let mut map: BTreeMap<Timestamp, Bucket> = BTreeMap::new();
        for (at, units) in calls {
            let at = Timestamp(*at);
            let used = Amount::from_units(*units);
            map.entry(interval.bucket_of(at))
                .and_modify(|b| {
                    b.newest = b.newest.max(at);
                    b.used = b.used.checked_add(used).unwrap();
                })
                .or_insert(Bucket { newest: at, used, held: Amount::ZERO });
        }
        map.into_values().collect()
    }

    #[test]
    fn an_interval_is_named_in_days_and_time() {
        for (microseconds, name) in [
            (300_000_000, "00:05:00"),
            (30 * DAY, "30 days"),
            (DAY + 3_600_000_000, "1 day 01:00:00"),
            (1_500_000, "00:00:01.5"),
        ] {
            assert_eq!(Interval(microseconds).to_string(), name);
        }
    }

    proptest! {
        #[test]
        fn never_counts_less_than_a_sliding_window_and_frees_late_by_a_sixtieth_at_most(
            seconds in 1_i64..100_000,
            calls in prop::collection::vec((0_i64..200_000_000_000, 0_i64..1_000), 0..60),
            now in 0_i64..400_000_000_000,
        ) {
            let interval = Interval(seconds * 1_000_000);
            let calls: Vec<_> = calls.into_iter().filter(|(at, _)| *at <= now).collect();
            let counted = sum(interval, Timestamp(now), bucketed(interval, &calls)).unwrap().used;
            let within = |span: i64| {
                Amount::from_units(calls.iter().filter(|(at, _)| at + span > now).map(|(_, u)| u).sum())
            };
            prop_assert!(counted >= within(interval.0));
            prop_assert!(counted <= within(interval.0 + interval.bucket_width()));
        }

        #[test]
        fn no_bucket_before_the_earliest_counts(seconds in 1_i64..100_000, now: i32, back in 0_i64..10_000_000_000) {
            let interval = Interval(seconds * 1_000_000);
            let now = Timestamp(i64::from(now) * 1_000);
            let at = Timestamp(interval.earliest(now).0 - 1 - back);
            let old = bucketed(interval, &[(at.0, 1)]);
            prop_assert_eq!(sum(interval, now, old).unwrap().used, Amount::ZERO);
        }
    }
}
