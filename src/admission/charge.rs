//! Settling, releasing and recording: what really happened is booked, whatever the limits say.
//!
//! A settle replaces its hold in one transaction, so that every snapshot sees one of the two. What it
//! costs beyond the hold admits nothing, and counts from its commit on; in shared memory at once, and
//! what it gives back when it commits. The row of the ledger is told to the counters by its own
//! trigger, like everybody's.

use super::adjust;
use super::cache;
use super::caller::{Caller, not_permitted};
use super::pricing::{Used, costs, priced};
use crate::ledger::holds::{self, Hold};
use crate::ledger::prices::Prices;
use crate::ledger::usage::{self, Charge, PriceSource};
use crate::ledger::{id, idempotency, partitions};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::pricing::{Catalog, Class, Priced, Quantities, context_of};
use ai_limiter_domain::usage::{self as reported, Hint, ReportedUsage};
use ai_limiter_domain::{Amount, Call, Dimensions, Error, Timestamp, error::Result};
use pgrx::pg_sys;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use uuid::Uuid;

/// What the caller knows of a call that has run.
#[derive(Default)]
pub struct Actual {
    pub model: Option<String>,
    pub provider: Option<String>,
    /// What the provider sent.
    pub usage: Option<Value>,
    /// Tokens that the caller names are right, whatever the provider sent.
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_usd: Option<Amount>,
}

