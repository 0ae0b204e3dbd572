//! Charges: rows of `ai_usage`. Append-only; nothing here updates one.

use super::{holds, id, partitions, rollup};
use crate::pg::direct::{self, Shape};
use crate::pg::spi::{Arg, Spi};
use crate::pg::{numeric, row, transaction};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{Amount, Dimensions, Timestamp, Window, error::Result, model_name};
use pgrx::{IntoDatum, pg_sys};
use serde_json::json;
use std::cell::Cell;
use uuid::Uuid;

/// Where a charge's cost came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PriceSource {
    Caller,
    AiPrices,
    Catalog,
    /// The provider told it, and nothing else prices all that was used.
    Provider,
    /// Nothing better was known than what had been held.
    Estimate,
    /// A correction by hand.
    Adjustment,
    /// A correction to the prices of its time, as they are written now.
    Reprice,
}

impl PriceSource {
    pub fn name(self) -> &'static str {
        match self {
            PriceSource::Caller => "caller",
            PriceSource::AiPrices => "ai_prices",
            PriceSource::Catalog => "catalog",
            PriceSource::Provider => "provider",
            PriceSource::Estimate => "estimate",
            PriceSource::Adjustment => "adjustment",
            PriceSource::Reprice => "reprice",
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
    pub amounts: Amounts,
    /// JSON, as text: a number of JSON has as many digits as a price.
    pub line_items: Option<String>,
    pub price_context: Option<String>,
    pub correction: Option<Correction>,
    pub created_at: Timestamp,
}

/// What a charge comes to beside what is paid for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    pub list_cost_usd: Amount,
    pub charge_usd: Amount,
}

/// What a row corrects, and why.
#[derive(Debug, Clone)]
pub struct Correction {
    pub of: Uuid,
    pub reason: String,
}

impl Charge {
    /// What it counts as.
    pub fn size(&self) -> Size {
        Size {
            requests: self.requests,
            input_tokens: Some(self.input_tokens),
            output_tokens: Some(self.output_tokens),
            cost_usd: Some(self.cost_usd),
        }
    }

    /// Whether a trigger would find nothing to complete or to refuse. A hold that somebody has written by
    /// hand may be otherwise.
    fn is_complete(&self) -> bool {
        let d = &self.dimensions;
        let names = model_name::with_provider(d.model.as_deref(), d.provider.as_deref());
        let counts = [self.requests, self.input_tokens, self.output_tokens];
        (&names.0, &names.1) == (&d.model, &d.provider)
            && call::api_key_id(d.api_key_id.clone()).is_ok()
            && counts.into_iter().all(|count| call::count(Some(count), "count").is_ok())
    }
}

/// What an earlier settle booked.
pub struct Settled {
    pub tenant_id: Uuid,
    pub user_id: Option<Uuid>,
    pub cost_usd: Amount,
    pub estimated_cost_usd: Option<Amount>,
}

/// A partition as [`partitions`] makes it.
const SHAPE: Shape = Shape {
    columns: &[
        (c"id", pg_sys::UUIDOID),
        (c"tenant_id", pg_sys::UUIDOID),
        (c"user_id", pg_sys::UUIDOID),
        (c"tier", pg_sys::TEXTOID),
        (c"provider", pg_sys::TEXTOID),
        (c"model", pg_sys::TEXTOID),
        (c"response_model", pg_sys::TEXTOID),
        (c"feature", pg_sys::TEXTOID),
        (c"api_key_id", pg_sys::TEXTOID),
        (c"run_id", pg_sys::TEXTOID),
        (c"attributes", pg_sys::JSONBOID),
        (c"requests", pg_sys::INT8OID),
        (c"input_tokens", pg_sys::INT8OID),
        (c"output_tokens", pg_sys::INT8OID),
        (c"cost_usd", pg_sys::NUMERICOID),
        (c"list_cost_usd", pg_sys::NUMERICOID),
        (c"charge_usd", pg_sys::NUMERICOID),
        (c"estimated_cost_usd", pg_sys::NUMERICOID),
        (c"price_source", pg_sys::TEXTOID),
        (c"line_items", pg_sys::JSONBOID),
        (c"price_context", pg_sys::JSONBOID),
        (c"correction_of", pg_sys::UUIDOID),
        (c"correction_reason", pg_sys::TEXTOID),
        (c"created_at", pg_sys::TIMESTAMPTZOID),
        (c"recorded_at", pg_sys::TIMESTAMPTZOID),
    ],
    checks: &[
        c"*_month",
        c"ai_usage_correction_says_why",
        c"ai_usage_cost_not_negative",
        c"ai_usage_estimate_not_negative",
        c"ai_usage_input_not_negative",
        c"ai_usage_output_not_negative",
        c"ai_usage_requests_not_negative",
    ],
    triggers: &[
        c"ai_usage_append_only",
        c"ai_usage_count",
        c"ai_usage_insert",
        c"ai_usage_no_truncate",
    ],
    partial_indexes: &[c"*_run_idx"],
};

