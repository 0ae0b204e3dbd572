//! One row into a table or out of it, as the executor does it, without a statement.
//!
//! Of the 44 µs of processor time that the `INSERT` of a hold takes, 18 go into reading the table's check
//! constraints from their text, which Postgres does anew in each statement, and 9 into the plan. Here
//! the row goes to the table and its indexes by the functions that COPY and logical replication use. The
//! checks are left out: who calls has made the row of values that satisfy them.
//!
//! That is right only while the table is as the extension made it, which a [`Shape`] says. With a
//! column, a trigger, a check or a rule of somebody's own the row has to go by a statement, and
//! the answer here is that nothing was done. No privilege is looked at, and nothing of the owner's runs.

use super::spi::{Row, Snapshot};
use ai_limiter_domain::error::Result;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char};
use uuid::Uuid;

/// What a table is like whose rows are written here. In a name `*` at the front stands for the table's.
#[derive(Debug)]
pub struct Shape {
    pub columns: &'static [(&'static CStr, pg_sys::Oid)],
    /// The check constraints, in the order of their names.
    pub checks: &'static [&'static CStr],
    /// Triggers, in the order of their names, that have nothing to do for such a row.
    pub triggers: &'static [&'static CStr],
    /// Indexes of some rows only. Others may be added, but with no expression: whose function that is
    /// would run as the caller.
    pub partial_indexes: &'static [&'static CStr],
}

fn is_named(name: &CStr, expected: &CStr, table: &CStr) -> bool {
    match expected.to_bytes() {
        [b'*', rest @ ..] => name.to_bytes().strip_prefix(table.to_bytes()) == Some(rest),
        expected => name.to_bytes() == expected,
    }
}

/// # Safety
/// `relation` is open, and stays so while the name is used.
unsafe fn name<'a>(relation: pg_sys::Relation) -> &'a CStr {
    // SAFETY: a name of the relation cache, which ends in NUL.
    unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) }
}

/// # Safety
/// There are more columns than `number`.
unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    number: usize,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: as promised.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*descriptor).attrs.as_ptr().add(number);
        // As TupleDescAttr() has it: behind the compact ones, of which there are as many.
        #[cfg(feature = "pg18")]
        let all = (*descriptor).compact_attrs.as_ptr().add((*descriptor).natts as usize);
        #[cfg(feature = "pg18")]
        return all.cast::<pg_sys::FormData_pg_attribute>().add(number);
    }
}

impl Shape {
    /// # Safety
    /// `relation` is open.
    unsafe fn is_of(&self, relation: pg_sys::Relation) -> bool {
        // SAFETY: the relation's description in the relation cache, which stays while it is open. The
        // arrays are as long as the counts beside them say.
        unsafe {
            let descriptor = (*relation).rd_att;
            let is_column = |(number, (name, oid)): (usize, &(&CStr, pg_sys::Oid))| {
                let column = attribute(descriptor, number);
                (*column).atttypid == *oid
                    && CStr::from_ptr((*column).attname.data.as_ptr()) == *name
            };
            let are_named = |names: &mut dyn ExactSizeIterator<Item = *mut c_char>,
                             expected: &[&CStr]| {
                names.len() == expected.len()
                    && names.zip(expected).all(|(given, expected)| {
                        is_named(CStr::from_ptr(given), expected, name(relation))
                    })
            };
            let constraints = (*descriptor).constr.as_ref();
            let checks = constraints.filter(|all| all.num_check > 0).map_or(&[][..], |all| {
                std::slice::from_raw_parts(all.check, usize::from(all.num_check))
            });
            let triggers = (*relation).trigdesc.as_ref().map_or(&[][..], |all| {
                std::slice::from_raw_parts(all.triggers, all.numtriggers as usize)
            });
            (*descriptor).natts as usize == self.columns.len()
                && self.columns.iter().enumerate().all(is_column)
                && are_named(&mut checks.iter().map(|check| check.ccname), self.checks)
                && are_named(&mut triggers.iter().map(|trigger| trigger.tgname), self.triggers)
                && !constraints.is_some_and(|all| all.has_generated_stored)
                && (*relation).rd_rules.is_null()
                && (*(*relation).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID
        }
    }

    /// # Safety
    /// The indexes are open.
    unsafe fn has_indexes(&self, result: *mut pg_sys::ResultRelInfo) -> bool {
        // SAFETY: as promised; both arrays have that many elements.
        unsafe {
            let table = name((*result).ri_RelationDesc);
            (0..(*result).ri_NumIndices as usize).all(|number| {
                let info = *(*result).ri_IndexRelationInfo.add(number);
                let index = name(*(*result).ri_IndexRelationDescs.add(number));
                let is_known = || self.partial_indexes.iter().any(|of| is_named(index, of, table));
                (*info).ii_Expressions.is_null() && ((*info).ii_Predicate.is_null() || is_known())
            })
        }
    }
}

/// A table that is open, and locked against whoever changes it to the end of the transaction.
struct Open(pg_sys::Relation);

impl Open {
    /// `None` when it is not of that shape.
    fn new(table: pg_sys::Oid, shape: &Shape) -> Option<Self> {
        // SAFETY: inside a transaction; a table that is gone raises, which unwinds.
        let open = Self(unsafe { pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32) });
        // SAFETY: open.
        unsafe { shape.is_of(open.0) }.then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // While an error unwinds, the resource owner gives it back.
        if !std::thread::panicking() {
            // SAFETY: opened by `new`; the lock stays.
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as i32) };
        }
    }
}

