//! The sealed watermark: the instant before which every row of the ledger is final.
//!
//! A seal is an instant W of the stamp and then, read after it, the next transaction id X. Whoever
//! writes into the ledger has an id before the row is stamped. So a row stamped before W is of a
//! transaction whose id is below X. Once a snapshot's xmin has reached X, all those have ended, and
//! that snapshot and every later one see all that they committed: no row before W is to come. The order
//! matters on both sides. With X read before W, a writer could get an id above X and a stamp before W.
//!
//! A seal waits in `ai_rollup_state` for the transactions that are open, however long, and the rounds
//! go on asking. Meanwhile the tail grows. An id is compared with its epoch, so none comes round.

use super::{Progress, ROUND, fold, stretch};
use crate::pg::spi::{Arg, Snapshot, Spi};
use crate::pg::stamp;
use crate::pg::transaction;
use ai_limiter_domain::{Timestamp, error::Result};
use std::cell::Cell;

pub const NEVER: Timestamp = Timestamp(i64::MIN);

#[derive(Debug, Clone, Copy)]
struct Seal {
    at: Timestamp,
    xid: u64,
}

thread_local! {
    /// What the stamp may not be before, as this backend found it when it first stamped.
    static FLOOR: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// When a row of the ledger is booked. Whoever calls this has a transaction id already, and it must
/// never give an earlier instant after a later one: the watermark rests on both. The stamp of a server
/// that starts with a clock that is behind goes on from the watermark.
pub fn stamp(spi: &Spi) -> Result<Timestamp> {
    if FLOOR.get().is_none() {
        let floor = floor(spi)?;
        stamp::raise(floor);
        FLOOR.set(Some(floor));
    }
    Ok(known_stamp().unwrap_or_else(stamp::next))
}

/// The stamp, where it needs no look into the database.
pub fn known_stamp() -> Option<Timestamp> {
    FLOOR.get().map(|floor| stamp::next().max(floor))
}

fn floor(spi: &Spi) -> Result<Timestamp> {
    const SQL: &str = "SELECT greatest(watermark, sealed_at) FROM ai_limiter.ai_rollup_state";
    let rows = spi.read(SQL, &[], |row| Ok(row.timestamp(1)))?;
    Ok(rows.into_iter().next().flatten().unwrap_or(NEVER))
}

/// The watermark under the latest snapshot.
pub fn current(spi: &Spi) -> Result<Option<Timestamp>> {
    const SQL: &str = "SELECT watermark FROM ai_limiter.ai_rollup_state";
    Ok(spi.read(SQL, &[], |row| Ok(row.timestamp(1)))?.into_iter().next().flatten())
}

/// Moves the watermark as far as it may go, and adds the rows that it passes to the slices that have
/// caught up.
pub fn advance(spi: &Spi) -> Result<Progress> {
    let waiting = waiting(spi)?;
    let seal = match waiting {
        Some(seal) => seal,
        None => seal(spi)?,
    };
    // A snapshot from after the seal.
    if oldest_open(spi)? < seal.xid {
        if waiting.is_none() {
            wait_for(spi, Some(seal))?;
        }
        return Ok(Progress::default());
    }
    let from = current(spi)?;
    let least = from.unwrap_or(NEVER);
    if seal.at <= least {
        if waiting.is_some() {
            wait_for(spi, None)?;
        }
        return Ok(Progress::default());
    }
    let Some(created) = caught_up(spi)? else {
        // Nothing counts yet: the watermark is where slices will have to get to.
        if from.is_none() || waiting.is_some() {
            set(spi, seal.at)?;
            wait_for(spi, None)?;
        }
        return Ok(Progress::default());
    };
    let (until, rows) = stretch(spi, (least, seal.at), created, ROUND)?;
    // An idle database is left alone.
    if rows > 0 {
        fold(spi, (least, until), created, None)?;
    }
    if rows > 0 || waiting.is_some() {
        set(spi, until)?;
    }
    if until < seal.at {
        wait_for(spi, Some(seal))?;
    } else if waiting.is_some() {
        wait_for(spi, None)?;
    }
    Ok(Progress { rows, more: until < seal.at })
}

/// The instant first, then the id: see above.
fn seal(spi: &Spi) -> Result<Seal> {
    let at = stamp(spi)?;
    Ok(Seal { at, xid: transaction::next_id() })
}

fn waiting(spi: &Spi) -> Result<Option<Seal>> {
    const SQL: &str = "SELECT sealed_at, sealed_xid::text FROM ai_limiter.ai_rollup_state";
    let rows = spi.read(SQL, &[], |row| {
        let xid = row.text(2).and_then(|xid| xid.parse().ok());
        Ok(row.timestamp(1).zip(xid).map(|(at, xid)| Seal { at, xid }))
    })?;
    Ok(rows.into_iter().next().flatten())
}

fn wait_for(spi: &Spi, seal: Option<Seal>) -> Result<()> {
    const SQL: &str =
        "UPDATE ai_limiter.ai_rollup_state SET sealed_at = $1, sealed_xid = $2::text::xid8";
    let xid = seal.map(|seal| seal.xid.to_string());
    let args = [Arg::Timestamp(seal.map(|seal| seal.at)), xid.as_deref().into()];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

fn set(spi: &Spi, watermark: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_rollup_state SET watermark = $1";
    spi.write(SQL, &[watermark.into()], |_| Ok(()))?;
    Ok(())
}

/// The smallest id of a transaction that may still be open.
fn oldest_open(spi: &Spi) -> Result<u64> {
    const SQL: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text";
    let rows = spi.read_at(&Snapshot::latest(), SQL, &[], |row| Ok(row.text(1)))?;
    let xmin = rows.into_iter().next().flatten().and_then(|xid| xid.parse().ok());
    Ok(xmin.unwrap_or(0))
}

/// The `created_at` that slices which have caught up reach over, if there are any.
fn caught_up(spi: &Spi) -> Result<Option<(Timestamp, Timestamp)>> {
    const SQL: &str = "SELECT min(starts_at), max(ends_at) FROM ai_limiter.ai_rollup_slices \
        WHERE NOT stale AND watermark IS NULL";
    let rows = spi.read(SQL, &[], |row| Ok(row.timestamp(1).zip(row.timestamp(2))))?;
    Ok(rows.into_iter().next().flatten())
}
