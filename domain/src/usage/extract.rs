//! Reading with the price catalogue's extractors, one per provider and API, and setting right what they
//! take one way where providers do it both ways.
//!
//! An extractor demands input and output, and passes over what it cannot read. So a side that was not told
//! is put as 0 for it and taken out again, and `number` has looked at every count before.

use super::about::About;
use super::number::{AS_SENT, type_of};
use super::parts::Found;
use super::shape::{KNOWN, Shape, Usage};
use super::{Extractors, Hint};
use crate::error::{Error, Kind, Result};
use crate::pricing::Class;
use genai_prices::{Calculator, ErrorKind, ExtractRequest};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

/// Which of a provider's extractors read a shape, the likeliest first, and whose do when the call's own
/// provider has none for it.
struct Reader {
    flavors: &'static [&'static str],
    provider: &'static str,
    /// What they demand: where, and which class is told by it.
    demands: &'static [(&'static str, Class)],
}

const INPUT: Class = Class::INPUT_TOKENS;
const OUTPUT: Class = Class::OUTPUT_TOKENS;

fn reader(usage: &Usage) -> Reader {
    const CHAT: &[(&str, Class)] = &[("prompt_tokens", INPUT), ("completion_tokens", OUTPUT)];
    const RESPONSES: &[(&str, Class)] = &[("input_tokens", INPUT), ("output_tokens", OUTPUT)];
    let (flavors, provider, demands): (&'static [_], _, &'static [_]) = match usage.shape {
        Shape::Chat if usage.has("reasoning_tokens") => (&["default", "chat"], "openai", CHAT),
        Shape::Chat => (&["chat", "default"], "openai", CHAT),
        Shape::Responses if usage.at(&["input_tokens_details", "image_tokens"]).is_some() => {
            (&["images", "responses", "default"], "openai", RESPONSES)
        }
        Shape::Responses => (&["responses", "default"], "openai", RESPONSES),
        Shape::Anthropic => (&["anthropic", "default"], "anthropic", RESPONSES),
        Shape::Realtime => (&["realtime"], "openai", &[]),
        Shape::Voice => (&["realtime"], "x-ai", &[]),
        Shape::Gemini => (&["default"], "google", &[]),
        Shape::Cohere if usage.has("billed_units") => (&["default"], "cohere", RESPONSES),
        Shape::Cohere => (&["tokens"], "cohere", &[]),
        Shape::Duration => (&["live"], "openai", &[]),
        Shape::Pages => (&["ocr"], "mistral", &[]),
        Shape::Cursor => (
            &["usage-event"],
            "cursor",
            &[
                ("inputTokens", INPUT),
                ("outputTokens", OUTPUT),
                ("cacheReadTokens", Class::CACHE_READ_TOKENS),
                ("cacheWriteTokens", Class::CACHE_WRITE_TOKENS),
            ],
        ),
        _ => (&["default"], "aws", &[("inputTokens", INPUT), ("outputTokens", OUTPUT)]),
    };
    Reader { flavors, provider, demands }
}

/// What the catalogue's extractor finds.
///
/// # Errors
/// 22023 when none can read it, 55000 when the catalogue has none for a shape that is known.
pub fn read(
    usage: &Usage,
    about: &About,
    hint: Hint,
    extractors: &dyn Extractors,
) -> Result<Found> {
    check_lists(usage)?;
    let reader = reader(usage);
    let mut object = usage.object.clone().into_owned();
    let mut untold = Vec::new();
    {
        let wanted = match object.get_mut("billed_units") {
            Some(Value::Object(billed)) => billed,
            _ => &mut object,
        };
        for (key, class) in reader.demands {
            if wanted.get(*key).is_none_or(Value::is_null) {
                wanted.insert((*key).to_owned(), 0.into());
                untold.push(*class);
            }
        }
    }
    let body = wrapped(usage.shape, object);
    let own = hint.provider.or(about.provider.as_deref());
    let mut error = None;
    for provider in own.into_iter().chain([reader.provider]) {
        let Some((calculator, id)) = extractors.calculator(provider) else { continue };
        for flavor in reader.flavors {
            match extract(calculator, id, flavor, &body) {
                Ok(mut found) => {
                    for class in &untold {
                        if found.get(class).is_some_and(Decimal::is_zero) {
                            found.remove(class);
                        }
                    }
                    set_reasoning_right(
                        usage,
                        own,
                        about.model.as_deref().or(hint.model),
                        &mut found,
                    );
                    return Ok(found);
                }
                // The last one is that of the provider whose shape it is.
                Err(failed) => error = Some(failed),
            }
        }
    }
    Err(match error {
        None => Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("the price catalogue cannot read usage as {} sends it", reader.provider),
        )
        .hint("Load a catalogue that can, or pass input_tokens and output_tokens."),
        Some(error) => Error::invalid(format!("{} cannot be read", usage.path))
            .detail(format!("The price catalogue says: {error}."))
            .hint(KNOWN),
    })
}

