//! The price catalogue: which models there are, under which names, and what they cost.
//!
//! A document in the format of `genai-prices` (its v2 data). That crate matches names and reads
//! responses, but shows totals only: prices are read from the document itself. All of it takes 80 ms to
//! decode, so a provider is decoded when it is first asked for (1 to 20 ms) and kept for the life of the
//! catalogue; [`Catalog::decode_all`] does it at once, for a process that others are forked from.
//! Immutable otherwise and shared between threads.
//!
//! [`Catalog::find`] tries the patterns of the provider's models one after the other: 1 to 50 µs, most
//! for OpenRouter's 900 models. Who calls it often keeps what it found.

use super::model_prices::ModelPrices;
use super::provider_names::{self, ProviderName};
use crate::error::{Error, Result};
use crate::usage::Extractors;
use genai_prices::{Calculator, ErrorKind, PriceRequest, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{LazyLock, OnceLock};

static BUNDLED: LazyLock<Catalog> = LazyLock::new(|| {
    let document = include_str!("../../catalog/prices.json");
    Catalog::new(Cow::Borrowed(document)).expect("the bundled catalogue is valid, as a test shows")
});

/// Longer names are no model's, and matching them would take long.
const LONGEST_NAME: usize = 512;

/// Who bills audio by the request, by provider, model and seconds, as the crate has it in its code.
const MINIMUM_AUDIO_SECONDS: [(&str, &str, i64); 2] =
    [("groq", "whisper-large-v3", 10), ("groq", "whisper-large-v3-turbo", 10)];

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

/// A model as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub id: String,
    pub name: Option<String>,
    pub context_window: Option<u64>,
    pub prices: ModelPrices,
}

struct Provider {
    id: String,
    name: String,
    /// Positions of those whose models this one sells too.
    lenders: Vec<usize>,
    models: Cow<'static, str>,
    decoded: OnceLock<Decoded>,
}

struct Decoded {
    /// Knows this provider's models by their position in `models`, followed by `lent`.
    matcher: Calculator,
    models: Vec<Model>,
    lent: Vec<Model>,
    unknown_price_keys: Vec<String>,
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
    pub fn from_json(json: impl Into<String>) -> Result<Self> {
        let json = json.into();
        Calculator::from_json(&json).map_err(not_valid)?;
        let catalog = Self::new(Cow::Owned(json))?;
        catalog.decode_all()?;
        Ok(catalog)
    }

    /// Reads a document that [`Catalog::from_json`] accepted before; its models are decoded when they
    /// are asked for.
    ///
    /// # Errors
    /// 22023 when it isn't that, here or when a model is asked for.
    pub fn from_accepted_json(json: impl Into<String>) -> Result<Self> {
        Self::new(Cow::Owned(json.into()))
    }

