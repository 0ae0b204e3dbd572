//! What prices a model: rows of `ai_prices`, the tenant's markup, and the catalogue.
//!
//! Read under the snapshot that is given. Of catalogues, the one that was read last is kept, decoded, to
//! the end of the backend: a row of `ai_price_catalogs` is never changed, so that the row's version tells
//! which one it is. The one that came with the library is decoded in the postmaster, where that preloads it.

use crate::pg::lock::{self, Class, Key};
use crate::pg::relation;
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::pricing::own_price::{Columns, OwnPrice};
use ai_limiter_domain::pricing::{
    Catalog, Context, ModelPrices, Priced, Quantities, litellm, priced,
};
use ai_limiter_domain::{Call, Error, Timestamp, Window, error::Result, model_name};
use pgrx::pg_sys;
use rust_decimal::Decimal;
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use uuid::Uuid;

/// All that prices a call of one model.
#[derive(Debug, Default)]
pub struct Prices {
    /// The most specific first.
    own: Vec<OwnPrice>,
    tenant_markup_factor: Option<Decimal>,
    listed: Option<Listed>,
    max_output_tokens: Option<i64>,
}

/// A model of the catalogue.
#[derive(Debug)]
struct Listed {
    name: String,
    prices: ModelPrices,
}

impl Prices {
    /// What such a call costs; `None` when nothing prices it.
    pub fn of(
        &self,
        quantities: &Quantities,
        requests: i64,
        at: Timestamp,
        context: &Context<'_>,
    ) -> Result<Option<Priced>> {
        let call = priced::Call {
            quantities,
            requests,
            at,
            context,
            tenant_markup_factor: self.tenant_markup_factor,
        };
        priced::price(&call, &self.own, self.listed.as_ref().map(|listed| &listed.prices))
    }

    /// What the tenant is charged for what is paid.
    pub fn markup_factor(&self) -> Option<Decimal> {
        self.own.first().and_then(|row| row.markup_factor).or(self.tenant_markup_factor)
    }

    /// The most that the model returns for a request, as the first row that matches and knows it says.
    pub fn max_output_tokens(&self) -> Option<i64> {
        self.max_output_tokens
    }

    /// The catalogue's name of the model, with its provider.
    pub fn listed_name(&self) -> Option<&str> {
        self.listed.as_ref().map(|listed| listed.name.as_str())
    }
}

/// The rows `p` that could price a call, whenever they are valid. A backslash is written as chr(92): the
/// caller's standard_conforming_strings decides what it would mean in a literal. Names and patterns have an
/// index each, since an import brings thousands of names.
macro_rules! prices_of_call {
    () => {
        "FROM (SELECT n.* FROM ai_limiter.ai_prices n
                WHERE lower(n.model) = ANY (ARRAY[$3, $4, $5, $7]) AND position('*' IN n.model) = 0
            UNION ALL
            SELECT n.* FROM ai_limiter.ai_prices n WHERE position('*' IN n.model) > 0) p,
            LATERAL (SELECT replace(replace(replace(replace(lower(p.model),
            chr(92), chr(92) || chr(92)), '%', chr(92) || '%'), '_', chr(92) || '_'), '*', '%') AS mask) m
        WHERE (p.tenant_id IS NULL OR p.tenant_id = $1)
          AND (p.provider IS NULL OR lower(p.provider) = coalesce($2, '')
            OR p.source = 'litellm' AND lower(p.provider) = $8)
          AND ($3 LIKE m.mask OR $4 LIKE m.mask OR $5 LIKE m.mask OR $7 LIKE m.mask)"
    };
}

