//! What tests of corrections share: booking, adjusting, and what a rule then says.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use ai_limiter_tests::calls::Session;

/// Books a cost, and gives the row's id.
#[track_caller]
pub fn spend(session: &mut impl Session, arguments: &str) -> String {
    session.value(&format!("SELECT ai_limiter.record_ai_usage({arguments})"))
}

pub fn adjustment(id: &str, delta: &str) -> String {
    format!("SELECT ai_limiter.adjust_ai_usage('{id}', {delta}, 'a test')")
}

/// What a dollar's rule says is used, in cents, as seen from a session.
pub fn used_cents(session: &mut impl Session) -> String {
    session.value(
        "SELECT trim_scale(used * 100) FROM ai_limiter.get_ai_limits() WHERE limit_name = 'cost'",
    )
}
