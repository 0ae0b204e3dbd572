//! May this call run? Who asks ([`caller`]), what it would cost ([`estimate`]), which rules apply
//! and what they say ([`assess`], and [`in_memory`] by the counters in shared memory), and holding or
//! booking it ([`hold`], [`charge`], and [`import`] what was booked elsewhere), and correcting what was
//! booked ([`correction`], [`reprice`]). [`adjust`] tells those counters of what was not admitted;
//! [`standing`] answers what is left, and why a rule does or does not apply.

pub mod adjust;
pub mod assess;
pub mod cache;
pub mod caller;
pub mod charge;
pub mod configuration;
pub mod correction;
pub mod denial;
pub mod estimate;
pub mod expiry;
pub mod hold;
pub mod housekeeping;
pub mod import;
mod in_memory;
mod pricing;
pub mod reprice;
pub mod rule_change;
pub mod standing;
