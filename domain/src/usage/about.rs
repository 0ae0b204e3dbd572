//! What a response says of itself besides counts: model, provider, tier, batch, and what it cost.

use super::body::{Found, Located, Place};
use super::number::decimal;
use super::{Hint, telemetry};
use crate::call::MAX_TEXT;
use rust_decimal::Decimal;
use serde_json::Value;
use std::collections::BTreeMap;

/// xAI counts dollars in these.
const TICKS_PER_USD: i64 = 10_000_000_000;

#[derive(Debug, Default)]
pub struct About {
    pub model: Option<String>,
    pub provider: Option<String>,
    pub context: BTreeMap<String, String>,
    pub reported_cost_usd: Option<Decimal>,
}

pub fn about(found: &Found, hint: Hint) -> About {
    let empty = serde_json::Map::new();
    let usage = found.usage.as_ref().map_or(&empty, |located| &*located.usage);
    let in_usage = |key: &str| usage.get(key).and_then(Value::as_str);
    let model = ["gen_ai.response.model", "gen_ai.request.model"]
        .iter()
        .find_map(|key| in_usage(key))
        .or_else(|| found.text("model"))
        .or_else(|| found.text("modelVersion"))
        .or_else(|| found.text("model_version"))
        .filter(|model| is_name(model))
        .map(str::to_owned);
    let provider = provider(found, model.as_deref().or(hint.model));
    let mut context = BTreeMap::new();
    if let Some(tier) = service_tier(found).filter(|tier| is_name(tier) && tier != "auto") {
        context.insert("service_tier".to_owned(), tier);
    }
    if found.is_batch || context.get("service_tier").is_some_and(|tier| tier == "batch") {
        context.insert("processing".to_owned(), "batch".to_owned());
    }
    for key in ["speed", "inference_geo"] {
        if let Some(text) = in_usage(key).filter(|text| is_name(text)) {
            context.insert(key.to_owned(), text.to_lowercase());
        }
    }
    About { model, provider, context, reported_cost_usd: cost(found) }
}

/// A name is short; what is not is none, and not worth an error.
fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.chars().count() <= MAX_TEXT
}

/// The tier that served the call, as the catalogue's conditions spell it.
fn service_tier(found: &Found) -> Option<String> {
    let usage = found.usage.as_ref();
    let in_usage = |key: &str| usage.and_then(|located| located.usage.get(key));
    let told = in_usage("service_tier")
        .or_else(|| found.told("service_tier"))
        .or_else(|| in_usage("serviceTier"))
        .or_else(|| found.told("serviceTier"));
    let told = match told {
        // Bedrock's.
        Some(Value::Object(tier)) => tier.get("type").and_then(Value::as_str),
        Some(tier) => tier.as_str(),
        None => None,
    };
    let traffic = in_usage("trafficType").and_then(Value::as_str);
    told.map(str::to_lowercase).or_else(|| match traffic? {
        "ON_DEMAND_PRIORITY" => Some("priority".to_owned()),
        "ON_DEMAND_FLEX" => Some("flex".to_owned()),
        "PROVISIONED_THROUGHPUT" => Some("provisioned_throughput".to_owned()),
        _ => None,
    })
}

/// Whose response it is, where something in it is only one provider's. Who speaks another's dialect
/// without a sign of its own is not told apart: the call's provider, or its model, says it.
fn provider(found: &Found, model: Option<&str>) -> Option<String> {
    let located = found.usage.as_ref()?;
    let has = |key: &str| located.usage.get(key).is_some_and(|value| !value.is_null());
    let id = found.text("id").unwrap_or_default();
    let starts = |prefix: &str| model.is_some_and(|model| model.starts_with(prefix));
    Some(match located {
        Located { place: Place::Telemetry, usage, .. } => {
            let name = usage.get("gen_ai.provider.name").or_else(|| usage.get("gen_ai.system"))?;
            return name.as_str().filter(|name| is_name(name)).map(telemetry::provider);
        }
        Located { place: Place::Metadata, .. } => "google".to_owned(),
        Located { place: Place::InvocationMetrics, .. } => "aws".to_owned(),
        _ if has("cost_details") || has("is_byok") => "openrouter".to_owned(),
        _ if has("cost_in_usd_ticks") || has("num_sources_used") || starts("grok") => {
            "x-ai".to_owned()
        }
        _ if has("prompt_cache_hit_tokens") => "deepseek".to_owned(),
        _ if has("citation_tokens") || has("num_search_queries") || has("search_context_size") => {
            "perplexity".to_owned()
        }
        _ if found.told("x_groq").is_some() => "groq".to_owned(),
        _ if has("inputTokens") && found.told("metrics").is_some() => "aws".to_owned(),
        _ if id.starts_with("msg_bdrk_") => "aws".to_owned(),
        _ if id.starts_with("msg_vrtx_") => "google".to_owned(),
        _ if id.starts_with("msg_") && starts("claude") => "anthropic".to_owned(),
        _ => return None,
    })
}

/// The provider's own word for the price. One that makes no sense is left out: nothing depends on it.
fn cost(found: &Found) -> Option<Decimal> {
    let usage = &found.usage.as_ref()?.usage;
    // With a key of one's own OpenRouter tells its fee, and the provider bills the rest.
    if usage.get("is_byok").and_then(Value::as_bool) == Some(true) {
        return None;
    }
    let number = |value: &Value| match value {
        Value::Number(number) => decimal(number),
        _ => None,
    };
    let cost = match usage.get("cost") {
        // Perplexity's.
        Some(Value::Object(cost)) => cost.get("total_cost").and_then(number),
        Some(cost) => number(cost),
        None => None,
    };
    let ticks = || usage.get("cost_in_usd_ticks").and_then(number);
    cost.or_else(|| ticks()?.checked_div(TICKS_PER_USD.into()))
        .or_else(|| usage.get("estimated_cost").and_then(number))
        .filter(|cost| !cost.is_sign_negative())
}
