//! What a call that has run comes to: what is paid, what the list says, what the tenant is charged, and
//! the line items of it.
//!
//! A cost that the caller names is what is paid. Else what was used is priced at the time of the call;
//! where not all of it has a price, what the provider says that it cost counts; where that is not known
//! either, what had been held: an interrupted call was not free.
//! Pure but for the prices, which are read through the caller's configuration.

use crate::ledger::prices::Prices;
use crate::ledger::usage::{Amounts, PriceSource};
use ai_limiter_domain::pricing::{self, Context, LineItem, LineItems, Priced, Quantities, priced};
use ai_limiter_domain::{Amount, Timestamp, error::Result};
use std::fmt::Write;

/// What a charge comes to.
pub struct Costs {
    pub cost_usd: Amount,
    pub amounts: Amounts,
    pub source: PriceSource,
    /// JSON.
    pub line_items: String,
}

/// What was used, and when.
pub struct Used<'a> {
    pub quantities: &'a Quantities,
    pub requests: i64,
    pub at: Timestamp,
    pub context: &'a Context<'a>,
    /// What the provider says that it cost.
    pub reported_cost_usd: Option<Amount>,
}

/// What was used at these prices; `None` when they say nothing of it.
pub fn priced(prices: &Prices, used: &Used) -> Result<Option<Priced>> {
    if used.quantities.is_empty() {
        return Ok(None);
    }
    prices.of(used.quantities, used.requests, used.at, used.context)
}

/// What it costs: `priced` by these prices. `told` is what the caller says that it cost, `held` what had
/// been held for it; `None` when nothing tells.
pub fn costs(
    (prices, priced): (&Prices, Option<Priced>),
    used: &Used,
    told: Option<Amount>,
    held: Option<Amount>,
) -> Result<Option<Costs>> {
    // A price prices the call, if it prices all of it.
    let has_all =
        |priced: &&Priced| priced.items.unpriced.is_empty() || used.reported_cost_usd.is_none();
    let (cost_usd, source, class) = match (told, priced.as_ref().filter(has_all), held) {
        (Some(cost), ..) => (cost, PriceSource::Caller, "reported_cost"),
        (None, Some(priced), _) => return Ok(Some(of_priced(priced))),
        (None, None, held) => match (used.reported_cost_usd, held) {
            (Some(cost), _) => (cost, PriceSource::Provider, "reported_cost"),
            (None, Some(cost)) => (cost, PriceSource::Estimate, "estimated_cost"),
            (None, None) => return Ok(None),
        },
    };
    let list_cost_usd = priced.as_ref().map_or(cost_usd, Priced::list_cost_usd);
    let charge_usd = priced::charge(cost_usd, prices.markup_factor())?;
    let mut line_items = format!(
        r#"[{{"class":"{class}","quantity":1,"unit_price_usd":{cost_usd},"price_source":"{}","cost_usd":{cost_usd}"#,
        source.name()
    );
    if list_cost_usd != cost_usd {
        let _ = write!(
            line_items,
            r#","list_unit_price_usd":{list_cost_usd},"list_cost_usd":{list_cost_usd}"#
        );
    }
    line_items.push_str("}]");
    let amounts = Amounts { list_cost_usd, charge_usd };
    Ok(Some(Costs { cost_usd, amounts, source, line_items }))
}

fn of_priced(priced: &Priced) -> Costs {
    Costs {
        cost_usd: priced.cost_usd(),
        amounts: Amounts { list_cost_usd: priced.list_cost_usd(), charge_usd: priced.charge_usd },
        source: match priced.source {
            pricing::PriceSource::OwnPrice(_) => PriceSource::AiPrices,
            pricing::PriceSource::Catalog => PriceSource::Catalog,
        },
        line_items: line_items(&priced.items, priced.list_items.as_ref()),
    }
}

/// As the column has them: an array of objects. The list's prices stand beside those that are paid where
/// they differ. What was used and has no price at all is an item without one: it is not hidden.
fn line_items(paid: &LineItems, list: Option<&LineItems>) -> String {
    let mut json = String::with_capacity(64 + paid.items.len() * 128);
    json.push('[');
    for item in &paid.items {
        let listed = list.and_then(|list| list.items.iter().find(|l| l.class == item.class));
        let separator = if json.len() > 1 { "," } else { "" };
        let LineItem { class, quantity, unit_price_usd, price_source, cost_usd } = item;
        let _ = write!(
            json,
            r#"{separator}{{"class":"{class}","quantity":{quantity},"unit_price_usd":{unit_price_usd},"price_source":"{price_source}","cost_usd":{cost_usd}"#
        );
        if let Some(LineItem { unit_price_usd, cost_usd, .. }) = listed {
            let _ = write!(
                json,
                r#","list_unit_price_usd":{unit_price_usd},"list_cost_usd":{cost_usd}"#
            );
        }
        json.push('}');
    }
    for (class, quantity) in &paid.unpriced {
        let separator = if json.len() > 1 { "," } else { "" };
        let _ = write!(
            json,
            r#"{separator}{{"class":"{class}","quantity":{quantity},"unit_price_usd":0,"price_source":"unpriced","cost_usd":0}}"#
        );
    }
    json.push(']');
    json
}
