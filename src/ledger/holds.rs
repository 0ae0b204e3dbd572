//! Holds: rows of `ai_reservations`. Guarded by the reservation's lock ([`Class::Reservation`]),
//! taken before a hold is looked for, so that of two settles, one finds the row and the other the
//! ledger's, at any isolation level and without a serialization failure. Only [`forget`] goes without
//! it: a settle of a hold that it forgets at this moment can meet 40001 above READ COMMITTED.

use super::own::writing;
use crate::pg::direct::{self, Shape, Taken};
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use crate::pg::{numeric, relation, row};
use ai_limiter_domain::call::{self, required};
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{Amount, Call, Dimensions, Error, Kind, Timestamp, error::Result};
use pgrx::{IntoDatum, pg_sys};
use serde_json::json;
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Hold {
    pub id: Uuid,
    pub dimensions: Dimensions,
    pub requested_model: Option<String>,
    pub size: Size,
    /// What the call may come to at most, where that is known.
    pub max_output_tokens: Option<i64>,
    pub max_cost_usd: Option<Amount>,
    pub state: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

impl Hold {
    pub fn is_open_at(&self, now: Timestamp) -> bool {
        self.state == "open" && self.expires_at > now
    }

    /// The call that was held, for prices and rules.
    pub fn call(&self) -> Call {
        Call {
            dimensions: self.dimensions.clone(),
            requested_model: self.requested_model.clone(),
            requests: self.size.requests,
            input_tokens: self.size.input_tokens,
            output_tokens: self.size.output_tokens,
            cost_usd: None,
        }
    }
}

/// The error for an id that is unknown, forgotten, or not the caller's to know of: one for all.
pub fn no_such_reservation(id: Uuid) -> Error {
    Error::new(Kind::UndefinedObject, format!("reservation \"{id}\" does not exist"))
        .hint("It may have been forgotten: see ai_limiter.reservation_retention.")
}

pub fn lock_key(id: Uuid) -> Key {
    Key::new(Class::Reservation, &id.to_string())
}

pub fn lock(id: Uuid) {
    lock::acquire(&lock_key(id));
}

/// The table as `sql/ledger_tables.sql` makes it.
const SHAPE: Shape = Shape {
    columns: &[
        (c"id", pg_sys::UUIDOID),
        (c"tenant_id", pg_sys::UUIDOID),
        (c"user_id", pg_sys::UUIDOID),
        (c"tier", pg_sys::TEXTOID),
        (c"provider", pg_sys::TEXTOID),
        (c"model", pg_sys::TEXTOID),
        (c"requested_model", pg_sys::TEXTOID),
        (c"feature", pg_sys::TEXTOID),
        (c"api_key_id", pg_sys::TEXTOID),
        (c"run_id", pg_sys::TEXTOID),
        (c"attributes", pg_sys::JSONBOID),
        (c"requests", pg_sys::INT8OID),
        (c"input_tokens", pg_sys::INT8OID),
        (c"output_tokens", pg_sys::INT8OID),
        (c"cost_usd", pg_sys::NUMERICOID),
        (c"max_output_tokens", pg_sys::INT8OID),
        (c"max_cost_usd", pg_sys::NUMERICOID),
        (c"state", pg_sys::TEXTOID),
        (c"created_at", pg_sys::TIMESTAMPTZOID),
        (c"expires_at", pg_sys::TIMESTAMPTZOID),
    ],
    // A hold's values are checked where they come in: `ai_limiter_domain::call`.
    checks: &[
        c"ai_reservations_cost_not_negative",
        c"ai_reservations_input_in_range",
        c"ai_reservations_max_cost_not_negative",
        c"ai_reservations_max_output_in_range",
        c"ai_reservations_output_in_range",
        c"ai_reservations_requests_in_range",
        c"ai_reservations_state_exists",
    ],
    triggers: &[c"ai_reservations_write"],
    partial_indexes: &[c"ai_reservations_expiry_idx", c"ai_reservations_run_idx"],
};

/// Writes a new hold, without a statement where that is all the same.
pub fn insert(hold: &Hold) -> Result<()> {
    let d = &hold.dimensions;
    let text = |value: Option<&str>| value.and_then(IntoDatum::into_datum);
    let count = |value: Option<i64>| value.and_then(IntoDatum::into_datum);
    let columns = [
        row::uuid(Some(hold.id)),
        row::uuid(Some(d.tenant_id)),
        row::uuid(d.user_id),
        text(Some(&d.tier)),
        text(d.provider.as_deref()),
        text(d.model.as_deref()),
        text(hold.requested_model.as_deref()),
        text(d.feature.as_deref()),
        text(d.api_key_id.as_deref()),
        text(d.run_id.as_deref()),
        row::jsonb(&json!(d.attributes)),
        count(Some(hold.size.requests)),
        count(hold.size.input_tokens),
        count(hold.size.output_tokens),
        numeric::usd(hold.size.cost_usd),
        count(hold.max_output_tokens),
        numeric::usd(hold.max_cost_usd),
        text(Some(&hold.state)),
        row::timestamp(Some(hold.created_at)),
        row::timestamp(Some(hold.expires_at)),
    ];
    if direct::insert(relation::oid(c"ai_reservations")?, &SHAPE, &columns) {
        return Ok(());
    }
    as_owner(|spi| insert_by_statement(spi, hold))
}

fn insert_by_statement(spi: &Spi, hold: &Hold) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_reservations (id, tenant_id, user_id, tier, \
        provider, model, requested_model, feature, api_key_id, run_id, attributes, requests, \
        input_tokens, output_tokens, cost_usd, max_output_tokens, max_cost_usd, created_at, expires_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
    let d = &hold.dimensions;
    let args = [
        hold.id.into(),
        d.tenant_id.into(),
        Arg::Uuid(d.user_id),
        d.tier.as_str().into(),
        d.provider.as_deref().into(),
        d.model.as_deref().into(),
        hold.requested_model.as_deref().into(),
        d.feature.as_deref().into(),
        d.api_key_id.as_deref().into(),
        d.run_id.as_deref().into(),
        attributes(d),
        Arg::Int(Some(hold.size.requests)),
        Arg::Int(hold.size.input_tokens),
        Arg::Int(hold.size.output_tokens),
        Arg::Numeric(hold.size.cost_usd),
        Arg::Int(hold.max_output_tokens),
        Arg::Numeric(hold.max_cost_usd),
        hold.created_at.into(),
        hold.expires_at.into(),
    ];
    writing(|| spi.write(SQL, &args, |_| Ok(())))?;
    Ok(())
}

/// A call's attributes as an argument of type jsonb.
pub fn attributes(dimensions: &Dimensions) -> Arg {
    Arg::Jsonb(serde_json::to_string(&dimensions.attributes).unwrap_or_else(|_| "{}".into()))
}

/// As the table has them.
macro_rules! hold_columns {
    () => {
        "id, tenant_id, user_id, tier, provider, model, requested_model, feature, api_key_id, \
            run_id, attributes, requests, input_tokens, output_tokens, cost_usd, max_output_tokens, \
            max_cost_usd, state, created_at, expires_at"
    };
}

/// Finds a hold in any state. Call [`lock()`] first.
pub fn find(spi: &Spi, id: Uuid) -> Result<Option<Hold>> {
    const SQL: &str =
        concat!("SELECT ", hold_columns!(), " FROM ai_limiter.ai_reservations WHERE id = $1");
    Ok(spi.read(SQL, &[id.into()], hold)?.into_iter().next())
}

/// Finds a hold in any state and deletes it. Call [`lock()`] first.
pub fn take(id: Uuid) -> Result<Option<Hold>> {
    const SQL: &str =
        concat!("DELETE FROM ai_limiter.ai_reservations WHERE id = $1 RETURNING ", hold_columns!());
    match direct::take(relation::oid(c"ai_reservations")?, &SHAPE, id, hold)? {
        Taken::Deleted(hold) => Ok(Some(hold)),
        Taken::Absent => Ok(None),
        Taken::NotDone => {
            as_owner(|spi| Ok(writing(|| spi.write(SQL, &[id.into()], hold))?.into_iter().next()))
        }
    }
}

pub fn release(spi: &Spi, id: Uuid) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_reservations SET state = 'released' WHERE id = $1";
    writing(|| spi.write(SQL, &[id.into()], |_| Ok(())))?;
    Ok(())
}

