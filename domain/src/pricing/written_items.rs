//! Line items that an app writes itself: views read them, so they have to be some.

use crate::amount::Amount;
use crate::error::{Error, Result};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Item<'a> {
    class: String,
    #[serde(borrow)]
    quantity: &'a RawValue,
    #[serde(borrow)]
    unit_price_usd: Option<&'a RawValue>,
    #[serde(borrow)]
    cost_usd: &'a RawValue,
    #[serde(borrow)]
    list_unit_price_usd: Option<&'a RawValue>,
    #[serde(borrow)]
    list_cost_usd: Option<&'a RawValue>,
    price_source: Option<String>,
}

/// Checks that this JSON is an array of line items that add up to a cost.
///
/// # Errors
/// 22023 when it is not.
pub fn check(json: &str, cost_usd: Amount) -> Result<()> {
    let items: Vec<Item> = serde_json::from_str(json).map_err(|_| invalid("must be line items"))?;
    let mut sum = Amount::ZERO;
    for item in &items {
        let texts = [Some(&item.class), item.price_source.as_ref()];
        if texts.into_iter().flatten().any(|text| text.trim().is_empty()) {
            return Err(invalid("has an item with an empty class or price_source"));
        }
        let optional = [item.unit_price_usd, item.list_unit_price_usd, item.list_cost_usd];
        let numbers = [item.quantity, item.cost_usd];
        for number in numbers.into_iter().chain(optional.into_iter().flatten()) {
            let is_number = Decimal::from_str_exact(number.get()).is_ok();
            if !is_number {
                return Err(invalid("has a quantity, a price or a cost that is no number"));
            }
        }
        sum = sum.checked_add(Amount::parse(item.cost_usd.get(), "cost_usd of a line item")?)?;
    }
    if sum == cost_usd {
        return Ok(());
    }
    Err(invalid("must add up to cost_usd").detail(format!("Its items come to {sum} USD.")))
}

fn invalid(what: &str) -> Error {
    Error::invalid(format!("line_items {what}")).hint(
        "An item is an object with class, quantity and cost_usd, and unit_price_usd where it has one; leave line_items out where they are not known.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_add_up_are_taken_and_others_refused() {
        let item = r#"{"class":"input_tokens","quantity":3,"unit_price_usd":0.1,"cost_usd":0.3}"#;
        let cost = |text| Amount::parse(text, "x").unwrap();
        assert!(check(&format!("[{item}]"), cost("0.3")).is_ok());
        assert!(check(&format!("[{item},{item}]"), cost("0.6")).is_ok());
        assert!(check("[]", Amount::ZERO).is_ok());
        for (wrong, of) in [
            (format!("[{item}]"), "0.300000000001"),
            ("{}".to_owned(), "0"),
            ("[7]".to_owned(), "0"),
            (item.replace("\"class\":\"input_tokens\",", ""), "0.3"),
            (format!("[{}]", item.replace(":3,", ":\"3\",")), "0.3"),
            (format!("[{}]", item.replace(":3,", ":1e400,")), "0.3"),
            (format!("[{}]", item.replace(":3,", ":null,")), "0.3"),
            (format!("[{}]", item.replace("input_tokens", " ")), "0.3"),
        ] {
            assert!(check(&wrong, cost(of)).is_err(), "{wrong}");
        }
    }
}
