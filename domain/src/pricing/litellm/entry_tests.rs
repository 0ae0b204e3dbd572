//! What an entry's keys become: each price in its class, in that class's units, or told.

use super::*;
use crate::pricing::{listing, relations};
use proptest::prelude::*;

fn read(json: &str) -> (Option<String>, Reasons) {
    let fields: Fields<'_> = serde_json::from_str(json).unwrap();
    let (list, reasons) = prices(&fields);
    (list.map(|list| listing::list(&list)), reasons)
}

#[track_caller]
fn assert_taken(json: &str, expected: &str, told: &[&str]) {
    let (list, reasons) = read(json);
    let list = list.unwrap_or_else(|| panic!("not taken: {reasons:?}"));
    let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    assert_eq!(value(&list), value(expected), "{json}");
    assert_eq!(reasons.keys().map(String::as_str).collect::<Vec<_>>(), told, "{reasons:?}");
}

#[track_caller]
fn assert_refused(json: &str, told: &[&str]) {
    let (list, reasons) = read(json);
    assert_eq!(list, None, "{json}");
    assert_eq!(reasons.keys().map(String::as_str).collect::<Vec<_>>(), told, "{reasons:?}");
}

#[test]
fn a_price_of_one_unit_becomes_that_of_the_units_of_its_class() {
    assert_taken(
        r#"{"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-06,
            "cache_creation_input_token_cost": 3.125e-06, "cache_creation_input_token_cost_above_1hr": 5e-06,
            "output_cost_per_reasoning_token": 0.00002, "max_tokens": 4096, "mode": "chat",
            "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_medium": 0.01}}"#,
        r#"{"input_mtok": 2.5, "output_mtok": 10, "cache_read_mtok": 1.25, "cache_write_mtok": 3.125,
            "cache_write_1h_mtok": 5, "output_reasoning_mtok": 20, "web_searches_kcount": 10}"#,
        &[],
    );
    assert_taken(
        r#"{"mode": "ocr", "ocr_cost_per_page": 0.004, "annotation_cost_per_page": 5e-3}"#,
        r#"{"input_document_kpages": 4, "input_annotated_document_kpages": 5}"#,
        &[],
    );
    assert_taken(
        r#"{"mode": "audio_speech", "input_cost_per_character": 1.5e-05}"#,
        r#"{"input_mchars": 15}"#,
        &[],
    );
    assert_taken(
        r#"{"mode": "rerank", "input_cost_per_query": 0.002}"#,
        r#"{"rerank_searches_kcount": 2}"#,
        &[],
    );
    assert_taken(r#"{"input_cost_per_request": 0.005}"#, r#"{"requests_kcount": 5}"#, &[]);
    assert_taken(
        r#"{"file_search_cost_per_1k_calls": 2.5}"#,
        r#"{"storage_searches_kcount": 2.5}"#,
        &[],
    );
}

