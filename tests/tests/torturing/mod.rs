//! What a round of torture is made of.

pub mod audit;
pub mod client;
pub mod injuries;

/// A tenant whose holds come and go: settled for less, released, extended, undone.
pub const CHURNING: u32 = 1;
/// A tenant whose holds are only settled, for what was held: once above a cap, always above it.
pub const MONOTONE: u32 = 2;
/// A tenant without caps, whose calls are booked in every other way.
pub const FREE: u32 = 3;
pub const USERS: u32 = 4;
/// What a run of the churning tenant may cost, in millionths of a dollar.
pub const RUN_LIMIT: u64 = 120_000;
/// And one of the monotone tenant.
pub const MONOTONE_RUN_LIMIT: u64 = 50_000;

/// Millionths of a dollar as SQL.
pub fn usd(millionths: u64) -> String {
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

/// The caps that deny, as SQL: whose calls they count, by what, in whose name, and how much. Told here once
/// more, so that what is audited is not what is audited by.
pub const CAPS: [(u32, &str, &str, &str); 6] = [
    (CHURNING, "cost_usd", "''", "0.4"),
    (CHURNING, "cost_usd", "user_id::text", "0.2"),
    (CHURNING, "cost_usd", "coalesce(run_id, id::text)", "0.12"),
    (MONOTONE, "cost_usd", "''", "0.5"),
    (MONOTONE, "cost_usd", "coalesce(run_id, id::text)", "0.05"),
    (MONOTONE, "requests", "user_id::text", "15"),
];
