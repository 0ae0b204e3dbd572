//! The ledger's monthly partitions (UTC), made ahead by whoever writes when the next is missing.
//!
//! CREATE TABLE … PARTITION OF would take ACCESS EXCLUSIVE on the ledger; making the table apart and
//! attaching it takes SHARE UPDATE EXCLUSIVE, beside open writers. Makers wait for each other
//! ([`Class::Partitions`]) to the end of the transaction that makes, and only a charge for a month
//! that has none waits for them; a month that exists costs one cache look-up. A partition is the owner's ordinary table, not a member of the extension: that
//! is what makes a dump carry it.

use crate::pg::guc;
use crate::pg::lock::{self, Class, Key};
use crate::pg::owner::as_owner;
use crate::pg::relation;
use crate::pg::spi::Spi;
use ai_limiter_domain::window::DAY;
use ai_limiter_domain::{Error, Timestamp, error::Result};
use jiff::civil::Date;
use jiff::{Span, ToSpan};
use pgrx::pg_sys;
use std::ffi::CString;

/// Months that are made ahead of the current one.
const AHEAD: i64 = 3;
/// Before this there was nothing to bill; a typo in a year must not make a partition.
const EARLIEST: Date = Date::constant(2020, 1, 1);
const EPOCH: Date = Date::constant(2000, 1, 1);

/// Makes the partition that a charge of `at` goes into, where it is missing.
pub fn ensure(at: Timestamp) -> Result<()> {
    let month = month_of(at)?;
    if month < EARLIEST {
        return Err(out_of_range().detail(format!("The ledger begins with {EARLIEST}.")));
    }
    if relation::find(&name(month)).is_none() {
        lock::acquire(&makers());
        make_missing(month, 0)?;
    }
    Ok(())
}

/// Whether there is a partition for the month of an instant.
pub fn exists(at: Timestamp) -> Result<bool> {
    Ok(relation::find(&name(month_of(at)?)).is_some())
}

/// Locks the ledger for a row of that instant, as a statement that inserts one does, and finds the
/// partition of its month.
pub fn lock(at: Timestamp) -> Result<Option<pg_sys::Oid>> {
    relation::lock_for_rows(relation::oid(c"ai_usage")?);
    Ok(relation::find(&name(month_of(at)?)))
}

/// Makes the months ahead when the next one is missing, unless somebody is making them: whoever
/// reserves need not wait for that, and a forgotten transaction that made them stops nobody.
pub fn prepare(now: Timestamp) -> Result<()> {
    let month = month_of(now)?;
    let next = month.checked_add(1.month()).map_err(|_| out_of_range())?;
    if relation::find(&name(next)).is_none() && lock::try_acquire(&makers()) {
        make_missing(month, AHEAD)?;
    }
    Ok(())
}

/// Makes what is missing of this month and the following ones; says how many.
pub fn ensure_ahead(now: Timestamp) -> Result<i32> {
    lock::acquire(&makers());
    make_missing(month_of(now)?, AHEAD)
}

/// Makes what is missing of this month and the following ones, unless somebody is making them, and
/// only where the ledger is in use: between CREATE EXTENSION and a dump's own CREATE TABLEs nothing
/// may be made, and a restore writes rows only after them.
pub fn keep_ahead(now: Timestamp) -> Result<()> {
    if is_in_use()? && lock::try_acquire(&makers()) {
        make_missing(month_of(now)?, AHEAD)?;
    }
    Ok(())
}

fn is_in_use() -> Result<bool> {
    const SQL: &str = "SELECT EXISTS (SELECT FROM ai_limiter.ai_reservations) \
        OR EXISTS (SELECT FROM ai_limiter.ai_usage)";
    let answers = as_owner(|spi| spi.read(SQL, &[], |row| Ok(row.boolean(1))))?;
    Ok(answers.into_iter().flatten().any(|used| used))
}

fn makers() -> Key {
    Key::new(Class::Partitions, "ai_usage")
}

