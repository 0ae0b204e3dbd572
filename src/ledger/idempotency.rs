//! Idempotency keys: the first answer, kept for `ai_limiter.idempotency_retention`.
//!
//! The key's lock is taken before the row is looked for, so that two calls with one key never both
//! go on, at any isolation level. Only what charged or held something is remembered: a denied
//! reserve wrote nothing, and the same key may be tried again.

use crate::pg::lock::{self, Class, Key};
use crate::pg::spi::{Arg, Spi};
use crate::settings::IDEMPOTENCY_RETENTION;
use ai_limiter_domain::{Error, Timestamp, error::Result};
use serde_json::Value;
use uuid::Uuid;

/// Locks the key and gives the answer that it already has.
///
/// # Errors
/// 22023 when the key was used with other arguments.
pub fn answer(
    spi: &Spi,
    tenant: Uuid,
    key: &str,
    arguments: &str,
    now: Timestamp,
) -> Result<Option<Value>> {
    const SQL: &str = "SELECT answer, arguments_hash = pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')) \
        FROM ai_limiter.ai_idempotency WHERE tenant_id = $1 AND key = $2 AND created_at > $4";
    lock::acquire(&Key::new(Class::IdempotencyKey, &format!("{tenant} {key}")));
    let args = [tenant.into(), key.into(), arguments.into(), forgotten_before(now).into()];
    let rows = spi.read(SQL, &args, |row| Ok((row.json(1), row.boolean(2))))?;
    match rows.into_iter().next() {
        None => Ok(None),
        Some((answer, Some(true))) => Ok(answer),
        Some(_) => Err(Error::invalid("idempotency key was used with other arguments").hint(
            "Use a new key for each call, and the same key only to send the same call again.",
        )),
    }
}

pub fn remember(spi: &Spi, tenant: Uuid, key: &str, arguments: &str, answer: &Value) -> Result<()> {
    // A row may be there that is too old to count.
    const SQL: &str = "INSERT INTO ai_limiter.ai_idempotency AS i (tenant_id, key, arguments_hash, answer) \
        VALUES ($1, $2, pg_catalog.sha256(pg_catalog.convert_to($3, 'UTF8')), $4) \
        ON CONFLICT (tenant_id, key) DO UPDATE SET arguments_hash = excluded.arguments_hash, \
        answer = excluded.answer, created_at = excluded.created_at";
    let args = [tenant.into(), key.into(), arguments.into(), Arg::Jsonb(answer.to_string())];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// Deletes keys that are too old to count, as many as fit a batch; says how many. Those that a call
/// writes at this moment are left for the next time.
pub fn forget(spi: &Spi, now: Timestamp, batch: usize) -> Result<usize> {
    const SQL: &str = "DELETE FROM ai_limiter.ai_idempotency WHERE (tenant_id, key) IN \
        (SELECT tenant_id, key FROM ai_limiter.ai_idempotency WHERE created_at <= $1 \
         LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
    let args = [forgotten_before(now).into(), Arg::count(batch)];
    Ok(spi.write(SQL, &args, |_| Ok(()))?.len())
}

fn forgotten_before(now: Timestamp) -> Timestamp {
    Timestamp(now.0 - i64::from(IDEMPOTENCY_RETENTION.get()) * 1_000_000)
}
