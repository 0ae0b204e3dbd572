//! Settling, releasing and recording: what really happened is booked, whatever the limits say.
//!
//! A settle replaces its hold in one transaction, so that every snapshot sees one of the two. What it
//! costs beyond the hold admits nothing, and counts from its commit on; in shared memory at once, and
//! what it gives back when it commits. The row of the ledger is told to the counters by its own
//! trigger, like everybody's.

use super::adjust;
use super::cache;
use super::caller::{Caller, not_permitted};
use super::estimate::{Purpose, estimate};
use crate::ledger::holds::{self, Hold};
use crate::ledger::usage::{self, Amounts, Charge, PriceSource};
use crate::ledger::{id, idempotency, partitions};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::usage::TokenUsage;
use ai_limiter_domain::{Amount, Call, Error, Timestamp, error::Result};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

/// What the caller knows of a call that has run.
pub struct Actual {
    pub model: Option<String>,
    pub provider: Option<String>,
    pub usage: TokenUsage,
    pub cost_usd: Option<Amount>,
}

pub struct Settlement {
    pub id: Uuid,
    pub cost_usd: Amount,
    pub estimated_cost_usd: Option<Amount>,
    pub already_settled: bool,
}

pub fn settle(caller: &Caller, id: Uuid, actual: Actual) -> Result<Settlement> {
    holds::lock(id);
    // At once rather than found first: an error puts it back.
    // SAFETY: reads a flag.
    let may_write = !unsafe { pg_sys::XactReadOnly };
    let hold = match may_write {
        true => holds::take(id)?,
        false => as_owner(|spi| holds::find(spi, id))?,
    };
    let Some(hold) = hold else { return settled_before(caller, id) };
    if !caller.may_act_for(hold.dimensions.tenant_id, hold.dimensions.user_id) {
        return Err(holds::no_such_reservation(id));
    }
    // The hold may be from a month whose partition was dropped since.
    partitions::ensure(hold.created_at)?;
    let charge = charge_of(&hold, actual)?;
    let (dimensions, created_at) = (&hold.dimensions, hold.created_at);
    let is_open = hold.state == "open";
    if usage::insert_directly(&charge)? {
        let held = if is_open { hold.size } else { Size::default() };
        adjust::hold_is_booked(dimensions, created_at, &held, &charge.size())?;
    } else {
        if is_open {
            adjust::hold_ends(dimensions, created_at, &hold.size)?;
        }
        as_owner(|spi| usage::insert_by_statement(spi, &charge))?;
    }
    Ok(Settlement {
        id,
        cost_usd: charge.cost_usd,
        estimated_cost_usd: charge.estimated_cost_usd,
        already_settled: false,
    })
}

fn settled_before(caller: &Caller, id: Uuid) -> Result<Settlement> {
    as_owner(|spi| usage::find(spi, id))?
        .filter(|charge| caller.may_act_for(charge.tenant_id, charge.user_id))
        .map(|charge| Settlement {
            id,
            cost_usd: charge.cost_usd,
            estimated_cost_usd: charge.estimated_cost_usd,
            already_settled: true,
        })
        .ok_or_else(|| holds::no_such_reservation(id))
}

/// What a hold comes to: the given cost, else tokens at the price of the model that answered, at
/// the time of the call, else what had been held: an interrupted call was not free.
fn charge_of(hold: &Hold, actual: Actual) -> Result<Charge> {
    let said = actual.usage.input_tokens.is_some() || actual.usage.output_tokens.is_some();
    let input_tokens = actual.usage.input_tokens.or(hold.size.input_tokens).unwrap_or(0);
    let output_tokens = match actual.usage.output_tokens {
        Some(output) => output,
        None if said => 0,
        None => hold.size.output_tokens.unwrap_or(0),
    };
    let mut answered = hold.call();
    answered.set_model(
        actual.model.clone().or_else(|| hold.requested_model.clone()),
        actual.provider.clone().or_else(|| hold.dimensions.provider.clone()),
    )?;
    let price = match said && actual.cost_usd.is_none() && answered.requested_model.is_some() {
        true => cache::current(|config| config.price(&answered, hold.created_at))?,
        false => None,
    };
    let (cost_usd, price_source) = match (actual.cost_usd, price) {
        (Some(cost), _) => (cost, PriceSource::Caller),
        (None, Some(price)) => {
            (price.cost(hold.size.requests, input_tokens, output_tokens)?, PriceSource::AiPrices)
        }
        (None, None) => (hold.size.cost_usd.unwrap_or_default(), PriceSource::Estimate),
    };
    Ok(Charge {
        id: hold.id,
        dimensions: hold.dimensions.clone(),
        response_model: actual.model,
        requests: hold.size.requests,
        input_tokens,
        output_tokens,
        cost_usd,
        estimated_cost_usd: hold.size.cost_usd,
        price_source,
        amounts: Amounts { list_cost_usd: cost_usd, charge_usd: cost_usd },
        line_items: None,
        price_context: None,
        correction: None,
        created_at: hold.created_at,
    })
}

