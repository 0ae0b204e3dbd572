//! Which calls a rule counts: the one definition, with two readers.
//!
//! [`Limit::conditions`](crate::Limit::conditions) turns a rule into a list of [`Condition`]s. Rust
//! evaluates them on a call ([`Condition::holds`]); the table path renders them into SQL
//! ([`Condition::to_sql`]) over `ai_usage` and `ai_reservations`, whose dimension columns have the
//! same names. The integration tests hold the two against each other.

use crate::call::Dimensions;
use crate::model_name;
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// A rule's filter; a `None` matches every call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub tier: Option<String>,
    pub tenant_id: Option<Uuid>,
    pub user_id: Option<Uuid>,
    pub provider: Option<String>,
    /// An exact canonical name, or a pattern with `*`.
    pub model: Option<String>,
    pub feature: Option<String>,
    pub api_key_id: Option<String>,
    /// Contained in the call's attributes.
    pub attributes: BTreeMap<String, String>,
}

/// A column of a call that holds text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Column {
    Tier,
    Provider,
    Model,
    Feature,
    ApiKeyId,
    RunId,
}

impl Column {
    pub fn name(self) -> &'static str {
        match self {
            Column::Tier => "tier",
            Column::Provider => "provider",
            Column::Model => "model",
            Column::Feature => "feature",
            Column::ApiKeyId => "api_key_id",
            Column::RunId => "run_id",
        }
    }

    pub fn of(self, call: &Dimensions) -> Option<&str> {
        match self {
            Column::Tier => Some(&call.tier),
            Column::Provider => call.provider.as_deref(),
            Column::Model => call.model.as_deref(),
            Column::Feature => call.feature.as_deref(),
            Column::ApiKeyId => call.api_key_id.as_deref(),
            Column::RunId => call.run_id.as_deref(),
        }
    }
}

/// One test on one dimension of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Tenant(Uuid),
    User(Uuid),
    Is(Column, String),
    Like(Column, String),
    Attributes(BTreeMap<String, String>),
    HasUser,
    Has(Column),
    HasAttribute(String),
}

/// A value in rendered SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Param {
    Uuid(Uuid),
    Text(String),
    Jsonb(String),
}

impl Condition {
    /// Whether the call passes.
    pub fn holds(&self, call: &Dimensions) -> bool {
        match self {
            Condition::Tenant(id) => call.tenant_id == *id,
            Condition::User(id) => call.user_id == Some(*id),
            Condition::Is(column, value) => column.of(call) == Some(value),
            Condition::Like(column, pattern) => {
                column.of(call).is_some_and(|value| model_name::matches(pattern, value))
            }
            Condition::Attributes(wanted) => {
                wanted.iter().all(|(key, value)| call.attributes.get(key) == Some(value))
            }
            Condition::HasUser => call.user_id.is_some(),
            Condition::Has(column) => column.of(call).is_some(),
            Condition::HasAttribute(key) => call.attributes.contains_key(key),
        }
    }

    /// Whether the call could pass once dimensions that it does not name were known.
    pub fn may_hold(&self, call: &Dimensions) -> bool {
        let unknown = match self {
            Condition::Tenant(_) => false,
            Condition::User(_) | Condition::HasUser => false,
            Condition::Is(column, _) | Condition::Like(column, _) => column.of(call).is_none(),
            Condition::Attributes(_) => call.attributes.is_empty(),
            Condition::Has(_) | Condition::HasAttribute(_) => false,
        };
        unknown || self.holds(call)
    }

