//! `check_ai_limit` and its kin, and what holds and books.

use super::arguments::{Arguments, CALL};
use super::{Answered, answered};
use crate::admission::assess::{Assessed, Locking, Question, assess};
use crate::admission::caller::{Caller, not_permitted};
use crate::admission::charge::{self, Actual, Record};
use crate::admission::hold::{self, Extend, Reserve};
use crate::pg::clock;
use crate::pg::numeric;
use crate::pg::row::Composite;
use crate::pg::uuid::to_pg;
use ai_limiter_domain::Call;
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::error::Result;
use pgrx::prelude::*;

/// A call about an account that the caller may ask about.
fn permitted_call(caller: &Caller, args: &Arguments, requests: i64) -> Result<Box<Call>> {
    let (mut call, tenant, user) = args.call(requests)?;
    (call.dimensions.tenant_id, call.dimensions.user_id) = caller.account(tenant, user)?;
    Ok(call)
}

fn check(fcinfo: pg_sys::FunctionCallInfo) -> Result<Assessed> {
    // SAFETY: called by functions that are declared with the arguments of a call.
    let args = unsafe { Arguments::new(fcinfo) };
    let caller = Caller::current()?;
    let mut call = permitted_call(&caller, &args, 1)?;
    let view = caller.view()?;
    let question = Question {
        view: &view,
        locking: Locking::None,
        run_limit_usd: None,
        replaces: None,
        created_at: None,
    };
    assess(&mut call, &question)
}

#[pg_extern(sql = false)]
fn check_ai_limit(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        let Assessed { verdict, now, .. } = check(fcinfo)?;
        Ok(Composite::verdict(&verdict.answer(now, None), false))
    })
}

#[pg_extern(sql = false)]
fn within_ai_limit(fcinfo: pg_sys::FunctionCallInfo) -> Answered<bool> {
    answered(|| Ok(check(fcinfo)?.verdict.allowed))
}

#[pg_extern(sql = false)]
fn reserve_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        // SAFETY: declared with the arguments of a call and the four that are read here.
        let args = unsafe { Arguments::new(fcinfo) };
        let caller = Caller::current()?;
        let call = permitted_call(&caller, &args, args.requests(CALL)?)?;
        if !caller.may_act_for(call.dimensions.tenant_id, call.dimensions.user_id) {
            return Err(not_permitted("permission denied for another account"));
        }
        let ttl: Option<pgrx::datum::Interval> = args.get(CALL + 3);
        let request = Reserve {
            call,
            run_limit_usd: numeric::to_charge(args.get(CALL + 1), "run_limit_usd")?,
            idempotency_key: call::text(args.get(CALL + 2), "idempotency_key")?,
            ttl_microseconds: ttl.map(|t| clock::interval_microseconds(&t, "ttl")).transpose()?,
        };
        Ok(Composite::verdict(&hold::reserve(&caller, request)?, true))
    })
}

#[pg_extern(sql = false)]
fn extend_ai_reservation(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        // SAFETY: declared as (uuid, bigint, numeric, interval).
        let args = unsafe { Arguments::new(fcinfo) };
        let ttl: Option<pgrx::datum::Interval> = args.get(3);
        let request = Extend {
            id: required(args.uuid(0), "reservation_id")?,
            output_tokens: call::count(args.get(1), "output_tokens")?,
            cost_usd: numeric::to_charge(args.get(2), "cost_usd")?,
            ttl_microseconds: ttl.map(|t| clock::interval_microseconds(&t, "ttl")).transpose()?,
        };
        Ok(Composite::verdict(&hold::extend(&Caller::current()?, request)?, true))
    })
}

#[pg_extern(sql = false)]
fn settle_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        // SAFETY: declared as (uuid, jsonb, text, text, bigint, bigint, numeric).
        let args = unsafe { Arguments::new(fcinfo) };
        let id = required(args.uuid(0), "reservation_id")?;
        let actual = Actual {
            model: call::text(args.get(2), "model")?,
            provider: call::text(args.get(3), "provider")?,
            usage: args.json(1, "usage")?,
            input_tokens: call::count(args.get(4), "input_tokens")?,
            output_tokens: call::count(args.get(5), "output_tokens")?,
            cost_usd: numeric::to_charge(args.get(6), "cost_usd")?,
        };
        let done = charge::settle(&Caller::current()?, id, actual)?;
        Ok(Composite::settlement(
            done.id,
            done.cost_usd,
            done.estimated_cost_usd,
            done.already_settled,
        ))
    })
}

#[pg_extern(sql = false)]
fn release_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<bool> {
    answered(|| {
        // SAFETY: declared as (uuid).
        let args = unsafe { Arguments::new(fcinfo) };
        charge::release(&Caller::current()?, required(args.uuid(0), "reservation_id")?)
    })
}

#[pg_extern(sql = false)]
fn record_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<pgrx::Uuid> {
    answered(|| {
        // SAFETY: declared with the arguments of a call and the four that are read here.
        let args = unsafe { Arguments::new(fcinfo) };
        let caller = Caller::current()?;
        let call = permitted_call(&caller, &args, args.requests(CALL + 1)?)?;
        let actual = Actual {
            usage: args.json(CALL, "usage")?,
            input_tokens: call.input_tokens,
            output_tokens: call.output_tokens,
            cost_usd: call.cost_usd,
            ..Actual::default()
        };
        let request = Record {
            call,
            actual,
            idempotency_key: call::text(args.get(CALL + 2), "idempotency_key")?,
            created_at: args.timestamp(CALL + 3),
            id: None,
        };
        charge::record(&caller, request).map(to_pg)
    })
}
