//! What each class costs at one moment: flat or tiered by the input tokens of the call.
//!
//! All prices are decimals as the document spells them; nothing passes through a float. Past a tier's
//! start its price is that of *all* units, not only of those beyond (the providers' own rule).

use super::class::Class;
use super::relations::{self, ClassSet};
use crate::error::{Error, Result};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// US dollars for as many units as the class's `per` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPrice {
    pub base: Decimal,
    /// In the order of their starts, as who reads them sees to; none for a flat price.
    pub tiers: Vec<Tier>,
}

/// The price of a call whose input tokens are more than `start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    pub start: i64,
    pub price: Decimal,
}

/// Prices by their keys in a document: `{"input_mtok": 2.5, "output_mtok": {"base": …, "tiers": […]}}`.
pub type PriceDocument<'a> = BTreeMap<String, &'a RawValue>;

impl UnitPrice {
    #[must_use]
    pub fn flat(price: Decimal) -> Self {
        Self { base: price, tiers: Vec::new() }
    }

    /// The price for a call with so many input tokens.
    #[must_use]
    pub fn at(&self, input_tokens: Decimal) -> Decimal {
        let reached = self.tiers.iter().rev().find(|tier| input_tokens > Decimal::from(tier.start));
        reached.map_or(self.base, |tier| tier.price)
    }

    /// Reads a number or `{"base": n, "tiers": [{"start": n, "price": n}]}`.
    ///
    /// # Errors
    /// 22023 for anything else, a negative price or start, and tiers out of order.
    pub fn from_json(key: &str, json: &RawValue) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TieredDocument<'a> {
            #[serde(borrow)]
            base: &'a RawValue,
            #[serde(borrow)]
            tiers: Vec<TierDocument<'a>>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TierDocument<'a> {
            start: i64,
            #[serde(borrow)]
            price: &'a RawValue,
        }
        if !json.get().starts_with('{') {
            return decimal(key, json).map(Self::flat);
        }
        let document: TieredDocument = serde_json::from_str(json.get()).map_err(|error| {
            Error::invalid(format!("price \"{key}\" is not valid"))
                .detail(error.to_string())
                .hint(PRICE_HINT)
        })?;
        let tiers = document.tiers.iter().map(|tier| {
            if tier.start < 0 {
                return Err(Error::invalid(format!(
                    "tiers of price \"{key}\" must not be negative"
                ))
                .hint("A tier starts at a number of input tokens."));
            }
            Ok(Tier { start: tier.start, price: decimal(key, tier.price)? })
        });
        let tiers = tiers.collect::<Result<Vec<_>>>()?;
        Ok(Self { base: decimal(key, document.base)?, tiers })
    }
}

const PRICE_HINT: &str = "A price is a number, or {\"base\": number, \"tiers\": [{\"start\": tokens, \"price\": number}]}.";

fn decimal(key: &str, json: &RawValue) -> Result<Decimal> {
    let text = json.get();
    let number = text.bytes().next().is_some_and(|b| b == b'-' || b.is_ascii_digit());
    // A number with an exponent is the same number: `1e-7`.
    let scientific = text.contains(['e', 'E']);
    let price = match (number, scientific) {
        (false, _) => None,
        (true, true) => Decimal::from_scientific(text).ok(),
        (true, false) => Decimal::from_str_exact(text).ok(),
    };
    let price = price.ok_or_else(|| {
        Error::invalid(format!("price \"{key}\" must be a number of at most 28 digits"))
            .hint(PRICE_HINT)
    })?;
    if price < Decimal::ZERO {
        return Err(Error::invalid(format!("price \"{key}\" must not be negative"))
            .hint("Say 0 for what is free, and use discount_factor for a discount."));
    }
    Ok(price.normalize())
}

/// Prices by class, consistent: see [`PriceList::checked`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceList {
    /// In the order of the classes.
    prices: Vec<(Class, UnitPrice)>,
    priced: ClassSet,
    /// Seconds of audio that a request is billed for at least; 0 for none.
    pub minimum_audio_seconds: i64,
    /// What has no price costs nothing, instead of being told as unpriced.
    pub others_are_free: bool,
}

