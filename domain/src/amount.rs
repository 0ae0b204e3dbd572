//! An exact quantity with twelve decimals: US dollars, requests or tokens.
//!
//! A 128-bit integer of 10⁻¹² units, so that sums are associative and no order of additions can
//! leave a cent behind. `numeric(20,12)` in the tables holds the same values; a charge is below
//! 10⁸ USD, so that more than 10¹⁸ of them fit a counter before [`Amount::checked_add`] fails.

use crate::error::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Decimals that are kept: the scale of `numeric(20,12)`.
pub const SCALE: u32 = 12;
const ONE: i128 = 1_000_000_000_000;

/// An exact quantity in units of 10⁻¹². See the module for why it is an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

impl Amount {
    pub const ZERO: Amount = Amount(0);
    /// The largest single charge, exclusive: what `numeric(20,12)` holds.
    pub const CHARGE_LIMIT: Amount = Amount(100_000_000 * ONE);

    pub const fn from_units(units: i64) -> Self {
        Self(units as i128 * ONE)
    }

    pub const fn from_pico(pico: i128) -> Self {
        Self(pico)
    }

    /// The value in 10⁻¹² units.
    pub const fn pico(self) -> i128 {
        self.0
    }

    pub fn checked_add(self, other: Self) -> Result<Self> {
        self.0
            .checked_add(other.0)
            .map(Self)
            .ok_or_else(|| Error::out_of_range("counter out of range"))
    }

    pub fn checked_sub(self, other: Self) -> Result<Self> {
        self.0
            .checked_sub(other.0)
            .map(Self)
            .ok_or_else(|| Error::out_of_range("counter out of range"))
    }

    /// Reads the text form of a Postgres `numeric`; `what` names it in the error.
    ///
    /// # Errors
    /// 22023 for `NaN`, `Infinity` and anything that is not a number, 22003 when it does not fit.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let text = text.trim();
        let (negative, digits) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(Error::invalid(format!("{what} must be a finite number")));
        }
        let out_of_range = || Error::out_of_range(format!("{what} is out of range"));
        let whole: i128 =
            if whole.is_empty() { 0 } else { whole.parse().map_err(|_| out_of_range())? };
        let kept = &fraction[..fraction.len().min(SCALE as usize)];
        let mut pico: i128 = if kept.is_empty() { 0 } else { kept.parse().unwrap_or(0) };
        pico *= 10_i128.pow(SCALE - kept.len() as u32);
        let round_up = fraction.as_bytes().get(SCALE as usize).is_some_and(|d| *d >= b'5');
        let value = whole
            .checked_mul(ONE)
            .and_then(|v| v.checked_add(pico + i128::from(round_up)))
            .ok_or_else(out_of_range)?;
        Ok(Self(if negative { -value } else { value }))
    }

    /// As [`Amount::parse`], for what one call may cost: not negative, below 10⁸ USD.
    pub fn parse_charge(text: &str, what: &str) -> Result<Self> {
        let amount = Self::parse(text, what)?;
        if amount < Self::ZERO {
            return Err(Error::out_of_range(format!("{what} must not be negative")));
        }
        if amount >= Self::CHARGE_LIMIT {
            return Err(Error::out_of_range(format!("{what} is out of range"))
                .detail("A single charge must be below 100,000,000 USD."));
        }
        Ok(amount)
    }

    /// As [`Amount::parse`], for what is added to a charge or taken from it: not zero, and no larger than a
    /// charge can be.
    pub fn parse_difference(text: &str, what: &str) -> Result<Self> {
        let amount = Self::parse(text, what)?;
        if amount == Self::ZERO {
            return Err(Error::invalid(format!("{what} must not be zero"))
                .hint("Amounts have twelve decimals."));
        }
        if amount.0.unsigned_abs() >= Self::CHARGE_LIMIT.0.unsigned_abs() {
            return Err(Error::out_of_range(format!("{what} is out of range"))
                .detail("A single charge must be below 100,000,000 USD."));
        }
        Ok(amount)
    }

    /// `self × part ÷ whole`, exactly, rounded once half away from zero.
    ///
    /// # Errors
    /// 22003 when it does not fit, or `whole` is zero.
    pub fn scaled(self, part: Self, whole: Self) -> Result<Self> {
        let out_of_range = || Error::out_of_range("amount is out of range");
        let negative = (self.0 < 0) ^ (part.0 < 0) ^ (whole.0 < 0);
        let [mut factor, part, whole] = [self, part, whole].map(|amount| amount.0.unsigned_abs());
        if whole == 0 || whole >= 1 << 127 {
            return Err(out_of_range());
        }
        // Bit by bit from the top: the product of two amounts may need 256 bits, quotient and remainder
        // never need more than one more than they have.
        let (mut quotient, mut remainder) = (0_u128, 0_u128);
        let (part_quotient, part_remainder) = (part / whole, part % whole);
        let bits = u128::BITS - factor.leading_zeros();
        factor = if bits == 0 { 0 } else { factor << (u128::BITS - bits) };
        for _ in 0..bits {
            quotient = quotient.checked_mul(2).ok_or_else(out_of_range)?;
            remainder *= 2;
            if factor >> 127 == 1 {
                quotient = quotient.checked_add(part_quotient).ok_or_else(out_of_range)?;
                if remainder >= whole {
                    (quotient, remainder) = (quotient + 1, remainder - whole);
                }
                remainder += part_remainder;
            }
            if remainder >= whole {
                (quotient, remainder) = (quotient + 1, remainder - whole);
            }
            factor <<= 1;
        }
        let rounded = quotient + u128::from(remainder >= whole - remainder);
        let pico = i128::try_from(rounded).map_err(|_| out_of_range())?;
        Ok(Self(if negative { -pico } else { pico }))
    }

    /// `self ÷ other` for ordering and display only, never for money; `None` when `other` is zero.
    pub fn ratio(self, other: Self) -> Option<f64> {
        (other.0 != 0).then(|| self.0 as f64 / other.0 as f64)
    }
}