/// What prices the model that the call names. Of its own rows the tenant's go first, then those written by
/// hand, then a name before a pattern, then the name as given before the canonical one, then a row with a
/// provider, then the longest pattern.
pub fn read(spi: &Spi, snapshot: &Snapshot, call: &Call, at: Timestamp) -> Result<Prices> {
    const SQL: &str = concat!(
        "SELECT p.id, p.tenant_id, p.input_usd_per_million_tokens::text,
            p.output_usd_per_million_tokens::text, p.usd_per_request::text, p.unit_prices::text,
            p.discount_factor::text, p.markup_factor::text, p.max_output_tokens ",
        prices_of_call!(),
        " AND p.valid_during @> $6
        ORDER BY p.tenant_id IS NULL, p.source <> 'manual', position('*' IN p.model) > 0,
            $3 LIKE m.mask DESC, $7 LIKE m.mask DESC, $4 LIKE m.mask DESC, p.provider IS NULL,
            length(p.model) DESC, p.id"
    );
    let row = |row: &Row| Ok((own_price(row)?, row.int(9)));
    let rows = spi.read_at(snapshot, SQL, &arguments(call, at), row)?;
    let max_output_tokens = rows.iter().find_map(|(_, most)| *most);
    let own = rows.into_iter().map(|(own, _)| own).collect();
    let catalog = catalog(spi, snapshot)?;
    Ok(Prices {
        own,
        tenant_markup_factor: tenant_markup_factor(spi, snapshot, call.dimensions.tenant_id)?,
        listed: listed(&catalog, call)?,
        max_output_tokens,
    })
}

fn listed(catalog: &Catalog, call: &Call) -> Result<Option<Listed>> {
    let Some(model) = call.requested_model.as_deref() else { return Ok(None) };
    let found = catalog.find(call.dimensions.provider.as_deref(), model)?;
    Ok(found.map(|found| Listed {
        name: format!("{}/{}", found.provider_id, found.model_id),
        prices: found.prices.clone(),
    }))
}

fn own_price(row: &Row) -> Result<OwnPrice> {
    let unit_prices = row.text(6);
    OwnPrice::new(&Columns {
        id: required(row.int(1), "id")?,
        tenant_id: row.uuid(2),
        input_usd_per_million_tokens: decimal(row.text(3).as_deref())?,
        output_usd_per_million_tokens: decimal(row.text(4).as_deref())?,
        usd_per_request: decimal(row.text(5).as_deref())?,
        unit_prices: unit_prices.as_deref(),
        discount_factor: decimal(row.text(7).as_deref())?,
        markup_factor: decimal(row.text(8).as_deref())?,
    })
}

/// A `numeric` by its text.
pub fn decimal(text: Option<&str>) -> Result<Option<Decimal>> {
    let parse = |text| Decimal::from_str_exact(text).or_else(|_| text.parse::<Decimal>());
    text.map(parse).transpose().map_err(|_| {
        Error::out_of_range("a number of a price is out of range")
            .hint("Prices and factors have at most 28 digits.")
    })
}

fn tenant_markup_factor(spi: &Spi, snapshot: &Snapshot, tenant: Uuid) -> Result<Option<Decimal>> {
    const SQL: &str = "SELECT markup_factor::text FROM ai_limiter.ai_tenants WHERE tenant_id = $1";
    let rows = spi.read_by_key(snapshot, SQL, &[tenant.into()], |row| Ok(row.text(1)))?;
    decimal(rows.into_iter().next().flatten().as_deref())
}

