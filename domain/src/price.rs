//! A price row of `ai_prices` and the cost of a call under it, rounded once.

use crate::amount::Amount;
use crate::error::{Error, Result};
use rust_decimal::Decimal;
use serde::Deserialize;

/// Unit prices in US dollars; 0 is free.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Price {
    pub id: i64,
    #[serde(with = "rust_decimal::serde::str")]
    pub input_usd_per_million_tokens: Decimal,
    #[serde(with = "rust_decimal::serde::str")]
    pub output_usd_per_million_tokens: Decimal,
    #[serde(with = "rust_decimal::serde::str")]
    pub usd_per_request: Decimal,
    /// The most that the model returns for a request.
    #[serde(default)]
    pub max_output_tokens: Option<i64>,
}

impl Price {
    /// The cost of `requests` calls with these tokens in all.
    ///
    /// # Errors
    /// 22003 when the cost does not fit `numeric(20,12)`.
    pub fn cost(&self, requests: i64, input_tokens: i64, output_tokens: i64) -> Result<Amount> {
        let out_of_range = || Error::out_of_range("cost is out of range");
        let part = |count: i64, price: Decimal| Decimal::from(count).checked_mul(price);
        let tokens = part(input_tokens, self.input_usd_per_million_tokens)
            .zip(part(output_tokens, self.output_usd_per_million_tokens))
            .and_then(|(input, output)| input.checked_add(output))
            .and_then(|sum| sum.checked_mul(Decimal::new(1, 6)));
        let total = tokens
            .zip(part(requests, self.usd_per_request))
            .and_then(|(tokens, requests)| tokens.checked_add(requests))
            .ok_or_else(out_of_range)?;
        let cost = Amount::from_decimal(total)?;
        if cost >= Amount::CHARGE_LIMIT { Err(out_of_range()) } else { Ok(cost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(input: &str, output: &str, request: &str) -> Price {
        Price {
            id: 1,
            input_usd_per_million_tokens: input.parse().unwrap(),
            output_usd_per_million_tokens: output.parse().unwrap(),
            usd_per_request: request.parse().unwrap(),
            max_output_tokens: None,
        }
    }

    #[test]
    fn a_price_times_tokens_is_exact() {
        let p = price("0.15", "0.6", "0");
        assert_eq!(p.cost(1, 374, 44).unwrap().to_string(), "0.0000825");
        assert_eq!(price("0.1", "0.2", "0.3").cost(3, 1, 1).unwrap().to_string(), "0.9000003");
    }

    #[test]
    fn an_absurd_cost_is_an_error_and_not_a_wrap() {
        let p = price("1000000", "1000000", "0");
        assert!(p.cost(1, 1_000_000_000_000, 1_000_000_000_000).is_err());
    }

    proptest! {
        #[test]
        fn rounds_once_so_that_two_halves_differ_from_the_whole_by_a_unit_at_most(
            micro in 0_i64..10_000_000_000, a in 0_i64..1_000_000, b in 0_i64..1_000_000,
        ) {
            let p = Price { input_usd_per_million_tokens: Decimal::new(micro, 9), ..price("0", "0", "0") };
            let whole = p.cost(1, a + b, 0).unwrap().pico();
            let halves = p.cost(1, a, 0).unwrap().pico() + p.cost(1, b, 0).unwrap().pico();
            prop_assert!((whole - halves).abs() <= 1);
        }
    }
}
