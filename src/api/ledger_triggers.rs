//! The two triggers of the ledger, for rows that are inserted by a statement: an app's own, a load, a
//! restore. What the extension books itself does not come here (`ledger::usage::insert_directly`).

use super::{Answered, answered};
use crate::admission::{adjust, cache};
use crate::counters::memory;
use crate::counters::memory::transaction;
use crate::ledger::{rollup, usage};
use crate::pg::relation;
use crate::pg::row_trigger::{RowTrigger, TriggeredRow};
use crate::pg::stamp;
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::error::Result;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::pricing::written_items;
use ai_limiter_domain::{Dimensions, Error, Timestamp, model_name};
use pgrx::prelude::*;

/// Completes and checks a row of the ledger, whoever inserts it.
#[pg_extern(sql = false)]
fn ai_usage_insert(fcinfo: pg_sys::FunctionCallInfo) -> Answered<TriggeredRow> {
    answered(|| {
        // SAFETY: declared as a trigger.
        let mut trigger = unsafe { RowTrigger::new(fcinfo)? };
        let attributes = trigger.row().jsonb(trigger.number(c"attributes")?, "attributes")?;
        call::attributes(attributes.as_ref())?;
        complete(&mut trigger)?;
        complete_amounts(&mut trigger)?;
        check_what_is_the_extensions(&trigger)?;
        stamp_row(&mut trigger)?;
        Ok(trigger.finish())
    })
}

/// Tells the rollup and the counters of a row of the ledger.
#[pg_extern(sql = false)]
fn ai_usage_count(fcinfo: pg_sys::FunctionCallInfo) -> Answered<TriggeredRow> {
    answered(|| {
        // SAFETY: declared as a trigger.
        let trigger = unsafe { RowTrigger::new(fcinfo)? };
        add_late(&trigger)?;
        count_usage(&trigger)?;
        Ok(trigger.finish())
    })
}

fn complete(trigger: &mut RowTrigger) -> Result<()> {
    let text =
        |trigger: &RowTrigger, name| Ok::<_, Error>(trigger.row().text(trigger.number(name)?));
    if required(instant(trigger, c"created_at")?, "created_at")? > stamp::now() {
        return Err(Error::invalid("created_at must not be in the future"));
    }
    let (model, provider) = (text(trigger, c"model")?, text(trigger, c"provider")?);
    let names = model_name::with_provider(model.as_deref(), provider.as_deref());
    for (column, given, completed) in [(c"model", model, names.0), (c"provider", provider, names.1)]
    {
        if let Some(completed) = completed.filter(|name| given.as_ref() != Some(name)) {
            trigger.set_text(column, &completed)?;
        }
    }
    call::api_key_id(text(trigger, c"api_key_id")?)?;
    for (column, name) in [
        (c"requests", "requests"),
        (c"input_tokens", "input_tokens"),
        (c"output_tokens", "output_tokens"),
    ] {
        call::count(trigger.row().int(trigger.number(column)?), name)?;
    }
    if text(trigger, c"tier")?.is_none() {
        let tenant = trigger.row().uuid(trigger.number(c"tenant_id")?);
        let (tenant, user) =
            (required(tenant, "tenant_id")?, trigger.row().uuid(trigger.number(c"user_id")?));
        let tier = cache::current(|config| Ok(config.account(tenant, user)?.tier.clone()))?;
        trigger.set_text(c"tier", &tier)?;
    }
    Ok(())
}

/// What is paid is the list price and what is charged, where a row says nothing else.
fn complete_amounts(trigger: &mut RowTrigger) -> Result<()> {
    let cost = trigger.row().datum(trigger.number(c"cost_usd")?);
    for column in [c"list_cost_usd", c"charge_usd"] {
        if trigger.row().datum(trigger.number(column)?).is_none() {
            trigger.set(column, cost)?;
        }
    }
    Ok(())
}

