//! Line items: each unit once, summing to the total, whatever the quantities.

use ai_limiter_domain::error::Result;
use ai_limiter_domain::pricing::class::COUNT;
use ai_limiter_domain::pricing::line_items::line_items;
use ai_limiter_domain::pricing::price_list::UnitPrice;
use ai_limiter_domain::pricing::{
    Class, LineItem, LineItems, PriceList, PriceSource, Quantities, relations,
};
use ai_limiter_domain::{Amount, Kind};
use proptest::prelude::*;
use rust_decimal::Decimal;

fn list(json: &str) -> PriceList {
    let document = serde_json::from_str(json).unwrap();
    PriceList::from_document(&document).unwrap().0.checked().unwrap()
}

fn quantities(told: &[(&str, &str)]) -> Quantities {
    let mut quantities = Quantities::default();
    for (class, quantity) in told {
        quantities.set(Class::named(class).unwrap(), quantity.parse().unwrap());
    }
    quantities
}

fn items(told: &[(&str, &str)], json: &str) -> Result<LineItems> {
    line_items(&quantities(told), &list(json), 1, PriceSource::Catalog)
}

fn texts(items: &LineItems) -> Vec<String> {
    let text = |item: &LineItem| {
        format!("{} {} x {} = {}", item.class, item.quantity, item.unit_price_usd, item.cost_usd)
    };
    items.items.iter().map(text).collect()
}

const CACHED: &str = r#"{"input_mtok": 3, "cache_read_mtok": 0.3, "output_mtok": 15}"#;

#[test]
fn a_unit_is_charged_once_at_the_price_that_says_most() {
    let told = [
        ("input_tokens", "1000"),
        ("cache_read_tokens", "400"),
        ("output_tokens", "20"),
        ("output_reasoning_tokens", "15"),
    ];
    let items = items(&told, CACHED).unwrap();
    assert_eq!(
        texts(&items),
        [
            "cache_read_tokens 400 x 0.0000003 = 0.00012",
            "input_tokens 600 x 0.000003 = 0.0018",
            "output_tokens 20 x 0.000015 = 0.0003",
        ]
    );
    assert_eq!(items.total_usd.to_string(), "0.00222");
    assert_eq!(items.unpriced, []);
}

