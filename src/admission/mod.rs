//! May this call run? Who asks ([`caller`]), what it would cost ([`estimate`]), which rules apply
//! and what they say ([`assess`]), and holding or booking it ([`hold`], [`charge`]). [`standing`]
//! answers what is left, and why a rule does or does not apply.

pub mod assess;
pub mod caller;
pub mod charge;
pub mod estimate;
pub mod hold;
pub mod standing;