/// Gives a hold its new total and end, and opens it again if it had expired; false when it is gone. A
/// maximum that nobody knows is not known for that.
pub fn extend(spi: &Spi, id: Uuid, size: &Size, expires_at: Timestamp) -> Result<bool> {
    const SQL: &str = "UPDATE ai_limiter.ai_reservations SET state = 'open', output_tokens = $2, \
        cost_usd = $3, expires_at = $4, \
        max_output_tokens = CASE WHEN max_output_tokens < $2 THEN $2 ELSE max_output_tokens END, \
        max_cost_usd = CASE WHEN max_cost_usd < $3 THEN $3 ELSE max_cost_usd END \
        WHERE id = $1 RETURNING id";
    let args =
        [id.into(), Arg::Int(size.output_tokens), Arg::Numeric(size.cost_usd), expires_at.into()];
    Ok(!writing(|| spi.write(SQL, &args, |_| Ok(())))?.is_empty())
}

/// Open holds whose time is over, those first that are over longest, past so many.
pub fn due(spi: &Spi, now: Timestamp, most: i64, past: i64) -> Result<Vec<Uuid>> {
    const SQL: &str = "SELECT id FROM ai_limiter.ai_reservations \
        WHERE state = 'open' AND expires_at <= $1 ORDER BY expires_at LIMIT $2 OFFSET $3";
    let args = [now.into(), Arg::Int(Some(most)), Arg::Int(Some(past))];
    spi.read(SQL, &args, |row| required(row.uuid(1), "id"))
}

