//! Booking what another table has kept, row by row as `record_ai_usage` books a call: priced as of its
//! time, into the month that it belongs to.
//!
//! **Once.** The source is read in the order of its key, and how far is kept in the transaction that
//! books ([`imports`]): what is killed is as if it had never been, and the next call goes on. A row's
//! id follows from the source's name, its key and its time, so that an import that begins anew finds
//! what is booked already.
//!
//! **Refused, not fatal.** A row that makes no sense is noted and passed over. Where Postgres itself
//! refuses one (a trigger or a check of somebody's own), the chunk that it was in is undone and
//! done again row by row: a subtransaction for each row would flood the list that every other
//! session's snapshot has to look through.
//!
//! **Counters.** More than a few rows are a bulk load, as a COPY is: nothing is told to the counters in
//! shared memory, and when it commits all are loaded anew. Windows that are over are in no answer, so
//! that they raise no alert.

mod source;

use self::source::{Reading, Source, SourceRow};
use super::caller::{Caller, not_permitted};
use super::charge::{Actual, Record, record};
use crate::counters::memory;
use crate::error;
use crate::ledger::imports::{self, Import, Refusal};
use crate::ledger::{id, usage};
use crate::pg::owner::as_owner;
use crate::pg::scratch::Scratch;
use crate::pg::subtransaction::{attempt, code_of, sqlstate};
use ai_limiter_domain::usage_import::{self, Mapping};
use ai_limiter_domain::{Error, Kind, error::Result};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use serde_json::Value;

/// Rows that are read at once: where the key has no index each time is a sort of the source.
const PAGE: usize = 10_000;
/// Rows that are tried together: a page is forty subtransactions.
const CHUNK: usize = 256;
/// Up to here each row is told to the counters.
const FEW: usize = 64;

/// Imports at most `batch_rows` rows of the source, else all.
pub fn import(
    caller: &Caller,
    source: pg_sys::Oid,
    mapping: &Value,
    batch_rows: Option<usize>,
) -> Result<Import> {
    if !caller.is_server {
        return Err(not_permitted("permission denied to import usage"));
    }
    let source = Source::find(source)?;
    let columns = Mapping::new(mapping, &source.columns())?;
    let reading = source.reading(&columns)?;
    imports::lock(&source.name);
    let mut import = as_owner(|spi| imports::find_or_begin(spi, &source.name, mapping))?;
    if import.last_key.is_none() {
        reading.refuse_null_keys(&source)?;
    }
    let booking = Booking { caller, source: &source, reading, mapping: &columns };
    let mut left = batch_rows.unwrap_or(usize::MAX);
    // What a page leaves behind goes with it: an import may be of any size.
    let mut memory = Scratch::new("ai_limiter import");
    while left > 0 && !import.is_complete {
        // SAFETY: nothing of Postgres's outlives the page.
        left -= unsafe { memory.emptied_after(|| booking.page(&mut import, left.min(PAGE))) }?;
    }
    as_owner(|spi| imports::keep(spi, &import))?;
    Ok(import)
}

struct Booking<'a> {
    caller: &'a Caller,
    source: &'a Source,
    reading: Reading,
    mapping: &'a Mapping,
}

impl Booking<'_> {
    /// The next rows, at most `most`; says how many.
    fn page(&self, import: &mut Import, most: usize) -> Result<usize> {
        // One more tells whether there is more, and whether the key is one.
        let mut rows = self.reading.next(self.mapping, import.last_key.as_deref(), most + 1)?;
        if let Some(twice) = rows.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(Error::invalid("the key of the source is not unique")
                .detail(format!("Key {} is there twice.", twice[0].key))
                .hint("Name a column as id in mapping that is unique and never null."));
        }
        import.is_complete = rows.len() <= most;
        rows.truncate(most);
        if rows.len() > FEW {
            memory::begin_bulk()?;
        }
        for chunk in rows.chunks(CHUNK) {
            let refusals = self.chunk(chunk)?;
            import.imported += (chunk.len() - refusals.len()) as i64;
            import.refused += refusals.len() as i64;
            as_owner(|spi| imports::refuse(spi, import.id, &refusals))?;
        }
        if let Some(last) = rows.last() {
            import.last_key = Some(last.key.clone());
        }
        Ok(rows.len())
    }

    fn chunk(&self, rows: &[SourceRow]) -> Result<Vec<Refusal>> {
        if rows.len() <= FEW {
            return self.apart(rows);
        }
        match attempt(|| self.together(rows), |_| true)? {
            Ok(refusals) => Ok(refusals),
            Err(error) if is_of_a_row(&error) => self.apart(rows),
            Err(error) => error.rethrow(),
        }
    }

    /// In one subtransaction, where nothing that fails has written.
    fn together(&self, rows: &[SourceRow]) -> Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        for row in rows {
            match self.book(row) {
                Err(error) if is_mistake(&error) => refusals.push(refusal(row, &error)),
                outcome => outcome?,
            }
        }
        Ok(refusals)
    }

    /// Each row in a subtransaction of its own.
    fn apart(&self, rows: &[SourceRow]) -> Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        for row in rows {
            match attempt(|| self.book(row), |()| true) {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_of_a_row(&error) => refusals.push(raised(row, &error)),
                Ok(Err(error)) => error.rethrow(),
                Err(error) if is_mistake(&error) => refusals.push(refusal(row, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(refusals)
    }

    fn book(&self, row: &SourceRow) -> Result<()> {
        pgrx::check_for_interrupts!();
        let created_at = row.created_at.clone()?;
        let id = id::derived(created_at, &format!("{} {}", self.source.name, row.key));
        if as_owner(|spi| usage::find(spi, id))?.is_some() {
            return Ok(());
        }
        let call = usage_import::call(&row.texts)?;
        let actual = Actual {
            usage: usage_import::usage(&row.texts)?,
            input_tokens: call.input_tokens,
            output_tokens: call.output_tokens,
            cost_usd: call.cost_usd,
            ..Actual::default()
        };
        let request = Record {
            call,
            actual,
            idempotency_key: None,
            created_at: Some(created_at),
            id: Some(id),
        };
        record(self.caller, request).map(|_| ())
    }
}

/// Whether the row is to blame, and not the state that the database is in.
fn is_mistake(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::InvalidParameter | Kind::OutOfRange | Kind::NullNotAllowed | Kind::CheckViolation
    )
}

/// Whether Postgres refused a row: for its data, a constraint, or by a trigger's own exception.
fn is_of_a_row(error: &CaughtError) -> bool {
    let sqlstate = sqlstate(code_of(error));
    ["22", "23", "P0"].iter().any(|class| sqlstate.starts_with(class))
}

fn refusal(row: &SourceRow, error: &Error) -> Refusal {
    let more = [&error.detail, &error.hint].into_iter().flatten();
    let reason = more.fold(error.message.clone(), |all, part| format!("{all}. {part}"));
    Refusal { key: row.key.clone(), sqlstate: sqlstate(error::code(error.kind)), reason }
}

fn raised(row: &SourceRow, error: &CaughtError) -> Refusal {
    let reason = match error {
        CaughtError::PostgresError(e) | CaughtError::ErrorReport(e) => e.message(),
        CaughtError::RustPanic { ereport, .. } => ereport.message(),
    };
    Refusal { key: row.key.clone(), sqlstate: sqlstate(code_of(error)), reason: reason.to_owned() }
}
