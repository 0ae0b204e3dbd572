//! Model calls to replay: real ones out of a file, or a made-up sample.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What a model call took in, and what it answered, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct ModelCall {
    #[serde(rename = "ContextTokens")]
    pub input_tokens: u32,
    #[serde(rename = "GeneratedTokens")]
    pub output_tokens: u32,
}

#[derive(Debug)]
pub struct Trace {
    pub calls: Vec<ModelCall>,
    /// Where they are from, in words.
    pub source: String,
}

const SAMPLE_CALLS: usize = 400;

impl Trace {
    /// The same calls every time, with the spread of a chat: many short ones and a few long.
    #[must_use]
    pub fn sample() -> Self {
        let mut random = fastrand::Rng::with_seed(2026);
        let mut tokens = |smallest: f64, doublings: f64| {
            (smallest * (random.f64() * doublings).exp2()).round() as u32
        };
        let calls = (0..SAMPLE_CALLS)
            .map(|_| ModelCall {
                input_tokens: tokens(80.0, 6.0),
                output_tokens: tokens(15.0, 6.0),
            })
            .collect();
        Self { calls, source: "a made-up sample".to_owned() }
    }

    /// Reads a CSV file with the columns `ContextTokens` and `GeneratedTokens`, in their order.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is not such a call.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_path(path)
            .with_context(|| format!("cannot read {shown}"))?;
        let calls = reader
            .deserialize()
            .collect::<Result<Vec<ModelCall>, _>>()
            .with_context(|| format!("{shown} is not a trace of model calls"))?;
        ensure!(!calls.is_empty(), "{shown} has no calls");
        Ok(Self { calls, source: shown.to_string() })
    }
}
