//! Configuration, as the tables have it under the snapshot that is given. Nothing is kept here: the
//! table path reads it at each call, and what the memory path keeps of it is in `admission::cache`.

use super::own::writing;
use crate::pg::json;
use crate::pg::lock::{self, Class, Key};
use crate::pg::spi::{Arg, Snapshot, Spi};
use crate::settings;
use ai_limiter_domain::call::required;
use ai_limiter_domain::limit_document::LimitDocument;
use ai_limiter_domain::price::Price;
use ai_limiter_domain::{
    Amount, Call, Dimensions, Error, Limit, Timestamp, Window, error::Result, model_name,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::rc::Rc;
use uuid::Uuid;

/// What the tables say of an account, with or without rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AccountRow {
    tier: Option<String>,
    role: Option<String>,
    suspended: bool,
    timezone: Option<String>,
    tenant_timezone: Option<String>,
    default_timezone: Option<String>,
}

/// What a tier allows; `None` for everything.
#[derive(Debug)]
pub struct Tier {
    pub allowed_models: Option<Vec<String>>,
    pub allowed_features: Option<Vec<String>>,
}

/// An account, with the defaults where it has no rows.
#[derive(Debug)]
pub struct Account {
    pub tier: String,
    /// `None` when `ai_limiter.default_tier` names none, or a restore has not got to it yet.
    pub allowed: Option<Rc<Tier>>,
    pub role: Option<String>,
    pub suspended: bool,
    pub account_timezone: String,
    pub tenant_timezone: String,
    pub default_timezone: String,
}

impl Account {
    /// `tier` finds what the one that it is in allows.
    pub fn of<E>(
        row: AccountRow,
        tier: impl FnOnce(&str) -> std::result::Result<Option<Rc<Tier>>, E>,
    ) -> std::result::Result<Self, E> {
        let name = row.tier.unwrap_or_else(|| settings::text(&settings::DEFAULT_TIER));
        let default_timezone = row.default_timezone.unwrap_or_else(|| "UTC".to_owned());
        let tenant_timezone = row.tenant_timezone.unwrap_or_else(|| default_timezone.clone());
        Ok(Account {
            allowed: tier(&name)?,
            tier: name,
            role: row.role,
            suspended: row.suspended,
            account_timezone: row.timezone.unwrap_or_else(|| tenant_timezone.clone()),
            tenant_timezone,
            default_timezone,
        })
    }
}

#[derive(Debug, Clone)]
pub struct Suspension {
    pub scope: String,
    pub reason: Option<String>,
    /// `None` is for good.
    pub until: Option<Timestamp>,
}

fn decode<T: DeserializeOwned>(document: Value) -> Result<T> {
    serde_json::from_value(document)
        .map_err(|e| Error::invalid("configuration could not be read").detail(format!("{e}.")))
}

fn one(spi: &Spi, snapshot: &Snapshot, sql: &'static str, args: &[Arg]) -> Result<Option<Value>> {
    let rows = spi.read_at(snapshot, sql, args, |row| Ok(row.json(1)))?;
    Ok(rows.into_iter().next().flatten())
}

/// Tier, role, zones and permissions of an account, with or without rows.
pub fn account(
    spi: &Spi,
    snapshot: &Snapshot,
    tenant: Uuid,
    user: Option<Uuid>,
) -> Result<Account> {
    let row = account_row(spi, snapshot, tenant, user)?;
    Account::of(row, |name| Ok(tier(spi, snapshot, name)?.map(Rc::new)))
}

/// The rows of an account, of its tenant and of the default.
pub fn account_row(
    spi: &Spi,
    snapshot: &Snapshot,
    tenant: Uuid,
    user: Option<Uuid>,
) -> Result<AccountRow> {
    const SQL: &str = "SELECT a.tier, a.role, coalesce(a.suspended, false), a.timezone, t.timezone, \
            z.timezone \
        FROM (VALUES (1)) one \
        LEFT JOIN ai_limiter.ai_accounts a ON a.tenant_id = $1 AND a.user_id = $2 \
        LEFT JOIN ai_limiter.ai_tenants t ON t.tenant_id = $1 \
        LEFT JOIN ai_limiter.ai_tenants z ON z.tenant_id = '00000000-0000-0000-0000-000000000000'";
    let rows = spi.read_by_key(snapshot, SQL, &[tenant.into(), Arg::Uuid(user)], |row| {
        Ok(AccountRow {
            tier: row.text(1),
            role: row.text(2),
            suspended: row.boolean(3).unwrap_or(false),
            timezone: row.text(4),
            tenant_timezone: row.text(5),
            default_timezone: row.text(6),
        })
    })?;
    required(rows.into_iter().next(), "account")
}

