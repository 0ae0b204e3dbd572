//! Corrections: rows that say by how much another row of the ledger was wrong.
//!
//! A correction has the dimensions and the instant of the row that it corrects, no requests and no
//! tokens, so that it counts in the same windows of the same limits and nowhere else. A row and its
//! corrections never come to less than nothing. What is taken away is free when it commits: counters in
//! shared memory publish no decrease before, and sums of the tables see what is committed.

use super::adjust;
use crate::ledger::corrections::{self, Booked, Total};
use crate::ledger::usage::{self, Amounts, Charge, Correction, PriceSource};
use crate::ledger::{holds, id};
use crate::pg::direct;
use crate::pg::owner::as_owner;
use ai_limiter_domain::{Amount, Error, error::Result};
use serde_json::json;
use uuid::Uuid;

/// Books a correction of one row, in its windows, and gives the correction's id.
pub fn adjust_usage(usage_id: Uuid, delta: Amount, reason: String) -> Result<Uuid> {
    direct::prevent_if_read_only(c"INSERT");
    corrections::keep_apart(false);
    // Of two who correct one row the second reads what the first has booked.
    holds::lock(usage_id);
    let (row, corrected) = as_owner(|spi| {
        let row = corrections::find(spi, usage_id)?;
        let corrected = corrections::corrected(spi, &row)?;
        Ok((row, corrected))
    })?;
    if let Some(of) = row.correction_of {
        return Err(Error::invalid(format!("usage \"{usage_id}\" is itself a correction"))
            .hint(format!("Adjust the row that it corrects: \"{of}\".")));
    }
    let stands = row.total.plus(corrected)?;
    let left = stands.cost_usd.checked_add(delta)?;
    if left < Amount::ZERO {
        return Err(Error::out_of_range("cost_usd_delta takes more than the row comes to")
            .detail(format!("With its corrections it comes to {} USD.", stands.cost_usd))
            .hint(match stands.cost_usd {
                Amount::ZERO => "Nothing is left of it to take away.".to_owned(),
                left => format!("Adjust by -{left} at most."),
            }));
    }
    if left >= Amount::CHARGE_LIMIT {
        return Err(Error::out_of_range("cost_usd_delta is out of range")
            .detail("A row with its corrections must stay below 100,000,000 USD."));
    }
    let amounts =
        Amounts { list_cost_usd: Amount::ZERO, charge_usd: charge(&row, &stands, delta)? };
    book(&row, Total { cost_usd: delta, amounts }, reason, PriceSource::Adjustment)
}

/// What the tenant is charged of a difference: in the proportion in which the row is, so that a row
/// that is taken back whole is charged nothing.
fn charge(row: &Booked, stands: &Total, delta: Amount) -> Result<Amount> {
    let is_free = |total: &&Total| total.cost_usd != Amount::ZERO;
    match [stands, &row.total].into_iter().find(is_free) {
        Some(total) => delta.scaled(total.amounts.charge_usd, total.cost_usd),
        None => Ok(delta),
    }
}

/// Books a difference as a correction of the row.
pub fn book(row: &Booked, by: Total, reason: String, source: PriceSource) -> Result<Uuid> {
    // A number of JSON has as many digits as a price.
    let line_items = format!(
        "[{{\"class\": \"adjustment\", \"quantity\": 1, \"unit_price_usd\": {cost}, \
         \"price_source\": {source}, \"cost_usd\": {cost}}}]",
        cost = by.cost_usd,
        source = json!(source.name()),
    );
    let charge = Charge {
        id: id::at(row.created_at),
        dimensions: row.dimensions.clone(),
        response_model: row.response_model.clone(),
        requests: 0,
        input_tokens: 0,
        output_tokens: 0,
        cost_usd: by.cost_usd,
        estimated_cost_usd: None,
        price_source: source,
        amounts: by.amounts,
        line_items: Some(line_items),
        // Whose price it is about.
        price_context: row.price_context.as_ref().map(ToString::to_string),
        correction: Some(Correction { of: row.id, reason }),
        created_at: row.created_at,
    };
    if usage::insert_directly(&charge)? {
        adjust::usage(&charge.dimensions, charge.created_at, &charge.size())?;
    } else {
        as_owner(|spi| usage::insert_by_statement(spi, &charge))?;
    }
    Ok(charge.id)
}
