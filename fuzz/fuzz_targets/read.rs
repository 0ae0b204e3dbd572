//! Any text as a provider's response: the first byte chooses the hint, the rest is JSON or not.
#![no_main]

mod catalog;
#[path = "../../domain/tests/common/hostile.rs"]
#[allow(dead_code)]
mod hostile;

// The catalogue is decoded before the first input, whose time it would count against.
libfuzzer_sys::fuzz_target!(init: catalog::decode(), |bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(body) = serde_json::from_slice(text) else { return };
    let hint = hostile::hint(*first);
    hostile::judge(&ai_limiter_domain::usage::read(&body, hint, &catalog::Bundled));
});
