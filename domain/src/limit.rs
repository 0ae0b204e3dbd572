//! A rule of `ai_limits`: what it counts, over which window, and how much it allows.

use crate::amount::Amount;
use crate::call::Dimensions;
use crate::error::{Error, Result};
use crate::filter::{Column, Condition, Filter};
use crate::rolling::Interval;
use crate::window::{DAY, Timestamp, Unit};
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
    pub const ALL: [Metric; 6] = [
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

impl Period {
    /// A bound before which no row can be in the window at `now`, in whatever zone.
    pub fn earliest(self, now: Timestamp) -> Timestamp {
        let days = match self {
            Period::Total => return Timestamp(i64::MIN / 2),
            Period::Rolling(interval) => return interval.earliest(now),
            Period::Calendar(Unit::Month) => 33,
            Period::Calendar(Unit::Week) => 9,
            Period::Calendar(_) => 3,
        };
        Timestamp(now.0 - days * DAY)
    }
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

/// The id of the caps of single runs, which are no rows of `ai_limits`.
pub const RUN_LIMIT_ID: i64 = 0;
pub const RUN_LIMIT_NAME: &str = "run_limit";

#[cfg(test)]
impl Limit {
    /// A cap of the platform on everybody's cost of all time, for tests to change what they are about.
    pub(crate) fn example() -> Self {
        Limit {
            id: 1,
            name: "cap".to_owned(),
            filter: Filter::default(),
            per: Vec::new(),
            metric: Metric::CostUsd,
            period: Period::Total,
            period_name: "total".to_owned(),
            amount: Amount::from_units(1),
            action: Action::Deny,
            alert_at: Vec::new(),
            enabled: true,
            managed_by: ManagedBy::Platform,
        }
    }
}

impl Limit {
    /// The cap that a run was given on its own, as a rule among the others.
    pub fn of_run(tenant_id: Uuid, amount_usd: Amount) -> Self {
        Limit {
            id: RUN_LIMIT_ID,
            name: RUN_LIMIT_NAME.to_owned(),
            filter: Filter { tenant_id: Some(tenant_id), ..Filter::default() },
            per: vec![Per::Run],
            metric: Metric::CostUsd,
            period: Period::Total,
            period_name: "total".to_owned(),
            amount: amount_usd,
            action: Action::Deny,
            alert_at: Vec::new(),
            enabled: true,
            managed_by: ManagedBy::Tenant,
        }
    }

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
