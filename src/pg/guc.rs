//! Settings for the length of a scope, as a function's SET clause has them.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Puts back what was set through it when dropped. While an error unwinds that is left to the abort
/// of the (sub)transaction, which knows every nesting level.
pub struct Scope(i32);

impl Scope {
    pub fn new() -> Self {
        // SAFETY: opens a nesting level; no preconditions.
        Self(unsafe { pg_sys::NewGUCNestLevel() })
    }

    pub fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: NUL-terminated strings; a value that is not valid raises, which unwinds.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the level that `new` opened; inner ones were closed before.
            unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
        }
    }
}
