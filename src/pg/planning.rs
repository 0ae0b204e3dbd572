//! Planning for the size that tables will have, and not for the one that they have.
//!
//! A plan that is kept is made once, and holds until the table is analysed or its structure changes: a minute
//! or more. One that was made while the table was empty, as after a restore or at night, reads all of
//! it by then, and costs a call more with each row. Turning sequential scans off does not do: for an
//! empty table all indexes cost the same. So the planner is told, in a hook of its own, that every table
//! of the statement is large. Nor shall it look through a second index for the few rows that the first
//! one finds: without statistics it takes `state = 'open'` for rare.
//!
//! The hook is set once in the life of a backend, and asks a thread-local flag that is set for the
//! length of one planning.

use super::guc;
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;

/// What every table has at least: enough that only an index that finds the rows is cheap.
const PAGES: pg_sys::BlockNumber = 10_000;
const ROWS: f64 = 1_000_000.0;

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static IS_SET: Cell<bool> = const { Cell::new(false) };
    static PREVIOUS: Cell<pg_sys::get_relation_info_hook_type> = const { Cell::new(None) };
}

/// Runs `plan`, in which no table is small.
pub fn for_large_tables<R>(plan: impl FnOnce() -> R) -> R {
    struct On;
    impl Drop for On {
        fn drop(&mut self) {
            IS_ON.set(false);
        }
    }
    if !IS_SET.replace(true) {
        // SAFETY: a variable of this backend, which has one thread; who was there before is called too.
        unsafe {
            PREVIOUS.set(pg_sys::get_relation_info_hook);
            pg_sys::get_relation_info_hook = Some(enlarge);
        }
    }
    let settings = guc::Scope::new();
    settings.set(c"enable_bitmapscan", c"off");
    IS_ON.set(true);
    let _on = On;
    plan()
}

/// # Safety
/// Called by the planner.
#[pg_guard]
unsafe extern "C-unwind" fn enlarge(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    is_parent: bool,
    info: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: what the planner passed on; what it has just read of one table, and nobody else has yet.
    unsafe {
        if let Some(previous) = PREVIOUS.get() {
            previous(root, relation, is_parent, info);
        }
        if !IS_ON.get() || is_parent {
            return;
        }
        let info = &mut *info;
        info.pages = info.pages.max(PAGES);
        info.tuples = info.tuples.max(ROWS);
        let count = info.indexlist.as_ref().map_or(0, |list| list.length);
        for number in 0..count as usize {
            let cell = (*info.indexlist).elements.add(number);
            let index = &mut *(*cell).ptr_value.cast::<pg_sys::IndexOptInfo>();
            index.pages = index.pages.max(PAGES / 4);
            index.tuples = index.tuples.max(ROWS);
        }
    }
}
