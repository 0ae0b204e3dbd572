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
use ai_limiter_domain::{Timestamp, error::Result};
use uuid::Uuid;

/// At most so many in one transaction: each takes a lock.
const BATCH: i64 = 500;

/// The worker sweeps each second; when it has not for so long, callers do it themselves.
const SWEEP_TIMEOUT_MICROSECONDS: i64 = 5_000_000;

/// How long a call that would be denied waits for whoever is marking what has expired.
pub const PATIENCE_MILLISECONDS: u32 = 1000;

/// Whether the worker takes care of what expires.
pub fn is_swept(installation: &Installation, now: Timestamp) -> bool {
    now.0 - installation.swept_at().0 < SWEEP_TIMEOUT_MICROSECONDS
}

/// Marks holds whose time is over, as many as one transaction should; gives how many. `but` is left
/// as it is.
pub fn expire(now: Timestamp, but: Option<Uuid>) -> Result<usize> {
    let due: Vec<_> = as_owner(|spi| holds::due(spi, now, BATCH))?
        .into_iter()
        .filter(|id| Some(*id) != but)
        .filter(|id| lock::try_acquire(&holds::lock_key(*id)))
        .collect();
    let expired = as_owner(|spi| holds::expire(spi, &due, now))?;
    for hold in &expired {
        adjust::hold_ends(&hold.dimensions, hold.created_at, &hold.size)?;
    }
    Ok(expired.len())
}

/// Marks what is due, and finds out when the next hold expires. Where somebody else is at it, waits up
/// to `patience` milliseconds and then does nothing: what they have marked counts until they commit.
/// `but` is the hold that is being extended: it counts until that is decided.
pub fn expire_due(
    installation: &'static Installation,
    but: Option<Uuid>,
    patience: u32,
) -> Result<()> {
    let key = Key::new(Class::Expiry, "holds");
    if !lock::try_acquire(&key) && (patience == 0 || !lock::acquire_within(&key, patience)?) {
        return Ok(());
    }
    installation.begin_looking();
    let now = clock::now();
    expire(now, but)?;
    transaction::found_next_expiry(as_owner(holds::next_expiry)?);
    Ok(())
}

/// The worker's round: [`expire_due`], and lets callers know that they need not. Behind a transaction that
/// has marked holds and stays open it does nothing, and callers look after themselves.
pub fn sweep() -> Result<usize> {
    let now = clock::now();
    let Some(installation) = memory::current()? else { return expire(now, None) };
    let mut count = 0;
    if installation.may_expire(now) {
        if !lock::try_acquire(&Key::new(Class::Expiry, "holds")) {
            return Ok(0);
        }
        installation.begin_looking();
        count = expire(now, None)?;
        transaction::found_next_expiry(as_owner(holds::next_expiry)?);
    }
    installation.swept(now);
    Ok(count)
}
