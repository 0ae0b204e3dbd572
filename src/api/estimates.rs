//! What a call would be held for, and why, and what is learned for that.

use super::arguments::Arguments;
use super::operating::servers_only;
use super::reporting::timestamptz;
use super::{Answered, answered};
use crate::admission::caller::Caller;
use crate::admission::configuration::Tables;
use crate::admission::estimate::{Estimate, Purpose, estimate};
use crate::admission::housekeeping;
use crate::admission::{charge, standing};
use crate::columns;
use crate::pg::clock;
use crate::pg::numeric::{any, from_amount};
use crate::pg::owner::as_owner;
use crate::pg::row::{Composite, Rows};
use crate::pg::spi::Snapshot;
use crate::pg::uuid::to_pg;
use crate::settings;
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::estimates::output::Basis;
use ai_limiter_domain::{Call, error::Result};
use pgrx::prelude::*;

/// One request of the caller's tenant, from arguments in the order of both functions.
fn call_of(args: &Arguments) -> Result<Call> {
    let mut call = Call {
        requests: 1,
        input_tokens: call::count(args.get(3), "input_tokens")?,
        output_tokens: call::count(args.get(4), "output_tokens")?,
        ..Call::default()
    };
    call.dimensions.tenant_id = Caller::current()?.tenant_id();
    call.set_model(args.get(0), args.get(1))?;
    required(call.requested_model.as_ref(), "model")?;
    Ok(call)
}

fn estimated(call: &Call) -> Result<Estimate> {
    as_owner(|spi| {
        let tables = Tables { spi, snapshot: &Snapshot::latest() };
        Ok(estimate(&tables, call, Purpose::Hold, clock::now())?)
    })
}

#[pg_extern(sql = false)]
fn estimate_ai_cost(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Option<AnyNumeric>> {
    answered(|| {
        // SAFETY: declared as (text, text, jsonb, bigint, bigint).
        let args = unsafe { Arguments::new(fcinfo) };
        let call = call_of(&args)?;
        let cost = match args.json(2, "usage")? {
            Some(usage) => charge::cost_of(&call, usage)?.map(|reported| reported.cost_usd),
            None => estimated(&call)?.size.cost_usd,
        };
        Ok(cost.map(any))
    })
}

#[pg_extern(sql = false)]
fn explain_ai_cost_estimate(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        // SAFETY: declared as (text, text, jsonb, bigint, bigint, text).
        let args = unsafe { Arguments::new(fcinfo) };
        let mut call = call_of(&args)?;
        call.dimensions.feature = call::text(args.get(5), "feature")?;
        if let Some(usage) = args.json(2, "usage")? {
            let reported = charge::cost_of(&call, usage)?;
            let (cost, source) = reported.as_ref().map(|r| (r.cost_usd, r.source.name())).unzip();
            let tokens = reported.as_ref().map(|r| (r.input_tokens, r.output_tokens));
            return Ok(Composite::of(columns![
                cost.map(from_amount),
                tokens.map(|t| t.0),
                tokens.map(|t| t.1),
                Basis::Reported.name(),
                "what was used is known".to_owned(),
                tokens.map(|t| t.1),
                cost.map(from_amount),
                source,
            ]));
        }
        let estimate = estimated(&call)?;
        Ok(Composite::of(columns![
            estimate.size.cost_usd.map(from_amount),
            estimate.size.input_tokens,
            estimate.size.output_tokens,
            estimate.basis.name(),
            explanation(&estimate, call.dimensions.feature.as_deref()),
            estimate.most.output_tokens,
            estimate.most.cost_usd.map(from_amount),
            estimate.source.map(|source| source.name()),
        ]))
    })
}

/// Why an estimate is what it is, for people.
fn explanation(estimate: &Estimate, feature: Option<&str>) -> String {
    let part = (settings::OUTPUT_QUANTILE.get() * 10_000.0).round() / 100.0;
    let calls = estimate.calls;
    let learned = |of: String| format!("{part}% of the last {calls} calls {of} returned no more");
    let why = match estimate.basis {
        Basis::GivenCost => "the caller said what it costs".to_owned(),
        Basis::Reported => "the tokens are those that were used".to_owned(),
        Basis::LearnedOfFeature => {
            learned(format!("of the feature \"{}\" to this model", feature.unwrap_or_default()))
        }
        Basis::LearnedOfModel => learned("to this model".to_owned()),
        Basis::CallerMaximum => {
            "the caller's maximum: too few calls are known, or they return as much".to_owned()
        }
        Basis::ModelMaximum => "the model returns no more".to_owned(),
        Basis::Default => "neither a maximum nor enough calls are known: \
            ai_limiter.default_output_tokens"
            .to_owned(),
    };
    match estimate.size.cost_usd {
        Some(_) => why,
        None => format!("{why}; the model has no price"),
    }
}

#[pg_extern(sql = false)]
fn refresh_ai_estimates() -> Answered<i64> {
    answered(|| {
        servers_only("learn what calls return")?;
        housekeeping::learn_all()
    })
}

#[pg_extern(sql = false)]
fn ai_hold_exposure() -> Answered<Rows> {
    answered(|| {
        let rows = standing::exposed(&Caller::current()?.view()?)?.into_iter().map(|e| {
            let (tenant, user) = e.limit.account_of(&e.call);
            columns![
                e.limit.name,
                e.limit.id,
                e.subject,
                tenant.map(to_pg),
                user.map(to_pg),
                e.limit.metric.name(),
                e.limit.period_name,
                e.limit.action.name(),
                from_amount(e.limit.amount),
                e.holds,
                e.unbounded,
                from_amount(e.held),
                from_amount(e.at_most),
                from_amount(e.excess),
                timestamptz(e.window.end),
            ]
        });
        Ok(Rows(rows.collect()))
    })
}
