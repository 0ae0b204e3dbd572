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
    /// What the provider says that it cost. Nothing is computed from it.
    pub reported_cost_usd: Option<Decimal>,
}

/// Reads what a provider sent.
///
/// # Errors
/// 22023 when the shape is unknown, a count is no whole number or a part exceeds its whole; 22003 when a
/// count is negative or beyond any call. The message names the field by its path.
pub fn read(body: &Value, hint: Hint, extractors: &dyn Extractors) -> Result<ReportedUsage> {
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
