//! Counters as a data structure: the table that all backends share, and what one transaction has
//! added to it.
//!
//! Both are pure: the shared table works on slices that the caller has locked, and neither can fail
//! between two of its steps. `ai_limiter::counters::memory` puts them into Postgres's shared memory.

pub mod pending;
pub mod table;

pub use pending::Pending;
pub use table::{Entry, Table};

/// What a counter says, or what is to be added to it, in 10⁻¹² units: settled cost and open holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    pub used: i128,
    pub held: i128,
}

impl Sums {
    pub const ZERO: Sums = Sums { used: 0, held: 0 };

    pub const fn total(self) -> i128 {
        self.used.wrapping_add(self.held)
    }

    /// Never fails: what is added was checked when it was admitted or booked, and is below 10³², of
    /// which a 128-bit integer holds a million.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Sums { used: self.used.wrapping_add(other.used), held: self.held.wrapping_add(other.held) }
    }

    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Sums { used: self.used.wrapping_sub(other.used), held: self.held.wrapping_sub(other.held) }
    }
}
