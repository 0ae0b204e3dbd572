//! Any text as a provider's response: the first byte chooses the hint, the rest is JSON or not.
#![no_main]

mod catalog;
#[path = "../../domain/tests/common/hostile.rs"]
#[allow(dead_code)]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(body) = serde_json::from_slice(text) else { return };
    let hint = hostile::hint(*first);
    hostile::judge(&ai_limiter_domain::usage::read(&body, hint, &catalog::Bundled));
});
