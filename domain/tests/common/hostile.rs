//! JSON out of bytes, made of the keys that usage is read by, and what must hold whatever was read.
//!
//! Bytes of any kind give some value: random ones meet more of the reader so than as text. The fuzzer, the
//! property tests and the replay of the corpus share this.

use ai_limiter_domain::Kind;
use ai_limiter_domain::error::Result;
use ai_limiter_domain::usage::{Hint, ReportedUsage};
use rust_decimal::Decimal;
use serde_json::{Map, Number, Value};

const KEYS: [&str; 106] = [
    "usage",
    "usageMetadata",
    "usage_metadata",
    "usage_info",
    "tokenUsage",
    "meta",
    "x_groq",
    "gen_ai",
    "amazon-bedrock-invocationMetrics",
    "response",
    "message",
    "result",
    "body",
    "metadata",
    "delta",
    "attributes",
    "data",
    "type",
    "object",
    "status",
    "choices",
    "candidates",
    "finish_reason",
    "finishReason",
    "output",
    "custom_id",
    "model",
    "modelVersion",
    "id",
    "service_tier",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "cache_write_tokens",
    "audio_tokens",
    "image_tokens",
    "text_tokens",
    "reasoning_tokens",
    "prompt_cache_hit_tokens",
    "citation_tokens",
    "num_search_queries",
    "connector_tokens",
    "connectors",
    "web_search",
    "prompt_audio_seconds",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "output_tokens_details",
    "input_token_details",
    "output_token_details",
    "cached_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "ephemeral_5m_input_tokens",
    "ephemeral_1h_input_tokens",
    "server_tool_use",
    "web_search_requests",
    "iterations",
    "seconds",
    "billable_audio_seconds",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "responseTokenCount",
    "totalTokenCount",
    "promptTokensDetails",
    "candidatesTokensDetails",
    "cacheTokensDetails",
    "modality",
    "tokenCount",
    "inputTokens",
    "outputTokens",
    "cacheReadInputTokens",
    "cacheWriteInputTokens",
    "cacheDetails",
    "ttl",
    "billed_units",
    "tokens",
    "search_units",
    "inputTextTokenCount",
    "results",
    "prompt_token_count",
    "eval_count",
    "cachedInputTokens",
    "reasoningTokens",
    "cacheReadTokens",
    "pages_processed",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "duration",
    "text",
    "task",
    "modelOutput",
    "recordId",
    "server_side_tool_usage_details",
    "web_search_calls",
    "cost",
    "cost_in_usd_ticks",
    "input_audio_seconds",
];
const TEXTS: [&str; 16] = [
    "",
    "message_start",
    "message_delta",
    "chat.completion.chunk",
    "list",
    "in_progress",
    "compaction",
    "TEXT",
    "AUDIO",
    "5m",
    "1h",
    "duration",
    "gemini-2.5-pro",
    "grok-4",
    "batch",
    "web_search_call",
];
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "2",
    "5",
    "10",
    "100",
    "1000",
    "4096",
    "1000000000000",
    "1000000000001",
    "-1",
    "1.5",
    "12.0",
    "1e300",
    "18446744073709551615",
    "-0.0",
];
const PROVIDERS: [Option<&str>; 8] = [
    None,
    Some("openai"),
    Some("anthropic"),
    Some("google"),
    Some("x-ai"),
    Some("perplexity"),
    Some("cohere"),
    Some("nobody"),
];
/// Deep enough to be refused, far from what a stack holds.
const MAX_DEPTH: u32 = 40;

/// One of a few hints.
pub fn hint(byte: u8) -> Hint<'static> {
    Hint {
        provider: PROVIDERS[usize::from(byte & 7)],
        model: [None, Some("gemini-2.5-pro"), Some("grok-4"), Some("voyage-3")]
            [usize::from(byte >> 3 & 3)],
    }
}

/// Some value for any bytes.
pub fn json(bytes: &mut impl Iterator<Item = u8>, depth: u32) -> Value {
    let Some(byte) = bytes.next() else { return Value::from(7) };
    let size = usize::from(byte >> 4);
    match byte & 15 {
        _ if depth > MAX_DEPTH => Value::Null,
        0 => Value::Null,
        1 => Value::Bool(size > 7),
        2 => Value::from(TEXTS[size]),
        3 => (0..size).map(|_| json(bytes, depth + 1)).collect(),
        4..8 => NUMBERS[size].parse::<Number>().map_or(Value::Null, Value::Number),
        _ => {
            let mut object = Map::new();
            for _ in 0..size {
                let Some(key) = bytes.next() else { break };
                let key = KEYS[usize::from(key) % KEYS.len()];
                object.insert(key.to_owned(), json(bytes, depth + 1));
            }
            Value::Object(object)
        }
    }
}

/// What holds of everything that was read, or was not.
///
/// # Panics
/// When it does not hold.
pub fn judge(told: &Result<ReportedUsage>) {
    match told {
        Ok(told) => {
            let quantities = &told.quantities;
            assert!(quantities.clone().checked().is_ok(), "{told:?}");
            for (class, quantity) in quantities.iter() {
                assert!(quantity >= Decimal::ZERO, "{class} {told:?}");
                assert!(quantity <= Decimal::from(1_000_000_000_000_i64), "{class} {told:?}");
                assert!(!class.is_tokens() || quantity.fract().is_zero(), "{class} {told:?}");
            }
            assert!(!quantities.is_empty() || told.is_partial, "{told:?}");
            assert!(told.reported_cost_usd.is_none_or(|cost| cost >= Decimal::ZERO), "{told:?}");
        }
        Err(error) => {
            assert!([Kind::InvalidParameter, Kind::OutOfRange].contains(&error.kind), "{error:?}");
            assert!(!error.message.is_empty() && error.message.len() < 2_000, "{error:?}");
        }
    }
}
