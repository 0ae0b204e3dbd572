//! The prices of one entry of LiteLLM's list, and what of it could not be said in a row of `ai_prices`.
//!
//! Nothing is guessed. What is left out without loss is not told either: a price of nothing for a unit
//! that no class has, and a conditional price that is the same as without the condition.

use super::complete::{self, is_free};
use super::keys::{Meaning, meaning};
use crate::pricing::class::Class;
use crate::pricing::price_list::{PriceList, Tier, UnitPrice, decimal};
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// An entry's fields.
pub type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Reasons by key.
pub type Reasons = BTreeMap<String, String>;

/// Under what an entry as a whole is told of.
pub const WHOLE: &str = "entry";

const TOKENS_TOO: &str = "is another measure of what tokens are charged for";
const NO_PRICE: &str = "is no number of at most 28 digits that is not negative";

struct Reading<'a> {
    fields: &'a Fields<'a>,
    prices: BTreeMap<Class, UnitPrice>,
    reasons: Reasons,
    /// Keys of what is charged in any case and could not be taken.
    lost: Vec<String>,
}

/// The prices, which are [`PriceList::checked`]; `None` when a row of them would say what is not so.
#[must_use]
pub fn prices(fields: &Fields<'_>) -> (Option<PriceList>, Reasons) {
    let mut reading =
        Reading { fields, prices: BTreeMap::new(), reasons: Reasons::new(), lost: Vec::new() };
    reading.flat_prices();
    reading.tiers();
    reading.ranges();
    let Reading { prices, mut reasons, mut lost, .. } = reading;
    let list = complete::consistent(&prices, &mut reasons, &mut lost);
    let whole = |reason: &str| (WHOLE.to_owned(), reason.to_owned());
    if list.is_empty() {
        if reasons.is_empty() {
            reasons.extend([whole("it has no price")]);
        }
        return (None, reasons);
    }
    // A row prices the whole call: what it does not price would be free.
    if costs_too_little(&list, &lost) {
        reasons.extend([whole("calls would cost too little by what could be taken of it")]);
        return (None, reasons);
    }
    match list.checked() {
        Ok(list) => (Some(list), reasons),
        Err(error) => {
            reasons.extend([whole(&error.message)]);
            (None, reasons)
        }
    }
}

/// Whether nothing is charged for input, for output or at all, although there is a price for it that could
/// not be taken.
fn costs_too_little(list: &PriceList, lost: &[String]) -> bool {
    let side = |name: &str| match name.split('_').next() {
        Some("input" | "cache") => "input",
        Some("output") => "output",
        _ => "",
    };
    let charged: Vec<_> = list
        .iter()
        .filter(|(_, price)| !is_free(price))
        .map(|(class, _)| side(class.name()))
        .collect();
    lost.iter().map(|key| side(key)).any(|lost| match lost {
        "" => charged.is_empty(),
        side => !charged.contains(&side),
    })
}

/// A price that is told as text or not at all has no number.
fn number(json: &RawValue) -> Option<Decimal> {
    decimal("", json).ok()
}

/// As the entry's keys are read: a key that is null is not there.
fn present(json: &RawValue) -> bool {
    json.get() != "null"
}

/// What a price list has for `per` units of the class.
fn listed(class: Class, usd: Decimal, per: i64) -> Option<Decimal> {
    let units = Decimal::from(class.definition().per / per);
    let price = usd.checked_mul(units)?.normalize();
    // A product that has lost digits is another price.
    (price.checked_div(units)?.normalize() == usd).then_some(price)
}

