//! Garbage as a usage: a clear error that names the field, no panic, and never a silent zero.

mod common;
#[path = "common/hostile.rs"]
mod hostile;

use ai_limiter_domain::Kind;
use ai_limiter_domain::error::Error;
use ai_limiter_domain::pricing::Class;
use ai_limiter_domain::usage::{Hint, ReportedUsage, read};
use common::Bundled;
use proptest::prelude::*;
use serde_json::{Value, json};

fn told(body: &Value) -> ReportedUsage {
    read(body, Hint::default(), &Bundled).unwrap_or_else(|error| panic!("{body}: {error:?}"))
}

fn refused(body: &Value) -> Error {
    read(body, Hint::default(), &Bundled).err().unwrap_or_else(|| panic!("{body} was read"))
}

#[test]
fn what_is_no_count_is_refused_by_its_path() {
    for (body, kind, path) in [
        (json!({"usage": {"prompt_tokens": -1}}), Kind::OutOfRange, "usage.prompt_tokens"),
        (json!({"usage": {"prompt_tokens": 1.5}}), Kind::InvalidParameter, "usage.prompt_tokens"),
        (json!({"usage": {"prompt_tokens": "7"}}), Kind::InvalidParameter, "usage.prompt_tokens"),
        (json!({"usage": {"prompt_tokens": [7]}}), Kind::InvalidParameter, "usage.prompt_tokens"),
        (json!({"usage": {"prompt_tokens": true}}), Kind::InvalidParameter, "usage.prompt_tokens"),
        (json!({"prompt_tokens": 1e300}), Kind::OutOfRange, "usage.prompt_tokens"),
        (json!({"prompt_tokens": u64::MAX}), Kind::OutOfRange, "usage.prompt_tokens"),
        (json!({"input_tokens": 1_000_000_000_001_i64}), Kind::OutOfRange, "usage.input_tokens"),
        (
            json!({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "4"}}),
            Kind::InvalidParameter,
            "usage.prompt_tokens_details.cached_tokens",
        ),
        (
            json!({"prompt_tokens": 9, "prompt_tokens_details": 4}),
            Kind::InvalidParameter,
            "usage.prompt_tokens_details",
        ),
        (
            json!([{"type": "ping"}, {"message": {"usage": {"input_tokens": -4}}}]),
            Kind::OutOfRange,
            "[1].message.usage.input_tokens",
        ),
        (
            json!({"usageMetadata": {"promptTokenCount": 9,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": {}}]}}),
            Kind::InvalidParameter,
            "usageMetadata.promptTokensDetails[0].tokenCount",
        ),
        (
            json!({"usageMetadata": {"promptTokenCount": 9, "promptTokensDetails": {"TEXT": 9}}}),
            Kind::InvalidParameter,
            "usageMetadata.promptTokensDetails",
        ),
        (
            json!({"gen_ai.usage.input_tokens": "12"}),
            Kind::InvalidParameter,
            "gen_ai.usage.input_tokens",
        ),
        (
            json!({"inputTextTokenCount": 3, "results": [{"tokenCount": -3}]}),
            Kind::OutOfRange,
            "usage.results[0].tokenCount",
        ),
        (json!({"type": "duration", "seconds": -1}), Kind::OutOfRange, "usage.seconds"),
        (
            json!({"text": "a", "task": "transcribe", "duration": "8.4"}),
            Kind::InvalidParameter,
            "duration",
        ),
    ] {
        let error = refused(&body);
        assert_eq!(error.kind, kind, "{body}: {error:?}");
        assert!(error.message.contains(path), "{body}: {error:?}");
    }
}

#[test]
fn what_is_no_usage_is_refused() {
    for body in [
        json!(7),
        json!("usage"),
        json!(true),
        json!([1, 2]),
        json!({"foo": 1}),
        json!([{"foo": 1}]),
        json!({"usage": 12}),
        json!({"usage": [1]}),
        json!({"usage": {"foo": 1}}),
        json!({"total_tokens": 100}),
        json!({"usageMetadata": {"totalTokenCount": 9}}),
        json!({"gen_ai.usage.something": 9}),
        json!([{"usage": {"prompt_tokens": 1}}, {"usageMetadata": {"promptTokenCount": 1}}]),
    ] {
        let error = refused(&body);
        assert_eq!(error.kind, Kind::InvalidParameter, "{body}");
        assert!(error.hint.is_some() || error.detail.is_some(), "{body}: {error:?}");
    }
}

#[test]
fn parts_that_exceed_their_whole_are_refused_with_both_named() {
    for (body, part, whole) in [
        (
            json!({"prompt_tokens": 5, "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 6}}),
            "cache_read_tokens",
            "input_tokens",
        ),
        (
            json!({"input_tokens": 5, "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 2}}),
            "output_reasoning_tokens",
            "output_tokens",
        ),
        (
            json!({"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 3}}),
            "cache_write_1h_tokens",
            "cache_write_tokens",
        ),
        (
            json!({"gen_ai.usage.input_tokens": 5, "gen_ai.usage.cache_read.input_tokens": 3,
                "gen_ai.usage.cache_write.input_tokens": 3}),
            "cache_write_tokens",
            "input_tokens",
        ),
    ] {
        let error = refused(&body);
        assert_eq!(error.kind, Kind::InvalidParameter);
        assert!(error.message.contains(part) && error.message.contains(whole), "{error:?}");
        assert!(error.hint.is_some());
    }
}

#[test]
fn nothing_told_is_not_zero() {
    for body in [
        json!(null),
        json!({}),
        json!([]),
        json!({"usage": null}),
        json!({"usage": {}}),
        json!({"usage": {"prompt_tokens": null}}),
        json!({"choices": [], "object": "chat.completion.chunk"}),
    ] {
        let told = told(&body);
        assert!(told.quantities.is_empty() && told.is_partial, "{body}: {told:?}");
    }
    let zero = told(&json!({"prompt_tokens": 0, "completion_tokens": 0}));
    assert_eq!(zero.quantities.tokens(Class::INPUT_TOKENS), Some(0));
    assert!(!zero.is_partial);
}

#[test]
fn a_provider_that_nobody_knows_is_read_by_the_keys() {
    let body = json!({"prompt_tokens": 10, "completion_tokens": 3});
    for provider in ["nobody", "", "☃", "anthropic", "cohere", "aws"] {
        let hint = Hint { provider: Some(provider), model: None };
        let told = read(&body, hint, &Bundled).unwrap();
        assert_eq!(told.quantities.tokens(Class::INPUT_TOKENS), Some(10), "{provider}");
        assert_eq!(told.quantities.tokens(Class::OUTPUT_TOKENS), Some(3), "{provider}");
    }
}

#[test]
fn reasoning_is_where_the_total_says_it_is() {
    let usage = |total: i64| {
        json!({"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": total,
            "completion_tokens_details": {"reasoning_tokens": 20}})
    };
    for provider in ["openai", "x-ai", "openrouter"] {
        let hint = Hint { provider: Some(provider), model: None };
        for (total, output) in [(40, 30), (60, 50)] {
            let told = read(&usage(total), hint, &Bundled).unwrap();
            assert_eq!(told.quantities.tokens(Class::OUTPUT_TOKENS), Some(output), "{provider}");
        }
    }
}

#[test]
fn megabytes_and_deep_nesting_are_read_or_refused_in_no_time() {
    let long = "x".repeat(10_000_000);
    let mut many = serde_json::Map::new();
    for index in 0..200_000 {
        many.insert(format!("{index}_tokens"), json!(1));
    }
    let mut deep = json!({"prompt_tokens": 1});
    for _ in 0..120 {
        deep = json!({"a": deep});
    }
    let chunk = json!({"object": "chat.completion.chunk", "choices": [{"finish_reason": null}]});
    for body in [
        json!({"choices": [{"message": {"content": long}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
        json!({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "note": long}}),
        json!({"usage": {format!("{long}_tokens"): "a"}}),
        json!({"usage": many}),
        json!({"usage": {"prompt_tokens": 1, "deep": deep}}),
        deep.clone(),
        Value::Array(vec![chunk; 100_000]),
        Value::Array(vec![json!({"prompt_tokens": 1}); 100_000]),
    ] {
        hostile::judge(&read(&body, Hint::default(), &Bundled));
    }
}

#[test]
fn the_corpus_of_the_fuzzer_holds() {
    let files = common::files("fuzz/corpus/read");
    assert!(files.len() > 20);
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let Some((first, text)) = bytes.split_first() else { continue };
        if let Ok(body) = serde_json::from_slice(text) {
            hostile::judge(&read(&body, hostile::hint(*first), &Bundled));
        }
    }
    let files = common::files("fuzz/corpus/keys");
    assert!(files.len() > 20);
    for file in files {
        let mut bytes = std::fs::read(file).unwrap().into_iter();
        if let Some(first) = bytes.next() {
            let body = hostile::json(&mut bytes, 0);
            hostile::judge(&read(&body, hostile::hint(first), &Bundled));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        let body = hostile::json(&mut bytes[1..].iter().copied(), 0);
        hostile::judge(&read(&body, hostile::hint(bytes[0]), &Bundled));
    }

    #[test]
    fn a_body_is_read_as_its_usage_object(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        // What is itself a body, or tells by another key what it is, is no usage object alone.
        const OF_BODIES: [&str; 29] = [
            "usage", "usageMetadata", "usage_metadata", "usage_info", "tokenUsage", "meta", "x_groq",
            "gen_ai", "gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens",
            "amazon-bedrock-invocationMetrics", "response", "message", "result", "body", "metadata",
            "delta", "attributes", "data", "model", "modelVersion", "id", "type", "object", "choices",
            "candidates", "output", "duration", "modelOutput",
        ];
        let usage = match hostile::json(&mut bytes[1..].iter().copied(), 0) {
            Value::Object(mut usage) => {
                usage.retain(|key, _| !OF_BODIES.contains(&key.as_str()));
                Value::Object(usage)
            }
            other => json!({"prompt_tokens": 100, "prompt_tokens_details": other}),
        };
        let hint = hostile::hint(bytes[0]);
        if let Ok(alone) = read(&usage, hint, &Bundled) {
            // No model: it decides what a total alone means.
            let body = json!({"system_fingerprint": "a", "usage": usage});
            let within = read(&body, hint, &Bundled);
            prop_assert_eq!(within.map(|within| within.quantities), Ok(alone.quantities));
        }
    }

    #[test]
    fn tokens_of_one_call_are_counted_once(
        fresh in 0..100_000_i64, read_ in 0..100_000_i64, short in 0..1_000_i64, long in 0..1_000_i64,
        text in 0..100_000_i64, thoughts in 0..100_000_i64,
    ) {
        let (write, input) = (short + long, fresh + read_ + short + long);
        let anthropic = json!({"input_tokens": fresh, "cache_read_input_tokens": read_,
            "cache_creation_input_tokens": write, "output_tokens": text + thoughts,
            "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}});
        let converse = json!({"inputTokens": fresh, "cacheReadInputTokens": read_,
            "cacheWriteInputTokens": write, "outputTokens": text + thoughts,
            "cacheDetails": [{"ttl": "5m", "inputTokens": short}, {"ttl": "1h", "inputTokens": long}]});
        let openai = json!({"prompt_tokens": input, "completion_tokens": text + thoughts,
            "prompt_tokens_details": {"cached_tokens": read_, "cache_write_tokens": write},
            "completion_tokens_details": {"reasoning_tokens": thoughts}});
        let gemini = json!({"promptTokenCount": input, "cachedContentTokenCount": read_,
            "candidatesTokenCount": text, "thoughtsTokenCount": thoughts});
        let telemetry = json!({"gen_ai.usage.input_tokens": input,
            "gen_ai.usage.cache_read.input_tokens": read_, "gen_ai.usage.output_tokens": text + thoughts});
        for usage in [anthropic, converse, openai, gemini, telemetry] {
            let told = told(&usage).quantities;
            prop_assert_eq!(told.tokens(Class::INPUT_TOKENS), Some(input), "{}", usage);
            prop_assert_eq!(told.tokens(Class::OUTPUT_TOKENS), Some(text + thoughts), "{}", usage);
            prop_assert_eq!(told.tokens(Class::CACHE_READ_TOKENS).unwrap_or(0), read_, "{}", usage);
        }
    }
}
