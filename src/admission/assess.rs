//! The one place that decides: which rules govern a call, what their counters say, and the verdict.
//!
//! Where counters are in shared memory they are asked there ([`in_memory`]); else each is summed from
//! the tables ([`by_tables`]). Both resolve the rules, refuse outright and judge by the same code.
//!
//! On the table path, who is about to hold ([`Locking::Admission`]) joins the writers' barrier, then
//! resolves the rules, takes the locks of all their counters in one order, and only then takes the
//! snapshot that is summed and the clock that chooses the windows. Until its transaction ends, nobody
//! else adds to those counters; when it ends its rows are visible before its locks go. A reader takes
//! no lock and may be overtaken.
//!
//! [`in_memory`]: super::in_memory

use super::caller::View;
use super::configuration::{Configuration, Decided, Tables};
use super::estimate::{Estimate, Purpose, estimate};
use super::in_memory;
use crate::counters::memory;
use crate::counters::memory::statistics::{Count, count};
use crate::counters::{self, Counter, Reading};
use crate::ledger::config::{self, Account, Tier};
use crate::pg::owner::as_owner;
use crate::pg::spi::{Snapshot, Spi};
use crate::pg::subtransaction;
use crate::pg::{barrier, clock, lock};
use crate::settings;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::verdict::{Assessment, Mode, Reason, Verdict, judge};
use ai_limiter_domain::{
    Amount, Call, Error, Limit, Timestamp, error::Result, model_name, precedence,
};
use serde_json::json;
use std::rc::Rc;
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
    /// The hold that this one replaces.
    pub replaces: Option<Replaced>,
    /// The instant whose windows count; `None` for now.
    pub created_at: Option<Timestamp>,
}

/// A hold that is extended: what it is now is left out of the sums.
#[derive(Debug, Clone, Copy)]
pub struct Replaced {
    pub id: Uuid,
    pub size: Size,
    /// Whether it is marked open, and so counts in shared memory.
    pub is_open: bool,
}

/// A verdict, and what it was made of.
pub struct Assessed {
    pub verdict: Verdict,
    pub estimate: Option<Estimate>,
    pub now: Timestamp,
}

/// Judges the call; fills in its tier. Where it is admitted under [`Locking::Admission`], its
/// counters in shared memory have it already. An error of Postgres becomes a verdict with the reason
/// `degraded`, allowed or not as `ai_limiter.on_error` says.
pub fn assess(call: &mut Call, question: &Question) -> Result<Assessed> {
    let assessed = match memory::current()? {
        Some(installation) => in_memory::assess(installation, call, question)?,
        None => by_tables(call, question)?,
    };
    tally_verdict(question, &assessed.verdict);
    Ok(assessed)
}

/// Decides in a subtransaction: who is told no keeps no lock, since it may stay in its transaction for
/// long, and where the tables cannot be read the verdict is degraded.
pub fn or_degraded(
    call: &mut Call,
    question: &Question,
    decide: impl FnOnce(&mut Call) -> Result<Assessed>,
) -> Result<Assessed> {
    let keeps = |assessed: &Assessed| assessed.verdict.allowed;
    match subtransaction::catch(|| decide(call), keeps)? {
        Ok(assessed) => Ok(assessed),
        Err(code) => {
            let assessed = degraded(call, code);
            if assessed.verdict.allowed && question.locking == Locking::Admission {
                // Its hold is told to no counter: all are loaded anew when it commits.
                memory::begin_bulk()?;
            }
            Ok(assessed)
        }
    }
}

/// Judges the call by sums of the tables.
pub fn by_tables(call: &mut Call, question: &Question) -> Result<Assessed> {
    count(Count::TablePathCalls);
    or_degraded(call, question, |call| as_owner(|spi| judge_by_tables(spi, call, question, true)))
}

/// The verdict when the tables cannot be read.
fn degraded(call: &Call, code: pgrx::PgSqlErrorCode) -> Assessed {
    let mode: Mode = settings::MODE.get().into();
    let allowed = settings::ON_ERROR.get() == settings::Refusal::Allow || mode == Mode::Off;
    let mut verdict =
        Verdict::without_counters(allowed, Reason::Degraded, call.cost_usd).under(mode);
    verdict.details.insert("sqlstate".into(), subtransaction::sqlstate(code).into());
    Assessed { verdict, estimate: None, now: clock::now() }
}

