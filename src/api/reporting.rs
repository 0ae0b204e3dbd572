//! `get_…`, `explain_…`, `estimate_…`: what SQL reads.

use super::arguments::Arguments;
use super::{Answered, answered};
use crate::admission::caller::{Caller, not_permitted};
use crate::admission::standing;
use crate::columns;
use crate::ledger::config;
use crate::ledger::costs::{self, Costs, Grouping, Scope};
use crate::pg::clock::{self, PgZone};
use crate::pg::numeric::{Numeric, from_amount};
use crate::pg::owner::as_owner;
use crate::pg::row::Rows;
use crate::pg::spi::Snapshot;
use crate::pg::uuid::from_pg;
use ai_limiter_domain::call::required;
use ai_limiter_domain::window::{Unit, calendar_window, day_window};
use ai_limiter_domain::{
    Action, Amount, Dimensions, Error, Filter, Limit, Metric, Period, Timestamp, Window,
    error::Result,
};
use pgrx::prelude::*;
use pgrx::{AnyNumeric, JsonB};

pub fn timestamptz(at: Option<Timestamp>) -> Option<TimestampWithTimeZone> {
    at.and_then(|t| TimestampWithTimeZone::try_from(t.0).ok())
}

/// A number that is shown only to who may see it.
pub fn shown(visible: bool, amount: Amount) -> Option<Numeric> {
    visible.then(|| from_amount(amount))
}

