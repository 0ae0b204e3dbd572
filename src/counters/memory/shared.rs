//! The shared memory of the counters: one region, its layout, and the ways into it.
//!
//! The table is guarded by [`Lock::Counters`]: [`exclusive`] and [`shared`] are the only
//! ways to it. Generations and statistics are atomics that need no lock. Everything begins empty at
//! each start of the server, also after a crash, and is rebuilt from the tables as it is asked for.
//!
//! A counter takes 96 bytes and at most 8 for its bucket.

use super::installation::{INSTALLATIONS, Installation};
use super::statistics::Statistics;
use crate::pg::shmem::{Lock, Region, Segment};
use crate::settings;
use ai_limiter_domain::counters::table::{Entry, Header, Table, View, buckets};
use pgrx::pg_sys;
use std::sync::atomic::AtomicU64;

/// How many generations accounts, tenants and runs share. Two that share one only make each other
/// read again.
pub const GENERATIONS: usize = 4096;

#[repr(C, align(64))]
pub struct Shared {
    /// Keys the hashes of counters, so that nobody can choose two subjects that share one.
    hash_key: [u64; 2],
    counters: u32,
    table: Header,
    pub installations: [Installation; INSTALLATIONS],
    pub generations: [AtomicU64; GENERATIONS],
    pub statistics: Statistics,
}

// SAFETY: `size` is the struct and the arrays behind it, by a setting that is fixed at the start.
static REGION: Region<Shared> = unsafe { Region::new(c"ai_limiter counters", size, init) };

pub static SEGMENT: &dyn Segment = &REGION;

fn counters() -> usize {
    settings::MAX_COUNTERS.get() as usize
}

fn size() -> usize {
    let of_buckets = buckets(counters()) * size_of::<u32>();
    size_of::<Shared>() + counters() * size_of::<Entry>() + of_buckets
}

/// # Safety
/// `memory` is zeroed and of [`size`] bytes.
unsafe fn init(memory: *mut Shared) {
    // SAFETY: as promised; nobody else has the address yet. Zero is a value of every field.
    unsafe {
        let mut hash_key = [0_u64; 2];
        pg_sys::pg_strong_random(hash_key.as_mut_ptr().cast(), size_of_val(&hash_key));
        (*memory).hash_key = hash_key;
        (*memory).counters = counters() as u32;
        parts(memory).format();
    }
}

/// # Safety
/// Nobody else uses the table meanwhile.
unsafe fn parts<'a>(memory: *mut Shared) -> Table<'a> {
    // SAFETY: as promised; the arrays lie behind the struct, and `size` counted them.
    unsafe {
        let count = (*memory).counters as usize;
        let entries = memory.add(1).cast::<Entry>();
        let buckets_at = entries.add(count).cast::<u32>();
        Table::new(
            &mut (*memory).table,
            std::slice::from_raw_parts_mut(buckets_at, buckets(count)),
            std::slice::from_raw_parts_mut(entries, count),
        )
    }
}

/// What needs no lock; `None` without the library preloaded.
pub fn get() -> Option<&'static Shared> {
    // SAFETY: mapped for the life of the process. What is behind the lock is private to this module.
    REGION.get().map(|memory| unsafe { &*memory })
}

impl Shared {
    pub fn hash_key(&self) -> [u64; 2] {
        self.hash_key
    }

    /// How many counters fit.
    pub fn capacity(&self) -> usize {
        self.counters as usize
    }
}

/// The table, alone.
pub struct Exclusive<'a> {
    pub table: Table<'a>,
}

/// Runs `work` with the table, and lets nobody else at it. `work` must not raise, allocate or wait.
pub fn exclusive<R>(work: impl FnOnce(&mut Exclusive) -> R) -> Option<R> {
    let memory = REGION.get()?;
    let _held = Lock::Counters.exclusive();
    // SAFETY: under the lock, until it is dropped at the end of this function.
    let mut inside = unsafe { Exclusive { table: parts(memory) } };
    Some(work(&mut inside))
}

/// Runs `work` with the table as it stands. `work` must not raise, allocate or wait.
pub fn shared<R>(work: impl FnOnce(&View) -> R) -> Option<R> {
    let memory = REGION.get()?;
    let _held = Lock::Counters.shared();
    // SAFETY: under the lock, which keeps writers out; what readers mark is atomic.
    let view = unsafe {
        let count = (*memory).counters as usize;
        let entries = memory.add(1).cast::<Entry>();
        View::new(
            std::slice::from_raw_parts(entries.add(count).cast::<u32>(), buckets(count)),
            std::slice::from_raw_parts(entries, count),
        )
    };
    Some(work(&view))
}