impl PriceList {
    /// The list of a document, and the keys in it that no class has.
    ///
    /// # Errors
    /// 22023 when a price is not valid. Not yet [`PriceList::checked`].
    pub fn from_document(document: &PriceDocument<'_>) -> Result<(Self, Vec<String>)> {
        let (mut list, mut unknown) = (Self::default(), Vec::new());
        for (key, json) in document {
            match Class::priced_by(key) {
                _ if json.get() == "null" => {}
                Some(class) => list.set(class, UnitPrice::from_json(key, json)?),
                None => unknown.push(key.clone()),
            }
        }
        Ok((list, unknown))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prices.is_empty()
    }

    /// Whether it says what a call costs: a list without prices does not, unless all is free.
    #[must_use]
    pub fn prices_calls(&self) -> bool {
        self.others_are_free || !self.is_empty()
    }

    #[must_use]
    pub fn get(&self, class: Class) -> Option<&UnitPrice> {
        let index = self.prices.binary_search_by_key(&class, |(class, _)| *class).ok()?;
        Some(&self.prices[index].1)
    }

    /// In the order of the classes' names.
    pub fn iter(&self) -> impl Iterator<Item = (Class, &UnitPrice)> {
        self.prices.iter().map(|(class, price)| (*class, price))
    }

    #[must_use]
    pub fn priced(&self) -> ClassSet {
        self.priced
    }

    pub fn set(&mut self, class: Class, price: UnitPrice) {
        match self.prices.binary_search_by_key(&class, |(class, _)| *class) {
            Ok(index) => self.prices[index].1 = price,
            Err(index) => self.prices.insert(index, (class, price)),
        }
        self.priced.insert(class);
    }

    /// Puts tiers in the order of their starts: a catalogue may have them in any.
    pub fn sort_tiers(&mut self) {
        self.prices.iter_mut().for_each(|(_, price)| price.tiers.sort_by_key(|tier| tier.start));
    }

    /// The same, with these classes told apart too, each at the price that it has anyway: so that two lists
    /// can be laid side by side. What has no price here gets none.
    #[must_use]
    pub fn refined(&self, by: ClassSet) -> Self {
        let mut wanted: ClassSet = self.priced.iter().chain(by.iter()).collect();
        // What two of them have in common is one of them, or a unit would be in both.
        loop {
            let is_missing = |common: &Class| {
                !wanted.contains(*common)
                    && relations::overlapping(*common).iter().any(|pair| wanted.contains_all(*pair))
            };
            let Some(common) = Class::all().find(is_missing) else { break };
            wanted.insert(common);
        }
        let mut refined = self.clone();
        for class in wanted.without(self.priced).iter().filter(|class| *class != Class::REQUESTS) {
            let wholes = relations::wholes(class).and(self.priced);
            if let Some(price) = wholes.iter().max_by_key(|w| w.depth()).and_then(|w| self.get(w)) {
                refined.set(class, price.clone());
            }
        }
        refined
    }

