//! Transaction ids, and what this backend's transaction is doing to others: whether it keeps writers
//! out.
//!
//! Lives in thread-local cells of the backend and is forgotten when the transaction ends, by a
//! callback that is registered once. Nothing here raises but before PREPARE.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_guard};
use std::cell::Cell;
use std::ffi::c_void;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// The command by which the rules were found sound, with writers kept out; an invalid one when
    /// they must be looked at again.
    static CHECKED_AT: Cell<Option<pg_sys::CommandId>> = const { Cell::new(None) };
}

/// Gives the (sub)transaction its id now, so that what is stamped afterwards is stamped after it.
pub fn assign_id() {
    // SAFETY: in a transaction that may write; raises in one that may not.
    unsafe { pg_sys::GetCurrentTransactionId() };
}

/// The top-level transaction's id, which is assigned if need be, and the current subtransaction.
pub fn ids() -> (u64, pg_sys::SubTransactionId) {
    // SAFETY: as above.
    unsafe { (pg_sys::GetTopFullTransactionId().value, pg_sys::GetCurrentSubTransactionId()) }
}

/// The id that the next transaction to get one will have: all smaller ones are assigned.
pub fn next_id() -> u64 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// Remembers that this transaction keeps writers out and that its rules are sound as they stand.
pub fn rules_are_checked() {
    if !REGISTERED.replace(true) {
        // SAFETY: registered once in the life of the backend, for all its transactions.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
        }
    }
    CHECKED_AT.set(Some(current_command()));
}

/// Whether nothing was written since the rules were checked.
pub fn rules_are_unchanged() -> bool {
    CHECKED_AT.get() == Some(current_command())
}

fn current_command() -> pg_sys::CommandId {
    // SAFETY: reads the transaction's counter without using it up.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

/// A prepared transaction would keep every writer out until somebody remembers it.
///
/// # Safety
/// Called by Postgres.
#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _unused: *mut c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE if CHECKED_AT.get().is_some() => {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot prepare a transaction that changes which calls a limit counts",
                function_name!(),
            )
            .set_hint("Commit it in one phase.")
            .report(PgLogLevel::ERROR);
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_ABORT => {
            CHECKED_AT.set(None);
        }
        _ => {}
    }
}

/// What was written before a savepoint may be there again after a rollback to it.
///
/// # Safety
/// Called by Postgres.
#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _unused: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB && CHECKED_AT.get().is_some() {
        CHECKED_AT.set(Some(pg_sys::InvalidCommandId));
    }
}