/// As [`by_tables`], where errors pass. `locks` is false where all other writers are kept out.
pub fn judge_by_tables(
    spi: &Spi,
    call: &mut Call,
    question: &Question,
    locks: bool,
) -> Result<Assessed> {
    // An extension keeps the tier that the call was made in.
    let mut tier = question.replaces.map(|_| call.dimensions.tier.clone());
    let mode: Mode = settings::MODE.get().into();
    if question.locking == Locking::Admission && mode != Mode::Off && locks {
        tier = Some(lock_counters(spi, call, tier)?);
    }
    // Everything that decides is read now: an amount or a suspension that was written while this
    // waited for the locks counts. Which rules govern cannot have changed meanwhile.
    lock::keep_months();
    let snapshot = Snapshot::latest();
    let now = clock::now();
    let tables = Tables { spi, snapshot: &snapshot };
    let mut resolved = resolve(&tables, call, question, tier, now)?;
    if let Some(verdict) = resolved.verdict {
        return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
    }
    let d = &call.dimensions;
    let limits = config::limits_of(spi, &snapshot, d.tenant_id, d.user_id)?;
    let at = question.created_at.unwrap_or(now);
    let counters: Vec<Counter> = precedence::governing(&limits, d)
        .chain(resolved.run_limit.as_deref())
        .map(|limit| Counter::of(limit, &limits, d, &resolved.account, at))
        .collect();
    let without = question.replaces.map(|hold| hold.id);
    let readings = counters::read(spi, &snapshot, &counters, now, without)?;
    let readings = || counters.iter().map(|counter| counter.limit).zip(readings.iter().copied());
    if resolved.estimate.is_too_little(readings())? {
        resolved.estimate = resolved.estimate.at_most();
    }
    let verdict = verdict_of(&resolved, question, call, readings())?;
    Ok(Assessed { verdict, estimate: Some(resolved.estimate), now })
}

/// A call, and everything that decides on it but its counters.
pub struct Resolved {
    pub account: Rc<Account>,
    pub estimate: Estimate,
    /// The run's own cap, as a rule among the others.
    pub run_limit: Option<Box<Limit>>,
    /// Whether this call would give the run its cap.
    pub is_new_run_limit: bool,
    pub mode: Mode,
    /// The verdict, where no counter is asked for it.
    pub verdict: Option<Verdict>,
}

/// Account and tier, estimate, suspensions, what the tier allows, and the run's own cap. `tier` is
/// given where it is settled already.
pub fn resolve(
    config: &impl Configuration,
    call: &mut Call,
    question: &Question,
    tier: Option<String>,
    now: Timestamp,
) -> Decided<Resolved> {
    let mode: Mode = settings::MODE.get().into();
    let account = config.account(call.dimensions.tenant_id, call.dimensions.user_id)?;
    call.dimensions.tier = tier.unwrap_or_else(|| account.tier.clone());
    // Who extends a hold names its new total.
    let purpose = if question.replaces.is_some() { Purpose::Exactly } else { Purpose::Hold };
    let mut estimate = estimate(config, call, purpose, question.created_at.unwrap_or(now))?;
    let least = question.replaces.and_then(|hold| hold.size.cost_usd);
    estimate.size.cost_usd = estimate.size.cost_usd.max(least);
    let verdict = if mode == Mode::Off {
        Some(Verdict::without_counters(true, Reason::Ok, estimate.size.cost_usd))
    } else {
        let Some(allowed) = &account.allowed else {
            let error = Error::invalid(format!("tier \"{}\" does not exist", account.tier))
                .detail("Without a tier no limit of a tier would apply.")
                .hint("Add it to ai_limiter.ai_tiers, or set ai_limiter.default_tier to one that is there.");
            return Err(error.into());
        };
        refused_outright(config, call, (account.suspended, allowed), &estimate)?
            .map(|denied| denied.under(mode))
    };
    let tenant = call.dimensions.tenant_id;
    let fixed = match call.dimensions.run_id.as_deref() {
        Some(run) => config.run_limit(tenant, run)?,
        None => None,
    };
    let proposed = question.run_limit_usd.filter(|_| call.dimensions.run_id.is_some());
    let run_limit = fixed.or(proposed).map(|amount| Box::new(Limit::of_run(tenant, amount)));
    let is_new_run_limit = fixed.is_none() && run_limit.is_some();
    Ok(Resolved { account, estimate, run_limit, is_new_run_limit, mode, verdict })
}

