//! Where in what was sent the usage object is.
//!
//! Providers wrap it: in the response, in an event of a stream, in a line of a batch's results. A JSON
//! array is a stream's events, which [`stream`] joins.

use super::number::{self, Path, type_of};
use super::{shape, stream, telemetry};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;

type Object = Map<String, Value>;

/// What is looked into for a usage object, outermost first.
const WRAPPERS: [&str; 10] = [
    "response",
    "modelOutput",
    "message",
    "result",
    "body",
    "metadata",
    "delta",
    "attributes",
    "data",
    "event",
];
const MAX_WRAPPERS: usize = 8;

/// Keys by which a response, or an event of a stream, is known that tells no usage.
const RESPONSE_KEYS: [&str; 14] = [
    "choices",
    "candidates",
    "object",
    "type",
    "event_type",
    "delta",
    "content",
    "output",
    "message",
    "contentBlockDelta",
    "messageStart",
    "messageStop",
    "contentBlockStop",
    "contentBlockStart",
];

/// How the usage object was named: two that were named differently are not merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Usage,
    /// Gemini's `usageMetadata`.
    Metadata,
    /// Mistral's OCR.
    Info,
    /// Cohere's `meta`.
    Meta,
    /// Cursor's `tokenUsage`.
    TokenUsage,
    /// What Bedrock adds to the last chunk of any model.
    InvocationMetrics,
    Telemetry,
}

/// A usage object, with what is around it.
#[derive(Debug)]
pub struct Located<'a> {
    pub place: Place,
    pub usage: Cow<'a, Object>,
    /// How errors name it.
    pub path: String,
}

impl Located<'_> {
    pub fn is_empty(&self) -> bool {
        self.usage.values().all(Value::is_null)
    }
}

/// What was sent, taken apart.
#[derive(Debug)]
pub struct Found<'a> {
    pub usage: Option<Located<'a>>,
    /// Every object around a usage object, of all events, the outermost and earliest first.
    pub around: Vec<&'a Object>,
    /// Whether it is a stream, or an answer, that had not ended.
    pub is_interrupted: bool,
    pub is_batch: bool,
}

impl<'a> Found<'a> {
    /// The last value under this key that is not null, the innermost object's first.
    pub fn told(&self, key: &str) -> Option<&'a Value> {
        self.around.iter().rev().find_map(|object| object.get(key).filter(|v| !v.is_null()))
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.told(key).and_then(Value::as_str).filter(|text| !text.is_empty())
    }
}

/// Takes apart an object, or the events of an array.
///
/// # Errors
/// 22023 when there is neither a usage nor a response that is known, or something else in its place.
pub fn find(body: &Value) -> Result<Found<'_>> {
    let mut found = Found { usage: None, around: vec![], is_interrupted: false, is_batch: false };
    let root = Path::Root;
    match body {
        Value::Null => {}
        Value::Object(object) => {
            find_in(object, &root, &mut found)?;
            found.is_interrupted = stream::is_interrupted(&found.around);
        }
        Value::Array(events) => {
            for (index, event) in events.iter().enumerate() {
                let path = root.index(index);
                match event {
                    Value::Object(object) => find_in(object, &path, &mut found)?,
                    Value::Null => {}
                    other => {
                        return Err(Error::invalid(format!(
                            "{path} must be an object, not {}",
                            type_of(other)
                        ))
                        .hint("An array holds the events of one stream."));
                    }
                }
            }
            found.is_interrupted = stream::is_interrupted(&found.around);
        }
        other => {
            return Err(Error::invalid(format!(
                "usage must be a JSON object, not {}",
                type_of(other)
            ))
            .hint(shape::KNOWN));
        }
    }
    Ok(found)
}

fn find_in<'a>(object: &'a Object, path: &Path, found: &mut Found<'a>) -> Result<()> {
    let mut here = object;
    let mut names: Vec<&'static str> = Vec::new();
    loop {
        found.around.push(here);
        found.is_batch |= is_batch_line(here);
        let prefix = Prefix { path, names: &names };
        if let Some(located) = located_in(here, &prefix)? {
            check(&located)?;
            return stream::merge(&mut found.usage, located);
        }
        let inner = WRAPPERS.iter().find_map(|name| match here.get(*name) {
            Some(Value::Object(inner)) => Some((*name, inner)),
            _ => None,
        });
        match inner {
            Some((name, inner)) if names.len() < MAX_WRAPPERS => {
                names.push(name);
                here = inner;
            }
            _ => break,
        }
    }
    let depth = names.len() + 1;
    let around = &found.around[found.around.len() - depth..];
    let is_known = around.iter().any(|object| {
        object.contains_key("usage") || RESPONSE_KEYS.iter().any(|key| object.contains_key(*key))
    });
    if object.is_empty() || is_known {
        return Ok(());
    }
    let whose = if matches!(path, Path::Root) { "usage".to_owned() } else { path.to_string() };
    Err(Error::invalid(format!("{whose} has no shape that is known")).hint(shape::KNOWN))
}

