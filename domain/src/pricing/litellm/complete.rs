//! Prices by class as a row of `ai_prices` must have them: no part without its whole, and a price for what
//! two priced classes have in common.

use super::entry::Reasons;
use crate::pricing::class::Class;
use crate::pricing::price_list::{PriceList, UnitPrice};
use crate::pricing::relations;
use rust_decimal::Decimal;
use std::collections::BTreeMap;

/// The list, and by price key what is in it otherwise than it was given. `lost` gets what nothing in the
/// list charges for.
pub fn consistent(
    priced: &BTreeMap<Class, UnitPrice>,
    reasons: &mut Reasons,
    lost: &mut Vec<String>,
) -> PriceList {
    let mut list = PriceList::default();
    for class in relations::parts_first().iter().rev() {
        let Some(price) = priced.get(class) else { continue };
        match relations::wholes(*class).iter().find(|whole| list.get(*whole).is_none()) {
            None => list.set(*class, price.clone()),
            Some(whole) => {
                let key = class.definition().price_key;
                let reason = format!("needs a price \"{}\"", whole.definition().price_key);
                // Else it is charged as a whole that has a price.
                let is_uncharged =
                    relations::wholes(*class).and(list.priced()).is_empty() && !is_free(price);
                if is_uncharged {
                    lost.push(key.to_owned());
                }
                reasons.insert(key.to_owned(), reason);
            }
        }
    }
    while let Some((common, left, right)) = unpriced_common(&list) {
        if let Some(same) =
            [left, right].into_iter().find(|class| costs_what_its_whole_does(&list, *class))
        {
            list.remove(same);
            continue;
        }
        // Never too little: audio from a cache is charged as audio.
        let Some(dearer) = [left, right].into_iter().max_by_key(|class| dearness(&list, *class))
        else {
            break;
        };
        if let Some(price) = list.get(dearer).cloned() {
            list.set(common, price);
            let key = dearer.definition().price_key;
            reasons.insert(
                common.definition().price_key.to_owned(),
                format!("has no price: charged as \"{key}\""),
            );
        }
    }
    list
}

/// Whether it charges nothing, however long the input.
pub fn is_free(price: &UnitPrice) -> bool {
    price.base.is_zero() && price.tiers.iter().all(|tier| tier.price.is_zero())
}

fn dearness(list: &PriceList, class: Class) -> (Decimal, Decimal) {
    let price = list.get(class);
    price.map_or_else(Default::default, |price| (price.base, price.at(Decimal::MAX)))
}

/// A class that has no price, and two that do and have it in common.
fn unpriced_common(list: &PriceList) -> Option<(Class, Class, Class)> {
    Class::all().filter(|common| !list.priced().contains(*common)).find_map(|common| {
        let pair = relations::overlapping(common)
            .iter()
            .find(|pair| list.priced().contains_all(**pair))?;
        let mut classes = pair.iter();
        Some((common, classes.next()?, classes.next()?))
    })
}

/// Whether a list without it charges the same.
fn costs_what_its_whole_does(list: &PriceList, class: Class) -> bool {
    let wholes = relations::wholes(class).and(list.priced());
    let whole = wholes.iter().max_by_key(|whole| whole.depth());
    let has_parts = !relations::parts(class).and(list.priced()).is_empty();
    !has_parts && whole.is_some_and(|whole| list.get(whole) == list.get(class))
}
