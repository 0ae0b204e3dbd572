//! The tables: configuration read, holds and ledger written, keys remembered, partitions made.
//!
//! Rows in `ai_reservations` and `ai_usage`, written in the caller's transaction, are the truth.
//! Nothing here decides: `admission` does, with what `counters` says.

pub mod config;
pub mod corrections;
pub mod costs;
pub mod denials;
pub mod estimates;
pub mod holds;
pub mod id;
pub mod idempotency;
pub mod imports;
pub mod own;
pub mod partitions;
pub mod prices;
pub mod retention;
pub mod rollup;
pub mod totals;
pub mod usage;
