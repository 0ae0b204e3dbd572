//! SQL from the library, always under a snapshot that this module takes.
//!
//! Every read that decides must see what was committed while it waited for a lock. SPI's ordinary
//! read-only mode uses the calling statement's snapshot, from before the wait, and REPEATABLE READ
//! that of the transaction: both over-admit. So each query here runs under
//! [`GetLatestSnapshot`](pg_sys::GetLatestSnapshot), which also sees this transaction's own rows.
//! Several queries that must agree share one [`Snapshot`].
//!
//! Plans are kept, and of a statement that names a key the plan is made for its index, once for all
//! arguments ([`Planning::ByKey`]). Plans of fixed SQL are kept for the life of the backend. SQL whose text depends on rules is kept
//! by its text, up to [`SHAPES`] of them: a check of five counters took 1.75 ms when its sums were
//! planned at each call and takes 0.5 ms from kept plans (937 ledger rows in one of four partitions,
//! Postgres 17.11, 2 cores).

use super::planning;
use super::scratch::Scratch;
use ai_limiter_domain::{Amount, Timestamp, error::Result};
use pgrx::{FromDatum, IntoDatum, JsonB, pg_sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::marker::PhantomData;
use uuid::Uuid;

/// A value for a `$n`; each knows its SQL type.
#[derive(Debug, Clone)]
pub enum Arg {
    Uuid(Option<Uuid>),
    Text(Option<String>),
    Jsonb(String),
    NullJsonb,
    Int(Option<i64>),
    Numeric(Option<Amount>),
    Timestamp(Option<Timestamp>),
}

impl From<Uuid> for Arg {
    fn from(value: Uuid) -> Self {
        Arg::Uuid(Some(value))
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Arg::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for Arg {
    fn from(value: Option<&str>) -> Self {
        Arg::Text(value.map(str::to_owned))
    }
}

impl From<Timestamp> for Arg {
    fn from(value: Timestamp) -> Self {
        Arg::Timestamp(Some(value))
    }
}

impl Arg {
    pub fn count(value: usize) -> Self {
        Arg::Int(i64::try_from(value).ok())
    }

    fn type_oid(&self) -> pg_sys::Oid {
        match self {
            Arg::Uuid(_) => pg_sys::UUIDOID,
            Arg::Text(_) => pg_sys::TEXTOID,
            Arg::Jsonb(_) | Arg::NullJsonb => pg_sys::JSONBOID,
            Arg::Int(_) => pg_sys::INT8OID,
            Arg::Numeric(_) => pg_sys::NUMERICOID,
            Arg::Timestamp(_) => pg_sys::TIMESTAMPTZOID,
        }
    }

    fn datum(&self) -> Option<pg_sys::Datum> {
        match self {
            Arg::Uuid(v) => v.and_then(|v| super::uuid::to_pg(v).into_datum()),
            Arg::Text(v) => v.as_deref().and_then(IntoDatum::into_datum),
            Arg::Jsonb(v) => super::row::jsonb_of_text(v),
            Arg::NullJsonb => None,
            Arg::Int(v) => v.and_then(IntoDatum::into_datum),
            Arg::Numeric(v) => v.and_then(|v| super::numeric::from_amount(v).into_datum()),
            Arg::Timestamp(v) => v.map(|v| pg_sys::Datum::from(v.0)),
        }
    }
}

/// One row of a result, read by column number from 1.
pub struct Row<'a> {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    lives: PhantomData<&'a ()>,
}

impl Row<'_> {
    /// # Safety
    /// The tuple is of that descriptor, and both outlive the row.
    pub(super) unsafe fn new(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> Self {
        Self { tuple, descriptor, lives: PhantomData }
    }

    /// As it is; valid while the row is.
    pub fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor belong to what this borrow keeps alive.
        let datum =
            unsafe { pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &raw mut is_null) };
        (!is_null).then_some(datum)
    }

    fn get<T: FromDatum>(&self, column: i32) -> Option<T> {
        // SAFETY: every caller asks for the type that the column has in the SQL beside it.
        self.datum(column).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    pub fn text(&self, column: i32) -> Option<String> {
        self.get(column)
    }

    pub fn int(&self, column: i32) -> Option<i64> {
        self.get(column)
    }

    pub fn boolean(&self, column: i32) -> Option<bool> {
        self.get(column)
    }

    pub fn timestamp(&self, column: i32) -> Option<Timestamp> {
        self.get::<i64>(column).map(Timestamp)
    }

    pub fn uuid(&self, column: i32) -> Option<Uuid> {
        self.get(column).map(super::uuid::from_pg)
    }

    pub fn json(&self, column: i32) -> Option<serde_json::Value> {
        self.get::<JsonB>(column).map(|v| v.0)
    }

    /// A `jsonb` column as text, with all digits of its numbers.
    pub fn jsonb_text(&self, column: i32) -> Option<String> {
        // SAFETY: the column's own value, which is a jsonb.
        self.datum(column).map(|datum| unsafe { super::json::text_of(datum) })
    }

    /// A `jsonb` column from outside, whose text may be more than can be read: `what` names it then.
    pub fn jsonb(&self, column: i32, what: &str) -> Result<Option<serde_json::Value>> {
        // SAFETY: the column's own value, which is a jsonb.
        self.datum(column).map(|datum| unsafe { super::json::from_jsonb(datum, what) }).transpose()
    }

    /// A `numeric` column.
    pub fn amount(&self, column: i32) -> Result<Option<Amount>> {
        self.get::<pgrx::AnyNumeric>(column)
            .map(|v| Amount::parse(v.normalize(), "amount"))
            .transpose()
    }
}

/// A registered snapshot; released when dropped, or by the resource owner when an error passes.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// What is committed now, and this transaction's own rows.
    pub fn latest() -> Self {
        // SAFETY: inside a query, so a transaction and an active snapshot exist. In parallel mode
        // no new snapshot may be taken: the statement's own has to do, and nothing that holds a
        // lock runs there.
        unsafe {
            let snapshot = if pg_sys::IsInParallelMode() {
                pg_sys::GetActiveSnapshot()
            } else {
                // Rows that an earlier call of this statement wrote become visible.
                pg_sys::CommandCounterIncrement();
                pg_sys::GetLatestSnapshot()
            };
            Self(pg_sys::RegisterSnapshot(snapshot))
        }
    }

    /// What others have committed, without anything that this transaction has done.
    pub fn of_others() -> Self {
        let snapshot = Self::latest();
        // SAFETY: a registered snapshot is a copy of its own. Nothing that this transaction wrote, and
        // nothing that it deleted, was done before its command 0.
        unsafe { (*snapshot.0).curcid = 0 };
        snapshot
    }
}

