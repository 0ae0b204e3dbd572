//! Heavyweight locks: the barrier, counters, reservations, idempotency keys, partitions.
//!
//! All live to the end of the transaction that took them (a rollback to a savepoint gives back what
//! was taken after it), and come with deadlock detection, cancel and `lock_timeout`. The advisory
//! ones use a class of their own in the lock tag's fourth field, which SQL cannot name: nobody can
//! take them from outside. `pg_locks` shows them as `advisory` with that class in `objsubid`.

use super::relation;
use ai_limiter_domain::error::Result;
use pgrx::pg_sys;
use std::ffi::c_int;

unsafe extern "C" {
    /// Postgres's hash of bytes, which pgrx does not bind. It cannot raise.
    fn hash_bytes_extended(bytes: *const u8, length: c_int, seed: u64) -> u64;
}

/// What an advisory lock of this extension guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// One counter. Two counters that hash alike only wait for each other needlessly.
    Counter = 0xA101,
    Reservation = 0xA102,
    IdempotencyKey = 0xA103,
    /// Making partitions.
    Partitions = 0xA104,
    /// Writing prices of one model.
    Prices = 0xA105,
    /// The rollup: shared by who books a row with a `recorded_at` of its own, exclusive by who advances.
    Rollup = 0xA106,
    /// Making what is rolled up of one partition stale.
    RollupPartition = 0xA107,
}

pub struct Key {
    class: Class,
    hash: u64,
}

impl Key {
    /// A lock on whatever has this name within the class.
    pub fn new(class: Class, name: &str) -> Self {
        // Postgres's own hash: backends that run two builds of this library, as during an upgrade,
        // must agree.
        // SAFETY: reads `name`'s bytes.
        let hash = unsafe { hash_bytes_extended(name.as_ptr(), name.len() as i32, 0) };
        Self { class, hash }
    }
}

/// Takes the locks in the one order in which every call takes them.
pub fn acquire_all(mut keys: Vec<Key>) {
    keys.sort_by_key(|key| key.hash);
    keys.dedup_by_key(|key| key.hash);
    keys.iter().for_each(acquire);
}

pub fn acquire(key: &Key) {
    take(key, pg_sys::ExclusiveLock, false);
}

/// Takes the lock beside others who share it.
pub fn acquire_shared(key: &Key) {
    take(key, pg_sys::ShareLock, false);
}

/// Takes the lock if nobody else has it.
pub fn try_acquire(key: &Key) -> bool {
    take(key, pg_sys::ExclusiveLock, true)
}

fn take(key: &Key, mode: u32, dont_wait: bool) -> bool {
    // SAFETY: a complete tag; waits like any lock, and an error while waiting unwinds. Unlike a
    // relation's lock this one does not read what was invalidated meanwhile, so that is done here.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.into(),
            locktag_field2: (key.hash >> 32) as u32,
            locktag_field3: key.hash as u32,
            locktag_field4: key.class as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        let result = pg_sys::LockAcquire(&raw const tag, mode as i32, false, dont_wait);
        pg_sys::AcceptInvalidationMessages();
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Joins the writers: from here to the end of the transaction no rule changes which calls it
/// counts. Taken in every call, since a rollback to a savepoint releases it. Also accepts pending
/// invalidations, so that what is resolved afterwards is the committed state.
pub fn join_writers() -> Result<()> {
    let barrier = relation::oid(c"ai_barrier")?;
    // SAFETY: an existing relation; at this level no privilege is needed.
    unsafe { pg_sys::LockRelationOid(barrier, pg_sys::RowShareLock as i32) };
    Ok(())
}

/// From here to the end of the transaction no month is dropped from the ledger. Taken before the
/// snapshot that sums: else a month could go between that snapshot, which does not see its totals
/// yet, and the scan, which does not find it any more.
pub fn keep_months() {
    // Where it is missing, whoever reads it says so.
    if let Some(ledger) = relation::find(c"ai_usage") {
        // SAFETY: as above.
        unsafe { pg_sys::LockRelationOid(ledger, pg_sys::AccessShareLock as i32) };
    }
}

/// Waits for every writer to end and keeps new ones out, to the end of the transaction.
pub fn exclude_writers() -> Result<()> {
    let barrier = relation::oid(c"ai_barrier")?;
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(barrier, pg_sys::ExclusiveLock as i32) };
    Ok(())
}

/// Whether this transaction keeps writers out; a rollback to a savepoint may have ended that.
pub fn excludes_writers() -> Result<bool> {
    let barrier = relation::oid(c"ai_barrier")?;
    let mode = pg_sys::ExclusiveLock as i32;
    // SAFETY: a complete tag of a relation of this database; reads this backend's own locks.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.into(),
            locktag_field2: barrier.into(),
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return Ok(pg_sys::LockHeldByMe(&raw const tag, mode));
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return Ok(pg_sys::LockHeldByMe(&raw const tag, mode, false));
    }
}
