//! An edit that changes which calls a rule counts, ordered against admission.
//!
//! A call that resolved the old rules and is still open would never be seen by the new counter's
//! lock. So such an edit waits, when it commits, until every open writer has ended, and keeps new
//! ones out until its own commit makes the rule visible: an instant, under short transactions.
//!
//! A waiter that queues without end behind one forgotten transaction would stop all admission, since
//! new writers queue behind it; one that only takes the barrier when it is free would starve under
//! load. So it queues for a moment, gives way for longer, and tries again ([`TRIES`]); then it gives
//! up and names who blocked it.

use super::config;
use crate::pg::guc;
use crate::pg::lock;
use crate::pg::owner::as_owner;
use crate::pg::relation;
use crate::pg::spi::{Arg, Snapshot};
use crate::pg::{subtransaction, transaction};
use ai_limiter_domain::{error::Result, precedence};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};
use std::ffi::CString;

/// Milliseconds to queue, and then to give way. Together they queue for 1.3 of 10 seconds. The second
/// is long enough for 64 calls that wait for one counter at 6 ms each, within the first second; the
/// third for 11 ms each; the last for the case that who blocked it has gone meanwhile.
const TRIES: [(u32, u32); 4] = [(50, 150), (400, 1400), (700, 7150), (150, 0)];

/// Waits for the writers that are open, then refuses two rows that could govern one call. Called for
/// each row that was edited, and does its work once.
pub fn begin() -> Result<()> {
    if lock::excludes_writers()? && transaction::rules_are_unchanged() {
        return Ok(());
    }
    if !excluded_writers()? {
        report_blockers()?;
    }
    as_owner(|spi| precedence::refuse_ties(&config::limits(spi, &Snapshot::latest())?))?;
    transaction::rules_are_checked();
    Ok(())
}

fn excluded_writers() -> Result<bool> {
    for (queue, give_way) in TRIES {
        let exclude = || {
            let settings = guc::Scope::new();
            settings.set(c"lock_timeout", &milliseconds(queue));
            lock::exclude_writers()
        };
        let tried = subtransaction::attempt(exclude, |()| true)?;
        match tried {
            Ok(()) => return Ok(true),
            Err(error)
                if subtransaction::code_of(&error)
                    == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => {}
            Err(error) => error.rethrow(),
        }
        sleep(give_way);
    }
    Ok(false)
}

fn milliseconds(count: u32) -> CString {
    CString::new(count.to_string()).expect("digits")
}

/// Sleeps in short pieces, so that a cancel is heard.
fn sleep(milliseconds: u32) {
    for _ in 0..milliseconds / 10 {
        // SAFETY: an interrupt that is pending raises, which unwinds.
        unsafe { pg_sys::pg_usleep(10_000) };
        pgrx::check_for_interrupts!();
    }
}

fn report_blockers() -> Result<()> {
    // A prepared transaction has no process; it is known by the lock on its own number, which has
    // the same virtual transaction.
    const SQL: &str = "SELECT string_agg(DISTINCT coalesce('process ' || l.pid, \
            'prepared transaction \"' || p.gid || '\"'), ', ') \
        FROM pg_locks l \
        LEFT JOIN pg_locks t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid' \
            AND t.granted AND t.virtualtransaction = l.virtualtransaction \
        LEFT JOIN pg_prepared_xacts p ON p.transaction = t.transactionid \
        WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted \
          AND l.pid IS DISTINCT FROM pg_backend_pid() \
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let barrier = relation::oid(c"ai_barrier")?;
    let args = [Arg::Int(Some(i64::from(barrier.to_u32())))];
    let blockers = as_owner(|spi| spi.read(SQL, &args, |row| Ok(row.text(1))))?;
    let blockers = blockers.into_iter().next().flatten();
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        "could not change limits while calls are being admitted",
        function_name!(),
    )
    .set_detail(match blockers {
        Some(blockers) => {
            format!("Calls admitted under the present limits are still open in: {blockers}.")
        }
        None => "The transactions that blocked it have just ended.".to_owned(),
    })
    .set_hint("Try again, or end them: SELECT pg_terminate_backend(pid), or ROLLBACK PREPARED.")
    .report(PgLogLevel::ERROR);
    Ok(())
}
