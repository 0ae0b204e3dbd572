//! What a call is expected to cost: what the caller says, else tokens at the model's price.
//!
//! Of its output tokens, what such calls are likely to return, or the most that this one may: which, and
//! why, is chosen in [`ai_limiter_domain::estimates::output`]. An estimate has both. It begins with the
//! likely size; whoever finds a limit nearly used up turns to [`Estimate::at_most`].

use super::configuration::{Configuration, Decided};
use crate::counters::Reading;
use crate::ledger::prices::Prices;
use crate::ledger::usage::PriceSource;
use crate::settings;
use ai_limiter_domain::call::MAX_COUNT;
use ai_limiter_domain::estimates::output::{Basis, Known, Output, cap_of_likely, is_last_part};
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::pricing::{PriceSource as Priced, Quantities};
use ai_limiter_domain::{Action, Amount, Call, Limit, Timestamp, error::Result};

/// What an estimate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A call that is about to be made: its output tokens are the caller's maximum.
    Hold,
    /// One whose tokens are settled, or that the caller has named a total for.
    Exactly,
}

/// The size that a call is held for.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// `cost_usd` is `None` when the call names a model without a price, or neither model nor cost.
    pub size: Size,
    /// The most that it may come to; tokens or cost are `None` where nothing bounds them.
    pub most: Size,
    pub source: Option<PriceSource>,
    /// Which row of `ai_prices`.
    pub price_id: Option<i64>,
    /// The catalogue's name of the model.
    pub listed_name: Option<String>,
    pub basis: Basis,
    /// From how many calls it was learned.
    pub calls: u64,
}

impl Estimate {
    pub fn is_unpriced(&self, call: &Call) -> bool {
        call.requested_model.is_some() && self.size.cost_usd.is_none()
    }

    /// The same call, held for the most that it may come to.
    pub fn at_most(&self) -> Self {
        Self { size: self.most_size(), ..self.clone() }
    }

    fn most_size(&self) -> Size {
        Size {
            output_tokens: self.most.output_tokens.or(self.size.output_tokens),
            cost_usd: self.most.cost_usd.or(self.size.cost_usd),
            ..self.size
        }
    }

    /// What it adds to a limit that denies, where it may come to more.
    fn likely_of(&self, limit: &Limit) -> Option<Amount> {
        let likely = limit.increment(&self.size)?;
        let most = limit.increment(&self.most_size())?;
        (limit.action == Action::Deny && most > likely).then_some(likely)
    }

    /// Whether it is held for less than it may come to although a limit is nearly used up.
    pub fn is_too_little<'a>(
        &self,
        counters: impl Iterator<Item = (&'a Limit, Reading)>,
    ) -> Result<bool> {
        for (limit, reading) in counters {
            let Some(likely) = self.likely_of(limit) else { continue };
            let taken = reading.used.checked_add(reading.held)?;
            if is_last_part(limit.amount, last_part(), taken, likely) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How far a counter may go by such a hold: to the limit, and while it is held for less than it may
    /// come to, to the limit's last part.
    pub fn cap(&self, limit: &Limit) -> Amount {
        match self.likely_of(limit) {
            Some(_) => cap_of_likely(limit.amount, last_part()),
            None => limit.amount,
        }
    }
}

/// In millionths: amounts are integers, and what is compared with them is too.
fn last_part() -> u32 {
    (settings::FULL_HOLD_SHARE.get() * 1_000_000.0) as u32
}

/// A given cost is the estimate, whatever the model; so are tokens that are settled. Input tokens that it
/// does not name cost nothing yet.
pub fn estimate(
    config: &(impl Configuration + ?Sized),
    call: &Call,
    purpose: Purpose,
    at: Timestamp,
) -> Decided<Estimate> {
    let given = Size {
        requests: call.requests,
        input_tokens: call.input_tokens,
        output_tokens: call.output_tokens,
        cost_usd: call.cost_usd,
    };
    let told = |basis, source| Estimate {
        size: given,
        most: given,
        source,
        price_id: None,
        listed_name: None,
        basis,
        calls: 0,
    };
    if given.cost_usd.is_some() {
        return Ok(told(Basis::GivenCost, Some(PriceSource::Caller)));
    }
    if call.requested_model.is_none() {
        return Ok(told(Basis::Reported, None));
    }
    let prices = config.prices(call, at)?;
    let output = match (purpose, given.output_tokens) {
        (Purpose::Exactly, Some(tokens)) => {
            Output { likely: tokens, at_most: Some(tokens), basis: Basis::Reported, calls: 0 }
        }
        _ => likely_output(config, call, &prices)?,
    };
    let priced = |output_tokens: i64| {
        let input_tokens = Some(given.input_tokens.unwrap_or(0));
        let quantities = Quantities::of_tokens(input_tokens, Some(output_tokens));
        prices.of(&quantities, call.requests, at, &[])
    };
    let likely = priced(output.likely)?;
    let likely_cost = likely.as_ref().map(|priced| priced.cost_usd());
    let size = Size { output_tokens: Some(output.likely), cost_usd: likely_cost, ..given };
    let most_cost = match output.at_most {
        Some(most) if most == output.likely => likely_cost,
        // One that no charge can come to bounds nothing.
        Some(most) => priced(most).ok().flatten().map(|priced| priced.cost_usd()),
        None => None,
    };
    let (source, price_id, listed_name) = match likely.map(|priced| priced.source) {
        None => (None, None, None),
        Some(Priced::OwnPrice(id)) => (Some(PriceSource::AiPrices), Some(id), None),
        Some(Priced::Catalog) => {
            (Some(PriceSource::Catalog), None, prices.listed_name().map(str::to_owned))
        }
    };
    Ok(Estimate {
        size,
        most: Size { output_tokens: output.at_most, cost_usd: most_cost, ..given },
        source,
        price_id,
        listed_name,
        basis: output.basis,
        calls: output.calls,
    })
}

fn likely_output(
    config: &(impl Configuration + ?Sized),
    call: &Call,
    prices: &Prices,
) -> Decided<Output> {
    let learned = match call.dimensions.model.as_deref() {
        Some(model) => config.learned(model, call.dimensions.feature.as_deref())?,
        None => None,
    };
    Ok(Output::of(&Known {
        requests: call.requests,
        caller_maximum: call.output_tokens,
        model_maximum: prices.max_output_tokens().map(|n| n.min(MAX_COUNT)),
        learned,
        default: i64::from(settings::DEFAULT_OUTPUT_TOKENS.get()),
    }))
}
