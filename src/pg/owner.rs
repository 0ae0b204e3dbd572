//! Running as the owner of the extension's tables, for the length of one closure.
//!
//! The caller needs no right on the tables, and no row is hidden from a sum. The `search_path` is
//! pinned meanwhile: under a hostile one a caller's own `=` would run as the owner, even in a plan
//! that was kept.

use super::guc;
use super::relation;
use super::spi::Spi;
use ai_limiter_domain::error::Result;
use pgrx::pg_sys;

/// The caller's identity, put back when the scope ends, however it ends.
struct Elevation {
    user: pg_sys::Oid,
    security_context: i32,
}

impl Elevation {
    fn new() -> Result<Self> {
        let owner = relation::owner(relation::oid(c"ai_reservations")?)?;
        let (mut user, mut security_context) = (pg_sys::InvalidOid, 0);
        let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS;
        // SAFETY: plain reads and writes of this backend's identity, undone by Drop.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut security_context);
            pg_sys::SetUserIdAndSecContext(owner, security_context | flags as i32);
        }
        Ok(Self { user, security_context })
    }
}

impl Drop for Elevation {
    fn drop(&mut self) {
        // SAFETY: restores what `new` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.security_context) };
    }
}

/// Runs `work` with an SPI connection as the tables' owner. What Postgres allocates meanwhile goes
/// with the connection: give back Rust values, and make datums of them afterwards.
pub fn as_owner<R>(work: impl FnOnce(&Spi) -> Result<R>) -> Result<R> {
    let _elevation = Elevation::new()?;
    let settings = guc::Scope::new();
    settings.set(c"search_path", c"pg_catalog, pg_temp");
    let spi = Spi::connect();
    work(&spi)
}
