//! The decision: given what each counter says and what the call adds, may it run?

use crate::amount::Amount;
use crate::error::Result;
use crate::limit::{Action, Limit};
use crate::window::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use uuid::Uuid;

/// `ai_limiter.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Admits, and says what it would have done.
    Shadow,
    /// Admits without looking, and still counts.
    Off,
}

/// Why a call is or is not admitted; a stable code of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Ok,
    LimitExceeded,
    ModelNotAllowed,
    FeatureNotAllowed,
    UnpricedModel,
    Suspended,
    Degraded,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Reason::Ok => "ok",
            Reason::LimitExceeded => "limit_exceeded",
            Reason::ModelNotAllowed => "model_not_allowed",
            Reason::FeatureNotAllowed => "feature_not_allowed",
            Reason::UnpricedModel => "unpriced_model",
            Reason::Suspended => "suspended",
            Reason::Degraded => "degraded",
        }
    }
}

/// What a limit is called where its own name is not shown.
pub const PLATFORM: &str = "platform";

/// Whether a call has no room in a limit. One that adds nothing passes an exhausted limit; one that does
/// not say what it adds needs something left; where the numbers are out of range there is no room.
pub fn exceeds(amount: Amount, used: Amount, held: Amount, increment: Option<Amount>) -> bool {
    let remaining = amount.checked_sub(used).and_then(|left| left.checked_sub(held));
    match (increment, remaining) {
        (Some(increment), _) if increment <= Amount::ZERO => false,
        (Some(increment), Ok(remaining)) => increment > remaining,
        (None, Ok(remaining)) => remaining <= Amount::ZERO,
        (_, Err(_)) => true,
    }
}

/// One limit, its counter before this call, and what the call would add.
#[derive(Debug, Clone)]
pub struct Assessment<'a> {
    pub limit: &'a Limit,
    pub used: Amount,
    pub held: Amount,
    /// `None`: the call does not say, and is asked to find something left.
    pub increment: Option<Amount>,
    pub resets_at: Option<Timestamp>,
    /// Whether the caller may see the numbers; otherwise the limit is called `platform`.
    pub visible: bool,
}

impl Assessment<'_> {
    pub fn remaining(&self) -> Result<Amount> {
        self.limit.amount.checked_sub(self.used)?.checked_sub(self.held)
    }

    pub fn exceeded(&self) -> bool {
        exceeds(self.limit.amount, self.used, self.held, self.increment)
    }

    /// For choosing the binding limit only: remaining ÷ amount, an amount of 0 before all others.
    fn slack(&self) -> Result<f64> {
        Ok(self.remaining()?.ratio(self.limit.amount).unwrap_or(f64::NEG_INFINITY))
    }

    fn name(&self) -> &str {
        if self.visible { &self.limit.name } else { PLATFORM }
    }
}

/// The numbers of the binding limit as the caller may see them.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    pub limit_id: i64,
    /// The name for everyone's eyes: of a limit of the platform only that.
    pub public_name: Cow<'static, str>,
    /// The name that this caller may see.
    pub limit_name: String,
    pub metric: &'static str,
    pub period: String,
    /// used, held, amount, remaining; `None` when the caller may not see them.
    pub numbers: Option<[Amount; 4]>,
    pub resets_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: Reason,
    /// Apart, since a verdict is handed on many times.
    pub binding: Option<Box<Binding>>,
    /// When every limit that failed will have room again; `None` when one never will.
    pub retry_at: Option<Timestamp>,
    pub estimated_cost_usd: Option<Amount>,
    pub violations: Vec<Value>,
    pub details: Map<String, Value>,
}

impl Verdict {
    /// A verdict that no counter gave: refused for `reason`, or admitted with it.
    pub fn without_counters(
        allowed: bool,
        reason: Reason,
        estimated_cost_usd: Option<Amount>,
    ) -> Self {
        Verdict {
            allowed,
            reason,
            binding: None,
            retry_at: None,
            estimated_cost_usd,
            violations: Vec::new(),
            details: Map::new(),
        }
    }

