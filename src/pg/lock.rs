//! Heavyweight locks: one class for each thing that somebody may have to wait for ([`Class`]).
//!
//! All live to the end of the transaction that took them, but for those that are given back sooner
//! ([`release`]; a rollback to a savepoint gives back what was taken after it), and come with deadlock detection, cancel and `lock_timeout`. The advisory
//! ones use a class of their own in the lock tag's fourth field, which SQL cannot name: nobody can
//! take them from outside. `pg_locks` shows them as `advisory` with that class in `objsubid`.

use super::relation;
use pgrx::pg_sys;
use std::ffi::c_int;

unsafe extern "C" {
    /// Postgres's hash of bytes, which pgrx does not bind. It cannot raise.
    fn hash_bytes_extended(bytes: *const u8, length: c_int, seed: u64) -> u64;
}

/// What an advisory lock of this extension guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Loading one counter, and admitting into one that is summed from the tables. Two counters that
    /// hash alike only wait for each other needlessly.
    Counter = 0xA101,
    Reservation = 0xA102,
    IdempotencyKey = 0xA103,
    /// Making partitions.
    Partitions = 0xA104,
    /// Writing prices of one model.
    Prices = 0xA105,
    /// A run without a cap of its own: shared by its calls, alone for who gives it one.
    Run = 0xA106,
    /// Expiring the holds whose time is over.
    Expiry = 0xA107,
    /// Writing the denials that wait.
    Denials = 0xA108,
    /// The rollup: shared by who books a row with a `recorded_at` of its own, exclusive by who advances.
    Rollup = 0xA109,
    /// Making what is rolled up of one partition stale.
    RollupPartition = 0xA10A,
    /// Correcting the ledger: shared by who corrects one row, exclusive by who prices many again.
    Corrections = 0xA10B,
    /// Importing one source.
    Import = 0xA10C,
    /// Learning what calls return.
    Estimates = 0xA10D,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Takes the lock together with others who do the same.
pub fn acquire_shared(key: &Key) {
    take(key, pg_sys::ShareLock, false);
}

/// Takes the lock if nobody else has it.
pub fn try_acquire(key: &Key) -> bool {
    take(key, pg_sys::ExclusiveLock, true)
}

/// Gives back a lock that [`acquire`] or [`try_acquire`] took under the present resource owner.
pub fn release(key: &Key) {
    let tag = key.tag();
    // SAFETY: a complete tag.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock as i32, false) };
}

/// Whether this transaction has the lock, in the mode of [`acquire_shared`].
pub fn is_shared_by_me(key: &Key) -> bool {
    let tag = key.tag();
    // SAFETY: a complete tag; reads this backend's own locks.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(&raw const tag, pg_sys::ShareLock as i32);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::LockHeldByMe(&raw const tag, pg_sys::ShareLock as i32, false);
    }
}

/// Whether this transaction itself has locked the relation in this mode, a weaker or stronger one aside.
pub fn is_relation_held(relation: pg_sys::Oid, mode: i32) -> bool {
    // SAFETY: a complete tag of a relation of this database; reads this backend's own locks.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.into(),
            locktag_field2: relation.into(),
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::LockHeldByMe(&raw const tag, mode);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        return pg_sys::LockHeldByMe(&raw const tag, mode, false);
    }
}

impl Key {
    fn tag(&self) -> pg_sys::LOCKTAG {
        pg_sys::LOCKTAG {
            // SAFETY: the database of this backend.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.into(),
            locktag_field2: (self.hash >> 32) as u32,
            locktag_field3: self.hash as u32,
            locktag_field4: self.class as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }
}

fn take(key: &Key, mode: u32, dont_wait: bool) -> bool {
    let tag = key.tag();
    // SAFETY: a complete tag; waits like any lock, and an error while waiting unwinds. Unlike a
    // relation's lock this one does not read what was invalidated meanwhile, so that is done here.
    unsafe {
        let result = pg_sys::LockAcquire(&raw const tag, mode as i32, false, dont_wait);
        pg_sys::AcceptInvalidationMessages();
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// From here to the end of the transaction no month is dropped from the ledger. Taken before the
/// snapshot that sums: else a month could go between that snapshot, which does not see its totals
/// yet, and the scan, which does not find it any more.
pub fn keep_months() {
    // Where it is missing, whoever reads it says so.
    if let Some(ledger) = relation::find(c"ai_usage") {
        // SAFETY: an existing relation; at this level no privilege is needed here.
        unsafe { pg_sys::LockRelationOid(ledger, pg_sys::AccessShareLock as i32) };
    }
}