/// What a tier allows; `None` when there is none of that name.
pub fn tier(spi: &Spi, snapshot: &Snapshot, name: &str) -> Result<Option<Tier>> {
    const SQL: &str = "SELECT pg_catalog.to_jsonb(d.allowed_models), \
            pg_catalog.to_jsonb(d.allowed_features) \
        FROM ai_limiter.ai_tiers d WHERE d.tier = $1";
    let rows = spi.read_at(snapshot, SQL, &[name.into()], |row| {
        let patterns = |column| row.json(column).map(decode).transpose();
        Ok(Tier { allowed_models: patterns(1)?, allowed_features: patterns(2)? })
    })?;
    Ok(rows.into_iter().next())
}

/// The zone of everything that is of no tenant and no user.
pub fn default_timezone(spi: &Spi) -> Result<String> {
    const SQL: &str = "SELECT timezone FROM ai_limiter.ai_tenants \
        WHERE tenant_id = '00000000-0000-0000-0000-000000000000'";
    let zone = spi.read(SQL, &[], |row| Ok(row.text(1)))?.into_iter().next().flatten();
    Ok(zone.unwrap_or_else(|| "UTC".to_owned()))
}

/// A row `l` of `ai_limits` as a [`LimitDocument`].
macro_rules! limit_document {
    () => {
        "jsonb_build_object('id', l.id, 'name', l.name, 'tier', l.tier, 'tenant_id', l.tenant_id, \
            'user_id', l.user_id, 'provider', l.provider, 'model', l.model, 'feature', l.feature, \
            'api_key_id', l.api_key_id, 'attributes', l.attributes, 'per', l.per, \
            'metric', l.metric, 'period', l.period, 'rolling', l.rolling IS NOT NULL, \
            'rolling_microseconds', CASE WHEN extract(year FROM l.rolling) = 0 \
                AND extract(month FROM l.rolling) = 0 \
                THEN (extract(epoch FROM l.rolling) * 1000000)::bigint END, \
            'amount', l.amount::text, 'action', l.action, 'alert_at', l.alert_at::text[], \
            'enabled', l.enabled, 'managed_by', l.managed_by)"
    };
}

/// Every enabled rule.
pub fn limits(spi: &Spi, snapshot: &Snapshot) -> Result<Vec<Limit>> {
    const SQL: &str = concat!(
        "SELECT ",
        limit_document!(),
        " FROM ai_limiter.ai_limits l WHERE l.enabled ORDER BY l.id"
    );
    spi.read_at(snapshot, SQL, &[], |row| limit(row.json(1)))
}

/// The enabled rules that matter to an account's calls: its own and everybody's, and those of others
/// that take precedence over a rule whose counter it shares with them.
pub fn limits_of(
    spi: &Spi,
    snapshot: &Snapshot,
    tenant: Uuid,
    user: Option<Uuid>,
) -> Result<Vec<Limit>> {
    const SQL: &str = concat!(
        "WITH shared AS (SELECT g.name, \
                bool_or(g.user_id IS NULL AND NOT 'user' = ANY (g.per)) AS by_users, \
                bool_or(g.tenant_id IS NULL AND NOT g.per && '{tenant,user,run}') AS by_tenants \
            FROM ai_limiter.ai_limits g WHERE g.enabled AND g.managed_by = 'platform' GROUP BY g.name) \
        SELECT ",
        limit_document!(),
        " FROM ai_limiter.ai_limits l LEFT JOIN shared s ON s.name = l.name WHERE l.enabled \
            AND (l.user_id IS NULL OR l.user_id = $2 OR s.by_users) \
            AND (l.tenant_id IS NULL OR l.tenant_id = $1 OR s.by_tenants) ORDER BY l.id"
    );
    spi.read_at(snapshot, SQL, &[tenant.into(), Arg::Uuid(user)], |row| limit(row.json(1)))
}

/// The rule that a row of `ai_limits`, as the text of its JSON, is about to be.
pub fn proposed_limit(spi: &Spi, row: &str) -> Result<Limit> {
    const SQL: &str = concat!(
        "SELECT ",
        limit_document!(),
        "::text FROM jsonb_populate_record(NULL::ai_limiter.ai_limits, $1::jsonb) l"
    );
    let rows = spi.read(SQL, &[row.into()], |row| Ok(row.text(1)))?;
    let document = required(rows.into_iter().next().flatten(), "limit")?;
    Limit::try_from(json::parse::<LimitDocument>(&document, "limit")?)
}

fn limit(document: Option<Value>) -> Result<Limit> {
    Limit::try_from(decode::<LimitDocument>(required(document, "limit")?)?)
}

