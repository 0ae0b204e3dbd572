//! Telling the extension's own statements from those of others.
//!
//! Who writes holds or caps of runs here tells the counters what it does. Triggers see any other
//! statement, which could have done anything. One flag of the backend, set for one statement.

use std::cell::Cell;

thread_local! {
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Marks the writing for the length of a closure, however it ends.
pub fn writing<R>(work: impl FnOnce() -> R) -> R {
    struct Writing;
    impl Drop for Writing {
        fn drop(&mut self) {
            WRITING.set(false);
        }
    }
    WRITING.set(true);
    let _writing = Writing;
    work()
}

/// Whether the extension is what writes now, and not somebody's own statement.
pub fn is_writing() -> bool {
    WRITING.get()
}