#[pg_extern(sql = false)]
fn get_ai_limits(user_id: Option<pgrx::Uuid>, tenant_id: Option<pgrx::Uuid>) -> Answered<Rows> {
    answered(|| {
        let caller = Caller::current()?;
        let (tenant_id, user_id) = caller.account(tenant_id.map(from_pg), user_id.map(from_pg))?;
        let mut account = Dimensions { tenant_id, user_id, ..Dimensions::default() };
        let rows = standing::standings(&caller.view()?, &mut account)?
            .into_iter()
            .map(|s| {
                let remaining =
                    s.limit.amount.checked_sub(s.reading.used)?.checked_sub(s.reading.held)?;
                Ok(columns![
                    if s.visible { s.limit.name } else { "platform".to_owned() },
                    s.limit.metric.name(),
                    s.limit.period_name,
                    shown(s.visible, s.reading.used),
                    shown(s.visible, s.reading.held),
                    shown(s.visible, s.limit.amount),
                    shown(s.visible, remaining),
                    timestamptz(s.reading.resets_at),
                    s.limit.action.name(),
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Rows(rows))
    })
}

#[pg_extern(sql = false)]
fn explain_ai_limit(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Rows> {
    answered(|| {
        // SAFETY: declared with the arguments of a call.
        let args = unsafe { Arguments::new(fcinfo) };
        let caller = Caller::current()?;
        let (mut call, tenant, user) = args.call(1)?;
        (call.dimensions.tenant_id, call.dimensions.user_id) = caller.account(tenant, user)?;
        let rows = standing::explain(&caller, &mut call)?.into_iter().map(|e| {
            columns![
                e.limit_id,
                e.limit_name,
                e.applies,
                e.explanation,
                e.replaced_by,
                e.counter,
                e.timezone,
                timestamptz(e.window.start),
                timestamptz(e.window.end),
                e.price_source,
            ]
        });
        Ok(Rows(rows.collect()))
    })
}

#[pg_extern(sql = false)]
fn get_user_daily_ai_usage(
    user_id: Option<pgrx::Uuid>,
    day: Option<pgrx::datum::Date>,
) -> Answered<Rows> {
    answered(|| {
        let caller = Caller::current()?;
        let (tenant, user) = caller.account(None, user_id.map(from_pg))?;
        // A server without a tenant asks for the user wherever they are.
        let everywhere = caller.is_server && caller.claimed_tenant.is_none();
        let scope = match user {
            None => Scope::Nobody,
            Some(user) if everywhere => Scope::User(None, user),
            Some(user) => Scope::User(Some(tenant), user),
        };
        let zone = as_owner(|spi| {
            let snapshot = Snapshot::latest();
            let home = match (everywhere, user) {
                (true, Some(user)) => config::home_tenant(spi, &snapshot, user)?.unwrap_or(tenant),
                _ => tenant,
            };
            Ok(config::account(spi, &snapshot, home, user)?.account_timezone)
        })?;
        let window = match day {
            None => calendar_window(Unit::Day, clock::now(), &PgZone(zone)),
            Some(day) => day_window(civil(day)?, &PgZone(zone)),
        };
        let rows = costs::by_model(scope, window)?.into_iter().map(|c| {
            let model = c.dimensions["model"].as_str().map(str::to_owned);
            columns![model, c.requests, c.input_tokens, c.output_tokens, from_amount(c.cost_usd)]
        });
        Ok(Rows(rows.collect()))
    })
}

fn civil(day: pgrx::datum::Date) -> Result<jiff::civil::Date> {
    let out_of_range = || Error::out_of_range("day is out of range");
    if day.is_infinity() || day.is_neg_infinity() || !(1700..9000).contains(&day.year()) {
        return Err(out_of_range());
    }
    jiff::civil::Date::new(day.year() as i16, day.month() as i8, day.day() as i8)
        .map_err(|_| out_of_range())
}

#[pg_extern(sql = false)]
fn get_ai_cost_alerts() -> Answered<Rows> {
    answered(|| {
        let rows = standing::alerts(&Caller::current()?.view()?)?.into_iter().map(|alert| {
            let limit = alert.limit;
            let unit = if limit.metric == Metric::CostUsd { "USD" } else { limit.metric.name() };
            let whose = match alert.subject.as_str() {
                "" => String::new(),
                subject => format!(" ({subject})"),
            };
            let message = format!(
                "{}{whose}: {} of {} {unit} used {}",
                limit.name,
                alert.used,
                limit.amount,
                match limit.period {
                    Period::Total => "in all".to_owned(),
                    Period::Rolling(interval) => format!("in the last {interval}"),
                    Period::Calendar(unit) => format!("in the running {unit}"),
                }
            );
            let ratio = AnyNumeric::try_from(format!("{:.4}", alert.ratio).as_str()).ok();
            columns![
                alert.severity,
                alert.scope,
                alert.subject,
                limit.name,
                from_amount(alert.used),
                from_amount(limit.amount),
                ratio.filter(|_| alert.ratio.is_finite()),
                limit.period_name,
                timestamptz(alert.resets_at),
                message,
            ]
        });
        Ok(Rows(rows.collect()))
    })
}

#[pg_extern(sql = false)]
fn get_global_ai_cost(period: Option<&str>) -> Answered<Rows> {
    answered(|| {
        if !Caller::current()?.sees_platform()? {
            return Err(not_permitted("permission denied for the platform's cost"));
        }
        let unit = match required(period, "period")? {
            "day" => Unit::Day,
            "month" => Unit::Month,
            other => {
                return Err(Error::invalid(format!(
                    "period \"{other}\" is not one that can be asked"
                ))
                .hint("Use day or month."));
            }
        };
        let (zone, limits) = as_owner(|spi| {
            let snapshot = Snapshot::latest();
            let account = config::account(spi, &snapshot, uuid::Uuid::nil(), None)?;
            Ok((account.default_timezone, config::limits(spi, &snapshot)?))
        })?;
        let now = clock::now();
        let window = calendar_window(unit, now, &PgZone(zone));
        let settled = costs::by(Scope::Everyone, window, &[], "UTC", None)?;
        let settled = settled.first().map_or(Amount::ZERO, |c| c.cost_usd);
        let is_cap = |l: &&Limit| {
            l.metric == Metric::CostUsd
                && l.action == Action::Deny
                && l.per.is_empty()
                && l.filter == Filter::default()
                && l.period == Period::Calendar(unit)
        };
        let cap = limits.iter().filter(is_cap).map(|l| l.amount).min();
        let row = columns![
            from_amount(settled),
            from_amount(costs::held(window, now)?),
            cap.map(from_amount)
        ];
        Ok(Rows(vec![row]))
    })
}

#[pg_extern(sql = false)]
fn get_ai_cost(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    group_by: Option<Vec<Option<String>>>,
    timezone: Option<String>,
    as_of: Option<TimestampWithTimeZone>,
) -> Answered<Rows> {
    answered(|| {
        let caller = Caller::current()?;
        let groupings = group_by
            .unwrap_or_default()
            .iter()
            .map(|name| Grouping::parse(required(name.as_deref(), "an element of group_by")?))
            .collect::<Result<Vec<_>>>()?;
        if groupings.len() > MAX_GROUPINGS {
            return Err(Error::invalid("group_by has too many dimensions")
                .detail(format!("At most {MAX_GROUPINGS} are kept apart.")));
        }
        let scope = cost_scope(&caller, &groupings)?;
        let account =
            as_owner(|spi| config::account(spi, &Snapshot::latest(), caller.tenant_id(), None))?;
        let timezone = timezone.unwrap_or(account.tenant_timezone);
        let month = calendar_window(Unit::Month, clock::now(), &PgZone(timezone.clone()));
        let instant = |t: Option<TimestampWithTimeZone>| t.map(|t| Timestamp(i64::from(t)));
        let window = Window { start: instant(from).or(month.start), end: instant(to) };
        let rows: Vec<Costs> = costs::by(scope, window, &groupings, &timezone, instant(as_of))?;
        let rows = rows.into_iter().map(|c| {
            let cost = from_amount(c.cost_usd);
            columns![JsonB(c.dimensions), c.requests, c.input_tokens, c.output_tokens, cost]
        });
        Ok(Rows(rows.collect()))
    })
}

/// Most dimensions of one report.
const MAX_GROUPINGS: usize = 16;

/// Everything, the tenant, or the caller's own rows.
fn cost_scope(caller: &Caller, groupings: &[Grouping]) -> Result<Scope> {
    if caller.sees_platform()? {
        return Ok(Scope::Everyone);
    }
    let role = caller.role()?;
    if role.sees_tenant_totals() {
        if !role.sees_people() && groupings.iter().any(|g| g.personal) {
            return Err(not_permitted("permission denied for cost by person"));
        }
        return Ok(Scope::Tenant(caller.tenant_id()));
    }
    Ok(match caller.user_id {
        Some(user) => Scope::User(Some(caller.tenant_id()), user),
        None => Scope::Nobody,
    })
}
