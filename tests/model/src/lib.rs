//! The protocol of the shared-memory counters as a model, checked through all interleavings.
//!
//! Rows of holds and of the ledger are the truth. An entry in shared memory caches the sum of a
//! counter's rows. The question is whether entry and rows can come apart, and whether more can be
//! admitted than a limit allows, by any order in which backends take their steps. The checker
//! (`stateright`) takes them all. A scenario (`scenarios.rs`) gives three to five backends a script
//! of calls, and is explored to the end: every state that can be reached satisfies the properties
//! of `model.rs`. Each step that matters can be left out (`scenario::Without`), and then the
//! checker finds the order in which a guarantee breaks. `tests/random.rs` does the same with scripts
//! drawn at random.
//!
//! # What an atomic step is
//!
//! - What one backend does between taking and giving back the table's lightweight lock: find and
//!   pin; publish and pin; stamp, check and apply; a callback.
//! - Taking a snapshot. What a sum says follows from the snapshot, however long it runs, so the sum
//!   is worked out in the same step. Publishing it is another step.
//! - Waiting for a heavyweight lock, with what follows of one's own memory and tables. Others can
//!   do nothing in between that the lock would not have forbidden before or after as well.
//! - Becoming visible (ProcArrayEndTransaction). The callback that follows is another step, and
//!   the locks go with it: nobody can tell a lock that goes later from a slow backend.
//! - A rollback, to a savepoint or of all. Nobody else ever saw what it undoes; its callback takes
//!   back what is published, before the locks go.
//!
//! Evicting, killing a backend, and the clock are steps that may come at any time.
//!
//! # What is left away, and why that is sound
//!
//! - *Amounts* are small whole numbers, and settled and held are one number: admission looks at
//!   their sum only. No step depends on how large an amount is, but by comparing it with a limit.
//! - *All calls are of one subject.* Subjects only make more counters. Two rules make two counters
//!   of one call, and two windows make two of one rule.
//! - *Instants* are coarse: many stamps share one. The counters care for a stamp's window only. The
//!   order of stamps matters to the rollup, which has a model of its own (`watermark`).
//! - *The ledger is summed whole.* That rollup and tail are the ledger is what that model shows.
//! - *Writing the row* is one step with applying it: until the commit, no one else sees the row. A
//!   plain INSERT writes the row first and counts it in its trigger, and has two steps.
//! - *Reservations are locked* for extend, settle and release, to the end of the transaction. An
//!   expiry is a release. Idempotency keys don't touch counters.
//! - *Invalidations* arrive when a writer has the barrier: a writer reads the committed rules. A
//!   check has no barrier, and trusts its remembered rules for as long as their generation stands.
//! - *Short tries* for the barrier are waiting for it: giving up is being killed.
//! - *Rolling rules* have no entries. The table path decides them, under a lock to the end.
//! - *A crash* of the server is an eviction of everything while nothing is open, which is explored.
//!   What it does to the stamp is in `watermark`.
//!
//! Deadlocks are no states of interest: Postgres resolves them by an abort, which is explored.

mod apply;
mod call;
mod end;
pub mod explore;
pub mod model;
mod pending;
pub mod scenario;
pub mod scenarios;
pub mod watermark;
pub mod world;