impl Reading<'_> {
    fn refuse(&mut self, key: &str, reason: &str) {
        self.reasons.insert(key.to_owned(), reason.to_owned());
    }

    fn lose(&mut self, key: &str, reason: &str) {
        self.refuse(key, reason);
        self.lost.push(key.to_owned());
    }

    fn value(&self, key: &str) -> Option<Decimal> {
        number(self.fields.get(key)?)
    }

    fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.fields.get(key)?.get()).ok()
    }

    /// A charge beside tokens would be one too many where both are another's measure.
    fn is_priced_by_tokens(&self) -> bool {
        let priced = |key: &str| self.value(key).is_some_and(|usd| !usd.is_zero());
        priced("input_cost_per_token") || priced("output_cost_per_token")
    }

    fn flat_prices(&mut self) {
        let fields = self.fields;
        for (key, json) in fields.iter().filter(|(_, json)| present(json)) {
            match meaning(key) {
                Meaning::Price(class, per) => self.price(key, class, json, per),
                Meaning::Conditional { of, reason } => {
                    if self.value(of).is_none() || self.value(of) != number(json) {
                        self.refuse(key, reason);
                    }
                }
                Meaning::HeardSeconds => self.heard_seconds(key, json),
                Meaning::Characters if self.is_priced_by_tokens() => {
                    self.refuse_unless_zero(key, json, TOKENS_TOO);
                }
                Meaning::Characters => self.price(key, Class::INPUT_CHARACTERS, json, 1),
                Meaning::Query => self.query(key, json),
                Meaning::Searches => self.searches(key, json),
                Meaning::Multiplier if number(json) == Some(Decimal::ONE) => {}
                Meaning::Multiplier => self.refuse(key, "multiplies prices under a condition"),
                Meaning::Multipliers => self.multipliers(key, json),
                Meaning::NotRepresented(reason) => self.refuse_unless_zero(key, json, reason),
                Meaning::Tier(..) | Meaning::Ranges | Meaning::Nothing => {}
            }
        }
    }

    fn refuse_unless_zero(&mut self, key: &str, json: &RawValue, reason: &str) {
        if number(json) != Some(Decimal::ZERO) {
            self.lose(key, reason);
        }
    }

    fn price(&mut self, key: &str, class: Class, json: &RawValue, per: i64) {
        let Some(price) = number(json).and_then(|usd| listed(class, usd, per)) else {
            return self.lose(key, NO_PRICE);
        };
        match self.prices.get(&class) {
            Some(known) if known.base != price => {
                self.refuse(key, "another key has another price for the same");
            }
            Some(_) => {}
            None => {
                self.prices.insert(class, UnitPrice::flat(price));
            }
        }
    }

    /// LiteLLM charges the seconds of a recording once, whichever of the two keys says so.
    fn heard_seconds(&mut self, key: &str, json: &RawValue) {
        let hears =
            matches!(self.text("mode").as_deref(), Some("audio_transcription" | "realtime"));
        if number(json) == Some(Decimal::ZERO) {
            // The other key says it.
        } else if !hears {
            self.lose(key, "does not say of what the seconds are");
        } else if self.is_priced_by_tokens() {
            self.refuse(key, TOKENS_TOO);
        } else {
            self.price(key, Class::AUDIO_SECONDS, json, 1);
        }
    }

    fn query(&mut self, key: &str, json: &RawValue) {
        match Class::named("rerank_searches") {
            Some(searches) if self.text("mode").as_deref() == Some("rerank") => {
                self.price(key, searches, json, 1);
            }
            _ => self.refuse_unless_zero(key, json, "no class of usage counts such queries"),
        }
    }

    /// One price for every size of the context is a price; several are a condition.
    fn searches(&mut self, key: &str, json: &RawValue) {
        let sizes: Option<BTreeMap<String, &RawValue>> = serde_json::from_str(json.get()).ok();
        let mut sizes = sizes.unwrap_or_default().into_values();
        match sizes.next() {
            None => self.refuse(key, "is no object of prices by the size of the search's context"),
            Some(first) if sizes.all(|size| number(size) == number(first)) => {
                self.price(key, Class::WEB_SEARCHES, first, 1);
            }
            Some(_) => self.refuse(key, "depends on the size of the search's context"),
        }
    }

    fn multipliers(&mut self, key: &str, json: &RawValue) {
        let all: Option<BTreeMap<String, &RawValue>> = serde_json::from_str(json.get()).ok();
        let multiplies = |json: &&RawValue| number(json).is_some_and(|by| by != Decimal::ONE);
        if all.is_none_or(|all| all.values().any(multiplies)) {
            self.refuse(key, "multiplies prices under a condition");
        }
    }

    fn tiers(&mut self) {
        let fields = self.fields;
        for (key, json) in fields.iter().filter(|(_, json)| present(json)) {
            let Meaning::Tier(class, start) = meaning(key) else { continue };
            let Some(price) = number(json).and_then(|usd| listed(class, usd, 1)) else {
                self.refuse(key, NO_PRICE);
                continue;
            };
            match self.prices.get_mut(&class) {
                None => self.refuse(key, "there is no price for calls with fewer input tokens"),
                Some(known) if known.tiers.iter().any(|tier| tier.start == start) => {
                    self.refuse(key, "another key says the same tier");
                }
                Some(known) => {
                    known.tiers.push(Tier { start, price });
                    known.tiers.sort_by_key(|tier| tier.start);
                }
            }
        }
    }

    /// `[{"range": [0, 256000], "input_cost_per_token": …}, {"range": [256000, 1000000], …}]`.
    fn ranges(&mut self) {
        let fields = self.fields;
        let Some((key, json)) = fields.get_key_value("tiered_pricing") else { return };
        if !present(json) {
            return;
        }
        match ranges(json) {
            // They are what LiteLLM charges, whatever else the entry says.
            Some(prices) => self.prices.extend(prices),
            None => {
                self.lose(key, "is not ranges of input tokens that follow each other from 0 on")
            }
        }
    }
}

fn ranges(json: &RawValue) -> Option<BTreeMap<Class, UnitPrice>> {
    let documents: Vec<Fields> = serde_json::from_str(json.get()).ok()?;
    let mut prices: BTreeMap<Class, UnitPrice> = BTreeMap::new();
    let mut next = Decimal::ZERO;
    for document in &documents {
        let range: [&RawValue; 2] = serde_json::from_str(document.get("range")?.get()).ok()?;
        let (start, end) = (number(range[0])?, number(range[1])?);
        if start != next || end <= start {
            return None;
        }
        next = end;
        let tokens = i64::try_from(start).ok().filter(|tokens| Decimal::from(*tokens) == start)?;
        let fields = document.iter().filter(|(key, json)| *key != "range" && present(json));
        for (key, json) in fields {
            let Meaning::Price(class, per) = meaning(key) else { return None };
            let price = listed(class, number(json)?, per)?;
            match prices.get_mut(&class) {
                None if start.is_zero() => {
                    prices.insert(class, UnitPrice::flat(price));
                }
                None => return None,
                Some(known) => known.tiers.push(Tier { start: tokens, price }),
            }
        }
    }
    // Every class in every range.
    let whole = |price: &UnitPrice| price.tiers.len() + 1 == documents.len();
    (!prices.is_empty() && prices.values().all(whole)).then_some(prices)
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