fn month_of(at: Timestamp) -> Result<Date> {
    let days = Span::new().try_days(at.0.div_euclid(DAY));
    let date = days.and_then(|days| EPOCH.checked_add(days)).map_err(|_| out_of_range())?;
    Ok(date.first_of_month())
}

fn out_of_range() -> Error {
    Error::invalid("created_at is out of range")
}

fn name(month: Date) -> CString {
    CString::new(format!("ai_usage_{}", month.strftime("%Y_%m"))).expect("a name without NUL")
}

/// Call with the makers' lock.
fn make_missing(first: Date, ahead: i64) -> Result<i32> {
    as_owner(|spi| {
        // Not where the caller of this moment puts tables by default.
        let settings = guc::Scope::new();
        settings.set(c"default_tablespace", c"");
        settings.set(c"default_table_access_method", c"heap");
        let mut made = 0;
        for ahead in 0..=ahead {
            let month = first.checked_add(ahead.months()).map_err(|_| out_of_range())?;
            if relation::find(&name(month)).is_none() {
                make(spi, month)?;
                made += 1;
            }
        }
        Ok(made)
    })
}

fn make(spi: &Spi, month: Date) -> Result<()> {
    let next = month.checked_add(1.month()).map_err(|_| out_of_range())?;
    let name = name(month);
    let name = name.to_str().expect("an ASCII name");
    let (from, to) = (format!("'{month} 00:00:00+00'"), format!("'{next} 00:00:00+00'"));
    // The CHECK says what the bounds will, so that attaching need not read the table.
    for sql in [
        format!(
            "CREATE TABLE ai_limiter.{name} (LIKE ai_limiter.ai_usage INCLUDING DEFAULTS \
             INCLUDING CONSTRAINTS INCLUDING STORAGE, CONSTRAINT {name}_month \
             CHECK (created_at >= {from} AND created_at < {to}), \
             CONSTRAINT {name}_pkey PRIMARY KEY (id))"
        ),
        format!(
            "CREATE INDEX {name}_account_idx ON ai_limiter.{name} (tenant_id, user_id, created_at)"
        ),
        format!(
            "CREATE INDEX {name}_run_idx ON ai_limiter.{name} (tenant_id, run_id) WHERE run_id IS NOT NULL"
        ),
        // The rollup's tail is found by recorded_at. Ranges of a few pages, summarised as they fill:
        // a btree by recorded_at would cost each charge an index entry in the WAL, this costs none.
        format!(
            "CREATE INDEX {name}_times_idx ON ai_limiter.{name} USING brin (created_at, recorded_at) \
             WITH (pages_per_range = 32, autosummarize = on)"
        ),
        format!("ALTER TABLE ai_limiter.{name} ENABLE ROW LEVEL SECURITY"),
        // Default privileges may have granted something; row-level security without a policy shows
        // nothing, and this leaves nothing to show.
        format!(
            "DO $$ DECLARE grantee text; BEGIN FOR grantee IN SELECT DISTINCT quote_ident(r.rolname) \
             FROM pg_class c, LATERAL aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee \
             WHERE c.oid = 'ai_limiter.{name}'::regclass AND a.grantee <> c.relowner LOOP \
             EXECUTE format('REVOKE ALL ON ai_limiter.{name} FROM %s', grantee); END LOOP; \
             REVOKE ALL ON ai_limiter.{name} FROM PUBLIC; END $$"
        ),
        format!(
            "CREATE TRIGGER ai_usage_no_truncate BEFORE TRUNCATE ON ai_limiter.{name} \
             FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.append_only()"
        ),
        format!(
            "COMMENT ON TABLE ai_limiter.{name} IS 'The ledger''s rows of {}, UTC.'",
            month.strftime("%B %Y")
        ),
        format!(
            "ALTER TABLE ai_limiter.ai_usage ATTACH PARTITION ai_limiter.{name} \
             FOR VALUES FROM ({from}) TO ({to})"
        ),
    ] {
        spi.utility(&sql);
    }
    Ok(())
}
