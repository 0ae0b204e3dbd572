//! What the keys of an entry of LiteLLM's price list mean in the classes of this extension.
//!
//! LiteLLM prices *one* unit, in US dollars; a key's ending says under which condition. What is not here
//! and looks like a price is told as not represented: a new key must not be dropped in silence.

use crate::pricing::class::Class;

/// What a key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The price of this class, in dollars for so many units.
    Price(Class, i64),
    /// The price beyond this many input tokens.
    Tier(Class, i64),
    /// Instead of the price under the key that is named, where a condition holds that `ai_prices` has
    /// no place for.
    Conditional {
        of: &'a str,
        reason: &'static str,
    },
    /// The seconds of what is heard, where a model only hears.
    HeardSeconds,
    /// Characters or text, where those are not tokens too.
    Characters,
    /// The price of a query, of which the kind of model says what it is.
    Query,
    /// A price by the size of the search's context.
    Searches,
    /// Prices by the input tokens of the call.
    Ranges,
    /// Times a price, under a condition.
    Multiplier,
    Multipliers,
    NotRepresented(&'static str),
    /// Says nothing of money.
    Nothing,
}

/// By the key for a whole call: class, and for how many units the price is.
const PRICES: [(&str, &str, i64); 22] = [
    ("annotation_cost_per_page", "input_annotated_document_pages", 1),
    ("cache_creation_input_audio_token_cost", "cache_audio_write_tokens", 1),
    ("cache_creation_input_token_cost", "cache_write_tokens", 1),
    ("cache_creation_input_token_cost_above_1hr", "cache_write_1h_tokens", 1),
    ("cache_read_input_audio_token_cost", "cache_audio_read_tokens", 1),
    ("cache_read_input_image_token_cost", "cache_image_read_tokens", 1),
    ("cache_read_input_token_cost", "cache_read_tokens", 1),
    ("citation_cost_per_token", "output_citation_tokens", 1),
    ("file_search_cost_per_1k_calls", "storage_searches", 1_000),
    ("input_cost_per_audio_token", "input_audio_tokens", 1),
    ("input_cost_per_image_token", "input_image_tokens", 1),
    ("input_cost_per_request", "requests", 1),
    ("input_cost_per_text_message", "input_text_messages", 1),
    ("input_cost_per_token", "input_tokens", 1),
    ("input_cost_per_token_cache_hit", "cache_read_tokens", 1),
    ("input_cost_per_video_token", "input_video_tokens", 1),
    ("ocr_cost_per_page", "input_document_pages", 1),
    ("output_cost_per_audio_token", "output_audio_tokens", 1),
    ("output_cost_per_image_token", "output_image_tokens", 1),
    ("output_cost_per_reasoning_token", "output_reasoning_tokens", 1),
    ("output_cost_per_token", "output_tokens", 1),
    ("output_cost_per_video_token", "output_video_tokens", 1),
];

/// Endings that name a condition.
const CONDITIONS: [(&str, &str); 6] = [
    ("_balanced", "holds only for the balanced tier; ai_prices has no condition for it"),
    ("_batches", "holds only in a batch; ai_prices has no condition for it"),
    ("_decisions", "holds only for decisions; ai_prices has no condition for it"),
    ("_flex", "holds only for the flex tier; ai_prices has no condition for it"),
    ("_priority", "holds only for the priority tier; ai_prices has no condition for it"),
    ("_ultrafast", "holds only for the ultrafast tier; ai_prices has no condition for it"),
];

const OTHERS: [(&str, Meaning<'static>); 12] = [
    ("input_cost_per_character", Meaning::Characters),
    ("input_cost_per_query", Meaning::Query),
    ("input_cost_per_second", Meaning::HeardSeconds),
    ("output_cost_per_second", Meaning::HeardSeconds),
    ("search_context_cost_per_query", Meaning::Searches),
    ("tiered_pricing", Meaning::Ranges),
    ("provider_specific_entry", Meaning::Multipliers),
    (
        "cache_creation_input_token_cost_above_12hr",
        Meaning::NotRepresented("no class of usage is a cache write for 12 hours"),
    ),
    ("off_peak_pricing", Meaning::NotRepresented("holds only at times of the day")),
    (
        "search_free_requests",
        Meaning::NotRepresented("what is free of all calls is not known of one"),
    ),
    // The dollars stand beside it.
    ("input_dbu_cost_per_token", Meaning::Nothing),
    ("output_dbu_cost_per_token", Meaning::Nothing),
];

/// What `key` means. The calls of LiteLLM's own code are the reference.
#[must_use]
pub fn meaning(key: &str) -> Meaning<'_> {
    for (ending, reason) in CONDITIONS {
        if let Some(of) = key.strip_suffix(ending) {
            return Meaning::Conditional { of, reason };
        }
    }
    if let Some((_, other)) = OTHERS.iter().find(|(known, _)| *known == key) {
        return *other;
    }
    if let Some((class, per)) = price(key) {
        return Meaning::Price(class, per);
    }
    if let Some((class, start)) = tier(key) {
        return Meaning::Tier(class, start);
    }
    if key.contains("_multiplier") {
        return Meaning::Multiplier;
    }
    if key.contains("cost") || key.contains("price") || key.contains("pricing") {
        return Meaning::NotRepresented("no class of usage has this unit");
    }
    Meaning::Nothing
}

fn price(key: &str) -> Option<(Class, i64)> {
    let at = PRICES.binary_search_by_key(&key, |(known, ..)| known).ok()?;
    let (_, class, per) = PRICES[at];
    Class::named(class).map(|class| (class, per))
}

/// `input_cost_per_token_above_200k_tokens`.
fn tier(key: &str) -> Option<(Class, i64)> {
    let (of, start) = key.strip_suffix("k_tokens")?.rsplit_once("_above_")?;
    let thousands: u32 = start.parse().ok()?;
    price(of).filter(|(_, per)| *per == 1).map(|(class, _)| (class, i64::from(thousands) * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_in_the_table_is_found_and_has_a_class() {
        for (key, class, per) in PRICES {
            assert_eq!(price(key), Class::named(class).map(|class| (class, per)), "{key}");
            assert!(Class::named(class).is_some(), "{key}");
        }
    }

    #[test]
    fn endings_say_tiers_and_conditions() {
        let tier = Meaning::Tier(Class::CACHE_WRITE_1H_TOKENS, 200_000);
        assert_eq!(meaning("cache_creation_input_token_cost_above_1hr_above_200k_tokens"), tier);
        let Meaning::Conditional { of, .. } =
            meaning("input_cost_per_token_above_272k_tokens_flex")
        else {
            panic!("no condition")
        };
        assert_eq!(meaning(of), Meaning::Tier(Class::INPUT_TOKENS, 272_000));
    }

    #[test]
    fn what_looks_like_a_price_is_never_nothing() {
        for key in ["output_cost_per_image", "vector_store_cost_per_gb_per_day", "price_per_dream"]
        {
            assert!(matches!(meaning(key), Meaning::NotRepresented(_)), "{key}");
        }
        for key in ["max_tokens", "mode", "supports_vision", "source"] {
            assert_eq!(meaning(key), Meaning::Nothing, "{key}");
        }
    }
}
