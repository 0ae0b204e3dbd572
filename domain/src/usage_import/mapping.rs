//! Which column of the source, or which constant, fills a column of the ledger.

use crate::error::{Error, Kind, Result};
use serde_json::Value;

/// What an import can fill. `Usage` is the provider's usage object, which counts are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Field {
    CreatedAt,
    TenantId,
    UserId,
    Provider,
    Model,
    Feature,
    ApiKeyId,
    RunId,
    Attributes,
    Requests,
    InputTokens,
    OutputTokens,
    CostUsd,
    Usage,
}

impl Field {
    /// In the order of their numbers.
    pub const ALL: [Field; 14] = [
        Field::CreatedAt,
        Field::TenantId,
        Field::UserId,
        Field::Provider,
        Field::Model,
        Field::Feature,
        Field::ApiKeyId,
        Field::RunId,
        Field::Attributes,
        Field::Requests,
        Field::InputTokens,
        Field::OutputTokens,
        Field::CostUsd,
        Field::Usage,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Field::CreatedAt => "created_at",
            Field::TenantId => "tenant_id",
            Field::UserId => "user_id",
            Field::Provider => "provider",
            Field::Model => "model",
            Field::Feature => "feature",
            Field::ApiKeyId => "api_key_id",
            Field::RunId => "run_id",
            Field::Attributes => "attributes",
            Field::Requests => "requests",
            Field::InputTokens => "input_tokens",
            Field::OutputTokens => "output_tokens",
            Field::CostUsd => "cost_usd",
            Field::Usage => "usage",
        }
    }
}

/// Where a field comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Column(String),
    /// The same for every row, as text.
    Constant(String),
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The column that tells rows apart and orders them.
    pub key: String,
    origins: Vec<Origin>,
}

/// The name under which a mapping has the key.
const KEY: &str = "id";

impl Mapping {
    /// `given` names columns by a text and constants by `{"value": …}`; a field that it leaves out is
    /// the column of the same name, if there is one, and null leaves a field out.
    ///
    /// # Errors
    /// 22023 for anything else, 42704 for a column that is not there.
    pub fn new(given: &Value, columns: &[&str]) -> Result<Self> {
        let given =
            given.as_object().ok_or_else(|| Error::invalid("mapping must be a JSON object"))?;
        let is_known = |name: &str| name == KEY || Field::ALL.iter().any(|f| f.name() == name);
        if let Some(unknown) = given.keys().find(|name| !is_known(name)) {
            let names: Vec<_> = Field::ALL.iter().map(|field| field.name()).collect();
            return Err(Error::invalid(format!(
                "mapping names \"{unknown}\", which cannot be imported"
            ))
            .hint(format!("It may have {KEY}, {}.", names.join(", "))));
        }
        let origin = |name: &str| match given.get(name) {
            None if columns.contains(&name) => Ok(Origin::Column(name.to_owned())),
            None | Some(Value::Null) => Ok(Origin::Nothing),
            Some(Value::String(column)) if columns.contains(&column.as_str()) => {
                Ok(Origin::Column(column.clone()))
            }
            Some(Value::String(column)) => Err(Error::new(
                Kind::UndefinedObject,
                format!("column \"{column}\" of the source does not exist"),
            )
            .hint(format!(
                "mapping has it for {name}. Write a constant as {{\"value\": \"{column}\"}}."
            ))),
            Some(Value::Object(one)) if one.len() == 1 && one.contains_key("value") => {
                Ok(match &one["value"] {
                    Value::Null => Origin::Nothing,
                    Value::String(text) => Origin::Constant(text.clone()),
                    other => Origin::Constant(other.to_string()),
                })
            }
            Some(_) => Err(Error::invalid(format!("mapping of {name} has no meaning"))
                .hint("Give the name of a column, or a constant as {\"value\": ...}.")),
        };
        let needed = |name: &str, why: &str| match origin(name)? {
            Origin::Column(column) => Ok(column),
            _ => Err(Error::invalid(format!("mapping does not say which column is {name}"))
                .hint(why.to_owned())),
        };
        needed(Field::CreatedAt.name(), "Name the column that says when the call was made.")?;
        Ok(Self {
            key: needed(
                KEY,
                "Name a column that is unique and never null: the import is resumed by it.",
            )?,
            origins: Field::ALL.iter().map(|field| origin(field.name())).collect::<Result<_>>()?,
        })
    }

    pub fn origin(&self, field: Field) -> &Origin {
        &self.origins[field as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: [&str; 5] = ["id", "ts", "model", "prompt_tokens", "created_at"];

    fn mapping(given: Value) -> Result<Mapping> {
        Mapping::new(&given, &COLUMNS)
    }

    #[test]
    fn a_field_is_the_column_of_its_name_unless_the_mapping_says_another() {
        let mapping = mapping(json!({"created_at": "ts", "input_tokens": "prompt_tokens",
            "feature": {"value": "chat"}, "requests": {"value": 2}}))
        .unwrap();
        let column = |name: &str| Origin::Column(name.to_owned());
        assert_eq!(mapping.key, "id");
        assert_eq!(*mapping.origin(Field::CreatedAt), column("ts"));
        assert_eq!(*mapping.origin(Field::InputTokens), column("prompt_tokens"));
        assert_eq!(*mapping.origin(Field::Model), column("model"));
        assert_eq!(*mapping.origin(Field::Feature), Origin::Constant("chat".to_owned()));
        assert_eq!(*mapping.origin(Field::Requests), Origin::Constant("2".to_owned()));
        assert_eq!(*mapping.origin(Field::CostUsd), Origin::Nothing);
    }

    #[test]
    fn null_leaves_a_field_out() {
        let left_out = mapping(json!({"model": null})).unwrap();
        assert_eq!(*left_out.origin(Field::Model), Origin::Nothing);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for given in [
            json!([]),
            json!({"modell": "model"}),
            json!({"model": "modell"}),
            json!({"model": 7}),
            json!({"model": {"column": "model"}}),
            json!({"id": null}),
            json!({"id": {"value": 7}}),
            json!({"created_at": {"value": "2025-01-01T00:00:00Z"}}),
        ] {
            assert!(mapping(given.clone()).is_err(), "{given}");
        }
        assert!(Mapping::new(&json!({}), &["created_at"]).is_err());
    }
}
