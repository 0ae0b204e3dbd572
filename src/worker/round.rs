//! One round in one database: a process that does what is due there, and ends.
//!
//! Each transaction first takes the lock on the database that a starting session takes, and keeps it
//! to its end; where somebody else is dropping, renaming or copying the database, the round is over at
//! once. Whoever does that waits for a transaction of ours at most, and then finds nobody connected.

use super::complaint;
use super::duties::{DUTIES, Duty};
use super::state;
use crate::admission::housekeeping::Rest;
use crate::pg::{background, clock, process};
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_int;

/// Microseconds from the beginning of one round to that of the next.
const PERIOD: i64 = 1_000_000;
/// Where the extension is not created: a look costs a process.
const PERIOD_WITHOUT_EXTENSION: i64 = 5_000_000;
/// How long one duty may go on when there is always more to do; then it is the others' turn.
const TURN: i64 = 5_000_000;
/// A duty that failed is tried again after its period, and after this at the latest.
const RETRY: i64 = 60_000_000;

/// What came of a transaction.
enum Outcome {
    Did(Rest),
    /// Somebody is dropping, renaming or copying the database.
    Unwelcome,
    WithoutExtension,
}

/// # Safety
/// Called by Postgres as the function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ai_limiter_round_main(_unused: pg_sys::Datum) {
    background::begin();
    let database = background::argument();
    let started_at = clock::now().0;
    background::at_exit(at_exit);
    if state::claim(&database, background::pid(), started_at).is_none() {
        return;
    }
    background::connect(Some(&database));
    be_unlike_a_session();
    let Some(entry) = state::meet(&database, process::database().to_u32()) else { return };
    let due_at = match keep_house(&database, &entry.duty_due_at) {
        Outcome::WithoutExtension => started_at + PERIOD_WITHOUT_EXTENSION,
        Outcome::Unwelcome => started_at + PERIOD,
        Outcome::Did(_) => {
            state::update(&database, |entry| {
                entry.rounds += 1;
                entry.finished_at = clock::now().0;
            });
            started_at + PERIOD
        }
    };
    state::update(&database, |entry| entry.due_at = due_at);
}

/// # Safety
/// Called by Postgres when the process ends.
#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: c_int, _unused: pg_sys::Datum) {
    state::release(background::pid());
}

/// What a database or the server sets for sessions is not meant for this process.
fn be_unlike_a_session() {
    for (name, value) in [
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        (c"transaction_timeout", c"0"),
        // It waits for nobody long; what it could not do it tries again.
        (c"lock_timeout", c"1s"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"session_replication_role", c"origin"),
    ] {
        process::override_setting(name, value);
    }
}

fn keep_house(database: &str, due_at: &[i64]) -> Outcome {
    match attempt("look for the extension", || Ok(Rest::Done)) {
        Ok(Outcome::Did(_)) => {}
        Ok(outcome) => return outcome,
        Err(error) => complaint::of(database, "look for the extension", &error),
    }
    for (number, duty) in DUTIES.iter().enumerate() {
        let now = clock::now().0;
        if due_at[number] > now {
            continue;
        }
        let wait = match do_duty(duty) {
            Ok(Outcome::Did(_)) => duty.period,
            Ok(outcome) => return outcome,
            Err(error) => {
                // The error may be that of an extension that was dropped meanwhile.
                if let Ok(Outcome::WithoutExtension) = attempt(duty.name, || Ok(Rest::Done)) {
                    return Outcome::WithoutExtension;
                }
                complaint::of(database, duty.name, &error);
                duty.period.min(RETRY)
            }
        };
        state::update(database, |entry| entry.duty_due_at[number] = now + wait);
    }
    Outcome::Did(Rest::Done)
}

/// Does a duty part by part, each in a transaction of its own.
fn do_duty(duty: &Duty) -> Result<Outcome, String> {
    let turn_ends = clock::now().0 + TURN;
    loop {
        let outcome = attempt(duty.name, || (duty.run)(clock::now()))?;
        let is_to_go_on = matches!(outcome, Outcome::Did(Rest::More));
        if !is_to_go_on || clock::now().0 > turn_ends {
            return Ok(outcome);
        }
    }
}

fn attempt(
    what: &str,
    work: impl FnOnce() -> ai_limiter_domain::error::Result<Rest>,
) -> Result<Outcome, String> {
    process::in_transaction(&format!("ai_limiter: {what}"), || {
        if !process::keep_database() {
            return Ok(Outcome::Unwelcome);
        }
        if !process::has_extension() {
            return Ok(Outcome::WithoutExtension);
        }
        work().map(Outcome::Did)
    })
}
