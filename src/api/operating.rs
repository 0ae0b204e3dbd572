//! Suspending, verifying, keeping house.

use super::reporting::timestamptz;
use super::{Answered, answered};
use crate::admission::caller::{Caller, not_permitted};
use crate::admission::{housekeeping, standing};
use crate::columns;
use crate::ledger::{partitions, rollup};
use crate::pg::clock;
use crate::pg::numeric::from_amount;
use crate::pg::row::Rows;
use crate::pg::uuid::to_pg;
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::{Error, error::Result, model_name};
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn suspension_subject(scope: Option<&str>, subject: Option<&str>) -> Answered<String> {
    answered(|| {
        let scope = required(scope, "scope")?;
        let subject = subject.map(str::trim).filter(|s| !s.is_empty());
        match (scope, subject) {
            ("all", None) => Ok(String::new()),
            ("all", Some(_)) => Err(Error::invalid("scope \"all\" has no subject")),
            ("tenant" | "user", Some(id)) => uuid::Uuid::parse_str(id)
                .map(|id| id.to_string())
                .map_err(|_| Error::invalid(format!("the subject of scope \"{scope}\" is a uuid"))),
            ("model", Some(name)) => Ok(model_name::canonicalize(name).model),
            ("api_key_id", Some(name)) => {
                Ok(call::api_key_id(Some(name.to_owned()))?.unwrap_or_default())
            }
            ("feature" | "run", Some(name)) => {
                Ok(call::text(Some(name.to_owned()), "subject")?.unwrap_or_default())
            }
            ("tenant" | "user" | "model" | "feature" | "api_key_id" | "run", None) => {
                Err(Error::invalid(format!("scope \"{scope}\" needs a subject")))
            }
            _ => Err(Error::invalid(format!("scope \"{scope}\" does not exist"))
                .hint("Use one of all, tenant, user, model, feature, api_key_id, run.")),
        }
    })
}

#[pg_extern(sql = false)]
fn verify_ai_counters() -> Answered<Rows> {
    answered(|| {
        servers_only("verify counters")?;
        let rows = standing::verify()?.into_iter().map(|v| {
            columns![
                v.limit_name,
                v.limit_id,
                v.subject,
                timestamptz(v.window.start),
                from_amount(v.read.used),
                from_amount(v.read.held),
                from_amount(v.raw_used),
                from_amount(v.raw_held),
                from_amount(v.drift),
            ]
        });
        Ok(Rows(rows.collect()))
    })
}

#[pg_extern(sql = false)]
fn refresh_ai_counters() -> Answered<()> {
    answered(|| {
        servers_only("refresh counters")?;
        housekeeping::refresh()
    })
}

#[pg_extern(sql = false)]
fn advance_ai_rollup(reset: Option<bool>) -> Answered<bool> {
    answered(|| {
        servers_only("advance the rollup")?;
        if reset == Some(true) {
            rollup::reset()?;
        }
        Ok(rollup::advance()?.more)
    })
}

#[pg_extern(sql = false)]
fn ensure_ai_partitions() -> Answered<i32> {
    answered(|| {
        servers_only("make partitions")?;
        partitions::ensure_ahead(clock::now())
    })
}

/// A second look beside EXECUTE: these run as the owner.
pub(super) fn servers_only(what: &str) -> Result<()> {
    if Caller::current()?.is_server {
        return Ok(());
    }
    Err(not_permitted(&format!("permission denied to {what}")))
}

#[pg_extern(sql = false)]
fn ai_counters() -> Answered<Rows> {
    answered(|| {
        let rows = standing::counters(&Caller::current()?.view()?)?
            .into_iter()
            .map(|s| {
                let (tenant, user) = s.limit.account_of(&s.call);
                let headroom = s.limit.amount.checked_sub(s.used)?.checked_sub(s.held)?;
                Ok(columns![
                    s.limit.name,
                    s.limit.id,
                    s.subject,
                    tenant.map(to_pg),
                    user.map(to_pg),
                    s.limit.metric.name(),
                    s.limit.period_name,
                    s.limit.action.name(),
                    from_amount(s.used),
                    from_amount(s.held),
                    from_amount(s.limit.amount),
                    from_amount(headroom),
                    timestamptz(s.window.start),
                    timestamptz(s.resets_at),
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Rows(rows))
    })
}
