//! The one door by which a row of `ai_limits` becomes a [`Limit`]: a row that makes no sense is
//! refused here, when it is written, and whatever loads afterwards has passed it.

use crate::amount::Amount;
use crate::call;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::limit::{Action, Limit, ManagedBy, Metric, Per, Period};
use crate::model_name::canonicalize;
use crate::rolling::Interval;
use crate::window::Unit;
use serde::Deserialize;
use uuid::Uuid;

/// A row of `ai_limits` as `ledger::config` reads it, numbers as text.
#[derive(Debug, Clone, Deserialize)]
pub struct LimitDocument {
    pub id: i64,
    pub name: Option<String>,
    pub tier: Option<String>,
    pub tenant_id: Option<Uuid>,
    pub user_id: Option<Uuid>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub feature: Option<String>,
    pub api_key_id: Option<String>,
    pub attributes: Option<serde_json::Value>,
    pub per: Option<Vec<Option<String>>>,
    pub metric: Option<String>,
    pub period: Option<String>,
    /// Whether the row has a rolling interval at all.
    pub rolling: bool,
    /// The interval's fixed part; null with months, whose length varies.
    pub rolling_microseconds: Option<i64>,
    pub amount: Option<String>,
    pub action: Option<String>,
    pub alert_at: Option<Vec<Option<String>>>,
    pub enabled: Option<bool>,
    pub managed_by: Option<String>,
}

impl TryFrom<LimitDocument> for Limit {
    type Error = Error;

    fn try_from(row: LimitDocument) -> Result<Self> {
        if row.id == 0 {
            return Err(Error::invalid("a limit cannot have the id 0")
                .detail("It stands for the caps of single runs."));
        }
        let name = call::required(call::text(row.name, "name")?, "name")?;
        let metric = parse_metric(&call::required(row.metric, "metric")?)?;
        let (period, period_name) =
            parse_period(row.period.as_deref(), row.rolling, row.rolling_microseconds)?;
        if metric == Metric::Concurrent && period != Period::Total {
            return Err(Error::invalid("metric \"concurrent\" has no window")
                .detail("It counts the holds that are open now, whenever they were made.")
                .hint("Set period to \"total\"."));
        }
        let amount = Amount::parse(&call::required(row.amount, "amount")?, "amount")?;
        if amount < Amount::ZERO {
            return Err(Error::out_of_range("amount must not be negative"));
        }
        let managed_by = match call::required(row.managed_by, "managed_by")?.as_str() {
            "platform" => ManagedBy::Platform,
            "tenant" => ManagedBy::Tenant,
            other => return Err(one_of("managed_by", other, "platform, tenant")),
        };
        if managed_by == ManagedBy::Tenant && row.tenant_id.is_none() {
            return Err(
                Error::invalid("a tenant's own limit must name its tenant").hint("Set tenant_id.")
            );
        }
        let (model, provider) = parse_model(row.model, row.provider)?;
        Ok(Limit {
            id: row.id,
            name,
            filter: Filter {
                tier: row.tier,
                tenant_id: row.tenant_id,
                user_id: row.user_id,
                provider,
                model,
                feature: filter_text(row.feature, "feature")?,
                api_key_id: call::api_key_id(filter_text(row.api_key_id, "api_key_id")?)?,
                attributes: call::attributes(row.attributes.as_ref())?,
            },
            per: parse_per(row.per.unwrap_or_default())?,
            metric,
            period,
            period_name,
            amount,
            action: match call::required(row.action, "action")?.as_str() {
                "deny" => Action::Deny,
                "warn" => Action::Warn,
                other => return Err(one_of("action", other, "deny, warn")),
            },
            alert_at: parse_alert_at(row.alert_at.unwrap_or_default())?,
            enabled: call::required(row.enabled, "enabled")?,
            managed_by,
        })
    }
}

fn one_of(what: &str, given: &str, names: &str) -> Error {
    Error::invalid(format!("{what} \"{given}\" does not exist"))
        .hint(format!("Use one of {names}."))
}

fn parse_metric(name: &str) -> Result<Metric> {
    Metric::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
        one_of(
            "metric",
            name,
            "cost_usd, requests, input_tokens, output_tokens, total_tokens, concurrent",
        )
    })
}

fn parse_period(
    period: Option<&str>,
    rolling: bool,
    microseconds: Option<i64>,
) -> Result<(Period, String)> {
    match (period, rolling) {
        (Some(_), true) | (None, false) => {
            Err(Error::invalid("a limit has either a period or a rolling interval")
                .hint("Set one of the columns period and rolling."))
        }
        (Some("total"), false) => Ok((Period::Total, "total".to_owned())),
        (Some(name), false) => Unit::parse(name)
            .map(|unit| (Period::Calendar(unit), name.to_owned()))
            .ok_or_else(|| one_of("period", name, "minute, hour, day, week, month, total")),
        (None, true) => {
            let Some(interval) = microseconds.map(Interval) else {
                return Err(Error::invalid("a rolling interval cannot have months or years")
                    .hint("Give it in days, such as interval '30 days'."));
            };
            if interval < Interval::MIN || interval > Interval::MAX {
                return Err(Error::out_of_range("rolling interval is out of range")
                    .detail("It must be between 1 second and 366 days."));
            }
            Ok((Period::Rolling(interval), format!("rolling {interval}")))
        }
    }
}

/// A filter's text: null matches every call, and blanks, which would too, are refused.
fn filter_text(value: Option<String>, what: &str) -> Result<Option<String>> {
    let given = value.is_some();
    let text = call::text(value, what)?;
    if given && text.is_none() {
        return Err(Error::invalid(format!("{what} must not be empty"))
            .hint("Leave it null to match every call."));
    }
    Ok(text)
}

fn parse_model(
    model: Option<String>,
    provider: Option<String>,
) -> Result<(Option<String>, Option<String>)> {
    let canonical = filter_text(model, "model")?.map(|m| canonicalize(&m));
    let provider = filter_text(provider, "provider")?.map(|p| p.to_lowercase());
    let provider = provider.or(canonical.as_ref().and_then(|c| c.provider.clone()));
    Ok((canonical.map(|c| c.model), provider))
}

fn parse_per(names: Vec<Option<String>>) -> Result<Vec<Per>> {
    let mut per = names
        .into_iter()
        .map(|name| Per::parse(&call::required(name, "an element of per")?))
        .collect::<Result<Vec<_>>>()?;
    per.sort();
    per.dedup();
    Ok(per)
}

fn parse_alert_at(texts: Vec<Option<String>>) -> Result<Vec<Amount>> {
    let mut thresholds = texts
        .into_iter()
        .map(|text| {
            let ratio =
                Amount::parse(&call::required(text, "an element of alert_at")?, "alert_at")?;
            if ratio <= Amount::ZERO || ratio > Amount::from_units(100) {
                return Err(Error::out_of_range("alert_at is out of range").detail(
                    "A threshold is a part of the amount, such as 0.8, above 0 and at most 100.",
                ));
            }
            Ok(ratio)
        })
        .collect::<Result<Vec<_>>>()?;
    thresholds.sort();
    Ok(thresholds)
}
