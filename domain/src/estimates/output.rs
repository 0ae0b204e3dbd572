//! How many output tokens a call is held for, and why: what such calls are likely to return, or the most
//! that this one may.
//!
//! Holding the most would let a few calls hold a whole budget that they will hardly touch; holding too
//! little lets open calls overrun it. So what is likely is held ([`Output::likely`]), never more than
//! the maximum, and the maximum ([`Output::at_most`]) where nothing is known yet and where a budget
//! is nearly used up ([`is_last_part`]).

use crate::amount::Amount;
use crate::call::MAX_COUNT;

/// Where the held output tokens came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The caller has said what it costs.
    GivenCost,
    /// It has run, and this is what it returned.
    Reported,
    /// What such calls of this feature have returned.
    LearnedOfFeature,
    /// What calls to this model have returned, whatever the feature.
    LearnedOfModel,
    /// The caller's maximum.
    CallerMaximum,
    /// The most that the model returns.
    ModelMaximum,
    /// `ai_limiter.default_output_tokens`, since neither the caller nor the price says a maximum.
    Default,
}

impl Basis {
    pub fn name(self) -> &'static str {
        match self {
            Basis::GivenCost => "given_cost",
            Basis::Reported => "reported",
            Basis::LearnedOfFeature => "learned_of_feature",
            Basis::LearnedOfModel => "learned_of_model",
            Basis::CallerMaximum => "caller_maximum",
            Basis::ModelMaximum => "model_maximum",
            Basis::Default => "default",
        }
    }
}

/// What was learned of calls like this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// Of one request.
    pub output_tokens: i64,
    /// From how many calls, as far as they are remembered.
    pub calls: u64,
    /// Whether they were of the call's feature, and not of any.
    pub is_of_feature: bool,
}

/// What bounds a call's output, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub requests: i64,
    /// The caller's maximum of all requests together.
    pub caller_maximum: Option<i64>,
    /// The model's, of each request.
    pub model_maximum: Option<i64>,
    pub learned: Option<Learned>,
    /// What a request is held for of which nothing is known.
    pub default: i64,
}

/// Output tokens of a call, of all its requests together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    pub likely: i64,
    /// `None` when nothing bounds it.
    pub at_most: Option<i64>,
    pub basis: Basis,
    /// From how many calls it was learned; 0 when it was not.
    pub calls: u64,
}

impl Output {
    pub fn of(known: &Known) -> Self {
        let all = |each: i64| each.saturating_mul(known.requests).clamp(0, MAX_COUNT);
        let by_caller = known.caller_maximum.map(|most| (most, Basis::CallerMaximum));
        let by_model = known.model_maximum.map(|each| (all(each), Basis::ModelMaximum));
        let bound = by_caller.into_iter().chain(by_model).min_by_key(|(most, _)| *most);
        let at_most = bound.map(|(most, _)| most);
        if let Some(learned) = known.learned {
            let likely = all(learned.output_tokens);
            if at_most.is_none_or(|most| likely < most) {
                let basis = match learned.is_of_feature {
                    true => Basis::LearnedOfFeature,
                    false => Basis::LearnedOfModel,
                };
                return Self { likely, at_most, basis, calls: learned.calls };
            }
        }
        // A model's own maximum is many times what is common: of a call that nobody bounds it bounds
        // the default, and is held only where what was learned does not fit under it.
        let usual = (all(known.default), Basis::Default);
        let is_told = known.caller_maximum.is_some() || known.learned.is_some();
        let (likely, basis) = match bound {
            Some(bound) if is_told || bound.0 <= usual.0 => bound,
            _ => usual,
        };
        Self { likely, at_most, basis, calls: 0 }
    }
}

/// Whether a limit is in its last part, of so many millionths, when a hold of what is likely comes to what
/// is settled and held: what is likely, so that a high maximum is no obstacle while little is spent.
pub fn is_last_part(amount: Amount, part: u32, taken: Amount, likely: Amount) -> bool {
    likely.pico() > cap_of_likely(amount, part).pico().saturating_sub(taken.pico())
}

