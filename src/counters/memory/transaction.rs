//! What this backend's transaction has done to counters and to the configuration, and what becomes of
//! it at its end.
//!
//! Lives in one thread-local cell, is forgotten when the transaction ends, and is cut back when a
//! savepoint is rolled back to: everything carries the nesting level that did it. Two callbacks,
//! registered once in the life of the backend, end it. Once a transaction has committed or aborted
//! nothing in them can fail: they neither allocate nor raise. A commit's runs when the transaction is
//! visible to all, and before its locks go.
//!
//! **Bulk.** A transaction that adds to too many counters, that restores a dump, or that has edited
//! rules before it writes, stops telling the counters. When it is about to commit it waits until no
//! other writer is open; when it has committed, all counters of the database go, and are loaded anew.

use super::installation::{Config, Installation};
use super::shared;
use super::statistics::{Count, count};
use crate::error::raise;
use crate::pg::barrier;
use ai_limiter_domain::counters::Pending;
use ai_limiter_domain::counters::pending::Level;
use ai_limiter_domain::counters::table::Which;
use ai_limiter_domain::{Timestamp, error::Result};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// How many changes are remembered singly.
const MOST: usize = 256;

/// Something that others must know when it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The rows of a table are read again.
    Config(Config),
    /// An account, a tenant or a run is read again.
    Generation(usize),
    /// What a rule counts: the counters of its name go.
    Rule(u64),
    /// An account's zone: its counters go.
    Account(u64),
    /// A zone that many share: all counters go.
    All,
    /// Rules or zones were edited, so that this transaction's own writes cannot be told to counters.
    Shape,
}

#[derive(Default)]
struct State {
    installation: Option<&'static Installation>,
    pending: Pending,
    /// The level since when nothing is told to counters.
    bulk: Option<Level>,
    /// The lowest level that admitted a hold, whose room must stay taken.
    admitted: Option<Level>,
    /// Counters that found no place: their locks are kept, and what is added is not told.
    locked: Vec<(Level, u128)>,
    changes: Vec<(Level, Change)>,
    /// The earliest expiry of the holds that were written.
    expires: Option<Timestamp>,
    /// What is to be told at the end whether it committed.
    at_end: Option<fn(u64, bool)>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

pub fn level() -> Level {
    // SAFETY: reads this backend's state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// Runs `work` with what is pending; the callbacks are registered.
pub fn with_pending<R>(
    installation: &'static Installation,
    work: impl FnOnce(&mut Pending) -> R,
) -> R {
    register();
    STATE.with_borrow_mut(|state| {
        state.installation = Some(installation);
        work(&mut state.pending)
    })
}

/// Remembers a change for the commit.
pub fn changed(installation: &'static Installation, change: Change) {
    register();
    STATE.with_borrow_mut(|state| {
        state.installation = Some(installation);
        // A load of a million accounts is not remembered one by one.
        let change = match change {
            Change::Generation(_) if state.changes.len() > MOST => Change::Config(Config::Tiers),
            Change::Account(_) | Change::Rule(_) if state.changes.len() > MOST => Change::All,
            change => change,
        };
        let at = (level(), change);
        if !state.changes.contains(&at) {
            state.changes.push(at);
        }
    });
}

/// Whether this transaction has made such a change, and so sees what others do not.
pub fn has_changed(change: Change) -> bool {
    STATE.with_borrow(|state| state.changes.iter().any(|(_, made)| *made == change))
}

pub fn admitted(expires_at: Timestamp) {
    STATE.with_borrow_mut(|state| {
        let level = level();
        state.admitted = Some(state.admitted.map_or(level, |of| of.min(level)));
        state.expires = Some(state.expires.map_or(expires_at, |at| at.min(expires_at)));
    });
}

/// Calls `tell` when the transaction has ended, with the installation's number and whether it committed.
/// It must not raise.
pub fn at_its_end(installation: &'static Installation, tell: fn(u64, bool)) {
    with_pending(installation, |_| ());
    STATE.with_borrow_mut(|state| state.at_end = Some(tell));
}

/// Whether a hold may be open whose time is over, as far as this transaction sees.
pub fn may_expire(installation: &Installation, now: Timestamp) -> bool {
    installation.may_expire(now)
        || STATE.with_borrow(|state| state.expires.is_some_and(|at| at <= now))
}

/// Whether a hold may be in shared memory whose time is over.
pub fn has_due_hold(now: Timestamp) -> Result<bool> {
    Ok(super::current()?.is_some_and(|installation| may_expire(installation, now)))
}

/// Whether this transaction has touched the counter.
pub fn is_pinned(hash: u128) -> bool {
    STATE.with_borrow(|state| state.pending.find(hash).is_some())
}

/// The counter found no place: its lock is kept to the end of the transaction.
pub fn keep_locked(installation: &'static Installation, hash: u128) {
    with_pending(installation, |_| ());
    STATE.with_borrow_mut(|state| state.locked.push((level(), hash)));
}

pub fn is_locked(hash: u128) -> bool {
    STATE.with_borrow(|state| state.locked.iter().any(|(_, locked)| *locked == hash))
}

/// How many counters are pinned or locked.
fn size() -> usize {
    STATE.with_borrow(|state| state.pending.len() + state.locked.len())
}

pub fn is_bulk() -> bool {
    STATE.with_borrow(|state| state.bulk.is_some())
}

/// Whether this transaction has written, or may write, what it does not tell the counters: its own eyes
/// see that only in the tables.
pub fn is_untold() -> bool {
    is_bulk() || has_changed(Change::Shape)
}

/// Begins bulk where a transaction has added to too many counters.
pub fn begin_bulk_if_large(installation: &'static Installation) {
    if size() > shared::get().map_or(usize::MAX, |memory| memory.capacity() / 8) {
        begin_bulk(installation);
    }
}

/// Tells nothing to counters from here on. Where no hold was admitted, what was told is taken back, so
/// that this transaction keeps nobody waiting until it commits.
pub fn begin_bulk(installation: &'static Installation) {
    if is_bulk() {
        return;
    }
    with_pending(installation, |_| ());
    count(Count::BulkEpisodes);
    STATE.with_borrow_mut(|state| {
        // What lower levels have told is taken back too: then bulk outlives a rollback to here.
        let takes_back = state.admitted.is_none() && !state.pending.is_empty();
        state.bulk = Some(if takes_back { 1 } else { level() });
        if takes_back {
            shared::exclusive(|inside| state.pending.end(false, &mut inside.table));
        }
    });
    if STATE.with_borrow(|state| state.admitted.is_none()) {
        barrier::leave();
    }
}

fn register() {
    if !REGISTERED.replace(true) {
        // SAFETY: registered once in the life of the backend, for all its transactions.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
        }
    }
}

/// # Safety
/// Called by Postgres.
#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _unused: *mut c_void) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT if is_bulk() => {
            before_bulk_commits().unwrap_or_else(|error| raise(error));
        }
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE if !is_idle() => {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot prepare a transaction that has written usage or changed limits",
                function_name!(),
            )
            .set_hint("Commit it in one phase.")
            .report(PgLogLevel::ERROR);
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => end(true),
        pg_sys::XactEvent::XACT_EVENT_ABORT => end(false),
        _ => {}
    }
}

