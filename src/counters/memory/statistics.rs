//! How often what happened, since the server started: `ai_limiter_stat`.
//!
//! Each number is an atomic that is added to without a lock and never read to decide anything: two
//! that are read together may be from slightly different moments.

use super::shared;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Checks,
    Admitted,
    DeniedByLimit,
    DeniedByModel,
    DeniedByFeature,
    DeniedUnpriced,
    DeniedSuspended,
    DeniedDegraded,
    Loads,
    LockWaits,
    TablePathCalls,
    BulkEpisodes,
}

const COUNTS: usize = Count::BulkEpisodes as usize + 1;

#[derive(Debug)]
#[repr(C)]
pub struct Statistics([AtomicU64; COUNTS]);

/// Counts one more, where there is shared memory to count in.
pub fn count(what: Count) {
    if let Some(memory) = shared::get() {
        memory.statistics.0[what as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What was counted; `None` without shared memory.
pub fn counted(what: Count) -> Option<u64> {
    shared::get().map(|memory| memory.statistics.0[what as usize].load(Ordering::Relaxed))
}
