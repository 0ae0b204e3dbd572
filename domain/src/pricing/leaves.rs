//! What of a call's usage is charged at which price: each unit at the one that says most about it.
//!
//! The *leaf* of a priced class is its quantity without the leaves of its priced parts. The rules are
//! those of the `genai-prices` crate (its `units.rs`), which keeps them to itself: a whole that is not
//! told is zero, unless a part of it is told or two classes that overlap in it.

use super::class::{COUNT, Class};
use super::line_items::out_of_range;
use super::price_list::PriceList;
use super::quantities::Quantities;
use super::relations::{self, ClassSet};
use crate::error::{Error, Result};
use rust_decimal::Decimal;

/// Quantities, ready to be taken apart.
pub struct Usage {
    quantities: [Decimal; COUNT],
    given: ClassSet,
    positive: ClassSet,
}

impl Usage {
    /// Checks the quantities one by one, and bills the list's minimum.
    ///
    /// # Errors
    /// 22023 for a negative one.
    pub fn new(quantities: &Quantities, list: &PriceList, requests: i64) -> Result<Self> {
        let mut usage = Self {
            quantities: [Decimal::ZERO; COUNT],
            given: ClassSet::default(),
            positive: ClassSet::default(),
        };
        for (class, quantity) in quantities.iter().filter(|(class, _)| *class != Class::REQUESTS) {
            if quantity < Decimal::ZERO {
                return Err(Error::invalid(format!("{class} ({quantity}) must not be negative")));
            }
            usage.set(class, quantity);
        }
        if requests < 0 {
            return Err(Error::invalid(format!("requests ({requests}) must not be negative")));
        }
        usage.bill_minimum(list.minimum_audio_seconds, requests);
        Ok(usage)
    }

    fn set(&mut self, class: Class, quantity: Decimal) {
        self.quantities[class.index()] = quantity;
        self.given.insert(class);
        if quantity > Decimal::ZERO {
            self.positive.insert(class);
        }
    }

    /// Some bill each request for so many seconds of audio at least, whichever way they were told.
    fn bill_minimum(&mut self, seconds: i64, requests: i64) {
        let input_audio = relations::parts(Class::AUDIO_SECONDS)
            .iter()
            .find(|class| class.name() == "input_audio_seconds");
        let Some(input_audio) = input_audio.filter(|_| seconds > 0) else { return };
        let told = [Class::AUDIO_SECONDS, input_audio]
            .into_iter()
            .find(|class| self.positive.contains(*class));
        if let Some(told) = told {
            let least = Decimal::from(seconds) * Decimal::from(requests);
            let billed = self.quantities[told.index()].max(least);
            self.set(Class::AUDIO_SECONDS, billed);
            self.set(input_audio, billed);
        }
    }

    /// What was told; zero when nothing was, if nothing else implies more.
    ///
    /// # Errors
    /// 22023 when something does.
    pub fn quantity(&self, class: Class) -> Result<Decimal> {
        if self.given.contains(class) {
            return Ok(self.quantities[class.index()]);
        }
        let missing = |of: ClassSet| {
            let names: Vec<_> = of.iter().map(Class::name).collect();
            Error::invalid(format!("{class} must be given with {}", names.join(" and "))).hint(
                format!(
                    "Say how many {class} there were in all, parts included, or pass cost_usd."
                ),
            )
        };
        let part = relations::parts(class).and(self.positive).iter().next();
        if let Some(part) = part {
            return Err(missing([part].into_iter().collect()));
        }
        let pairs = relations::overlapping(class);
        match pairs.iter().find(|pair| self.positive.contains_all(**pair)) {
            Some(pair) => Err(missing(*pair)),
            None => Ok(Decimal::ZERO),
        }
    }

    /// By class: what is charged at the price of that class.
    ///
    /// # Errors
    /// 22023 when parts exceed their whole or it is missing.
    pub fn leaves(&self, priced: ClassSet) -> Result<[Decimal; COUNT]> {
        let mut leaves = [Decimal::ZERO; COUNT];
        let charged = |class: &Class| priced.contains(*class) && *class != Class::REQUESTS;
        for class in relations::parts_first().iter().copied().filter(charged) {
            let all = self.quantity(class)?;
            let mut parts = Decimal::ZERO;
            for part in relations::parts(class).and(priced).iter() {
                parts = parts.checked_add(leaves[part.index()]).ok_or_else(out_of_range)?;
            }
            if parts > all {
                return Err(self.too_many_parts(class, all, parts, priced));
            }
            leaves[class.index()] = all - parts;
        }
        Ok(leaves)
    }

    fn too_many_parts(&self, class: Class, all: Decimal, sum: Decimal, priced: ClassSet) -> Error {
        let parts = relations::parts(class).and(priced).and(self.positive);
        let quantity = |part: Class| self.quantities[part.index()];
        let message = match parts.iter().find(|part| quantity(*part) > all) {
            Some(part) => format!("{part} ({}) must not exceed {class} ({all})", quantity(part)),
            None => {
                let names: Vec<_> = parts.iter().map(Class::name).collect();
                format!("{} ({sum} together) must not exceed {class} ({all})", names.join(", "))
            }
        };
        Error::invalid(message).hint("A whole includes its parts: input tokens those from a cache.")
    }

    /// What neither has a price nor a whole with one: of nested classes the outermost.
    pub fn unpriced(&self, priced: ClassSet) -> Vec<(Class, Decimal)> {
        let unpriced: ClassSet = self
            .positive
            .without(priced)
            .iter()
            .filter(|class| relations::wholes(*class).and(priced).is_empty())
            .collect();
        let outermost = |class: &Class| relations::wholes(*class).and(unpriced).is_empty();
        let quantity = |class: Class| (class, self.quantities[class.index()]);
        unpriced.iter().filter(outermost).map(quantity).collect()
    }
}