/// Raises where a transaction may not write: on a standby it could not even get its id.
pub fn prevent_if_read_only(command: &CStr) {
    // SAFETY: errors unwind.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandIfParallelMode(command.as_ptr());
    }
}

/// Inserts a row, whose values have the columns' types and satisfy the checks; false, and nothing is
/// done, when the table is not of that shape, or is a partition that such a row does not go into.
pub fn insert(table: pg_sys::Oid, shape: &Shape, row: &[Option<pg_sys::Datum>]) -> bool {
    let Some(open) = Open::new(table, shape).filter(|_| row.len() == shape.columns.len()) else {
        return false;
    };
    prevent_if_read_only(c"INSERT");
    // SAFETY: the relation is open and locked. What is allocated belongs to the executor state, which is
    // freed here, or with the caller's memory context when an error passes; then the resource
    // owner gives back indexes and pins.
    unsafe {
        let state = pg_sys::CreateExecutorState();
        let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
        let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        pg_sys::InitResultRelInfo(result, open.0, 0, std::ptr::null_mut(), 0);
        pg_sys::ExecOpenIndices(result, false);
        let slot = pg_sys::table_slot_create(open.0, &raw mut (*state).es_tupleTable);
        for (column, value) in row.iter().enumerate() {
            *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0));
            *(*slot).tts_isnull.add(column) = value.is_none();
        }
        pg_sys::ExecStoreVirtualTuple(slot);
        let fits = shape.has_indexes(result)
            && (!(*(*open.0).rd_rel).relispartition
                || pg_sys::ExecPartitionCheck(result, slot, state, false));
        if fits {
            pg_sys::simple_table_tuple_insert(open.0, slot);
            let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
            // No index of such a table is deferred: none asks for a recheck.
            #[cfg(feature = "pg15")]
            pg_sys::ExecInsertIndexTuples(result, slot, state, false, false, none, nothing);
            #[cfg(not(feature = "pg15"))]
            pg_sys::ExecInsertIndexTuples(result, slot, state, false, false, none, nothing, false);
        }
        pg_sys::ExecCloseIndices(result);
        pg_sys::ExecResetTupleTable((*state).es_tupleTable, false);
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::FreeExecutorState(state);
        // As after any command: what comes next sees the row.
        pg_sys::CommandCounterIncrement();
        fits
    }
}

/// What became of a row that was to be deleted.
pub enum Taken<T> {
    Deleted(T),
    /// There is none.
    Absent,
    /// A statement has to do it: the table is of another shape, or somebody changes the row.
    NotDone,
}

/// Deletes the row with this uuid as its primary key, as it is now, and gives what `read` makes of it.
pub fn take<T>(
    table: pg_sys::Oid,
    shape: &Shape,
    id: Uuid,
    read: impl FnOnce(&Row) -> Result<T>,
) -> Result<Taken<T>> {
    let Some(open) = Open::new(table, shape) else { return Ok(Taken::NotDone) };
    prevent_if_read_only(c"DELETE");
    let snapshot = Snapshot::latest();
    // SAFETY: the relation is open and locked, its primary key is one uuid. The tuple lies in a buffer that the
    // scan keeps pinned until it ends; an error in between leaves that to the resource owner.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let index = pg_sys::RelationGetPrimaryKeyIndex(open.0);
        #[cfg(feature = "pg18")]
        let index = pg_sys::RelationGetPrimaryKeyIndex(open.0, false);
        if index == pg_sys::InvalidOid {
            return Ok(Taken::NotDone);
        }
        pg_sys::CheckCmdReplicaIdentity(open.0, pg_sys::CmdType::CMD_DELETE);
        let id = super::row::uuid(Some(id)).unwrap_or(pg_sys::Datum::from(0));
        let mut key = pg_sys::ScanKeyData::default();
        let (column, equal) = (1, pg_sys::BTEqualStrategyNumber as u16);
        pg_sys::ScanKeyInit(&raw mut key, column, equal, pg_sys::F_UUID_EQ.into(), id);
        let scan = pg_sys::systable_beginscan(open.0, index, true, snapshot.raw(), 1, &raw mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let taken = if tuple.is_null() {
            Taken::Absent
        } else {
            let value = read(&Row::new(tuple, (*open.0).rd_att));
            let (mut tid, mut failure) = ((*tuple).t_self, pg_sys::TM_FailureData::default());
            let command = pg_sys::GetCurrentCommandId(true);
            let none = std::ptr::null_mut();
            let result = pg_sys::heap_delete(
                open.0,
                &raw mut tid,
                command,
                none,
                true,
                &raw mut failure,
                false,
            );
            match result {
                pg_sys::TM_Result::TM_Ok => Taken::Deleted(value),
                _ => Taken::NotDone,
            }
        };
        pg_sys::systable_endscan(scan);
        pg_sys::CommandCounterIncrement();
        match taken {
            Taken::Deleted(value) => value.map(Taken::Deleted),
            Taken::Absent => Ok(Taken::Absent),
            Taken::NotDone => Ok(Taken::NotDone),
        }
    }
}
