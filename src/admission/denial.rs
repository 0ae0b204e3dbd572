//! Remembering who was told no.

use super::expiry;
use crate::counters::memory::{self, transaction};
use crate::ledger::denials::{self, Denial, waiting};
use crate::pg::clock;
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use ai_limiter_domain::error::Result;

/// Lets a denial wait for the worker, or writes it where there is none.
pub fn remember(denial: &Denial) -> Result<()> {
    let swept = memory::current()?.filter(|i| expiry::is_swept(i, clock::now()));
    if swept.is_some_and(|installation| waiting::add(installation.id(), denial)) {
        return Ok(());
    }
    as_owner(|spi| denials::insert(spi, denial))
}

/// Writes what waits. Does nothing where somebody else is at it.
pub fn write_waiting() -> Result<()> {
    let Some(installation) = memory::current()? else { return Ok(()) };
    if !lock::try_acquire(&Key::new(Class::Denials, "waiting")) {
        return Ok(());
    }
    transaction::at_its_end(installation, waiting::written);
    let taken = waiting::take(installation.id());
    as_owner(|spi| taken.iter().try_for_each(|denial| denials::insert(spi, denial)))
}
