//! What was refused: rows of `ai_denials`, a row a minute, subject and reason.
//!
//! Where the worker runs, denials wait in shared memory ([`waiting`]) until it writes them, within about
//! a second. Elsewhere each appends a row, so that refused calls do not wait for each other, and is lost
//! with a rollback; `refresh_ai_counters()` merges them by the minute.

pub mod waiting;

use crate::pg::spi::{Arg, Spi};
use ai_limiter_domain::verdict::Verdict;
use ai_limiter_domain::window::MINUTE;
use ai_limiter_domain::{Amount, Dimensions, Timestamp, error::Result};
use std::borrow::Cow;
use uuid::Uuid;

/// Some refusals of one minute that are alike.
pub struct Denial {
    pub minute: Timestamp,
    pub limit_name: Option<String>,
    pub limit_id: Option<i64>,
    pub tenant_id: Uuid,
    pub user_id: Option<Uuid>,
    pub model: Option<String>,
    pub feature: Option<String>,
    pub reason: Cow<'static, str>,
    pub denials: i64,
    pub estimated_cost_usd: Amount,
}

impl Denial {
    pub fn of(call: &Dimensions, verdict: &Verdict, now: Timestamp) -> Self {
        // Suspended and the like were decided by no limit.
        let binding = verdict.binding.as_ref();
        Self {
            minute: Timestamp(now.0 - now.0.rem_euclid(MINUTE)),
            limit_name: binding.map(|b| b.public_name.clone().into_owned()),
            limit_id: binding.map(|b| b.limit_id),
            tenant_id: call.tenant_id,
            user_id: call.user_id,
            model: call.model.clone(),
            feature: call.feature.clone(),
            reason: Cow::Borrowed(verdict.reason.code()),
            denials: 1,
            estimated_cost_usd: verdict.estimated_cost_usd.unwrap_or_default(),
        }
    }
}

pub fn insert(spi: &Spi, denial: &Denial) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_denials (minute, limit_name, limit_id, tenant_id, \
        user_id, model, feature, reason, denials, estimated_cost_usd) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let args = [
        denial.minute.into(),
        denial.limit_name.as_deref().into(),
        Arg::Int(denial.limit_id),
        denial.tenant_id.into(),
        Arg::Uuid(denial.user_id),
        denial.model.as_deref().into(),
        denial.feature.as_deref().into(),
        denial.reason.as_ref().into(),
        Arg::Int(Some(denial.denials)),
        Arg::Numeric(Some(denial.estimated_cost_usd)),
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
