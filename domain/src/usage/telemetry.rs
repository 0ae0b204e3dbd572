//! OpenTelemetry's `gen_ai.usage.*`, flat as in a span's attributes or nested as in some exports.
//!
//! The semantic conventions count the cached within `gen_ai.usage.input_tokens` and reasoning within
//! `gen_ai.usage.output_tokens`. Their names have changed over time, and instrumentations have their own:
//! each class lists the spellings that are in use, the convention's of today first.

use super::number::count;
use super::parts::Found;
use crate::error::Result;
use crate::pricing::Class;
use serde_json::{Map, Value};

const PREFIX: &str = "gen_ai.usage.";
const MAX_DEPTH: usize = 6;

/// By class, what follows `gen_ai.usage.`.
const SPELLINGS: [(Class, &[&str]); 9] = [
    (Class::INPUT_TOKENS, &["input_tokens", "prompt_tokens"]),
    (Class::OUTPUT_TOKENS, &["output_tokens", "completion_tokens"]),
    (
        Class::CACHE_READ_TOKENS,
        &[
            "cache_read.input_tokens",
            "cache_read_input_tokens",
            "cache_read_tokens",
            "details.cache_read_tokens",
            "input_tokens.cached",
            "input_tokens.cache_read",
            "details.cached_tokens",
            "cached_tokens",
        ],
    ),
    (
        Class::CACHE_WRITE_TOKENS,
        &[
            "cache_creation.input_tokens",
            "cache_write.input_tokens",
            "cache_creation_input_tokens",
            "cache_write_input_tokens",
            "cache_write_tokens",
            "details.cache_write_tokens",
            "input_tokens.cache_write",
            "input_tokens.cache_creation",
        ],
    ),
    (
        Class::CACHE_WRITE_5M_TOKENS,
        &["cache_creation.ephemeral_5m_input_tokens", "cache_write_5m_tokens"],
    ),
    (
        Class::CACHE_WRITE_1H_TOKENS,
        &["cache_creation.ephemeral_1h_input_tokens", "cache_write_1h_tokens"],
    ),
    (
        Class::OUTPUT_REASONING_TOKENS,
        &[
            "reasoning.output_tokens",
            "reasoning_tokens",
            "output_tokens.reasoning",
            "details.reasoning_tokens",
            "reasoning_output_tokens",
            "thoughts_tokens",
        ],
    ),
    (
        Class::INPUT_AUDIO_TOKENS,
        &["input_audio_tokens", "details.input_audio_tokens", "audio.input_tokens"],
    ),
    (
        Class::OUTPUT_AUDIO_TOKENS,
        &["output_audio_tokens", "details.output_audio_tokens", "audio.output_tokens"],
    ),
];

/// The attributes that speak of a model call, under their dotted keys, if there are any.
pub fn attributes(object: &Map<String, Value>) -> Option<Map<String, Value>> {
    let is_telemetry = object.keys().any(|key| key == "gen_ai" || key.starts_with("gen_ai."));
    if !is_telemetry {
        return None;
    }
    let mut flat = Map::new();
    for (key, value) in object {
        if key == "gen_ai" || key.starts_with("gen_ai.") {
            flatten(key.clone(), value, 0, &mut flat);
        }
    }
    flat.keys().any(|key| key.starts_with(PREFIX)).then_some(flat)
}

fn flatten(key: String, value: &Value, depth: usize, into: &mut Map<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(inner) if depth < MAX_DEPTH => {
            for (name, value) in inner {
                flatten(format!("{key}.{name}"), value, depth + 1, into);
            }
        }
        _ => drop(into.insert(key, value.clone())),
    }
}

/// # Errors
/// As [`count`].
pub fn read(attributes: &Map<String, Value>) -> Result<Found> {
    let mut found = Found::new();
    for (class, spellings) in SPELLINGS {
        for spelling in spellings {
            let key = format!("{PREFIX}{spelling}");
            if let Some(value) = attributes.get(&key) {
                let quantity = count(value, &key)?;
                found.entry(class).or_insert(quantity);
            }
        }
    }
    for (key, value) in attributes {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if let Some(class) = Class::named(name) {
            let quantity = super::number::quantity(value, key)?;
            found.entry(class).or_insert(quantity);
        } else if name.ends_with("tokens") {
            // Not known, and yet not to be passed over when it is nonsense.
            count(value, &super::number::Path::Root.key(key))?;
        }
    }
    Ok(found)
}

/// The provider in the catalogue's spelling.
pub fn provider(name: &str) -> String {
    let name = name.trim().to_lowercase();
    let known = match name.as_str() {
        "aws.bedrock" | "aws_bedrock" => "aws",
        "gcp.gemini" | "gcp.vertex_ai" | "gcp.gen_ai" | "vertex_ai" | "gemini" => "google",
        "azure.ai.openai" | "azure.ai.inference" | "az.ai.openai" | "az.ai.inference" => "azure",
        "x_ai" | "xai" => "x-ai",
        "mistral_ai" => "mistral",
        _ => return name,
    };
    known.to_owned()
}
