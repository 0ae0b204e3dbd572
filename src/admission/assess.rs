//! The one place that decides: which rules govern a call, what their counters say, and the verdict.
//!
//! Who is about to hold ([`Locking::Admission`]) joins the writers' barrier, then resolves the rules,
//! takes the locks of all their counters in one order, and only then takes the snapshot that is
//! summed and the clock that chooses the windows. Until its transaction ends, nobody else adds to those
//! counters; when it ends its rows are visible before its locks go. A reader takes no lock and may
//! be overtaken.

use super::caller::View;
use super::estimate::{Estimate, estimate};
use crate::counters::{self, Counter};
use crate::ledger::config::{self, Account};
use crate::pg::clock;
use crate::pg::lock;
use crate::pg::owner::as_owner;
use crate::pg::spi::{Snapshot, Spi};
use crate::pg::subtransaction;
use crate::settings;
use ai_limiter_domain::verdict::{Assessment, Mode, Reason, Verdict, judge};
use ai_limiter_domain::{
    Amount, Call, Error, Limit, Timestamp, error::Result, model_name, precedence,
};
use serde_json::json;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// Looking: nothing is written, and nothing waits.
    None,
    /// About to write a hold.
    Admission,
}

/// How the call is judged.
pub struct Question<'a> {
    pub view: &'a View,
    pub locking: Locking,
    /// Fixes the run's cap unless it has one.
    pub run_limit_usd: Option<Amount>,
    /// A hold that this one replaces: it is left out of the sums.
    pub replaces: Option<Uuid>,
    /// What the hold is at least, whatever its tokens are priced at.
    pub least_cost_usd: Option<Amount>,
    /// The instant whose windows count; `None` for now.
    pub created_at: Option<Timestamp>,
}

/// A verdict, and what it was made of.
pub struct Assessed {
    pub verdict: Verdict,
    pub estimate: Option<Estimate>,
    pub now: Timestamp,
}

/// Judges the call; fills in its tier. An error of Postgres becomes a verdict with the reason
/// `degraded`, allowed or not as `ai_limiter.on_error` says.
pub fn assess(call: &mut Call, question: &Question) -> Result<Assessed> {
    // Who is told no keeps no lock: it may stay in its transaction for long.
    let keeps = |assessed: &Assessed| assessed.verdict.allowed;
    match subtransaction::catch(|| as_owner(|spi| judge_call(spi, call, question)), keeps)? {
        Ok(assessed) => Ok(assessed),
        Err(code) => {
            let allowed = settings::ON_ERROR.get() == settings::Refusal::Allow;
            let mut verdict = Verdict::without_counters(allowed, Reason::Degraded, call.cost_usd);
            verdict.details.insert("sqlstate".into(), subtransaction::sqlstate(code).into());
            Ok(Assessed { verdict, estimate: None, now: clock::now() })
        }
    }
}

fn judge_call(spi: &Spi, call: &mut Call, question: &Question) -> Result<Assessed> {
    // An extension keeps the tier that the call was made in.
    let mut tier = question.replaces.map(|_| call.dimensions.tier.clone());
    let mode: Mode = settings::MODE.get().into();
    if question.locking == Locking::Admission && mode != Mode::Off {
        tier = Some(lock_counters(spi, call, tier)?);
    }
    // Everything that decides is read now: an amount or a suspension that was written while this
    // waited for the locks counts. Which rules govern cannot have changed meanwhile.
    lock::keep_months();
    let snapshot = Snapshot::latest();
    let now = clock::now();
    let account = account(spi, &snapshot, call)?;
    call.dimensions.tier = tier.unwrap_or_else(|| account.tier.clone());
    let at = question.created_at.unwrap_or(now);
    let mut estimate = estimate(spi, &snapshot, call, at)?;
    estimate.size.cost_usd = estimate.size.cost_usd.max(question.least_cost_usd);
    let mut assessed = Assessed {
        verdict: Verdict::without_counters(true, Reason::Ok, estimate.size.cost_usd),
        estimate: Some(estimate),
        now,
    };
    if mode == Mode::Off {
        return Ok(assessed);
    }
    if !account.tier_exists {
        return Err(Error::invalid(format!("tier \"{}\" does not exist", account.tier))
            .detail("Without a tier no limit of a tier would apply.")
            .hint("Add it to ai_limiter.ai_tiers, or set ai_limiter.default_tier to one that is there."));
    }
    if let Some(denied) = refused_outright(spi, &snapshot, call, &account, &estimate)? {
        assessed.verdict = denied.under(mode);
        return Ok(assessed);
    }
    let limits = limits(spi, &snapshot, call)?;
    let run_limit = run_limit(spi, &snapshot, call, question.run_limit_usd)?;
    let counters: Vec<Counter> = precedence::governing(&limits, &call.dimensions)
        .chain(&run_limit)
        .map(|limit| Counter::of(limit, &limits, &call.dimensions, &account, at))
        .collect();
    let readings = counters::read(spi, &snapshot, &counters, now, question.replaces)?;
    let assessments: Vec<Assessment> = counters
        .iter()
        .zip(readings)
        .map(|(counter, reading)| Assessment {
            limit: counter.limit,
            used: reading.used,
            held: reading.held,
            increment: counter.limit.increment(&estimate.size),
            resets_at: reading.resets_at,
            visible: question.view.sees(counter.limit, &call.dimensions),
        })
        .collect();
    assessed.verdict = judge(&assessments, estimate.size.cost_usd)?.under(mode);
    Ok(assessed)
}

