//! How far each import has come, and what it refused: `ai_usage_imports` and
//! `ai_usage_import_refusals`.
//!
//! Written in the transaction that books the rows, so that the one cannot be without the other. Who
//! imports a source holds its lock ([`Class::Import`]) to the end of the transaction: a second one
//! waits, and goes on behind what the first has booked.

use crate::pg::lock::{self, Class, Key};
use crate::pg::spi::{Arg, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::{Error, error::Result};
use serde_json::Value;

pub struct Import {
    pub id: i64,
    pub last_key: Option<String>,
    pub imported: i64,
    pub refused: i64,
    pub is_complete: bool,
}

/// A row that was not booked, and why.
pub struct Refusal {
    pub key: String,
    pub sqlstate: String,
    pub reason: String,
}

/// Waits for whoever imports this source.
pub fn lock(source: &str) {
    lock::acquire(&Key::new(Class::Import, source));
}

/// The import of a source, which is begun where there is none. Call with its lock.
///
/// # Errors
/// 22023 when it was begun with another mapping.
pub fn find_or_begin(spi: &Spi, source: &str, mapping: &Value) -> Result<Import> {
    const FIND: &str = "SELECT id, last_key, imported, refused, mapping = $2 \
        FROM ai_limiter.ai_usage_imports WHERE source = $1";
    const BEGIN: &str = "INSERT INTO ai_limiter.ai_usage_imports (source, mapping, started_by) \
        VALUES ($1, $2, session_user || CASE current_setting('role') WHEN 'none' THEN '' \
        ELSE ' as ' || current_setting('role') END) RETURNING id";
    // Of imports that were deleted. No foreign key does it: tables restore in any order.
    const SWEEP: &str = "DELETE FROM ai_limiter.ai_usage_import_refusals r WHERE NOT EXISTS \
        (SELECT FROM ai_limiter.ai_usage_imports i WHERE i.id = r.import_id)";
    let args = [source.into(), Arg::Jsonb(mapping.to_string())];
    let found = spi.read(FIND, &args, |row| {
        let import = Import {
            id: required(row.int(1), "id")?,
            last_key: row.text(2),
            imported: row.int(3).unwrap_or(0),
            refused: row.int(4).unwrap_or(0),
            is_complete: false,
        };
        Ok((import, row.boolean(5)))
    })?;
    match found.into_iter().next() {
        Some((import, Some(true))) => Ok(import),
        Some(_) => {
            Err(Error::invalid(format!("import of {source} was begun with another mapping")).hint(
                "Give the mapping that ai_limiter.ai_usage_imports shows, or delete that row to \
                 begin anew.",
            ))
        }
        None => {
            spi.write(SWEEP, &[], |_| Ok(()))?;
            let ids = spi.write(BEGIN, &args, |row| required(row.int(1), "id"))?;
            let id = required(ids.into_iter().next(), "id")?;
            Ok(Import { id, last_key: None, imported: 0, refused: 0, is_complete: false })
        }
    }
}

pub fn keep(spi: &Spi, import: &Import) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_usage_imports SET last_key = $2, imported = $3, \
        refused = $4, is_complete = $5 = 1, \
        finished_at = CASE WHEN $5 = 1 THEN clock_timestamp() END WHERE id = $1";
    let args = [
        Arg::Int(Some(import.id)),
        import.last_key.as_deref().into(),
        Arg::Int(Some(import.imported)),
        Arg::Int(Some(import.refused)),
        Arg::Int(Some(i64::from(import.is_complete))),
    ];
    spi.write(SQL, &args, |_| Ok(()))?;
    Ok(())
}

/// A key that is too long for an index is cut, and told apart by its hash.
pub fn refuse(spi: &Spi, import: i64, refusals: &[Refusal]) -> Result<()> {
    const SQL: &str = "INSERT INTO ai_limiter.ai_usage_import_refusals AS r \
        (import_id, source_key, sqlstate, reason) VALUES ($1, \
            CASE WHEN octet_length($2) <= 512 THEN $2 ELSE left($2, 100) || '... (SHA-256 ' \
                || encode(sha256(convert_to($2, 'UTF8')), 'hex') || ')' END, $3, $4)";
    for refusal in refusals {
        let args = [
            Arg::Int(Some(import)),
            refusal.key.as_str().into(),
            refusal.sqlstate.as_str().into(),
            refusal.reason.as_str().into(),
        ];
        spi.write(SQL, &args, |_| Ok(()))?;
    }
    Ok(())
}