/// Books a charge without a statement, and so without the triggers: the caller tells the counters.
/// False, and nothing is done, where a statement has to do it.
pub fn insert_directly(charge: &Charge) -> Result<bool> {
    if !charge.is_complete() {
        return Ok(false);
    }
    direct::prevent_if_read_only(c"INSERT");
    let Some(partition) = partitions::lock(charge.created_at)? else { return Ok(false) };
    let d = &charge.dimensions;
    let correction = charge.correction.as_ref();
    let text = |value: Option<&str>| value.and_then(IntoDatum::into_datum);
    transaction::assign_id();
    let columns = [
        row::uuid(Some(charge.id)),
        row::uuid(Some(d.tenant_id)),
        row::uuid(d.user_id),
        text(Some(&d.tier)),
        text(d.provider.as_deref()),
        text(d.model.as_deref()),
        text(charge.response_model.as_deref()),
        text(d.feature.as_deref()),
        text(d.api_key_id.as_deref()),
        text(d.run_id.as_deref()),
        row::jsonb(&json!(d.attributes)),
        charge.requests.into_datum(),
        charge.input_tokens.into_datum(),
        charge.output_tokens.into_datum(),
        numeric::usd(Some(charge.cost_usd)),
        numeric::usd(Some(charge.amounts.list_cost_usd)),
        numeric::usd(Some(charge.amounts.charge_usd)),
        numeric::usd(charge.estimated_cost_usd),
        text(Some(charge.price_source.name())),
        charge.line_items.as_deref().and_then(row::jsonb_of_text),
        charge.price_context.as_deref().and_then(row::jsonb_of_text),
        row::uuid(correction.map(|c| c.of)),
        text(correction.map(|c| c.reason.as_str())),
        row::timestamp(Some(charge.created_at)),
        row::timestamp(Some(rollup::stamp()?)),
    ];
    Ok(direct::insert(partition, &SHAPE, &columns))
}

/// Books a charge; the triggers stamp `recorded_at` and tell the counters.
pub fn insert_by_statement(spi: &Spi, charge: &Charge) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_usage (id, tenant_id, user_id, tier, provider, \
        model, response_model, feature, api_key_id, run_id, attributes, requests, input_tokens, \
        output_tokens, cost_usd, list_cost_usd, charge_usd, estimated_cost_usd, price_source, \
        line_items, price_context, correction_of, correction_reason, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
        $19, $20, $21, $22, $23, $24)";
    let d = &charge.dimensions;
    let correction = charge.correction.as_ref();
    let jsonb =
        |text: Option<&String>| text.map_or(Arg::NullJsonb, |text| Arg::Jsonb(text.clone()));
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
        Arg::Numeric(Some(charge.amounts.list_cost_usd)),
        Arg::Numeric(Some(charge.amounts.charge_usd)),
        Arg::Numeric(charge.estimated_cost_usd),
        charge.price_source.name().into(),
        jsonb(charge.line_items.as_ref()),
        jsonb(charge.price_context.as_ref()),
        Arg::Uuid(correction.map(|c| c.of)),
        correction.map(|c| c.reason.as_str()).into(),
        charge.created_at.into(),
    ];
    correcting(correction.is_some(), || spi.write(SQL, &args, |_| Ok(())))?;
    Ok(())
}

thread_local! {
    /// Whether the statement that runs books a correction.
    static CORRECTING: Cell<bool> = const { Cell::new(false) };
}

/// Marks the booking of a correction for the length of a closure, however it ends.
fn correcting<R>(is_correction: bool, work: impl FnOnce() -> R) -> R {
    struct Correcting;
    impl Drop for Correcting {
        fn drop(&mut self) {
            CORRECTING.set(false);
        }
    }
    CORRECTING.set(is_correction);
    let _correcting = Correcting;
    work()
}

/// Whether a correction is being booked by the extension; nobody else may.
pub fn is_correcting() -> bool {
    CORRECTING.get()
}

/// Finds a charge by its reservation's id, in the partition that the id names.
pub fn find(spi: &Spi, id: Uuid) -> Result<Option<Settled>> {
    const SQL: &str = "SELECT tenant_id, user_id, cost_usd, estimated_cost_usd \
        FROM ai_limiter.ai_usage WHERE id = $1 AND created_at >= $2 AND created_at < $3 \
            AND correction_of IS NULL";
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