    /// The same, if every part that has a price has priced wholes, and what two priced classes have in
    /// common is priced too: else it could not be said which price a unit has.
    ///
    /// # Errors
    /// 22023 that names what is missing.
    pub fn checked(self) -> Result<Self> {
        let key = |class: Class| class.definition().price_key;
        let missing = |missing: Class, message: String| {
            Error::invalid(message)
                .hint(format!("Add a price for \"{}\"; 0 if it is free.", key(missing)))
        };
        for class in self.priced.iter() {
            if let Some(whole) = relations::wholes(class).without(self.priced).iter().next() {
                let message = format!("price \"{}\" needs a price \"{}\"", key(class), key(whole));
                return Err(missing(whole, message));
            }
        }
        for common in Class::all().filter(|class| !self.priced.contains(*class)) {
            let pair =
                relations::overlapping(common).iter().find(|pair| self.priced.contains_all(**pair));
            if let Some(pair) = pair {
                let names: Vec<_> =
                    pair.iter().map(|class| format!("\"{}\"", key(class))).collect();
                let message =
                    format!("prices {} need a price \"{}\"", names.join(" and "), key(common));
                return Err(missing(common, message));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Result<PriceList> {
        PriceList::from_document(&serde_json::from_str(json).unwrap())?.0.checked()
    }

    #[test]
    fn numbers_are_read_as_they_are_spelled() {
        let exact = r#"{"input_mtok": 0.1234567890123456789012345, "output_mtok": 15e-2}"#;
        let list = list(exact).unwrap();
        let price = |class| list.get(class).unwrap().base.to_string();
        assert_eq!(price(Class::INPUT_TOKENS), "0.1234567890123456789012345");
        assert_eq!(price(Class::OUTPUT_TOKENS), "0.15");
    }

    #[test]
    fn a_tier_holds_for_more_than_its_start() {
        let tiered = r#"{"input_mtok": {"base": 1, "tiers": [{"start": 10, "price": 2}, {"start": 20, "price": 3}]}}"#;
        let list = list(tiered).unwrap();
        let price = |tokens: i64| list.get(Class::INPUT_TOKENS).unwrap().at(tokens.into());
        for (tokens, expected) in [(0, 1), (10, 1), (11, 2), (20, 2), (21, 3)] {
            assert_eq!(price(tokens), Decimal::from(expected), "{tokens}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused_with_the_cure() {
        for json in [
            r#"{"input_mtok": -1}"#,
            r#"{"input_mtok": "1"}"#,
            r#"{"input_mtok": [1]}"#,
            r#"{"input_mtok": true}"#,
            r#"{"input_mtok": 1e400}"#,
            r#"{"input_mtok": {"base": 1}}"#,
            r#"{"input_mtok": {"base": 1, "tiers": [{"start": -1, "price": 2}]}}"#,
            r#"{"cache_read_mtok": 1}"#,
            r#"{"input_mtok": 1, "cache_read_mtok": 1, "input_audio_mtok": 1}"#,
        ] {
            assert!(list(json).unwrap_err().hint.is_some(), "{json}");
        }
    }

    #[test]
    fn a_refined_list_charges_the_same_class_by_class() {
        let own = list(r#"{"input_mtok": 2, "input_audio_mtok": 5}"#).unwrap();
        let other = list(r#"{"input_mtok": 3, "cache_read_mtok": 1, "output_mtok": 9}"#).unwrap();
        let refined = own.refined(other.priced());
        let price = |key| refined.get(Class::priced_by(key)?).map(|price| price.base.to_string());
        assert_eq!(price("cache_read_mtok").as_deref(), Some("2"));
        // Cached audio is audio.
        assert_eq!(price("cache_audio_read_mtok").as_deref(), Some("5"));
        assert_eq!(price("output_mtok"), None);
        let quantities = |cached_audio| {
            let mut quantities = crate::pricing::Quantities::default();
            for (class, quantity) in [
                ("input_tokens", 1000),
                ("input_audio_tokens", 300),
                ("cache_read_tokens", 400),
                ("cache_audio_read_tokens", cached_audio),
            ] {
                quantities.set(Class::named(class).unwrap(), quantity.into());
            }
            quantities
        };
        for cached_audio in [0, 100, 300] {
            let cost = |list: &PriceList| {
                let source = crate::pricing::PriceSource::Catalog;
                crate::pricing::line_items::line_items(&quantities(cached_audio), list, 1, source)
                    .unwrap()
                    .total_usd
            };
            assert_eq!(cost(&own), cost(&refined));
        }
    }

    #[test]
    fn keys_of_no_class_are_told() {
        let document = serde_json::from_str(r#"{"input_mtok": 1, "holograms": 2}"#).unwrap();
        let (list, unknown) = PriceList::from_document(&document).unwrap();
        assert_eq!((list.iter().count(), unknown), (1, vec!["holograms".to_owned()]));
    }
}