/// Gives a hold back; false when it no longer counted.
pub fn release(caller: &Caller, id: Uuid) -> Result<bool> {
    holds::lock(id);
    let now = clock::now();
    let Some(hold) = as_owner(|spi| holds::find(spi, id))? else {
        return settled_before(caller, id).map(|_| false);
    };
    if !caller.may_act_for(hold.dimensions.tenant_id, hold.dimensions.user_id) {
        return Err(holds::no_such_reservation(id));
    }
    let was_open = hold.is_open_at(now);
    if hold.state == "open" {
        adjust::hold_ends(&hold.dimensions, hold.created_at, &hold.size)?;
        as_owner(|spi| holds::release(spi, id))?;
    }
    Ok(was_open)
}

pub struct Record {
    pub call: Box<Call>,
    pub idempotency_key: Option<String>,
    pub created_at: Option<Timestamp>,
}

/// Books a call after the fact.
pub fn record(caller: &Caller, request: Record) -> Result<Uuid> {
    let Record { mut call, idempotency_key, created_at } = request;
    let tenant = call.dimensions.tenant_id;
    if !caller.may_act_for(tenant, call.dimensions.user_id) {
        return Err(not_permitted("permission denied for another account"));
    }
    let now = clock::now();
    if created_at.is_some_and(|at| at > now) {
        return Err(Error::invalid("created_at must not be in the future"));
    }
    let arguments = arguments("record_ai_usage", &call, &json!(created_at.map(|t| t.0)));
    if let Some(key) = idempotency_key.as_deref() {
        let earlier = as_owner(|spi| idempotency::answer(spi, tenant, key, &arguments, now))?;
        if let Some(id) = earlier.as_ref().and_then(Value::as_str).and_then(|s| s.parse().ok()) {
            return Ok(id);
        }
    }
    let created_at = created_at.unwrap_or_else(clock::now);
    partitions::ensure(created_at)?;
    partitions::prepare(now)?;
    let charge = recorded(&mut call, created_at)?;
    if usage::insert_directly(&charge)? {
        adjust::usage(&charge.dimensions, charge.created_at, &charge.size())?;
    } else {
        as_owner(|spi| usage::insert_by_statement(spi, &charge))?;
    }
    if let Some(key) = idempotency_key.as_deref() {
        as_owner(|spi| idempotency::remember(spi, tenant, key, &arguments, &json!(charge.id)))?;
    }
    Ok(charge.id)
}

fn recorded(call: &mut Call, created_at: Timestamp) -> Result<Charge> {
    let (tenant, user) = (call.dimensions.tenant_id, call.dimensions.user_id);
    call.dimensions.tier = cache::current(|config| Ok(config.account(tenant, user)?.tier.clone()))?;
    if call.cost_usd.is_none() && call.input_tokens.is_none() && call.output_tokens.is_none() {
        return Err(Error::invalid("usage must say its tokens or its cost")
            .hint("Set usage, input_tokens and output_tokens, or cost_usd."));
    }
    // Nothing is estimated here: tokens that were not told were not used.
    call.output_tokens = call.output_tokens.or(Some(0));
    let estimate = cache::current(|config| estimate(config, call, Purpose::Exactly, created_at))?;
    let Some((cost_usd, price_source)) = estimate.size.cost_usd.zip(estimate.source) else {
        return Err(match &call.requested_model {
            Some(_) => Error::invalid("model has no price")
                .hint("Give cost_usd, or add a row to ai_limiter.ai_prices."),
            None => {
                Error::invalid("usage must name a model or a cost").hint("Set model or cost_usd.")
            }
        });
    };
    Ok(Charge {
        id: id::at(created_at),
        dimensions: call.dimensions.clone(),
        response_model: None,
        requests: call.requests,
        input_tokens: call.input_tokens.unwrap_or(0),
        output_tokens: call.output_tokens.unwrap_or(0),
        cost_usd,
        estimated_cost_usd: None,
        price_source,
        amounts: Amounts { list_cost_usd: cost_usd, charge_usd: cost_usd },
        line_items: None,
        price_context: None,
        correction: None,
        created_at,
    })
}

/// A call and what came with it, as text that is equal only for equal arguments.
pub fn arguments(function: &str, call: &Call, more: &Value) -> String {
    let d = &call.dimensions;
    json!([
        function,
        d.tenant_id,
        d.user_id,
        d.provider,
        call.requested_model,
        d.feature,
        d.api_key_id,
        d.run_id,
        d.attributes,
        call.requests,
        call.input_tokens,
        call.output_tokens,
        call.cost_usd.map(|c| c.to_string()),
        more
    ])
    .to_string()
}
