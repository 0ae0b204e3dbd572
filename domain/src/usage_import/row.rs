//! What a row of the source says, from the texts of its columns.

use super::mapping::Field;
use crate::Dimensions;
use crate::amount::Amount;
use crate::call::{self, Call, required};
use crate::error::{Error, Result};
use crate::window::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

/// The texts of a row, by the numbers of the fields.
pub type Texts = [Option<String>; Field::ALL.len()];

/// 2000-01-01, where Postgres's microseconds begin.
const EPOCH: i64 = 946_684_800_000_000;

/// The call that a row tells of. Its tier is not among it: that is the account's.
///
/// # Errors
/// As `record_ai_usage` has them for arguments, and 22023 for text that is no value of the field.
pub fn call(texts: &Texts) -> Result<Box<Call>> {
    let text = |field: Field| texts[field as usize].clone();
    let count = |field: Field| call::count(whole(text(field), field.name())?, field.name());
    let attributes = json(text(Field::Attributes), Field::Attributes.name())?;
    let requests = count(Field::Requests)?.unwrap_or(1);
    if requests < 1 {
        return Err(Error::out_of_range("requests must be at least 1"));
    }
    let mut call = Box::new(Call {
        dimensions: Dimensions {
            tenant_id: uuid(text(Field::TenantId), Field::TenantId.name())?.unwrap_or_default(),
            user_id: uuid(text(Field::UserId), Field::UserId.name())?,
            feature: call::text(text(Field::Feature), Field::Feature.name())?,
            api_key_id: call::api_key_id(text(Field::ApiKeyId))?,
            run_id: call::text(text(Field::RunId), Field::RunId.name())?,
            attributes: call::attributes(attributes.as_ref())?,
            ..Dimensions::default()
        },
        requests,
        input_tokens: count(Field::InputTokens)?,
        output_tokens: count(Field::OutputTokens)?,
        cost_usd: cost(text(Field::CostUsd))?,
        ..Call::default()
    });
    call.set_model(text(Field::Model), text(Field::Provider))?;
    Ok(call)
}

/// The provider's usage object, for what no column says.
pub fn usage(texts: &Texts) -> Result<Option<serde_json::Value>> {
    json(texts[Field::Usage as usize].clone(), Field::Usage.name())
}

/// An instant as text, with its offset from UTC.
pub fn instant(text: Option<&str>) -> Result<Timestamp> {
    let text = required(text.map(str::trim).filter(|text| !text.is_empty()), "created_at")?;
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        Error::invalid("created_at is no instant")
            .detail("A text must be an ISO 8601 instant with its offset, as 2025-01-31T12:00:00Z.")
    })?;
    Ok(Timestamp(parsed.as_microsecond() - EPOCH))
}

fn uuid(text: Option<String>, what: &str) -> Result<Option<Uuid>> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let parsed = Uuid::parse_str(text.trim());
    parsed.map(Some).map_err(|_| Error::invalid(format!("{what} is no uuid")))
}

/// A whole number, also one that a column of another type has written with decimals or an exponent.
fn whole(text: Option<String>, what: &str) -> Result<Option<i64>> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    if let Ok(number) = text.trim().parse() {
        return Ok(Some(number));
    }
    let out_of_range = || Error::out_of_range(format!("{what} is out of range"));
    // More digits than a decimal has.
    if text.trim().trim_start_matches(['-', '+']).bytes().all(|b| b.is_ascii_digit()) {
        return Err(out_of_range());
    }
    let number = decimal(&text).filter(|number| number.fract().is_zero());
    let number = number.ok_or_else(|| Error::invalid(format!("{what} is no whole number")))?;
    i64::try_from(number.trunc()).map(Some).map_err(|_| out_of_range())
}

