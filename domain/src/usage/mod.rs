//! What a call used, out of what its provider sent: the `usage` object alone, the whole response body,
//! a stream's events, or the attributes of an OpenTelemetry span.
//!
//! `body` finds the usage object, `stream` joins those of events, `shape` tells by its keys how it is
//! to be read, `number` refuses what is no count, `extract` reads it with the price catalogue's own
//! extractors, `beyond` and `own` read what those do not know, and `parts` sees to it that no token
//! is there twice. Wholes include their parts in what comes out: input the cached, output the reasoning.
//!
//! What is not told is not zero: it is absent. A usage that contradicts itself is an error, never a guess.

mod about;
mod beyond;
mod body;
mod extract;
mod number;
mod own;
mod parts;
mod shape;
mod stream;
mod telemetry;

use crate::error::{Error, Result};
use crate::pricing::Quantities;
use rust_decimal::Decimal;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the caller knows of the call; it decides where the keys leave a choice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hint<'a> {
    pub provider: Option<&'a str>,
    pub model: Option<&'a str>,
}

/// The catalogue that knows how a provider's usage is read.
pub trait Extractors {
    /// The calculator, and the provider's name in it; none if it does not know the provider.
    fn calculator(&self, provider: &str) -> Option<(&genai_prices::Calculator, &str)>;
}

/// What the response says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedUsage {
    /// Empty when nothing was told. No part exceeds its whole.
    pub quantities: Quantities,
    /// The model that answered.
    pub model: Option<String>,
    /// The provider, in the catalogue's spelling, where the response shows whose it is.
    pub provider: Option<String>,
    /// What prices depend on: `service_tier`, `processing` = `batch`.
    pub context: BTreeMap<String, String>,
    /// Whether the stream ended early, or the response tells only a part: more was used than is known.
    pub is_partial: bool,
    /// What the provider says that it cost: counts where not all has a price.
    pub reported_cost_usd: Option<Decimal>,
}

/// Reads what a provider sent.
///
/// # Errors
/// 22023 when the shape is unknown, a count is no whole number or a part exceeds its whole; 22003 when a
/// count is negative or beyond any call. The message names the field by its path.
pub fn read(body: &Value, hint: Hint, extractors: &dyn Extractors) -> Result<ReportedUsage> {
    refuse_error(body)?;
    let found = body::find(body)?;
    let about = about::about(&found, hint);
    let mut quantities = BTreeMap::new();
    let mut is_partial = found.is_interrupted;
    if let Some(usage) = found.usage.as_ref().filter(|usage| !usage.is_empty()) {
        let usage = shape::recognize(usage, &found, hint)?;
        quantities = match own::read(&usage, hint)? {
            Some(quantities) => quantities,
            None => extract::read(&usage, &about, hint, extractors)?,
        };
        beyond::add(&usage, &found, hint, &mut quantities)?;
        if quantities.is_empty() {
            return Err(Error::invalid("usage has no count that is known").hint(shape::KNOWN));
        }
        let (complete, is_incomplete) = parts::complete(quantities)?;
        quantities = complete;
        is_partial |= is_incomplete || usage.is_one_sided(&quantities);
    }
    let mut kept = Quantities::default();
    for (class, quantity) in &quantities {
        kept.set(*class, *quantity);
    }
    Ok(ReportedUsage {
        is_partial: is_partial || kept.is_empty(),
        quantities: kept,
        model: about.model,
        provider: about.provider,
        context: about.context,
        reported_cost_usd: about.reported_cost_usd,
    })
}

/// A call that the provider refused is not charged; the hold is given back, and not settled.
fn refuse_error(body: &Value) -> Result<()> {
    let is_error = body.get("error").is_some_and(|error| error.is_object() || error.is_string());
    let tells_usage = body.get("usage").is_some_and(Value::is_object);
    if is_error && !tells_usage {
        return Err(Error::invalid("usage is a provider's error")
            .hint("A refused call is not charged: use ai_limiter.release_ai_usage()."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::Catalog;
    use serde_json::json;

    #[test]
    fn an_error_is_no_usage_and_a_response_without_one_is() {
        let read = |body: Value| read(&body, Hint::default(), Catalog::bundled());
        for body in [
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            json!({"error": {"code": 429, "message": "quota"}}),
            json!({"error": "bad key"}),
        ] {
            assert_eq!(read(body).unwrap_err().message, "usage is a provider's error");
        }
        let usage = json!({"input_tokens": 3, "output_tokens": 1});
        assert!(read(json!({"object": "response", "error": null, "usage": usage.clone()})).is_ok());
        assert!(read(json!({"error": {"message": "late"}, "usage": usage})).is_ok());
    }
}
