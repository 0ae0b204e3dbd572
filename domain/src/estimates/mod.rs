//! What a call is likely to return, from what calls like it have returned, and what it may return at
//! most: [`histogram`] learns, [`output`] chooses, and [`tokens`] counts what is sent.

pub mod histogram;
pub mod output;
pub mod tokens;
