//! Keeping house: what the worker does by itself and `refresh_ai_counters()` when it is called.
//!
//! One function a duty. Each does a part that is short enough for one transaction, as the owner of the
//! tables, and says whether there is more; none waits for a row that somebody holds. Nothing here has
//! to run for an answer to be right: it makes tables small and what happened visible.

use super::{denial, expiry};
use crate::counters::memory;
use crate::ledger::{
    config, denials, estimates, holds, idempotency, partitions, retention, rollup, totals,
};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::{barrier, clock};
use crate::settings::{RESERVATION_RETENTION, RETENTION};
use ai_limiter_domain::window::Unit;
use ai_limiter_domain::{Period, Timestamp, error::Result};

/// Rows that one call deletes: some ten milliseconds.
const BATCH: usize = 1_000;
/// Batches of holds that one transaction expires: each hold takes a lock, of which a server has some
/// thousands.
const MOST_BATCHES: usize = 8;

/// What is left of a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Done,
    More,
}

impl Rest {
    /// A batch that was full may not have been all.
    fn after(written: usize) -> Self {
        if written < BATCH { Rest::Done } else { Rest::More }
    }
}

/// Marks holds whose time is over; they stop counting when this commits.
pub fn expire_holds(_now: Timestamp) -> Result<Rest> {
    Ok(if expiry::sweep()? == 0 { Rest::Done } else { Rest::More })
}

/// Forgets expired and released holds after `ai_limiter.reservation_retention`.
pub fn forget_holds(now: Timestamp) -> Result<Rest> {
    let before = now.0 - i64::from(RESERVATION_RETENTION.get()) * 1_000_000;
    as_owner(|spi| holds::forget(spi, Timestamp(before), BATCH).map(Rest::after))
}

/// Forgets idempotency keys after `ai_limiter.idempotency_retention`.
pub fn forget_keys(now: Timestamp) -> Result<Rest> {
    as_owner(|spi| idempotency::forget(spi, now, BATCH).map(Rest::after))
}

/// Merges the denials of past minutes that say the same.
pub fn merge_denials(now: Timestamp) -> Result<Rest> {
    as_owner(|spi| denials::merge(spi, now))?;
    Ok(Rest::Done)
}

/// Makes the ledger's next partitions, unless somebody is making them.
pub fn make_partitions(now: Timestamp) -> Result<Rest> {
    partitions::keep_ahead(now)?;
    Ok(Rest::Done)
}

/// Drops a month of the ledger that is older than `ai_limiter.retention` and that no limit needs: the
/// windows of its rules, and those of a calendar month, which a rule may get at any time.
pub fn drop_partitions(now: Timestamp) -> Result<Rest> {
    let retention = i64::from(RETENTION.get());
    if retention == 0 {
        return Ok(Rest::Done);
    }
    let limits = as_owner(|spi| config::limits(spi, &Snapshot::latest()))?;
    let running = Period::Calendar(Unit::Month).earliest(now);
    let needed = totals::needed_from(&limits, now).min(running);
    let before = needed.min(Timestamp(now.0 - retention * 1_000_000));
    let Some(month) = as_owner(|spi| retention::oldest(spi, before))? else {
        return Ok(Rest::Done);
    };
    retention::keep_totals(&month)?;
    // What runs have spent is counted anew afterwards.
    barrier::exclude_writers("drop a month of the ledger")?;
    memory::begin_bulk()?;
    retention::drop_month(&month)?;
    Ok(Rest::More)
}

/// Writes the denials that wait in shared memory.
pub fn write_denials(_now: Timestamp) -> Result<Rest> {
    denial::write_waiting()?;
    Ok(Rest::Done)
}

/// Brings the rollup forward.
pub fn advance_rollup(_now: Timestamp) -> Result<Rest> {
    Ok(if rollup::advance()?.more { Rest::More } else { Rest::Done })
}

/// Learns what calls have returned.
pub fn learn_estimates(now: Timestamp) -> Result<Rest> {
    Ok(if as_owner(|spi| estimates::learn(spi, now))?.more { Rest::More } else { Rest::Done })
}

/// Learns all that there is to learn in the caller's transaction; says from how many calls.
pub fn learn_all() -> Result<i64> {
    let now = clock::now();
    let mut calls = 0;
    loop {
        pgrx::check_for_interrupts!();
        let progress = as_owner(|spi| estimates::learn(spi, now))?;
        calls += progress.calls;
        if !progress.more {
            return Ok(calls);
        }
    }
}

/// All that can be done in the caller's transaction; the counters in shared memory are loaded anew when
/// this commits. Where calls stay open that were admitted, only that is left out, with a warning.
pub fn refresh() -> Result<()> {
    // First, while this transaction has written nothing that a seal would wait for.
    rollup::advance()?;
    let now = clock::now();
    for _ in 0..MOST_BATCHES {
        if expiry::expire(now, None)? == 0 {
            break;
        }
    }
    for duty in [forget_holds, forget_keys, merge_denials] {
        while duty(now)? == Rest::More {}
    }
    if memory::current()?.is_none() {
        return Ok(());
    }
    if barrier::try_exclude_writers()? {
        memory::begin_bulk()?;
    } else {
        pgrx::warning!("counters were not loaded anew: calls that were admitted are still open");
    }
    Ok(())
}