impl Actual {
    /// What was used, as far as this tells; `model` and `provider` are what was asked for.
    fn read(&self, model: Option<&str>, provider: Option<&str>) -> Result<ReportedUsage> {
        let mut usage = match &self.usage {
            None => ReportedUsage::default(),
            Some(usage) => {
                let hint = Hint {
                    provider: self.provider.as_deref().or(provider),
                    model: self.model.as_deref().or(model),
                };
                // Always by the readers that came with the library: those it was tested with.
                reported::read(usage, hint, Catalog::bundled())?
            }
        };
        let told =
            [(Class::INPUT_TOKENS, self.input_tokens), (Class::OUTPUT_TOKENS, self.output_tokens)];
        for (class, tokens) in told {
            if let Some(tokens) = tokens {
                usage.quantities.set(class, tokens.into());
            }
        }
        usage.quantities = usage.quantities.checked()?;
        Ok(usage)
    }
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

/// What a hold comes to: see [`pricing`](super::pricing). Input that the response does not tell is what
/// was held for it: an interrupted stream has been read to its end by the model.
fn charge_of(hold: &Hold, actual: Actual) -> Result<Charge> {
    let d = &hold.dimensions;
    let usage = actual.read(hold.requested_model.as_deref(), d.provider.as_deref())?;
    let is_told = actual.model.is_some();
    let response_model = actual.model.or(usage.model);
    let mut quantities = usage.quantities;
    let said = !quantities.is_empty();
    let speaks_of_tokens = quantities.iter().any(|(class, _)| class.is_tokens());
    if speaks_of_tokens
        && quantities.get(Class::INPUT_TOKENS).is_none()
        && let Some(held) = hold.size.input_tokens
    {
        quantities.set(Class::INPUT_TOKENS, held.into());
    }
    let mut answered = hold.call();
    answered.set_model(
        response_model.clone().or_else(|| hold.requested_model.clone()),
        actual.provider.or_else(|| d.provider.clone()).or(usage.provider),
    )?;
    let (input_tokens, output_tokens) = match said {
        true => tokens_of(&quantities),
        false => (hold.size.input_tokens.unwrap_or(0), hold.size.output_tokens.unwrap_or(0)),
    };
    let context = context_of(&usage.context);
    let used = Used {
        quantities: &quantities,
        requests: hold.size.requests,
        at: hold.created_at,
        context: &context,
        reported_cost_usd: reported_cost(usage.reported_cost_usd)?,
    };
    let asked = if is_told { answered.clone() } else { hold.call() };
    let told = actual.cost_usd;
    let (answered, prices, priced) = priced_by(answered, asked, &used, told.is_some())?;
    let held = hold.size.cost_usd.unwrap_or_default();
    let Some(costs) = costs((&prices, priced), &used, told, Some(held))? else {
        return Err(Error::invalid("cost cannot be known").hint("Give cost_usd."));
    };
    let priced = (&answered, &*prices, costs.source);
    let price_context = context_column(&usage.context, priced, response_model.as_deref(), d);
    Ok(Charge {
        id: hold.id,
        dimensions: d.clone(),
        response_model,
        requests: hold.size.requests,
        input_tokens,
        output_tokens,
        cost_usd: costs.cost_usd,
        estimated_cost_usd: hold.size.cost_usd,
        price_source: costs.source,
        amounts: costs.amounts,
        line_items: Some(costs.line_items),
        price_context,
        correction: None,
        created_at: hold.created_at,
    })
}

fn reported_cost(cost: Option<Decimal>) -> Result<Option<Amount>> {
    cost.map(|cost| Amount::parse_charge(&cost.to_string(), "cost in usage")).transpose()
}

/// What a call is priced by: its model, the prices of that, and what they come to.
type PricedBy = (Call, Rc<Prices>, Option<Priced>);

/// The model that answered; where that has no price the one that was asked for, since a response may name
/// the deployment. Where the cost is told a price only tells the list's: what is known to be paid is
/// booked whatever prices say.
fn priced_by(answered: Call, asked: Call, used: &Used, is_told: bool) -> Result<PricedBy> {
    let by = |call: Call| -> Result<(PricedBy, bool)> {
        let prices = cache::current(|config| config.prices(&call, used.at))?;
        let (priced, is_out_of_range) = match priced(&prices, used) {
            Err(_) if is_told => (None, true),
            priced => (priced?, false),
        };
        let says = priced.is_some() || is_out_of_range;
        Ok(((call, prices, priced), says))
    };
    let is_other =
        asked.requested_model.is_some() && asked.requested_model != answered.requested_model;
    let (by_answered, says) = by(answered)?;
    if says || !is_other || used.quantities.is_empty() {
        return Ok(by_answered);
    }
    let (by_asked, says) = by(asked)?;
    Ok(if says { by_asked } else { by_answered })
}

fn tokens_of(quantities: &Quantities) -> (i64, i64) {
    let tokens = |class| quantities.tokens(class).unwrap_or(0);
    (tokens(Class::INPUT_TOKENS), tokens(Class::OUTPUT_TOKENS))
}

/// What the price depended on beside what the ledger has anyway: the terms; the name and the provider that
/// were priced, where those are not the model that answered (without one, the requested one's canonical
/// name) and the call's provider; and for a call of no provider whose catalogue price it has.
fn context_column(
    context: &BTreeMap<String, String>,
    (priced, prices, source): (&Call, &Prices, PriceSource),
    response_model: Option<&str>,
    asked: &Dimensions,
) -> Option<String> {
    let mut context = context.clone();
    let model = priced.requested_model.as_deref();
    if let Some(name) = model.filter(|_| model != response_model.or(asked.model.as_deref())) {
        context.insert(PRICED_MODEL.to_owned(), name.to_owned());
    }
    let provider = priced.dimensions.provider.as_deref();
    if let Some(name) = provider.filter(|_| provider != asked.provider.as_deref()) {
        context.insert(PRICED_PROVIDER.to_owned(), name.to_owned());
    }
    let listed = prices.listed_name().and_then(|name| name.split('/').next());
    if let Some(name) = listed.filter(|_| provider.is_none() && source == PriceSource::Catalog) {
        context.insert("catalog_provider".to_owned(), name.to_owned());
    }
    (!context.is_empty()).then(|| json!(context).to_string())
}

/// The key of `price_context` for the provider that was priced.
pub const PRICED_PROVIDER: &str = "provider";
/// The key of `price_context` for a name that was priced.
pub const PRICED_MODEL: &str = "model";

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
    /// Its tokens and cost are those of `actual`.
    pub call: Box<Call>,
    pub actual: Actual,
    pub idempotency_key: Option<String>,
    pub created_at: Option<Timestamp>,
    /// The row's id, where it has one already.
    pub id: Option<Uuid>,
}

