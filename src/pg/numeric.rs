//! Exact amounts to and from `numeric`, by its text form: no float in between.

use ai_limiter_domain::Amount;
use ai_limiter_domain::error::Result;
use pgrx::AnyNumeric;

pub fn from_amount(amount: Amount) -> AnyNumeric {
    AnyNumeric::try_from(amount.to_string().as_str()).expect("an amount's text is a numeric")
}

/// What one call may cost, as an argument.
pub fn to_charge(value: Option<AnyNumeric>, what: &str) -> Result<Option<Amount>> {
    value.map(|v| Amount::parse_charge(v.normalize(), what)).transpose()
}
