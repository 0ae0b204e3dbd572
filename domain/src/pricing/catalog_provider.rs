//! One provider of the catalogue: a part of the document, and what is read from it when it is asked for.
//!
//! The `genai-prices` crate matches names with models, but doesn't show which document it took a model
//! from, nor its prices. So it is given the models with their positions for ids and without prices.

use super::model_prices::ModelPrices;
use crate::error::{Error, Result};
use genai_prices::Calculator;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::OnceLock;

/// Who bills audio by the request, by provider, model and seconds, as the crate has it in its code.
const MINIMUM_AUDIO_SECONDS: [(&str, &str, i64); 2] =
    [("groq", "whisper-large-v3", 10), ("groq", "whisper-large-v3-turbo", 10)];

/// A model without prices is free in the catalogue, or its price is not known: only this end of a name
/// says which, OpenRouter's own mark.
const FREE: &str = ":free";

/// A model as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub id: String,
    pub name: Option<String>,
    pub context_window: Option<u64>,
    pub prices: ModelPrices,
}

/// A provider, its models not yet read.
pub struct Provider {
    pub id: String,
    pub name: String,
    /// Positions of those whose models this one sells too.
    pub lenders: Vec<usize>,
    pub models: Cow<'static, str>,
    pub decoded: OnceLock<Decoded>,
}

/// A provider's models.
pub struct Decoded {
    /// Knows this provider's models by their position in `models`, followed by `lent`.
    pub matcher: Calculator,
    pub models: Vec<Model>,
    pub lent: Vec<Model>,
    pub unknown_price_keys: Vec<String>,
}

#[derive(Deserialize)]
struct ModelDocument<'a> {
    id: String,
    name: Option<String>,
    context_window: Option<u64>,
    #[serde(borrow, rename = "match")]
    match_logic: &'a RawValue,
    #[serde(borrow)]
    prices: Option<&'a RawValue>,
    #[serde(borrow)]
    price_variants: Option<&'a RawValue>,
}

impl Provider {
    /// Reads its models and their prices, and those that it sells for others.
    pub fn decode(&self, providers: &[Self]) -> Result<Decoded> {
        let lenders: Vec<&str> =
            self.lenders.iter().map(|index| providers[*index].id.as_str()).collect();
        let (mut unknown, mut matchers) = (Vec::new(), Vec::new());
        let mut position = 0;
        let mut decode = |owner: &Provider, unknown: &mut Vec<String>| {
            let documents: Option<Vec<ModelDocument>> = parsed(&owner.models)?;
            let mut names = Vec::new();
            let mut models = Vec::new();
            for document in documents.unwrap_or_default() {
                names.push(format!(
                    r#"{{"id":"{position}","match":{},"prices":{{}}}}"#,
                    document.match_logic.get()
                ));
                position += 1;
                models.push(document.decode(&self.id, unknown)?);
            }
            matchers.push(matcher_document(owner, &lenders, &names)?);
            Ok::<_, Error>(models)
        };
        let models = decode(self, &mut unknown)?;
        let mut lent = Vec::new();
        for lender in self.lenders.iter().map(|index| &providers[*index]) {
            let theirs = decode(lender, &mut Vec::new())?;
            lent.extend(
                theirs.into_iter().map(|m| Model { prices: m.prices.standard_only(), ..m }),
            );
        }
        let matcher =
            Calculator::from_json(format!("[{}]", matchers.join(","))).map_err(not_valid)?;
        Ok(Decoded { matcher, models, lent, unknown_price_keys: unknown })
    }
}

impl ModelDocument<'_> {
    fn decode(self, seller_id: &str, unknown: &mut Vec<String>) -> Result<Model> {
        let mut keys = Vec::new();
        let prices = ModelPrices::from_json(self.prices, self.price_variants, &mut keys);
        let mut prices = prices.map_err(|error| {
            let detail = match &error.detail {
                Some(detail) => format!("{}: {detail}", error.message),
                None => error.message.clone(),
            };
            not_valid(format!("Model {} of {seller_id}: {detail}", self.id))
        })?;
        unknown.extend(keys.into_iter().map(|key| format!("{seller_id}/{}: {key}", self.id)));
        for (provider, model, seconds) in MINIMUM_AUDIO_SECONDS {
            if (provider, model) == (seller_id, self.id.as_str()) {
                prices.set_minimum_audio_seconds(seconds);
            }
        }
        if self.id.ends_with(FREE) {
            prices.set_free_without_prices();
        }
        Ok(Model { id: self.id, name: self.name, context_window: self.context_window, prices })
    }
}

fn matcher_document(owner: &Provider, lenders: &[&str], models: &[String]) -> Result<String> {
    Ok(format!(
        r#"{{"id":{},"name":"-","api_pattern":"-","fallback_model_providers":{},"models":[{}]}}"#,
        serde_json::to_string(&owner.id).map_err(not_valid)?,
        serde_json::to_string(lenders).map_err(not_valid)?,
        models.join(",")
    ))
}

/// Reads a part of the document.
pub fn parsed<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(not_valid)
}

pub fn not_valid(reason: impl ToString) -> Error {
    Error::invalid("price catalogue is not valid")
        .detail(reason.to_string())
        .hint("Give the whole document in the format of genai-prices' v2 data.")
}
