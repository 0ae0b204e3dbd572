//! A rule of `ai_limits`: what it counts, over which window, and how much it allows.
//!
//! A row that makes no sense is refused here, when it is written; whatever loads afterwards has
//! passed the same door.

use crate::amount::Amount;
use crate::call::{self, Dimensions};
use crate::error::{Error, Kind, Result};
use crate::filter::{Column, Condition, Filter};
use crate::model_name::canonicalize;
use crate::rolling::Interval;
use crate::window::Unit;
use serde::Deserialize;
use std::fmt;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    CostUsd,
    Requests,
    InputTokens,
    OutputTokens,
    TotalTokens,
    /// Requests of open holds: calls that are running now.
    Concurrent,
}

impl Metric {
    const ALL: [Metric; 6] = [
        Metric::CostUsd,
        Metric::Requests,
        Metric::InputTokens,
        Metric::OutputTokens,
        Metric::TotalTokens,
        Metric::Concurrent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Metric::CostUsd => "cost_usd",
            Metric::Requests => "requests",
            Metric::InputTokens => "input_tokens",
            Metric::OutputTokens => "output_tokens",
            Metric::TotalTokens => "total_tokens",
            Metric::Concurrent => "concurrent",
        }
    }
}

/// What gets a counter of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    Tenant,
    /// An account: the user within the tenant.
    User,
    Provider,
    Model,
    Feature,
    ApiKeyId,
    /// A run within the tenant.
    Run,
    Attribute(String),
}

impl Per {
    const NAMES: &str = "tenant, user, provider, model, feature, api_key_id, run, attribute:<key>";

    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "tenant" => Per::Tenant,
            "user" => Per::User,
            "provider" => Per::Provider,
            "model" => Per::Model,
            "feature" => Per::Feature,
            "api_key_id" => Per::ApiKeyId,
            "run" => Per::Run,
            _ => match name.strip_prefix("attribute:") {
                Some(key) if !key.is_empty() => Per::Attribute(key.to_owned()),
                _ => {
                    return Err(Error::invalid(format!("per names no dimension: \"{name}\""))
                        .hint(format!("Use any of {}.", Self::NAMES)));
                }
            },
        })
    }

    /// What a call must name for the rule to speak of it.
    fn presence(&self) -> Option<Condition> {
        match self {
            Per::Tenant => None,
            Per::User => Some(Condition::HasUser),
            Per::Attribute(key) => Some(Condition::HasAttribute(key.clone())),
            other => other.column().map(Condition::Has),
        }
    }

    pub fn column(&self) -> Option<Column> {
        match self {
            Per::Provider => Some(Column::Provider),
            Per::Model => Some(Column::Model),
            Per::Feature => Some(Column::Feature),
            Per::ApiKeyId => Some(Column::ApiKeyId),
            Per::Run => Some(Column::RunId),
            Per::Tenant | Per::User | Per::Attribute(_) => None,
        }
    }
}

