//! A memory context for a piece of work that is done again and again, and emptied in between.
//!
//! pgrx's own `switch_to` leaves a context that an error unwinds from as the current one, although it
//! is deleted on the way out; the message of that very error is then written into it. Here the one before
//! is put back however the work ends. Lives as long as the value.

use pgrx::{PgMemoryContexts, pg_sys};

pub struct Scratch(PgMemoryContexts);

/// The context from before, put back when the work ends.
struct Before(pg_sys::MemoryContext);

impl Drop for Before {
    fn drop(&mut self) {
        // SAFETY: it was the current one when the work began, and outlives it.
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }
}

impl Scratch {
    pub fn new(name: &'static str) -> Self {
        Self(PgMemoryContexts::new(name))
    }

    /// Does the work in it, and empties it, unless the work raises: then it is to be dropped.
    ///
    /// # Safety
    /// Nothing that Postgres allocates in the current context meanwhile is used afterwards.
    pub unsafe fn emptied_after<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let done = {
            // SAFETY: a context that lives as long as this.
            let _before = Before(unsafe { pg_sys::MemoryContextSwitchTo(self.0.value()) });
            work()
        };
        // SAFETY: as promised, and no longer the current context.
        unsafe { self.0.reset() };
        done
    }
}