    /// In shadow mode a refusal becomes an admission that says what it would have been.
    #[must_use]
    pub fn under(mut self, mode: Mode) -> Self {
        if mode == Mode::Shadow {
            self.details.insert("mode".into(), "shadow".into());
            self.details.insert("would_allow".into(), self.allowed.into());
            self.allowed = true;
        }
        self
    }
}

/// A verdict flat, as SQL shows it and as an idempotency key remembers it: times in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub allowed: bool,
    pub reason: Cow<'static, str>,
    pub limit_name: Option<String>,
    pub metric: Option<Cow<'static, str>>,
    pub period: Option<String>,
    pub used: Option<Amount>,
    pub held: Option<Amount>,
    pub amount: Option<Amount>,
    pub remaining: Option<Amount>,
    pub resets_at: Option<i64>,
    pub retry_after_microseconds: Option<i64>,
    pub estimated_cost_usd: Option<Amount>,
    pub violations: Value,
    pub details: Value,
    pub reservation_id: Option<Uuid>,
}

impl Verdict {
    pub fn answer(self, now: Timestamp, reservation_id: Option<Uuid>) -> Answer {
        let binding = self.binding;
        let numbers = binding.as_ref().and_then(|b| b.numbers);
        let resets_at = binding.as_ref().and_then(|b| b.resets_at);
        let metric = binding.as_ref().map(|b| Cow::Borrowed(b.metric));
        let (limit_name, period) = binding.map(|b| (b.limit_name, b.period)).unzip();
        Answer {
            allowed: self.allowed,
            reason: Cow::Borrowed(self.reason.code()),
            limit_name,
            metric,
            period,
            used: numbers.map(|n| n[0]),
            held: numbers.map(|n| n[1]),
            amount: numbers.map(|n| n[2]),
            remaining: numbers.map(|n| n[3]),
            resets_at: resets_at.map(|t| t.0),
            retry_after_microseconds: self.retry_at.map(|t| t.0.saturating_sub(now.0).max(0)),
            estimated_cost_usd: self.estimated_cost_usd,
            violations: Value::Array(self.violations),
            details: Value::Object(self.details),
            reservation_id,
        }
    }
}

