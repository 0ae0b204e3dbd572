//! Wholes and their parts: what is not told but follows, and what cannot be.
//!
//! Parts that exclude each other, such as tokens read from a cache and tokens written to it, must not
//! together exceed what contains them; parts that can meet, such as cached and audio, may.

use crate::call::MAX_COUNT;
use crate::error::{Error, Result};
use crate::pricing::Class;
use rust_decimal::Decimal;
use std::collections::BTreeMap;

pub type Found = BTreeMap<Class, Decimal>;

/// What was found, with the wholes that only their parts tell of, and without parts of nothing. Also
/// whether input or output had to be concluded so: then it is known to be no less.
///
/// # Errors
/// 22023 when parts exceed their whole, 22003 when a sum is out of range.
pub fn complete(mut found: Found) -> Result<(Found, bool)> {
    let is_incomplete = [Class::INPUT_TOKENS, Class::OUTPUT_TOKENS].into_iter().any(|whole| {
        !found.contains_key(&whole)
            && found.iter().any(|(part, quantity)| !quantity.is_zero() && whole.contains(*part))
    });
    let mut classes: Vec<Class> = Class::all().collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.depth()));
    for whole in classes {
        let sums = sums_of_parts(whole, &found);
        match found.get(&whole) {
            Some(all) => {
                if let Some((parts, sum)) = sums.into_iter().find(|(_, sum)| sum > all) {
                    return Err(exceeds(&parts, sum, whole, *all));
                }
            }
            None => {
                if let Some(least) = sums.into_iter().map(|(_, sum)| sum).max()
                    && !least.is_zero()
                {
                    found.insert(whole, least);
                }
            }
        }
    }
    for (class, quantity) in &found {
        if *quantity > Decimal::from(MAX_COUNT) {
            return Err(Error::out_of_range(format!("{class} is out of range"))
                .detail(format!("All of it together must be at most {MAX_COUNT}.")));
        }
    }
    if found.len() > 1 {
        found.retain(|class, quantity| {
            !quantity.is_zero() || [Class::INPUT_TOKENS, Class::OUTPUT_TOKENS].contains(class)
        });
    }
    Ok((found, is_incomplete))
}

/// For each way to divide the whole, the parts that are known and their sum.
fn sums_of_parts(whole: Class, found: &Found) -> Vec<(Vec<Class>, Decimal)> {
    let mut divisions: Vec<(Vec<Class>, Decimal)> = Vec::new();
    let parts = found.iter().filter(|(part, _)| whole.contains(**part));
    for (part, quantity) in parts {
        let exclusive = |others: &[Class]| {
            others.iter().all(|other| {
                part.overlap(*other).is_none() && !part.contains(*other) && !other.contains(*part)
            })
        };
        // One level at a time: what is further in was checked with what contains it.
        let mut is_placed = false;
        for (parts, sum) in &mut divisions {
            if exclusive(parts) && parts[0].depth() == part.depth() {
                parts.push(*part);
                *sum += *quantity;
                is_placed = true;
            }
        }
        if !is_placed {
            divisions.push((vec![*part], *quantity));
        }
    }
    divisions
}

fn exceeds(parts: &[Class], sum: Decimal, whole: Class, all: Decimal) -> Error {
    let names: Vec<&str> = parts.iter().map(|part| part.name()).collect();
    let together = if parts.len() > 1 { " together" } else { "" };
    Error::invalid(format!(
        "{} ({sum}{together}) must not exceed {whole} ({all})",
        names.join(" and ")
    ))
    .detail("Cached tokens are a part of the input, and reasoning is a part of the output.")
    .hint(
        "The usage contradicts itself. Pass input_tokens and output_tokens, or cost_usd, instead.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(quantities: &[(&str, i64)]) -> Found {
        quantities.iter().map(|(n, q)| (Class::named(n).unwrap(), Decimal::from(*q))).collect()
    }

    #[test]
    fn exclusive_parts_are_added_up_and_others_are_not() {
        let too_much =
            found(&[("input_tokens", 10), ("cache_read_tokens", 6), ("cache_write_tokens", 5)]);
        let error = complete(too_much).unwrap_err();
        assert_eq!(
            error.message,
            "cache_read_tokens and cache_write_tokens (11 together) must not exceed input_tokens (10)"
        );
        let may_meet =
            found(&[("input_tokens", 10), ("cache_read_tokens", 6), ("input_audio_tokens", 9)]);
        assert!(complete(may_meet).is_ok());
    }

    #[test]
    fn a_whole_is_no_less_than_its_parts() {
        let (all, is_incomplete) =
            complete(found(&[("cache_write_1h_tokens", 3), ("cache_write_5m_tokens", 4)])).unwrap();
        assert_eq!(all[&Class::CACHE_WRITE_TOKENS], 7.into());
        assert_eq!(all[&Class::INPUT_TOKENS], 7.into());
        assert!(is_incomplete);
    }

    #[test]
    fn a_part_of_nothing_is_not_kept() {
        let (all, _) = complete(found(&[("input_tokens", 0), ("cache_read_tokens", 0)])).unwrap();
        assert_eq!(all, found(&[("input_tokens", 0)]));
    }
}
