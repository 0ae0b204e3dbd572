//! `import_ai_usage`.

use super::arguments::Arguments;
use super::{Answered, answered};
use crate::admission::caller::Caller;
use crate::admission::import::import;
use crate::columns;
use crate::pg::row::Rows;
use ai_limiter_domain::Error;
use ai_limiter_domain::call::required;
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn import_ai_usage(fcinfo: pg_sys::FunctionCallInfo) -> Answered<Rows> {
    answered(|| {
        // SAFETY: declared as (regclass, jsonb, integer).
        let args = unsafe { Arguments::new(fcinfo) };
        let source = required(args.get::<pg_sys::Oid>(0), "source")?;
        let mapping = required(args.json(1, "mapping")?, "mapping")?;
        let batch_rows = args.get::<i32>(2).map(|rows| {
            usize::try_from(rows).ok().filter(|rows| *rows > 0).ok_or_else(|| {
                Error::out_of_range("batch_rows must be at least 1")
                    .hint("Set it to null to import all rows in one transaction.")
            })
        });
        let done = import(&Caller::current()?, source, &mapping, batch_rows.transpose()?)?;
        Ok(Rows(vec![columns![done.id, done.imported, done.refused, done.is_complete]]))
    })
}
