//! Charges: rows of `ai_usage`. Append-only; nothing here updates one.

use super::{holds, id};
use crate::pg::spi::{Arg, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::{Amount, Dimensions, Timestamp, Window, error::Result};
use uuid::Uuid;

/// Where a charge's cost came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceSource {
    Caller,
    AiPrices,
    /// Nothing better was known than what had been held.
    Estimate,
}

impl PriceSource {
    pub fn name(self) -> &'static str {
        match self {
            PriceSource::Caller => "caller",
            PriceSource::AiPrices => "ai_prices",
            PriceSource::Estimate => "estimate",
        }
    }
}

pub struct Charge {
    pub id: Uuid,
    pub dimensions: Dimensions,
    pub response_model: Option<String>,
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cost_usd: Amount,
    pub estimated_cost_usd: Option<Amount>,
    pub price_source: PriceSource,
    pub created_at: Timestamp,
}

/// What an earlier settle booked.
pub struct Settled {
    pub tenant_id: Uuid,
    pub user_id: Option<Uuid>,
    pub cost_usd: Amount,
    pub estimated_cost_usd: Option<Amount>,
}

/// The trigger stamps `recorded_at`.
pub fn insert(spi: &Spi, charge: &Charge) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_usage (id, tenant_id, user_id, tier, provider, \
        model, response_model, feature, api_key_id, run_id, attributes, requests, input_tokens, \
        output_tokens, cost_usd, estimated_cost_usd, price_source, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
    let d = &charge.dimensions;
    let args = [
        charge.id.into(),
        d.tenant_id.into(),
        Arg::Uuid(d.user_id),
        d.tier.as_str().into(),
        d.provider.as_deref().into(),
        d.model.as_deref().into(),
        charge.response_model.as_deref().into(),
        d.feature.as_deref().into(),
        d.api_key_id.as_deref().into(),
        d.run_id.as_deref().into(),
        holds::attributes(d),
        Arg::Int(Some(charge.requests)),
        Arg::Int(Some(charge.input_tokens)),
        Arg::Int(Some(charge.output_tokens)),
        Arg::Numeric(Some(charge.cost_usd)),
        Arg::Numeric(charge.estimated_cost_usd),
        charge.price_source.name().into(),
        charge.created_at.into(),
    ];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// Finds a charge by its reservation's id, in the partition that the id names.
pub fn find(spi: &Spi, id: Uuid) -> Result<Option<Settled>> {
    const SQL: &str = "SELECT tenant_id, user_id, cost_usd, estimated_cost_usd \
        FROM ai_limiter.ai_usage WHERE id = $1 AND created_at >= $2 AND created_at < $3";
    let Some(Window { start: Some(start), end: Some(end) }) = id::instant(id) else {
        return Ok(None);
    };
    let rows = spi.read(SQL, &[id.into(), start.into(), end.into()], |row| {
        Ok(Settled {
            tenant_id: required(row.uuid(1), "tenant_id")?,
            user_id: row.uuid(2),
            cost_usd: required(row.amount(3)?, "cost_usd")?,
            estimated_cost_usd: row.amount(4)?,
        })
    })?;
    Ok(rows.into_iter().next())
}