fn account(spi: &Spi, snapshot: &Snapshot, call: &Call) -> Result<Account> {
    config::account(spi, snapshot, call.dimensions.tenant_id, call.dimensions.user_id)
}

fn limits(spi: &Spi, snapshot: &Snapshot, call: &Call) -> Result<Vec<Limit>> {
    config::limits_of(spi, snapshot, call.dimensions.tenant_id, call.dimensions.user_id)
}

/// Takes the locks of every counter that the call adds to; gives the tier that decided which.
fn lock_counters(spi: &Spi, call: &mut Call, tier: Option<String>) -> Result<String> {
    lock::join_writers()?;
    let snapshot = Snapshot::latest();
    let tier = match tier {
        Some(tier) => tier,
        None => account(spi, &snapshot, call)?.tier,
    };
    call.dimensions.tier.clone_from(&tier);
    let limits = limits(spi, &snapshot, call)?;
    let d = &call.dimensions;
    let mut keys: Vec<_> =
        precedence::governing(&limits, d).map(|limit| Counter::lock_key(limit, d)).collect();
    // Also before the run has a cap: two first calls must not both bring one.
    let run = d.run_id.as_ref().map(|_| Limit::of_run(d.tenant_id, Amount::ZERO));
    keys.extend(run.map(|rule| Counter::lock_key(&rule, d)));
    lock::acquire_all(keys);
    Ok(tier)
}

/// What refuses a call whatever its counters say.
fn refused_outright(
    spi: &Spi,
    snapshot: &Snapshot,
    call: &Call,
    account: &Account,
    estimate: &Estimate,
) -> Result<Option<Verdict>> {
    let refuse = |reason| Verdict::without_counters(false, reason, estimate.size.cost_usd);
    if let Some(suspension) = config::suspension(spi, snapshot, &call.dimensions)? {
        let mut verdict = refuse(Reason::Suspended);
        verdict.details.insert("scope".into(), suspension.scope.into());
        verdict.details.insert("message".into(), json!(suspension.reason));
        verdict.retry_at = suspension.until;
        return Ok(Some(verdict));
    }
    if account.suspended {
        let mut verdict = refuse(Reason::Suspended);
        verdict.details.insert("scope".into(), "account".into());
        return Ok(Some(verdict));
    }
    let given = call.requested_model.as_deref();
    if let Some(patterns) = account.allowed_models.as_ref().filter(|_| given.is_some()) {
        let dated = given.map(model_name::without_prefix);
        let spelt = given.map(str::to_lowercase);
        let allows = |pattern: &String| {
            let pattern = pattern.to_lowercase();
            // A pattern with a provider's prefix is about the name as it was given.
            let names = match pattern.contains('/') {
                true => [spelt.as_deref(), None],
                false => [call.dimensions.model.as_deref(), dated.as_deref()],
            };
            names.into_iter().flatten().any(|name| model_name::matches(&pattern, name))
        };
        if !patterns.iter().any(allows) {
            return Ok(Some(refuse(Reason::ModelNotAllowed)));
        }
    }
    if let Some((patterns, feature)) =
        account.allowed_features.as_ref().zip(call.dimensions.feature.as_deref())
        && !patterns.iter().any(|pattern| model_name::matches(pattern, feature))
    {
        return Ok(Some(refuse(Reason::FeatureNotAllowed)));
    }
    let deny_unpriced = settings::UNPRICED_MODEL.get() == settings::Refusal::Deny;
    Ok((deny_unpriced && estimate.is_unpriced(call)).then(|| refuse(Reason::UnpricedModel)))
}

/// The run's own cap: the one it has, else the one that this call would give it.
fn run_limit(
    spi: &Spi,
    snapshot: &Snapshot,
    call: &Call,
    proposed: Option<Amount>,
) -> Result<Option<Limit>> {
    let Some(run) = call.dimensions.run_id.as_deref() else { return Ok(None) };
    let tenant = call.dimensions.tenant_id;
    let amount = config::run_limit(spi, snapshot, tenant, run)?.or(proposed);
    Ok(amount.map(|amount| Limit::of_run(tenant, amount)))
}
