//! `count_tokens`.
//!
//! What counting needs is read when a backend first asks for it, and stays until the backend ends:
//! 17 MB for the older models of OpenAI, 33 MB for the newer (`ai_limiter_tokens`). An estimate needs
//! nothing.

use crate::pg::row::Composite;
use ai_limiter_tokens::count;
use pgrx::prelude::*;

/// `STRICT`: neither argument is null.
#[pg_extern(sql = false)]
fn count_tokens(model: &str, text: &str) -> Composite {
    let counted = count(model, text, || {
        pgrx::check_for_interrupts!();
    });
    Composite::token_count(counted.tokens, counted.encoding.map(|encoding| encoding.name()))
}
