//! Shapes that the catalogue has no extractor for.

use super::Hint;
use super::number::{Path, count, quantity};
use super::parts::Found;
use super::shape::{Shape, Usage};
use super::telemetry;
use crate::error::Result;
use crate::pricing::Class;
use rust_decimal::Decimal;
use serde_json::Value;

/// The AI SDK's counts.
const SDK: [(Class, &[&[&str]]); 5] = [
    (Class::INPUT_TOKENS, &[&["inputTokens"], &["promptTokens"]]),
    (Class::OUTPUT_TOKENS, &[&["outputTokens"], &["completionTokens"]]),
    (
        Class::CACHE_READ_TOKENS,
        &[
            &["inputTokenDetails", "cacheReadTokens"],
            &["cachedInputTokens"],
            &["inputTokensDetails", "cachedTokens"],
        ],
    ),
    (
        Class::CACHE_WRITE_TOKENS,
        &[&["inputTokenDetails", "cacheWriteTokens"], &["inputTokensDetails", "cacheWriteTokens"]],
    ),
    (
        Class::OUTPUT_REASONING_TOKENS,
        &[
            &["outputTokenDetails", "reasoningTokens"],
            &["reasoningTokens"],
            &["outputTokensDetails", "reasoningTokens"],
        ],
    ),
];

/// Llama's on Bedrock, then Ollama's.
const GENERATION: [(Class, &[&[&str]]); 2] = [
    (Class::INPUT_TOKENS, &[&["prompt_token_count"], &["prompt_eval_count"]]),
    (Class::OUTPUT_TOKENS, &[&["generation_token_count"], &["eval_count"]]),
];

/// What such a usage tells; none if its shape is one that the catalogue reads.
///
/// # Errors
/// 22023 when a count is no whole number, 22003 when one is out of range.
pub fn read(usage: &Usage, hint: Hint) -> Result<Option<Found>> {
    Ok(Some(match usage.shape {
        Shape::Telemetry => telemetry::read(&usage.object)?,
        Shape::Sdk => sdk(usage, hint)?,
        Shape::Generation => of(usage, &GENERATION)?,
        Shape::Titan => titan(usage)?,
        Shape::TotalOnly => of(usage, &[(Class::INPUT_TOKENS, &[&["total_tokens"]])])?,
        Shape::Classes => classes(usage)?,
        _ => return Ok(None),
    }))
}

/// For each class the first of its paths that tells something.
fn of(usage: &Usage, paths: &[(Class, &[&[&str]])]) -> Result<Found> {
    let mut found = Found::new();
    for (class, spellings) in paths {
        for keys in *spellings {
            if let Some(value) = usage.at(keys) {
                let path = format!("{}.{}", usage.path, keys.join("."));
                found.entry(*class).or_insert(count(value, &path)?);
            }
        }
    }
    Ok(found)
}

/// Until its version 6 the SDK handed on what the provider has beside: Google's thoughts, which the total
/// shows, and the cached of Anthropic and Bedrock, which only the provider does.
fn sdk(usage: &Usage, hint: Hint) -> Result<Found> {
    let mut found = of(usage, &SDK)?;
    let get = |class: Class| found.get(&class).copied().unwrap_or_default();
    let (input, output) = (get(Class::INPUT_TOKENS), get(Class::OUTPUT_TOKENS));
    let (cached, reasoning) = (get(Class::CACHE_READ_TOKENS), get(Class::OUTPUT_REASONING_TOKENS));
    let total = usage.at(&["totalTokens"]).map(|total| count(total, &"totalTokens")).transpose()?;
    if total == Some(input + output + reasoning) && !reasoning.is_zero() {
        found.insert(Class::OUTPUT_TOKENS, output + reasoning);
    }
    let is_beside = [hint.provider, hint.model].into_iter().flatten().any(|name| {
        ["anthropic", "bedrock", "aws", "claude"].iter().any(|whose| name.contains(whose))
    });
    if is_beside && !usage.has("inputTokenDetails") && !cached.is_zero() {
        found.insert(Class::INPUT_TOKENS, input + cached);
    }
    Ok(found)
}

/// One result for each text that was asked for; a stream's chunks have a total of their own.
fn titan(usage: &Usage) -> Result<Found> {
    let mut found = of(
        usage,
        &[
            (Class::INPUT_TOKENS, &[&["inputTextTokenCount"]]),
            (Class::OUTPUT_TOKENS, &[&["totalOutputTextTokenCount"]]),
        ],
    )?;
    if let Some(Value::Array(results)) = usage.at(&["results"]) {
        let mut sum = Decimal::ZERO;
        for (index, result) in results.iter().enumerate() {
            if let Some(tokens) = result.get("tokenCount").filter(|value| !value.is_null()) {
                sum += count(tokens, &format!("{}.results[{index}].tokenCount", usage.path))?;
            }
        }
        found.entry(Class::OUTPUT_TOKENS).or_insert(sum);
    }
    Ok(found)
}

/// Classes under their own names, such as `input_characters` of speech, which no response tells.
pub fn classes(usage: &Usage) -> Result<Found> {
    let mut found = Found::new();
    for (key, value) in usage.object.iter().filter(|(_, value)| !value.is_null()) {
        if let Some(class) = Class::named(key) {
            let path = Path::Root;
            let path = path.key(usage.path);
            found.insert(class, quantity(value, &path.key(key))?);
        }
    }
    Ok(found)
}
