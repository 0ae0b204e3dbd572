//! What the triggers in `sql/*_triggers.sql` call.

use super::{Answered, answered};
use crate::admission::adjust;
use crate::admission::cache::{account_slot, run_slot};
use crate::admission::rule_change;
use crate::counters::memory::transaction::{self, Change};
use crate::counters::memory::{self, Config};
use crate::error::raise;
use crate::ledger::{config, own, rollup};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::uuid::from_pg;
use crate::pg::{barrier, stamp};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::error::Result as Checked;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{Amount, Dimensions, Error, Timestamp, model_name};
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
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    let names = || -> Checked<Vec<String>> {
        let names =
            both(trigger).map(|row| Ok(column::<String>(&row, "name")?.unwrap_or_default()));
        names.collect()
    };
    names().and_then(|names| rule_change::begin(&names)).unwrap_or_else(|error| raise(error));
    Ok(None)
}

#[pg_trigger(sql = false)]
fn ai_limits_reshape<'a>(
    _trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    change(|_| Ok(Change::Shape)).unwrap_or_else(|error| raise(error));
    Ok(None)
}

/// Old and new row, as far as the event has them.
fn both<'a>(trigger: &'a pgrx::PgTrigger<'a>) -> impl Iterator<Item = Row<'a>> {
    trigger.old().into_iter().chain(trigger.new()).map(PgHeapTuple::into_owned)
}

/// Remembers a change for the commit, where counters are in shared memory.
fn change(what: impl FnOnce(&'static memory::Shared) -> Checked<Change>) -> Checked<()> {
    if let Some((installation, shared)) = memory::current()?.zip(memory::shared_memory()) {
        transaction::changed(installation, what(shared)?);
    }
    Ok(())
}

/// Whether a run gets or loses its cap: not where the cap only becomes another amount.
fn changes_run(trigger: &pgrx::PgTrigger) -> Checked<bool> {
    let of = |row: Option<PgHeapTuple<'_, AllocatedByPostgres>>| -> Checked<_> {
        let row = row.map(PgHeapTuple::into_owned);
        row.map(|row| Ok((id_of(&row, "tenant_id")?, column::<String>(&row, "run_id")?)))
            .transpose()
    };
    Ok(of(trigger.old())? != of(trigger.new())?)
}

fn id_of(row: &Row, name: &str) -> Checked<uuid::Uuid> {
    Ok(column::<pgrx::Uuid>(row, name)?.map(from_pg).unwrap_or_default())
}

/// Its argument says what the table is.
#[pg_trigger(sql = false)]
fn ai_config_touch<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    let what = trigger.extra_args().ok().and_then(|args| args.into_iter().next());
    touch(trigger, what.as_deref().unwrap_or_default()).unwrap_or_else(|error| raise(error));
    Ok(None)
}

fn touch(trigger: &pgrx::PgTrigger, what: &str) -> Checked<()> {
    let config = match what {
        "rules" => Config::Rules,
        "prices" => Config::Prices,
        "suspensions" => Config::Suspensions,
        "account" => {
            if changes_zone(trigger)? {
                change(|_| Ok(Change::Shape))?;
            }
            return both(trigger).try_for_each(|row| {
                let (tenant, user) = account_of(&row)?;
                let user = user.unwrap_or_default();
                change(|shared| Ok(Change::Generation(account_slot(shared, tenant, user))))
            });
        }
        "run" => {
            if !own::is_writing() && changes_run(trigger)? {
                memory::begin_bulk()?;
            }
            return both(trigger).try_for_each(|row| {
                let tenant = id_of(&row, "tenant_id")?;
                let run = column::<String>(&row, "run_id")?.unwrap_or_default();
                change(|shared| Ok(Change::Generation(run_slot(shared, tenant, &run))))
            });
        }
        _ => Config::Tiers,
    };
    change(|_| Ok(Change::Config(config)))
}

#[pg_trigger(sql = false)]
fn ai_zone_change<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    change_zone(trigger).unwrap_or_else(|error| raise(error));
    Ok(None)
}

fn change_zone(trigger: &pgrx::PgTrigger) -> Checked<()> {
    if memory::current()?.is_none() {
        return Ok(()); // the table path's locks do not name windows
    }
    if !changes_zone(trigger)? {
        return Ok(());
    }
    barrier::exclude_writers("change time zones")?;
    for row in both(trigger) {
        let (tenant, user) = account_of(&row)?;
        change(|shared| {
            Ok(match user {
                Some(user) => Change::Account(memory::account_label(shared, tenant, user)),
                None => Change::All,
            })
        })?;
    }
    Ok(())
}

/// Tenant and user of a row of `ai_accounts`; of `ai_tenants`, no user.
fn account_of(row: &Row) -> Checked<(uuid::Uuid, Option<uuid::Uuid>)> {
    let user = row.get_attribute_by_name("user_id").map(|_| id_of(row, "user_id"));
    Ok((id_of(row, "tenant_id")?, user.transpose()?))
}

