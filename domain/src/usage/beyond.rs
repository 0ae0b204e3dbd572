//! Counts in shapes that the catalogue reads, which its extractors leave out.
//!
//! What an extractor found stays. Paths are tried in order: the first that tells something wins.

use super::Hint;
use super::body::Found as Body;
use super::number::{Path, quantity};
use super::own;
use super::parts::Found;
use super::shape::{Shape, Usage};
use crate::error::Result;
use crate::pricing::Class;
use rust_decimal::Decimal;
use serde_json::Value;

/// A class, the paths that tell it, and the whole that it is beside and must be added to, if so.
type Extra = (&'static str, &'static [&'static [&'static str]], Option<Class>);

/// What many put into `prompt_tokens_details` and the like, also one another's.
const CHAT: &[Extra] = &[
    (
        "cache_read_tokens",
        &[
            &["prompt_tokens_details", "cached_tokens"],
            &["prompt_cache_hit_tokens"],
            &["cached_tokens"],
            &["cached_prompt_text_tokens"],
            &["cache_read_input_tokens"],
        ],
        None,
    ),
    (
        "cache_write_tokens",
        &[
            &["prompt_tokens_details", "cache_write_tokens"],
            &["prompt_tokens_details", "cache_creation_tokens"],
            &["cache_creation_input_tokens"],
        ],
        None,
    ),
    ("cache_write_5m_tokens", &[&["cache_creation", "ephemeral_5m_input_tokens"]], None),
    ("cache_write_1h_tokens", &[&["cache_creation", "ephemeral_1h_input_tokens"]], None),
    ("input_audio_tokens", &[&["prompt_tokens_details", "audio_tokens"]], None),
    ("input_image_tokens", &[&["prompt_tokens_details", "image_tokens"]], None),
    ("input_video_tokens", &[&["prompt_tokens_details", "video_tokens"]], None),
    ("output_audio_tokens", &[&["completion_tokens_details", "audio_tokens"]], None),
    ("output_image_tokens", &[&["completion_tokens_details", "image_tokens"]], None),
    (
        "output_reasoning_tokens",
        &[&["completion_tokens_details", "reasoning_tokens"], &["reasoning_tokens"]],
        None,
    ),
    ("input_audio_seconds", &[&["prompt_audio_seconds"]], None),
    // Mistral's: what its tools put into the context.
    ("input_tool_tokens", &[&["connector_tokens"]], Some(Class::INPUT_TOKENS)),
];

const RESPONSES: &[Extra] = &[
    (
        "cache_read_tokens",
        &[
            &["input_tokens_details", "cached_tokens"],
            &["input_tokens_details", "cache_read_input_tokens"],
        ],
        None,
    ),
    ("cache_write_tokens", &[&["input_tokens_details", "cache_write_tokens"]], None),
    ("input_audio_tokens", &[&["input_tokens_details", "audio_tokens"]], None),
    ("input_image_tokens", &[&["input_tokens_details", "image_tokens"]], None),
    ("output_audio_tokens", &[&["output_tokens_details", "audio_tokens"]], None),
    ("output_image_tokens", &[&["output_tokens_details", "image_tokens"]], None),
    ("output_reasoning_tokens", &[&["output_tokens_details", "reasoning_tokens"]], None),
];

/// Who found the cached has added them to the input, and who has not, has not.
const ANTHROPIC: &[Extra] = &[
    ("cache_read_tokens", &[&["cache_read_input_tokens"]], Some(Class::INPUT_TOKENS)),
    ("output_reasoning_tokens", &[&["output_tokens_details", "thinking_tokens"]], None),
    ("cache_write_tokens", &[&["cache_creation_input_tokens"]], Some(Class::INPUT_TOKENS)),
    ("cache_write_5m_tokens", &[&["cache_creation", "ephemeral_5m_input_tokens"]], None),
    ("cache_write_1h_tokens", &[&["cache_creation", "ephemeral_1h_input_tokens"]], None),
];

const REALTIME: &[Extra] =
    &[("output_image_tokens", &[&["output_token_details", "image_tokens"]], None)];

const COHERE: &[Extra] = &[
    ("rerank_searches", &[&["billed_units", "search_units"]], None),
    // An image's tokens are billed beside the text's.
    ("input_image_tokens", &[&["billed_units", "image_tokens"]], Some(Class::INPUT_TOKENS)),
];

/// Calls of tools that run at the provider, whatever the shape.
const TOOLS: &[Extra] = &[
    (
        "web_searches",
        &[
            &["server_tool_use", "web_search_requests"],
            &["server_side_tool_usage_details", "web_search_calls"],
            &["num_search_queries"],
            &["tool_calls_details", "search_web", "invocation"],
            &["connectors", "web_search"],
        ],
        None,
    ),
    ("social_searches", &[&["server_side_tool_usage_details", "x_search_calls"]], None),
    (
        "storage_searches",
        &[
            &["server_side_tool_usage_details", "file_search_calls"],
            &["server_side_tool_usage_details", "document_search_calls"],
        ],
        None,
    ),
    (
        "code_executions",
        &[
            &["server_side_tool_usage_details", "code_interpreter_calls"],
            &["connectors", "code_interpreter"],
        ],
        None,
    ),
];

