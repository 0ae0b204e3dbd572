//! What a call is likely to return, from what calls like it have returned, and what it may return at
//! most: [`histogram`] learns, and [`output`] chooses.

pub mod histogram;
pub mod output;