/// Whether the windows of somebody's counters are others after this edit of a tenant or an account.
fn changes_zone(trigger: &pgrx::PgTrigger) -> Checked<bool> {
    let of = |row: Option<PgHeapTuple<'_, AllocatedByPostgres>>| -> Checked<_> {
        let row = row.map(PgHeapTuple::into_owned);
        row.map(|row| Ok((account_of(&row)?, column::<String>(&row, "timezone")?))).transpose()
    };
    let (old, new) = (of(trigger.old())?, of(trigger.new())?);
    if let (Some(old), Some(new)) = (&old, &new) {
        return Ok(old != new);
    }
    let Some(((tenant, user), zone)) = old.or(new) else { return Ok(false) };
    // A tenant that is in the zone which counts where there is no row.
    if user.is_none() && !tenant.is_nil() {
        return Ok(zone != Some(as_owner(config::default_timezone)?));
    }
    Ok(zone.is_some())
}

/// A statement that writes holds, and is not the extension's own.
#[pg_trigger(sql = false)]
fn ai_reservations_write<'a>(
    _trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    if !own::is_writing() {
        memory::begin_bulk().unwrap_or_else(|error| raise(error));
    }
    Ok(None)
}

/// Tells the rollup and the counters of a row of the ledger.
#[pg_trigger(sql = false)]
fn ai_usage_count<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<Row<'a>>, std::convert::Infallible> {
    add_late(trigger).and_then(|()| count_usage(trigger)).unwrap_or_else(|error| raise(error));
    Ok(None)
}

fn count_usage(trigger: &pgrx::PgTrigger) -> Checked<()> {
    if transaction::is_bulk() || memory::current()?.is_none() {
        return Ok(());
    }
    // A dump's script sets it off: what is restored is loaded, not told.
    // SAFETY: a setting of this backend.
    if !unsafe { pg_sys::row_security } {
        return memory::begin_bulk();
    }
    let Some(row) = trigger.new().map(PgHeapTuple::into_owned) else { return Ok(()) };
    let attributes = attributes(trigger)?;
    let call = Dimensions {
        tenant_id: id_of(&row, "tenant_id")?,
        user_id: column::<pgrx::Uuid>(&row, "user_id")?.map(from_pg),
        tier: column(&row, "tier")?.unwrap_or_default(),
        provider: column(&row, "provider")?,
        model: column(&row, "model")?,
        feature: column(&row, "feature")?,
        api_key_id: column(&row, "api_key_id")?,
        run_id: column(&row, "run_id")?,
        attributes: call::attributes(attributes.as_ref())?,
    };
    let cost: Option<pgrx::AnyNumeric> = column(&row, "cost_usd")?;
    let size = Size {
        requests: column(&row, "requests")?.unwrap_or(0),
        input_tokens: column(&row, "input_tokens")?,
        output_tokens: column(&row, "output_tokens")?,
        cost_usd: cost.map(|c| Amount::parse(c.normalize(), "cost_usd")).transpose()?,
    };
    let created_at = required(instant(&row, "created_at")?, "created_at")?;
    adjust::usage(&call, created_at, &size)
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
        stamp_row(&mut row, partition)?;
        Ok(row)
    };
    Ok(row.map(|row| complete(row).unwrap_or_else(|error: Error| raise(error))))
}

/// A row that brought a `recorded_at` from before the watermark goes into the rollup too.
fn add_late(trigger: &pgrx::PgTrigger) -> Checked<()> {
    let Some(row) = trigger.new().map(PgHeapTuple::into_owned) else { return Ok(()) };
    let partition = partition(trigger);
    let recorded_at = required(instant(&row, "recorded_at")?, "recorded_at")?;
    if rollup::late::is_late(recorded_at, partition) {
        let id = required(column::<pgrx::Uuid>(&row, "id")?.map(from_pg), "id")?;
        rollup::late::add(id, recorded_at, partition)?;
    }
    Ok(())
}

/// Says when the row is booked, where it does not say so itself: with an id of the transaction first,
/// as the rollup's watermark needs it.
fn stamp_row(row: &mut Row, partition: pg_sys::Oid) -> Checked<()> {
    crate::pg::transaction::assign_id();
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
    if required(instant(&row, "created_at")?, "created_at")? > stamp::now() {
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

fn check_attributes(trigger: &pgrx::PgTrigger) -> Checked<()> {
    call::attributes(attributes(trigger)?.as_ref()).map(|_| ())
}

/// The row's attributes, read from the tuple itself: see [`json`](crate::pg::json).
fn attributes(trigger: &pgrx::PgTrigger) -> Checked<Option<serde_json::Value>> {
    let data = trigger.trigger_data();
    let mut is_null = false;
    // SAFETY: the new row of an insert and its relation's descriptor, as Postgres passed them; the
    // column is a jsonb.
    unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let column = pg_sys::SPI_fnumber(descriptor, c"attributes".as_ptr());
        let tuple = data.tg_trigtuple;
        let datum = pg_sys::SPI_getbinval(tuple, descriptor, column, &raw mut is_null);
        if is_null {
            return Ok(None);
        }
        crate::pg::json::from_jsonb(datum, "attributes").map(Some)
    }
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