/// Whether it is a line of the results of a batch: of OpenAI and who follows it, Gemini, Vertex, Bedrock.
fn is_batch_line(object: &Object) -> bool {
    let has = |key: &str| object.contains_key(key);
    has("custom_id")
        || (has("response") && (has("key") || has("processed_time")))
        || (has("recordId") && has("modelOutput"))
}

/// The way to an object: of the event, and of the wrappers within it.
struct Prefix<'a> {
    path: &'a Path<'a>,
    names: &'a [&'static str],
}

impl Prefix<'_> {
    fn to(&self, last: &str) -> String {
        let mut text = self.path.to_string();
        for name in self.names.iter().copied().chain([last]).filter(|name| !name.is_empty()) {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        }
        if text.is_empty() { "usage".to_owned() } else { text }
    }
}

fn located_in<'a>(object: &'a Object, prefix: &Prefix) -> Result<Option<Located<'a>>> {
    const PLACES: [(&str, Place); 6] = [
        ("usage", Place::Usage),
        ("usageMetadata", Place::Metadata),
        ("usage_metadata", Place::Metadata),
        ("usage_info", Place::Info),
        ("tokenUsage", Place::TokenUsage),
        ("amazon-bedrock-invocationMetrics", Place::InvocationMetrics),
    ];
    for (key, place) in PLACES {
        match object.get(key) {
            None | Some(Value::Null) => {}
            // Groq's last chunk can have an empty one beside the other.
            Some(Value::Object(usage)) if usage.is_empty() => {}
            Some(Value::Object(usage)) => {
                let usage = Cow::Borrowed(usage);
                return Ok(Some(Located { place, usage, path: prefix.to(key) }));
            }
            Some(other) => {
                return Err(Error::invalid(format!(
                    "{} must be an object, not {}",
                    prefix.to(key),
                    type_of(other)
                ))
                .hint(shape::KNOWN));
            }
        }
    }
    if let Some(Value::Object(groq)) = object.get("x_groq")
        && let Some(Value::Object(usage)) = groq.get("usage")
    {
        let usage = Cow::Borrowed(usage);
        return Ok(Some(Located { place: Place::Usage, usage, path: prefix.to("x_groq.usage") }));
    }
    if let Some(Value::Object(meta)) = object.get("meta")
        && (meta.contains_key("billed_units") || meta.contains_key("tokens"))
    {
        let usage = Cow::Borrowed(meta);
        return Ok(Some(Located { place: Place::Meta, usage, path: prefix.to("meta") }));
    }
    // Moonshot's last chunk has it within the choice.
    let choice = object.get("choices").and_then(|choices| choices.get(0)?.get("usage"));
    if let Some(Value::Object(usage)) = choice {
        let (usage, path) = (Cow::Borrowed(usage), prefix.to("choices[0].usage"));
        return Ok(Some(Located { place: Place::Usage, usage, path }));
    }
    if let Some(attributes) = telemetry::attributes(object) {
        let usage = Cow::Owned(attributes);
        return Ok(Some(Located { place: Place::Telemetry, usage, path: prefix.to("") }));
    }
    if let Some(duration) = object.get("duration").filter(|_| is_transcript(object)) {
        number::quantity(duration, &prefix.to("duration"))?;
        let mut usage = Object::new();
        usage.insert("type".into(), "duration".into());
        usage.insert("seconds".into(), duration.clone());
        let (usage, path) = (Cow::Owned(usage), prefix.to("duration"));
        return Ok(Some(Located { place: Place::Usage, usage, path }));
    }
    if shape::is_usage(object) {
        let place = Place::Usage;
        let usage = Cow::Borrowed(object);
        return Ok(Some(Located { place, usage, path: prefix.to("") }));
    }
    Ok(None)
}

fn check(located: &Located) -> Result<()> {
    let root = Path::Root;
    match located.place {
        // Its keys hold dots, and are looked at when they are read.
        Place::Telemetry => Ok(()),
        _ => number::check(&located.usage, &root.key(&located.path)),
    }
}

/// A transcription that tells its length and no usage: Groq's, and OpenAI's of before.
fn is_transcript(object: &Object) -> bool {
    object.contains_key("text") && (object.contains_key("segments") || object.contains_key("task"))
}
