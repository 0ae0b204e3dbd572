//! Counts as JSON has them, and the paths that errors name them by.
//!
//! Every number below a usage object is looked at before anything is read, known or not: the extractors
//! pass over what they cannot read, and a count that is passed over would be a silent zero.

use crate::call::MAX_COUNT;
use crate::error::{Error, Result};
use crate::pricing::Class;
use rust_decimal::Decimal;
use serde_json::{Map, Value};
use std::fmt;

/// Deeper than any provider nests its usage.
const MAX_DEPTH: usize = 16;
/// Of one step of a path in a message: it is not ours, and may be megabytes long.
const MAX_STEP: usize = 64;

pub const AS_SENT: &str =
    "Pass the usage as the provider sent it, with its numbers as JSON numbers.";

/// Where a value was found: steps from the outside in, spelled out only for an error.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Index(outer, index) => write!(f, "{outer}[{index}]"),
            Path::Key(outer, key) => {
                let outer = outer.to_string();
                let dot = if outer.is_empty() { "" } else { "." };
                write!(f, "{outer}{dot}{}", key.chars().take(MAX_STEP).collect::<String>())
            }
        }
    }
}

/// What JSON calls the type of a value.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A whole number that is not negative and not absurd; `12.0` is one.
///
/// # Errors
/// 22023 when it is none, 22003 when it is out of range.
pub fn count(value: &Value, path: &dyn fmt::Display) -> Result<Decimal> {
    let quantity = quantity(value, path)?;
    if !quantity.fract().is_zero() {
        return Err(Error::invalid(format!("{path} must be a whole number")).hint(AS_SENT));
    }
    Ok(quantity.normalize())
}

/// A number of seconds or the like, which may have a fraction.
///
/// # Errors
/// 22023 when it is no number, 22003 when it is out of range.
pub fn quantity(value: &Value, path: &dyn fmt::Display) -> Result<Decimal> {
    let Value::Number(number) = value else {
        return Err(Error::invalid(format!("{path} must be a number, not {}", type_of(value)))
            .hint(AS_SENT));
    };
    let out_of_range = || {
        Error::out_of_range(format!("{path} is out of range"))
            .detail(format!("It must be at most {MAX_COUNT}."))
    };
    let quantity = decimal(number).ok_or_else(out_of_range)?;
    if quantity.is_sign_negative() && !quantity.is_zero() {
        return Err(Error::out_of_range(format!("{path} must not be negative")));
    }
    if quantity > Decimal::from(MAX_COUNT) {
        return Err(out_of_range());
    }
    Ok(quantity.abs())
}

/// The decimal that the number's shortest text stands for.
pub fn decimal(number: &serde_json::Number) -> Option<Decimal> {
    if let Some(whole) = number.as_i64() {
        return Some(Decimal::from(whole));
    }
    let text = number.to_string();
    if text.contains(['e', 'E']) {
        Decimal::from_scientific(&text).ok().or_else(|| {
            // Smaller than a decimal can say.
            number.as_f64().filter(|float| float.abs() < 1e-20).map(|_| Decimal::ZERO)
        })
    } else {
        text.parse().ok()
    }
}

/// Refuses a usage object that has anything but a count where a count is due.
///
/// # Errors
/// As [`count`]; 22023 when an object is due and something else is there, or it is nested too deep.
pub fn check(usage: &Map<String, Value>, path: &Path) -> Result<()> {
    check_at(usage, path, 0)
}

fn check_at(object: &Map<String, Value>, path: &Path, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid("usage is nested too deep")
            .detail(format!("At most {MAX_DEPTH} levels are read below a usage object.")));
    }
    for (key, value) in object {
        let here = path.key(key);
        match value {
            Value::Null => {}
            Value::Object(inner) if !is_count(key) || is_container(key) => {
                check_at(inner, &here, depth + 1)?;
            }
            Value::Array(items) if !is_count(key) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Object(inner) = item {
                        check_at(inner, &here.index(index), depth + 1)?;
                    }
                }
            }
            other if is_container(key) => {
                return Err(Error::invalid(format!(
                    "{here} must be an object, not {}",
                    type_of(other)
                ))
                .hint(AS_SENT));
            }
            other if is_count(key) => drop(count(other, &here)?),
            other if is_duration(key) => drop(quantity(other, &here)?),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the key is one that a usage object may be known by.
pub fn is_of_usage(key: &str) -> bool {
    is_count(key) || is_duration(key) || is_container(key)
}

/// Whether the key is that of a whole number: tokens, calls, pages.
fn is_count(key: &str) -> bool {
    const ENDS: [&str; 11] = [
        "tokens",
        "Tokens",
        "TokenCount",
        "tokenCount",
        "token_count",
        "eval_count",
        "_requests",
        "_calls",
        "_queries",
        "_units",
        "_processed",
    ];
    const NAMES: [&str; 3] = ["invocation", "classifications", "num_sources_used"];
    ENDS.iter().any(|end| key.ends_with(end))
        || NAMES.contains(&key)
        || (!is_duration(key) && Class::named(key).is_some())
}

fn is_duration(key: &str) -> bool {
    key == "seconds" || key.ends_with("_seconds")
}

/// Whether the key is that of an object; `*Details` may be a list.
fn is_container(key: &str) -> bool {
    const NAMES: [&str; 5] =
        ["tokens", "billed_units", "cache_creation", "server_tool_use", "connectors"];
    NAMES.contains(&key) || key.ends_with("_details") || key.ends_with("Details")
}