/// Around `at`, between which instants no row that could price the call begins or ends.
pub fn stands(spi: &Spi, snapshot: &Snapshot, call: &Call, at: Timestamp) -> Result<Window> {
    const SQL: &str = concat!(
        "SELECT max(b.bound) FILTER (WHERE b.bound <= $6), min(b.bound) FILTER (WHERE b.bound > $6)
        FROM (SELECT p.valid_during ",
        prices_of_call!(),
        ") v, LATERAL (VALUES (lower(v.valid_during)), (upper(v.valid_during))) b (bound)
        WHERE isfinite(b.bound)"
    );
    let rows = spi.read_at(snapshot, SQL, &arguments(call, at), |row| {
        // A bound may lie on either side of its instant.
        let inside = |bound: Option<Timestamp>, by| bound.map(|at| Timestamp(at.0 + by));
        Ok(Window { start: inside(row.timestamp(1), 1), end: inside(row.timestamp(2), 0) })
    })?;
    Ok(rows.into_iter().next().unwrap_or(Window::ALL_TIME))
}

fn arguments(call: &Call, at: Timestamp) -> [Arg; 8] {
    let given = call.requested_model.as_deref().map(str::to_lowercase);
    let dated = given.as_deref().map(model_name::without_prefix);
    // What a prefix leaves of a name with several parts: `eu/gpt-4o` of `azure/eu/gpt-4o`.
    let rest = given.as_deref().map(|name| name.split_once('/').map_or(name, |(_, rest)| rest));
    let provider = call.dimensions.provider.as_deref();
    [
        call.dimensions.tenant_id.into(),
        provider.into(),
        given.as_deref().into(),
        dated.as_deref().into(),
        call.dimensions.model.as_deref().into(),
        at.into(),
        rest.into(),
        provider.map(litellm::provider_named).into(),
    ]
}

/// Another price row for the same model that is valid in a part of the same time.
pub fn overlapping(
    spi: &Spi,
    id: i64,
    tenant: Option<Uuid>,
    provider: Option<&str>,
    model: &str,
    valid_during: &str,
) -> Result<Option<i64>> {
    const SQL: &str = "SELECT p.id FROM ai_limiter.ai_prices p \
        WHERE p.id <> $1 AND p.tenant_id IS NOT DISTINCT FROM $2 \
          AND lower(p.provider) IS NOT DISTINCT FROM lower($3) AND lower(p.model) = lower($4) \
          AND p.valid_during && $5::tstzrange LIMIT 1";
    // Who keeps all writers out needs no lock per model, of which there is no room for thousands.
    let table = relation::oid(c"ai_prices")?;
    if !lock::is_relation_held(table, pg_sys::ShareRowExclusiveLock as i32) {
        lock::acquire(&Key::new(Class::Prices, &model.to_lowercase()));
    }
    let args =
        [Arg::Int(Some(id)), Arg::Uuid(tenant), provider.into(), model.into(), valid_during.into()];
    let found = spi.read_by_key(&Snapshot::latest(), SQL, &args, |row| Ok(row.int(1)))?;
    Ok(found.into_iter().next().flatten())
}

/// A catalogue, decoded.
#[derive(Clone)]
pub enum Loaded {
    Bundled,
    /// A row of `ai_price_catalogs`.
    Row(i64, Rc<Catalog>),
}

impl Deref for Loaded {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        match self {
            Loaded::Bundled => Catalog::bundled(),
            Loaded::Row(_, catalog) => catalog,
        }
    }
}

thread_local! {
    /// With the version of the row that it is.
    static KEPT: RefCell<Option<(String, Rc<Catalog>)>> = const { RefCell::new(None) };
}

/// The newest catalogue.
pub fn catalog(spi: &Spi, snapshot: &Snapshot) -> Result<Loaded> {
    // An id may come again: deleted and inserted, or of an extension that was created anew.
    const NEWEST: &str = "SELECT id, concat_ws(' ', tableoid, xmin, ctid) \
        FROM ai_limiter.ai_price_catalogs ORDER BY id DESC LIMIT 1";
    const DOCUMENT: &str = "SELECT catalog::text FROM ai_limiter.ai_price_catalogs WHERE id = $1";
    let newest = spi.read_at(snapshot, NEWEST, &[], |row| {
        Ok((required(row.int(1), "id")?, row.text(2).unwrap_or_default()))
    })?;
    let Some((id, version)) = newest.into_iter().next() else { return Ok(Loaded::Bundled) };
    let kept = KEPT.with_borrow(|kept| kept.clone());
    if let Some((_, catalog)) = kept.filter(|(of, _)| *of == version) {
        return Ok(Loaded::Row(id, catalog));
    }
    let args = [Arg::Int(Some(id))];
    let document = spi.read_at(snapshot, DOCUMENT, &args, |row| Ok(row.text(1)))?;
    let document = required(document.into_iter().next().flatten(), "catalog")?;
    let catalog = Rc::new(Catalog::from_accepted_json(&document)?);
    KEPT.set(Some((version, Rc::clone(&catalog))));
    Ok(Loaded::Row(id, catalog))
}