/// Adds what the extractors leave out.
///
/// # Errors
/// As [`quantity`].
pub fn add(usage: &Usage, body: &Body, hint: Hint, found: &mut Found) -> Result<()> {
    if usage.shape == Shape::Telemetry {
        return Ok(());
    }
    let extras = match usage.shape {
        Shape::Chat => CHAT,
        Shape::Responses => RESPONSES,
        Shape::Anthropic => ANTHROPIC,
        Shape::Realtime => REALTIME,
        Shape::Cohere => COHERE,
        _ => &[],
    };
    for (name, paths, beside) in extras.iter().chain(TOOLS) {
        let Some(class) = Class::named(name).filter(|class| !found.contains_key(class)) else {
            continue;
        };
        let Some((keys, value)) = paths.iter().find_map(|keys| Some((*keys, usage.at(keys)?)))
        else {
            continue;
        };
        let told = quantity(value, &format!("{}.{}", usage.path, keys.join(".")))?;
        found.insert(class, told);
        if let Some(whole) = beside {
            *found.entry(*whole).or_default() += told;
        }
    }
    add_lifetimes(usage, found);
    add_cohere_cache(usage, found)?;
    if usage.shape == Shape::Duration && usage.at(&["type"]).is_some_and(|kind| kind == "duration")
    {
        // Of a transcription: it is the input that is that long.
        if let (Some(seconds), Some(input)) =
            (found.get(&Class::AUDIO_SECONDS).copied(), Class::named("input_audio_seconds"))
        {
            found.insert(input, seconds);
        }
    }
    if usage.shape == Shape::Pages && body.told("document_annotation").is_some() {
        let classes = ["input_document_pages", "input_annotated_document_pages"];
        if let [Some(pages), Some(annotated)] = classes.map(Class::named)
            && let Some(count) = found.get(&pages).copied()
        {
            found.insert(annotated, count);
        }
    }
    for (class, told) in own::classes(usage)? {
        found.entry(class).or_insert(told);
    }
    let model = body.text("modelVersion").or(hint.model).unwrap_or_default();
    for (name, calls) in calls_in_output(usage, body, model) {
        if let Some(class) = Class::named(name).filter(|_| calls > 0) {
            found.entry(class).or_insert(calls.into());
        }
    }
    Ok(())
}

/// Anthropic's lifetimes without their sum, which is beside the input.
fn add_lifetimes(usage: &Usage, found: &mut Found) {
    if usage.shape != Shape::Anthropic || found.contains_key(&Class::CACHE_WRITE_TOKENS) {
        return;
    }
    let written: Decimal = [Class::CACHE_WRITE_5M_TOKENS, Class::CACHE_WRITE_1H_TOKENS]
        .iter()
        .filter_map(|class| found.get(class))
        .sum();
    if !written.is_zero() {
        found.insert(Class::CACHE_WRITE_TOKENS, written);
        *found.entry(Class::INPUT_TOKENS).or_default() += written;
    }
}

/// Cohere counts the cached among all tokens, of which not all are billed: they count as far as they can
/// be among those.
fn add_cohere_cache(usage: &Usage, found: &mut Found) -> Result<()> {
    if usage.shape != Shape::Cohere || found.contains_key(&Class::CACHE_READ_TOKENS) {
        return Ok(());
    }
    if let (Some(cached), Some(input)) =
        (usage.at(&["cached_tokens"]), found.get(&Class::INPUT_TOKENS).copied())
    {
        let path = Path::Root;
        let path = path.key(usage.path);
        let cached = quantity(cached, &path.key("cached_tokens"))?;
        found.insert(Class::CACHE_READ_TOKENS, cached.min(input));
    }
    Ok(())
}

/// Searches that only the answer itself shows: OpenAI's items of output, Google's grounding.
fn calls_in_output(usage: &Usage, body: &Body, model: &str) -> Vec<(&'static str, u32)> {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    match (usage.shape, body.told("output"), body.told("candidates")) {
        (Shape::Responses, Some(Value::Array(items)), _) => {
            let of = |kind: &str| items.iter().filter(|item| item["type"] == kind).count();
            // Opening a page that was found is no search.
            let others = items.iter().filter(|item| {
                item["type"] == "web_search_call"
                    && item["action"]["type"].as_str().is_some_and(|action| action != "search")
            });
            let searches = of("web_search_call") - others.count();
            vec![
                ("web_searches", count(searches)),
                ("storage_searches", count(of("file_search_call"))),
            ]
        }
        (Shape::Gemini, _, Some(Value::Array(candidates))) => {
            let queries: usize = candidates
                .iter()
                .filter_map(|candidate| {
                    candidate["groundingMetadata"]["webSearchQueries"].as_array()
                })
                .map(Vec::len)
                .sum();
            // Gemini 3 bills each query, those before it each grounded prompt.
            let is_per_prompt = ["gemini-1", "gemini-2"].iter().any(|old| model.contains(old));
            vec![("web_searches", count(if is_per_prompt { queries.min(1) } else { queries }))]
        }
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_that_is_named_exists() {
        let tables = [CHAT, RESPONSES, ANTHROPIC, REALTIME, COHERE, TOOLS];
        for (name, ..) in tables.concat() {
            assert!(Class::named(name).is_some(), "{name}");
        }
    }
}