/// Corrections may be negative, and are the extension's to book; line items and what their price depended
/// on are read by views. What was dumped or replicated was checked before. Anybody can set `row_security`
/// off, and a server may insert here: so only who is as good as the owner, whom a restore needs anyway to
/// attach the partitions, is believed to restore.
fn check_what_is_the_extensions(trigger: &RowTrigger) -> Result<()> {
    // SAFETY: settings of this backend.
    let is_copy = unsafe {
        !pg_sys::row_security
            || pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32
    };
    if is_copy && relation::is_as_good_as_owned(relation::oid(c"ai_usage")?)? {
        return Ok(());
    }
    let row = trigger.row();
    if row.uuid(trigger.number(c"correction_of")?).is_some() && !usage::is_correcting() {
        return Err(Error::invalid("corrections cannot be inserted")
            .hint("Use ai_limiter.adjust_ai_usage() or ai_limiter.reprice_ai_usage()."));
    }
    if let Some(context) = row.jsonb(trigger.number(c"price_context")?, "price_context")?
        && !context.is_object()
    {
        return Err(Error::invalid("price_context must be an object"));
    }
    match row.jsonb_text(trigger.number(c"line_items")?) {
        Some(items) => {
            let cost = row.amount(trigger.number(c"cost_usd")?)?;
            written_items::check(&items, required(cost, "cost_usd")?)
        }
        None => Ok(()),
    }
}

/// Says when the row is booked, where it does not say so itself: with an id of the transaction first,
/// as the rollup's watermark needs it.
fn stamp_row(trigger: &mut RowTrigger) -> Result<()> {
    crate::pg::transaction::assign_id();
    match instant(trigger, c"recorded_at")? {
        Some(recorded_at) => rollup::late::announce(recorded_at, trigger.table()),
        None => trigger.set_timestamp(c"recorded_at", rollup::stamp()?),
    }
}

/// A row that brought a `recorded_at` from before the watermark goes into the rollup too.
fn add_late(trigger: &RowTrigger) -> Result<()> {
    let recorded_at = required(instant(trigger, c"recorded_at")?, "recorded_at")?;
    if rollup::late::is_late(recorded_at, trigger.table()) {
        let id = trigger.row().uuid(trigger.number(c"id")?);
        rollup::late::add(required(id, "id")?, recorded_at, trigger.table())?;
    }
    Ok(())
}

fn count_usage(trigger: &RowTrigger) -> Result<()> {
    if transaction::is_bulk() || memory::current()?.is_none() {
        return Ok(());
    }
    // A dump's script sets it off: what is restored is loaded, not told.
    // SAFETY: a setting of this backend.
    if !unsafe { pg_sys::row_security } {
        return memory::begin_bulk();
    }
    let row = trigger.row();
    let text = |name| Ok::<_, Error>(row.text(trigger.number(name)?));
    let int = |name| Ok::<_, Error>(row.int(trigger.number(name)?));
    let attributes = row.jsonb(trigger.number(c"attributes")?, "attributes")?;
    let call = Dimensions {
        tenant_id: row.uuid(trigger.number(c"tenant_id")?).unwrap_or_default(),
        user_id: row.uuid(trigger.number(c"user_id")?),
        tier: text(c"tier")?.unwrap_or_default(),
        provider: text(c"provider")?,
        model: text(c"model")?,
        feature: text(c"feature")?,
        api_key_id: text(c"api_key_id")?,
        run_id: text(c"run_id")?,
        attributes: call::attributes(attributes.as_ref())?,
    };
    let size = Size {
        requests: int(c"requests")?.unwrap_or(0),
        input_tokens: int(c"input_tokens")?,
        output_tokens: int(c"output_tokens")?,
        cost_usd: row.amount(trigger.number(c"cost_usd")?)?,
    };
    let created_at = required(instant(trigger, c"created_at")?, "created_at")?;
    adjust::usage(&call, created_at, &size)
}

fn instant(trigger: &RowTrigger, name: &std::ffi::CStr) -> Result<Option<Timestamp>> {
    Ok(trigger.row().timestamp(trigger.number(name)?))
}
