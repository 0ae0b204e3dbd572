//! The price catalogue: which models there are, under which names, and what they cost.
//!
//! A document in the format of `genai-prices` (its v2 data). That crate matches names and reads
//! responses, but shows totals only: prices are read from the document itself. All of it takes 80 ms to
//! decode, so only the providers are read at first (4 ms) and the models of each when they are first
//! asked for (2 ms for OpenAI's, 23 ms for Azure's, who sells five others'; kept for the life of the
//! catalogue). [`Catalog::decode_all`] does it at once, for a process that others are forked from: 9 MB.
//! Immutable otherwise and shared between threads.
//!
//! [`Catalog::find`] tries the patterns of the provider's models one after the other: 1 to 10 µs, 20 µs
//! for OpenRouter's 900 models. Who calls it often keeps what it found; this keeps nothing, so that names
//! that callers make up take no memory.

use super::catalog_provider::{Decoded, Model, Provider, not_valid, parsed};
use super::model_prices::ModelPrices;
use super::provider_names::{self, ProviderName};
use crate::error::{Error, Result};
use crate::usage::Extractors;
use genai_prices::{Calculator, ErrorKind, PriceRequest, Usage};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

static BUNDLED: LazyLock<Catalog> = LazyLock::new(|| {
    let document = include_str!("../../catalog/prices.json");
    Catalog::new(document, Cow::Borrowed).expect("the bundled catalogue is valid, as a test shows")
});

/// Longer names are no model's, and matching them would take long.
const LONGEST_NAME: usize = 512;

/// All providers and models of one document.
pub struct Catalog {
    /// Every provider with what reads its responses, and one model that matches any name.
    providers_only: Calculator,
    providers: Vec<Provider>,
}

/// A model that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Whose price it is, not always who made the model: Azure sells OpenAI's.
    pub provider_id: &'a str,
    pub model_id: &'a str,
    pub prices: &'a ModelPrices,
}

