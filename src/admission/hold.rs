//! Reserving and extending: the two ways in which something new is admitted.

use super::assess::{Assessed, Locking, Question, Replaced, assess};
use super::cache;
use super::caller::Caller;
use super::denial;
use crate::counters::memory::transaction;
use crate::ledger::denials::Denial;
use crate::ledger::holds::{self, Hold};
use crate::ledger::{config, id, idempotency, partitions};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use crate::settings;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::verdict::{Answer, Reason};
use ai_limiter_domain::{Amount, Call, Error, Kind, Timestamp, error::Result};
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

pub struct Reserve {
    pub call: Box<Call>,
    pub run_limit_usd: Option<Amount>,
    pub idempotency_key: Option<String>,
    pub ttl_microseconds: Option<i64>,
}

/// Admits a call and writes its hold, all limits or none.
pub fn reserve(caller: &Caller, request: Reserve) -> Result<Answer> {
    let Reserve { mut call, run_limit_usd, idempotency_key, ttl_microseconds } = request;
    if call.requested_model.is_none() && call.cost_usd.is_none() {
        return Err(Error::invalid("a reservation must name a model or a cost")
            .hint("Set model or cost_usd."));
    }
    if run_limit_usd.is_some() && call.dimensions.run_id.is_none() {
        return Err(Error::invalid("run_limit_usd needs a run").hint("Set run_id."));
    }
    let ttl = ttl(ttl_microseconds)?;
    let tenant = call.dimensions.tenant_id;
    let arguments =
        idempotency_key.as_ref().map(|_| arguments(&call, run_limit_usd, ttl_microseconds));
    let key = idempotency_key.as_deref().zip(arguments.as_deref());
    if let Some((key, arguments)) = key {
        let earlier =
            as_owner(|spi| idempotency::answer(spi, tenant, key, arguments, clock::now()))?;
        if let Some(answer) = earlier {
            return serde_json::from_value(answer)
                .map_err(|_| Error::invalid("the key's first answer cannot be read"));
        }
    }
    let view = caller.view()?;
    let question = Question {
        view: &view,
        locking: Locking::Admission,
        run_limit_usd,
        replaces: None,
        created_at: None,
    };
    let Assessed { verdict, estimate, now } = assess(&mut call, &question)?;
    if !verdict.allowed {
        // Unreadable tables are why a degraded verdict was given: they are not written either.
        if verdict.reason != Reason::Degraded {
            denial::remember(&Denial::of(&call.dimensions, &verdict, now))?;
        }
        return Ok(verdict.answer(now, None));
    }
    partitions::prepare(now)?;
    if call.dimensions.tier.is_empty() {
        call.dimensions.tier = settings::text(&settings::DEFAULT_TIER); // degraded, and allowed
    }
    let given = Size {
        requests: call.requests,
        input_tokens: call.input_tokens,
        output_tokens: call.output_tokens,
        cost_usd: call.cost_usd,
    };
    let hold = Hold {
        id: id::at(now),
        dimensions: call.dimensions,
        requested_model: call.requested_model,
        size: estimate.as_ref().map_or(given, |e| e.size), // without one: degraded, and allowed
        max_output_tokens: estimate.as_ref().and_then(|e| e.most.output_tokens),
        max_cost_usd: estimate.as_ref().and_then(|e| e.most.cost_usd),
        state: "open".to_owned(),
        created_at: now,
        expires_at: Timestamp(now.0 + ttl),
    };
    transaction::admitted(hold.expires_at);
    let answer = verdict.answer(now, Some(hold.id));
    // Before the hold: whatever a trigger of the app's books beside it counts in the run.
    if let Some((run, amount)) = hold.dimensions.run_id.as_deref().zip(run_limit_usd) {
        let fixed = cache::current(|config| config.run_limit(tenant, run))?;
        if fixed.is_none() {
            as_owner(|spi| config::fix_run_limit(spi, tenant, run, amount))?;
        }
    }
    holds::insert(&hold)?;
    if let Some((key, arguments)) = key {
        as_owner(|spi| idempotency::remember(spi, tenant, key, arguments, &json!(answer)))?;
    }
    if settings::HOLD_DURABILITY.get() {
        // SAFETY: sets a flag of the running transaction.
        unsafe { pg_sys::ForceSyncCommit() };
    }
    Ok(answer)
}