/// The verdict that the counters give.
pub fn verdict_of<'a>(
    resolved: &Resolved,
    question: &Question,
    call: &Call,
    counters: impl Iterator<Item = (&'a Limit, Reading)>,
) -> Result<Verdict> {
    let assessments: Vec<Assessment> = counters
        .map(|(limit, reading)| Assessment {
            limit,
            used: reading.used,
            held: reading.held,
            increment: limit.increment(&resolved.estimate.size),
            resets_at: reading.resets_at,
            visible: question.view.sees(limit, &call.dimensions),
        })
        .collect();
    Ok(judge(&assessments, resolved.estimate.size.cost_usd)?.under(resolved.mode))
}

fn tally_verdict(question: &Question, verdict: &Verdict) {
    count(match (question.locking, verdict.allowed, verdict.reason) {
        (Locking::None, ..) => Count::Checks,
        (Locking::Admission, true, _) => Count::Admitted,
        (_, _, Reason::Ok | Reason::LimitExceeded) => Count::DeniedByLimit,
        (_, _, Reason::ModelNotAllowed) => Count::DeniedByModel,
        (_, _, Reason::FeatureNotAllowed) => Count::DeniedByFeature,
        (_, _, Reason::UnpricedModel) => Count::DeniedUnpriced,
        (_, _, Reason::Suspended) => Count::DeniedSuspended,
        (_, _, Reason::Degraded) => Count::DeniedDegraded,
    });
}

/// Takes the locks of every counter that the call adds to; gives the tier that decided which.
fn lock_counters(spi: &Spi, call: &mut Call, tier: Option<String>) -> Result<String> {
    barrier::join()?;
    let snapshot = Snapshot::latest();
    let d = &mut call.dimensions;
    let tier = match tier {
        Some(tier) => tier,
        None => config::account(spi, &snapshot, d.tenant_id, d.user_id)?.tier,
    };
    d.tier.clone_from(&tier);
    let limits = config::limits_of(spi, &snapshot, d.tenant_id, d.user_id)?;
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
    config: &impl Configuration,
    call: &Call,
    (is_suspended, allowed): (bool, &Tier),
    estimate: &Estimate,
) -> Decided<Option<Verdict>> {
    let refuse = |reason| Verdict::without_counters(false, reason, estimate.size.cost_usd);
    if let Some(suspension) = config.suspension(&call.dimensions)? {
        let mut verdict = refuse(Reason::Suspended);
        verdict.details.insert("scope".into(), suspension.scope.into());
        verdict.details.insert("message".into(), json!(suspension.reason));
        verdict.retry_at = suspension.until;
        return Ok(Some(verdict));
    }
    if is_suspended {
        let mut verdict = refuse(Reason::Suspended);
        verdict.details.insert("scope".into(), "account".into());
        return Ok(Some(verdict));
    }
    let given = call.requested_model.as_deref();
    if let Some(patterns) = allowed.allowed_models.as_ref().filter(|_| given.is_some()) {
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
        allowed.allowed_features.as_ref().zip(call.dimensions.feature.as_deref())
        && !patterns.iter().any(|pattern| model_name::matches(pattern, feature))
    {
        return Ok(Some(refuse(Reason::FeatureNotAllowed)));
    }
    let deny_unpriced = settings::UNPRICED_MODEL.get() == settings::Refusal::Deny;
    Ok((deny_unpriced && estimate.is_unpriced(call)).then(|| refuse(Reason::UnpricedModel)))
}
