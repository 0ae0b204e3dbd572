//! What a call is expected to cost: what the caller says, else tokens at the model's price.

use super::configuration::{Configuration, Decided};
use crate::ledger::usage::PriceSource;
use crate::settings;
use ai_limiter_domain::call::MAX_COUNT;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::pricing::{PriceSource as Priced, Quantities};
use ai_limiter_domain::{Call, Timestamp};

/// The size that a call is held for.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// `cost_usd` is `None` when the call names a model without a price, or neither model nor cost.
    pub size: Size,
    pub source: Option<PriceSource>,
    /// Which row of `ai_prices`.
    pub price_id: Option<i64>,
    /// The catalogue's name of the model.
    pub listed_name: Option<String>,
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
    let told = |source| Estimate { size, source, price_id: None, listed_name: None };
    if size.cost_usd.is_some() {
        return Ok(told(Some(PriceSource::Caller)));
    }
    if call.requested_model.is_none() {
        return Ok(told(None));
    }
    let prices = config.prices(call, at)?;
    let quantities = Quantities::of_tokens(
        Some(size.input_tokens.unwrap_or(0)),
        Some(size.output_tokens.unwrap_or(0)),
    );
    let Some(priced) = prices.of(&quantities, call.requests, at, &[])? else {
        return Ok(told(None));
    };
    size.cost_usd = Some(priced.cost_usd());
    Ok(match priced.source {
        Priced::OwnPrice(id) => Estimate {
            size,
            source: Some(PriceSource::AiPrices),
            price_id: Some(id),
            listed_name: None,
        },
        Priced::Catalog => Estimate {
            size,
            source: Some(PriceSource::Catalog),
            price_id: None,
            listed_name: prices.listed_name().map(str::to_owned),
        },
    })
}
