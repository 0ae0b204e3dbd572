//! The ledger's history, summed by quarter-hour, so that a counter is loaded without reading it again.
//!
//! Rollup and tail are the ledger, for every snapshot: one transaction moves the watermark and adds
//! the rows before it, and whoever reads takes both and the rows from the watermark on under one
//! snapshot. A row before the watermark cannot appear afterwards ([`watermark`]); one that brings such
//! a `recorded_at` along is added in its own transaction ([`late`]).
//!
//! What is summed is cut into slices, a partition of the ledger by the dimensions of some rules
//! ([`slices`]). A slice counts once it has caught up, and only while its partition is what it was.
//! Where there is none the ledger is read: nothing here is needed for an answer.
//!
//! Who advances holds [`Class::Rollup`] exclusively, who books a row with a `recorded_at` of its own
//! holds it shared; readers hold nothing.

pub mod late;
mod slices;
mod watermark;

use super::config;
use crate::pg::clock;
use crate::pg::guc;
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use crate::pg::spi::{Arg, Snapshot, Spi};
use crate::pg::subtransaction;
use ai_limiter_domain::{Timestamp, error::Result, grain};
use pgrx::PgSqlErrorCode;

/// Ledger rows that one round adds at most, about: half a second's work, for which those wait who book a
/// row with a `recorded_at` of its own.
const ROUND: i64 = 200_000;

/// A round's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Ledger rows that were looked at.
    pub rows: i64,
    /// Whether another round has work already.
    pub more: bool,
}

/// One round, in the caller's transaction, which is best a short one of its own. It waits for
/// nobody: where another round is under way, or somebody restores or locks a partition, it does
/// nothing.
pub fn advance() -> Result<Progress> {
    let round = || as_owner(round);
    match subtransaction::attempt(round, |_| true)? {
        Ok(progress) => Ok(progress),
        Err(error)
            if subtransaction::code_of(&error) == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE =>
        {
            Ok(Progress::default())
        }
        Err(error) => error.rethrow(),
    }
}

fn round(spi: &Spi) -> Result<Progress> {
    if !lock::try_acquire(&key()) {
        return Ok(Progress::default());
    }
    let settings = index_scans();
    // Bounds of partitions shall read back as they are written.
    settings.set(c"datestyle", c"ISO, YMD");
    settings.set(c"timezone", c"UTC");
    // Below deadlock_timeout: a COPY that has its partition for itself may want the rollup's lock.
    settings.set(c"lock_timeout", c"200ms");
    // First, while this transaction has no id of its own to wait for.
    let mut progress = watermark::advance(spi)?;
    let limits = config::limits(spi, &Snapshot::latest())?;
    slices::choose(spi, &grain::wanted(&limits, clock::now()))?;
    if progress.rows < ROUND {
        let caught_up = slices::catch_up(spi, ROUND - progress.rows)?;
        progress.rows += caught_up.rows;
        progress.more |= caught_up.more;
    }
    progress.more |= late::merge(spi)?;
    progress.more |= slices::sweep(spi)?;
    Ok(progress)
}

/// Forgets what was summed; the next rounds sum it anew.
pub fn reset() -> Result<()> {
    as_owner(|spi| {
        lock::acquire(&key());
        slices::forget_all(spi)
    })
}

/// See [`watermark::stamp`].
pub fn stamp() -> Result<Timestamp> {
    match watermark::known_stamp() {
        Some(now) => Ok(now),
        None => as_owner(watermark::stamp),
    }
}

fn key() -> Key {
    Key::new(Class::Rollup, "ai_usage_rollup")
}

/// How the rollup and the ledger's tail are read, also where no statistics say that the tail is
/// short.
pub fn index_scans() -> guc::Scope {
    let settings = guc::Scope::new();
    settings.set(c"enable_seqscan", c"off");
    settings.set(c"jit", c"off");
    // Workers take 10 ms to start; the sums of a month of quarter-hours take one.
    settings.set(c"max_parallel_workers_per_gather", c"0");
    settings
}

