//! The SQL functions: arguments in, the layers below, rows out. Their declarations, defaults and
//! comments are hand-written in `sql/`; a wrapper here has the name that they refer to.

// pgrx's ErrorReport is large, and the only type that carries an SQLSTATE out of a function.
#![allow(clippy::result_large_err)]

mod admission;
mod arguments;
mod corrections;
mod estimates;
mod identity;
mod import;
mod ledger_triggers;
mod operating;
mod prices;
mod reporting;
mod statistics;
mod tokens;
mod triggers;

use crate::error::report;
use ai_limiter_domain::error::Result;
use pgrx::pg_sys::panic::ErrorReport;

/// What a SQL function gives: the value, or an error with its SQLSTATE.
type Answered<T> = std::result::Result<T, ErrorReport>;

fn answered<T>(work: impl FnOnce() -> Result<T>) -> Answered<T> {
    work().map_err(report)
}