/// Books a call after the fact.
pub fn record(caller: &Caller, request: Record) -> Result<Uuid> {
    let Record { mut call, actual, idempotency_key, created_at, id } = request;
    let tenant = call.dimensions.tenant_id;
    if !caller.may_act_for(tenant, call.dimensions.user_id) {
        return Err(not_permitted("permission denied for another account"));
    }
    let now = clock::now();
    if created_at.is_some_and(|at| at > now) {
        return Err(Error::invalid("created_at must not be in the future"));
    }
    let more = json!([created_at.map(|t| t.0), actual.usage]);
    let arguments = arguments("record_ai_usage", &call, &more);
    if let Some(key) = idempotency_key.as_deref() {
        let earlier = as_owner(|spi| idempotency::answer(spi, tenant, key, &arguments, now))?;
        if let Some(id) = earlier.as_ref().and_then(Value::as_str).and_then(|s| s.parse().ok()) {
            return Ok(id);
        }
    }
    let created_at = created_at.unwrap_or_else(clock::now);
    partitions::ensure(created_at)?;
    partitions::prepare(now)?;
    let mut charge = recorded(&mut call, actual, created_at)?;
    charge.id = id.unwrap_or(charge.id);
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

/// Nothing is estimated here: what was not told was not used.
fn recorded(call: &mut Call, actual: Actual, created_at: Timestamp) -> Result<Charge> {
    let (tenant, user) = (call.dimensions.tenant_id, call.dimensions.user_id);
    call.dimensions.tier = cache::current(|config| Ok(config.account(tenant, user)?.tier.clone()))?;
    let provider = call.dimensions.provider.clone();
    let usage = actual.read(call.requested_model.as_deref(), provider.as_deref())?;
    if usage.quantities.is_empty() && actual.cost_usd.is_none() {
        return Err(Error::invalid("usage must say its tokens or its cost")
            .hint("Set usage, input_tokens and output_tokens, or cost_usd."));
    }
    if call.requested_model.is_none() && usage.model.is_some() {
        call.set_model(usage.model.clone(), provider.or(usage.provider))?;
    }
    let mut answered = call.clone();
    if usage.model.is_some() {
        answered.set_model(usage.model.clone(), call.dimensions.provider.clone())?;
    }
    let context = context_of(&usage.context);
    let used = Used {
        quantities: &usage.quantities,
        requests: call.requests,
        at: created_at,
        context: &context,
        reported_cost_usd: reported_cost(usage.reported_cost_usd)?,
    };
    let told = actual.cost_usd;
    let (answered, prices, priced) = priced_by(answered, call.clone(), &used, told.is_some())?;
    let Some(costs) = costs((&prices, priced), &used, told, None)? else {
        return Err(match &call.requested_model {
            Some(_) => Error::invalid("model has no price")
                .hint("Give cost_usd, or add a row to ai_limiter.ai_prices."),
            None => {
                Error::invalid("usage must name a model or a cost").hint("Set model or cost_usd.")
            }
        });
    };
    let (input_tokens, output_tokens) = tokens_of(&usage.quantities);
    let priced = (&answered, &*prices, costs.source);
    let price_context =
        context_column(&usage.context, priced, usage.model.as_deref(), &call.dimensions);
    Ok(Charge {
        id: id::at(created_at),
        dimensions: call.dimensions.clone(),
        response_model: usage.model,
        requests: call.requests,
        input_tokens,
        output_tokens,
        cost_usd: costs.cost_usd,
        estimated_cost_usd: None,
        price_source: costs.source,
        amounts: costs.amounts,
        line_items: Some(costs.line_items),
        price_context,
        correction: None,
        created_at,
    })
}

/// What was used, and what that costs.
pub struct CostOfUsage {
    pub cost_usd: Amount,
    pub source: PriceSource,
    pub input_tokens: i64,
    pub output_tokens: i64,
}

/// What a call with this usage costs now; `None` when its model has no price. Its tokens are right,
/// whatever the usage says.
pub fn cost_of(call: &Call, usage: Value) -> Result<Option<CostOfUsage>> {
    let actual = Actual {
        usage: Some(usage),
        input_tokens: call.input_tokens,
        output_tokens: call.output_tokens,
        ..Actual::default()
    };
    let usage =
        actual.read(call.requested_model.as_deref(), call.dimensions.provider.as_deref())?;
    let context = context_of(&usage.context);
    let now = clock::now();
    let used = Used {
        quantities: &usage.quantities,
        requests: call.requests,
        at: now,
        context: &context,
        reported_cost_usd: reported_cost(usage.reported_cost_usd)?,
    };
    let prices = cache::current(|config| config.prices(call, now))?;
    let priced = priced(&prices, &used)?;
    let (input_tokens, output_tokens) = tokens_of(&usage.quantities);
    Ok(costs((&prices, priced), &used, None, None)?.map(|costs| CostOfUsage {
        cost_usd: costs.cost_usd,
        source: costs.source,
        input_tokens,
        output_tokens,
    }))
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
