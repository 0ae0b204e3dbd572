//! Expiring holds: one whose time is over is marked, and stops counting when that commits.
//!
//! The worker does it once a second. Without one, a call that would be denied does it in its own
//! transaction, and who only asks sums the tables. Each hold's lock is taken first, as in a settle: who
//! finds it taken leaves the hold to whoever has it. When the next hold expires is known to all
//! ([`Installation::may_expire`]); one process looks for it at a time.

use super::adjust;
use crate::counters::memory::{self, Installation, transaction};
use crate::ledger::holds;
use crate::pg::clock;
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use ai_limiter_domain::{Timestamp, error::Result};
use uuid::Uuid;

/// At most so many in one transaction: each takes a lock.
const BATCH: i64 = 500;

/// The name of the lock of who marks holds, but for calls that would be denied.
const SWEEP: &str = "sweep";

/// The worker sweeps each second; when it has not for so long, callers do it themselves.
const SWEEP_TIMEOUT_MICROSECONDS: i64 = 5_000_000;

/// Whether the worker takes care of what expires.
pub fn is_swept(installation: &Installation, now: Timestamp) -> bool {
    now.0 - installation.swept_at().0 < SWEEP_TIMEOUT_MICROSECONDS
}

/// Marks holds whose time is over, as many as one transaction should; gives how many. `but` is left
/// as it is.
pub fn expire(now: Timestamp, but: Option<Uuid>) -> Result<usize> {
    let is_ours = |id: &Uuid| Some(*id) != but && lock::try_acquire(&holds::lock_key(*id));
    let (mut due, mut past) = (Vec::new(), 0);
    // An open transaction may have marked a whole batch.
    while due.is_empty() {
        let page = as_owner(|spi| holds::due(spi, now, BATCH, past))?;
        past += BATCH;
        let is_last = (page.len() as i64) < BATCH;
        due.extend(page.into_iter().filter(is_ours));
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

/// Marks what is due, for a call that would be denied otherwise. What it marks counts for others until
/// its transaction ends, and whoever settles such a hold waits for that. `but` is the hold that is being
/// extended: it counts until that is decided.
pub fn expire_due(installation: &'static Installation, but: Option<Uuid>) -> Result<()> {
    let now = clock::now();
    expire(now, but)?;
    is_due(installation, now)?;
    Ok(())
}

/// Whether a hold is open whose time is over; where none is, lets all know when the next one expires.
/// What this transaction has marked itself counts as open: that may be undone.
pub fn is_due(installation: &'static Installation, now: Timestamp) -> Result<bool> {
    let key = Key::new(Class::Expiry, "holds");
    // Somebody else is looking.
    if !lock::try_acquire(&key) {
        return Ok(true);
    }
    installation.begin_looking();
    let next = as_owner(|spi| holds::next_expiry(spi, &Snapshot::of_others()))?;
    installation.found(next);
    lock::release(&key);
    Ok(transaction::may_expire(installation, now))
}

/// Marks all that is due at `now` and then, before the worker marks anything else, does `work`: what
/// is marked but not committed counts in shared memory and no longer in the tables.
pub fn with_all_marked<T>(now: Timestamp, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let key = Key::new(Class::Expiry, SWEEP);
    lock::acquire(&key);
    while expire(now, None)? > 0 {}
    let done = work()?;
    lock::release(&key);
    Ok(done)
}

/// The worker's round: marks what is due, and lets callers know that they need not.
pub fn sweep() -> Result<usize> {
    let now = clock::now();
    if !lock::try_acquire(&Key::new(Class::Expiry, SWEEP)) {
        return Ok(0);
    }
    let Some(installation) = memory::current()? else { return expire(now, None) };
    // Known to callers when it has committed: one that fails is none to rely on.
    transaction::at_its_end(installation, memory::note_sweep);
    if !installation.may_expire(now) {
        return Ok(0);
    }
    // What was marked in the round before is committed by now.
    is_due(installation, now)?;
    expire(now, None)
}