impl Snapshot {
    pub(super) fn raw(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by `latest` with the owner that is current here again.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// How a statement is planned that comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planning {
    /// As Postgres does: five times for the arguments, and then once for all if that seems as good.
    Usual,
    /// Once for all, and for large tables. For what names a key that few rows have: see
    /// [`planning`].
    ByKey,
}

/// How many plans of made SQL are kept before all are dropped.
const SHAPES: usize = 128;

thread_local! {
    /// Kept plans of fixed SQL. They hold no data of any transaction, only text and its analysis.
    static PLANS: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::default();
    /// Kept plans of SQL that was put together from rules, by its text.
    static SHAPED_PLANS: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// An open SPI connection.
pub struct Spi(());

impl Spi {
    pub fn connect() -> Self {
        // SAFETY: balanced by Drop, or by the abort when an error passes.
        unsafe { pg_sys::SPI_connect() };
        Self(())
    }

    /// Reads with fixed SQL under a snapshot of its own.
    pub fn read<T>(
        &self,
        sql: &'static str,
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.read_at(&Snapshot::latest(), sql, args, row)
    }

    pub fn read_at<T>(
        &self,
        snapshot: &Snapshot,
        sql: &'static str,
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(kept_plan(sql, args, Planning::Usual), args, snapshot, true, row)
    }

    /// Reads with fixed SQL that names a key.
    pub fn read_by_key<T>(
        &self,
        snapshot: &Snapshot,
        sql: &'static str,
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(kept_plan(sql, args, Planning::ByKey), args, snapshot, true, row)
    }

    /// Reads with SQL that was put together from a rule and comes again. It must call nothing that
    /// could come back here: plans are dropped when there are too many.
    pub fn read_shaped<T>(
        &self,
        snapshot: &Snapshot,
        (sql, planning): (String, Planning),
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(shaped_plan(sql, args, planning), args, snapshot, true, row)
    }

    /// Reads with SQL that was put together for this call.
    pub fn read_once<T>(
        &self,
        snapshot: &Snapshot,
        sql: &str,
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(prepare(sql, args, Planning::Usual), args, snapshot, true, row)
    }

    /// Writes with fixed SQL, finding rows by the latest snapshot at any isolation level.
    pub fn write<T>(
        &self,
        sql: &'static str,
        args: &[Arg],
        row: impl FnMut(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        run(kept_plan(sql, args, Planning::Usual), args, &Snapshot::latest(), false, row)
    }

    /// Writes with SQL that was put together once and comes again, as [`read_shaped`](Self::read_shaped).
    pub fn write_shaped(&self, sql: String, args: &[Arg]) -> Result<()> {
        let plan = shaped_plan(sql, args, Planning::Usual);
        run(plan, args, &Snapshot::latest(), false, |_| Ok(()))?;
        Ok(())
    }

    /// Runs a utility command.
    pub fn utility(&self, sql: &str) {
        let sql = CString::new(sql).expect("SQL without NUL");
        // SAFETY: connected; errors unwind.
        unsafe { pg_sys::SPI_execute(sql.as_ptr(), false, 0) };
    }

    /// Streams a large result in batches, under one snapshot. What a row is read into is freed with
    /// its batch.
    pub fn stream(
        &self,
        snapshot: &Snapshot,
        sql: &'static str,
        args: &[Arg],
        mut row: impl FnMut(&Row) -> Result<()>,
    ) -> Result<()> {
        const BATCH: i64 = 10_000;
        let (mut datums, nulls) = bind(args);
        let mut batch = Scratch::new("ai_limiter batch");
        // SAFETY: the cursor takes a copy of the active snapshot; portal and batches are freed
        // before the snapshot is popped.
        unsafe {
            pg_sys::PushActiveSnapshot(snapshot.0);
            let plan = kept_plan(sql, args, Planning::Usual);
            let portal = pg_sys::SPI_cursor_open(
                std::ptr::null(),
                plan,
                datums.as_mut_ptr(),
                nulls.as_ptr(),
                true,
            );
            pg_sys::PopActiveSnapshot();
            loop {
                pg_sys::SPI_cursor_fetch(portal, true, BATCH);
                if pg_sys::SPI_processed == 0 {
                    break;
                }
                let table = pg_sys::SPI_tuptable;
                let count = pg_sys::SPI_processed;
                batch.emptied_after(|| each(table, count, &mut row))?;
                pg_sys::SPI_freetuptable(table);
            }
            pg_sys::SPI_cursor_close(portal);
        }
        Ok(())
    }
}

impl Drop for Spi {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `connect`.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

fn prepare(sql: &str, args: &[Arg], planning: Planning) -> pg_sys::SPIPlanPtr {
    let mut types: Vec<pg_sys::Oid> = args.iter().map(Arg::type_oid).collect();
    let text = CString::new(sql).expect("SQL without NUL");
    let options = match planning {
        Planning::Usual => 0,
        Planning::ByKey => pg_sys::CURSOR_OPT_GENERIC_PLAN as i32,
    };
    // SAFETY: connected; the arrays outlive the call, which copies them. A syntax error unwinds.
    let plan = unsafe {
        let count = types.len() as i32;
        pg_sys::SPI_prepare_cursor(text.as_ptr(), count, types.as_mut_ptr(), options)
    };
    assert!(!plan.is_null(), "SPI_prepare failed");
    plan
}

/// Makes the plan for large tables, where there is none that still holds.
fn make_plan(plan: pg_sys::SPIPlanPtr, is_new: bool) {
    // SAFETY: a kept plan of this backend, and connected. What is counted is given back at once; the
    // plan stays with its source.
    unsafe {
        if is_new || !pg_sys::SPI_plan_is_valid(plan) {
            let made = planning::for_large_tables(|| pg_sys::SPI_plan_get_cached_plan(plan));
            if !made.is_null() {
                pg_sys::ReleaseCachedPlan(made, pg_sys::CurrentResourceOwner);
            }
        }
    }
}

fn kept_plan(sql: &'static str, args: &[Arg], planning: Planning) -> pg_sys::SPIPlanPtr {
    let known = PLANS.with_borrow(|plans| plans.get(sql).copied());
    let plan = known.unwrap_or_else(|| {
        let plan = prepare(sql, args, planning);
        // SAFETY: a valid unsaved plan; from here on it belongs to the backend.
        unsafe { pg_sys::SPI_keepplan(plan) };
        PLANS.with_borrow_mut(|plans| plans.insert(sql, plan));
        plan
    });
    if planning == Planning::ByKey {
        make_plan(plan, known.is_none());
    }
    plan
}

fn shaped_plan(sql: String, args: &[Arg], planning: Planning) -> pg_sys::SPIPlanPtr {
    let known = SHAPED_PLANS.with_borrow(|plans| plans.get(&sql).copied());
    let plan = known.unwrap_or_else(|| {
        let plan = prepare(&sql, args, planning);
        let dropped = SHAPED_PLANS.with_borrow_mut(|plans| {
            let dropped =
                if plans.len() >= SHAPES { std::mem::take(plans) } else { HashMap::new() };
            plans.insert(sql, plan);
            dropped
        });
        // SAFETY: a valid unsaved plan is kept; those that are dropped are not running.
        unsafe {
            pg_sys::SPI_keepplan(plan);
            for old in dropped.into_values() {
                pg_sys::SPI_freeplan(old);
            }
        }
        plan
    });
    if planning == Planning::ByKey {
        make_plan(plan, known.is_none());
    }
    plan
}

fn bind(args: &[Arg]) -> (Vec<pg_sys::Datum>, Vec<std::ffi::c_char>) {
    let datums: Vec<_> = args.iter().map(Arg::datum).collect();
    let nulls = datums.iter().map(|d| if d.is_none() { b'n' } else { b' ' } as _).collect();
    (datums.into_iter().map(|d| d.unwrap_or(pg_sys::Datum::from(0))).collect(), nulls)
}

fn run<T>(
    plan: pg_sys::SPIPlanPtr,
    args: &[Arg],
    snapshot: &Snapshot,
    read_only: bool,
    mut row: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    let (mut datums, nulls) = bind(args);
    // SAFETY: connected, a plan of this backend prepared for these types, a registered snapshot.
    // The result is read before it is freed.
    unsafe {
        let code = pg_sys::SPI_execute_snapshot(
            plan,
            datums.as_mut_ptr(),
            nulls.as_ptr(),
            snapshot.0,
            std::ptr::null_mut(),
            read_only,
            true,
            0,
        );
        assert!(code >= 0, "SPI_execute_snapshot: {code}");
        let table = pg_sys::SPI_tuptable;
        let mut rows = Vec::new();
        if !table.is_null() {
            each(table, pg_sys::SPI_processed, &mut |r: &Row| {
                rows.push(row(r)?);
                Ok(())
            })?;
            pg_sys::SPI_freetuptable(table);
        }
        Ok(rows)
    }
}

/// # Safety
/// `table` is a live SPI result with `count` rows.
unsafe fn each(
    table: *mut pg_sys::SPITupleTable,
    count: u64,
    row: &mut impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    for i in 0..count as usize {
        // SAFETY: `i` is below the number of rows.
        let (tuple, descriptor) = unsafe { (*(*table).vals.add(i), (*table).tupdesc) };
        // SAFETY: the row lives as long as the table.
        row(&unsafe { Row::new(tuple, descriptor) })?;
    }
    Ok(())
}
