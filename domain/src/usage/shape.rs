//! What a usage object is, by its keys: whose spelling, and what counts beside what.
//!
//! Spellings are shared: most providers speak OpenAI's. The keys decide; only where they leave a choice
//! does the caller's hint.

use super::body::{Found, Located, Place};
use super::{Hint, number, parts};
use crate::error::{Error, Result};
use crate::pricing::Class;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// For the hint of an error.
pub const KNOWN: &str = "Pass the usage object or the whole response as the provider sent it; it has \
    prompt_tokens or input_tokens, usageMetadata, inputTokens, meta.billed_units or gen_ai.usage.*.";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// OpenAI's chat completions and embeddings, and everybody who speaks them: `prompt_tokens`.
    Chat,
    /// OpenAI's responses, images and speech: `input_tokens`, `input_tokens_details`.
    Responses,
    /// `input_tokens` without the cached, which are beside it.
    Anthropic,
    /// OpenAI's realtime and transcription: `input_token_details`.
    Realtime,
    /// xAI's voice: `billable_audio_seconds`.
    Voice,
    /// `promptTokenCount`.
    Gemini,
    /// Bedrock's Converse and what is spelled like it: `inputTokens`.
    Converse,
    /// Cohere's `billed_units`, `tokens`.
    Cohere,
    /// `seconds` of audio.
    Duration,
    /// Mistral's `pages_processed`.
    Pages,
    /// Cursor's `cacheReadTokens` beside `inputTokens`.
    Cursor,
    /// Titan on Bedrock: `inputTextTokenCount`.
    Titan,
    /// Llama on Bedrock, and Ollama.
    Generation,
    /// The AI SDK's: `cachedInputTokens`, `inputTokenDetails`.
    Sdk,
    Telemetry,
    /// `total_tokens` alone, of embeddings.
    TotalOnly,
    /// The classes' own names.
    Classes,
}

/// A usage object that is known by its shape.
pub struct Usage<'a> {
    pub shape: Shape,
    pub object: Cow<'a, Map<String, Value>>,
    pub path: &'a str,
}

impl Usage<'_> {
    pub fn has(&self, key: &str) -> bool {
        has(&self.object, key)
    }

    /// The value at these keys, if it is there and not null.
    pub fn at(&self, keys: &[&str]) -> Option<&Value> {
        let mut value = self.object.get(*keys.first()?)?;
        for key in &keys[1..] {
            value = value.get(*key)?;
        }
        Some(value).filter(|value| !value.is_null())
    }

    /// Whether an answer's tokens are known of one side only, where such a shape tells both.
    pub fn is_one_sided(&self, found: &parts::Found) -> bool {
        let input = found.contains_key(&Class::INPUT_TOKENS);
        let output = found.contains_key(&Class::OUTPUT_TOKENS);
        match self.shape {
            // Embeddings have no output.
            _ if input == output => false,
            Shape::Anthropic | Shape::Responses => true,
            Shape::Realtime | Shape::Telemetry => !input,
            Shape::Chat | Shape::Gemini | Shape::Converse | Shape::Generation => !input,
            _ => false,
        }
    }
}

fn has(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).is_some_and(|value| !value.is_null())
}

fn any(object: &Map<String, Value>, keys: &[&str]) -> bool {
    keys.iter().any(|key| has(object, key))
}

/// Whether an object is itself a usage object.
pub fn is_usage(object: &Map<String, Value>) -> bool {
    // A stream may have many thousand events that are none: most are told by this alone.
    object.keys().any(|key| number::is_of_usage(key))
        && (of_keys(object).is_some() || has(object, "total_tokens"))
}

