//! What ai_limiter knows without a database: money, windows, rules, prices, roles and the verdict.
//!
//! Nothing here touches Postgres, the clock or shared state: every function's result follows from
//! its arguments, which is what lets the property tests explore it. The layers above (`ledger`,
//! `counters`, `admission`, `api` of the crate `ai_limiter`) import from here; this imports from
//! none of them, and being a crate of its own it cannot.

pub mod amount;
pub mod call;
pub mod claims;
pub mod counters;
pub mod error;
pub mod estimates;
pub mod filter;
pub mod grain;
pub mod limit;
pub mod limit_document;
pub mod model_name;
pub mod precedence;
pub mod pricing;
pub mod role;
pub mod rolling;
pub mod rule_set;
pub mod slots;
pub mod usage;
pub mod usage_import;
pub mod verdict;
pub mod window;

pub use amount::Amount;
pub use call::{Call, Dimensions};
pub use error::{Error, Kind};
pub use filter::Filter;
pub use limit::{Action, Limit, ManagedBy, Metric, Per, Period};
pub use role::Role;
pub use rule_set::RuleSet;
pub use window::{Timestamp, Window};