/// Admits when no `deny` limit is exceeded. All limits are judged together: all or nothing.
pub fn judge(
    assessments: &[Assessment<'_>],
    estimated_cost_usd: Option<Amount>,
) -> Result<Verdict> {
    let mut verdict = Verdict::without_counters(true, Reason::Ok, estimated_cost_usd);
    // Those that deny first, then the least slack.
    let mut binding: Option<((bool, f64), &Assessment<'_>)> = None;
    let mut never = false;
    for assessment in assessments {
        let exceeded = assessment.exceeded();
        let denies = exceeded && assessment.limit.action == Action::Deny;
        if exceeded {
            verdict.violations.push(violation(assessment)?);
        }
        if denies {
            verdict.allowed = false;
            verdict.reason = Reason::LimitExceeded;
            let fits = assessment.increment.is_none_or(|i| i <= assessment.limit.amount);
            match assessment.resets_at.filter(|_| fits) {
                Some(at) => verdict.retry_at = verdict.retry_at.max(Some(at)),
                None => never = true,
            }
        }
        let rank = (!denies, assessment.slack()?);
        if binding.as_ref().is_none_or(|(best, _)| rank < *best) {
            binding = Some((rank, assessment));
        }
    }
    if never {
        verdict.retry_at = None;
    }
    if let Some((_, assessment)) = binding {
        let limit = assessment.limit;
        verdict.binding = Some(Box::new(Binding {
            limit_id: limit.id,
            public_name: match limit.is_platform() {
                true => Cow::Borrowed(PLATFORM),
                false => Cow::Owned(limit.name.clone()),
            },
            limit_name: assessment.name().to_owned(),
            metric: limit.metric.name(),
            period: limit.period_name.clone(),
            numbers: match assessment.visible {
                true => Some([
                    assessment.used,
                    assessment.held,
                    assessment.limit.amount,
                    assessment.remaining()?,
                ]),
                false => None,
            },
            resets_at: assessment.resets_at,
        }));
    }
    Ok(verdict)
}

fn violation(assessment: &Assessment<'_>) -> Result<Value> {
    let limit = assessment.limit;
    let mut entry = json!({
        "limit_name": assessment.name(),
        "metric": limit.metric.name(),
        "period": limit.period_name,
        "action": limit.action.name(),
    });
    if assessment.visible {
        // Numbers as text: JSON readers turn them into floats, and money is decimal.
        entry["used"] = assessment.used.to_string().into();
        entry["held"] = assessment.held.to_string().into();
        entry["amount"] = limit.amount.to_string().into();
        entry["remaining"] = assessment.remaining()?.to_string().into();
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn limit(amount: i64, action: Action) -> Limit {
        Limit { amount: Amount::from_units(amount), action, ..Limit::example() }
    }

    fn assess(limit: &Limit, used: i64, held: i64, increment: Option<i64>) -> Assessment<'_> {
        Assessment {
            limit,
            used: Amount::from_units(used),
            held: Amount::from_units(held),
            increment: increment.map(Amount::from_units),
            resets_at: None,
            visible: true,
        }
    }

    #[test]
    fn a_free_call_passes_an_exhausted_budget() {
        let cap = limit(10, Action::Deny);
        assert!(judge(&[assess(&cap, 15, 0, Some(0))], None).unwrap().allowed);
        assert!(!judge(&[assess(&cap, 10, 0, Some(1))], None).unwrap().allowed);
    }

    #[test]
    fn a_budget_of_zero_blocks_what_costs_and_passes_what_does_not() {
        let cap = limit(0, Action::Deny);
        assert!(!judge(&[assess(&cap, 0, 0, Some(1))], None).unwrap().allowed);
        assert!(judge(&[assess(&cap, 0, 0, Some(0))], None).unwrap().allowed);
        assert!(!judge(&[assess(&cap, 0, 0, None)], None).unwrap().allowed);
    }

    #[test]
    fn a_call_of_unknown_size_needs_something_left() {
        let cap = limit(10, Action::Deny);
        assert!(judge(&[assess(&cap, 9, 0, None)], None).unwrap().allowed);
        assert!(!judge(&[assess(&cap, 9, 1, None)], None).unwrap().allowed);
    }

    #[test]
    fn a_warning_is_told_and_does_not_deny() {
        let (warn, deny) = (limit(1, Action::Warn), limit(100, Action::Deny));
        let verdict =
            judge(&[assess(&warn, 5, 0, Some(1)), assess(&deny, 5, 0, Some(1))], None).unwrap();
        assert!(verdict.allowed && verdict.reason == Reason::Ok);
        assert_eq!(verdict.violations[0]["action"], "warn");
    }

    #[test]
    fn what_the_caller_may_not_see_is_called_platform_and_has_no_numbers() {
        let cap = limit(10, Action::Deny);
        let hidden = Assessment { visible: false, ..assess(&cap, 10, 0, Some(1)) };
        let verdict = judge(&[hidden], None).unwrap();
        let binding = verdict.binding.unwrap();
        assert_eq!((binding.limit_name.as_str(), binding.numbers), ("platform", None));
        assert!(verdict.violations[0].get("used").is_none());
    }

    proptest! {
        #[test]
        fn admission_never_lifts_a_deny_limit_beyond_its_amount(
            rows in prop::collection::vec((0_i64..50, 0_i64..50, 0_i64..50, 0_i64..10, any::<bool>()), 1..6),
        ) {
            let limits: Vec<_> = rows.iter().map(|r| limit(r.0, if r.4 { Action::Deny } else { Action::Warn })).collect();
            let all: Vec<_> = rows.iter().zip(&limits).map(|(r, l)| assess(l, r.1, r.2, Some(r.3))).collect();
            let verdict = judge(&all, None).unwrap();
            for (r, l) in rows.iter().zip(&limits) {
                let within = r.3 == 0 || r.1 + r.2 + r.3 <= r.0;
                if l.action == Action::Deny && !within {
                    prop_assert!(!verdict.allowed);
                }
            }
            let all_within = rows.iter().all(|r| !r.4 || r.3 == 0 || r.1 + r.2 + r.3 <= r.0);
            prop_assert_eq!(verdict.allowed, all_within);
        }
    }
}
