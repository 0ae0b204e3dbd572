//! What the triggers in `sql/*_triggers.sql` call.

use super::{Answered, answered};
use crate::error::raise;
use crate::ledger::{config, rollup, rule_change};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::uuid::from_pg;
use crate::pg::{clock, transaction};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::error::Result as Checked;
use ai_limiter_domain::{Error, Timestamp, model_name};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::json;

#[pg_extern(sql = false)]
fn checked_limit(row: &str) -> Answered<JsonB> {
    answered(|| {
        let limit = as_owner(|spi| config::proposed_limit(spi, row))?;
        Ok(JsonB(json!({ "model": limit.filter.model, "provider": limit.filter.provider })))
    })
}

/// A trigger itself, so that nobody needs the right to call what keeps writers out.
#[pg_trigger(sql = false)]
fn ai_limits_change<'a>(
    _trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    rule_change::begin().unwrap_or_else(|error| raise(error));
    Ok(None)
}

type Row<'a> = PgHeapTuple<'a, pgrx::AllocatedByRust>;

/// Completes and checks a row of the ledger, whoever inserts it.
#[pg_trigger(sql = false)]
fn ai_usage_insert<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    let row = trigger.new().map(PgHeapTuple::into_owned);
    check_attributes(trigger).unwrap_or_else(|error| raise(error));
    let partition = partition(trigger);
    let complete = |row| {
        let mut row = complete(row)?;
        stamp(&mut row, partition)?;
        Ok(row)
    };
    Ok(row.map(|row| complete(row).unwrap_or_else(|error: Error| raise(error))))
}

/// A row that brought a `recorded_at` from before the watermark goes into the rollup too.
#[pg_trigger(sql = false)]
fn ai_usage_inserted<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    let partition = partition(trigger);
    let add = |row: PgHeapTuple<'_, pgrx::AllocatedByPostgres>| {
        let row = row.into_owned();
        let recorded_at = required(instant(&row, "recorded_at")?, "recorded_at")?;
        if rollup::late::is_late(recorded_at, partition) {
            let id = required(column::<pgrx::Uuid>(&row, "id")?.map(from_pg), "id")?;
            rollup::late::add(id, recorded_at, partition)?;
        }
        Ok(())
    };
    if let Some(row) = trigger.new() {
        add(row).unwrap_or_else(|error: Error| raise(error));
    }
    Ok(None)
}

/// Says when the row is booked, where it does not say so itself: with an id of the transaction first,
/// as the rollup's watermark needs it.
fn stamp(row: &mut Row, partition: pg_sys::Oid) -> Checked<()> {
    transaction::assign_id();
    if let Some(recorded_at) = instant(row, "recorded_at")? {
        return rollup::late::announce(recorded_at, partition);
    }
    let now = TimestampWithTimeZone::try_from(rollup::stamp()?.0)
        .map_err(|_| Error::invalid("the clock is out of range"))?;
    row.set_by_name("recorded_at", Some(now))
        .map_err(|e| Error::invalid(format!("column recorded_at of ai_usage: {e}")))
}

/// The partition that the row goes into.
fn partition(trigger: &pgrx::PgTrigger) -> pg_sys::Oid {
    // SAFETY: the relation of a trigger that fires.
    unsafe { (*trigger.trigger_data().tg_relation).rd_id }
}

fn instant(row: &Row, name: &str) -> Checked<Option<Timestamp>> {
    Ok(column::<TimestampWithTimeZone>(row, name)?.map(|at| Timestamp(at.into())))
}

fn complete(mut row: Row<'_>) -> Checked<Row<'_>> {
    if required(instant(&row, "created_at")?, "created_at")? > clock::now() {
        return Err(Error::invalid("created_at must not be in the future"));
    }
    if let Some(model) = column::<String>(&row, "model")? {
        let canonical = model_name::canonicalize(&model);
        if column::<String>(&row, "provider")?.is_none() {
            set(&mut row, "provider", canonical.provider)?;
        }
        if canonical.model != model {
            set(&mut row, "model", Some(canonical.model))?;
        }
    }
    if let Some(provider) = column::<String>(&row, "provider")? {
        set(&mut row, "provider", Some(provider.to_lowercase()))?;
    }
    call::api_key_id(column(&row, "api_key_id")?)?;
    for name in ["requests", "input_tokens", "output_tokens"] {
        call::count(column(&row, name)?, name)?;
    }
    if column::<String>(&row, "tier")?.is_none() {
        let tenant: Option<pgrx::Uuid> = column(&row, "tenant_id")?;
        let tenant = required(tenant.map(from_pg), "tenant_id")?;
        let user = column::<pgrx::Uuid>(&row, "user_id")?.map(from_pg);
        let account = as_owner(|spi| config::account(spi, &Snapshot::latest(), tenant, user))?;
        set(&mut row, "tier", Some(account.tier))?;
    }
    Ok(row)
}

/// The row's attributes, read from the tuple itself: see [`json`](crate::pg::json).
fn check_attributes(trigger: &pgrx::PgTrigger) -> Checked<()> {
    let data = trigger.trigger_data();
    let mut is_null = false;
    // SAFETY: the new row of an insert and its relation's descriptor, as Postgres passed them; the
    // column is a jsonb.
    let attributes = unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let column = pg_sys::SPI_fnumber(descriptor, c"attributes".as_ptr());
        let tuple = data.tg_trigtuple;
        let datum = pg_sys::SPI_getbinval(tuple, descriptor, column, &raw mut is_null);
        if is_null {
            return Ok(());
        }
        crate::pg::json::from_jsonb(datum, "attributes")?
    };
    call::attributes(Some(&attributes)).map(|_| ())
}

fn column<'r, T>(row: &'r Row, name: &str) -> Checked<Option<T>>
where
    T: FromDatum + IntoDatum + pgrx::datum::UnboxDatum<As<'r> = T> + 'r,
{
    row.get_by_name(name).map_err(|e| Error::invalid(format!("column {name} of ai_usage: {e}")))
}

fn set(row: &mut Row, name: &str, value: Option<String>) -> Checked<()> {
    row.set_by_name(name, value)
        .map_err(|e| Error::invalid(format!("column {name} of ai_usage: {e}")))
}
