//! Expiring holds: one whose time is over is marked, and stops counting when that commits.
//!
//! The worker does it once a second; without one, a call that finds a hold due does it in its own
//! transaction before it decides. Each hold's lock is taken first, as in a settle: who finds it taken
//! leaves the hold to whoever has it.

use super::adjust;
use crate::counters::memory::{self, Installation, transaction};
use crate::ledger::holds;
use crate::pg::clock;
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use ai_limiter_domain::{Timestamp, error::Result};

/// At most so many in one transaction: each takes a lock.
const BATCH: i64 = 500;

/// The worker sweeps each second; when it has not for so long, callers do it themselves.
const SWEEP_TIMEOUT_MICROSECONDS: i64 = 5_000_000;

/// Whether the worker takes care of what expires.
pub fn is_swept(installation: &Installation, now: Timestamp) -> bool {
    now.0 - installation.swept_at().0 < SWEEP_TIMEOUT_MICROSECONDS
}

/// Marks holds whose time is over, as many as one transaction should; gives how many.
pub fn expire(now: Timestamp) -> Result<usize> {
    let (mut due, mut past) = (Vec::new(), 0);
    while due.is_empty() {
        let page = as_owner(|spi| holds::due(spi, now, BATCH, past))?;
        past += BATCH;
        let is_last = (page.len() as i64) < BATCH;
        due.extend(page.into_iter().filter(|id| lock::try_acquire(&holds::lock_key(*id))));
        if is_last {
            break;
        }
    }
    let expired = as_owner(|spi| holds::expire(spi, &due, now))?;
    for hold in &expired {
        adjust::hold_ends(&hold.dimensions, hold.created_at, &hold.size)?;
    }
    Ok(expired.len())
}

/// Marks what is due, and finds out when the next hold expires. Does nothing where somebody else is
/// at it.
pub fn expire_due(installation: &'static Installation) -> Result<()> {
    if lock::try_acquire(&Key::new(Class::Expiry, "holds")) {
        look(installation)?;
    }
    Ok(())
}

/// Marks what is due and gives how many, under the lock, which is given back: this transaction may be
/// left open, and what it has marked, others pass over. When the next hold expires is known to all
/// at once where nothing was marked, else when this commits.
fn look(installation: &'static Installation) -> Result<usize> {
    let look = installation.begin_looking();
    let count = expire(clock::now())?;
    let next = |snapshot| as_owner(|spi| holds::next_expiry(spi, &snapshot));
    if count == 0 {
        installation.found(look, next(Snapshot::of_others())?);
    }
    transaction::found_next_expiry(look, next(Snapshot::latest())?);
    lock::release(&Key::new(Class::Expiry, "holds"));
    Ok(count)
}

/// Whether a hold is open whose time is over; where none is, finds out when the next one expires, for
/// all who only ask.
pub fn is_due(installation: &'static Installation, now: Timestamp) -> Result<bool> {
    let key = Key::new(Class::Expiry, "holds");
    if !lock::try_acquire(&key) {
        return Ok(true);
    }
    let look = installation.begin_looking();
    // Without what this transaction has marked itself: that may be undone.
    let next = as_owner(|spi| holds::next_expiry(spi, &Snapshot::of_others()))?;
    let is_due = next.is_some_and(|at| at <= now);
    if !is_due {
        installation.found(look, next);
    }
    lock::release(&key);
    Ok(is_due || transaction::may_expire(installation, now))
}

/// The worker's round: [`expire_due`], and lets callers know that they need not.
pub fn sweep() -> Result<usize> {
    let now = clock::now();
    let Some(installation) = memory::current()? else { return expire(now) };
    installation.swept(now);
    if !installation.may_expire(now) {
        return Ok(0);
    }
    lock::acquire(&Key::new(Class::Expiry, "holds"));
    look(installation)
}
