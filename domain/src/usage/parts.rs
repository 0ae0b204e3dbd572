//! Wholes and their parts: what is not told but follows, and what cannot be.
//!
//! Parts that exclude each other, such as tokens read from a cache and tokens written to it, must not
//! together exceed what contains them; parts that can meet, such as cached and audio, may.

use crate::call::MAX_COUNT;
use crate::error::{Error, Result};
use crate::pricing::Class;
use crate::pricing::relations::{self, ClassSet};
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
    for whole in relations::parts_first().iter().copied() {
        // Concluded wholes are parts of the next, so that this is looked at each time.
        if relations::parts(whole).and(found.keys().copied().collect()).is_empty() {
            continue;
        }
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
    conclude_overlaps(&mut found);
    let positive = positive(&found);
    let tells = |class: &Class, quantity: &Decimal| {
        !quantity.is_zero()
            || [Class::INPUT_TOKENS, Class::OUTPUT_TOKENS].contains(class)
            || pair_of(*class, positive).is_some()
    };
    if found.iter().any(|(class, quantity)| tells(class, quantity)) {
        found.retain(|class, quantity| tells(class, quantity));
    }
    Ok((found, is_incomplete))
}

/// Classes that meet, such as cached and audio, whose common part was not told: it is kept where no other
/// number is possible, since what is priced apart cannot be priced without it.
fn conclude_overlaps(found: &mut Found) {
    let positive = positive(found);
    for both in Class::all() {
        let Some(pair) = pair_of(both, positive).filter(|_| !found.contains_key(&both)) else {
            continue;
        };
        let get = |class: Class| found.get(&class).copied().unwrap_or_default();
        // What of each is already told to be something else.
        let room = |whole: Class| {
            let others = relations::parts(whole)
                .and(positive)
                .iter()
                .filter(|other| other.depth() == both.depth() && other.excludes(both));
            get(whole) - others.map(get).sum::<Decimal>()
        };
        let most = pair.iter().map(room).min().unwrap_or_default();
        let sum: Decimal = pair.iter().map(get).sum();
        let around = positive.iter().filter(|whole| pair.iter().all(|part| whole.contains(part)));
        let Some(around) = around.map(get).min() else { continue };
        let least = (sum - around).max(Decimal::ZERO);
        if most == least {
            found.insert(both, least);
        }
    }
}

fn positive(found: &Found) -> ClassSet {
    found.iter().filter(|(_, quantity)| !quantity.is_zero()).map(|(class, _)| *class).collect()
}

/// Two classes of these that have this one in common.
fn pair_of(both: Class, of: ClassSet) -> Option<ClassSet> {
    relations::overlapping(both).iter().copied().find(|pair| of.contains_all(*pair))
}

/// For each way to divide the whole, the parts that are known and their sum.
fn sums_of_parts(whole: Class, found: &Found) -> Vec<(Vec<Class>, Decimal)> {
    let mut divisions: Vec<(Vec<Class>, Decimal)> = Vec::new();
    let parts = found.iter().filter(|(part, _)| whole.contains(**part));
    for (part, quantity) in parts {
        let exclusive = |others: &[Class]| others.iter().all(|other| part.excludes(*other));
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
        let (all, _) = complete(found(&[("audio_seconds", 0)])).unwrap();
        assert_eq!(all, found(&[("audio_seconds", 0)]));
    }

    #[test]
    fn what_overlaps_is_concluded_where_only_one_number_is_possible() {
        let cached = Class::named("cache_audio_read_tokens").unwrap();
        let concluded = |input, read, audio| {
            let told = [("input_tokens", input), ("cache_read_tokens", read)];
            let told = found(&[told[0], told[1], ("input_audio_tokens", audio)]);
            complete(told).unwrap().0.get(&cached).copied()
        };
        assert_eq!(concluded(10, 4, 10), Some(4.into()));
        assert_eq!(concluded(10, 10, 3), Some(3.into()));
        assert_eq!(concluded(10, 4, 3), None);
        let text = [("input_tokens", 10), ("cache_read_tokens", 4), ("cache_text_read_tokens", 4)];
        let told = found(&[
            text[0],
            text[1],
            text[2],
            ("input_text_tokens", 7),
            ("input_audio_tokens", 3),
        ]);
        assert_eq!(complete(told).unwrap().0.get(&cached), Some(&Decimal::ZERO));
    }
}
