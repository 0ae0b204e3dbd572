//! What was refused: rows of `ai_denials`. Each refusal appends one, so that refused calls do not
//! wait for each other; `refresh_ai_counters()` merges them by the minute.

use crate::pg::spi::{Arg, Spi};
use ai_limiter_domain::verdict::Verdict;
use ai_limiter_domain::window::MINUTE;
use ai_limiter_domain::{Dimensions, Timestamp, error::Result};

pub fn insert(spi: &Spi, call: &Dimensions, verdict: &Verdict, now: Timestamp) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_denials (minute, limit_name, limit_id, tenant_id, \
        user_id, model, feature, reason, estimated_cost_usd) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, 0))";
    let minute = now.0 - now.0.rem_euclid(MINUTE);
    // Suspended and the like were decided by no limit.
    let binding = verdict.binding.as_ref();
    let args = [
        Timestamp(minute).into(),
        binding.map(|b| b.public_name.as_str()).into(),
        Arg::Int(binding.map(|b| b.limit_id)),
        call.tenant_id.into(),
        Arg::Uuid(call.user_id),
        call.model.as_deref().into(),
        call.feature.as_deref().into(),
        verdict.reason.code().into(),
        Arg::Numeric(verdict.estimated_cost_usd),
    ];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// Merges the rows of past minutes that describe the same.
pub fn merge(spi: &Spi, now: Timestamp) -> Result<()> {
    const SQL: &str = "WITH taken AS (DELETE FROM ai_limiter.ai_denials d USING \
            (SELECT minute, limit_name, limit_id, tenant_id, user_id, model, feature, reason \
             FROM ai_limiter.ai_denials WHERE minute < $1 \
             GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING pg_catalog.count(*) > 1) g \
            WHERE d.minute = g.minute AND d.tenant_id = g.tenant_id AND d.reason = g.reason \
              AND d.limit_name IS NOT DISTINCT FROM g.limit_name \
              AND d.limit_id IS NOT DISTINCT FROM g.limit_id \
              AND d.user_id IS NOT DISTINCT FROM g.user_id \
              AND d.model IS NOT DISTINCT FROM g.model \
              AND d.feature IS NOT DISTINCT FROM g.feature \
            RETURNING d.*) \
        INSERT INTO ai_limiter.ai_denials (minute, limit_name, limit_id, tenant_id, user_id, model, \
            feature, reason, denials, estimated_cost_usd) \
        SELECT minute, limit_name, limit_id, tenant_id, user_id, model, feature, reason, \
            pg_catalog.sum(denials), pg_catalog.sum(estimated_cost_usd) \
        FROM taken GROUP BY 1, 2, 3, 4, 5, 6, 7, 8";
    let minute = now.0 - now.0.rem_euclid(MINUTE);
    spi.write(SQL, &[Timestamp(minute).into()], |_| Ok(()))?;
    Ok(())
}
