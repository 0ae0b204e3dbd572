//! The events of a stream, joined: of each field the last one told wins.
//!
//! So Anthropic's two events and everybody else's last chunk come together. A stream that was cut off tells
//! what came until then. Several answers in one array are not added up: each is a call of its own.

use super::body::{Located, Place};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// Puts a later event's usage over the earlier ones'.
///
/// # Errors
/// 22023 when they are spelled differently.
pub fn merge<'a>(told: &mut Option<Located<'a>>, later: Located<'a>) -> Result<()> {
    let Some(earlier) = told else {
        *told = Some(later);
        return Ok(());
    };
    if later.place == Place::InvocationMetrics && earlier.place != later.place {
        // The same counts once more.
        return Ok(());
    }
    if earlier.place == Place::InvocationMetrics && earlier.place != later.place {
        *earlier = later;
        return Ok(());
    }
    if earlier.place != later.place {
        return Err(Error::invalid(format!(
            "{} and {} are usage of different shapes",
            earlier.path, later.path
        ))
        .hint("An array holds the events of one stream."));
    }
    let told = earlier.usage.to_mut();
    for (key, value) in later.usage.iter().filter(|(_, value)| !value.is_null()) {
        told.insert(key.clone(), value.clone());
    }
    earlier.path = later.path;
    Ok(())
}

/// Whether something says that an answer was under way, and nothing that it had ended.
pub fn is_interrupted(around: &[&Map<String, Value>]) -> bool {
    let mut is_open = false;
    for object in around {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        if ["message_delta", "message_stop"].contains(&text("type"))
            || ["completed", "incomplete", "failed"].contains(&text("status"))
        {
            return false;
        }
        is_open |=
            text("type") == "message_start" || ["in_progress", "queued"].contains(&text("status"));
        let choices = object.get("choices").filter(|_| text("object") == "chat.completion.chunk");
        for (answers, end) in
            [(choices, "finish_reason"), (object.get("candidates"), "finishReason")]
        {
            let Some(answers) = answers.and_then(Value::as_array) else { continue };
            let is_usage_of_all =
                answers.is_empty() && object.get("usage").is_some_and(Value::is_object);
            if any_has(answers, end) || is_usage_of_all {
                return false;
            }
            is_open |= !answers.is_empty();
        }
    }
    is_open
}

fn any_has(items: &[Value], key: &str) -> bool {
    items.iter().any(|item| item.get(key).is_some_and(|value| !value.is_null()))
}
