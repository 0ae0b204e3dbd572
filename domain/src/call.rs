//! One model call as the limiter sees it: who, what, how much. Checked once, here, at the edge.

use crate::amount::Amount;
use crate::error::{Error, Kind, Result};
use crate::model_name::with_provider;
use std::collections::BTreeMap;
use uuid::Uuid;

pub const MAX_ATTRIBUTES: usize = 16;
/// Longest text of a dimension, in characters: they are index keys and appear in every row.
pub const MAX_TEXT: usize = 256;
/// Most tokens or requests of one call; far beyond any model, and a sum of them cannot overflow.
pub const MAX_COUNT: i64 = 1_000_000_000_000;

/// What holds, ledger and rules have in common: the columns that a rule can filter or count by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dimensions {
    pub tenant_id: Uuid,
    pub user_id: Option<Uuid>,
    pub tier: String,
    pub provider: Option<String>,
    /// The canonical name of the requested model.
    pub model: Option<String>,
    pub feature: Option<String>,
    pub api_key_id: Option<String>,
    pub run_id: Option<String>,
    pub attributes: BTreeMap<String, String>,
}

/// A call's dimensions and what it says of its size. `None` is "not said", never zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    pub dimensions: Dimensions,
    /// The model as the caller wrote it; prices look at this.
    pub requested_model: Option<String>,
    pub requests: i64,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_usd: Option<Amount>,
}

impl Call {
    /// Takes the model's name apart: the canonical name and, unless given, the prefix's provider.
    pub fn set_model(&mut self, model: Option<String>, provider: Option<String>) -> Result<()> {
        let provider = text(provider, "provider")?;
        self.requested_model = text(model, "model")?;
        (self.dimensions.model, self.dimensions.provider) =
            with_provider(self.requested_model.as_deref(), provider.as_deref());
        Ok(())
    }
}

/// Trims a text dimension; empty counts as absent, as `current_setting` gives it.
pub fn text(value: Option<String>, what: &str) -> Result<Option<String>> {
    let Some(value) = value else { return Ok(None) };
    let trimmed = value.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    if trimmed.chars().count() > MAX_TEXT {
        return Err(Error::invalid(format!("{what} is too long"))
            .detail(format!("It must be at most {MAX_TEXT} characters.")));
    }
    Ok(Some(trimmed.to_owned()))
}

/// An API key's identifier; refuses what looks like the key itself, and never repeats it.
pub fn api_key_id(value: Option<String>) -> Result<Option<String>> {
    let value = text(value, "api_key_id")?;
    if value.as_deref().is_some_and(looks_like_secret) {
        return Err(Error::invalid("api_key_id looks like a secret").hint(
            "Pass an identifier of the key, such as its name or its id, never the key itself.",
        ));
    }
    Ok(value)
}

/// The prefixes that providers give their keys, JSON web tokens, and long runs of random letters.
fn looks_like_secret(value: &str) -> bool {
    const PREFIXES: [&str; 14] = [
        "sk-", "sk_", "rk_live", "pk_live", "gsk_", "xai-", "AIza", "AKIA", "ASIA", "hf_", "r8_",
        "eyJ", "Bearer ", "ghp_",
    ];
    let random = value.len() >= 32
        && Uuid::parse_str(value).is_err()
        && value.chars().all(|c| c.is_ascii_alphanumeric())
        && value.chars().any(|c| c.is_ascii_digit())
        && value.chars().any(|c| c.is_ascii_alphabetic());
    random || PREFIXES.iter().any(|p| value.len() > p.len() + 12 && value.starts_with(p))
}

/// Tokens or requests: not negative, not absurd.
pub fn count(value: Option<i64>, what: &str) -> Result<Option<i64>> {
    match value {
        Some(n) if n < 0 => Err(Error::out_of_range(format!("{what} must not be negative"))),
        Some(n) if n > MAX_COUNT => Err(Error::out_of_range(format!("{what} is out of range"))
            .detail(format!("It must be at most {MAX_COUNT}."))),
        n => Ok(n),
    }
}

/// Flat attributes with text values, at most sixteen.
pub fn attributes(value: Option<&serde_json::Value>) -> Result<BTreeMap<String, String>> {
    use serde_json::Value;
    let map = match value {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(Error::invalid("attributes must be a JSON object")),
    };
    if map.len() > MAX_ATTRIBUTES {
        return Err(Error::invalid("attributes has too many keys")
            .detail(format!("It has {}, and at most {MAX_ATTRIBUTES} are kept.", map.len())));
    }
    map.iter()
        .map(|(key, value)| match value {
            Value::String(s)
                if s.chars().count() <= MAX_TEXT && key.chars().count() <= MAX_TEXT =>
            {
                Ok((key.clone(), s.clone()))
            }
            Value::String(_) => {
                Err(Error::invalid(format!("an attribute exceeds {MAX_TEXT} characters")))
            }
            _ => Err(Error::invalid("attributes must be flat, with text values")
                .hint("Write numbers and booleans as text, and lists as several keys.")),
        })
        .collect()
}

/// An error for a value that must not be null.
pub fn required<T>(value: Option<T>, what: &str) -> Result<T> {
    value.ok_or_else(|| Error::new(Kind::NullNotAllowed, format!("{what} must not be null")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_is_refused_and_not_repeated() {
        for secret in [
            "sk-proj-abcdefghijklmnop",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "AIzaSyA1234567890abcdef",
            "0123456789abcdef0123456789abcdeg",
        ] {
            let error = api_key_id(Some(secret.into())).unwrap_err();
            assert!(!format!("{error:?}").contains(secret));
        }
        for identifier in
            ["prod-key-3", "sk-…a1b2", "018f3c2e-7a61-7c9b-9d55-0d7c5c1f2a3b", "team/backend"]
        {
            assert!(api_key_id(Some(identifier.into())).is_ok(), "{identifier}");
        }
    }

    #[test]
    fn attributes_are_flat_text_and_few() {
        assert!(attributes(Some(&json!({"team": "core"}))).is_ok());
        assert!(attributes(Some(&json!({"team": {"a": 1}}))).is_err());
        assert!(attributes(Some(&json!({"n": 1}))).is_err());
        assert!(attributes(Some(&json!(["a"]))).is_err());
        let many: serde_json::Map<_, _> = (0..17).map(|i| (i.to_string(), json!("x"))).collect();
        assert!(attributes(Some(&many.into())).is_err());
    }

    #[test]
    fn empty_text_is_absent_and_long_text_is_refused() {
        assert_eq!(text(Some("  ".into()), "feature").unwrap(), None);
        assert!(text(Some("x".repeat(257)), "feature").is_err());
        assert!(text(Some("ü".repeat(256)), "feature").is_ok());
    }

    #[test]
    fn counts_are_bounded() {
        assert!(count(Some(-1), "input_tokens").is_err());
        assert!(count(Some(i64::MAX), "input_tokens").is_err());
        assert_eq!(count(Some(0), "input_tokens").unwrap(), Some(0));
    }
}
