//! The classes of what a call uses and is billed for, and how they contain each other.
//!
//! A class is a point in a few dimensions: `cache_read_tokens` are tokens, input, read from a cache. A
//! class whose dimensions are a part of another's contains it: `input_tokens` contains them. Names,
//! price keys and units are those of the `genai-prices` catalogue (its `units.yml`), whose crate keeps
//! the table to itself; a test holds this one against it.

use std::fmt;

/// One class: an index of `CLASSES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

/// What a class is.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// As in a line item, and in the catalogue's usage: `cache_read_tokens`.
    pub name: &'static str,
    /// As in a price list: `cache_read_mtok`.
    pub price_key: &'static str,
    /// How many the price is for: a million tokens, 3,600 seconds.
    pub per: i64,
    /// Family, direction, modality, kind, lifetime of the cache; empty where the class does not say.
    dimensions: [&'static str; 5],
}

/// How many there are.
pub const COUNT: usize = 59;

impl Class {
    pub const INPUT_TOKENS: Self = Self(34);
    pub const OUTPUT_TOKENS: Self = Self(50);
    pub const CACHE_READ_TOKENS: Self = Self(9);
    pub const CACHE_WRITE_TOKENS: Self = Self(20);
    pub const CACHE_WRITE_5M_TOKENS: Self = Self(19);
    pub const CACHE_WRITE_1H_TOKENS: Self = Self(18);
    pub const OUTPUT_REASONING_TOKENS: Self = Self(46);
    pub const REQUESTS: Self = Self(54);
    pub const WEB_SEARCHES: Self = Self(58);
    pub const INPUT_AUDIO_TOKENS: Self = Self(24);
    pub const OUTPUT_AUDIO_TOKENS: Self = Self(41);
    pub const INPUT_IMAGE_TOKENS: Self = Self(28);
    pub const OUTPUT_IMAGE_TOKENS: Self = Self(45);
    pub const AUDIO_SECONDS: Self = Self(0);
    pub const INPUT_CHARACTERS: Self = Self(26);