impl Catalog {
    /// The one that this release came with; its models are decoded when they are asked for.
    #[must_use]
    pub fn bundled() -> &'static Self {
        &BUNDLED
    }

    /// Reads and validates a document as a whole.
    ///
    /// # Errors
    /// 22023 that says what is wrong.
    pub fn from_json(json: &str) -> Result<Self> {
        Calculator::from_json(json).map_err(not_valid)?;
        let catalog = Self::from_accepted_json(json)?;
        catalog.decode_all()?;
        Ok(catalog)
    }

    /// Reads a document that [`Catalog::from_json`] accepted before; its models are decoded when they
    /// are asked for.
    ///
    /// # Errors
    /// 22023 when it isn't that, here or when a model is asked for.
    pub fn from_accepted_json(json: &str) -> Result<Self> {
        Self::new(json, |part| Cow::Owned(part.to_owned()))
    }

    /// `keep` makes of a part of the document what stays.
    fn new<'a>(json: &'a str, keep: fn(&'a str) -> Cow<'static, str>) -> Result<Self> {
        type Fields<'a> = BTreeMap<String, &'a RawValue>;
        let documents: Vec<Fields> = parsed(json)?;
        let mut providers = Vec::with_capacity(documents.len());
        let mut lenders: Vec<Option<Vec<String>>> = Vec::with_capacity(documents.len());
        let mut skeletons = Vec::with_capacity(documents.len());
        let any_model: &RawValue = parsed(ANY_MODEL)?;
        for mut fields in documents {
            let models = fields.insert("models".to_owned(), any_model);
            let text = |key| {
                fields.get(key).map_or(Ok(String::new()), |json: &&RawValue| parsed(json.get()))
            };
            providers.push(Provider {
                id: text("id")?,
                name: text("name")?,
                lenders: Vec::new(),
                models: models.map_or(Cow::Borrowed("null"), |models| keep(models.get())),
                decoded: OnceLock::new(),
            });
            let sold = fields.get("fallback_model_providers");
            lenders.push(sold.map_or(Ok(None), |json| parsed(json.get()))?);
            skeletons.push(fields);
        }
        for (index, names) in lenders.iter().enumerate() {
            let position = |id: &String| providers.iter().position(|provider| provider.id == *id);
            providers[index].lenders = names.iter().flatten().filter_map(position).collect();
        }
        let skeletons = serde_json::to_vec(&skeletons).map_err(not_valid)?;
        let providers_only = Calculator::from_json(skeletons).map_err(not_valid)?;
        Ok(Self { providers_only, providers })
    }

    /// Decodes every provider that isn't yet.
    ///
    /// # Errors
    /// 22023 when a price is not valid.
    pub fn decode_all(&self) -> Result<()> {
        (0..self.providers.len()).try_for_each(|index| self.decoded(index).map(drop))
    }

    /// The price keys of the document that this release has no class for, with provider and model.
    ///
    /// # Errors
    /// As [`Catalog::decode_all`].
    pub fn unknown_price_keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for index in 0..self.providers.len() {
            keys.extend(self.decoded(index)?.unknown_price_keys.iter().cloned());
        }
        Ok(keys)
    }

    /// Every provider's id and every model of its own.
    ///
    /// # Errors
    /// As [`Catalog::decode_all`].
    pub fn models(&self) -> Result<impl Iterator<Item = (&str, &Model)>> {
        self.decode_all()?;
        Ok(self.providers.iter().flat_map(|provider| {
            let models = provider.decoded.get().map_or(&[][..], |decoded| &decoded.models[..]);
            models.iter().map(|model| (provider.id.as_str(), model))
        }))
    }

    /// Every provider's id and name.
    pub fn providers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.providers.iter().map(|provider| (provider.id.as_str(), provider.name.as_str()))
    }

    /// What reads this provider's responses, and its id there. Only `extract_provider_usage`: no model
    /// can be found with it.
    #[must_use]
    pub fn calculator(&self, provider: &str) -> Option<(&Calculator, &str)> {
        match self.provider(provider) {
            Lookup::Found(index) => Some((&self.providers_only, self.providers[index].id.as_str())),
            Lookup::NotGiven | Lookup::NotPriced | Lookup::Unknown => None,
        }
    }

    /// The model of this name: as given, else without the provider's prefix, else its last segment.
    /// Without a provider the prefix says it, else the catalogue guesses from the name; an unknown
    /// provider has no models.
    ///
    /// # Errors
    /// 22023 when the name cannot be matched, or a price of the provider's is not valid.
    pub fn find(&self, provider: Option<&str>, model: &str) -> Result<Option<Found<'_>>> {
        let model = model.trim();
        if model.is_empty() || model.len() > LONGEST_NAME {
            return Ok(None);
        }
        let prefix =
            model.split_once('/').filter(|(prefix, rest)| !prefix.is_empty() && !rest.is_empty());
        let prefixed = prefix.map(|(prefix, rest)| (self.provider(prefix), rest));
        let index = match provider.map_or(Lookup::NotGiven, |name| self.provider(name)) {
            Lookup::Found(index) => index,
            Lookup::NotPriced | Lookup::Unknown => return Ok(None),
            Lookup::NotGiven => match prefixed {
                Some((Lookup::Found(index), _)) => index,
                // A proxy's prefix hides another: litellm/openai/gpt-4o.
                Some((Lookup::NotGiven, rest)) => return self.find(None, rest),
                Some((Lookup::NotPriced, _)) => return Ok(None),
                Some((Lookup::Unknown, _)) | None => match self.guessed(model)? {
                    Some(index) => index,
                    None => return Ok(None),
                },
            },
        };
        let last = model.rsplit_once('/').map(|(_, last)| last).filter(|last| !last.is_empty());
        let mut tried = "";
        for name in [Some(model), prefixed.map(|(_, rest)| rest), last].into_iter().flatten() {
            // A prefix that names another provider is a part of the name, as in OpenRouter's.
            if name == tried {
                continue;
            }
            if let Some(found) = self.find_as(index, name)? {
                return Ok(Some(found));
            }
            tried = name;
        }
        Ok(None)
    }

    fn find_as(&self, index: usize, name: &str) -> Result<Option<Found<'_>>> {
        let decoded = self.decoded(index)?;
        let provider_id = self.providers[index].id.as_str();
        let usage = Usage::new();
        let request = PriceRequest::new(name, &usage).with_provider_id(provider_id);
        let position = match decoded.matcher.calculate(&request) {
            Ok(calculation) => calculation.model_id.parse::<usize>().ok(),
            Err(error) if is_not_found(&error) => None,
            Err(error) => return Err(not_matched(error)),
        };
        let model = position.and_then(|at| decoded.models.iter().chain(&decoded.lent).nth(at));
        Ok(model.map(|model| Found { provider_id, model_id: &model.id, prices: &model.prices }))
    }

    fn guessed(&self, model: &str) -> Result<Option<usize>> {
        let usage = Usage::new();
        match self.providers_only.calculate(&PriceRequest::new(model, &usage)) {
            Ok(found) => Ok(self.position(&found.provider_id)),
            Err(error) if is_not_found(&error) => {
                Ok(provider_names::maker(model).and_then(|id| self.position(id)))
            }
            Err(error) => Err(not_matched(error)),
        }
    }

    fn provider(&self, name: &str) -> Lookup {
        let name = name.trim().to_lowercase();
        if name.is_empty() {
            return Lookup::NotGiven;
        }
        if name.len() > LONGEST_NAME {
            return Lookup::Unknown;
        }
        for name in [Some(name.as_str()), provider_names::without_api(&name)].into_iter().flatten()
        {
            match provider_names::meaning(name) {
                ProviderName::Proxy => return Lookup::NotGiven,
                ProviderName::NotPriced => return Lookup::NotPriced,
                ProviderName::Named(name) => {
                    // A pattern that gives up on a name doesn't match it.
                    let found = self.providers_only.find_provider(Some(name), None).ok().flatten();
                    if let Some(index) = found.and_then(|found| self.position(found.id())) {
                        return Lookup::Found(index);
                    }
                }
            }
        }
        Lookup::Unknown
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.providers.iter().position(|provider| provider.id == id)
    }

    fn decoded(&self, index: usize) -> Result<&Decoded> {
        let provider = &self.providers[index];
        if let Some(decoded) = provider.decoded.get() {
            return Ok(decoded);
        }
        let decoded = provider.decode(&self.providers)?;
        Ok(provider.decoded.get_or_init(|| decoded))
    }
}

impl Extractors for Catalog {
    fn calculator(&self, provider: &str) -> Option<(&Calculator, &str)> {
        Catalog::calculator(self, provider)
    }
}

/// Which provider a name is of.
#[derive(Clone, Copy)]
enum Lookup {
    NotGiven,
    NotPriced,
    Unknown,
    Found(usize),
}

const ANY_MODEL: &str = r#"[{"id":"any","match":{"starts_with":""},"prices":{}}]"#;

fn is_not_found(error: &genai_prices::Error) -> bool {
    matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ProviderNotFound)
}

fn not_matched(error: genai_prices::Error) -> Error {
    Error::invalid("model name cannot be matched").detail(error.to_string())
}