/// Turns rows `u` of the ledger into cells of the slices `s`, which follow as FROM and WHERE.
macro_rules! insert_cells {
    ($usage_id:literal, $from:literal) => {
        concat!(
            "INSERT INTO ai_limiter.ai_usage_rollup AS r (slice_id, quarter, tenant_id, tier, \
                provider, model, feature, api_key_id, attributes, cell, usage_id, requests, \
                input_tokens, output_tokens, cost_usd) \
            SELECT g.slice_id, g.quarter, g.tenant_id, g.tier, g.provider, g.model, g.feature, \
                g.api_key_id, g.attributes, ",
            $crate::ledger::rollup::cell!(
                "g.tier", "g.provider", "g.model", "g.feature", "g.api_key_id", "g.attributes"
            ),
            ", g.usage_id, g.requests, g.input_tokens, g.output_tokens, g.cost_usd \
            FROM (SELECT s.slice_id, \
                    date_bin('15 minutes', u.created_at, '2000-01-01 00:00:00+00') AS quarter, \
                    CASE WHEN s.by_tenant THEN u.tenant_id END AS tenant_id, \
                    CASE WHEN s.by_tier THEN u.tier END AS tier, \
                    CASE WHEN s.by_provider THEN u.provider END AS provider, \
                    CASE WHEN s.by_model THEN u.model END AS model, \
                    CASE WHEN s.by_feature THEN u.feature END AS feature, \
                    CASE WHEN s.by_api_key_id THEN u.api_key_id END AS api_key_id, \
                    CASE WHEN s.keys <> '{}' THEN coalesce((SELECT \
                        jsonb_object_agg(k.key, u.attributes -> k.key) FROM unnest(s.keys) k(key) \
                        WHERE u.attributes ? k.key), '{}') END AS attributes, ",
            $usage_id,
            " AS usage_id, sum(u.requests) AS requests, sum(u.input_tokens) AS input_tokens, \
                    sum(u.output_tokens) AS output_tokens, sum(u.cost_usd) AS cost_usd \
                FROM ai_limiter.ai_usage u \
                JOIN (SELECT slice_id, partition, watermark, \
                        'tenant' = ANY (dimensions) AS by_tenant, \
                        'tier' = ANY (dimensions) AS by_tier, \
                        'provider' = ANY (dimensions) AS by_provider, \
                        'model' = ANY (dimensions) AS by_model, \
                        'feature' = ANY (dimensions) AS by_feature, \
                        'api_key_id' = ANY (dimensions) AS by_api_key_id, \
                        ARRAY(SELECT substr(d, 11) FROM unnest(dimensions) d \
                            WHERE starts_with(d, 'attribute:')) AS keys \
                    FROM ai_limiter.ai_rollup_slices WHERE NOT stale) s ON s.partition = u.tableoid ",
            $from,
            " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10) g \
            ON CONFLICT (slice_id, tenant_id, cell, quarter, usage_id) DO UPDATE SET \
                requests = r.requests + excluded.requests, \
                input_tokens = r.input_tokens + excluded.input_tokens, \
                output_tokens = r.output_tokens + excluded.output_tokens, \
                cost_usd = r.cost_usd + excluded.cost_usd"
        )
    };
}

/// The hash of a cell's dimensions, from expressions for them.
macro_rules! cell {
    ($tier:literal, $provider:literal, $model:literal, $feature:literal, $key:literal, $attributes:literal) => {
        concat!(
            "encode(substr(sha256(convert_to(jsonb_build_array(",
            $tier,
            ", ",
            $provider,
            ", ",
            $model,
            ", ",
            $feature,
            ", ",
            $key,
            ", ",
            $attributes,
            ")::text, 'UTF8')), 1, 16), 'hex')::uuid"
        )
    };
}
pub(crate) use cell;
use insert_cells;
pub(crate) use slices::identity;

/// Adds the rows with these `recorded_at` and `created_at` to the slices that are summed up to there:
/// those of one partition, or all that have caught up.
fn fold(
    spi: &Spi,
    recorded: (Timestamp, Timestamp),
    created: (Timestamp, Timestamp),
    slices: Option<(i64, Timestamp)>,
) -> Result<()> {
    const SQL: &str = insert_cells!(
        "NULL::uuid",
        "WHERE u.recorded_at >= $1 AND u.recorded_at < $2 \
            AND u.created_at >= $3 AND u.created_at < $4 \
            AND s.watermark IS NOT DISTINCT FROM $5 AND ($6 IS NULL OR s.partition = $6::oid)"
    );
    let args = [
        recorded.0.into(),
        recorded.1.into(),
        created.0.into(),
        created.1.into(),
        Arg::Timestamp(slices.map(|s| s.1)),
        Arg::Int(slices.map(|s| s.0)),
    ];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// How far from `recorded.0` on about `most` rows reach, at most to `recorded.1`; and how many they
/// are. In a ledger whose `recorded_at` follow the order in which its rows lie this is exact enough;
/// in a shuffled one halves are tried. Rows that were recorded in one millisecond stay together.
fn stretch(
    spi: &Spi,
    recorded: (Timestamp, Timestamp),
    created: (Timestamp, Timestamp),
    most: i64,
) -> Result<(Timestamp, i64)> {
    const COUNT: &str = "SELECT count(*), max(recorded_at) FROM (SELECT recorded_at \
        FROM ai_limiter.ai_usage WHERE recorded_at >= $1 AND recorded_at < $2 \
            AND created_at >= $3 AND created_at < $4 LIMIT $5) u";
    let count = |until: Timestamp, limit: i64| -> Result<(i64, Option<Timestamp>)> {
        let args = [
            recorded.0.into(),
            until.into(),
            created.0.into(),
            created.1.into(),
            Arg::Int(Some(limit)),
        ];
        let rows = spi.read(COUNT, &args, |row| Ok((row.int(1).unwrap_or(0), row.timestamp(2))))?;
        Ok(rows.into_iter().next().unwrap_or((0, None)))
    };
    let (found, newest) = count(recorded.1, most)?;
    if found < most {
        return Ok((recorded.1, found));
    }
    // Nearly all rows are recorded in or after the month they were made in.
    let mut least = recorded.0;
    if least < created.0 && created.0 < recorded.1 {
        let (found, _) = count(created.0, most)?;
        if found > 0 {
            return Ok((created.0, found));
        }
        least = created.0;
    }
    let mut until = newest.map_or(recorded.1, |t| Timestamp(t.0.saturating_add(1)).min(recorded.1));
    loop {
        let (found, _) = count(until, 2 * most)?;
        if found < 2 * most || until.0.saturating_sub(least.0) <= 1_000 {
            return Ok((until, found));
        }
        until = Timestamp(least.0 + until.0.saturating_sub(least.0) / 2);
    }
}
