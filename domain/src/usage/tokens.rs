//! Tokens out of a provider's `usage` object, for the spellings that share one meaning.
//!
//! Input includes cached input (as OpenAI counts it; Anthropic's separate cache counts are added),
//! and output includes reasoning: every token is priced, none twice. Prices that tell cached input
//! apart are not known here, so that cached input costs like any other.

use crate::call;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenUsage {
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
}

/// Reads a `usage` object, or a response body that has one.
///
/// # Errors
/// 22023 when it is not an object, has no known count or one that is not a whole number, 22003 when one is negative or
/// absurd.
pub fn parse(value: &Value) -> Result<TokenUsage> {
    let object = value.as_object().ok_or_else(|| Error::invalid("usage must be a JSON object"))?;
    let usage = match object.get("usage") {
        Some(Value::Object(inner)) => inner,
        _ => object,
    };
    let mut input = first(usage, &["input_tokens", "prompt_tokens"])?;
    if usage.contains_key("input_tokens") {
        for cache in ["cache_read_input_tokens", "cache_creation_input_tokens"] {
            input = match (input, first(usage, &[cache])?) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
    }
    let output = first(usage, &["output_tokens", "completion_tokens"])?;
    if input.is_none() && output.is_none() && !usage.is_empty() {
        return Err(Error::invalid("usage has no token count that is known").hint(
            "It may have input_tokens or prompt_tokens, and output_tokens or completion_tokens.",
        ));
    }
    Ok(TokenUsage {
        input_tokens: call::count(input, "input_tokens")?,
        output_tokens: call::count(output, "output_tokens")?,
    })
}

fn first(usage: &Map<String, Value>, names: &[&str]) -> Result<Option<i64>> {
    for name in names {
        match usage.get(*name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let count = value.as_i64().ok_or_else(|| {
                    Error::invalid(format!("usage.{name} must be a whole number"))
                })?;
                return call::count(Some(count), name);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokens(value: Value) -> (Option<i64>, Option<i64>) {
        let usage = parse(&value).unwrap();
        (usage.input_tokens, usage.output_tokens)
    }

    #[test]
    fn openai_counts_cached_input_once() {
        let usage = json!({"prompt_tokens": 100, "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 80}});
        assert_eq!(tokens(usage), (Some(100), Some(20)));
    }

    #[test]
    fn anthropic_counts_its_cache_beside_the_input() {
        let body = json!({"id": "msg", "usage": {"input_tokens": 20, "output_tokens": 5,
            "cache_read_input_tokens": 70, "cache_creation_input_tokens": 10}});
        assert_eq!(tokens(body), (Some(100), Some(5)));
    }

    #[test]
    fn what_is_not_said_is_not_zero() {
        assert_eq!(tokens(json!({"prompt_tokens": 3})), (Some(3), None));
        assert_eq!(tokens(json!({})), (None, None));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            json!(7),
            json!({"prompt_tokens": -1}),
            json!({"prompt_tokens": 1.5}),
            json!({"prompt_tokens": "7"}),
            json!({"promptTokenCount": 7}),
            json!({"output_tokens": 9_000_000_000_000_000_000_i64}),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }
}
