//! A model's prices through time: from a date on, by the time of day, by what the call asked for.
//!
//! Resolved exactly as the `genai-prices` crate does: the last price whose condition holds, else the
//! first; then each key from the first variant whose condition holds and whose `when` the call's
//! context meets (`service_tier`, `processing`: batch, `search_type`). Dates and times are UTC.

use super::condition::{Condition, ConstraintDocument};
use super::price_list::{PriceDocument, PriceList};
use crate::error::{Error, Result};
use crate::window::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What of a call prices can depend on, besides its time: `("service_tier", "flex")`. Of two entries
/// with the same key the later one counts.
pub type Context<'a> = [(&'a str, &'a str)];

/// What a map tells, as [`ModelPrices::at`] takes it.
#[must_use]
pub fn context_of(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// All prices of a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelPrices {
    /// Never empty when it comes from a document.
    standard: Vec<(Option<Condition>, PriceList)>,
    variants: Vec<Variant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Variant {
    when: BTreeMap<String, String>,
    condition: Option<Condition>,
    prices: PriceList,
}

impl ModelPrices {
    /// The prices of a call at this time. Borrowed unless a variant applies: a few nanoseconds.
    ///
    /// # Errors
    /// 22023 when a variant leaves a part without the price of its whole.
    pub fn at(&self, at: Timestamp, context: &Context<'_>) -> Result<Cow<'_, PriceList>> {
        let holds = |condition: Option<Condition>| condition.is_none_or(|c| c.holds(at));
        let standard = self.standard.iter().rev().find(|(condition, _)| holds(*condition));
        let Some((_, standard)) = standard.or(self.standard.first()) else {
            return Ok(Cow::Owned(PriceList::default()));
        };
        let value = |key: &str| context.iter().rev().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let applies = |variant: &&Variant| {
            holds(variant.condition)
                && variant.when.iter().all(|(key, wanted)| value(key) == Some(wanted.as_str()))
        };
        let mut list = Cow::Borrowed(standard);
        if context.is_empty() {
            return Ok(list);
        }
        // The first that says a price wins, so it is written last.
        for variant in self.variants.iter().rev().filter(applies) {
            for (class, price) in variant.prices.iter() {
                list.to_mut().set(class, price.clone());
            }
        }
        match list {
            Cow::Borrowed(list) => Ok(Cow::Borrowed(list)),
            Cow::Owned(list) => list.checked().map(Cow::Owned),
        }
    }

    /// Until when [`ModelPrices::at`] answers the same as at `at`, whatever the context; `None` for
    /// ever.
    #[must_use]
    pub fn stand_until(&self, at: Timestamp) -> Option<Timestamp> {
        let standard = self.standard.iter().filter_map(|(condition, _)| *condition);
        let variants = self.variants.iter().filter_map(|variant| variant.condition);
        standard.chain(variants).filter_map(|condition| condition.next_change(at)).min()
    }

    /// What holds instead under a condition, at that time: the condition, and the prices that it changes.
    pub fn variants_at(
        &self,
        at: Timestamp,
    ) -> impl Iterator<Item = (&BTreeMap<String, String>, &PriceList)> {
        let holds = move |variant: &&Variant| variant.condition.is_none_or(|c| c.holds(at));
        self.variants.iter().filter(holds).map(|variant| (&variant.when, &variant.prices))
    }

    /// Without what depends on the context: that is the offer of the provider who made it, and not of
    /// one who sells the same model.
    #[must_use]
    pub fn standard_only(&self) -> Self {
        Self { standard: self.standard.clone(), variants: Vec::new() }
    }

    /// Every request is billed for so many seconds of audio at least.
    pub fn set_minimum_audio_seconds(&mut self, seconds: i64) {
        self.standard.iter_mut().for_each(|(_, list)| list.minimum_audio_seconds = seconds);
    }

    /// Where it has no prices, that says that all is free.
    pub fn set_free_without_prices(&mut self) {
        let empty = self.standard.iter_mut().filter(|(_, list)| list.is_empty());
        empty.for_each(|(_, list)| list.others_are_free = true);
    }

    /// Whether there is a price, a free one included, at any time.
    #[must_use]
    pub fn price_calls(&self) -> bool {
        self.standard.iter().any(|(_, list)| list.prices_calls())
    }

    /// What the catalogue says under `prices` and `price_variants`; keys that no class has are added to
    /// `unknown`.
    ///
    /// # Errors
    /// 22023 when a price or a condition is not valid.
    pub fn from_json(
        prices: Option<&RawValue>,
        variants: Option<&RawValue>,
        unknown: &mut Vec<String>,
    ) -> Result<Self> {
        let mut list = |document: &PriceDocument<'_>| {
            let (mut list, keys) = PriceList::from_document(document)?;
            list.sort_tiers();
            unknown.extend(keys);
            Ok(list)
        };
        let standard = match prices.map(RawValue::get) {
            None => vec![(None, PriceList::default())],
            Some(text) if text.starts_with('[') => {
                let documents: Vec<ConditionalDocument> = parsed(text)?;
                let price = |document: &ConditionalDocument| {
                    Ok((document.condition()?, list(&document.prices)?.checked()?))
                };
                documents.iter().map(price).collect::<Result<_>>()?
            }
            Some(text) => vec![(None, list(&parsed(text)?)?.checked()?)],
        };
        let documents: Option<Vec<ConditionalDocument>> = match variants {
            Some(json) => parsed(json.get())?,
            None => None,
        };
        let variant = |document: ConditionalDocument| {
            let (condition, prices) = (document.condition()?, list(&document.prices)?);
            Ok(Variant { when: document.when, condition, prices })
        };
        let variants =
            documents.unwrap_or_default().into_iter().map(variant).collect::<Result<_>>()?;
        Ok(Self { standard, variants })
    }
}

#[derive(Deserialize)]
struct ConditionalDocument<'a> {
    #[serde(default)]
    when: BTreeMap<String, String>,
    #[serde(borrow)]
    prices: PriceDocument<'a>,
    constraint: Option<ConstraintDocument>,
}

