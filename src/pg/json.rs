//! `jsonb` from outside, by its text: what serde_json cannot read (1e400, or more than 127 levels) is
//! the caller's mistake and not an internal error.

use ai_limiter_domain::{Error, error::Result};
use pgrx::pg_sys;
use serde_json::Value;
use std::ffi::CStr;

/// # Safety
/// `datum` is a `jsonb`.
pub unsafe fn from_jsonb(datum: pg_sys::Datum, what: &str) -> Result<Value> {
    // SAFETY: as promised.
    if unsafe { is_empty_object(datum) } {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    // SAFETY: as promised.
    parse(&unsafe { text_of(datum) }, what)
}

/// # Safety
/// `datum` is a `jsonb`.
pub unsafe fn text_of(datum: pg_sys::Datum) -> String {
    // SAFETY: jsonb_out gives a palloc'd C string, in the database's encoding, which is UTF8.
    unsafe {
        pgrx::direct_function_call::<&CStr>(pg_sys::jsonb_out, &[Some(datum)])
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Whether it is the `{}` that attributes usually are, which needs no text.
///
/// # Safety
/// `datum` is a `jsonb`.
unsafe fn is_empty_object(datum: pg_sys::Datum) -> bool {
    const OBJECT_OF_NONE: u32 = pg_sys::JB_FOBJECT;
    let value: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: as promised; one that is stored apart or compressed is not read.
    unsafe {
        !pgrx::varlena::varatt_is_1b_e(value)
            && !pgrx::varlena::varatt_is_4b_c(value)
            && pgrx::varlena::varsize_any_exhdr(value) == size_of::<u32>()
            && pgrx::varlena::vardata_any(value).cast::<u32>().read_unaligned() == OBJECT_OF_NONE
    }
}

pub fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| {
        Error::invalid(format!("{what} cannot be read"))
            .detail("A number is too large, it is nested too deep, or a value has another type.")
    })
}
