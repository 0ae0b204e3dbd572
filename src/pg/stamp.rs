//! The stamp: the present moment as rows have it, which never goes back and is never given twice.
//!
//! One atomic in shared memory, where the library is preloaded; else the clock. It begins anew with the
//! server: who needs it to be later than something that was written before raises it first.

use super::clock;
use super::shmem::{Region, Segment};
use ai_limiter_domain::Timestamp;
use std::sync::atomic::{AtomicI64, Ordering};

// SAFETY: an atomic; zero is a stamp of long ago.
static REGION: Region<AtomicI64> = unsafe { Region::zeroed(c"ai_limiter stamp") };

pub static SEGMENT: &dyn Segment = &REGION;

fn last() -> Option<&'static AtomicI64> {
    // SAFETY: mapped for the life of the process.
    REGION.get().map(|memory| unsafe { &*memory })
}

/// The next stamp: the clock's time, or later than the last stamp by the least there is.
pub fn next() -> Timestamp {
    let now = clock::now();
    let Some(last) = last() else { return now };
    let previous = last.fetch_max(now.0, Ordering::AcqRel);
    if previous < now.0 { now } else { Timestamp(last.fetch_add(1, Ordering::AcqRel) + 1) }
}

/// The present moment as the next stamp will have it: also where the clock was set back.
pub fn now() -> Timestamp {
    let last = last().map_or(i64::MIN, |last| last.load(Ordering::Acquire));
    clock::now().max(Timestamp(last))
}

/// No stamp from here on is earlier.
pub fn raise(least: Timestamp) {
    if let Some(last) = last() {
        last.fetch_max(least.0, Ordering::AcqRel);
    }
}
