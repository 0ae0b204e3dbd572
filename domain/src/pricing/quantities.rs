//! How much of each class a call used.
//!
//! Wholes include their parts: `input_tokens` those that were read from a cache, `output_tokens` those
//! of reasoning. A whole that is not told is not zero; [`Quantities::checked`] says what is wrong.

use super::class::Class;
use crate::error::{Error, Result};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use std::collections::BTreeMap;

/// Quantities by class, none negative.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quantities(BTreeMap<Class, Decimal>);

impl Quantities {
    /// Tokens in and out, where they are known.
    #[must_use]
    pub fn of_tokens(input: Option<i64>, output: Option<i64>) -> Self {
        let mut quantities = Self::default();
        for (class, tokens) in [(Class::INPUT_TOKENS, input), (Class::OUTPUT_TOKENS, output)] {
            if let Some(tokens) = tokens {
                quantities.set(class, tokens.into());
            }
        }
        quantities
    }

    /// Of quantities that leave out their parts, as line items have them: wholes are the sums.
    #[must_use]
    pub fn of_leaves(leaves: &[(Class, Decimal)]) -> Self {
        let mut quantities = Self::default();
        let wholes = Class::all()
            .filter(|class| leaves.iter().any(|(leaf, _)| leaf == class || class.contains(*leaf)));
        for whole in wholes {
            let parts = leaves.iter().filter(|(leaf, _)| *leaf == whole || whole.contains(*leaf));
            let sum = parts.fold(Decimal::ZERO, |sum, (_, part)| sum.saturating_add(*part));
            quantities.set(whole, sum);
        }
        // Leaves are complete: what two of these would have in common, and is not among them, is nothing.
        let told: Vec<_> = quantities.0.keys().copied().collect();
        for (at, one) in told.iter().enumerate() {
            for common in told[at + 1..].iter().filter_map(|other| one.overlap(*other)) {
                quantities.0.entry(common).or_insert(Decimal::ZERO);
            }
        }
        quantities
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn get(&self, class: Class) -> Option<Decimal> {
        self.0.get(&class).copied()
    }

    pub fn set(&mut self, class: Class, quantity: Decimal) {
        self.0.insert(class, quantity);
    }

    /// In the order of the classes' names.
    pub fn iter(&self) -> impl Iterator<Item = (Class, Decimal)> {
        self.0.iter().map(|(class, quantity)| (*class, *quantity))
    }

    /// A class of whole tokens.
    #[must_use]
    pub fn tokens(&self, class: Class) -> Option<i64> {
        self.get(class).and_then(|quantity| quantity.to_i64())
    }

    /// The same, if no part exceeds its whole.
    ///
    /// # Errors
    /// 22023 when a part is more than its whole.
    pub fn checked(self) -> Result<Self> {
        for (part, quantity) in self.iter() {
            let whole = self.iter().find(|(whole, all)| whole.contains(part) && *all < quantity);
            if let Some((whole, all)) = whole {
                return Err(Error::invalid(format!(
                    "{part} ({quantity}) must not exceed {whole} ({all})"
                )));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_add_up_to_their_wholes() {
        let class = |name| Class::named(name).unwrap();
        let leaves = [
            (Class::INPUT_TOKENS, 500.into()),
            (class("cache_audio_read_tokens"), 70.into()),
            (Class::CACHE_READ_TOKENS, 30.into()),
        ];
        let quantities = Quantities::of_leaves(&leaves);
        let tokens = |name| quantities.tokens(class(name));
        assert_eq!(tokens("input_tokens"), Some(600));
        assert_eq!(tokens("cache_read_tokens"), Some(100));
        assert_eq!(tokens("input_audio_tokens"), Some(70));
        assert_eq!(tokens("output_tokens"), None);
        assert!(quantities.checked().is_ok());
        let apart =
            [(Class::CACHE_READ_TOKENS, 100.into()), (Class::INPUT_AUDIO_TOKENS, 50.into())];
        let quantities = Quantities::of_leaves(&apart);
        assert_eq!(quantities.tokens(class("cache_audio_read_tokens")), Some(0));
    }
}
