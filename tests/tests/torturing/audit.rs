//! What must hold after a round, when nothing is open any more.

use std::collections::BTreeMap;

use ai_limiter_tests::calls::{Session, agreed, assert_no_drift};
use postgres::Client;

use super::client::{Fate, Log};
use super::{CAPS, CHURNING, FREE, MONOTONE};
use crate::people::id;

/// Caps, logs and counters.
pub fn audit(admin: &mut Client, logs: &[Log], users: u32) {
    assert_no_cap_is_exceeded(admin);
    assert_all_that_was_answered_is_there(admin, logs);
    // First what the counters have come to; then, as nobody may have asked since a crash, loaded ones.
    assert_no_drift(admin);
    for tenant in [CHURNING, MONOTONE, FREE] {
        for user in 1..=users {
            for run in ["NULL", "'run-1'", "'run-3'"] {
                let (tenant, user) = (id(tenant), id(user));
                let of = format!("'{user}', '{tenant}', run_id => {run}, cost_usd => 1");
                agreed(admin, &of);
            }
        }
    }
    assert_no_drift(admin);
}

fn assert_no_cap_is_exceeded(admin: &mut Client) {
    for (tenant, metric, subject, cap) in CAPS {
        let exceeded = admin.value(&format!(
            "SELECT coalesce(string_agg(format('%s: %s', subject, total), ', '), '') FROM (
                SELECT subject, sum(value) AS total FROM (
                    SELECT {subject} AS subject, {metric} AS value, tenant_id
                    FROM ai_limiter.ai_usage
                    UNION ALL SELECT {subject}, {metric}, tenant_id
                    FROM ai_limiter.ai_reservations WHERE state = 'open') one
                WHERE tenant_id = '{}' GROUP BY subject HAVING sum(value) > {cap}) over",
            id(tenant)
        ));
        assert_eq!(exceeded, "", "{metric} by {subject} of tenant {tenant} exceeds {cap}");
    }
}

/// What the tables say of one reservation.
#[derive(Debug, Default)]
struct Told {
    holds: Vec<(String, u64)>,
    settled: Vec<u64>,
}

fn tables(admin: &mut Client) -> BTreeMap<String, Told> {
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let rows = admin.rows(&format!(
        "SELECT id, state, (cost_usd * 1000000)::bigint FROM ai_limiter.ai_reservations
            WHERE tenant_id IN ('{0}', '{1}')
         UNION ALL SELECT id, 'settled', (cost_usd * 1000000)::bigint FROM ai_limiter.ai_usage
            WHERE tenant_id IN ('{0}', '{1}')",
        id(CHURNING),
        id(MONOTONE)
    ));
    for row in rows.expect("the tables can be read") {
        let text = |column| row.get(column).expect("not null").to_owned();
        let cost = text(2).parse().expect("a number");
        let told = told.entry(text(0)).or_default();
        match text(1) {
            state if state == "settled" => told.settled.push(cost),
            state => told.holds.push((state, cost)),
        }
    }
    told
}

fn assert_all_that_was_answered_is_there(admin: &mut Client, logs: &[Log]) {
    let mut told = tables(admin);
    for (number, log) in logs.iter().enumerate() {
        for (id, fate) in &log.holds {
            let told = told.remove(id).unwrap_or_default();
            let is_right = match fate {
                Fate::Open(cost) => {
                    told.holds == [("open".to_owned(), *cost)] && told.settled.is_empty()
                }
                Fate::Settled(cost) => told.holds.is_empty() && told.settled == [*cost],
                Fate::Released => {
                    told.settled.is_empty()
                        && matches!(&told.holds[..], [(state, _)] if state == "released")
                }
                Fate::Unsure => told.holds.len() + told.settled.len() <= 1,
            };
            assert!(is_right, "client {number} was told {fate:?} of {id}, and there is {told:?}");
        }
    }
    let unanswered: u64 = logs.iter().map(|log| log.unanswered).sum();
    let unknown: Vec<_> = told.iter().collect();
    assert!(
        unknown.len() as u64 <= unanswered,
        "{} reservations that nobody was told of, for {unanswered} without an answer: {unknown:?}",
        unknown.len()
    );
}
