//! What has to be done now and then and nobody waits for: expired holds, old keys, merged denials.

use super::expiry;
use crate::counters::memory::{self, transaction};
use crate::ledger::{denials, holds, idempotency};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use crate::settings::RESERVATION_RETENTION;
use ai_limiter_domain::error::Result;

/// Batches of holds that one transaction expires: each hold takes a lock, of which a server has some
/// thousands.
const MOST_BATCHES: usize = 8;

/// All of it at once; the counters in shared memory are loaded anew when this commits.
pub fn refresh() -> Result<()> {
    if let Some(installation) = memory::current()? {
        transaction::begin_bulk(installation);
    }
    let now = clock::now();
    for _ in 0..MOST_BATCHES {
        if expiry::expire(now, None)? == 0 {
            break;
        }
    }
    as_owner(|spi| {
        holds::forget(spi, now, i64::from(RESERVATION_RETENTION.get()))?;
        idempotency::forget(spi, now)?;
        denials::merge(spi, now)
    })
}
