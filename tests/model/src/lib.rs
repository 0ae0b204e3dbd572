//! The protocol of the counters as a model.

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