/// The suspension that blocks such a call longest, if any does.
pub fn suspension(spi: &Spi, snapshot: &Snapshot, call: &Dimensions) -> Result<Option<Suspension>> {
    // A uuid's text is compared as text, in lower case on both sides.
    const SQL: &str = "SELECT s.scope, s.reason, nullif(s.suspended_until, 'infinity') \
        FROM ai_limiter.ai_suspensions s \
        WHERE (s.scope, s.subject) IN (('all', ''), ('tenant', $1), ('user', $2), ('model', $3), \
            ('feature', $4), ('api_key_id', $5), ('run', $6)) \
          AND (s.suspended_until IS NULL OR s.suspended_until > clock_timestamp()) \
        ORDER BY s.suspended_until DESC NULLS FIRST LIMIT 1";
    let args = [
        call.tenant_id.to_string().as_str().into(),
        call.user_id.map(|id| id.to_string()).as_deref().into(),
        call.model.as_deref().into(),
        call.feature.as_deref().into(),
        call.api_key_id.as_deref().into(),
        call.run_id.as_deref().map(|run| run_subject(call.tenant_id, run)).as_deref().into(),
    ];
    let rows = spi.read_at(snapshot, SQL, &args, |row| {
        let scope = required(row.text(1), "scope")?;
        Ok(Suspension { scope, reason: row.text(2), until: row.timestamp(3) })
    })?;
    Ok(rows.into_iter().next())
}

/// Every suspension, by scope and subject.
pub type Suspensions = HashMap<String, HashMap<String, Suspension>>;

pub fn suspensions(spi: &Spi, snapshot: &Snapshot) -> Result<Suspensions> {
    const SQL: &str = "SELECT s.scope, s.subject, s.reason, nullif(s.suspended_until, 'infinity') \
        FROM ai_limiter.ai_suspensions s \
        WHERE s.suspended_until IS NULL OR s.suspended_until > clock_timestamp()";
    let rows = spi.read_at(snapshot, SQL, &[], |row| {
        let scope = required(row.text(1), "scope")?;
        let suspension =
            Suspension { scope: scope.clone(), reason: row.text(3), until: row.timestamp(4) };
        Ok((scope, row.text(2).unwrap_or_default(), suspension))
    })?;
    let mut all = Suspensions::new();
    for (scope, subject, suspension) in rows {
        all.entry(scope).or_default().insert(subject, suspension);
    }
    Ok(all)
}

/// Of these suspensions, what [`suspension`] says of such a call.
pub fn longest_suspension(
    all: &Suspensions,
    call: &Dimensions,
    now: Timestamp,
) -> Option<Suspension> {
    let subjects = [
        ("all", Some(String::new())),
        ("tenant", Some(call.tenant_id.to_string())),
        ("user", call.user_id.map(|id| id.to_string())),
        ("model", call.model.clone()),
        ("feature", call.feature.clone()),
        ("api_key_id", call.api_key_id.clone()),
        ("run", call.run_id.as_deref().map(|run| run_subject(call.tenant_id, run))),
    ];
    subjects
        .into_iter()
        .filter_map(|(scope, subject)| all.get(scope)?.get(&subject?))
        .filter(|suspension| suspension.until.is_none_or(|until| until > now))
        .max_by_key(|suspension| suspension.until.unwrap_or(Timestamp(i64::MAX)))
        .cloned()
}

/// The rows `p` that could price a call, whenever they are valid.
macro_rules! prices_of_call {
    () => {
        "FROM ai_limiter.ai_prices p, LATERAL (SELECT replace(replace(replace(replace(lower(p.model),
            chr(92), chr(92) || chr(92)), '%', chr(92) || '%'), '_', chr(92) || '_'), '*', '%') AS mask) m
        WHERE (p.tenant_id IS NULL OR p.tenant_id = $1)
          AND (p.provider IS NULL OR lower(p.provider) = $2)
          AND ($3 LIKE m.mask OR $4 LIKE m.mask OR $5 LIKE m.mask)"
    };
}

/// The price of the model that the call names: the tenant's own row goes first, then a name before
/// a pattern, then the name as given before the canonical one, then a row with a provider, then the
/// longest pattern. A backslash is written as chr(92): the caller's standard_conforming_strings decides
/// what it would mean in a literal.
pub fn price(spi: &Spi, snapshot: &Snapshot, call: &Call, at: Timestamp) -> Result<Option<Price>> {
    const SQL: &str = concat!(
        "SELECT jsonb_build_object('id', p.id,
            'input_usd_per_million_tokens', coalesce(p.input_usd_per_million_tokens, 0)::text,
            'output_usd_per_million_tokens', coalesce(p.output_usd_per_million_tokens, 0)::text,
            'usd_per_request', coalesce(p.usd_per_request, 0)::text,
            'max_output_tokens', p.max_output_tokens) ",
        prices_of_call!(),
        " AND p.valid_during @> $6
        ORDER BY p.tenant_id IS NULL, position('*' IN p.model) > 0, $3 LIKE m.mask DESC,
            $4 LIKE m.mask DESC, p.provider IS NULL, length(p.model) DESC, p.id
        LIMIT 1"
    );
    one(spi, snapshot, SQL, &price_args(call, at))?.map(decode).transpose()
}

