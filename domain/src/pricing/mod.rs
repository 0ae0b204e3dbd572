//! What a call used, and what that costs: classes, quantities, price lists and line items.

pub mod class;
pub mod quantities;

pub use class::Class;
pub use quantities::Quantities;