    /// The class of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        // In the order of their names.
        let index = CLASSES.binary_search_by_key(&name, |class| class.name).ok()?;
        u8::try_from(index).ok().map(Self)
    }

    /// The class that a price list has under this key.
    #[must_use]
    pub fn priced_by(price_key: &str) -> Option<Self> {
        Self::all().find(|class| class.definition().price_key == price_key)
    }

    /// Every class, in the order of their names.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT).filter_map(|index| u8::try_from(index).ok().map(Self))
    }

    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    #[must_use]
    pub fn definition(self) -> &'static Definition {
        &CLASSES[self.index()]
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// Tokens, or something else that is counted apart from them.
    #[must_use]
    pub fn is_tokens(self) -> bool {
        self.definition().dimensions[0] == "tokens"
    }

    /// Whether all of `other` is also of this class, which is another.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        let pairs = || self.definition().dimensions.into_iter().zip(other.definition().dimensions);
        self != other && pairs().all(|(mine, others)| mine.is_empty() || mine == others)
    }

    /// Whether nothing can be of both.
    #[must_use]
    pub fn excludes(self, other: Self) -> bool {
        let mut pairs = self.definition().dimensions.into_iter().zip(other.definition().dimensions);
        pairs.any(|(mine, others)| !mine.is_empty() && !others.is_empty() && mine != others)
    }

    /// The class of what is of both, if they can meet and there is one.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let mut both = self.definition().dimensions;
        for (mine, others) in both.iter_mut().zip(other.definition().dimensions) {
            if mine.is_empty() {
                *mine = others;
            } else if !others.is_empty() && *mine != others {
                return None;
            }
        }
        Self::all().find(|class| class.definition().dimensions == both)
    }

    /// In how many dimensions it says something: what contains it says less.
    #[must_use]
    pub fn depth(self) -> usize {
        self.definition().dimensions.iter().filter(|dimension| !dimension.is_empty()).count()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn class(
    name: &'static str,
    price_key: &'static str,
    per: i64,
    dimensions: [&'static str; 5],
) -> Definition {
    Definition { name, price_key, per, dimensions }
}

#[rustfmt::skip]
static CLASSES: [Definition; COUNT] = [
    class("audio_seconds", "audio_hours", 3_600, ["durations", "", "audio", "", ""]),
    class("cache_audio_read_tokens", "cache_audio_read_mtok", 1_000_000, ["tokens", "input", "audio", "cache_read", ""]),
    class("cache_audio_write_1h_tokens", "cache_audio_write_1h_mtok", 1_000_000, ["tokens", "input", "audio", "cache_write", "1h"]),
    class("cache_audio_write_5m_tokens", "cache_audio_write_5m_mtok", 1_000_000, ["tokens", "input", "audio", "cache_write", "5m"]),
    class("cache_audio_write_tokens", "cache_audio_write_mtok", 1_000_000, ["tokens", "input", "audio", "cache_write", ""]),
    class("cache_image_read_tokens", "cache_image_read_mtok", 1_000_000, ["tokens", "input", "image", "cache_read", ""]),
    class("cache_image_write_1h_tokens", "cache_image_write_1h_mtok", 1_000_000, ["tokens", "input", "image", "cache_write", "1h"]),
    class("cache_image_write_5m_tokens", "cache_image_write_5m_mtok", 1_000_000, ["tokens", "input", "image", "cache_write", "5m"]),
    class("cache_image_write_tokens", "cache_image_write_mtok", 1_000_000, ["tokens", "input", "image", "cache_write", ""]),
    class("cache_read_tokens", "cache_read_mtok", 1_000_000, ["tokens", "input", "", "cache_read", ""]),
    class("cache_text_read_tokens", "cache_text_read_mtok", 1_000_000, ["tokens", "input", "text", "cache_read", ""]),
    class("cache_text_write_1h_tokens", "cache_text_write_1h_mtok", 1_000_000, ["tokens", "input", "text", "cache_write", "1h"]),
    class("cache_text_write_5m_tokens", "cache_text_write_5m_mtok", 1_000_000, ["tokens", "input", "text", "cache_write", "5m"]),
    class("cache_text_write_tokens", "cache_text_write_mtok", 1_000_000, ["tokens", "input", "text", "cache_write", ""]),
    class("cache_video_read_tokens", "cache_video_read_mtok", 1_000_000, ["tokens", "input", "video", "cache_read", ""]),
    class("cache_video_write_1h_tokens", "cache_video_write_1h_mtok", 1_000_000, ["tokens", "input", "video", "cache_write", "1h"]),
    class("cache_video_write_5m_tokens", "cache_video_write_5m_mtok", 1_000_000, ["tokens", "input", "video", "cache_write", "5m"]),
    class("cache_video_write_tokens", "cache_video_write_mtok", 1_000_000, ["tokens", "input", "video", "cache_write", ""]),
    class("cache_write_1h_tokens", "cache_write_1h_mtok", 1_000_000, ["tokens", "input", "", "cache_write", "1h"]),
    class("cache_write_5m_tokens", "cache_write_5m_mtok", 1_000_000, ["tokens", "input", "", "cache_write", "5m"]),
    class("cache_write_tokens", "cache_write_mtok", 1_000_000, ["tokens", "input", "", "cache_write", ""]),
    class("code_executions", "code_executions_kcount", 1_000, ["tool_calls", "", "", "code_execution", ""]),
    class("input_annotated_document_pages", "input_annotated_document_kpages", 1_000, ["document_pages", "input", "", "annotated", ""]),
    class("input_audio_seconds", "input_audio_hours", 3_600, ["durations", "input", "audio", "", ""]),
    class("input_audio_tokens", "input_audio_mtok", 1_000_000, ["tokens", "input", "audio", "", ""]),
    class("input_audio_tool_tokens", "input_audio_tool_mtok", 1_000_000, ["tokens", "input", "audio", "tool", ""]),
    class("input_characters", "input_mchars", 1_000_000, ["characters", "input", "", "", ""]),
    class("input_document_pages", "input_document_kpages", 1_000, ["document_pages", "input", "", "", ""]),
    class("input_image_tokens", "input_image_mtok", 1_000_000, ["tokens", "input", "image", "", ""]),
    class("input_image_tool_tokens", "input_image_tool_mtok", 1_000_000, ["tokens", "input", "image", "tool", ""]),
    class("input_pixels", "input_gpixels", 1_000_000_000, ["pixels", "input", "", "", ""]),
    class("input_text_messages", "input_text_messages_kcount", 1_000, ["messages", "input", "text", "", ""]),
    class("input_text_tokens", "input_text_mtok", 1_000_000, ["tokens", "input", "text", "", ""]),
    class("input_text_tool_tokens", "input_text_tool_mtok", 1_000_000, ["tokens", "input", "text", "tool", ""]),
    class("input_tokens", "input_mtok", 1_000_000, ["tokens", "input", "", "", ""]),
    class("input_tool_tokens", "input_tool_mtok", 1_000_000, ["tokens", "input", "", "tool", ""]),
    class("input_video_tokens", "input_video_mtok", 1_000_000, ["tokens", "input", "video", "", ""]),
    class("input_video_tool_tokens", "input_video_tool_mtok", 1_000_000, ["tokens", "input", "video", "tool", ""]),
    class("output_audio_citation_tokens", "output_audio_citation_mtok", 1_000_000, ["tokens", "output", "audio", "citation", ""]),
    class("output_audio_reasoning_tokens", "output_audio_reasoning_mtok", 1_000_000, ["tokens", "output", "audio", "reasoning", ""]),
    class("output_audio_seconds", "output_audio_hours", 3_600, ["durations", "output", "audio", "", ""]),
    class("output_audio_tokens", "output_audio_mtok", 1_000_000, ["tokens", "output", "audio", "", ""]),
    class("output_citation_tokens", "output_citation_mtok", 1_000_000, ["tokens", "output", "", "citation", ""]),
    class("output_image_citation_tokens", "output_image_citation_mtok", 1_000_000, ["tokens", "output", "image", "citation", ""]),
    class("output_image_reasoning_tokens", "output_image_reasoning_mtok", 1_000_000, ["tokens", "output", "image", "reasoning", ""]),
    class("output_image_tokens", "output_image_mtok", 1_000_000, ["tokens", "output", "image", "", ""]),
    class("output_reasoning_tokens", "output_reasoning_mtok", 1_000_000, ["tokens", "output", "", "reasoning", ""]),
    class("output_text_citation_tokens", "output_text_citation_mtok", 1_000_000, ["tokens", "output", "text", "citation", ""]),
    class("output_text_reasoning_tokens", "output_text_reasoning_mtok", 1_000_000, ["tokens", "output", "text", "reasoning", ""]),
    class("output_text_tokens", "output_text_mtok", 1_000_000, ["tokens", "output", "text", "", ""]),
    class("output_tokens", "output_mtok", 1_000_000, ["tokens", "output", "", "", ""]),
    class("output_video_citation_tokens", "output_video_citation_mtok", 1_000_000, ["tokens", "output", "video", "citation", ""]),
    class("output_video_reasoning_tokens", "output_video_reasoning_mtok", 1_000_000, ["tokens", "output", "video", "reasoning", ""]),
    class("output_video_tokens", "output_video_mtok", 1_000_000, ["tokens", "output", "video", "", ""]),
    class("requests", "requests_kcount", 1_000, ["requests", "", "", "", ""]),
    class("rerank_searches", "rerank_searches_kcount", 1_000, ["rerank", "", "", "", ""]),
    class("social_searches", "social_searches_kcount", 1_000, ["tool_calls", "", "", "social_search", ""]),
    class("storage_searches", "storage_searches_kcount", 1_000, ["tool_calls", "", "", "storage_search", ""]),
    class("web_searches", "web_searches_kcount", 1_000, ["tool_calls", "", "", "web_search", ""]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_in_order() {
        assert!(CLASSES.is_sorted_by_key(|class| class.name));
        for class in Class::all() {
            assert_eq!(Class::named(class.name()), Some(class));
            assert_eq!(Class::priced_by(class.definition().price_key), Some(class));
        }
        assert_eq!(Class::named("input"), None);
        assert_eq!(Class::INPUT_TOKENS.name(), "input_tokens");
    }

    #[test]
    fn a_class_contains_what_says_more() {
        assert!(Class::INPUT_TOKENS.contains(Class::CACHE_READ_TOKENS));
        assert!(Class::CACHE_WRITE_TOKENS.contains(Class::CACHE_WRITE_1H_TOKENS));
        assert!(!Class::INPUT_TOKENS.contains(Class::INPUT_TOKENS));
        assert!(!Class::INPUT_TOKENS.contains(Class::OUTPUT_TOKENS));
        let cached_audio = Class::named("cache_audio_read_tokens");
        assert_eq!(Class::CACHE_READ_TOKENS.overlap(Class::INPUT_AUDIO_TOKENS), cached_audio);
        assert_eq!(Class::INPUT_AUDIO_TOKENS.overlap(Class::OUTPUT_AUDIO_TOKENS), None);
        assert!(Class::CACHE_READ_TOKENS.excludes(Class::CACHE_WRITE_1H_TOKENS));
        assert!(!Class::CACHE_READ_TOKENS.excludes(Class::INPUT_AUDIO_TOKENS));
    }
}
