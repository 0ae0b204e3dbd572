//! The maintenance worker: expires holds, forgets what is old, makes partitions, without anybody
//! calling. Everything answers without it too; see `docs/internals.md`.
//!
//! A process that is connected to a database keeps it from being dropped, renamed or copied. So there
//! is a *launcher*, connected to none, that starts a process for each database and *round*
//! ([`round`]); it does what is due, each duty in short transactions of its own, and ends. What has to
//! outlive a round is in shared memory ([`state`]).
//!
//! Beside `api`: it calls `admission`, and nobody calls it but `api` to show its state.

mod complaint;
mod duties;
mod launcher;
mod round;
pub mod state;

use crate::pg::{background, shmem};
use pgrx::pg_sys;

/// Has the launcher started with the server, if the library is being preloaded. Not in pg_upgrade's
/// server, which must change nothing.
pub fn register() {
    // SAFETY: a flag of this process.
    if !shmem::is_preloading() || unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    let launcher = background::Process {
        name: "ai_limiter launcher",
        kind: "ai_limiter launcher",
        function: "ai_limiter_launcher_main",
        argument: "",
    };
    launcher.register();
}