/// How far a counter may go by holds of what is likely: to the limit's last part.
pub fn cap_of_likely(amount: Amount, part: u32) -> Amount {
    let kept = amount.pico() / 1_000_000 * i128::from(part.min(1_000_000));
    Amount::from_pico(amount.pico().saturating_sub(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known() -> Known {
        let (caller_maximum, model_maximum, learned) = (None, None, None);
        Known { requests: 1, caller_maximum, model_maximum, learned, default: 1_024 }
    }

    fn learned(output_tokens: i64) -> Option<Learned> {
        Some(Learned { output_tokens, calls: 500, is_of_feature: true })
    }

    fn chosen(known: Known) -> (i64, Option<i64>, &'static str) {
        let output = Output::of(&known);
        (output.likely, output.at_most, output.basis.name())
    }

    #[test]
    fn the_callers_maximum_is_held_while_nothing_is_known() {
        let call = Known { caller_maximum: Some(4_000), ..known() };
        assert_eq!(chosen(call), (4_000, Some(4_000), "caller_maximum"));
    }

    #[test]
    fn what_was_learned_is_held_under_the_callers_maximum() {
        let call = Known { caller_maximum: Some(4_000), learned: learned(300), ..known() };
        assert_eq!(chosen(call), (300, Some(4_000), "learned_of_feature"));
        let call = Known { caller_maximum: Some(200), ..call };
        assert_eq!(chosen(call), (200, Some(200), "caller_maximum"));
    }

    #[test]
    fn the_models_maximum_bounds_what_was_learned_and_what_the_caller_says() {
        let call = Known { caller_maximum: Some(9_000), model_maximum: Some(8_192), ..known() };
        assert_eq!(chosen(call), (8_192, Some(8_192), "model_maximum"));
        let call = Known { caller_maximum: None, learned: learned(9_500), ..call };
        assert_eq!(chosen(call), (8_192, Some(8_192), "model_maximum"));
        let call = Known { learned: learned(500), ..call };
        assert_eq!(chosen(call), (500, Some(8_192), "learned_of_feature"));
    }

    #[test]
    fn a_call_without_a_maximum_is_not_held_for_all_that_its_model_can() {
        let call = Known { model_maximum: Some(128_000), ..known() };
        assert_eq!(chosen(call), (1_024, Some(128_000), "default"));
        assert_eq!(chosen(known()), (1_024, None, "default"));
        let small = Known { model_maximum: Some(500), ..known() };
        assert_eq!(chosen(small), (500, Some(500), "model_maximum"));
    }

    #[test]
    fn several_requests_are_held_for_as_many_times_what_one_returns() {
        let call =
            Known { requests: 3, learned: learned(100), model_maximum: Some(1_000), ..known() };
        assert_eq!(chosen(call), (300, Some(3_000), "learned_of_feature"));
    }

    #[test]
    fn the_last_part_begins_where_what_is_likely_would_reach_into_it() {
        let usd = Amount::from_units;
        assert!(!is_last_part(usd(100), 100_000, usd(80), usd(10)));
        assert!(is_last_part(usd(100), 100_000, usd(80), usd(11)));
        assert!(is_last_part(usd(100), 0, usd(95), usd(6)));
        assert!(!is_last_part(usd(100), 0, usd(95), usd(5)));
        assert!(is_last_part(usd(0), 100_000, usd(0), usd(1)));
        assert!(is_last_part(usd(1), 1_000_000, usd(0), usd(1)));
    }

    proptest! {
        #[test]
        fn what_stays_under_the_cap_is_not_in_the_last_part(
            amount in 0..MAX_COUNT, part in 0..=1_000_000_u32, taken in 0..MAX_COUNT, likely in 0..MAX_COUNT,
        ) {
            let [amount, taken, likely] = [amount, taken, likely].map(Amount::from_units);
            let exceeds = taken.checked_add(likely).unwrap() > cap_of_likely(amount, part);
            prop_assert_eq!(exceeds, is_last_part(amount, part, taken, likely));
        }

        #[test]
        fn the_likely_never_exceeds_the_most(
            requests in 1..MAX_COUNT, caller in proptest::option::of(0..=MAX_COUNT),
            model in proptest::option::of(0..=MAX_COUNT), tokens in proptest::option::of(0..=MAX_COUNT),
            default in 0..=MAX_COUNT,
        ) {
            let output = Output::of(&Known {
                requests, caller_maximum: caller, model_maximum: model, default,
                learned: tokens.map(|output_tokens| Learned { output_tokens, calls: 1, is_of_feature: false }),
            });
            prop_assert!((0..=MAX_COUNT).contains(&output.likely));
            prop_assert!(output.at_most.is_none_or(|most| output.likely <= most));
            prop_assert!(caller.is_none_or(|most| output.likely <= most));
        }
    }
}
