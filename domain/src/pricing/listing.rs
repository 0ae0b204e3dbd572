//! Prices as JSON, for people: by price key, in the form in which the catalogue and `unit_prices` have
//! them. Text, so that each number has the digits that it was written with.

use super::model_prices::ModelPrices;
use super::price_list::{PriceList, Tier, UnitPrice};
use crate::error::Result;
use crate::window::Timestamp;
use serde_json::json;
use std::fmt::Write;

/// What a model costs at that time without any condition: `{"input_mtok": 3}`.
///
/// # Errors
/// As [`ModelPrices::at`].
pub fn standard(prices: &ModelPrices, at: Timestamp) -> Result<String> {
    Ok(list(&*prices.at(at, &[])?))
}

/// What holds instead under conditions: `[{"when": {"service_tier": "flex"}, "unit_prices": {...}}]`.
#[must_use]
pub fn variants(prices: &ModelPrices, at: Timestamp) -> String {
    let variant =
        |(when, prices)| format!(r#"{{"when":{},"unit_prices":{}}}"#, json!(when), list(prices));
    // One without prices only says that a condition changes nothing.
    let changes = |(_, prices): &(_, &PriceList)| !prices.is_empty();
    let variants: Vec<_> = prices.variants_at(at).filter(changes).map(variant).collect();
    format!("[{}]", variants.join(","))
}

/// As a row of `ai_prices` has them: `{"input_mtok": 3}`.
#[must_use]
pub fn list(prices: &PriceList) -> String {
    let mut json = String::from("{");
    for (class, UnitPrice { base, tiers, .. }) in prices.iter() {
        let separator = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, r#"{separator}"{}":"#, class.definition().price_key);
        if tiers.is_empty() {
            let _ = write!(json, "{base}");
            continue;
        }
        let tier =
            |Tier { start, price, .. }: &Tier| format!(r#"{{"start":{start},"price":{price}}}"#);
        let tiers: Vec<_> = tiers.iter().map(tier).collect();
        let _ = write!(json, r#"{{"base":{base},"tiers":[{}]}}"#, tiers.join(","));
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[test]
    fn prices_are_listed_as_they_were_written() {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        let written = r#"{"input_mtok":{"base":1.25,"tiers":[{"start":200000,"price":2.5}]},"output_mtok":10}"#;
        let conditional = r#"[{"when":{"processing":"batch"},"prices":{"output_mtok":5}}]"#;
        let prices =
            ModelPrices::from_json(Some(&raw(written)), Some(&raw(conditional)), &mut Vec::new());
        let prices = prices.unwrap();
        assert_eq!(standard(&prices, Timestamp(0)).unwrap(), written);
        let listed = r#"[{"when":{"processing":"batch"},"unit_prices":{"output_mtok":5}}]"#;
        assert_eq!(variants(&prices, Timestamp(0)), listed);
    }
}