/// Around `at`, between which instants no row that could price the call begins or ends.
pub fn price_stands(spi: &Spi, snapshot: &Snapshot, call: &Call, at: Timestamp) -> Result<Window> {
    const SQL: &str = concat!(
        "SELECT max(b.bound) FILTER (WHERE b.bound <= $6), min(b.bound) FILTER (WHERE b.bound > $6)
        FROM (SELECT p.valid_during ",
        prices_of_call!(),
        ") v, LATERAL (VALUES (lower(v.valid_during)), (upper(v.valid_during))) b (bound)
        WHERE isfinite(b.bound)"
    );
    let rows = spi.read_at(snapshot, SQL, &price_args(call, at), |row| {
        // A bound may lie on either side of its instant.
        let inside = |bound: Option<Timestamp>, by| bound.map(|at| Timestamp(at.0 + by));
        Ok(Window { start: inside(row.timestamp(1), 1), end: inside(row.timestamp(2), 0) })
    })?;
    Ok(rows.into_iter().next().unwrap_or(Window::ALL_TIME))
}

fn price_args(call: &Call, at: Timestamp) -> [Arg; 6] {
    let given = call.requested_model.as_deref().map(str::to_lowercase);
    let dated = given.as_deref().map(model_name::without_prefix);
    [
        call.dimensions.tenant_id.into(),
        call.dimensions.provider.as_deref().into(),
        given.as_deref().into(),
        dated.as_deref().into(),
        call.dimensions.model.as_deref().into(),
        at.into(),
    ]
}

/// The cap that a run was given, if any.
pub fn run_limit(
    spi: &Spi,
    snapshot: &Snapshot,
    tenant: Uuid,
    run: &str,
) -> Result<Option<Amount>> {
    const SQL: &str =
        "SELECT amount_usd FROM ai_limiter.ai_run_limits WHERE tenant_id = $1 AND run_id = $2";
    let rows = spi.read_by_key(snapshot, SQL, &[tenant.into(), run.into()], |row| row.amount(1))?;
    Ok(rows.into_iter().next().flatten())
}

/// Fixes a run's cap; the first one stays.
pub fn fix_run_limit(spi: &Spi, tenant: Uuid, run: &str, amount: Amount) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_run_limits (tenant_id, run_id, amount_usd) \
        VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let args = [tenant.into(), run.into(), Arg::Numeric(Some(amount))];
    writing(|| spi.write(SQL, &args, |_| Ok(())))?;
    Ok(())
}

/// The tenant of a user who has an account in one only.
pub fn home_tenant(spi: &Spi, snapshot: &Snapshot, user: Uuid) -> Result<Option<Uuid>> {
    const SQL: &str = "SELECT tenant_id FROM ai_limiter.ai_accounts WHERE user_id = $1 LIMIT 2";
    let tenants = spi.read_at(snapshot, SQL, &[user.into()], |row| Ok(row.uuid(1)))?;
    Ok(if let [tenant] = tenants[..] { tenant } else { None })
}

/// Another price row for the same model that is valid in a part of the same time.
pub fn overlapping_price(
    spi: &Spi,
    id: i64,
    tenant: Option<Uuid>,
    provider: Option<&str>,
    model: &str,
    valid_during: &str,
) -> Result<Option<i64>> {
    const SQL: &str = "SELECT p.id FROM ai_limiter.ai_prices p \
        WHERE p.id <> $1 AND p.tenant_id IS NOT DISTINCT FROM $2 \
          AND lower(p.provider) IS NOT DISTINCT FROM lower($3) AND lower(p.model) = lower($4) \
          AND p.valid_during && $5::tstzrange LIMIT 1";
    lock::acquire(&Key::new(Class::Prices, &model.to_lowercase()));
    let args =
        [Arg::Int(Some(id)), Arg::Uuid(tenant), provider.into(), model.into(), valid_during.into()];
    Ok(spi.read(SQL, &args, |row| Ok(row.int(1)))?.into_iter().next().flatten())
}

/// A run as [`suspension`] knows it: within its tenant.
fn run_subject(tenant: Uuid, run: &str) -> String {
    if tenant.is_nil() { run.to_owned() } else { format!("{tenant}/{run}") }
}