pub struct Extend {
    pub id: Uuid,
    pub output_tokens: Option<i64>,
    pub cost_usd: Option<Amount>,
    pub ttl_microseconds: Option<i64>,
}

/// Raises a hold to a new total and prolongs it; denied, it stays as it was.
pub fn extend(caller: &Caller, request: Extend) -> Result<Answer> {
    let id = request.id;
    let ttl = ttl(request.ttl_microseconds)?;
    holds::lock(id);
    let hold = as_owner(|spi| holds::find(spi, id))?
        .filter(|h| caller.may_act_for(h.dimensions.tenant_id, h.dimensions.user_id));
    let Some(hold) = hold else { return Err(not_open(caller, id)?) };
    if hold.state == "released" {
        return Err(Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("reservation \"{id}\" was released"),
        )
        .hint("Reserve anew."));
    }
    let mut call = hold.call();
    call.output_tokens = request.output_tokens.max(hold.size.output_tokens);
    // New tokens are priced anew; otherwise the hold's cost or the given one stands.
    let tokens_priced = request.cost_usd.is_none() && request.output_tokens.is_some();
    call.cost_usd = if tokens_priced { None } else { request.cost_usd.max(hold.size.cost_usd) };
    let view = caller.view()?;
    let question = Question {
        view: &view,
        locking: Locking::Admission,
        run_limit_usd: None,
        replaces: Some(Replaced { id, size: hold.size, is_open: hold.state == "open" }),
        created_at: Some(hold.created_at),
    };
    let Assessed { verdict, estimate, now } = assess(&mut call, &question)?;
    if !verdict.allowed {
        return Ok(verdict.answer(now, None));
    }
    let given = Size {
        output_tokens: call.output_tokens,
        cost_usd: request.cost_usd.max(hold.size.cost_usd),
        ..hold.size
    };
    let size = estimate.as_ref().map_or(given, |e| e.size); // without one: degraded, and allowed
    let expires_at = Timestamp(now.0 + ttl).max(hold.expires_at);
    transaction::admitted(expires_at);
    // refresh_ai_counters() may have forgotten an old hold meanwhile.
    if !as_owner(|spi| holds::extend(spi, id, &size, expires_at))? {
        return Err(holds::no_such_reservation(id));
    }
    if settings::HOLD_DURABILITY.get() {
        // SAFETY: as in `reserve`.
        unsafe { pg_sys::ForceSyncCommit() };
    }
    Ok(verdict.answer(now, Some(id)))
}

/// Why a hold that is not there cannot be extended: settled, or no such reservation.
fn not_open(caller: &Caller, id: Uuid) -> Result<Error> {
    let settled = as_owner(|spi| crate::ledger::usage::find(spi, id))?;
    Ok(match settled {
        Some(charge) if caller.may_act_for(charge.tenant_id, charge.user_id) => Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("reservation \"{id}\" was settled"),
        ),
        _ => holds::no_such_reservation(id),
    })
}

fn ttl(given: Option<i64>) -> Result<i64> {
    let longest = i64::from(settings::MAX_RESERVATION_TTL.get()) * 1_000_000;
    match given {
        None => Ok((i64::from(settings::RESERVATION_TTL.get()) * 1_000_000).min(longest)),
        Some(ttl) if ttl <= 0 => Err(Error::invalid("ttl must be positive")),
        Some(ttl) if ttl > longest => Err(Error::invalid("ttl is too long")
            .hint("It must not exceed ai_limiter.max_reservation_ttl.")),
        Some(ttl) => Ok(ttl),
    }
}

/// What an idempotency key stands for.
fn arguments(call: &Call, run_limit_usd: Option<Amount>, ttl: Option<i64>) -> String {
    super::charge::arguments(
        "reserve_ai_usage",
        call,
        &json!([run_limit_usd.map(|a| a.to_string()), ttl]),
    )
}
