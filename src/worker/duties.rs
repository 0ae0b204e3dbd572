//! What the worker does: a row a duty. Another duty is another row.
//!
//! In the order of the rows, each in transactions of its own: one that fails or waits stops no other.

use crate::admission::housekeeping::{self, Rest};
use ai_limiter_domain::window::MINUTE;
use ai_limiter_domain::{Timestamp, error::Result};

pub struct Duty {
    /// Completes "could not …" in a message.
    pub name: &'static str,
    /// Microseconds until it is due again; 0 is the next round.
    pub period: i64,
    /// Does a part that is short enough for one transaction.
    pub run: fn(Timestamp) -> Result<Rest>,
}

const EACH_ROUND: i64 = 0;
const TEN_SECONDS: i64 = 10_000_000;
const HOUR: i64 = 60 * MINUTE;

pub const DUTIES: [Duty; 9] = [
    Duty { name: "make partitions", period: HOUR, run: housekeeping::make_partitions },
    Duty { name: "expire holds", period: EACH_ROUND, run: housekeeping::expire_holds },
    Duty { name: "write denials", period: EACH_ROUND, run: housekeeping::write_denials },
    Duty { name: "roll up usage", period: EACH_ROUND, run: housekeeping::advance_rollup },
    Duty { name: "forget old holds", period: MINUTE, run: housekeeping::forget_holds },
    Duty { name: "forget idempotency keys", period: MINUTE, run: housekeeping::forget_keys },
    Duty { name: "drop old partitions", period: HOUR, run: housekeeping::drop_partitions },
    Duty { name: "merge denials", period: MINUTE, run: housekeeping::merge_denials },
    Duty {
        name: "learn what calls return",
        period: TEN_SECONDS,
        run: housekeeping::learn_estimates,
    },
];
