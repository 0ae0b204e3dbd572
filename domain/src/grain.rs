//! How finely a rollup must tell rows apart for a rule to be summed from it: the dimensions that the
//! rule's conditions look at, its own, its subject's and those of the rows that override it.
//!
//! Each rule gets the coarsest rollup that serves it. One rollup by every dimension of every rule
//! would hardly be smaller than the ledger: by user, 10,000 users who call a thousand times a month
//! fill 10 million quarter-hours with one row each.

use crate::filter::{Column, Condition};
use crate::limit::{Limit, Metric, Per, Period};
use crate::precedence;
use crate::window::{Timestamp, Unit};
use std::collections::{BTreeMap, BTreeSet};

const TENANT: &str = "tenant";
const USER: &str = "user";
const RUN: &str = "run";

/// Dimensions by the names that `per` has for them, and `tier`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grain(BTreeSet<String>);

impl Grain {
    pub fn of<'a>(conditions: impl IntoIterator<Item = &'a Condition>) -> Self {
        let mut names = BTreeSet::new();
        for condition in conditions {
            match condition {
                Condition::Tenant(_) => names.insert(TENANT.to_owned()),
                Condition::User(_) | Condition::HasUser => names.insert(USER.to_owned()),
                Condition::Is(Column::RunId, _)
                | Condition::Like(Column::RunId, _)
                | Condition::Has(Column::RunId) => names.insert(RUN.to_owned()),
                Condition::Is(column, _) | Condition::Like(column, _) | Condition::Has(column) => {
                    names.insert(column.name().to_owned())
                }
                Condition::Attributes(wanted) => {
                    names.extend(wanted.keys().map(|key| format!("attribute:{key}")));
                    false
                }
                Condition::HasAttribute(key) => names.insert(format!("attribute:{key}")),
            };
        }
        Self(names)
    }

    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether every counter of `other` can be summed from rows of this grain.
    pub fn covers(&self, other: &Grain) -> bool {
        other.0.is_subset(&self.0)
    }

    /// Users and runs are as many as the ledger is long, and it has indexes by them.
    pub fn is_rolled_up(&self) -> bool {
        !self.0.contains(USER) && !self.0.contains(RUN)
    }

    /// The keys of attributes among the dimensions.
    pub fn attribute_keys(&self) -> impl Iterator<Item = &str> {
        self.names().filter_map(|name| name.strip_prefix("attribute:"))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What every counter of the rule needs, whatever its subject.
    fn of_limit(limit: &Limit, all: &[Limit]) -> Self {
        let mut conditions = limit.conditions();
        for other in precedence::overriding(limit, all) {
            if !other.filter.disjoint(&limit.filter) {
                conditions.extend(other.conditions());
            }
        }
        let mut grain = Self::of(&conditions);
        if limit.per.contains(&Per::Tenant) {
            grain.0.insert(TENANT.to_owned());
        }
        grain
    }
}

/// Whether the sums of such a rule come from quarter-hours. A minute and the buckets of a rolling
/// limit are finer; what is open now is no history.
pub fn is_by_quarters(limit: &Limit) -> bool {
    limit.metric != Metric::Concurrent
        && match limit.period {
            Period::Calendar(unit) => unit != Unit::Minute,
            Period::Total => true,
            Period::Rolling(_) => false,
        }
}

/// The grains that these rules need, each with the instant from which on a window may reach.
pub fn wanted(limits: &[Limit], now: Timestamp) -> BTreeMap<Grain, Timestamp> {
    let mut wanted = BTreeMap::new();
    for limit in limits.iter().filter(|limit| limit.enabled && is_by_quarters(limit)) {
        let grain = Grain::of_limit(limit, limits);
        if grain.is_rolled_up() {
            let reach = limit.period.earliest(now);
            wanted
                .entry(grain)
                .and_modify(|r: &mut Timestamp| *r = (*r).min(reach))
                .or_insert(reach);
        }
    }
    wanted
}

/// The attributes that any of these rules looks at.
pub fn attribute_keys(limits: &[Limit]) -> BTreeSet<String> {
    let conditions: Vec<Condition> = limits.iter().flat_map(Limit::conditions).collect();
    Grain::of(&conditions).attribute_keys().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::filter::Filter;

    use uuid::Uuid;

    fn limit(filter: Filter, per: Vec<Per>, period: Period) -> Limit {
        Limit { filter, per, period, ..Limit::example() }
    }

    fn names(limits: &[Limit]) -> Vec<String> {
        let join = |grain: &Grain| grain.names().collect::<Vec<_>>().join(",");
        wanted(limits, Timestamp(0)).keys().map(join).collect()
    }

    const MONTH: Period = Period::Calendar(Unit::Month);

    #[test]
    fn a_rule_needs_what_its_filter_its_subject_and_its_overriding_rows_look_at() {
        let free = Filter { tier: Some("free".into()), ..Filter::default() };
        let of_tenant = Filter { tenant_id: Some(Uuid::from_u128(1)), ..Filter::default() };
        let team = Per::Attribute("team".into());
        assert_eq!(names(&[limit(Filter::default(), vec![], MONTH)]), [""]);
        assert_eq!(names(&[limit(free, vec![team], MONTH)]), ["attribute:team,tier"]);
        assert_eq!(names(&[limit(Filter::default(), vec![Per::Tenant], MONTH)]), ["tenant"]);
        let both = [limit(Filter::default(), vec![], MONTH), limit(of_tenant, vec![], MONTH)];
        assert_eq!(names(&both), ["tenant"], "the tenant's row overrides the other");
    }

    #[test]
    fn users_runs_minutes_and_rolling_limits_are_left_to_the_ledger() {
        for (per, period) in [
            (vec![Per::User], MONTH),
            (vec![Per::Run], Period::Total),
            (vec![], Period::Calendar(Unit::Minute)),
            (vec![], Period::Rolling(crate::rolling::Interval(3_600_000_000))),
        ] {
            assert!(names(&[limit(Filter::default(), per, period)]).is_empty());
        }
    }

    #[test]
    fn a_grain_reaches_as_far_back_as_the_longest_of_its_rules() {
        let rules = [
            limit(Filter::default(), vec![], Period::Calendar(Unit::Day)),
            limit(Filter::default(), vec![], Period::Total),
        ];
        let reach = wanted(&rules, Timestamp(0));
        assert_eq!(reach[&Grain::default()], Period::Total.earliest(Timestamp(0)));
    }
}