#[test]
fn requests_are_charged_each_and_nothing_else_is_told_of_none() {
    let request = list(r#"{"input_mtok": 1, "requests_kcount": 5}"#);
    let of = |requests| {
        line_items(&Quantities::default(), &request, requests, PriceSource::Catalog).unwrap()
    };
    assert_eq!(texts(&of(3)), ["requests 3 x 0.005 = 0.015"]);
    assert_eq!(of(0), LineItems::default());
}

#[test]
fn a_price_per_hour_is_cut_in_the_unit_price_only() {
    let items = items(&[("audio_seconds", "7200.5")], r#"{"audio_hours": 0.7}"#).unwrap();
    assert_eq!(items.total_usd.to_string(), "1.400097222222");
}

#[test]
fn seconds_are_billed_up_to_the_minimum() {
    let mut list = list(r#"{"audio_hours": 3.6, "input_audio_hours": 3.6}"#);
    list.minimum_audio_seconds = 10;
    for (told, requests, billed) in [
        ([("input_audio_seconds", "2.5")], 1, Some("10")),
        ([("audio_seconds", "12.5")], 1, Some("12.5")),
        ([("audio_seconds", "12.5")], 3, Some("30")),
        ([("audio_seconds", "0")], 1, None),
    ] {
        let items = line_items(&quantities(&told), &list, requests, PriceSource::Catalog);
        let billed: Vec<Decimal> = billed.iter().map(|text| text.parse().unwrap()).collect();
        let found: Vec<_> = items.unwrap().items.iter().map(|item| item.quantity).collect();
        assert_eq!(found, billed, "{told:?}");
    }
}

#[test]
fn what_no_price_covers_is_told() {
    let told = [
        ("input_tokens", "10"),
        ("cache_read_tokens", "5"),
        ("output_tokens", "3"),
        ("output_reasoning_tokens", "2"),
        ("web_searches", "1"),
    ];
    let items = items(&told, r#"{"input_mtok": 1}"#).unwrap();
    let unpriced: Vec<_> = items
        .unpriced
        .iter()
        .map(|(class, quantity)| (class.name(), quantity.to_string()))
        .collect();
    let expected = [("output_tokens", "3"), ("web_searches", "1")];
    assert_eq!(unpriced, expected.map(|(class, quantity)| (class, quantity.to_owned())));
}

#[test]
fn quantities_that_contradict_each_other_are_refused_by_name() {
    let audio = r#"{"input_mtok": 1, "cache_read_mtok": 1, "input_audio_mtok": 1, "cache_audio_read_mtok": 1}"#;
    for (told, json, message) in [
        (
            &[("input_tokens", "10"), ("cache_read_tokens", "11")][..],
            CACHED,
            "cache_read_tokens (11) must not exceed input_tokens (10)",
        ),
        (
            &[("cache_read_tokens", "11")],
            CACHED,
            "input_tokens must be given with cache_read_tokens",
        ),
        (
            &[("input_tokens", "9"), ("cache_read_tokens", "5"), ("input_audio_tokens", "5")],
            audio,
            "cache_audio_read_tokens must be given with cache_read_tokens and input_audio_tokens",
        ),
        (
            &[
                ("input_tokens", "9"),
                ("cache_read_tokens", "5"),
                ("input_audio_tokens", "5"),
                ("cache_audio_read_tokens", "0"),
            ],
            audio,
            "cache_read_tokens, input_audio_tokens (10 together) must not exceed input_tokens (9)",
        ),
        (&[("input_tokens", "-1")], CACHED, "input_tokens (-1) must not be negative"),
    ] {
        let error = items(told, json).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (Kind::InvalidParameter, message));
    }
}

#[test]
fn a_cost_that_does_not_fit_is_out_of_range() {
    for tokens in ["1000000000000000", "79228162514264337593543950335"] {
        let error = items(&[("input_tokens", tokens)], r#"{"input_mtok": 1000000}"#);
        assert_eq!(error.unwrap_err().kind, Kind::OutOfRange, "{tokens}");
    }
}

#[test]
fn the_total_is_rounded_once_and_the_items_sum_to_it() {
    // 0.6 of the last decimal each: three items of 1 would be one more than the total of 1.8.
    let json = r#"{"input_mtok": 0.0000006, "output_mtok": 0.0000006, "web_searches_kcount": 0.0000000006}"#;
    let told = [("input_tokens", "1"), ("output_tokens", "1"), ("web_searches", "1")];
    let items = items(&told, json).unwrap();
    let pico: Vec<_> = items.items.iter().map(|item| item.cost_usd.pico()).collect();
    assert_eq!((items.total_usd.pico(), pico), (2, vec![0, 1, 1]));
    let half = |tokens: &str| {
        let json = r#"{"input_mtok": 0.0000005}"#;
        self::items(&[("input_tokens", tokens)], json).unwrap().total_usd.pico()
    };
    assert_eq!((half("1"), half("3"), half("5")), (0, 2, 2));
}

/// Classes that a list can price together, in an order where each comes after its wholes.
const PRICED: [&str; 8] = [
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_reasoning_tokens",
    "web_searches",
    "audio_seconds",
];

fn any_list() -> impl Strategy<Value = PriceList> {
    let price = (0_i64..1_000_000_000_000, 0_u32..18, any::<bool>());
    proptest::collection::vec(price, PRICED.len()).prop_map(|prices| {
        let mut list = PriceList::default();
        for (name, (mantissa, scale, priced)) in PRICED.iter().zip(prices) {
            let class = Class::named(name).unwrap();
            if priced && list.priced().contains_all(relations::wholes(class)) {
                list.set(class, UnitPrice::flat(Decimal::new(mantissa, scale)));
            }
        }
        list.checked().unwrap()
    })
}

proptest! {
    #[test]
    fn items_sum_to_the_total_and_none_is_negative(
        list in any_list(),
        told in proptest::collection::vec(0_i64..1_000_000_000_000, PRICED.len()),
    ) {
        let mut quantities = Quantities::default();
        for (name, quantity) in PRICED.iter().zip(told) {
            quantities.set(Class::named(name).unwrap(), quantity.into());
        }
        let (input, output) = (Class::INPUT_TOKENS, Class::OUTPUT_TOKENS);
        quantities.set(input, quantities.iter().map(|(_, quantity)| quantity).sum());
        quantities.set(output, quantities.iter().map(|(_, quantity)| quantity).sum());
        quantities.set(
            Class::CACHE_WRITE_TOKENS,
            quantities.get(Class::CACHE_WRITE_TOKENS).unwrap()
                + quantities.get(Class::CACHE_WRITE_1H_TOKENS).unwrap(),
        );
        match line_items(&quantities, &list, 1, PriceSource::Catalog) {
            Ok(items) => {
                let sum: i128 = items.items.iter().map(|item| item.cost_usd.pico()).sum();
                prop_assert_eq!(sum, items.total_usd.pico());
                prop_assert!(items.items.iter().all(|item| item.cost_usd >= Amount::ZERO));
                // Every unit is in one item, or told as unpriced.
                let used: Decimal = items.items.iter().map(|item| (item.class, item.quantity))
                    .chain(items.unpriced.iter().copied())
                    .filter(|(class, _)| class.is_tokens()).map(|(_, quantity)| quantity).sum();
                prop_assert_eq!(used, quantities.get(input).unwrap() + quantities.get(output).unwrap());
            }
            Err(error) => prop_assert_eq!(error.kind, Kind::OutOfRange),
        }
    }

    #[test]
    fn any_quantities_give_items_or_an_error(
        list in any_list(),
        told in proptest::collection::vec(
            (0_usize..COUNT, any::<i64>(), any::<i64>(), 0_u32..=28), 0..8),
        requests in any::<i64>(),
    ) {
        let all: Vec<Class> = Class::all().collect();
        let mut forwards = Quantities::default();
        let mut backwards = Quantities::default();
        let told: std::collections::BTreeMap<_, _> = told
            .into_iter()
            .map(|(class, high, low, scale)| {
                let mantissa = i128::from(high) * i128::from(low) % (1 << 95);
                (class, Decimal::from_i128_with_scale(mantissa, scale))
            })
            .collect();
        told.iter().for_each(|(class, quantity)| forwards.set(all[*class], *quantity));
        told.iter().rev().for_each(|(class, quantity)| backwards.set(all[*class], *quantity));
        let items = line_items(&forwards, &list, requests, PriceSource::Catalog);
        prop_assert_eq!(items, line_items(&backwards, &list, requests, PriceSource::Catalog));
    }
}
