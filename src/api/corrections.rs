//! Correcting the ledger: one row by hand, or many by their prices.

use super::arguments::Arguments;
use super::operating::servers_only;
use super::{Answered, answered};
use crate::admission::{correction, reprice};
use crate::columns;
use crate::pg::numeric::from_amount;
use crate::pg::row::Rows;
use crate::pg::uuid::to_pg;
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::{Amount, error::Result, model_name};
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn adjust_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<pgrx::Uuid> {
    answered(|| {
        servers_only("adjust usage")?;
        // SAFETY: declared as (uuid, numeric, text).
        let args = unsafe { Arguments::new(fcinfo) };
        let usage_id = required(args.uuid(0), "usage_id")?;
        let delta = required(args.get::<AnyNumeric>(1), "cost_usd_delta")?;
        let delta = Amount::parse_difference(delta.normalize(), "cost_usd_delta")?;
        let reason = required(call::text(args.get(2), "reason")?, "reason")?;
        correction::adjust_usage(usage_id, delta, reason).map(to_pg)
    })
}

#[pg_extern(sql = false)]
fn reprice_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Rows> {
    answered(|| {
        servers_only("reprice usage")?;
        // SAFETY: declared as (timestamptz, timestamptz, text, boolean).
        let args = unsafe { Arguments::new(fcinfo) };
        let window = (required(args.timestamp(0), "from")?, required(args.timestamp(1), "to")?);
        let model = call::text(args.get(2), "model")?;
        let model = model.map(|name| model_name::canonicalize(&name).model);
        let dry_run = required(args.get(3), "dry_run")?;
        let models = reprice::reprice(window, model.as_deref(), dry_run)?;
        let row = |(model, of): (Option<String>, reprice::Repriced)| {
            Ok(columns![
                model,
                of.rows,
                from_amount(of.before_usd),
                from_amount(of.after_usd),
                from_amount(of.after_usd.checked_sub(of.before_usd)?),
                of.unpriced,
            ])
        };
        Ok(Rows(models.into_iter().map(row).collect::<Result<Vec<_>>>()?))
    })
}
