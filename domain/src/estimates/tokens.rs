//! How many tokens a text is: counted where the model's tokenizer is published, else estimated.
//!
//! OpenAI publishes which encoding its models use; for those the count is exact. Others keep theirs to
//! themselves or need files of their own, and are counted by the newest of the two, with a fifth
//! added: rather too much than too little, since what is not held is not limited. It counts the
//! text alone: what an API adds for a message's role, for tools and images, is not in it.
//!
//! The crate takes time linear in the text, whatever the text, which matters where anybody may ask: 16 MB
//! in 0.6 s. The tables of an encoding are decoded when it is first used, and stay to the end of the
//! process: 0.1 s and 65 MB for the newer one, 0.05 s and 30 MB for the other.

use crate::error::{Error, Result};
use crate::model_name;
use bpe_openai::{Tokenizer, cl100k_base, o200k_base};

/// Longest text in bytes: longer than any model reads, and counted within seconds.
pub const MAX_BYTES: usize = 16 << 20;

/// A published encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    O200k,
    Cl100k,
}

/// As `tiktoken/model.py` has them: a name is the model itself, one with a dash at its end begins it.
const ENCODINGS: [(Encoding, &[&str]); 2] = [
    (
        Encoding::O200k,
        &[
            "o1",
            "o1-",
            "o3",
            "o3-",
            "o4-mini",
            "o4-mini-",
            "gpt-5",
            "gpt-5-",
            "gpt-4.5-",
            "gpt-4.1",
            "gpt-4.1-",
            "gpt-4o",
            "gpt-4o-",
            "chatgpt-4o-",
            "gpt-oss-",
        ],
    ),
    (
        Encoding::Cl100k,
        &[
            "gpt-4",
            "gpt-4-",
            "gpt-3.5",
            "gpt-3.5-turbo",
            "gpt-3.5-turbo-",
            "gpt-35-turbo",
            "gpt-35-turbo-",
            "davinci-002",
            "babbage-002",
            "text-embedding-ada-002",
            "text-embedding-3-small",
            "text-embedding-3-large",
        ],
    ),
];

impl Encoding {
    fn of(model: &str) -> Option<Self> {
        let name = model_name::without_prefix(model);
        // A fine-tuned model reads as its base does: `ft:gpt-4o-mini-2024-07-18:org::id`.
        let name = name
            .strip_prefix("ft:")
            .map_or(&*name, |tuned| tuned.split(':').next().unwrap_or(tuned));
        let is = |known: &&str| match known.ends_with('-') {
            true => name.starts_with(*known),
            false => name == *known,
        };
        ENCODINGS.iter().find(|(_, names)| names.iter().any(is)).map(|(encoding, _)| *encoding)
    }

    fn name(self) -> &'static str {
        match self {
            Encoding::O200k => "o200k_base",
            Encoding::Cl100k => "cl100k_base",
        }
    }

    fn tokenizer(self) -> &'static Tokenizer {
        match self {
            Encoding::O200k => o200k_base(),
            Encoding::Cl100k => cl100k_base(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    pub tokens: i64,
    /// Whether the model's own tokenizer counted.
    pub is_exact: bool,
    /// The encoding that counted.
    pub encoding: &'static str,
}

/// Counts a text as the model reads it.
///
/// # Errors
/// 22023 when the text is longer than [`MAX_BYTES`].
pub fn count(model: Option<&str>, text: &str) -> Result<TokenCount> {
    if text.len() > MAX_BYTES {
        return Err(Error::invalid("text is too long to count its tokens")
            .detail(format!("It has {} bytes, and at most {MAX_BYTES} are counted.", text.len()))
            .hint("Count it in parts: the sum is close to the whole."));
    }
    let own = model.and_then(Encoding::of);
    let encoding = own.unwrap_or(Encoding::O200k);
    let counted = i64::try_from(encoding.tokenizer().count(text)).unwrap_or(i64::MAX);
    let tokens = match own {
        Some(_) => counted,
        None => counted.saturating_add(counted / 5 + i64::from(counted % 5 > 0)),
    };
    Ok(TokenCount { tokens, is_exact: own.is_some(), encoding: encoding.name() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(model: &str, text: &str) -> i64 {
        count(Some(model), text).unwrap().tokens
    }

    /// The examples that OpenAI's cookbook gives in "How to count tokens with tiktoken".
    #[test]
    fn published_examples_are_counted_as_published() {
        for (text, cl100k, o200k) in [
            ("antidisestablishmentarianism", 6, 6),
            ("2 + 2 = 4", 7, 7),
            ("お誕生日おめでとう", 9, 8),
        ] {
            assert_eq!(tokens("gpt-4", text), cl100k, "{text}");
            assert_eq!(tokens("gpt-4o", text), o200k, "{text}");
        }
        assert_eq!(tokens("gpt-3.5-turbo", "tiktoken is great!"), 6);
    }

    #[test]
    fn a_model_is_known_by_any_of_its_spellings() {
        for (model, encoding) in [
            ("openai/gpt-4o-mini-2024-07-18", "o200k_base"),
            ("GPT-4O", "o200k_base"),
            ("o3-mini", "o200k_base"),
            ("ft:gpt-3.5-turbo-0125:acme::8abc", "cl100k_base"),
            ("azure/gpt-35-turbo", "cl100k_base"),
            ("gpt-4-turbo", "cl100k_base"),
            ("text-embedding-3-small", "cl100k_base"),
        ] {
            let counted = count(Some(model), "hello world").unwrap();
            assert_eq!((counted.encoding, counted.is_exact, counted.tokens), (encoding, true, 2));
        }
    }

    #[test]
    fn another_model_is_estimated_and_rather_too_high() {
        for model in [Some("claude-sonnet-4-5"), Some("gemini-2.5-pro"), Some("gpt-6"), None] {
            let counted = count(model, "hello world, hello world").unwrap();
            assert!(!counted.is_exact);
            assert_eq!(counted.tokens, 6, "five tokens and a fifth of them");
        }
        assert_eq!(count(None, "").unwrap().tokens, 0);
    }

    #[test]
    fn text_that_takes_others_for_ever_is_counted_in_time() {
        let text = "a".repeat(1 << 20);
        let began = std::time::Instant::now();
        assert!(tokens("gpt-4o", &text) > 100_000);
        assert!(began.elapsed().as_secs() < 20);
        assert!(count(None, &"a".repeat(MAX_BYTES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_counted_and_no_token_is_shorter_than_a_byte(text in ".{0,200}") {
            for model in ["gpt-4o", "gpt-4"] {
                let counted = tokens(model, &text);
                prop_assert!(counted <= text.len() as i64 && (counted > 0) != text.is_empty());
            }
        }
    }
}
