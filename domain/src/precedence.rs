//! Which row governs: rows of the platform with one name are one rule, and of those that match a
//! call only the most specific applies to it and counts it. A tenant's own rows never replace.

use crate::call::Dimensions;
use crate::error::{Error, Kind, Result};
use crate::limit::{Limit, ManagedBy};
use std::collections::HashMap;

/// Whether `other` takes precedence over `limit` where both match: an enabled platform row of the same
/// name that is more specific.
pub fn overrides(other: &Limit, limit: &Limit) -> bool {
    limit.managed_by == ManagedBy::Platform
        && other.managed_by == ManagedBy::Platform
        && other.enabled
        && other.filter.specificity() > limit.filter.specificity()
        && other.name == limit.name
}

/// The enabled platform rows of the same name that take precedence over `limit` where they match.
pub fn overriding<'a>(limit: &'a Limit, all: &'a [Limit]) -> impl Iterator<Item = &'a Limit> {
    all.iter().filter(move |other| overrides(other, limit))
}

/// The row that replaces `limit` for this call, if any.
pub fn replaced_by<'a>(limit: &'a Limit, all: &'a [Limit], call: &Dimensions) -> Option<&'a Limit> {
    overriding(limit, all).filter(|o| o.matches(call)).max_by_key(|o| o.filter.specificity())
}

/// Whether the row applies to the call and counts it.
pub fn governs(limit: &Limit, all: &[Limit], call: &Dimensions) -> bool {
    limit.matches(call) && replaced_by(limit, all, call).is_none()
}

/// The rows that apply to the call and count it.
pub fn governing<'a>(all: &'a [Limit], call: &'a Dimensions) -> impl Iterator<Item = &'a Limit> {
    all.iter().filter(|limit| governs(limit, all, call))
}

/// Refuses two rows that could both be the most specific for one call.
pub fn refuse_ties(all: &[Limit]) -> Result<()> {
    // Rows of two users or two tenants never meet, and there may be thousands.
    let mut rules: HashMap<_, Vec<&Limit>> = HashMap::new();
    for limit in all.iter().filter(|l| l.enabled && l.managed_by == ManagedBy::Platform) {
        let filter = &limit.filter;
        let rivals = rules
            .entry((&limit.name, filter.specificity(), filter.tenant_id, filter.user_id))
            .or_default();
        if let Some(rival) = rivals.iter().find(|rival| !rival.filter.disjoint(&limit.filter)) {
            return Err(tie_error(rival, limit));
        }
        rivals.push(limit);
    }
    Ok(())
}

/// Two enabled platform rows of one name that could govern the same call.
fn tie_error(a: &Limit, b: &Limit) -> Error {
    Error::new(
        Kind::CheckViolation,
        format!("two limits named \"{}\" could govern the same call", a.name),
    )
    .detail(format!("Rows {} and {} are equally specific and their filters overlap.", a.id, b.id))
    .hint("Change or disable the row that is there, or give one of them another name or a filter that excludes the other.")
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::filter::Filter;
    use crate::limit::Per;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn limit(id: i64, filter: Filter, managed_by: ManagedBy) -> Limit {
        Limit {
            id,
            name: "daily".into(),
            filter,
            per: vec![Per::User],
            managed_by,
            ..Limit::example()
        }
    }

    fn filters() -> impl Strategy<Value = Filter> {
        let name = |names: &'static [&'static str]| {
            prop::option::of(prop::sample::select(names).prop_map(str::to_owned))
        };
        (
            name(&["free", "pro"]),
            prop::option::of((1u128..3).prop_map(Uuid::from_u128)),
            prop::option::of((1u128..3).prop_map(Uuid::from_u128)),
            name(&["gpt-4o", "gpt-*", "*mini"]),
            name(&["chat", "search"]),
        )
            .prop_map(|(tier, tenant_id, user_id, model, feature)| Filter {
                tier,
                tenant_id,
                user_id,
                model,
                feature,
                ..Filter::default()
            })
    }

    fn calls() -> impl Strategy<Value = Dimensions> {
        (
            1u128..3,
            prop::option::of(1u128..3),
            prop::sample::select(vec!["free", "pro"]),
            prop::sample::select(vec!["gpt-4o", "gpt-4o-mini", "o3"]),
            prop::option::of(Just("chat")),
        )
            .prop_map(|(tenant, user, tier, model, feature)| Dimensions {
                tenant_id: Uuid::from_u128(tenant),
                user_id: user.map(Uuid::from_u128),
                tier: tier.into(),
                model: Some(model.into()),
                feature: feature.map(str::to_owned),
                ..Dimensions::default()
            })
    }

    proptest! {
        #[test]
        fn without_ties_at_most_one_row_of_a_name_governs_and_it_is_the_most_specific(
            filters in prop::collection::vec(filters(), 1..6), call in calls(),
        ) {
            let rows: Vec<_> = filters.into_iter().enumerate()
                .map(|(i, f)| limit(i as i64, f, ManagedBy::Platform)).collect();
            prop_assume!(refuse_ties(&rows).is_ok());
            let governing: Vec<_> = governing(&rows, &call).collect();
            prop_assert!(governing.len() <= 1);
            let best = rows.iter().filter(|l| l.matches(&call)).map(|l| l.filter.specificity()).max();
            prop_assert_eq!(governing.first().map(|l| l.filter.specificity()), best);
        }

        #[test]
        fn disjoint_filters_never_match_one_call(a in filters(), b in filters(), call in calls()) {
            let (a, b) = (limit(1, a, ManagedBy::Platform), limit(2, b, ManagedBy::Platform));
            if a.filter.disjoint(&b.filter) {
                prop_assert!(!(a.matches(&call) && b.matches(&call)));
            }
        }

        #[test]
        fn a_tenants_own_row_never_replaces(f in filters(), own in filters(), call in calls()) {
            let platform = limit(1, f, ManagedBy::Platform);
            let rows = vec![platform.clone(), limit(2, own, ManagedBy::Tenant)];
            let applies = governing(&rows, &call).any(|l| l.id == 1);
            prop_assert_eq!(applies, platform.matches(&call));
        }
    }

    #[test]
    fn a_rule_per_user_says_nothing_of_a_call_without_one() {
        let rule = limit(1, Filter::default(), ManagedBy::Platform);
        assert!(!rule.matches(&Dimensions::default()));
    }
}
