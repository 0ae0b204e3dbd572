//! What `ai_limiter_stat` shows: how often what happened, and how the worker is doing.

use super::reporting::timestamptz;
use super::{Answered, answered};
use crate::columns;
use crate::counters::memory::occupancy;
use crate::counters::memory::statistics::{Count, counted};
use crate::pg::row::Rows;
use crate::pg::{clock, process};
use crate::settings;
use crate::worker::state;
use ai_limiter_domain::Timestamp;
use pgrx::datum::Interval;
use pgrx::prelude::*;

/// Of the whole server, since it started; null where there is no shared memory to count in.
#[pg_extern(sql = false)]
fn ai_counter_stat() -> Answered<Rows> {
    answered(|| {
        let count = |what| counted(what).and_then(|count| i64::try_from(count).ok());
        let occupancy = occupancy();
        let number = |number: u64| i64::try_from(number).ok();
        Ok(Rows(vec![columns![
            count(Count::Checks),
            count(Count::Admitted),
            count(Count::DeniedByLimit),
            count(Count::DeniedByModel),
            count(Count::DeniedByFeature),
            count(Count::DeniedUnpriced),
            count(Count::DeniedSuspended),
            count(Count::DeniedDegraded),
            count(Count::Loads),
            occupancy.and_then(|(_, _, evictions)| number(evictions)),
            occupancy.map(|(entries, _, _)| i64::from(entries)),
            count(Count::LockWaits),
            count(Count::TablePathCalls),
            count(Count::BulkEpisodes),
        ]]))
    })
}

/// Of the worker in this database.
#[pg_extern(sql = false)]
fn ai_worker_stat() -> Answered<Rows> {
    answered(|| {
        let database = process::database_name();
        let entry = state::of(&database);
        let worker_state = match entry {
            _ if !state::exists() => "not preloaded",
            _ if process::is_standby() => "standby",
            _ if !settings::databases().contains(&database) => "not named",
            _ if !state::has_launcher() => "no launcher",
            Some(entry) if entry.pid != 0 => "working",
            _ => "waiting",
        };
        let at = |instant: i64| timestamptz((instant != 0).then_some(Timestamp(instant)));
        let lag = entry
            .filter(|e| e.finished_at != 0)
            .map(|e| Interval::from_micros(clock::now().0 - e.finished_at));
        Ok(Rows(vec![columns![
            worker_state,
            entry.map(|e| e.pid).filter(|&pid| pid != 0),
            entry.map(|e| e.rounds),
            entry.and_then(|e| at(e.started_at)),
            entry.and_then(|e| at(e.finished_at)),
            lag,
            entry.filter(|e| e.error_at != 0).map(|e| e.error.get()),
            entry.and_then(|e| at(e.error_at)),
        ]]))
    })
}
