//! What the triggers in `sql/*_triggers.sql` call.

use super::{Answered, answered};
use crate::admission::cache::{account_slot, run_slot};
use crate::admission::rule_change;
use crate::counters::memory::transaction::{self, Change};
use crate::counters::memory::{self, Config};
use crate::error::raise;
use crate::ledger::{config, own};
use crate::pg::barrier;
use crate::pg::owner::as_owner;
use crate::pg::uuid::from_pg;
use ai_limiter_domain::Error;
use ai_limiter_domain::error::Result as Checked;
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

type Row<'a> = PgHeapTuple<'a, pgrx::AllocatedByRust>;

fn column<'r, T>(row: &'r Row, name: &str) -> Checked<Option<T>>
where
    T: FromDatum + IntoDatum + pgrx::datum::UnboxDatum<As<'r> = T> + 'r,
{
    row.get_by_name(name).map_err(|e| Error::invalid(format!("column {name}: {e}")))
}
