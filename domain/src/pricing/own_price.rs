//! A row of `ai_prices`: own, negotiated, or of a model that one hosts.
//!
//! A row can say prices (two columns of tokens, one of requests, and any class under the catalogue's
//! keys), a factor on prices that stand elsewhere, or both. A row with any price prices the whole call:
//! what it doesn't name costs nothing, except that a part without a price costs what its whole costs.
//! Checked here when it is written (the table's trigger) and again, for nothing, when it is read.

use super::class::Class;
use super::price_list::{PriceDocument, PriceList, UnitPrice};
use crate::error::{Error, Result};
use rust_decimal::Decimal;
use uuid::Uuid;

/// The columns as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Columns<'a> {
    pub id: i64,
    /// Whose price it is; all tenants' without.
    pub tenant_id: Option<Uuid>,
    pub input_usd_per_million_tokens: Option<Decimal>,
    pub output_usd_per_million_tokens: Option<Decimal>,
    pub usd_per_request: Option<Decimal>,
    /// JSON: `{"cache_read_mtok": 0.25}`.
    pub unit_prices: Option<&'a str>,
    pub discount_factor: Option<Decimal>,
    pub markup_factor: Option<Decimal>,
}

/// A row that is ready to price calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnPrice {
    pub id: i64,
    pub tenant_id: Option<Uuid>,
    /// `None` when the row lends its prices from the next one.
    pub prices: Option<PriceList>,
    /// What is paid of each dollar of the prices: 0.8 is 20% off.
    pub discount_factor: Option<Decimal>,
    /// What the tenant is charged for each dollar paid.
    pub markup_factor: Option<Decimal>,
}

impl OwnPrice {
    /// Reads a row.
    ///
    /// # Errors
    /// 22023 for a negative number, a key that no class has, a key that a column says too, tiers out of
    /// order, a part whose whole has no price, and a row that says nothing.
    pub fn new(columns: &Columns<'_>) -> Result<Self> {
        let factors = [
            ("discount_factor", columns.discount_factor),
            ("markup_factor", columns.markup_factor),
        ];
        for (name, factor) in factors {
            if factor.is_some_and(|factor| factor < Decimal::ZERO) {
                return Err(Error::invalid(format!("{name} must not be negative"))
                    .hint("A factor of 0.8 is 20% less, 1 is no change."));
            }
        }
        let prices = own_prices(columns)?;
        if prices.is_empty() && factors.iter().all(|(_, factor)| factor.is_none()) {
            return Err(Error::invalid("price row must have a price or a factor").hint(
                "Set input_usd_per_million_tokens and output_usd_per_million_tokens, usd_per_request, unit_prices, discount_factor or markup_factor; a price of 0 is free.",
            ));
        }
        Ok(Self {
            id: columns.id,
            tenant_id: columns.tenant_id,
            prices: (!prices.is_empty()).then_some(prices),
            discount_factor: columns.discount_factor,
            markup_factor: columns.markup_factor,
        })
    }
}

fn own_prices(columns: &Columns<'_>) -> Result<PriceList> {
    let mut list = match columns.unit_prices {
        Some(json) => unit_prices(json)?,
        None => PriceList::default(),
    };
    let per_thousand = columns.usd_per_request.map(|usd| {
        let thousand = usd.checked_mul(Decimal::ONE_THOUSAND);
        thousand.ok_or_else(|| Error::out_of_range("usd_per_request is out of range"))
    });
    let columns = [
        ("input_usd_per_million_tokens", Class::INPUT_TOKENS, columns.input_usd_per_million_tokens),
        (
            "output_usd_per_million_tokens",
            Class::OUTPUT_TOKENS,
            columns.output_usd_per_million_tokens,
        ),
        ("usd_per_request", Class::REQUESTS, per_thousand.transpose()?),
    ];
    for (column, class, price) in columns {
        let Some(price) = price else { continue };
        if price < Decimal::ZERO {
            return Err(Error::invalid(format!("{column} must not be negative"))
                .hint("Say 0 for what is free, and use discount_factor for a discount."));
        }
        let key = class.definition().price_key;
        if list.get(class).is_some() {
            return Err(Error::invalid(format!(
                "unit_prices must not have \"{key}\" when {column} is set"
            ))
            .hint(format!("Say this price once: remove \"{key}\", or set {column} to null.")));
        }
        list.set(class, UnitPrice::flat(price.normalize()));
    }
    list.others_are_free = true;
    list.checked()
}

