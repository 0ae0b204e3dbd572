//! Totals of months that are dropped from the ledger: rules of the period `total` go on counting them.
//!
//! Written in the transaction that drops the month, under a SHARE lock on its partition, so that every
//! snapshot sees the month or its totals; readers keep months in place before they take theirs
//! ([`keep_months`](crate::pg::lock::keep_months)). Unlike the rollup this cannot be made again, and is
//! dumped. It is by month and user, and without runs: what a single run spent in a dropped month is
//! forgotten. Of the attributes it keeps those that rules look at when the month goes.

use super::config;
use crate::pg::spi::{Arg, Snapshot, Spi};
use ai_limiter_domain::grain;
use ai_limiter_domain::{Limit, Timestamp, error::Result};
use serde_json::json;

/// Writes the totals of the partition that reaches from `month` to `next`. Call with a lock on it that
/// keeps rows out, before it is dropped.
pub fn keep(spi: &Spi, month: Timestamp, next: Timestamp) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_usage_totals (month, tenant_id, user_id, tier, \
            provider, model, feature, api_key_id, attributes, requests, input_tokens, \
            output_tokens, cost_usd) \
        SELECT $1, u.tenant_id, u.user_id, u.tier, u.provider, u.model, u.feature, u.api_key_id, \
            coalesce((SELECT jsonb_object_agg(k.key, u.attributes -> k.key) \
                FROM jsonb_array_elements_text($3) k(key) WHERE u.attributes ? k.key), '{}'), \
            sum(u.requests), sum(u.input_tokens), sum(u.output_tokens), sum(u.cost_usd) \
        FROM ai_limiter.ai_usage u WHERE u.created_at >= $1 AND u.created_at < $2 \
        GROUP BY u.tenant_id, u.user_id, u.tier, u.provider, u.model, u.feature, u.api_key_id, 9";
    let limits = config::limits(spi, &Snapshot::latest())?;
    let keys = Arg::Jsonb(json!(grain::attribute_keys(&limits)).to_string());
    spi.write(SQL, &[month.into(), next.into(), keys], |_| Ok(()))?;
    Ok(())
}

/// Nothing that was made from here on may be dropped, whatever the retention: a rolling limit or a
/// running week or month still counts it. Totals are for all time only.
pub fn needed_from(limits: &[Limit], now: Timestamp) -> Timestamp {
    limits
        .iter()
        .filter(|limit| limit.period != ai_limiter_domain::Period::Total)
        .map(|limit| limit.period.earliest(now))
        .min()
        .unwrap_or(now)
}
