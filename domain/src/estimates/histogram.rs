//! How many output tokens calls have returned: a histogram from which any quantile can be read.
//!
//! Buckets are 5% wide, so that a quantile is at most that much too large, and never too small; up to
//! 20 tokens each count has its own. All is integers: two servers that saw the same calls say the same. It
//! forgets: past [`MOST_CALLS`] every bucket is halved, so that what was learned is of the last
//! thousands of calls, and a model that has changed is learned anew. At most some 500 buckets, however
//! many calls.

use crate::call::MAX_COUNT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Calls after which the older ones begin to count less.
pub const MOST_CALLS: u64 = 10_000;
/// Fewer calls say nothing of a 95% quantile: of a hundred, five are above it.
pub const LEAST_CALLS: u64 = 100;

/// The largest count of each bucket.
static UPPER_BOUNDS: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let mut bounds = vec![0];
    while let Some(last) = bounds.last().copied().filter(|last| *last < MAX_COUNT) {
        bounds.push((last + 1).max(last / 20 * 21 + last % 20 * 21 / 20));
    }
    bounds
});

/// Calls by the bucket of their output tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    calls: BTreeMap<u16, u64>,
}

impl Histogram {
    /// Counts calls that returned so many tokens each.
    pub fn add(&mut self, output_tokens: i64, calls: u64) {
        let bounds = &*UPPER_BOUNDS;
        let bucket = bounds.partition_point(|bound| *bound < output_tokens).min(bounds.len() - 1);
        let bucket = u16::try_from(bucket).unwrap_or(u16::MAX);
        let cell = self.calls.entry(bucket).or_default();
        *cell = cell.saturating_add(calls);
        while self.total() > MOST_CALLS {
            self.halve();
        }
    }

    /// How many calls it is made of, as far as they are remembered.
    pub fn total(&self) -> u64 {
        self.calls.values().fold(0, |sum, calls| sum.saturating_add(*calls))
    }

    fn halve(&mut self) {
        self.calls.values_mut().for_each(|calls| *calls /= 2);
        self.calls.retain(|_, calls| *calls > 0);
    }

    /// Tokens that this part of the calls did not exceed; `None` when too few calls are known.
    pub fn quantile(&self, part: f64) -> Option<i64> {
        let total = self.total();
        if total < LEAST_CALLS {
            return None;
        }
        let rank = (total as f64 * part.clamp(0.0, 1.0)).ceil() as u64;
        let mut seen: u64 = 0;
        let reaches = |(_, calls): &(&u16, &u64)| {
            seen = seen.saturating_add(**calls);
            seen >= rank.clamp(1, total)
        };
        let (bucket, _) = self.calls.iter().find(reaches)?;
        UPPER_BOUNDS.get(usize::from(*bucket)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(counts: &[i64]) -> Histogram {
        let mut histogram = Histogram::default();
        counts.iter().for_each(|count| histogram.add(*count, 1));
        histogram
    }

    #[test]
    fn too_few_calls_say_nothing() {
        assert_eq!(of(&[7; 99]).quantile(0.95), None);
        assert_eq!(of(&[7; 100]).quantile(0.95), Some(7));
    }

    #[test]
    fn a_quantile_of_small_counts_is_exact() {
        let counts: Vec<i64> = (0..100).map(|n| if n < 95 { 3 } else { 20 }).collect();
        assert_eq!(of(&counts).quantile(0.95), Some(3));
        assert_eq!(of(&counts).quantile(0.96), Some(20));
        assert_eq!(of(&counts).quantile(1.0), Some(20));
    }

    #[test]
    fn what_calls_return_now_outweighs_what_they_returned_once() {
        let mut histogram = Histogram::default();
        histogram.add(4_000, 1_000_000);
        assert!(histogram.total() <= MOST_CALLS);
        for _ in 0..200 {
            histogram.add(10, 1_000);
        }
        assert_eq!(histogram.quantile(0.95), Some(10));
    }

    #[test]
    fn it_is_kept_as_an_object_of_buckets() {
        let histogram = of(&[1, 1, 2]);
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(text, r#"{"1":2,"2":1}"#);
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
    }

    #[test]
    fn buckets_that_no_call_can_have_fallen_into_say_nothing() {
        let histogram: Histogram = serde_json::from_str(r#"{"60000": 1000}"#).unwrap();
        assert_eq!(histogram.quantile(0.95), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_never_too_small_and_at_most_a_twentieth_too_large(
            mut counts in proptest::collection::vec(0..MAX_COUNT, 100..400), part in 0.01_f64..1.0,
        ) {
            let said = of(&counts).quantile(part).unwrap();
            counts.sort_unstable();
            let exact = counts[(counts.len() as f64 * part).ceil() as usize - 1];
            prop_assert!(said >= exact && said <= exact + exact / 20 + 1, "{said} of {exact}");
        }

        #[test]
        fn the_order_of_calls_does_not_matter_while_all_are_remembered(
            counts in proptest::collection::vec(0..MAX_COUNT, 1..200),
        ) {
            let reversed: Vec<i64> = counts.iter().rev().copied().collect();
            prop_assert_eq!(of(&counts), of(&reversed));
        }

        #[test]
        fn it_never_has_more_than_some_hundred_buckets(count in any::<i64>(), calls in any::<u64>()) {
            let mut histogram = Histogram::default();
            histogram.add(count, calls);
            histogram.add(count, calls);
            prop_assert!(histogram.total() <= MOST_CALLS && UPPER_BOUNDS.len() < 600);
        }
    }
}
