//! Catching an error of Postgres, so that a verdict can say `degraded`.

use ai_limiter_domain::error::Result;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::panic::AssertUnwindSafe;

/// Errors that say the ledger cannot be read: no resources, a failing disk, broken or missing
/// tables. Anything else passes: a timeout, a cancel or a shutdown must never turn into an allow, a
/// serialization failure, a deadlock or a lock timeout is to be tried again, and whatever a caller
/// can provoke with settings or arguments must not open the gate.
fn is_unreadable(code: PgSqlErrorCode) -> bool {
    let sqlstate = sqlstate(code);
    ["53", "58", "XX"].iter().any(|class| sqlstate.starts_with(class))
        || matches!(
            code,
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE
                | PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN
                | PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION
                | PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
                | PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        )
}

/// The five characters of an error code.
pub fn sqlstate(code: PgSqlErrorCode) -> String {
    let code = code as i32;
    (0..5).map(|i| char::from(((code >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}

pub fn code_of(error: &CaughtError) -> PgSqlErrorCode {
    match error {
        CaughtError::PostgresError(e) | CaughtError::ErrorReport(e) => e.sql_error_code(),
        CaughtError::RustPanic { ereport, .. } => ereport.sql_error_code(),
    }
}

/// Runs `work`; an error that says the ledger cannot be read is rolled back and given back as its
/// code. A domain error is the caller's mistake and passes through. Where the result is not one that
/// `keeps`, the locks that were taken are given back at once.
///
/// In parallel mode there are no subtransactions: errors are raised there as they are.
pub fn catch<R>(
    work: impl FnOnce() -> Result<R>,
    keeps: impl FnOnce(&R) -> bool,
) -> Result<std::result::Result<R, PgSqlErrorCode>> {
    // SAFETY: reads a flag.
    if unsafe { pg_sys::IsInParallelMode() } {
        return work().map(Ok);
    }
    match attempt(work, keeps)? {
        Ok(value) => Ok(Ok(value)),
        Err(error) if is_unreadable(code_of(&error)) => Ok(Err(code_of(&error))),
        Err(error) => error.rethrow(),
    }
}

/// Runs `work` in a subtransaction. An error rolls it back before it is given back: raised from
/// within, it would leave our subtransaction to an exception block of the caller's, which would
/// take it for its own.
#[allow(clippy::result_large_err)] // the error is what pgrx caught
pub fn attempt<R>(
    work: impl FnOnce() -> Result<R>,
    keeps: impl FnOnce(&R) -> bool,
) -> Result<std::result::Result<R, CaughtError>> {
    // SAFETY: the sequence of PL/pgSQL's exception block: remember where we are, begin, and on
    // either way out end the subtransaction and return to that memory context and owner.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let mut work = Some(AssertUnwindSafe(work));
        let run = AssertUnwindSafe(|| Ok((work.take().expect("runs once").0)()));
        let outcome = PgTryBuilder::new(run).catch_others(Err).execute();
        let result = match outcome {
            Ok(result) => {
                if result.as_ref().is_ok_and(keeps) {
                    pg_sys::ReleaseCurrentSubTransaction();
                } else {
                    pg_sys::RollbackAndReleaseCurrentSubTransaction();
                }
                result.map(Ok)
            }
            Err(error) => {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                Ok(Err(error))
            }
        };
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}