    fn new(json: Cow<'static, str>) -> Result<Self> {
        type Fields<'a> = BTreeMap<String, &'a RawValue>;
        // Only a document that lives for ever can be pointed into.
        let kept = |models: &str| match json {
            Cow::Borrowed(whole) => {
                let start = models.as_ptr().addr() - whole.as_ptr().addr();
                Cow::Borrowed(&whole[start..start + models.len()])
            }
            Cow::Owned(_) => Cow::Owned(models.to_owned()),
        };
        let documents: Vec<Fields> = serde_json::from_str(&json).map_err(not_valid)?;
        let mut providers = Vec::with_capacity(documents.len());
        let mut lenders: Vec<Option<Vec<String>>> = Vec::with_capacity(documents.len());
        let mut skeletons = Vec::with_capacity(documents.len());
        let any_name = RawValue::from_string(ANY_MODEL.to_owned()).map_err(not_valid)?;
        for mut fields in documents {
            let models = fields.insert("models".to_owned(), &any_name);
            let text = |key| {
                fields.get(key).map_or(Ok(String::new()), |json: &&RawValue| parsed(json.get()))
            };
            providers.push(Provider {
                id: text("id")?,
                name: text("name")?,
                lenders: Vec::new(),
                models: models.map_or(Cow::Borrowed("null"), |models| kept(models.get())),
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
            Err(error) if is_not_found(&error) => Ok(None),
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
        let decoded = self.decode(provider)?;
        Ok(provider.decoded.get_or_init(|| decoded))
    }

    fn decode(&self, provider: &Provider) -> Result<Decoded> {
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
                models.push(document.decode(&provider.id, unknown)?);
            }
            matchers.push(matcher_document(owner, &provider.lenders_of(&self.providers), &names)?);
            Ok::<_, Error>(models)
        };
        let models = decode(provider, &mut unknown)?;
        let mut lent = Vec::new();
        for lender in provider.lenders.iter().map(|index| &self.providers[*index]) {
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

impl Provider {
    fn lenders_of<'a>(&self, providers: &'a [Self]) -> Vec<&'a str> {
        self.lenders.iter().map(|index| providers[*index].id.as_str()).collect()
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

fn is_not_found(error: &genai_prices::Error) -> bool {
    matches!(error.kind(), ErrorKind::ModelNotFound | ErrorKind::ProviderNotFound)
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(not_valid)
}

fn not_valid(reason: impl ToString) -> Error {
    Error::invalid("price catalogue is not valid")
        .detail(reason.to_string())
        .hint("Give the whole document in the format of genai-prices' v2 data.")
}

fn not_matched(error: genai_prices::Error) -> Error {
    Error::invalid("model name cannot be matched").detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(provider: Option<&str>, model: &str) -> Option<(&'static str, &'static str)> {
        let found = Catalog::bundled().find(provider, model).unwrap();
        found.map(|found| (found.provider_id, found.model_id))
    }

    #[test]
    fn a_model_is_found_under_the_names_that_it_goes_by() {
        let openai = Some(("openai", "gpt-4o"));
        for (provider, model) in [
            (None, "gpt-4o"),
            (None, "GPT-4o "),
            (None, "openai/gpt-4o"),
            (None, "litellm/openai/gpt-4o"),
            (Some("openai"), "gpt-4o"),
            (Some("OpenAI"), "openai/gpt-4o"),
            (Some("openai.chat"), "gpt-4o"),
            (Some("litellm"), "openai/gpt-4o"),
            (Some("gateway"), "openai/gpt-4o"),
        ] {
            assert_eq!(found(provider, model), openai, "{provider:?} {model}");
        }
        for (provider, model) in [
            (None, "azure/gpt-4o"),
            (None, "azure/eu/gpt-4o"),
            (Some("azure.ai.openai"), "gpt-4o"),
            (Some("azure-openai.chat"), "azure/gpt-4o"),
        ] {
            assert_eq!(found(provider, model), Some(("azure", "gpt-4o")), "{provider:?} {model}");
        }
        for (provider, model) in
            [(None, "openrouter/openai/gpt-4o"), (Some("openrouter"), "openai/gpt-4o")]
        {
            let expected = Some(("openrouter", "openai/gpt-4o"));
            assert_eq!(found(provider, model), expected, "{provider:?} {model}");
        }
    }

    #[test]
    fn providers_are_known_by_the_names_of_opentelemetry_litellm_and_the_ai_sdk() {
        for (names, id) in [
            ("openai openai.responses text-completion-openai", Some("openai")),
            ("anthropic anthropic.messages", Some("anthropic")),
            ("azure.ai.openai azure.ai.inference azure_ai azure-openai", Some("azure")),
            ("aws.bedrock bedrock bedrock_converse amazon-bedrock", Some("aws")),
            ("gcp.gemini gcp.vertex_ai gcp.gen_ai gemini vertex_ai", Some("google")),
            ("google.generative-ai google.vertex.chat google-vertex", Some("google")),
            ("cohere cohere_chat cohere.chat", Some("cohere")),
            ("deepseek deepseek.chat", Some("deepseek")),
            ("groq groq.chat", Some("groq")),
            ("mistral mistral_ai mistral.chat codestral", Some("mistral")),
            ("perplexity", Some("perplexity")),
            ("x_ai xai x-ai xai.chat", Some("x-ai")),
            ("together_ai togetherai togetherai.chat", Some("together")),
            ("fireworks_ai fireworks fireworks.chat", Some("fireworks")),
            ("moonshot moonshotai", Some("moonshotai")),
            ("openrouter", Some("openrouter")),
            ("ibm.watsonx.ai watsonx ollama vllm my-own-server", None),
        ] {
            for name in names.split(' ') {
                let calculator = Catalog::bundled().calculator(name);
                assert_eq!(calculator.map(|(_, id)| id), id, "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_provider_or_model_is_not_guessed() {
        for (provider, model) in [
            (Some("my-own-server"), "gpt-4o"),
            (Some("ollama"), "gpt-4o"),
            (None, "ollama/claude-sonnet-4-5"),
            (None, "openai/no-such-model"),
            (None, ""),
            (None, "/"),
            (None, "///"),
            (Some("openai"), " "),
        ] {
            assert_eq!(found(provider, model), None, "{provider:?} {model}");
        }
        assert_eq!(found(Some("openai"), &"gpt-4o".repeat(1_000)), None);
    }

    #[test]
    fn who_sells_anothers_model_has_its_standard_prices_only() {
        let batch = [("processing", "batch")];
        let catalog = Catalog::bundled();
        let [maker, seller] = ["openai", "azure"]
            .map(|provider| catalog.find(Some(provider), "gpt-5.1").unwrap().unwrap().prices);
        let at = crate::window::Timestamp(850_000_000_000_000);
        assert_ne!(maker.at(at, &batch).unwrap(), maker.at(at, &[]).unwrap());
        assert_eq!(seller.at(at, &batch).unwrap(), maker.at(at, &[]).unwrap());
    }

    #[test]
    fn a_response_is_read_without_any_model() {
        let (calculator, id) = Catalog::bundled().calculator("anthropic").unwrap();
        let response = r#"{"model": "m", "usage": {"input_tokens": 3, "output_tokens": 4}}"#;
        let request = genai_prices::ExtractRequest::new(response).with_provider_id(id);
        let read = calculator.extract_provider_usage(&request).unwrap();
        assert_eq!(read.usage.get("input_tokens"), Some(3.0));
    }

    #[test]
    fn a_document_is_taken_whole_or_not_at_all() {
        let document = |models: &str| {
            format!(
                r#"[{{"id": "acme", "name": "Acme", "api_pattern": "acme", "models": [{models}]}}]"#
            )
        };
        let model = |prices: &str| {
            format!(r#"{{"id": "m", "match": {{"equals": "m"}}, "prices": {prices}}}"#)
        };
        for json in [
            String::new(),
            "{}".into(),
            "[{}]".into(),
            "[".repeat(100_000),
            document(r#"{"id": "m", "match": {"regex": "("}, "prices": {}}"#),
            document(&model(r#"{"input_mtok": -1}"#)),
            document(&model(r#"{"cache_read_mtok": 1}"#)),
            document(&model(r#"{"input_mtok": 0.00000000000000000000000000000000001}"#)),
            document(&model(r#"[{"prices": {}}, {"prices": {}}]"#)),
        ] {
            let error = Catalog::from_json(json.clone()).err();
            assert!(error.is_some_and(|error| error.hint.is_some()), "{:.200}", json);
        }
        let catalog =
            Catalog::from_json(document(&model(r#"{"input_mtok": 1, "sighs": 2}"#))).unwrap();
        assert_eq!(catalog.unknown_price_keys().unwrap(), ["acme/m: sighs"]);
        let found = catalog.find(Some("acme"), "m").unwrap();
        assert_eq!(found.map(|found| found.model_id), Some("m"));
    }
}