fn cost(text: Option<String>) -> Result<Option<Amount>> {
    let what = Field::CostUsd.name();
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    // As a column of floats writes small ones: 1.5e-05.
    let plain = match text.contains(['e', 'E']).then(|| decimal(&text)).flatten() {
        Some(number) => number.to_string(),
        None => text,
    };
    Amount::parse_charge(&plain, what).map(Some)
}

fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    text.parse().or_else(|_| Decimal::from_scientific(text)).ok()
}

fn json(text: Option<String>, what: &str) -> Result<Option<serde_json::Value>> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|_| Error::invalid(format!("{what} is no JSON")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn texts(given: &[(Field, &str)]) -> Texts {
        let mut texts = Texts::default();
        for (field, text) in given {
            texts[*field as usize] = Some((*text).to_owned());
        }
        texts
    }

    #[test]
    fn a_row_is_a_call() {
        let user = "a11ce000-0000-0000-0000-000000000000";
        let call = call(&texts(&[
            (Field::UserId, user),
            (Field::Model, "openai/gpt-4o-2024-08-06"),
            (Field::Feature, " chat "),
            (Field::InputTokens, "1200"),
            (Field::OutputTokens, "3e2"),
            (Field::CostUsd, "1.5e-05"),
            (Field::Attributes, r#"{"team": "core"}"#),
        ]))
        .unwrap();
        assert_eq!(call.dimensions.user_id, Some(user.parse().unwrap()));
        assert_eq!(call.dimensions.model.as_deref(), Some("gpt-4o"));
        assert_eq!(call.dimensions.provider.as_deref(), Some("openai"));
        assert_eq!(call.dimensions.feature.as_deref(), Some("chat"));
        assert_eq!((call.input_tokens, call.output_tokens), (Some(1200), Some(300)));
        assert_eq!(call.cost_usd.unwrap().to_string(), "0.000015");
        assert_eq!(call.requests, 1);
    }

    #[test]
    fn a_usage_object_is_given_as_it_is() {
        let given = texts(&[(Field::Usage, r#"{"prompt_tokens": 7}"#)]);
        assert_eq!(usage(&given).unwrap(), Some(serde_json::json!({"prompt_tokens": 7})));
        assert_eq!(usage(&Texts::default()).unwrap(), None);
        assert!(usage(&texts(&[(Field::Usage, "seven")])).is_err());
    }

    #[test]
    fn text_that_is_no_value_is_refused() {
        for (field, text) in [
            (Field::UserId, "42"),
            (Field::TenantId, "acme"),
            (Field::InputTokens, "many"),
            (Field::InputTokens, "1.5"),
            (Field::CostUsd, "$1.00"),
            (Field::CostUsd, "NaN"),
            (Field::Attributes, "team=core"),
            (Field::ApiKeyId, "sk-proj-abcdefghijklmnop"),
        ] {
            let error = call(&texts(&[(field, text)])).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidParameter, "{text}");
            assert!(!error.message.contains(text), "{error}");
        }
        for (field, text) in [
            (Field::InputTokens, "-1"),
            (Field::OutputTokens, "9999999999999999999999"),
            (Field::OutputTokens, "-99999999999999999999999999999999"),
            (Field::Requests, "0"),
            (Field::CostUsd, "-0.01"),
            (Field::CostUsd, "1e9"),
        ] {
            let error = call(&texts(&[(field, text)])).unwrap_err();
            assert_eq!(error.kind, Kind::OutOfRange, "{text}");
        }
    }

    #[test]
    fn an_instant_has_an_offset() {
        let new_year = Timestamp(789_004_800_000_000);
        for text in ["2025-01-01T00:00:00Z", "2025-01-01 01:00:00+01", " 2025-01-01T00:00:00.000Z "]
        {
            assert_eq!(instant(Some(text)).unwrap(), new_year, "{text}");
        }
        for text in ["2025-01-01 00:00:00", "yesterday", ""] {
            assert!(instant(Some(text)).is_err(), "{text}");
        }
        assert_eq!(instant(None).unwrap_err().kind, Kind::NullNotAllowed);
    }
}
