//! Rows that bring a `recorded_at` of their own: of a restore, of logical replication, of an app.
//!
//! Such a row may lie before the watermark, or before a seal that waits. So whoever books one shares
//! the rollup's lock to the end of the transaction: no round passes meanwhile, and the next one sees
//! the row. One before the watermark is added to the rollup in the same transaction, as a cell of its
//! own (no two writers meet in one), which the next round merges. Where a transaction brings very many, the
//! partition's slices are made stale instead, and summed anew.
//!
//! Thread-local cells of the backend remember what this transaction did; they are keyed by its id, and
//! so need no callback.

use super::{index_scans, insert_cells, key, slices, watermark};
use crate::pg::lock;
use crate::pg::owner::as_owner;
use crate::pg::relation;
use crate::pg::spi::{Arg, Spi};
use crate::pg::transaction;
use ai_limiter_domain::{Timestamp, error::Result};
use pgrx::pg_sys;
use std::cell::Cell;
use uuid::Uuid;

/// Late rows of one transaction that are added one by one.
const ONE_BY_ONE: u32 = 1_000;
/// Late rows that one round merges at most.
const MERGE: i64 = 20_000;

/// What this transaction brought.
#[derive(Debug, Clone, Copy)]
struct Brought {
    transaction: u64,
    subtransaction: pg_sys::SubTransactionId,
    /// As it is while the lock is shared.
    watermark: Option<Timestamp>,
    late: u32,
    /// The partition whose slices this subtransaction made stale.
    forgotten: Option<pg_sys::Oid>,
}

thread_local! {
    static BROUGHT: Cell<Option<Brought>> = const { Cell::new(None) };
}

/// Before a row with this `recorded_at` goes into the partition.
pub fn announce(recorded_at: Timestamp, partition: pg_sys::Oid) -> Result<()> {
    let (transaction, subtransaction) = transaction::ids();
    let before = BROUGHT.get().filter(|b| b.transaction == transaction);
    let mut brought = match before {
        Some(brought) if brought.subtransaction == subtransaction => brought,
        // A rollback to a savepoint may have given the lock back.
        _ => {
            lock::acquire_shared(&key());
            let late = before.map_or(0, |b| b.late);
            let watermark = as_owner(watermark::current)?;
            Brought { transaction, subtransaction, watermark, late, forgotten: None }
        }
    };
    if brought.watermark.is_some_and(|watermark| recorded_at < watermark) {
        brought.late = brought.late.saturating_add(1);
        if brought.late > ONE_BY_ONE && brought.forgotten != Some(partition) {
            as_owner(|spi| slices::forget(spi, partition))?;
            brought.forgotten = Some(partition);
        }
    }
    BROUGHT.set(Some(brought));
    Ok(())
}

/// Whether such a row, which has just been written, has to be added to the rollup. Costs next to
/// nothing where rows are stamped.
pub fn is_late(recorded_at: Timestamp, partition: pg_sys::Oid) -> bool {
    let Some(brought) = BROUGHT.get() else { return false };
    let (transaction, subtransaction) = transaction::ids();
    brought.transaction == transaction
        && brought.watermark.is_some_and(|watermark| recorded_at < watermark)
        && !(brought.forgotten == Some(partition) && brought.subtransaction == subtransaction)
}

/// Adds one row to the slices that are summed beyond it. It names the row's own partition and no
/// other: two restores that each have one for themselves must not wait for each other's.
pub fn add(id: Uuid, recorded_at: Timestamp, partition: pg_sys::Oid) -> Result<()> {
    const SQL: &str = insert_cells!(
        "u.id",
        "CROSS JOIN ai_limiter.ai_rollup_state w WHERE u.id = $1 \
            AND $2 < coalesce(s.watermark, w.watermark)"
    );
    let from = format!("FROM {} u", relation::qualified_name(partition));
    let sql = SQL.replace("FROM ai_limiter.ai_usage u", &from);
    as_owner(|spi| {
        let _settings = index_scans();
        spi.write_shaped(sql, &[id.into(), recorded_at.into()])
    })
}

/// Merges late rows into the cells that they belong to; whether there are more.
pub fn merge(spi: &Spi) -> Result<bool> {
    const SQL: &str = "WITH late AS (DELETE FROM ai_limiter.ai_usage_rollup WHERE ctid = ANY (ARRAY( \
            SELECT r.ctid FROM ai_limiter.ai_usage_rollup r WHERE r.usage_id IS NOT NULL LIMIT $1)) \
            RETURNING *), \
        merged AS (INSERT INTO ai_limiter.ai_usage_rollup AS r (slice_id, quarter, tenant_id, tier, \
            provider, model, feature, api_key_id, attributes, cell, requests, input_tokens, \
            output_tokens, cost_usd) \
        SELECT slice_id, quarter, tenant_id, tier, provider, model, feature, api_key_id, attributes, \
            cell, sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_usd) \
        FROM late GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 \
        ON CONFLICT (slice_id, tenant_id, cell, quarter, usage_id) DO UPDATE SET \
            requests = r.requests + excluded.requests, \
            input_tokens = r.input_tokens + excluded.input_tokens, \
            output_tokens = r.output_tokens + excluded.output_tokens, \
            cost_usd = r.cost_usd + excluded.cost_usd) \
        SELECT count(*) FROM late";
    // Nearly always there are none, and then nothing is written.
    const ANY: &str =
        "SELECT EXISTS (SELECT FROM ai_limiter.ai_usage_rollup WHERE usage_id IS NOT NULL)";
    if spi.read(ANY, &[], |row| Ok(row.boolean(1)))?.into_iter().next().flatten() != Some(true) {
        return Ok(false);
    }
    let merged = spi.write(SQL, &[Arg::Int(Some(MERGE))], |row| Ok(row.int(1)))?;
    Ok(merged.into_iter().next().flatten() == Some(MERGE))
}