fn unit_prices(json: &str) -> Result<PriceList> {
    let document: PriceDocument = serde_json::from_str(json).map_err(|_| {
        Error::invalid("unit_prices must be a JSON object of prices by their keys")
            .hint("As in {\"cache_read_mtok\": 0.25, \"web_searches_kcount\": 10}.")
    })?;
    let (list, unknown) = PriceList::from_document(&document)?;
    if let Some(key) = unknown.first() {
        let like = Class::all()
            .map(|class| class.definition())
            .find(|definition| definition.name == key)
            .map(|definition| format!("Use \"{}\".", definition.price_key));
        return Err(Error::invalid(format!("unit_prices has the unknown key \"{key}\"")).hint(
            like.unwrap_or_else(|| {
                "Keys are the catalogue's: input_mtok, cache_read_mtok, web_searches_kcount and so on.".to_owned()
            }),
        ));
    }
    for (class, price) in list.iter() {
        if !price.tiers.is_sorted_by(|left, right| left.start < right.start) {
            let key = class.definition().price_key;
            return Err(Error::invalid(format!("tiers of price \"{key}\" must be in order"))
                .hint("Sort the tiers by their start, each start once."));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_unit_prices(json: &str) -> Result<OwnPrice> {
        OwnPrice::new(&Columns { unit_prices: Some(json), ..Columns::default() })
    }

    #[test]
    fn columns_and_keys_make_one_list() {
        let own = OwnPrice::new(&Columns {
            input_usd_per_million_tokens: Some(Decimal::new(25, 1)),
            usd_per_request: Some(Decimal::new(1, 2)),
            unit_prices: Some(r#"{"cache_read_mtok": 0.25}"#),
            ..Columns::default()
        });
        let prices = own.unwrap().prices.unwrap();
        let price = |class| prices.get(class).unwrap().base.to_string();
        assert_eq!(price(Class::INPUT_TOKENS), "2.5");
        assert_eq!(price(Class::CACHE_READ_TOKENS), "0.25");
        assert_eq!(price(Class::REQUESTS), "10");
        assert_eq!(prices.get(Class::OUTPUT_TOKENS), None);
    }

    #[test]
    fn a_row_of_factors_has_no_prices() {
        let factor = Some(Decimal::new(8, 1));
        let own =
            OwnPrice::new(&Columns { discount_factor: factor, ..Columns::default() }).unwrap();
        assert_eq!((own.prices, own.discount_factor), (None, factor));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_cure() {
        let tiers = r#"{"input_mtok": {"base": 1, "tiers": [{"start": 9, "price": 1}, {"start": 9, "price": 2}]}}"#;
        for json in [
            tiers,
            "[]",
            "{}",
            "null",
            r#"{"input_tokens": 1}"#,
            r#"{"sighs_kcount": 1}"#,
            r#"{"input_mtok": -1}"#,
            r#"{"cache_read_mtok": 1}"#,
        ] {
            assert!(with_unit_prices(json).unwrap_err().hint.is_some(), "{json}");
        }
        let hint = with_unit_prices(r#"{"cache_read_tokens": 1}"#).unwrap_err().hint.unwrap();
        assert_eq!(hint, "Use \"cache_read_mtok\".");
        let minus = Some(Decimal::NEGATIVE_ONE);
        for columns in [
            Columns::default(),
            Columns { markup_factor: minus, ..Columns::default() },
            Columns { usd_per_request: minus, ..Columns::default() },
            Columns {
                input_usd_per_million_tokens: Some(Decimal::ONE),
                unit_prices: Some(r#"{"input_mtok": 1}"#),
                ..Columns::default()
            },
        ] {
            assert!(OwnPrice::new(&columns).unwrap_err().hint.is_some(), "{columns:?}");
        }
    }
}
