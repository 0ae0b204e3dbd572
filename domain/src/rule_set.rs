//! All rules, prepared for many calls: which of them govern a call is found without looking at the rows
//! of other tenants and users, of which there may be thousands.
//!
//! Says exactly what [`precedence::governing`] says of the same rows, in
//! the same order.

use crate::call::Dimensions;
use crate::filter::Condition;
use crate::limit::Limit;
use crate::precedence;
use std::collections::HashMap;
use uuid::Uuid;

#[derive(Debug, Default)]
pub struct RuleSet {
    limits: Vec<Limit>,
    conditions: Vec<Vec<Condition>>,
    /// Equal for rows of one name.
    names: Vec<usize>,
    /// Rows that name neither a tenant nor a user.
    general: Vec<usize>,
    /// Rows that name a tenant and no user.
    by_tenant: HashMap<Uuid, Vec<usize>>,
    by_user: HashMap<Uuid, Vec<usize>>,
}

impl RuleSet {
    /// `limits` are the enabled rows, in the order in which they are to be judged.
    pub fn new(limits: Vec<Limit>) -> Self {
        let conditions = limits.iter().map(Limit::conditions).collect();
        let mut first = HashMap::new();
        let names = limits.iter().enumerate();
        let names =
            names.map(|(i, limit)| *first.entry(limit.name.as_str()).or_insert(i)).collect();
        let mut set = Self { conditions, names, ..Self::default() };
        for (index, limit) in limits.iter().enumerate() {
            match (limit.filter.user_id, limit.filter.tenant_id) {
                (Some(user), _) => set.by_user.entry(user).or_default().push(index),
                (None, Some(tenant)) => set.by_tenant.entry(tenant).or_default().push(index),
                (None, None) => set.general.push(index),
            }
        }
        set.limits = limits;
        set
    }

    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// The numbers of the rows that apply to the call and count it.
    pub fn governing(&self, call: &Dimensions) -> Vec<usize> {
        let none = Vec::new();
        let of_tenant = self.by_tenant.get(&call.tenant_id).unwrap_or(&none);
        let of_user = call.user_id.and_then(|user| self.by_user.get(&user)).unwrap_or(&none);
        let mut matching = Vec::with_capacity(self.general.len() + of_tenant.len());
        for index in self.general.iter().chain(of_tenant).chain(of_user) {
            if self.limits[*index].enabled
                && self.conditions[*index].iter().all(|condition| condition.holds(call))
            {
                matching.push(*index);
            }
        }
        if !of_tenant.is_empty() || !of_user.is_empty() {
            matching.sort_unstable();
        }
        // What matches the call and takes precedence is itself among those that match.
        let overridden = |index: &usize| {
            matching.iter().any(|other| {
                self.names[*other] == self.names[*index]
                    && precedence::overrides(&self.limits[*other], &self.limits[*index])
            })
        };
        if matching.iter().any(overridden) {
            return matching.iter().copied().filter(|index| !overridden(index)).collect();
        }
        matching
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::filter::Filter;
    use crate::limit::{ManagedBy, Per};
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = Option<Uuid>> {
        prop::option::of((1..4_u128).prop_map(Uuid::from_u128))
    }

    fn texts() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop_oneof![Just("a".to_owned()), Just("b".to_owned())])
    }

    fn limits() -> impl Strategy<Value = Vec<Limit>> {
        let row = (ids(), ids(), texts(), texts(), 0..3_u8, any::<bool>(), any::<bool>());
        prop::collection::vec(row, 0..12).prop_map(|rows| {
            let make =
                |(id, (tenant_id, user_id, tier, feature, name, platform, per_user))| Limit {
                    id,
                    name: format!("rule {name}"),
                    filter: Filter { tenant_id, user_id, tier, feature, ..Filter::default() },
                    per: if per_user { vec![Per::User] } else { vec![] },
                    managed_by: if platform { ManagedBy::Platform } else { ManagedBy::Tenant },
                    ..Limit::example()
                };
            (0..).zip(rows).map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_look_at_every_row_finds(
            limits in limits(), tenant in ids(), user_id in ids(), tier in texts(), feature in texts(),
        ) {
            let call = Dimensions {
                tenant_id: tenant.unwrap_or_default(),
                user_id,
                tier: tier.unwrap_or_default(),
                feature,
                ..Dimensions::default()
            };
            let set = RuleSet::new(limits.clone());
            let found: Vec<i64> =
                set.governing(&call).into_iter().map(|i| set.limits()[i].id).collect();
            let plain: Vec<i64> = precedence::governing(&limits, &call).map(|l| l.id).collect();
            prop_assert_eq!(found, plain);
        }
    }
}
