//! Which tokenizer a model has.
//!
//! The names are those of OpenAI's own table, `tiktoken/model.py` of tiktoken 0.14: the crate that
//! counts has none. Names outside it are not guessed: a new family may have a new tokenizer. Of that table
//! the models of `p50k_base` and `r50k_base` are left out, which were all shut down in January 2024.
//! `o200k_harmony` of the gpt-oss models differs from `o200k_base` only in special tokens, which a text does
//! not have.

use ai_limiter_domain::model_name::canonicalize;
use bpe_openai::Tokenizer;

/// A public tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Cl100kBase,
    O200kBase,
}

use Encoding::{Cl100kBase, O200kBase};

const NAMES: &[(&str, Encoding)] = &[
    ("o1", O200kBase),
    ("o3", O200kBase),
    ("o4-mini", O200kBase),
    ("gpt-4.1", O200kBase),
    ("gpt-4.5", O200kBase),
    ("gpt-4o", O200kBase),
    ("chatgpt-4o", O200kBase),
    ("gpt-4", Cl100kBase),
    ("gpt-3.5", Cl100kBase),
    ("gpt-3.5-turbo", Cl100kBase),
    // As Azure calls it.
    ("gpt-35-turbo", Cl100kBase),
    ("davinci-002", Cl100kBase),
    ("babbage-002", Cl100kBase),
    ("text-embedding-ada-002", Cl100kBase),
    ("text-embedding-3-small", Cl100kBase),
    ("text-embedding-3-large", Cl100kBase),
];

const PREFIXES: &[(&str, Encoding)] = &[
    ("o1-", O200kBase),
    ("o3-", O200kBase),
    ("o4-mini-", O200kBase),
    ("gpt-5", O200kBase),
    ("gpt-4.5-", O200kBase),
    ("gpt-4.1-", O200kBase),
    ("chatgpt-4o-", O200kBase),
    ("gpt-4o-", O200kBase),
    ("gpt-4-", Cl100kBase),
    ("gpt-3.5-turbo-", Cl100kBase),
    ("gpt-35-turbo-", Cl100kBase),
    ("gpt-oss-", O200kBase),
    ("codex-mini", O200kBase),
];

impl Encoding {
    /// The tokenizer of a model in any spelling: with a provider's prefix, dated, fine-tuned.
    pub fn of_model(model: &str) -> Option<Self> {
        let canonical = canonicalize(model).model;
        // ft:gpt-4o-2024-08-06:organisation:name:id
        let base = canonical.strip_prefix("ft:").and_then(|rest| rest.split(':').next());
        let name = base.unwrap_or(&canonical);
        // Bedrock: openai.gpt-oss-120b-1:0
        let name = name.strip_prefix("openai.").unwrap_or(name);
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let known = known.or_else(|| PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)));
        known.map(|(_, encoding)| *encoding)
    }

    pub fn name(self) -> &'static str {
        match self {
            Cl100kBase => "cl100k_base",
            O200kBase => "o200k_base",
        }
    }

    /// Reads the dictionary when it is first asked for.
    pub(crate) fn tokenizer(self) -> &'static Tokenizer {
        match self {
            Cl100kBase => bpe_openai::cl100k_base(),
            O200kBase => bpe_openai::o200k_base(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_known_in_every_spelling() {
        for model in [
            "gpt-4o",
            "GPT-4o-mini",
            "openai/gpt-4o-2024-08-06",
            "openrouter/openai/gpt-4.1-nano",
            "azure/gpt-5.2-codex",
            "o1",
            "o3-mini",
            "o4-mini-2025-04-16",
            "chatgpt-4o-latest",
            "ft:gpt-4o-2024-08-06:org:name:id",
            "openai.gpt-oss-120b-1:0",
            "codex-mini-latest",
        ] {
            assert_eq!(Encoding::of_model(model), Some(O200kBase), "{model}");
        }
        for model in [
            "gpt-4",
            "gpt-4-0613",
            "gpt-4-turbo-2024-04-09",
            "gpt-4-32k",
            "gpt-35-turbo",
            "gpt-3.5-turbo-0125",
            "ft:gpt-3.5-turbo:org::id",
            "text-embedding-3-small",
        ] {
            assert_eq!(Encoding::of_model(model), Some(Cl100kBase), "{model}");
        }
    }

    #[test]
    fn a_model_with_a_tokenizer_of_its_own_is_not_guessed() {
        for model in [
            "claude-opus-4-1",
            "gemini-2.5-pro",
            "meta-llama/llama-3.3-70b-instruct",
            "mistral-large-latest",
            "gpt-4x",
            "gpt-6",
            "o4",
            "",
        ] {
            assert_eq!(Encoding::of_model(model), None, "{model}");
        }
    }
}
