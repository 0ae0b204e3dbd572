//! Background workers: asking the postmaster for processes of our own, and what such a process does
//! first of all.
//!
//! pgrx's own handler of SIGTERM only sets a flag: a statement under way, or a wait for a lock, would
//! go on and hold up a fast shutdown. Ours is Postgres's `die`, the one that sessions have: it ends
//! the process at the next safe moment, in the middle of a statement too.

use pgrx::pg_sys;
use std::ffi::{CStr, CString, c_char, c_int};

unsafe extern "C-unwind" {
    // What pgrx binds are wrappers, which cannot be signal handlers.
    fn die(signal: c_int);
    #[link_name = "SignalHandlerForConfigReload"]
    fn reload(signal: c_int);
}

/// What a process is to be.
pub struct Process<'a> {
    pub name: &'a str,
    /// The kind of process, as `pg_stat_activity.backend_type` shows it.
    pub kind: &'a str,
    /// The exported function that it runs.
    pub function: &'a str,
    /// Handed to it; see [`argument`].
    pub argument: &'a str,
}

impl Process<'_> {
    fn describe(&self, restart_seconds: i32) -> pg_sys::BackgroundWorker {
        let mut worker = pg_sys::BackgroundWorker {
            bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS
                | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
            // Not before a standby is promoted: what works here writes.
            bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
            bgw_restart_time: restart_seconds,
            ..pg_sys::BackgroundWorker::default()
        };
        copy(&mut worker.bgw_name, self.name);
        copy(&mut worker.bgw_type, self.kind);
        copy(&mut worker.bgw_library_name, "ai_limiter");
        copy(&mut worker.bgw_function_name, self.function);
        copy(&mut worker.bgw_extra, self.argument);
        worker
    }

    /// Has the postmaster start it with the server, and again a second after it ended in any way but
    /// by exit code 0. Only while libraries are preloaded.
    pub fn register(&self) {
        let mut worker = self.describe(1);
        // SAFETY: complete; Postgres copies it.
        unsafe { pg_sys::RegisterBackgroundWorker(&raw mut worker) };
    }

    /// Has the postmaster start it once; its end sets this process's latch. `None` when every slot of
    /// `max_worker_processes` is taken.
    pub fn start(&self) -> Option<Started> {
        let mut worker = self.describe(pg_sys::BGW_NEVER_RESTART);
        let mut handle = std::ptr::null_mut();
        // SAFETY: complete; Postgres copies it and allocates the handle in the current memory context,
        // which lives as long as the process.
        unsafe {
            worker.bgw_notify_pid = pg_sys::MyProcPid;
            pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle)
                .then(|| Started(handle))
        }
    }
}

/// Cuts to what fits, with its NUL.
fn copy<const N: usize>(to: &mut [c_char; N], text: &str) {
    for (to, byte) in to[..N - 1].iter_mut().zip(text.bytes()) {
        *to = byte as c_char;
    }
}

/// A process that this one started.
pub struct Started(*mut pg_sys::BackgroundWorkerHandle);

impl Started {
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: a handle of this process that was not freed.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &raw mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: allocated by `start`, and dropped once.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}

/// The first thing in a process's function: from here on signals are heard.
pub fn begin() {
    // SAFETY: handlers of Postgres, installed before signals are let through.
    unsafe {
        for (signal, handler) in [
            (pg_sys::SIGTERM, die as unsafe extern "C-unwind" fn(c_int)),
            (pg_sys::SIGHUP, reload as unsafe extern "C-unwind" fn(c_int)),
        ] {
            #[cfg(not(feature = "pg18"))]
            pg_sys::pqsignal(signal as c_int, Some(handler));
            #[cfg(feature = "pg18")]
            pg_sys::pqsignal_be(signal as c_int, Some(handler));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// What [`Process::argument`] was.
pub fn argument() -> String {
    // SAFETY: the entry of this background worker; the text in it ends with a NUL.
    unsafe { CStr::from_ptr((&raw const (*pg_sys::MyBgworkerEntry).bgw_extra).cast()) }
        .to_string_lossy()
        .into_owned()
}

/// Connects as the bootstrap superuser: to a database, or to none, and then only the catalogues that
/// all databases share can be read. Nothing but this process's end disconnects it.
pub fn connect(database: Option<&str>) {
    let name = database.map(|name| CString::new(name).expect("a name without NUL"));
    let name = name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
    // SAFETY: once, before any transaction; a database that is not there ends the process.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(name, std::ptr::null(), 0) };
}

/// Runs `work` when this process ends in an orderly way, also by an error or a signal.
pub fn at_exit(work: unsafe extern "C-unwind" fn(c_int, pg_sys::Datum)) {
    // SAFETY: called in the reverse order of registering, with shared memory and locks still there.
    unsafe { pg_sys::before_shmem_exit(Some(work), pg_sys::Datum::from(0)) };
}

pub fn pid() -> i32 {
    // SAFETY: a number of this process.
    unsafe { pg_sys::MyProcPid }
}

/// Sleeps until the time is over, or something happened that sets the latch: a signal, the end of a
/// process that this one started. Ends with the postmaster.
pub fn sleep(milliseconds: i64) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch; an interrupt that is pending raises.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as c_int,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Reads postgresql.conf anew if somebody asked for it.
pub fn reload_settings() {
    // SAFETY: between transactions; the flag is set by the handler.
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() != 0 {
            (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
