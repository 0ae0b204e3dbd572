//! What a call is expected to cost: what the caller says, else tokens at the model's price.

use super::configuration::{Configuration, Decided};
use crate::ledger::usage::PriceSource;
use crate::settings;
use ai_limiter_domain::call::MAX_COUNT;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{Call, Timestamp};

/// The size that a call is held for.
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// `cost_usd` is `None` when the call names a model without a price, or neither model nor cost.
    pub size: Size,
    pub source: Option<PriceSource>,
    pub price_id: Option<i64>,
}

impl Estimate {
    pub fn is_unpriced(&self, call: &Call) -> bool {
        call.requested_model.is_some() && self.size.cost_usd.is_none()
    }
}

/// A given cost is the estimate, whatever the model. Output tokens that a call to a model does not
/// bound are `ai_limiter.default_output_tokens` for each request; input tokens that it does not name cost nothing yet.
pub fn estimate(
    config: &(impl Configuration + ?Sized),
    call: &Call,
    at: Timestamp,
) -> Decided<Estimate> {
    let mut size = Size {
        requests: call.requests,
        input_tokens: call.input_tokens,
        output_tokens: call.output_tokens,
        cost_usd: call.cost_usd,
    };
    if call.requested_model.is_some() && size.output_tokens.is_none() && size.cost_usd.is_none() {
        let each = i64::from(settings::DEFAULT_OUTPUT_TOKENS.get());
        size.output_tokens = Some(each.saturating_mul(call.requests).min(MAX_COUNT));
    }
    if size.cost_usd.is_some() {
        return Ok(Estimate { size, source: Some(PriceSource::Caller), price_id: None });
    }
    let price = match call.requested_model {
        Some(_) => config.price(call, at)?,
        None => None,
    };
    if let Some(price) = &price {
        let (input, output) = (size.input_tokens.unwrap_or(0), size.output_tokens.unwrap_or(0));
        size.cost_usd = Some(price.cost(call.requests, input, output)?);
    }
    let source = price.as_ref().map(|_| PriceSource::AiPrices);
    Ok(Estimate { size, source, price_id: price.map(|p| p.id) })
}
