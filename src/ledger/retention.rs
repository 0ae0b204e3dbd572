//! Dropping months of the ledger that are older than `ai_limiter.retention`.
//!
//! A month goes whole, as its partition, in one transaction. First its totals are summed and written
//! ([`totals`]), beside the traffic; then the caller keeps all writers out
//! ([`barrier`](crate::pg::barrier)), and the partition is dropped at once. DROP needs the ledger in ACCESS EXCLUSIVE mode, before which every new query queues: it is
//! tried for [`PATIENCE`] and given up, and the worker tries again later.
//!
//! Only partitions that this extension made, and that are complete: a restore makes a partition's
//! indexes, triggers and row-level security after it has filled it, and would miss one that is gone.

use super::totals;
use crate::pg::guc;
use crate::pg::owner::as_owner;
use crate::pg::spi::{Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::{Error, Kind, Timestamp, error::Result};
use std::ffi::CStr;

/// How long queries may queue behind a DROP that waits.
const PATIENCE: &CStr = c"100ms";

/// A month of the ledger.
pub struct Month {
    partition: String,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

/// Writes the totals of a month. Who would still book into it waits from here on.
pub fn keep_totals(month: &Month) -> Result<()> {
    as_owner(|spi| {
        let settings = guc::Scope::new();
        settings.set(c"lock_timeout", PATIENCE);
        spi.utility(&format!("LOCK TABLE ai_limiter.{} IN SHARE MODE", month.partition));
        refuse_if_a_run_goes_on(spi, month)?;
        totals::keep(spi, month.starts_at, month.ends_at)
    })
}

/// Drops a month whose totals are kept.
pub fn drop_month(month: &Month) -> Result<()> {
    as_owner(|spi| {
        let settings = guc::Scope::new();
        settings.set(c"lock_timeout", PATIENCE);
        spi.utility("LOCK TABLE ONLY ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
        spi.utility(&format!("DROP TABLE ai_limiter.{}", month.partition));
        Ok(())
    })
}

/// The oldest month that ends no later than `before`.
pub fn oldest(spi: &Spi, before: Timestamp) -> Result<Option<Month>> {
    const SQL: &str = "SELECT c.relname::text, m.starts_at, m.ends_at \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, \
            LATERAL (SELECT to_date(right(c.relname, 7), 'YYYY_MM')::timestamp AS month) d, \
            LATERAL (SELECT d.month AT TIME ZONE 'UTC' AS starts_at, \
                (d.month + interval '1 month') AT TIME ZONE 'UTC' AS ends_at) m \
        WHERE i.inhparent = 'ai_limiter.ai_usage'::regclass \
          AND c.relnamespace = 'ai_limiter'::regnamespace AND c.relname ~ '^ai_usage_\\d{4}_\\d{2}$' \
          AND m.ends_at <= $1 AND c.relrowsecurity \
          AND (SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid) >= 4 \
          AND EXISTS (SELECT FROM pg_trigger t \
              WHERE t.tgrelid = c.oid AND t.tgname = 'ai_usage_no_truncate') \
        ORDER BY c.relname LIMIT 1";
    let months = spi.read(SQL, &[before.into()], |row| {
        Ok(Month {
            partition: required(row.text(1), "partition")?,
            starts_at: required(row.timestamp(2), "starts_at")?,
            ends_at: required(row.timestamp(3), "ends_at")?,
        })
    })?;
    Ok(months.into_iter().next())
}

/// Totals know no runs. What a run with a cap has spent must not be forgotten while it goes on: while
/// it has a hold, or calls after the month.
fn refuse_if_a_run_goes_on(spi: &Spi, month: &Month) -> Result<()> {
    let sql = format!(
        "SELECT u.run_id FROM ai_limiter.{} u WHERE u.run_id IS NOT NULL \
            AND (EXISTS (SELECT FROM ai_limiter.ai_run_limits r \
                    WHERE r.tenant_id = u.tenant_id AND r.run_id = u.run_id) \
                OR EXISTS (SELECT FROM ai_limiter.ai_limits l WHERE l.enabled \
                    AND l.period = 'total' AND l.metric <> 'concurrent' AND 'run' = ANY (l.per))) \
            AND (EXISTS (SELECT FROM ai_limiter.ai_usage v WHERE v.tenant_id = u.tenant_id \
                    AND v.run_id = u.run_id AND v.created_at >= $1) \
                OR EXISTS (SELECT FROM ai_limiter.ai_reservations h WHERE h.state = 'open' \
                    AND h.tenant_id = u.tenant_id AND h.run_id = u.run_id)) LIMIT 1",
        month.partition
    );
    let args = [month.ends_at.into()];
    let runs = spi.read_once(&Snapshot::latest(), &sql, &args, |row| Ok(row.text(1)))?;
    match runs.into_iter().flatten().next() {
        None => Ok(()),
        Some(run) => Err(Error::new(
            Kind::ObjectNotInPrerequisiteState,
            format!("run \"{run}\" has a cap, and calls in that month and later"),
        )),
    }
}
