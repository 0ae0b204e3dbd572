//! The table or view that is imported, read as the caller: with the caller's privileges and row-level
//! security, and whatever functions its views call run as the caller too.
//!
//! Nothing of its names is pasted unquoted, and operators and types are Postgres's own whatever the
//! `search_path`. Columns are read as text, which no value fails; only instants are read as such.

use crate::pg::relation;
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::usage_import::{Field, Mapping, Origin, Texts, instant};
use ai_limiter_domain::{Error, Kind, Timestamp, error::Result};
use pgrx::pg_sys;

pub struct Source {
    /// With its schema, quoted.
    pub name: String,
    /// Names, and their types without domains.
    columns: Vec<(String, pg_sys::Oid)>,
}

pub struct SourceRow {
    pub key: String,
    pub texts: Texts,
    /// An error where it says none: the row is refused then.
    pub created_at: Result<Timestamp>,
}

/// How a source is read, by which every chunk of it is.
pub struct Reading {
    head: String,
    key: String,
    key_type: &'static str,
    /// Whether created_at is read as an instant, and not as text.
    has_instant: bool,
}

impl Source {
    /// # Errors
    /// 42704 for a relation that is gone, 22023 for one that has no rows of its own to import.
    pub fn find(oid: pg_sys::Oid) -> Result<Self> {
        const SQL: &str = "SELECT a.attname::pg_catalog.text, a.atttypid::pg_catalog.int8 \
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid \
            WHERE c.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid \
            AND c.relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.text[]) \
            AND c.relnamespace OPERATOR(pg_catalog.<>) 'ai_limiter'::pg_catalog.regnamespace \
            AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped";
        let spi = Spi::connect();
        let columns = spi.read_once(
            &Snapshot::latest(),
            SQL,
            &[Arg::Int(Some(i64::from(oid.to_u32())))],
            |row| {
                let name = required(row.text(1), "attname")?;
                let oid = pg_sys::Oid::from(row.int(2).unwrap_or(0) as u32);
                // SAFETY: reads the type's cache entry.
                Ok((name, unsafe { pg_sys::getBaseType(oid) }))
            },
        )?;
        if columns.is_empty() {
            return Err(Error::invalid("source cannot be imported").detail(
                "It must be a table or a view with columns, outside the schema ai_limiter.",
            ));
        }
        Ok(Self { name: relation::qualified_name(oid), columns })
    }

    pub fn columns(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn type_of(&self, column: &str) -> pg_sys::Oid {
        let found = self.columns.iter().find(|(name, _)| name == column);
        found.map_or(pg_sys::InvalidOid, |(_, oid)| *oid)
    }

    /// # Errors
    /// 22023 for a key of a type that has no order by its text.
    pub fn reading(&self, mapping: &Mapping) -> Result<Reading> {
        let key_type = match self.type_of(&mapping.key) {
            pg_sys::INT2OID => "int2",
            pg_sys::INT4OID => "int4",
            pg_sys::INT8OID => "int8",
            pg_sys::UUIDOID => "uuid",
            pg_sys::TEXTOID | pg_sys::VARCHAROID => "text",
            _ => {
                return Err(Error::invalid(format!(
                    "column \"{}\" cannot be the key",
                    mapping.key
                ))
                .detail("A key is of type smallint, integer, bigint, uuid, text or varchar."));
            }
        };
        let key = quoted(&mapping.key);
        let mut expressions = vec![format!("{key}::pg_catalog.text")];
        let mut has_instant = false;
        for field in Field::ALL {
            expressions.push(match mapping.origin(field) {
                Origin::Column(column) if field == Field::CreatedAt => {
                    let instant = instant_expression(&quoted(column), self.type_of(column));
                    has_instant = instant.is_some();
                    instant.unwrap_or_else(|| format!("{}::pg_catalog.text", quoted(column)))
                }
                Origin::Column(column) => format!("{}::pg_catalog.text", quoted(column)),
                Origin::Constant(_) | Origin::Nothing => "NULL::pg_catalog.text".to_owned(),
            });
        }
        let head = format!("SELECT {} FROM {} s", expressions.join(", "), self.name);
        Ok(Reading { head, key, key_type, has_instant })
    }
}

/// Dates and times as instants, in the caller's zone where they have none. Those that no `timestamptz`
/// can be become one that is out of range anyway, rather than an error.
fn instant_expression(column: &str, of_type: pg_sys::Oid) -> Option<String> {
    let between = |name: &str| {
        format!(
            "(CASE WHEN {column} IS NOT NULL THEN LEAST(GREATEST({column}, \
             '1900-01-01'::pg_catalog.{name}), '9999-01-01'::pg_catalog.{name}) END)\
             ::pg_catalog.timestamptz"
        )
    };
    match of_type {
        pg_sys::TIMESTAMPTZOID => Some(format!("{column}::pg_catalog.timestamptz")),
        pg_sys::TIMESTAMPOID => Some(between("timestamp")),
        pg_sys::DATEOID => Some(between("date")),
        _ => None,
    }
}

/// A column of the source, as SQL has it.
fn quoted(column: &str) -> String {
    format!("s.\"{}\"", column.replace('"', "\"\""))
}

impl Reading {
    /// The next rows behind a key, in the key's order.
    pub fn next(
        &self,
        mapping: &Mapping,
        after: Option<&str>,
        rows: usize,
    ) -> Result<Vec<SourceRow>> {
        let Self { head, key, key_type, .. } = self;
        let mut args = vec![Arg::count(rows)];
        let condition = match after {
            None => format!("{key} IS NOT NULL"),
            Some(after) => {
                args.push(after.into());
                format!("{key} OPERATOR(pg_catalog.>) $2::pg_catalog.{key_type}")
            }
        };
        let sql = format!("{head} WHERE {condition} ORDER BY {key} LIMIT $1");
        let spi = Spi::connect();
        spi.read_once(&Snapshot::latest(), &sql, &args, |row| self.row(mapping, row))
    }

    fn row(&self, mapping: &Mapping, row: &Row) -> Result<SourceRow> {
        let mut texts = Texts::default();
        for (number, field) in (2..).zip(Field::ALL) {
            texts[field as usize] = match mapping.origin(field) {
                Origin::Column(_) if field == Field::CreatedAt && self.has_instant => None,
                Origin::Column(_) => row.text(number),
                Origin::Constant(text) => Some(text.clone()),
                Origin::Nothing => None,
            };
        }
        let at = Field::CreatedAt as usize;
        let created_at = match self.has_instant {
            true => required(row.timestamp(at as i32 + 2), Field::CreatedAt.name()),
            false => instant(texts[at].as_deref()),
        };
        Ok(SourceRow { key: required(row.text(1), "key")?, texts, created_at })
    }

    /// # Errors
    /// 22004 where a row has no key: it could not be found again.
    pub fn refuse_null_keys(&self, source: &Source) -> Result<()> {
        let sql = format!(
            "SELECT 1::pg_catalog.int8 FROM {} s WHERE {} IS NULL LIMIT 1",
            source.name, self.key
        );
        let spi = Spi::connect();
        let found = spi.read_once(&Snapshot::latest(), &sql, &[], |row| Ok(row.int(1)))?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::NullNotAllowed, "the key of the source has nulls")
            .hint("Name a column as id in mapping that is unique and never null."))
    }
}
