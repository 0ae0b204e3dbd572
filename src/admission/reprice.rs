//! Pricing past rows again, at the prices of their time as they are written now.
//!
//! Rows are read through a cursor under one snapshot and corrected as they come, in one transaction.
//! Who corrects a single row is kept out meanwhile ([`corrections::keep_apart`]), so that what a row
//! comes to is what the snapshot says. Past [`SINGLY`] corrections the transaction is in bulk mode: the
//! counters are loaded anew when it commits.

use super::cache;
use super::charge::{PRICED_MODEL, PRICED_PROVIDER};
use super::correction::book;
use crate::counters::memory;
use crate::ledger::corrections::{self, Booked, Total};
use crate::ledger::usage::{Amounts, PriceSource};
use crate::pg::direct;
use crate::pg::owner::as_owner;
use ai_limiter_domain::pricing::{Class, Quantities, context_of};
use ai_limiter_domain::{Amount, Call, Error, Timestamp, error::Result};
use rust_decimal::Decimal;
use serde_json::Value;
use std::collections::BTreeMap;

/// How many corrections the counters are told one by one: loading those of long ago, each a sum of
/// its own, would take longer than loading all anew.
const SINGLY: u64 = 1_000;

/// What the rows of one model come to.
#[derive(Debug, Default)]
pub struct Repriced {
    pub rows: i64,
    pub before_usd: Amount,
    pub after_usd: Amount,
    /// Rows that have no price now. They stay as they are.
    pub unpriced: i64,
}

/// Prices the rows made from an instant until another, of one canonical model if asked, and books the
/// differences unless it is a dry run.
pub fn reprice(
    window: (Timestamp, Timestamp),
    model: Option<&str>,
    dry_run: bool,
) -> Result<BTreeMap<Option<String>, Repriced>> {
    if window.0 >= window.1 {
        return Err(Error::invalid("\"from\" must be before \"to\""));
    }
    if !dry_run {
        direct::prevent_if_read_only(c"INSERT");
        corrections::keep_apart(true);
    }
    let mut models: BTreeMap<Option<String>, Repriced> = BTreeMap::new();
    let mut booked = 0;
    as_owner(|spi| {
        corrections::priced(spi, window, model, |row, corrected| {
            pgrx::check_for_interrupts!();
            let before = row.total.plus(corrected)?;
            let priced = recomputed(&row).map_err(|error| of_row(error, &row))?;
            let after = priced.unwrap_or(before);
            let of_model = models.entry(row.dimensions.model.clone()).or_default();
            of_model.rows += 1;
            of_model.unpriced += i64::from(priced.is_none());
            of_model.before_usd = of_model.before_usd.checked_add(before.cost_usd)?;
            of_model.after_usd = of_model.after_usd.checked_add(after.cost_usd)?;
            if dry_run || after == before {
                return Ok(());
            }
            booked += 1;
            if booked == SINGLY {
                memory::begin_bulk()?;
            }
            book(&row, after.minus(before)?, "reprice".to_owned(), PriceSource::Reprice)?;
            Ok(())
        })
    })?;
    Ok(models)
}

/// An error that says which of many rows it is about.
fn of_row(error: Error, row: &Booked) -> Error {
    let more = error.detail.as_deref().unwrap_or_default();
    let detail = format!("The row is \"{}\" of ai_usage. {more}", row.id);
    error.detail(detail.trim_end())
}

/// What a row costs at the prices of its time, as they are now, by the name that it was priced by; `None`
/// where there is none.
fn recomputed(row: &Booked) -> Result<Option<Total>> {
    let mut context: BTreeMap<String, String> = row
        .price_context
        .clone()
        .and_then(|context| serde_json::from_value(context).ok())
        .unwrap_or_default();
    let mut call = Call { dimensions: row.dimensions.clone(), ..Call::default() };
    call.set_model(
        context
            .remove(PRICED_MODEL)
            .or_else(|| row.response_model.clone())
            .or_else(|| row.dimensions.model.clone()),
        context.remove(PRICED_PROVIDER).or_else(|| row.dimensions.provider.clone()),
    )?;
    if call.requested_model.is_none() {
        return Ok(None);
    }
    let context = context_of(&context);
    let prices = cache::current(|config| config.prices(&call, row.created_at))?;
    let quantities = used(row);
    let priced = prices.of(&quantities, row.requests, row.created_at, &context)?;
    Ok(priced.map(|priced| Total {
        cost_usd: priced.cost_usd(),
        amounts: Amounts { list_cost_usd: priced.list_cost_usd(), charge_usd: priced.charge_usd },
    }))
}

/// What was used: by its line items, which tell what was cached; else its tokens.
fn used(row: &Booked) -> Quantities {
    let leaf = |item: &Value| {
        let class = Class::named(item["class"].as_str()?)?;
        let quantity = item["quantity"].as_number()?.to_string().parse::<Decimal>().ok()?;
        Some((class, quantity))
    };
    let items = row.line_items.as_ref().and_then(Value::as_array);
    let leaves: Vec<_> = items
        .into_iter()
        .flatten()
        .filter_map(leaf)
        // Each call's requests are the row's.
        .filter(|(class, _)| *class != Class::REQUESTS)
        .collect();
    match leaves.is_empty() {
        true => Quantities::of_tokens(Some(row.input_tokens), Some(row.output_tokens)),
        false => Quantities::of_leaves(&leaves),
    }
}
