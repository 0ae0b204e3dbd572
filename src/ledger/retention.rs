//! Dropping months of the ledger that are older than `ai_limiter.retention`.
//!
//! A month goes whole, as its partition, in one transaction. Who still writes into it (a settle that
//! is weeks late) waits for that. DROP needs the ledger in ACCESS EXCLUSIVE mode, before which every
//! new call queues: it is tried for [`PATIENCE`] and given up, and the worker tries again later.
//!
//! Only partitions that this extension made, and that are complete: a restore makes a partition's
//! indexes, triggers and row-level security after it has filled it, and would miss one that is gone.

use crate::pg::guc;
use crate::pg::owner::as_owner;
use crate::pg::spi::Spi;
use ai_limiter_domain::{Error, Kind, Timestamp, error::Result};
use std::ffi::CStr;

/// How long calls may queue behind a DROP that waits.
const PATIENCE: &CStr = c"100ms";

/// Drops the oldest month that ends no later than `before`; false when there is none.
pub fn drop_month(before: Timestamp) -> Result<bool> {
    as_owner(|spi| {
        let Some(partition) = oldest(spi, before)? else { return Ok(false) };
        // Late charges of the month wait from here on.
        spi.utility(&format!("LOCK TABLE ai_limiter.{partition} IN SHARE MODE"));
        refuse_if_still_counted(spi)?;
        let settings = guc::Scope::new();
        settings.set(c"lock_timeout", PATIENCE);
        spi.utility("LOCK TABLE ONLY ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
        spi.utility(&format!("DROP TABLE ai_limiter.{partition}"));
        Ok(true)
    })
}

fn oldest(spi: &Spi, before: Timestamp) -> Result<Option<String>> {
    const SQL: &str = "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
        WHERE i.inhparent = 'ai_limiter.ai_usage'::regclass \
          AND c.relnamespace = 'ai_limiter'::regnamespace AND c.relname ~ '^ai_usage_\\d{4}_\\d{2}$' \
          AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= $1 AT TIME ZONE 'UTC' \
          AND c.relrowsecurity \
          AND (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid) >= 4 \
          AND EXISTS (SELECT FROM pg_trigger t \
              WHERE t.tgrelid = c.oid AND t.tgname = 'ai_usage_no_truncate') \
        ORDER BY c.relname LIMIT 1";
    let names = spi.read(SQL, &[before.into()], |row| Ok(row.text(1)))?;
    Ok(names.into_iter().flatten().next())
}

/// What counts for all time must not be forgotten.
fn refuse_if_still_counted(spi: &Spi) -> Result<()> {
    const SQL: &str = "SELECT coalesce((SELECT name FROM ai_limiter.ai_limits \
            WHERE period = 'total' AND metric <> 'concurrent' ORDER BY enabled DESC, id LIMIT 1), \
        (SELECT 'run_limit_usd' FROM ai_limiter.ai_run_limits LIMIT 1))";
    let limits = spi.read(SQL, &[], |row| Ok(row.text(1)))?;
    match limits.into_iter().flatten().next() {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("limit \"{name}\" counts the whole ledger"),
        )),
    }
}
