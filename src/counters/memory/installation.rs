//! What the shared memory knows of each database with the extension: its epoch, the generations of its
//! configuration, and when its next hold expires.
//!
//! An installation is the extension in its database: created anew, or in a copy of the database, it is
//! another one. Its record is found by its number, made at the first use under [`Lock::Counters`], and
//! never given back: a server that has had [`INSTALLATIONS`] of them serves later ones by the table
//! path until it is restarted.
//!
//! **Order.** Whoever changes what counters mean does it when the change is visible and before its
//! locks go: entries are removed, then the generation rises, then the epoch. Whoever loads a counter
//! reads the epoch, then the generation, then takes the snapshot, and publishes only under the epoch
//! that it read.
//!
//! [`Lock::Counters`]: crate::pg::shmem::Lock::Counters

use super::shared::{self, Shared};
use crate::pg::{clock, relation};
use ai_limiter_domain::{Timestamp, error::Result};
use pgrx::pg_sys;
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

pub const INSTALLATIONS: usize = 512;

/// What is kept in every backend and read again when it has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    Rules,
    Tiers,
    Prices,
    Suspensions,
}

const CONFIGS: usize = 4;

#[derive(Debug)]
#[repr(C)]
pub struct Installation {
    id: AtomicU64,
    epoch: AtomicU64,
    generations: [AtomicU64; CONFIGS],
    /// No open hold expires before this; 0 while that is not known.
    next_expiry: AtomicI64,
    /// The earliest expiry of the holds that were written since somebody began to look for it.
    since_looking: AtomicI64,
    /// When holds were last expired by the worker.
    swept_at: AtomicI64,
}

impl Installation {
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Counters are loaded anew from here on. Called when they were removed.
    pub fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub fn generation(&self, of: Config) -> u64 {
        self.generations[of as usize].load(Ordering::Acquire)
    }

    pub fn begin_generation(&self, of: Config) {
        self.generations[of as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a hold may be open whose time is over.
    pub fn may_expire(&self, now: Timestamp) -> bool {
        self.next_expiry.load(Ordering::Acquire) <= now.0
    }

    /// A hold was committed that lives until then.
    pub fn expires(&self, at: Timestamp) {
        self.since_looking.fetch_min(at.0, Ordering::AcqRel);
        self.next_expiry.fetch_min(at.0, Ordering::AcqRel);
    }

    /// Somebody is about to look for the next expiry, and takes the snapshot afterwards.
    pub fn begin_looking(&self) {
        self.since_looking.store(i64::MAX, Ordering::Release);
    }

    /// The next expiry that was found; holds that were committed meanwhile are heeded as well.
    pub fn found(&self, next: Option<Timestamp>) {
        self.next_expiry.store(next.map_or(i64::MAX, |at| at.0), Ordering::Release);
        let since = self.since_looking.load(Ordering::Acquire);
        self.next_expiry.fetch_min(since, Ordering::AcqRel);
    }

    pub fn swept_at(&self) -> Timestamp {
        Timestamp(self.swept_at.load(Ordering::Relaxed))
    }
}

thread_local! {
    /// The record that this backend used last, by its number.
    static LAST: Cell<Option<(u64, &'static Installation)>> = const { Cell::new(None) };
}

/// The worker has marked the holds that were due, if that was committed. Does not raise.
pub fn note_sweep(id: u64, committed: bool) {
    if let Some((_, record)) = LAST.get().filter(|(last, _)| committed && *last == id) {
        record.swept_at.store(clock::now().0, Ordering::Relaxed);
    }
}

/// The number of the extension in this database.
fn id() -> Result<u64> {
    // SAFETY: the database of this backend.
    let database = unsafe { pg_sys::MyDatabaseId };
    // Not a table that holds anything: where one of those is gone, a verdict has to say so.
    let barrier = relation::oid(c"ai_barrier")?;
    Ok(u64::from(database.to_u32()) << 32 | u64::from(barrier.to_u32()))
}

/// This database's record; `None` when the counters are not in shared memory: the library is not
/// preloaded, the server is in recovery, or it has had too many installations.
pub fn current() -> Result<Option<&'static Installation>> {
    let Some(memory) = shared::get() else { return Ok(None) };
    // SAFETY: reads a flag; after promotion it turns once.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Ok(None);
    }
    let id = id()?;
    if let Some((_, known)) = LAST.get().filter(|(last, _)| *last == id) {
        return Ok(Some(known));
    }
    let found = find_or_make(memory, id);
    LAST.set(found.map(|record| (id, record)));
    Ok(found)
}

fn find_or_make(memory: &'static Shared, id: u64) -> Option<&'static Installation> {
    shared::exclusive(|_| {
        let record = memory.installations.iter().find(|r| r.id() == id || r.id() == 0)?;
        record.id.store(id, Ordering::Relaxed);
        Some(record)
    })
    .flatten()
}
