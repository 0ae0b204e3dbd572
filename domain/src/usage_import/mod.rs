//! Reading usage that another system has kept: which of its columns is which of the ledger's
//! ([`mapping`]), and what a row of it says ([`row`]).
//!
//! Values come as Postgres writes them out, as text: that never fails, so that a row which makes no
//! sense is a row that is refused, with a reason, and not the end of the import.

pub mod mapping;
pub mod row;

pub use mapping::{Field, Mapping, Origin};
pub use row::{Texts, call, instant, usage};
