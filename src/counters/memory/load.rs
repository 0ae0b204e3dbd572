//! Loading a counter that is absent: its sum from the tables, published for all.
//!
//! Guarded by the counter's heavyweight lock from before the snapshot until the counter is published:
//! one loader at a time, with deadlock detection, cancel and lock_timeout; an error gives it back. Who
//! only asks waits a moment for another loader, and not for a transaction that keeps the lock. The
//! snapshot hides this transaction's own rows, which are pending and would count twice.
//!
//! What is published under an epoch that has ended would miss what ended it: the caller starts over,
//! from the rules.

use super::statistics::{Count, count};
use super::transaction::{self, level, with_pending};
use super::{Installation, Key, shared};
use crate::counters::{Counter, table};
use crate::pg::lock;
use crate::pg::spi::{Snapshot, Spi};
use ai_limiter_domain::counters::Sums;
use ai_limiter_domain::error::Result;
use pgrx::pg_sys;

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It is there; pinned if that was asked for.
    Present,
    /// There is no room for it, or who keeps its lock has found none. If it was to be pinned, its lock
    /// is kept to the end of the transaction.
    NoRoom,
    /// Rules or zones have changed since `epoch`.
    Stale,
}

/// How often, and for how many microseconds, who only asks waits for another loader. Long enough for
/// most loads, so that not everybody sums after a restart.
const MOST_WAITS: u32 = 50;
const WAIT_MICROSECONDS: i64 = 2_000;

/// Makes the counter present. `pins` keeps it so until the end of the (sub)transaction.
pub fn load(
    spi: &Spi,
    installation: &'static Installation,
    epoch: u64,
    (key, counter): (&Key, &Counter),
    pins: bool,
) -> Result<Loaded> {
    let lock_key = counter.own_lock_key();
    if !lock::try_acquire(&lock_key) {
        count(Count::LockWaits);
        if pins {
            lock::acquire(&lock_key);
        } else if let Some(loaded) = await_loader(installation, key, &lock_key) {
            return Ok(loaded);
        }
    }
    let loaded = load_locked(spi, installation, epoch, (key, counter), pins)?;
    if loaded == Loaded::NoRoom && pins {
        transaction::keep_locked(installation, key.hash);
    } else {
        lock::release(&lock_key);
    }
    Ok(loaded)
}

/// Waits for a counter that somebody else loads, or for its lock: then `None`.
fn await_loader(
    installation: &'static Installation,
    key: &Key,
    lock_key: &lock::Key,
) -> Option<Loaded> {
    for _ in 0..MOST_WAITS {
        // SAFETY: sleeps; an interrupt that is pending raises, which unwinds.
        unsafe { pg_sys::pg_usleep(WAIT_MICROSECONDS) };
        pgrx::check_for_interrupts!();
        if super::is_present(installation, key) {
            return Some(Loaded::Present);
        }
        if lock::try_acquire(lock_key) {
            return None;
        }
    }
    Some(Loaded::NoRoom)
}

fn load_locked(
    spi: &Spi,
    installation: &'static Installation,
    epoch: u64,
    (key, counter): (&Key, &Counter),
    pins: bool,
) -> Result<Loaded> {
    // Somebody else may have been faster.
    if take(installation, key, None, pins) {
        return Ok(Loaded::Present);
    }
    let sums = {
        lock::keep_months();
        let snapshot = Snapshot::of_others();
        let reading = table::load(spi, &snapshot, counter)?;
        Sums { used: reading.used.pico(), held: reading.held.pico() }
    };
    count(Count::Loads);
    if installation.epoch() != epoch {
        return Ok(Loaded::Stale);
    }
    let is_present = take(installation, key, Some((sums, epoch)), pins);
    Ok(match is_present {
        true => Loaded::Present,
        false if installation.epoch() != epoch => Loaded::Stale,
        false => Loaded::NoRoom,
    })
}

/// Finds the counter, or puts it if its sums are given and the epoch stands; pins it if asked to. Whether
/// it is there.
fn take(
    installation: &'static Installation,
    key: &Key,
    publish: Option<(Sums, u64)>,
    pins: bool,
) -> bool {
    let level = level();
    with_pending(installation, |pending| {
        pending.reserve(1);
        shared::exclusive(|inside| {
            let at = match (inside.table.find(key.hash), publish) {
                (Some(at), _) => Some(at),
                (None, Some((sums, epoch))) if installation.epoch() == epoch => {
                    inside.table.insert(key.hash, key.labels, sums)
                }
                (None, _) => None,
            };
            if let Some(at) = at.filter(|_| pins) {
                pending.touch(key.hash, at, level, &mut inside.table);
            }
            at.is_some()
        })
    })
    .unwrap_or(false)
}