/// As text: JSON readers turn numbers into floats, and money is decimal.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, "amount").map_err(|error| D::Error::custom(error.message))
    }
}

impl fmt::Display for Amount {
    /// The shortest exact decimal: `0.05`, `12`, `-3.000000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let (whole, fraction) = (magnitude / ONE as u128, magnitude % ONE as u128);
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:012}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    #[test]
    fn text_that_is_no_finite_number_is_refused() {
        for text in ["NaN", "Infinity", "-Infinity", "", ".", "-", "1e5", "1.2.3", "١"] {
            assert_eq!(
                Amount::parse(text, "x").unwrap_err().kind,
                Kind::InvalidParameter,
                "{text}"
            );
        }
    }

    #[test]
    fn a_charge_is_neither_negative_nor_beyond_the_column() {
        assert_eq!(
            Amount::parse_charge("-0.000000000001", "x").unwrap_err().kind,
            Kind::OutOfRange
        );
        assert_eq!(Amount::parse_charge("100000000", "x").unwrap_err().kind, Kind::OutOfRange);
        let huge = "9".repeat(200);
        assert_eq!(Amount::parse_charge(&huge, "x").unwrap_err().kind, Kind::OutOfRange);
        assert!(Amount::parse_charge("99999999.999999999999", "x").is_ok());
    }

    #[test]
    fn a_difference_is_neither_zero_nor_larger_than_a_charge() {
        for (text, kind) in [
            ("0", Kind::InvalidParameter),
            ("-0.0000000000001", Kind::InvalidParameter),
            ("NaN", Kind::InvalidParameter),
            ("100000000", Kind::OutOfRange),
            ("-100000000", Kind::OutOfRange),
        ] {
            assert_eq!(Amount::parse_difference(text, "x").unwrap_err().kind, kind, "{text}");
        }
        assert_eq!(Amount::parse_difference("-0.000000000001", "x").unwrap().pico(), -1);
    }

    #[test]
    fn the_largest_charges_are_scaled_exactly() {
        let largest = Amount::CHARGE_LIMIT.checked_sub(Amount(1)).unwrap();
        assert_eq!(largest.scaled(largest, largest).unwrap(), largest);
        assert_eq!(Amount(-1).scaled(largest, Amount(2)).unwrap().pico(), -(largest.0 + 1) / 2);
        assert_eq!(largest.scaled(largest, Amount(1)).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(largest.scaled(largest, Amount::ZERO).unwrap_err().kind, Kind::OutOfRange);
    }

    #[test]
    fn rounds_half_away_from_zero_at_twelve_decimals() {
        assert_eq!(Amount::parse("0.0000000000005", "x").unwrap().pico(), 1);
        assert_eq!(Amount::parse("-0.0000000000005", "x").unwrap().pico(), -1);
        assert_eq!(Amount::parse("0.00000000000049999", "x").unwrap().pico(), 0);
    }

    #[test]
    fn overflow_is_an_error_and_never_wraps() {
        let top = Amount(i128::MAX);
        assert_eq!(top.checked_add(Amount(1)).unwrap_err().kind, Kind::OutOfRange);
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(pico in -(10_i128.pow(30))..10_i128.pow(30)) {
            let amount = Amount(pico);
            prop_assert_eq!(Amount::parse(&amount.to_string(), "x").unwrap(), amount);
        }

        #[test]
        fn scaling_is_a_product_and_a_quotient_rounded_once(
            a in -(10_i128.pow(18))..10_i128.pow(18), part in 0..10_i128.pow(19), whole in 1..10_i128.pow(19),
        ) {
            let product = a.abs() * part;
            let rounded = product / whole + i128::from(product % whole * 2 >= whole);
            prop_assert_eq!(Amount(a).scaled(Amount(part), Amount(whole)).unwrap().pico(), a.signum() * rounded);
        }
    }
}