impl fmt::Display for Per {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Per::Tenant => f.write_str("tenant"),
            Per::User => f.write_str("user"),
            Per::Run => f.write_str("run"),
            Per::Attribute(key) => write!(f, "attribute:{key}"),
            other => f.write_str(other.column().map_or("", Column::name)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Period {
    Calendar(Unit),
    Rolling(Interval),
    /// All time.
    Total,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Deny,
    Warn,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Deny => "deny",
            Action::Warn => "warn",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManagedBy {
    Platform,
    Tenant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub id: i64,
    pub name: String,
    pub filter: Filter,
    pub per: Vec<Per>,
    pub metric: Metric,
    pub period: Period,
    /// The text of `period` in a verdict: `day`, or `rolling` and the interval.
    pub period_name: String,
    pub amount: Amount,
    pub action: Action,
    pub alert_at: Vec<Amount>,
    pub enabled: bool,
    pub managed_by: ManagedBy,
}

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

impl Limit {
    /// What a call must pass for this row to match it: its filter, and a value for each of `per`.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut all = self.filter.conditions();
        all.extend(self.per.iter().filter_map(Per::presence));
        all
    }

    pub fn matches(&self, call: &Dimensions) -> bool {
        self.enabled && self.conditions().iter().all(|c| c.holds(call))
    }

    /// Whether its counters are of no user, tenant or run: what they say is the platform's own.
    pub fn is_platform(&self) -> bool {
        self.filter.tenant_id.is_none()
            && self.filter.user_id.is_none()
            && !self.per.iter().any(|per| matches!(per, Per::Tenant | Per::User | Per::Run))
    }

    /// The calls that share this call's counter, as conditions beside the rule's own.
    pub fn subject(&self, call: &Dimensions) -> Vec<Condition> {
        let mut all = Vec::new();
        for per in &self.per {
            match per {
                Per::Tenant => all.push(Condition::Tenant(call.tenant_id)),
                Per::User => {
                    all.push(Condition::Tenant(call.tenant_id));
                    all.extend(call.user_id.map(Condition::User));
                }
                Per::Run => {
                    all.push(Condition::Tenant(call.tenant_id));
                    all.extend(call.run_id.clone().map(|v| Condition::Is(Column::RunId, v)));
                }
                Per::Attribute(key) => {
                    all.extend(
                        call.attributes.get(key).map(|value| {
                            Condition::Attributes([(key.clone(), value.clone())].into())
                        }),
                    );
                }
                other => {
                    if let Some(column) = other.column() {
                        all.extend(column.of(call).map(|v| Condition::Is(column, v.to_owned())));
                    }
                }
            }
        }
        let mut unique: Vec<Condition> = Vec::new();
        for condition in all {
            if !unique.contains(&condition) {
                unique.push(condition);
            }
        }
        unique
    }

    /// What tells this counter from the rule's others: one value for each of `per`.
    pub fn subject_key(&self, call: &Dimensions) -> Vec<String> {
        let tenant = call.tenant_id;
        self.per
            .iter()
            .map(|per| match per {
                Per::Tenant => tenant.to_string(),
                Per::User => format!("{tenant}/{}", call.user_id.unwrap_or_default()),
                Per::Run => format!("{tenant}/{}", call.run_id.as_deref().unwrap_or_default()),
                Per::Attribute(key) => call.attributes.get(key).cloned().unwrap_or_default(),
                other => other.column().and_then(|c| c.of(call)).unwrap_or_default().to_owned(),
            })
            .collect()
    }

    /// The subject as people read it: `user=…, model=gpt-4o`. A value with a comma, an equals sign or
    /// a quote in it is quoted; the zero tenant is left out.
    pub fn subject_name(&self, call: &Dimensions) -> String {
        let nobody = format!("{}/", Uuid::nil());
        let part = |(per, value): (&Per, String)| {
            let value = match per {
                Per::User | Per::Run => value.strip_prefix(&nobody).unwrap_or(&value).to_owned(),
                _ => value,
            };
            if value.contains([',', '=', '"']) {
                format!("{per}={value:?}")
            } else {
                format!("{per}={value}")
            }
        };
        let parts: Vec<String> = self.per.iter().zip(self.subject_key(call)).map(part).collect();
        parts.join(", ")
    }

    /// A filter that every call of this subject passes: the rule's own, and what `per` fixes.
    pub fn subject_filter(&self, call: &Dimensions) -> Filter {
        let mut filter = self.filter.clone();
        for per in &self.per {
            match per {
                Per::Tenant | Per::Run => filter.tenant_id = Some(call.tenant_id),
                Per::User => {
                    filter.tenant_id = Some(call.tenant_id);
                    filter.user_id = call.user_id;
                }
                Per::Provider => filter.provider.clone_from(&call.provider),
                Per::Model => filter.model.clone_from(&call.model),
                Per::Feature => filter.feature.clone_from(&call.feature),
                Per::ApiKeyId => filter.api_key_id.clone_from(&call.api_key_id),
                Per::Attribute(key) => {
                    if let Some(value) = call.attributes.get(key) {
                        filter.attributes.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        filter
    }

    /// The tenant and user that the counter of such a call is of, as far as it is anyone's.
    pub fn account_of(&self, call: &Dimensions) -> (Option<Uuid>, Option<Uuid>) {
        let user = self.filter.user_id.or(call.user_id.filter(|_| self.per.contains(&Per::User)));
        let of_tenant = self.per.iter().any(|p| matches!(p, Per::Tenant | Per::User | Per::Run));
        (self.filter.tenant_id.or(of_tenant.then_some(call.tenant_id)), user)
    }

    /// What a call of this size adds; `None` when the call does not say, which is not zero.
    pub fn increment(&self, size: &Size) -> Option<Amount> {
        let units = |n: Option<i64>| n.map(Amount::from_units);
        match self.metric {
            Metric::CostUsd => size.cost_usd,
            Metric::Requests | Metric::Concurrent => Some(Amount::from_units(size.requests)),
            Metric::InputTokens => units(size.input_tokens),
            Metric::OutputTokens => units(size.output_tokens),
            Metric::TotalTokens => match (size.input_tokens, size.output_tokens) {
                (None, None) => None,
                (input, output) => {
                    units(Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))))
                }
            },
        }
    }
}

/// How much a call, a hold or a charge is, in every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    pub requests: i64,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_usd: Option<Amount>,
}

/// Two enabled platform rows of one name that could govern the same call.
pub fn tie_error(a: &Limit, b: &Limit) -> Error {
    Error::new(
        Kind::CheckViolation,
        format!("two limits named \"{}\" could govern the same call", a.name),
    )
    .detail(format!("Rows {} and {} are equally specific and their filters overlap.", a.id, b.id))
    .hint("Change or disable the row that is there, or give one of them another name or a filter that excludes the other.")
}
