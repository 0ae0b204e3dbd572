//! What went wrong, kept for `ai_limiter_stat` and written to the server's log, though not each second
//! anew.

use super::state;
use crate::pg::clock;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

/// `task` completes "could not …".
pub fn of(database: &str, task: &str, error: &str) {
    let text = format!("could not {task}: {error}");
    if state::note_error(database, &text, clock::now().0) {
        let message = format!("ai_limiter could not {task} in database \"{database}\"");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, function_name!())
            .set_detail(format!("The error was: {error}."))
            .set_hint("The worker goes on, and tries this again.")
            .report(PgLogLevel::WARNING);
    }
}