    /// The same test as SQL. `bind` takes a value and says what stands for it. For a session whose
    /// `search_path` is pinned: operators are not qualified.
    pub fn to_sql(&self, bind: &mut impl FnMut(Param) -> String) -> String {
        match self {
            Condition::Tenant(id) => format!("tenant_id = {}", bind(Param::Uuid(*id))),
            Condition::User(id) => format!("user_id = {}", bind(Param::Uuid(*id))),
            Condition::Is(column, value) => {
                format!("{} = {}", column.name(), bind(Param::Text(value.clone())))
            }
            Condition::Like(column, pattern) => {
                let like = Param::Text(model_name::like_pattern(pattern));
                format!("{} LIKE {}", column.name(), bind(like))
            }
            Condition::Attributes(wanted) => {
                let json = serde_json::to_string(wanted).unwrap_or_default();
                format!("attributes @> {}", bind(Param::Jsonb(json)))
            }
            Condition::HasUser => "user_id IS NOT NULL".to_owned(),
            Condition::Has(column) => format!("{} IS NOT NULL", column.name()),
            Condition::HasAttribute(key) => {
                format!("attributes ? {}", bind(Param::Text(key.clone())))
            }
        }
    }
}

impl fmt::Display for Condition {
    /// As an explanation names it: `tier = pro`, `a user`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Tenant(id) => write!(f, "tenant_id = {id}"),
            Condition::User(id) => write!(f, "user_id = {id}"),
            Condition::Is(column, value) => write!(f, "{} = {value}", column.name()),
            Condition::Like(column, pattern) => write!(f, "{} like {pattern}", column.name()),
            Condition::Attributes(wanted) => {
                let pairs: Vec<_> = wanted.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                write!(f, "attributes {}", pairs.join(", "))
            }
            Condition::HasUser => f.write_str("a user_id"),
            Condition::Has(column) => write!(f, "a {}", column.name()),
            Condition::HasAttribute(key) => write!(f, "an attribute {key}"),
        }
    }
}

/// What a pattern begins with, up to its first `*`.
fn literal_prefix(pattern: &str) -> &str {
    pattern.split('*').next().unwrap_or("")
}

impl Filter {
    pub fn conditions(&self) -> Vec<Condition> {
        let mut all = Vec::new();
        all.extend(self.tenant_id.map(Condition::Tenant));
        all.extend(self.user_id.map(Condition::User));
        for (column, value) in [
            (Column::Tier, &self.tier),
            (Column::Provider, &self.provider),
            (Column::Model, &self.model),
            (Column::Feature, &self.feature),
            (Column::ApiKeyId, &self.api_key_id),
        ] {
            match value {
                Some(v) if column == Column::Model && v.contains('*') => {
                    all.push(Condition::Like(column, v.clone()));
                }
                Some(v) => all.push(Condition::Is(column, v.clone())),
                None => {}
            }
        }
        if !self.attributes.is_empty() {
            all.push(Condition::Attributes(self.attributes.clone()));
        }
        all
    }

    /// How specific the filter is among rows of one name: user, then tenant, then tier, then any.
    pub fn specificity(&self) -> (bool, bool, bool) {
        (self.user_id.is_some(), self.tenant_id.is_some(), self.tier.is_some())
    }

    /// Whether no call can match both: some dimension is fixed to two values. Two patterns are taken
    /// to overlap unless they begin differently.
    pub fn disjoint(&self, other: &Filter) -> bool {
        fn differ<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
            matches!((a, b), (Some(a), Some(b)) if a != b)
        }
        let models = match (&self.model, &other.model) {
            (Some(a), Some(b)) => match (a.contains('*'), b.contains('*')) {
                (false, false) => a != b,
                (true, false) => !model_name::matches(a, b),
                (false, true) => !model_name::matches(b, a),
                (true, true) => {
                    let (a, b) = (literal_prefix(a), literal_prefix(b));
                    !a.starts_with(b) && !b.starts_with(a)
                }
            },
            _ => false,
        };
        let attributes =
            self.attributes.iter().any(|(k, v)| other.attributes.get(k).is_some_and(|w| w != v));
        models
            || attributes
            || differ(&self.tier, &other.tier)
            || differ(&self.tenant_id, &other.tenant_id)
            || differ(&self.user_id, &other.user_id)
            || differ(&self.provider, &other.provider)
            || differ(&self.feature, &other.feature)
            || differ(&self.api_key_id, &other.api_key_id)
    }
}
