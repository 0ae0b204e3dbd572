//! Configuration, read afresh at each call under the latest snapshot: nothing is cached, so that no
//! call can meet a rule, a tier or a zone that is no longer committed.

use crate::pg::spi::{Arg, Snapshot, Spi};
use crate::settings;
use ai_limiter_domain::call::required;
use ai_limiter_domain::limit::LimitDocument;
use ai_limiter_domain::price::Price;
use ai_limiter_domain::{Amount, Call, Dimensions, Error, Limit, Timestamp, error::Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

/// An account as its tables have it, or as the defaults do.
#[derive(Debug, Clone, Deserialize)]
pub struct Account {
    pub tier: String,
    pub role: Option<String>,
    pub suspended: bool,
    pub account_timezone: String,
    pub tenant_timezone: String,
    pub default_timezone: String,
    pub allowed_models: Option<Vec<String>>,
    pub allowed_features: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Suspension {
    pub scope: String,
    pub reason: Option<String>,
    pub until_microseconds: Option<i64>,
}

fn decode<T: DeserializeOwned>(document: Value) -> Result<T> {
    serde_json::from_value(document)
        .map_err(|e| Error::invalid("configuration could not be read").detail(format!("{e}.")))
}

fn one(spi: &Spi, snapshot: &Snapshot, sql: &'static str, args: &[Arg]) -> Result<Option<Value>> {
    let rows = spi.read_at(snapshot, sql, args, |row| Ok(row.json(1)))?;
    Ok(rows.into_iter().next().flatten())
}

pub fn account(
    spi: &Spi,
    snapshot: &Snapshot,
    tenant: Uuid,
    user: Option<Uuid>,
) -> Result<Account> {
    const SQL: &str = "SELECT ai_limiter.account_document($1, $2, $3)";
    let default_tier = settings::text(&settings::DEFAULT_TIER);
    let args = [tenant.into(), Arg::Uuid(user), default_tier.as_str().into()];
    decode(required(one(spi, snapshot, SQL, &args)?, "account")?)
}

/// Every enabled rule.
pub fn limits(spi: &Spi, snapshot: &Snapshot) -> Result<Vec<Limit>> {
    let document = one(spi, snapshot, "SELECT ai_limiter.limits_document()", &[])?;
    let rows: Vec<LimitDocument> = decode(document.unwrap_or(Value::Array(vec![])))?;
    rows.into_iter().map(Limit::try_from).collect()
}

pub fn suspension(spi: &Spi, snapshot: &Snapshot, call: &Dimensions) -> Result<Option<Suspension>> {
    const SQL: &str = "SELECT ai_limiter.suspension_document($1, $2, $3, $4, $5, $6)";
    let args = [
        call.tenant_id.into(),
        Arg::Uuid(call.user_id),
        call.model.as_deref().into(),
        call.feature.as_deref().into(),
        call.api_key_id.as_deref().into(),
        call.run_id.as_deref().into(),
    ];
    one(spi, snapshot, SQL, &args)?.map(decode).transpose()
}

/// The price of the model that the call names, by its name as given and its canonical name.
pub fn price(spi: &Spi, snapshot: &Snapshot, call: &Call, at: Timestamp) -> Result<Option<Price>> {
    const SQL: &str = "SELECT ai_limiter.price_document($1, $2, $3, $4, $5)";
    let args = [
        call.dimensions.tenant_id.into(),
        call.dimensions.provider.as_deref().into(),
        call.requested_model.as_deref().into(),
        call.dimensions.model.as_deref().into(),
        at.into(),
    ];
    one(spi, snapshot, SQL, &args)?.map(decode).transpose()
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
    let rows = spi.read_at(snapshot, SQL, &[tenant.into(), run.into()], |row| row.amount(1))?;
    Ok(rows.into_iter().next().flatten())
}

/// Fixes a run's cap; the first one stays.
pub fn fix_run_limit(spi: &Spi, tenant: Uuid, run: &str, amount: Amount) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_run_limits (tenant_id, run_id, amount_usd) \
        VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    spi.write(SQL, &[tenant.into(), run.into(), Arg::Numeric(Some(amount))], |_| Ok(()))?;
    Ok(())
}

/// The tenant of a user who has an account in one only.
pub fn home_tenant(spi: &Spi, snapshot: &Snapshot, user: Uuid) -> Result<Option<Uuid>> {
    const SQL: &str = "SELECT tenant_id FROM ai_limiter.ai_accounts WHERE user_id = $1 LIMIT 2";
    let tenants = spi.read_at(snapshot, SQL, &[user.into()], |row| Ok(row.uuid(1)))?;
    Ok(if let [tenant] = tenants[..] { tenant } else { None })
}