impl ConditionalDocument<'_> {
    fn condition(&self) -> Result<Option<Condition>> {
        self.constraint.as_ref().map(Condition::from_document).transpose()
    }
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::invalid("prices of a model are not valid").detail(error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::super::condition::{MICROS_PER_DAY, MICROS_PER_SECOND, midnight};
    use super::*;

    fn prices(prices: &str, variants: Option<&str>) -> Result<ModelPrices> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let variants = variants.map(raw);
        ModelPrices::from_json(Some(&raw(prices)), variants.as_deref(), &mut Vec::new())
    }

    fn input(prices: &ModelPrices, at: Timestamp, context: &Context<'_>) -> String {
        let list = prices.at(at, context).unwrap();
        list.get(Class::INPUT_TOKENS).unwrap().base.to_string()
    }

    #[test]
    fn a_price_holds_from_midnight_utc_of_its_date() {
        let dated = r#"[{"prices": {"input_mtok": 1}},
            {"constraint": {"start_date": "2026-03-13"}, "prices": {"input_mtok": 2}}]"#;
        let prices = prices(dated, None).unwrap();
        let from = midnight("2026-03-13").unwrap();
        let before = Timestamp(from.0 - 1);
        assert_eq!(from.0 / MICROS_PER_DAY, 26 * 365 + 7 + 31 + 28 + 12);
        assert_eq!(input(&prices, before, &[]), "1");
        assert_eq!(input(&prices, from, &[]), "2");
        assert_eq!(prices.stand_until(before), Some(from));
        assert_eq!(prices.stand_until(from), None);
    }

    #[test]
    fn a_time_of_day_may_pass_midnight() {
        let daily = r#"[{"prices": {"input_mtok": 2}}, {"constraint":
            {"start_time": "23:30:00-01:00", "end_time": "00:15:00Z"}, "prices": {"input_mtok": 1}}]"#;
        let prices = prices(daily, None).unwrap();
        let at = |minutes: i64| Timestamp(minutes * 60 * MICROS_PER_SECOND + 5 * MICROS_PER_DAY);
        // From 00:30 to 00:15 of the next day: a quarter of an hour is not in it.
        for (minutes, expected) in [(14, "1"), (15, "2"), (29, "2"), (30, "1"), (1439, "1")] {
            assert_eq!(input(&prices, at(minutes), &[]), expected, "{minutes}");
        }
        assert_eq!(prices.stand_until(at(0)), Some(at(15)));
        assert_eq!(prices.stand_until(at(15)), Some(at(30)));
        assert_eq!(prices.stand_until(at(30)), Some(at(1455)));
        assert!(prices.stand_until(Timestamp(i64::MIN)).is_some());
        assert_eq!(prices.stand_until(Timestamp(i64::MAX)), None);
    }

    #[test]
    fn a_variant_changes_the_prices_that_it_has_and_the_first_one_wins() {
        let variants = r#"[{"when": {"service_tier": "flex"}, "prices": {"input_mtok": 1}},
            {"when": {"processing": "batch"}, "prices": {"input_mtok": 2, "output_mtok": 3}}]"#;
        let prices = prices(r#"{"input_mtok": 5, "output_mtok": 9}"#, Some(variants)).unwrap();
        let at = Timestamp(0);
        let flex = ("service_tier", "flex");
        let batch = ("processing", "batch");
        assert_eq!(input(&prices, at, &[]), "5");
        assert_eq!(input(&prices, at, &[("service_tier", "default")]), "5");
        assert_eq!(input(&prices, at, &[batch]), "2");
        assert_eq!(input(&prices, at, &[batch, flex]), "1");
        assert_eq!(input(&prices, at, &[flex, ("service_tier", "default")]), "5");
        let list = prices.at(at, &[flex, batch]).unwrap();
        assert_eq!(list.get(Class::OUTPUT_TOKENS).unwrap().base.to_string(), "3");
        assert_eq!(input(&prices.standard_only(), at, &[batch]), "5");
    }

    #[test]
    fn tiers_hold_in_the_order_of_their_starts() {
        let tiers = r#"{"input_mtok": {"base": 1, "tiers": [{"start": 20, "price": 3}, {"start": 10, "price": 2}]}}"#;
        let prices = prices(tiers, None).unwrap();
        let list = prices.at(Timestamp(0), &[]).unwrap();
        let price = |tokens: i64| list.get(Class::INPUT_TOKENS).unwrap().at(tokens.into());
        assert_eq!([price(15), price(25)], [2.into(), 3.into()]);
    }

    #[test]
    fn a_constraint_that_says_nothing_is_refused() {
        for constraint in
            ["{}", r#"{"start_date": "2026-02-30"}"#, r#"{"start_time": "06:00:00Z"}"#]
        {
            let document =
                format!(r#"[{{"constraint": {constraint}, "prices": {{"input_mtok": 1}}}}]"#);
            assert!(prices(&document, None).unwrap_err().hint.is_some(), "{constraint}");
        }
    }
}
