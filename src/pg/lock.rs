//! Heavyweight locks: counters, runs, reservations, idempotency keys, partitions.
//!
//! All live to the end of the transaction that took them (a rollback to a savepoint gives back what
//! was taken after it), and come with deadlock detection, cancel and `lock_timeout`. The advisory
//! ones use a class of their own in the lock tag's fourth field, which SQL cannot name: nobody can
//! take them from outside. `pg_locks` shows them as `advisory` with that class in `objsubid`.

use super::{guc, subtransaction};
use ai_limiter_domain::error::Result;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::{CString, c_int};

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
    /// A run without a cap of its own: shared by its calls, alone for who gives it one.
    Run = 0xA106,
    /// Expiring the holds whose time is over.
    Expiry = 0xA107,
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

/// Takes the lock together with others who do the same.
pub fn acquire_shared(key: &Key) {
    take(key, pg_sys::ShareLock, false);
}

/// Takes the lock if nobody else has it.
pub fn try_acquire(key: &Key) -> bool {
    take(key, pg_sys::ExclusiveLock, true)
}

/// Waits for the lock, not longer than so many milliseconds; whether it was got.
pub fn acquire_within(key: &Key, milliseconds: u32) -> Result<bool> {
    let acquire = || {
        let settings = guc::Scope::new();
        settings.set(c"lock_timeout", &CString::new(milliseconds.to_string()).expect("digits"));
        acquire(key);
        Ok(())
    };
    match subtransaction::attempt(acquire, |()| true)? {
        Ok(()) => Ok(true),
        Err(error)
            if subtransaction::code_of(&error) == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE =>
        {
            Ok(false)
        }
        Err(error) => error.rethrow(),
    }
}

/// Gives back a lock that [`acquire`] or [`try_acquire`] took under the present resource owner.
pub fn release(key: &Key) {
    let tag = key.tag();
    // SAFETY: a complete tag.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock as i32, false) };
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