/// Marks those of these holds that are still open and due, and gives them. Call [`lock()`] first. A row
/// that somebody has locked by a statement of their own is left for the next time.
pub fn expire(spi: &Spi, ids: &[Uuid], now: Timestamp) -> Result<Vec<Hold>> {
    const SQL: &str = concat!(
        "UPDATE ai_limiter.ai_reservations SET state = 'expired' \
            WHERE id IN (SELECT id FROM ai_limiter.ai_reservations \
                WHERE id = $1 AND state = 'open' AND expires_at <= $2 FOR UPDATE SKIP LOCKED) \
            RETURNING ",
        hold_columns!()
    );
    let expire = |id: &Uuid| writing(|| spi.write(SQL, &[(*id).into(), now.into()], hold));
    Ok(ids.iter().map(expire).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// When the next of the open holds expires.
pub fn next_expiry(spi: &Spi, snapshot: &Snapshot) -> Result<Option<Timestamp>> {
    const SQL: &str = "SELECT min(expires_at) FROM ai_limiter.ai_reservations WHERE state = 'open'";
    let next = spi.read_at(snapshot, SQL, &[], |row| Ok(row.timestamp(1)))?;
    Ok(next.into_iter().next().flatten())
}

/// Deletes holds that count no longer and whose time was over before an instant, as many as fit a
/// batch; says how many. Rows that a settle or an extension holds at this moment are left for the next
/// time.
pub fn forget(spi: &Spi, before: Timestamp, batch: usize) -> Result<usize> {
    const SQL: &str = "DELETE FROM ai_limiter.ai_reservations WHERE id IN \
        (SELECT id FROM ai_limiter.ai_reservations WHERE state <> 'open' AND expires_at <= $1 \
         LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id";
    let args = [before.into(), Arg::count(batch)];
    Ok(writing(|| spi.write(SQL, &args, |_| Ok(())))?.len())
}

/// The dimensions of a row whose second to eleventh columns are those of a hold, or of a charge.
pub fn dimensions(row: &Row) -> Result<Dimensions> {
    Ok(Dimensions {
        tenant_id: required(row.uuid(2), "tenant_id")?,
        user_id: row.uuid(3),
        tier: row.text(4).unwrap_or_default(),
        provider: row.text(5),
        model: row.text(6),
        feature: row.text(8),
        api_key_id: row.text(9),
        run_id: row.text(10),
        attributes: call::attributes(row.jsonb(11, "attributes")?.as_ref())?,
    })
}

fn hold(row: &Row) -> Result<Hold> {
    Ok(Hold {
        id: required(row.uuid(1), "id")?,
        dimensions: dimensions(row)?,
        requested_model: row.text(7),
        size: Size {
            requests: row.int(12).unwrap_or(0),
            input_tokens: row.int(13),
            output_tokens: row.int(14),
            cost_usd: row.amount(15)?,
        },
        max_output_tokens: row.int(16),
        max_cost_usd: row.amount(17)?,
        state: row.text(18).unwrap_or_default(),
        created_at: required(row.timestamp(19), "created_at")?,
        expires_at: required(row.timestamp(20), "expires_at")?,
    })
}
