//! Shared memory and its lightweight locks, when the library is preloaded.
//!
//! A [`Region`] is plain data of one type, at one address in every backend, zeroed and then made by
//! its `init` once in the life of the server: also after a crash, when Postgres makes all shared memory
//! anew. Nothing in it survives a restart. Who reads or writes it holds the region's [`Lock`], or uses
//! atomics; each region says which.
//!
//! While a [`Lock`] is held nothing may raise, allocate in Postgres or wait: an error in between
//! would leave the data half-written.
//!
//! Without `shared_preload_libraries` there is no shared memory, [`Region::get`] is `None`, and every
//! backend of the server is alike in that.

use pgrx::pg_sys;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The name of the locks in `pg_stat_activity` and of the shared memory in
/// `pg_shmem_allocations`.
const TRANCHE: &CStr = c"ai_limiter";

/// `AddinShmemInitLock`, which pgrx does not bind: its number is the same on 15 to 18.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// One of the extension's lightweight locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The counters.
    Counters,
    /// The denials that wait to be written.
    Denials,
    /// What the workers say of themselves.
    Workers,
}

const LOCKS: i32 = 3;

/// A held lightweight lock; released when dropped.
pub struct Held(*mut pg_sys::LWLock);

impl Lock {
    /// Waits for the lock alone.
    pub fn exclusive(self) -> Held {
        self.acquire(pg_sys::LWLockMode::LW_EXCLUSIVE)
    }

    /// Waits for the lock together with others who only read.
    pub fn shared(self) -> Held {
        self.acquire(pg_sys::LWLockMode::LW_SHARED)
    }

    fn acquire(self, mode: pg_sys::LWLockMode::Type) -> Held {
        // SAFETY: whoever has a region's address has a server with the tranche; the lock is one of it.
        unsafe {
            let lock = TRANCHE_ADDRESS.load(Ordering::Relaxed).add(self as usize);
            let lock = &raw mut (*lock).lock;
            pg_sys::LWLockAcquire(lock, mode);
            Held(lock)
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: acquired by `acquire`; nothing between raised, so Postgres has not released it.
        unsafe { pg_sys::LWLockRelease(self.0) };
    }
}

static TRANCHE_ADDRESS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

/// Plain data in shared memory, followed by as many bytes as `size` asks for.
pub struct Region<T> {
    name: &'static CStr,
    size: fn() -> usize,
    init: unsafe fn(*mut T),
    address: AtomicPtr<T>,
    lives: PhantomData<T>,
}

impl<T> Region<T> {
    /// # Safety
    /// `size` is at least that of `T` and the same whenever it is asked; `init` makes a `T` of zeroed
    /// memory of that size; a `T` has no pointers, and may be used from several processes as its owner
    /// says.
    pub const unsafe fn new(
        name: &'static CStr,
        size: fn() -> usize,
        init: unsafe fn(*mut T),
    ) -> Self {
        let address = AtomicPtr::new(std::ptr::null_mut());
        Self { name, size, init, address, lives: PhantomData }
    }

    /// Of a `T` alone, which zeroed memory is.
    ///
    /// # Safety
    /// As for [`Region::new`].
    pub const unsafe fn zeroed(name: &'static CStr) -> Self {
        // SAFETY: as promised.
        unsafe { Self::new(name, size_of::<T>, |_| ()) }
    }

    /// Works on it alone, if the library was preloaded. `work` must not raise.
    pub fn exclusive<R>(&self, lock: Lock, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let memory = self.get()?;
        let _held = lock.exclusive();
        // SAFETY: under the region's lock, until it is dropped at the end of this function.
        Some(work(unsafe { &mut *memory }))
    }

    /// Its address; `None` when the library was not preloaded.
    pub fn get(&self) -> Option<*mut T> {
        let address = self.address.load(Ordering::Relaxed);
        (!address.is_null()).then_some(address)
    }
}

/// A region of whatever type, as start-up treats it.
pub trait Segment: Sync {
    fn size(&self) -> usize;
    /// Finds it, or makes it.
    ///
    /// # Safety
    /// Called in the shared memory start-up hook.
    unsafe fn attach(&self);
}

impl<T> Segment for Region<T>
where
    Region<T>: Sync,
{
    fn size(&self) -> usize {
        (self.size)()
    }

    unsafe fn attach(&self) {
        // SAFETY: in the start-up hook, under the lock for it.
        unsafe {
            let mut found = false;
            let address = pg_sys::ShmemInitStruct(self.name.as_ptr(), self.size(), &raw mut found);
            if !found {
                address.write_bytes(0, self.size());
                (self.init)(address.cast());
            }
            self.address.store(address.cast(), Ordering::Relaxed);
        }
    }
}

static SEGMENTS: std::sync::OnceLock<&'static [&'static dyn Segment]> = std::sync::OnceLock::new();
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the segments, if this is the postmaster preloading the library.
pub fn request(segments: &'static [&'static dyn Segment]) {
    if !is_preloading() || SEGMENTS.set(segments).is_err() {
        return;
    }
    // SAFETY: single-threaded, before any backend; both hooks call the ones before them.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

/// Whether the postmaster is loading the library at its start.
pub fn is_preloading() -> bool {
    // SAFETY: a flag of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// # Safety
/// Called by Postgres at its start.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: what `request` found, and what may be called only in this hook.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        for segment in SEGMENTS.get().into_iter().copied().flatten() {
            pg_sys::RequestAddinShmemSpace(segment.size());
        }
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), LOCKS);
    }
}

/// # Safety
/// Called by Postgres at its start, and after a crash.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: as above; the lock is the one that Postgres has for this.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let init_lock = &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(init_lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        TRANCHE_ADDRESS.store(pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()), Ordering::Relaxed);
        for segment in SEGMENTS.get().into_iter().copied().flatten() {
            segment.attach();
        }
        pg_sys::LWLockRelease(init_lock);
    }
}
