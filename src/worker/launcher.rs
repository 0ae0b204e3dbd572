//! The launcher: starts a round for each database of `ai_limiter.databases` when one is due.
//!
//! Connected to no database, it is in nobody's way, and yet can read the catalogue of databases: one
//! that is missing is looked for every second and costs no process that would fail to connect. It
//! waits for no round; each has a process of its own.

use super::complaint;
use super::state::{self, Entry};
use crate::pg::background::{self, Process, Started};
use crate::pg::{clock, process};
use crate::settings;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_int;

/// Microseconds.
const SECOND: i64 = 1_000_000;
/// After a round that ended without saying when the next is due: it could not connect, or was
/// terminated.
const RETRY: i64 = 5 * SECOND;
/// Looks around without being asked. A reload and the end of a round wake it.
const AT_LEAST_EVERY: i64 = 60 * SECOND;

const NO_SLOT: &str = "every slot of max_worker_processes is taken";

/// A round that this launcher started.
struct Round {
    database: String,
    process: Started,
}

/// # Safety
/// Called by Postgres as the function of a background worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ai_limiter_launcher_main(_unused: pg_sys::Datum) {
    background::begin();
    background::connect(None);
    background::at_exit(at_exit);
    state::set_launcher(background::pid());
    let mut rounds: Vec<Round> = Vec::new();
    loop {
        background::reload_settings();
        let next = look_around(&mut rounds);
        let wait = (next - clock::now().0).clamp(0, AT_LEAST_EVERY);
        // Rounded up: a moment too early would be one round of the loop for nothing.
        background::sleep(wait / 1000 + 1);
    }
}

/// # Safety
/// Called by Postgres when the process ends.
#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: c_int, _unused: pg_sys::Datum) {
    state::set_launcher(0);
}

/// Starts what is due; says when there will be something again.
fn look_around(rounds: &mut Vec<Round>) -> i64 {
    rounds.retain(|round| !round.process.has_ended());
    state::keep(&settings::databases());
    let now = clock::now().0;
    let due = |entry: &Entry| entry.pid == 0 && entry.due_at <= now;
    let waiting: Vec<_> = state::all().into_iter().filter(|e| due(e) && !has(rounds, e)).collect();
    if !waiting.is_empty() {
        let look = || Ok(process::databases());
        let existing = process::in_transaction("ai_limiter: look for databases", look);
        for entry in waiting {
            let database = entry.name.get();
            let wait = match &existing {
                Ok(existing) if !existing.contains(&database) => SECOND,
                _ => RETRY,
            };
            // Before it is started: a round says better when the next is due.
            state::update(&database, |entry| entry.due_at = now + wait);
            match &existing {
                Ok(existing) if existing.contains(&database) => match start(&database) {
                    Some(process) => rounds.push(Round { database, process }),
                    None => complaint::of(&database, "start a round", NO_SLOT),
                },
                Ok(_) => {}
                Err(error) => complaint::of(&database, "look for the database", error),
            }
        }
    }
    let mut next = now + AT_LEAST_EVERY;
    for entry in state::all().iter().filter(|entry| !has(rounds, entry)) {
        // Of the end of a round that an earlier launcher started nobody tells this one.
        next = next.min(if entry.pid == 0 { entry.due_at } else { now + SECOND });
    }
    next
}

fn has(rounds: &[Round], entry: &Entry) -> bool {
    let database = entry.name.get();
    rounds.iter().any(|round| round.database == database)
}

fn start(database: &str) -> Option<Started> {
    let process = Process {
        name: &format!("ai_limiter worker for database \"{database}\""),
        kind: "ai_limiter worker",
        function: "ai_limiter_round_main",
        argument: database,
    };
    process.start()
}
