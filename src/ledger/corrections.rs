//! What a row of the ledger and its corrections come to.
//!
//! A correction lies at the very instant of the row that it corrects, and so in its partition: it is found
//! by the account's index, and goes with the month. Rows are found by id: a version 7 uuid says its
//! partition, any other is looked for in all of them. Who is about to correct holds the row's lock
//! ([`holds::lock`]) and shares [`keep_apart`], which a recomputation of many rows
//! takes alone.

use super::usage::Amounts;
use super::{holds, id, partitions};
use crate::pg::guc;
use crate::pg::lock::{self, Class, Key};
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::{Amount, Dimensions, Error, Kind, Timestamp, Window, error::Result};
use serde_json::Value;
use uuid::Uuid;

/// A row as it was booked.
pub struct Booked {
    pub id: Uuid,
    pub dimensions: Dimensions,
    pub response_model: Option<String>,
    pub requests: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub total: Total,
    pub correction_of: Option<Uuid>,
    pub created_at: Timestamp,
    /// As the columns have them.
    pub line_items: Option<Value>,
    pub price_context: Option<Value>,
}

/// What something comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    pub cost_usd: Amount,
    pub amounts: Amounts,
}

impl Total {
    pub fn plus(self, other: Self) -> Result<Self> {
        self.with(other, Amount::checked_add)
    }

    pub fn minus(self, other: Self) -> Result<Self> {
        self.with(other, Amount::checked_sub)
    }

    fn with(self, other: Self, of: impl Fn(Amount, Amount) -> Result<Amount>) -> Result<Self> {
        let (a, b) = (self.amounts, other.amounts);
        Ok(Self {
            cost_usd: of(self.cost_usd, other.cost_usd)?,
            amounts: Amounts {
                list_cost_usd: of(a.list_cost_usd, b.list_cost_usd)?,
                charge_usd: of(a.charge_usd, b.charge_usd)?,
            },
        })
    }
}

/// Who corrects single rows shares this, who recomputes many has it alone, both to the end of their
/// transactions: a lock for each of a million rows would not fit.
pub fn keep_apart(many: bool) {
    let key = Key::new(Class::Corrections, "ai_usage");
    if many { lock::acquire(&key) } else { lock::acquire_shared(&key) }
}

/// As [`booked`] reads them.
macro_rules! booked_columns {
    () => {
        "u.id, u.tenant_id, u.user_id, u.tier, u.provider, u.model, u.response_model, u.feature, \
            u.api_key_id, u.run_id, u.attributes, u.requests, u.input_tokens, u.output_tokens, \
            u.cost_usd, u.list_cost_usd, u.charge_usd, u.correction_of, u.created_at, \
            u.line_items, u.price_context"
    };
}

/// Finds a row by its id.
///
/// # Errors
/// 42704 when there is none, 55000 when there are several: an app has written their ids itself.
pub fn find(spi: &Spi, id: Uuid) -> Result<Booked> {
    const IN_ITS_MONTH: &str = concat!(
        "SELECT ",
        booked_columns!(),
        " FROM ai_limiter.ai_usage u WHERE u.id = $1 AND u.created_at >= $2 AND u.created_at < $3"
    );
    const ANYWHERE: &str =
        concat!("SELECT ", booked_columns!(), " FROM ai_limiter.ai_usage u WHERE u.id = $1");
    let named = id::instant(id);
    if let Some(Window { start: Some(start), end: Some(end) }) = named {
        let args = [id.into(), start.into(), end.into()];
        let found = spi.read_by_key(&Snapshot::latest(), IN_ITS_MONTH, &args, booked)?;
        if let Some(found) = found.into_iter().next() {
            return Ok(found);
        }
    }
    let mut found = spi.read_by_key(&Snapshot::latest(), ANYWHERE, &[id.into()], booked)?;
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("several rows of ai_usage have the id \"{id}\""),
        )
        .hint("Ids that an app writes itself must be unique in all months.")),
        (None, _) => Err(no_such_row(id, named.and_then(|millisecond| millisecond.start))),
    }
}