/// Waits until no other writer is open.
fn before_bulk_commits() -> Result<()> {
    barrier::exclude_writers("load usage in bulk")
}

fn is_idle() -> bool {
    STATE.with_borrow(|state| {
        state.pending.is_empty()
            && state.admitted.is_none()
            && state.bulk.is_none()
            && state.locked.is_empty()
            && state.changes.is_empty()
    })
}

fn end(committed: bool) {
    STATE.with_borrow_mut(|state| {
        let Some(installation) = state.installation.take() else { return };
        let changes = if committed { &state.changes[..] } else { &[] };
        let reshaped = changes.iter().any(|(_, change)| {
            matches!(change, Change::Rule(_) | Change::Account(_) | Change::All)
        });
        let all = committed
            && (state.bulk.is_some()
                || changes.iter().any(|(_, change)| *change == Change::All)
                || (reshaped && !state.pending.is_empty()));
        if !state.pending.is_empty() || all || reshaped {
            shared::exclusive(|inside| {
                state.pending.end(committed, &mut inside.table);
                if all {
                    inside.table.clear(installation.id(), Which::All);
                } else if reshaped {
                    for (_, change) in changes {
                        let (rules, accounts) = match change {
                            Change::Rule(label) => (std::slice::from_ref(label), &[][..]),
                            Change::Account(label) => (&[][..], std::slice::from_ref(label)),
                            _ => continue,
                        };
                        inside.table.clear(installation.id(), Which::Of { rules, accounts });
                    }
                }
                tell(installation, changes);
                if all || reshaped {
                    installation.begin_epoch();
                }
            });
        } else {
            tell(installation, changes);
        }
        if let Some(at) = state.expires.take().filter(|_| committed) {
            installation.expires(at);
        }
        if committed && state.bulk.is_some() {
            // It may have written holds with any expiry: the next one is to be looked for.
            installation.expires(Timestamp(0));
        }
        if let Some(tell) = state.at_end.take() {
            tell(installation.id(), committed);
        }
        state.bulk = None;
        state.admitted = None;
        state.locked.clear();
        state.changes.clear();
    });
}

/// Lets every backend read again what was changed.
fn tell(installation: &Installation, changes: &[(Level, Change)]) {
    for (_, change) in changes {
        match change {
            Change::Config(config) => installation.begin_generation(*config),
            Change::Generation(slot) => {
                if let Some(memory) = shared::get() {
                    memory.generations[*slot].fetch_add(1, Ordering::AcqRel);
                }
            }
            Change::Rule(_) | Change::Account(_) | Change::All | Change::Shape => {}
        }
    }
}

/// # Safety
/// Called by Postgres.
#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _mine: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _unused: *mut c_void,
) {
    let level = level();
    STATE.with_borrow_mut(|state| {
        let (pending, below) = (&mut state.pending, level - 1);
        let of_this = |of: Level| of >= level;
        match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
                if !pending.is_empty() {
                    shared::exclusive(|inside| pending.merge(level, &mut inside.table));
                }
                state.bulk = state.bulk.map(|of| of.min(below));
                state.admitted = state.admitted.map(|of| of.min(below));
                let locked = state.locked.iter_mut().map(|(of, _)| of);
                for of in locked.chain(state.changes.iter_mut().map(|(of, _)| of)) {
                    *of = (*of).min(below);
                }
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
                if !pending.is_empty() {
                    shared::exclusive(|inside| pending.undo(level, &mut inside.table));
                }
                state.bulk = state.bulk.filter(|of| !of_this(*of));
                state.admitted = state.admitted.filter(|of| !of_this(*of));
                state.locked.retain(|(of, _)| !of_this(*of));
                state.changes.retain(|(of, _)| !of_this(*of));
            }
            _ => {}
        }
    });
}
