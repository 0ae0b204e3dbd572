//! How a domain error becomes a Postgres error: SQLSTATE, message, DETAIL, HINT.

use ai_limiter_domain::{Error, Kind};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

pub fn code(kind: Kind) -> PgSqlErrorCode {
    match kind {
        Kind::InvalidParameter => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        Kind::OutOfRange => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        Kind::NullNotAllowed => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        Kind::InsufficientPrivilege => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        Kind::UndefinedObject => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        Kind::ObjectNotInPrerequisiteState => {
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        }
        Kind::CheckViolation => PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
    }
}

pub fn report(error: Error) -> ErrorReport {
    let mut report = ErrorReport::new(code(error.kind), error.message, function_name!());
    if let Some(detail) = error.detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = error.hint {
        report = report.set_hint(hint);
    }
    report
}

/// Raises the error, for the places that Postgres calls without a way to return one.
pub fn raise(error: Error) -> ! {
    report(error).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}