fn no_such_row(id: Uuid, made_at: Option<Timestamp>) -> Error {
    let error = Error::new(Kind::UndefinedObject, format!("usage \"{id}\" does not exist"))
        .hint("An open hold is settled first. Months older than ai_limiter.retention are gone.");
    match made_at.map(partitions::exists) {
        Some(Ok(false)) => error.detail("The ledger has no rows of the month that the id names."),
        _ => error,
    }
}

/// What was corrected of a row so far.
pub fn corrected(spi: &Spi, row: &Booked) -> Result<Total> {
    const OF_USER: &str = "SELECT sum(cost_usd), sum(list_cost_usd), sum(charge_usd) \
        FROM ai_limiter.ai_usage WHERE correction_of = $1 AND created_at = $2 AND tenant_id = $3 \
            AND user_id = $4";
    const OF_NOBODY: &str = "SELECT sum(cost_usd), sum(list_cost_usd), sum(charge_usd) \
        FROM ai_limiter.ai_usage WHERE correction_of = $1 AND created_at = $2 AND tenant_id = $3 \
            AND user_id IS NULL";
    let mut args: Vec<Arg> =
        vec![row.id.into(), row.created_at.into(), row.dimensions.tenant_id.into()];
    args.extend(row.dimensions.user_id.map(Arg::from));
    let sql = if row.dimensions.user_id.is_some() { OF_USER } else { OF_NOBODY };
    let sums = spi.read_by_key(&Snapshot::latest(), sql, &args, |row| total(row, 1))?;
    required(sums.into_iter().next(), "sum")
}

/// Gives every row of a stretch of time that was priced here, of one canonical model if asked, and what
/// was corrected of it so far. A cost that was told is not among them, nor one that was estimated
/// without tokens.
pub fn priced(
    spi: &Spi,
    window: (Timestamp, Timestamp),
    model: Option<&str>,
    mut each: impl FnMut(Booked, Total) -> Result<()>,
) -> Result<()> {
    const SQL: &str = concat!(
        "SELECT ",
        booked_columns!(),
        ", c.cost_usd, c.list_cost_usd, c.charge_usd \
        FROM ai_limiter.ai_usage u LEFT JOIN (SELECT correction_of, created_at, \
                sum(cost_usd) AS cost_usd, sum(list_cost_usd) AS list_cost_usd, \
                sum(charge_usd) AS charge_usd FROM ai_limiter.ai_usage \
            WHERE correction_of IS NOT NULL AND created_at >= $1 AND created_at < $2 GROUP BY 1, 2) c \
            ON c.correction_of = u.id AND c.created_at = u.created_at \
        WHERE u.created_at >= $1 AND u.created_at < $2 AND u.correction_of IS NULL \
            AND ($3 IS NULL OR u.model = $3) AND (u.price_source IN ('ai_prices', 'catalog') \
                OR u.price_source = 'estimate' AND u.input_tokens + u.output_tokens > 0)"
    );
    let args = [window.0.into(), window.1.into(), model.into()];
    // Whatever the statistics say of corrections: looked through for each row, a few thousand of them take
    // minutes. The plan is made when the cursor is opened; what is planned afterwards is not meant.
    let planning = guc::Scope::new();
    planning.set(c"enable_nestloop", c"off");
    let mut planning = Some(planning);
    spi.stream(&Snapshot::latest(), SQL, &args, |row| {
        planning.take();
        each(booked(row)?, total(row, 22)?)
    })
}

/// Three sums, from a column on; null is nothing.
fn total(row: &Row, first: i32) -> Result<Total> {
    Ok(Total {
        cost_usd: row.amount(first)?.unwrap_or_default(),
        amounts: Amounts {
            list_cost_usd: row.amount(first + 1)?.unwrap_or_default(),
            charge_usd: row.amount(first + 2)?.unwrap_or_default(),
        },
    })
}

fn booked(row: &Row) -> Result<Booked> {
    Ok(Booked {
        id: required(row.uuid(1), "id")?,
        dimensions: holds::dimensions(row)?,
        response_model: row.text(7),
        requests: row.int(12).unwrap_or(0),
        input_tokens: row.int(13).unwrap_or(0),
        output_tokens: row.int(14).unwrap_or(0),
        total: total(row, 15)?,
        correction_of: row.uuid(18),
        created_at: required(row.timestamp(19), "created_at")?,
        line_items: row.json(20),
        price_context: row.json(21),
    })
}
