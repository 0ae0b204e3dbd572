//! How many tokens a text is to a model: counted where the model's tokenizer is public, else
//! estimated, and it says which.
//!
//! A crate of its own, so that what only needs money and windows is not linked with its
//! dictionaries. Of the crates that count as OpenAI's models do, `bpe-openai` (kept by GitHub) was
//! taken. Measured beside others on 2 cores, in release builds:
//!
//! | crate | adds to the library | first use: cl100k, o200k | a backend keeps | 1 MB of prose | 1 MB of one letter |
//! |---|---|---|---|---|---|
//! | `bpe-openai` 0.3.2 | 74 MB | 52 ms, 90 ms | 17 MB, 33 MB | 65 ms | 9 ms |
//! | `tiktoken-rs` 0.12.1 | 8 MB | 52 ms, 96 ms | 21 MB, 42 MB | 70 to 106 ms | 0.7 s; 1 MB of blanks panics (o200k) |
//! | `tiktoken` 3.1.4 | 8 MB | 49 ms, 148 ms | 10 MB, 22 MB | 73 ms | 270 to 400 ms; miscounts line ends |
//!
//! On 400,000 random texts the first two agreed everywhere; the third differed in a quarter. The
//! first costs disk and no more, of which 24 MB are a dictionary that nothing here reads and the
//! linker keeps: a dictionary is read when it is first asked for, once a process, and stays until
//! the process ends. It takes time in proportion to the text, whatever is in it. `tokenizers`
//! brings no dictionaries; it would have to be given a file.

mod encoding;
mod estimate;

pub use encoding::Encoding;

/// What a text comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenCount {
    pub tokens: i64,
    /// `None` where it is estimated.
    pub encoding: Option<Encoding>,
}

/// Bytes of text after which `pause` is called again: well below a millisecond of counting.
const PAUSE_BYTES: usize = 8_192;

/// Counts the tokens of `text`, in which nothing is special. `pause` is called now and then, so that
/// it can be stopped by an unwinding panic.
pub fn count(model: &str, text: &str, mut pause: impl FnMut()) -> TokenCount {
    let Some(encoding) = Encoding::of_model(model) else {
        return TokenCount { tokens: estimate::tokens(text), encoding: None };
    };
    let tokenizer = encoding.tokenizer();
    let (mut tokens, mut since_pause) = (0, 0);
    for piece in tokenizer.split(text) {
        tokens += tokenizer.bpe.count(piece.as_bytes());
        since_pause += piece.len();
        if since_pause >= PAUSE_BYTES {
            since_pause = 0;
            pause();
        }
    }
    TokenCount { tokens: tokens as i64, encoding: Some(encoding) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(model: &str, text: &str) -> i64 {
        let counted = count(model, text, || {});
        assert!(counted.encoding.is_some(), "{model}");
        counted.tokens
    }

    /// From OpenAI's cookbook, "How to count tokens with tiktoken".
    #[test]
    fn counts_as_the_cookbook_does() {
        for (text, cl100k, o200k) in [
            ("tiktoken is great!", 6, 6),
            ("antidisestablishmentarianism", 6, 6),
            ("2 + 2 = 4", 7, 7),
            ("お誕生日おめでとう", 9, 8),
        ] {
            assert_eq!(tokens("gpt-4", text), cl100k, "{text}");
            assert_eq!(tokens("gpt-4o", text), o200k, "{text}");
        }
    }

    #[test]
    fn nothing_in_a_text_is_special() {
        // Six or seven tokens of text, and not the one that ends a document.
        assert!(tokens("gpt-4o", "<|endoftext|>") > 1);
        assert!(tokens("gpt-3.5-turbo", "<|endoftext|>") > 1);
    }

    #[test]
    fn an_empty_text_has_no_tokens() {
        assert_eq!(tokens("gpt-4o", ""), 0);
        assert_eq!(count("claude-sonnet-4", "", || {}).tokens, 0);
    }

    #[test]
    fn a_text_takes_time_in_proportion_whatever_is_in_it() {
        // With a merge of pairs in quadratic time each of these would take hours.
        for unit in ["a", " ", "\n", "世", "!", "\u{301}"] {
            let text = unit.repeat(1_000_000);
            assert!(tokens("gpt-4o", &text) > 0);
        }
    }

    #[test]
    fn counting_pauses_again_and_again() {
        let mut pauses = 0;
        count("gpt-4o", &"twelve bytes".repeat(10_000), || pauses += 1);
        assert!((5..100).contains(&pauses), "{pauses}");
    }
}
