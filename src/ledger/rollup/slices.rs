//! Slices: what of the ledger is summed, a partition by the dimensions of some rules.
//!
//! A new rule with new dimensions, a new month, a partition that was attached: each is a slice that is
//! not there yet, and the ledger is read in its place until it has caught up. A partition that was
//! detached, dropped, truncated, rewritten or whose triggers were off for a while is no longer what
//! was summed: its slices do not count from that commit on, whatever the rounds do, because readers
//! compare the identity. All changes here are made by who holds the rollup's lock exclusively, but
//! [`forget`].

use super::watermark::{self, NEVER};
use super::{Progress, fold, stretch};
use crate::pg::lock::{self, Class, Key};
use crate::pg::relation;
use crate::pg::spi::{Arg, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::grain::Grain;
use ai_limiter_domain::{Timestamp, error::Result};
use pgrx::pg_sys;
use serde_json::json;
use std::collections::BTreeMap;

/// More would be many rules with dimensions of their own; what is beyond reads the ledger.
const GRAINS: usize = 32;
/// Rows of a stale slice that one round deletes at most.
const SWEEP: i64 = 50_000;

/// What a partition is, from `pg_inherits` i and `pg_class` c: its attachment, its file, its triggers
/// and whether they fire. A transaction that changes any of these makes another identity.
macro_rules! identity {
    () => {
        "concat_ws(' ', i.xmin, c.relfilenode, (SELECT string_agg(concat_ws('/', t.oid, t.xmin, \
            t.tgenabled), ' ' ORDER BY t.oid) FROM pg_trigger t WHERE t.tgrelid = c.oid))"
    };
}
pub(crate) use identity;

/// Makes what rules need and is not there, and lets go what nothing needs or what has changed.
pub fn choose(spi: &Spi, wanted: &BTreeMap<Grain, Timestamp>) -> Result<()> {
    const WANTED: &str = "jsonb_to_recordset($1) AS w(dimensions text[], reach bigint)";
    const REACHED: &str = "(w.reach IS NULL OR \
        p.ends_at > timestamptz '2000-01-01 00:00:00+00' + w.reach * interval '1 microsecond')";
    // Guarded: all that is written there is seen by the triggers.
    const PARTITIONS: &str = concat!(
        "SELECT c.oid, ",
        identity!(),
        " AS identity, b.bounds[1]::timestamptz AS starts_at, \
            b.bounds[2]::timestamptz AS ends_at \
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid CROSS JOIN LATERAL (SELECT \
            regexp_match(pg_get_expr(c.relpartbound, c.oid), \
                '^FOR VALUES FROM [(]''([^'']+)''[)] TO [(]''([^'']+)''[)]$') AS bounds) b \
        WHERE i.inhparent = 'ai_limiter.ai_usage'::regclass AND c.relkind = 'r' \
            AND b.bounds IS NOT NULL AND (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid \
                AND t.tgenabled = 'A' AND t.tgname IN ('ai_usage_insert', 'ai_usage_inserted', \
                    'ai_usage_append_only')) = 3"
    );
    let let_go = format!(
        "WITH p AS ({PARTITIONS}) UPDATE ai_limiter.ai_rollup_slices s SET stale = true \
         WHERE NOT s.stale AND NOT EXISTS (SELECT FROM p, {WANTED} WHERE p.oid = s.partition \
            AND p.identity = s.identity AND w.dimensions = s.dimensions AND {REACHED})"
    );
    let make = format!(
        "WITH p AS ({PARTITIONS}) INSERT INTO ai_limiter.ai_rollup_slices \
            (partition, identity, dimensions, starts_at, ends_at, watermark) \
         SELECT p.oid, p.identity, w.dimensions, p.starts_at, p.ends_at, '-infinity' \
         FROM p, {WANTED} WHERE {REACHED} AND NOT EXISTS (SELECT FROM ai_limiter.ai_rollup_slices s \
            WHERE s.partition = p.oid AND s.dimensions = w.dimensions AND NOT s.stale)"
    );
    let mut grains: Vec<_> = wanted.iter().collect();
    grains.sort_by_key(|(grain, _)| grain.len());
    let grains: Vec<_> = grains
        .into_iter()
        .take(GRAINS)
        .map(|(grain, reach)| {
            let reach = Some(reach.0).filter(|reach| *reach > i64::MIN / 2);
            json!({ "dimensions": grain.names().collect::<Vec<_>>(), "reach": reach })
        })
        .collect();
    let args = [Arg::Jsonb(json!(grains).to_string())];
    spi.write_shaped(let_go, &args)?;
    spi.write_shaped(make, &args)
}

/// Sums slices that are behind up to the watermark, the latest months first; about `most` rows.
pub fn catch_up(spi: &Spi, most: i64) -> Result<Progress> {
    let mut progress = Progress::default();
    let Some(watermark) = watermark::current(spi)? else { return Ok(progress) };
    while let Some(behind) = next(spi)? {
        if progress.rows >= most {
            progress.more = true;
            break;
        }
        if behind.watermark == NEVER {
            summarize(spi, behind.partition)?;
        }
        let created = (behind.starts_at, behind.ends_at);
        let recorded = (behind.watermark, watermark);
        let (until, rows) = stretch(spi, recorded, created, most - progress.rows)?;
        let slices = (behind.partition, behind.watermark);
        if rows > 0 {
            fold(spi, (behind.watermark, until), created, Some(slices))?;
        }
        reached(spi, &behind, Some(until).filter(|until| *until < watermark))?;
        progress.rows += rows;
    }
    Ok(progress)
}

/// Slices of one partition that are equally far behind.
struct Behind {
    partition: i64,
    watermark: Timestamp,
    starts_at: Timestamp,
    ends_at: Timestamp,
}

fn next(spi: &Spi) -> Result<Option<Behind>> {
    const SQL: &str = "SELECT partition::bigint, watermark, starts_at, ends_at \
        FROM ai_limiter.ai_rollup_slices WHERE NOT stale AND watermark IS NOT NULL \
        ORDER BY ends_at DESC, watermark LIMIT 1";
    let rows = spi.read(SQL, &[], |row| {
        Ok(Behind {
            partition: required(row.int(1), "partition")?,
            watermark: required(row.timestamp(2), "watermark")?,
            starts_at: required(row.timestamp(3), "starts_at")?,
            ends_at: required(row.timestamp(4), "ends_at")?,
        })
    })?;
    Ok(rows.into_iter().next())
}

fn reached(spi: &Spi, behind: &Behind, until: Option<Timestamp>) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_rollup_slices SET watermark = $1 \
        WHERE partition = $2::oid AND watermark = $3 AND NOT stale";
    let args = [Arg::Timestamp(until), Arg::Int(Some(behind.partition)), behind.watermark.into()];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// Lets the index by time know the pages that vacuum has not got to, unless somebody works on the
/// table.
fn summarize(spi: &Spi, partition: i64) -> Result<()> {
    const SQL: &str = "SELECT brin_summarize_new_values(x.indexrelid) FROM pg_index x \
        JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am a ON a.oid = c.relam \
        WHERE x.indrelid = $1::oid AND a.amname = 'brin'";
    if u32::try_from(partition).is_ok_and(|oid| relation::try_lock_against_vacuum(oid.into())) {
        spi.write(SQL, &[Arg::Int(Some(partition))], |_| Ok(()))?;
    }
    Ok(())
}

/// Deletes rows that no longer count; whether there are more.
pub fn sweep(spi: &Spi) -> Result<bool> {
    const STALE: &str =
        "SELECT slice_id FROM ai_limiter.ai_rollup_slices WHERE stale ORDER BY 1 LIMIT 1";
    const CELLS: &str = "DELETE FROM ai_limiter.ai_usage_rollup WHERE ctid = ANY (ARRAY( \
        SELECT r.ctid FROM ai_limiter.ai_usage_rollup r WHERE r.slice_id = $1 LIMIT $2)) \
        RETURNING slice_id";
    const SLICE: &str = "DELETE FROM ai_limiter.ai_rollup_slices WHERE slice_id = $1 AND stale";
    let mut left = SWEEP;
    loop {
        let stale = spi.read(STALE, &[], |row| Ok(row.int(1)))?.into_iter().next().flatten();
        let Some(slice) = stale else { return Ok(false) };
        if left <= 0 {
            return Ok(true);
        }
        let deleted =
            spi.write(CELLS, &[Arg::Int(Some(slice)), Arg::Int(Some(left))], |_| Ok(()))?;
        if (deleted.len() as i64) < left {
            spi.write(SLICE, &[Arg::Int(Some(slice))], |_| Ok(()))?;
        }
        left -= deleted.len() as i64 + 1;
    }
}

/// From this transaction's commit on, nothing that was summed of the partition counts. For who shares
/// the rollup's lock.
pub fn forget(spi: &Spi, partition: pg_sys::Oid) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_rollup_slices SET stale = true \
        WHERE partition = $1::oid AND NOT stale";
    let oid = partition.to_u32();
    // One at a time: of two above READ COMMITTED the second would meet 40001.
    lock::acquire(&Key::new(Class::RollupPartition, &oid.to_string()));
    spi.write(SQL, &[Arg::Int(Some(i64::from(oid)))], |_| Ok(()))?;
    Ok(())
}

pub fn forget_all(spi: &Spi) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_rollup_slices SET stale = true WHERE NOT stale";
    spi.write(SQL, &[], |_| Ok(()))?;
    Ok(())
}