#[test]
fn nothing_passes_through_a_float() {
    // 2.1 x 10^-7 is no binary fraction, and no f64 has these digits.
    assert_taken(
        r#"{"input_cost_per_token": 2.1e-07, "output_cost_per_token": 0.0000001234567890123456789}"#,
        r#"{"input_mtok": 0.21, "output_mtok": 0.1234567890123456789}"#,
        &[],
    );
    let (list, _) = read(r#"{"output_cost_per_token": 0.0000001234567890123456789}"#);
    assert_eq!(list.as_deref(), Some(r#"{"output_mtok":0.1234567890123456789}"#));
}

#[test]
fn long_contexts_are_tiers() {
    assert_taken(
        r#"{"input_cost_per_token": 3e-06, "input_cost_per_token_above_200k_tokens": 6e-06,
            "input_cost_per_token_above_128k_tokens": 4e-06, "output_cost_per_token": 1.5e-05,
            "cache_read_input_token_cost_above_200k_tokens": 6e-07}"#,
        r#"{"input_mtok": {"base": 3, "tiers": [{"start": 128000, "price": 4}, {"start": 200000, "price": 6}]}, "output_mtok": 15}"#,
        &["cache_read_input_token_cost_above_200k_tokens"],
    );
    assert_taken(
        r#"{"tiered_pricing": [{"range": [0, 256000.0], "input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07},
            {"range": [256000.0, 1000000.0], "input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06}]}"#,
        r#"{"input_mtok": {"base": 0.05, "tiers": [{"start": 256000, "price": 0.25}]},
            "output_mtok": {"base": 0.4, "tiers": [{"start": 256000, "price": 2}]}}"#,
        &[],
    );
    for ranges in [
        r#"[{"range": [1, 2], "input_cost_per_token": 1}]"#,
        r#"[{"range": [0, 2], "input_cost_per_token": 1}, {"range": [3, 4], "input_cost_per_token": 1}]"#,
        r#"[{"range": [0, 2], "input_cost_per_token": 1}, {"range": [2, 4], "output_cost_per_token": 1}]"#,
        r#"[{"range": [0, 2], "output_cost_per_dream": 1}]"#,
        r#"[{"max_results_range": [0, 25], "input_cost_per_query": 0.005}]"#,
        "[]",
        "7",
    ] {
        assert_refused(&format!(r#"{{"tiered_pricing": {ranges}}}"#), &["tiered_pricing"]);
    }
}

#[test]
fn a_condition_that_a_row_cannot_have_is_told_unless_it_changes_nothing() {
    assert_taken(
        r#"{"input_cost_per_token": 2e-06, "input_cost_per_token_batches": 1e-06, "input_cost_per_token_flex": 0.000002,
            "input_cost_per_token_priority": 4e-06, "regional_endpoint_uplift_multiplier": 1.1,
            "fedramp_uplift_multiplier": 1, "provider_specific_entry": {"us": 1.1},
            "off_peak_pricing": {"input_cost_per_token": 1e-06}}"#,
        r#"{"input_mtok": 2}"#,
        &[
            "input_cost_per_token_batches",
            "input_cost_per_token_priority",
            "off_peak_pricing",
            "provider_specific_entry",
            "regional_endpoint_uplift_multiplier",
        ],
    );
    let sizes = r#"{"input_cost_per_token": 1e-06, "search_context_cost_per_query": {"low": 0.005, "high": 0.01}}"#;
    assert_taken(sizes, r#"{"input_mtok": 1}"#, &["search_context_cost_per_query"]);
}

#[test]
fn a_unit_that_no_class_has_is_told_unless_it_is_free() {
    assert_taken(
        r#"{"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "output_cost_per_image": 0.04,
            "input_cost_per_pixel": 0.0, "cost_per_new_thing": 1, "input_dbu_cost_per_token": 1.4e-05}"#,
        r#"{"input_mtok": 1, "output_mtok": 2}"#,
        &["cost_per_new_thing", "output_cost_per_image"],
    );
    // A row of zeros would make the images free.
    assert_refused(
        r#"{"input_cost_per_token": 0.0, "output_cost_per_image": 0.04}"#,
        &["entry", "output_cost_per_image"],
    );
    assert_taken(
        r#"{"input_cost_per_token": 0.0, "output_cost_per_token": 0}"#,
        r#"{"input_mtok": 0, "output_mtok": 0}"#,
        &[],
    );
    assert_refused(r#"{"mode": "chat", "max_tokens": 8192}"#, &["entry"]);
}

#[test]
fn a_second_is_charged_once_and_only_where_it_is_heard() {
    assert_taken(
        r#"{"mode": "audio_transcription", "input_cost_per_second": 0.0001, "output_cost_per_second": 0.0001}"#,
        r#"{"audio_hours": 0.36}"#,
        &[],
    );
    assert_taken(
        r#"{"mode": "audio_transcription", "input_cost_per_second": 0.0, "output_cost_per_second": 0.0002}"#,
        r#"{"audio_hours": 0.72}"#,
        &[],
    );
    assert_refused(
        r#"{"mode": "video_generation", "output_cost_per_second": 0.1}"#,
        &["output_cost_per_second"],
    );
    assert_taken(
        r#"{"mode": "audio_transcription", "input_cost_per_token": 2.5e-06, "input_cost_per_second": 0.0001,
            "input_cost_per_character": 1e-06}"#,
        r#"{"input_mtok": 2.5}"#,
        &["input_cost_per_character", "input_cost_per_second"],
    );
}

#[test]
fn a_part_without_the_price_of_its_whole_is_told() {
    // Writing audio to a cache is charged as input audio.
    assert_taken(
        r#"{"input_cost_per_token": 4e-06, "input_cost_per_audio_token": 3.2e-05, "cache_creation_input_audio_token_cost": 4e-07}"#,
        r#"{"input_mtok": 4, "input_audio_mtok": 32}"#,
        &["cache_audio_write_mtok"],
    );
    // As nothing it would be free, as all other input and output.
    assert_refused(
        r#"{"output_cost_per_token": 1e-06, "cache_read_input_token_cost": 1e-07}"#,
        &["cache_read_mtok", "entry"],
    );
    assert_refused(
        r#"{"input_cost_per_token": 5e-06, "output_cost_per_image_token": 4e-05}"#,
        &["entry", "output_image_mtok"],
    );
    assert_refused(
        r#"{"input_cost_per_token": 5e-06, "output_cost_per_image": 0.04}"#,
        &["entry", "output_cost_per_image"],
    );
}

#[test]
fn what_two_classes_have_in_common_is_never_charged_too_little() {
    assert_taken(
        r#"{"input_cost_per_token": 1e-06, "cache_read_input_token_cost": 1e-07, "input_cost_per_audio_token": 5e-06}"#,
        r#"{"input_mtok": 1, "cache_read_mtok": 0.1, "input_audio_mtok": 5, "cache_audio_read_mtok": 5}"#,
        &["cache_audio_read_mtok"],
    );
    // Images cost what other input does: so do those from a cache.
    assert_taken(
        r#"{"input_cost_per_token": 1e-06, "cache_read_input_token_cost": 1e-07, "input_cost_per_image_token": 1e-06}"#,
        r#"{"input_mtok": 1, "cache_read_mtok": 0.1}"#,
        &[],
    );
}

#[test]
fn what_is_no_number_is_told() {
    for price in
        ["\"0.1\"", "-1e-06", "[1]", "true", "1e400", "1e-60", "99999999999999999999999999999"]
    {
        assert_refused(
            &format!(r#"{{"input_cost_per_token": {price}}}"#),
            &["input_cost_per_token"],
        );
    }
    assert_refused(r#"{"input_cost_per_token": null}"#, &["entry"]);
    assert_taken(
        r#"{"cache_read_input_token_cost": 1e-07, "input_cost_per_token_cache_hit": 2e-07, "input_cost_per_token": 1e-06}"#,
        r#"{"input_mtok": 1, "cache_read_mtok": 0.1}"#,
        &["input_cost_per_token_cache_hit"],
    );
}

proptest! {
    /// Whatever an entry says, its row is one that the table takes, and no key of money is lost.
    #[test]
    fn a_row_is_consistent_and_every_price_is_in_it_or_told(
        keys in prop::collection::btree_map(
            prop::sample::select(vec![
                "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost",
                "cache_creation_input_token_cost", "cache_creation_input_token_cost_above_1hr",
                "input_cost_per_audio_token", "cache_read_input_audio_token_cost", "input_cost_per_image_token",
                "cache_creation_input_audio_token_cost", "input_cost_per_video_token",
                "output_cost_per_audio_token", "output_cost_per_reasoning_token", "output_cost_per_image_token",
                "citation_cost_per_token", "input_cost_per_token_above_200k_tokens",
                "output_cost_per_token_above_128k_tokens", "input_cost_per_token_flex", "output_cost_per_image",
                "input_cost_per_second", "input_cost_per_character", "ocr_cost_per_page", "annotation_cost_per_page",
            ]),
            0u32..4, 0..12,
        ),
    ) {
        let fields: Vec<_> = keys.iter().map(|(key, price)| format!(r#""{key}":{price}e-6"#)).collect();
        let json = format!("{{{}}}", fields.join(","));
        let fields: Fields<'_> = serde_json::from_str(&json).unwrap();
        let (list, reasons) = prices(&fields);
        prop_assert!(list.is_some() || !reasons.is_empty());
        prop_assert!(!reasons.get(WHOLE).is_some_and(|reason| reason.contains("price \"")), "{reasons:?}");
        let Some(list) = list else { return Ok(()) };
        prop_assert!(list.clone().checked().is_ok());
        for (key, price) in keys {
            if let Meaning::Price(class, per) = meaning(key) {
                let usd = Decimal::from(price) / Decimal::from(1_000_000);
                // In the list, or told, or the same as its whole.
                let charged = list.get(class).or_else(|| {
                    let wholes = relations::wholes(class).and(list.priced());
                    wholes.iter().max_by_key(|whole| whole.depth()).and_then(|whole| list.get(whole))
                });
                let told = reasons.contains_key(class.definition().price_key) || reasons.contains_key(key);
                prop_assert!(told || charged.map(|c| c.base) == listed(class, usd, per), "{key} {json}");
            }
        }
    }
}
