//! A process that is nobody's session: its transactions, its settings, and what it may look up.

use crate::error::raise;
use ai_limiter_domain::error::Result;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_sys};
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;

/// Runs `work` in a transaction of its own. An error rolls it back and is given back as its message;
/// a signal to end passes. `activity` is what `pg_stat_activity.query` says meanwhile.
pub fn in_transaction<T>(
    activity: &str,
    work: impl FnOnce() -> Result<T>,
) -> std::result::Result<T, String> {
    let activity = CString::new(activity).expect("a text without NUL");
    let mut work = Some(work);
    let run = AssertUnwindSafe(|| Ok(committed(work.take().expect("runs once"))));
    // SAFETY: says what this process does, as a session does of its statements; what failed left its
    // transaction open, and is rolled back as Postgres's own main loop does it.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
        let outcome = PgTryBuilder::new(run).catch_others(|error| Err(message(&error))).execute();
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        outcome
    }
}

fn committed<T>(work: impl FnOnce() -> Result<T>) -> T {
    // SAFETY: no transaction is open in this process; an error leaves the rest to the abort.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let value = work().unwrap_or_else(|error| raise(error));
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        value
    }
}

fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(e) | CaughtError::ErrorReport(e) => e.message().to_owned(),
        CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
    }
}

/// Sets a setting for the rest of this process, whatever the database or the role says.
pub fn override_setting(name: &CStr, value: &CStr) {
    // SAFETY: NUL-terminated strings; a value that is not valid raises.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// The databases that can be connected to. Reads a shared catalogue row by row, as autovacuum's
/// launcher does: without a database there is no look-up by an index.
pub fn databases() -> HashSet<String> {
    /// `datconnlimit` of a database whose DROP was interrupted.
    const INVALID: i32 = -2;
    let mut databases = HashSet::new();
    let lock = pg_sys::AccessShareLock as i32;
    // SAFETY: in a transaction; a tuple is a Form_pg_database and is read before the next one.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if (*row).datallowconn && (*row).datconnlimit != INVALID {
                let name = CStr::from_ptr((&raw const (*row).datname.data).cast());
                databases.insert(name.to_string_lossy().into_owned());
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, lock);
    }
    databases
}

/// The database that this process is connected to.
pub fn database() -> pg_sys::Oid {
    // SAFETY: a number of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// Keeps the database from being dropped, renamed or copied to the end of the transaction; false when
/// somebody is at it. They wait for this transaction, and not for the few seconds after which they
/// would complain about who is connected.
pub fn keep_database() -> bool {
    // SAFETY: a complete tag of a shared object, the lock that a starting session takes too.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::InvalidOid.into(),
            locktag_field2: pg_sys::DatabaseRelationId.into(),
            locktag_field3: pg_sys::MyDatabaseId.into(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let mode = pg_sys::RowExclusiveLock as i32;
        pg_sys::LockAcquire(&raw const tag, mode, false, true)
            != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Whether the extension is created in this database.
pub fn has_extension() -> bool {
    // SAFETY: in a transaction; reads the catalogue.
    unsafe { pg_sys::get_extension_oid(c"ai_limiter".as_ptr(), true) != pg_sys::InvalidOid }
}

/// Whether this server follows another.
pub fn is_standby() -> bool {
    // SAFETY: reads shared state; no preconditions.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The current database's name.
pub fn database_name() -> String {
    // SAFETY: in a transaction; the copy is of the current memory context.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}
