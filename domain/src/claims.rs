//! The claims of a verified token, as a REST server puts them into `request.jwt.claims`.
//!
//! Only `sub`, `app_metadata.tenant_id` and `app_metadata.role` are read: users can edit their
//! `user_metadata`, so nothing in it is believed. No claim is ever repeated in a message.

use crate::error::{Error, Result};
use crate::role::Role;
use serde_json::Value;
use uuid::Uuid;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub role: Option<Role>,
}

impl Claims {
    /// # Errors
    /// 22023 when the text is not a JSON object or a claim has the wrong form.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || Error::invalid("request.jwt.claims is not a JSON object");
        let claims: Value = serde_json::from_str(text).map_err(|_| malformed())?;
        let claims = claims.as_object().ok_or_else(malformed)?;
        let app = claims.get("app_metadata");
        let role = match app.and_then(|a| a.get("role")) {
            None | Some(Value::Null) => None,
            Some(value) => Some(
                value
                    .as_str()
                    .and_then(|r| r.parse().ok())
                    .ok_or_else(|| wrong("app_metadata.role"))?,
            ),
        };
        Ok(Self {
            user_id: id(claims.get("sub"), "sub")?,
            tenant_id: id(app.and_then(|a| a.get("tenant_id")), "app_metadata.tenant_id")?,
            role,
        })
    }
}

fn id(value: Option<&Value>, name: &str) -> Result<Option<Uuid>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => match value.as_str().map(Uuid::parse_str) {
            Some(Ok(id)) => Ok(Some(id)),
            _ => Err(wrong(name)),
        },
    }
}

fn wrong(name: &str) -> Error {
    Error::invalid(format!("claim {name} has no valid value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_metadata_is_not_believed() {
        let claims = Claims::parse(
            r#"{"user_metadata": {"role": "platform_admin", "tenant_id": "00000000-0000-0000-0000-000000000001"}}"#,
        );
        assert_eq!(claims.unwrap(), Claims::default());
    }

    #[test]
    fn malformed_claims_are_an_error_that_does_not_repeat_them() {
        for text in [
            "",
            "x-secret",
            "[]",
            r#"{"sub": "x-secret"}"#,
            r#"{"sub": 7}"#,
            r#"{"app_metadata": {"role": "x-secret"}}"#,
        ] {
            let error = Claims::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