/// Around the usage object what the extractor looks for it in.
fn wrapped(shape: Shape, usage: Map<String, Value>) -> Value {
    let usage = Value::Object(usage);
    match shape {
        Shape::Realtime => json!({"response": {"usage": usage}}),
        Shape::Gemini => json!({"usageMetadata": usage}),
        Shape::Pages => json!({"usage_info": usage}),
        Shape::Cursor => json!({"tokenUsage": usage}),
        _ => json!({"usage": usage}),
    }
}

fn extract(
    calculator: &Calculator,
    provider: &str,
    flavor: &str,
    body: &Value,
) -> std::result::Result<Found, String> {
    let request =
        ExtractRequest::from_value(body).with_provider_id(provider).with_api_flavor(flavor);
    let read = calculator.extract_provider_usage(&request).map_err(|error| match error.kind() {
        ErrorKind::ExtractorNotFound => format!("no extractor {flavor} of {provider}"),
        _ => error.to_string(),
    })?;
    let mut found = Found::new();
    for (key, number) in &read.usage {
        // A class that a newer catalogue has and this does not cannot be priced, and its whole can.
        if let Some(class) = Class::named(key.as_str()) {
            let quantity: Decimal = number.to_string().parse().map_err(|_| "not a number")?;
            found.insert(class, quantity.normalize());
        }
    }
    Ok(found)
}

/// A list of details tells each kind once: an extractor takes the first.
fn check_lists(usage: &Usage) -> Result<()> {
    let field = match usage.shape {
        Shape::Gemini => "modality",
        Shape::Converse => "ttl",
        _ => return Ok(()),
    };
    for (key, value) in usage.object.iter().filter(|(key, _)| key.ends_with("Details")) {
        let path = format!("{}.{key}", usage.path);
        let items = match value {
            Value::Array(items) => items,
            Value::Null => continue,
            other => {
                return Err(Error::invalid(format!(
                    "{path} must be an array, not {}",
                    type_of(other)
                ))
                .hint(AS_SENT));
            }
        };
        let mut kinds = std::collections::BTreeSet::new();
        for item in items {
            let Some(kind) = item.get(field).and_then(Value::as_str) else {
                return Err(Error::invalid(format!("an entry of {path} has no {field}")));
            };
            if !kinds.insert(kind) {
                return Err(Error::invalid(format!("{path} has two entries of one {field}")));
            }
        }
    }
    Ok(())
}

/// Reasoning is in `completion_tokens` (OpenAI) or beside them (xAI), whichever way the total adds up.
/// Google's OpenAI dialect tells thoughts in the total only.
fn set_reasoning_right(
    usage: &Usage,
    provider: Option<&str>,
    model: Option<&str>,
    found: &mut Found,
) {
    if usage.shape != Shape::Chat {
        return;
    }
    let whole = |keys: &[&str]| usage.at(keys).and_then(Value::as_f64);
    let (Some(prompt), Some(completion), Some(total)) =
        (whole(&["prompt_tokens"]), whole(&["completion_tokens"]), whole(&["total_tokens"]))
    else {
        return;
    };
    let decimal = |number: f64| number.to_string().parse().unwrap_or(Decimal::ZERO);
    let reasoning = whole(&["completion_tokens_details", "reasoning_tokens"]).unwrap_or(0.0);
    let sum = prompt + completion;
    let is_google = provider == Some("google")
        || model
            .is_some_and(|model| model.rsplit('/').next().unwrap_or(model).starts_with("gemini"));
    if reasoning > 0.0 && total == sum {
        found.insert(OUTPUT, decimal(completion));
    } else if reasoning > 0.0 && total == sum + reasoning {
        found.insert(OUTPUT, decimal(completion + reasoning));
    } else if reasoning == 0.0 && is_google && total > sum {
        found.insert(OUTPUT, decimal(total - prompt));
        found.insert(Class::OUTPUT_REASONING_TOKENS, decimal(total - sum));
    }
}
