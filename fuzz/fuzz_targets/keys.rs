//! JSON made of the keys that usage is read by: the first byte chooses the hint, the others the value.
#![no_main]

mod catalog;
#[path = "../../domain/tests/common/hostile.rs"]
mod hostile;

// The catalogue is decoded before the first input, whose time it would count against.
libfuzzer_sys::fuzz_target!(init: catalog::decode(), |bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let Some(first) = bytes.next() else { return };
    let body = hostile::json(&mut bytes, 0);
    let hint = hostile::hint(first);
    hostile::judge(&ai_limiter_domain::usage::read(&body, hint, &catalog::Bundled));
});
