//! What checks and lists prices.

use super::arguments::Arguments;
use super::{Answered, answered};
use crate::columns;
use crate::ledger::prices::{self, Loaded};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use crate::pg::row::{Composite, Rows, jsonb_of_text};
use crate::pg::spi::Snapshot;
use ai_limiter_domain::call::required;
use ai_limiter_domain::pricing::listing;
use ai_limiter_domain::pricing::own_price::{Columns, OwnPrice};
use ai_limiter_domain::pricing::{Catalog, Model};
use ai_limiter_domain::{Error, error::Result};
use pgrx::prelude::*;

/// Another price row for the same model that is valid in a part of the same time, if there is one;
/// writers of prices wait for each other, so that two of them cannot miss each other's.
#[pg_extern(sql = false)]
fn overlapping_price(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Option<i64>> {
    answered(|| {
        // SAFETY: declared as (bigint, uuid, text, text, text).
        let args = unsafe { Arguments::new(fcinfo) };
        let (model, valid_during): (Option<String>, Option<String>) = (args.get(3), args.get(4));
        as_owner(|spi| {
            prices::overlapping(
                spi,
                required(args.get(0), "id")?,
                args.uuid(1),
                args.get::<String>(2).as_deref(),
                &required(model, "model")?,
                &required(valid_during, "valid_during")?,
            )
        })
    })
}

/// Raises where the prices of a row make no sense.
#[pg_extern(sql = false)]
fn checked_price(fcinfo: pg_sys::FunctionCallInfo) -> Answered<()> {
    answered(|| {
        // SAFETY: declared as (text, text, text, text, text, text).
        let args = unsafe { Arguments::new(fcinfo) };
        let number = |at| prices::decimal(args.get::<String>(at).as_deref());
        let unit_prices: Option<String> = args.get(3);
        OwnPrice::new(&Columns {
            input_usd_per_million_tokens: number(0)?,
            output_usd_per_million_tokens: number(1)?,
            usd_per_request: number(2)?,
            unit_prices: unit_prices.as_deref(),
            discount_factor: number(4)?,
            markup_factor: number(5)?,
            ..Columns::default()
        })?;
        Ok(())
    })
}

/// More would not fit into a row of `jsonb` in any case.
const LARGEST_CATALOG: usize = 64 << 20;

#[pg_extern(sql = false)]
fn checked_price_catalog(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Composite> {
    answered(|| {
        // SAFETY: declared as (text).
        let args = unsafe { Arguments::new(fcinfo) };
        let document: String = required(args.get(0), "catalog")?;
        if document.len() > LARGEST_CATALOG {
            return Err(Error::out_of_range("catalog is too large"));
        }
        let catalog = Catalog::from_json(&document)?;
        let models = catalog.models()?.count();
        if models == 0 {
            return Err(Error::invalid("catalog has no model")
                .hint("Give the whole catalogue, as the genai-prices project publishes it (v2)."));
        }
        let count = |count: usize| i32::try_from(count).ok();
        Ok(Composite::of(columns![
            count(catalog.providers().count()),
            count(models),
            catalog.unknown_price_keys()?,
        ]))
    })
}

#[pg_extern(sql = false)]
fn ai_catalog_prices() -> Answered<Rows> {
    answered(|| {
        let catalog = as_owner(|spi| prices::catalog(spi, &Snapshot::latest()))?;
        let id = match &catalog {
            Loaded::Bundled => None,
            Loaded::Row(id, _) => Some(*id),
        };
        let now = clock::now();
        let row = |(provider, model): (&str, &Model)| {
            let mut row = columns![
                provider,
                model.id.as_str(),
                model.name.as_deref(),
                model.context_window.and_then(|tokens| i64::try_from(tokens).ok()),
            ];
            row.push(jsonb_of_text(&listing::standard(&model.prices, now)?));
            row.push(jsonb_of_text(&listing::variants(&model.prices, now)));
            row.extend(columns![id]);
            Ok(row)
        };
        catalog.models()?.map(row).collect::<Result<_>>().map(Rows)
    })
}