fn of_keys(usage: &Map<String, Value>) -> Option<Shape> {
    const GEMINI: [&str; 7] = [
        "promptTokenCount",
        "candidatesTokenCount",
        "responseTokenCount",
        "totalTokenCount",
        "thoughtsTokenCount",
        "toolUsePromptTokenCount",
        "cachedContentTokenCount",
    ];
    const GEMINI_SNAKE: [&str; 6] = [
        "candidates_token_count",
        "response_token_count",
        "total_token_count",
        "thoughts_token_count",
        "tool_use_prompt_token_count",
        "cached_content_token_count",
    ];
    const ANTHROPIC: [&str; 4] =
        ["cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "iterations"];
    const SDK: [&str; 8] = [
        "cachedInputTokens",
        "reasoningTokens",
        "inputTokenDetails",
        "outputTokenDetails",
        "inputTokensDetails",
        "outputTokensDetails",
        "promptTokens",
        "completionTokens",
    ];
    let has_tokens = any(usage, &["input_tokens", "output_tokens"]);
    Some(if any(usage, &GEMINI) || any(usage, &GEMINI_SNAKE) {
        Shape::Gemini
    } else if has(usage, "billed_units") || usage.get("tokens").is_some_and(Value::is_object) {
        Shape::Cohere
    } else if any(usage, &["prompt_tokens", "completion_tokens"]) {
        Shape::Chat
    } else if has(usage, "billable_audio_seconds") {
        Shape::Voice
    } else if any(usage, &["input_token_details", "output_token_details"]) {
        Shape::Realtime
    } else if any(usage, &ANTHROPIC) || (has_tokens && has(usage, "server_tool_use")) {
        Shape::Anthropic
    } else if has_tokens || any(usage, &["input_tokens_details", "output_tokens_details"]) {
        Shape::Responses
    } else if any(usage, &["cacheReadTokens", "cacheWriteTokens"]) {
        Shape::Cursor
    } else if any(usage, &SDK) {
        Shape::Sdk
    } else if any(usage, &["inputTokens", "outputTokens", "inputTokenCount", "outputTokenCount"]) {
        Shape::Converse
    } else if has(usage, "inputTextTokenCount") {
        Shape::Titan
    } else if any(
        usage,
        &["prompt_token_count", "generation_token_count", "prompt_eval_count", "eval_count"],
    ) {
        Shape::Generation
    } else if has(usage, "pages_processed") {
        Shape::Pages
    } else if has(usage, "seconds") {
        Shape::Duration
    } else if usage.keys().any(|key| Class::named(key).is_some() && has(usage, key)) {
        Shape::Classes
    } else {
        return None;
    })
}

/// Says what a usage object is, and spells it as its extractor expects.
///
/// # Errors
/// 22023 when no key is known, or only a total that may be input or output.
pub fn recognize<'a>(located: &'a Located<'a>, found: &Found, hint: Hint) -> Result<Usage<'a>> {
    let object = Cow::Borrowed(&*located.usage);
    let path = located.path.as_str();
    if located.place == Place::Telemetry {
        return Ok(Usage { shape: Shape::Telemetry, object, path });
    }
    let shape = match of_keys(&object) {
        Some(shape) => shape,
        None if has(&object, "total_tokens") && is_embedding(found, hint) => Shape::TotalOnly,
        None if has(&object, "total_tokens") => {
            return Err(Error::invalid(format!("{path} tells only total_tokens"))
                .detail("Input and output cost differently.")
                .hint(
                    "Pass input_tokens and output_tokens, or the model if it is an embedding's.",
                ));
        }
        None => {
            return Err(Error::invalid(format!("{path} has no count that is known")).hint(KNOWN));
        }
    };
    let object = match shape {
        Shape::Gemini | Shape::Converse => respelled(object),
        Shape::Anthropic => with_iterations(object, path)?,
        _ => object,
    };
    Ok(Usage { shape, object, path })
}

/// Whether nothing but input can have been used.
fn is_embedding(found: &Found, hint: Hint) -> bool {
    let speaks = |name: &str| {
        let name = name.to_lowercase();
        name.contains("voyage") || name.contains("jina") || name.contains("embed")
    };
    let is_list = found.text("object") == Some("list");
    let model = found.text("model").or(hint.model);
    is_list || hint.provider.is_some_and(speaks) || model.is_some_and(speaks)
}

/// Spellings of SDKs, older models and live sessions, as today's responses have them.
fn respelled(object: Cow<Map<String, Value>>) -> Cow<Map<String, Value>> {
    const TODAY: [(&str, &str); 18] = [
        ("responseTokenCount", "candidatesTokenCount"),
        ("responseTokensDetails", "candidatesTokensDetails"),
        ("prompt_token_count", "promptTokenCount"),
        ("candidates_token_count", "candidatesTokenCount"),
        ("response_token_count", "candidatesTokenCount"),
        ("thoughts_token_count", "thoughtsTokenCount"),
        ("total_token_count", "totalTokenCount"),
        ("cached_content_token_count", "cachedContentTokenCount"),
        ("tool_use_prompt_token_count", "toolUsePromptTokenCount"),
        ("prompt_tokens_details", "promptTokensDetails"),
        ("candidates_tokens_details", "candidatesTokensDetails"),
        ("response_tokens_details", "candidatesTokensDetails"),
        ("cache_tokens_details", "cacheTokensDetails"),
        ("tool_use_prompt_tokens_details", "toolUsePromptTokensDetails"),
        ("inputTokenCount", "inputTokens"),
        ("outputTokenCount", "outputTokens"),
        ("cacheReadInputTokenCount", "cacheReadInputTokens"),
        ("cacheWriteInputTokenCount", "cacheWriteInputTokens"),
    ];
    if !TODAY.iter().any(|(old, new)| has(&object, old) && !has(&object, new)) {
        return object;
    }
    let mut object = object.into_owned();
    for (old, new) in TODAY {
        if has(&object, old)
            && !has(&object, new)
            && let Some(mut value) = object.remove(old)
        {
            for item in value.as_array_mut().into_iter().flatten() {
                if let Some(count) = item.get("token_count").cloned()
                    && let Some(item) = item.as_object_mut()
                {
                    item.insert("tokenCount".into(), count);
                }
            }
            object.insert(new.into(), value);
        }
    }
    Cow::Owned(object)
}

/// Anthropic bills each iteration of a call that was compacted on the way; its total leaves them out.
fn with_iterations<'a>(
    object: Cow<'a, Map<String, Value>>,
    path: &str,
) -> Result<Cow<'a, Map<String, Value>>> {
    const COUNTS: [&str; 4] =
        ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];
    let iterations = match object.get("iterations") {
        None | Some(Value::Null) => return Ok(object),
        Some(Value::Array(iterations)) => iterations,
        Some(_) => return Err(Error::invalid(format!("{path}.iterations must be an array"))),
    };
    let kind = |iteration: &Value| iteration.get("type").and_then(Value::as_str).map(str::to_owned);
    if iterations.iter().any(|iteration| kind(iteration).as_deref() == Some("advisor_message")) {
        return Err(Error::invalid(format!("{path}.iterations has the usage of a second model"))
            .detail("An advisor's tokens are billed at the advisor's prices, not at the model's.")
            .hint("Pass cost_usd, or record the advisor's usage as a call of its own."));
    }
    if !iterations.iter().any(|iteration| kind(iteration).as_deref() == Some("compaction")) {
        return Ok(object);
    }
    let mut summed = object.clone().into_owned();
    let of = |iteration: &Value, keys: &[&str]| {
        keys.iter().try_fold(iteration, |value, key| value.get(*key)).and_then(Value::as_f64)
    };
    // Every one was checked to be a count, and the sums are again.
    for name in COUNTS {
        let sum: f64 = iterations.iter().filter_map(|iteration| of(iteration, &[name])).sum();
        summed.insert(name.into(), Value::from(sum));
    }
    let mut lifetimes = Map::new();
    for name in ["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"] {
        let told =
            iterations.iter().filter_map(|iteration| of(iteration, &["cache_creation", name]));
        lifetimes.insert(name.into(), Value::from(told.sum::<f64>()));
    }
    summed.insert("cache_creation".into(), lifetimes.into());
    Ok(Cow::Owned(summed))
}
