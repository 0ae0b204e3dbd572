//! Catching an error of Postgres, so that a verdict can say `degraded`.

use ai_limiter_domain::error::Result;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::panic::{AssertUnwindSafe, UnwindSafe};

/// Errors that are the caller's own to have: a timeout, a cancel or a shutdown must never turn into
/// an allow, and a serialization failure, a deadlock or a lock timeout is to be tried again.
fn must_pass(code: PgSqlErrorCode) -> bool {
    matches!(
        code,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
            | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
            | PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
    )
}

/// Runs `work`; an error of Postgres in it is rolled back and given back as its SQLSTATE.
///
/// A domain error is the caller's mistake and passes through. In parallel mode there are no
/// subtransactions: errors are raised there as they are.
pub fn catch<R>(
    work: impl FnOnce() -> Result<R>,
) -> Result<std::result::Result<R, PgSqlErrorCode>> {
    // SAFETY: reads a flag.
    if unsafe { pg_sys::IsInParallelMode() } {
        return work().map(Ok);
    }
    attempt(work, |code| !must_pass(code))
}

/// Runs `work` in a subtransaction; an error that `catches` accepts rolls it back.
pub fn attempt<R>(
    work: impl FnOnce() -> Result<R>,
    catches: impl Fn(PgSqlErrorCode) -> bool + UnwindSafe + std::panic::RefUnwindSafe,
) -> Result<std::result::Result<R, PgSqlErrorCode>> {
    // SAFETY: the sequence of PL/pgSQL's exception block: remember where we are, begin, and on
    // either way out end the subtransaction and return to that memory context and owner.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let mut work = Some(AssertUnwindSafe(work));
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
            let work = work.take().expect("runs once");
            Ok((work.0)())
        }))
        .catch_others(|error| {
            let code = match &error {
                CaughtError::PostgresError(e) | CaughtError::ErrorReport(e) => e.sql_error_code(),
                CaughtError::RustPanic { ereport, .. } => ereport.sql_error_code(),
            };
            if !catches(code) {
                error.rethrow();
            }
            Err(code)
        })
        .execute();
        match outcome {
            Ok(result) => {
                pg_sys::ReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                result.map(Ok)
            }
            Err(code) => {
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::CurrentResourceOwner = owner;
                Ok(Err(code))
            }
        }
    }
}
