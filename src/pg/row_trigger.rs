//! The row that a row-level trigger on `INSERT` fires for, and what it changes of it.
//!
//! Columns are found by name, since a partition may have them in another order. By pgrx's own accessors, which
//! compare each column's name as UTF-8 and form the tuple anew for each change, a trigger took a third of
//! a bulk load's time.

use super::row::returned_by_hand_written_sql;
use super::spi::Row;
use ai_limiter_domain::{Error, Timestamp, error::Result};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::{IntoDatum, pg_sys};
use std::ffi::CStr;

pub struct RowTrigger {
    data: *mut pg_sys::TriggerData,
    numbers: Vec<i32>,
    values: Vec<pg_sys::Datum>,
}

impl RowTrigger {
    /// # Safety
    /// `fcinfo` is what Postgres passed to a function that returns `trigger`.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Result<Self> {
        // SAFETY: as promised; a trigger's context is its data.
        unsafe {
            let context = (*fcinfo).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(Error::invalid("trigger functions can only be called as triggers"));
            }
            Ok(Self { data: context.cast(), numbers: Vec::new(), values: Vec::new() })
        }
    }

    /// The table that the row goes into: of a partitioned one, the partition.
    pub fn table(&self) -> pg_sys::Oid {
        // SAFETY: the relation of a trigger that fires.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: as above.
        unsafe { (*(*self.data).tg_relation).rd_att }
    }

    /// The new row, without what was [`set`](Self::set).
    pub fn row(&self) -> Row<'_> {
        // SAFETY: the tuple that the trigger fires for, which outlives it.
        unsafe { Row::new((*self.data).tg_trigtuple, self.descriptor()) }
    }

    /// The number of a column.
    pub fn number(&self, name: &CStr) -> Result<i32> {
        // SAFETY: a description and a name that live.
        match unsafe { pg_sys::SPI_fnumber(self.descriptor(), name.as_ptr()) } {
            number if number > 0 => Ok(number),
            _ => Err(Error::invalid(format!("column {} is missing", name.to_string_lossy()))),
        }
    }

    /// Gives a column a value of its type.
    pub fn set(&mut self, name: &CStr, value: Option<pg_sys::Datum>) -> Result<()> {
        let number = self.number(name)?;
        // A null column stays null, and is refused where it must not be.
        if let Some(value) = value {
            self.numbers.push(number);
            self.values.push(value);
        }
        Ok(())
    }

    pub fn set_text(&mut self, name: &CStr, value: &str) -> Result<()> {
        self.set(name, value.into_datum())
    }

    pub fn set_timestamp(&mut self, name: &CStr, value: Timestamp) -> Result<()> {
        self.set(name, super::row::timestamp(Some(value)))
    }

    /// The row as it is to be inserted.
    pub fn finish(mut self) -> TriggeredRow {
        // SAFETY: the tuple of the descriptor, and as many numbers, values and flags as are said.
        unsafe {
            let tuple = (*self.data).tg_trigtuple;
            if self.numbers.is_empty() {
                return TriggeredRow(tuple);
            }
            let mut nulls = vec![false; self.numbers.len()];
            TriggeredRow(pg_sys::heap_modify_tuple_by_cols(
                tuple,
                self.descriptor(),
                self.numbers.len() as i32,
                self.numbers.as_mut_ptr(),
                self.values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            ))
        }
    }
}

/// What a trigger gives: the row.
pub struct TriggeredRow(pg_sys::HeapTuple);
returned_by_hand_written_sql!(TriggeredRow);

// SAFETY: what Postgres expects of a trigger: the address of a tuple, as a value that is not null.
unsafe impl BoxRet for TriggeredRow {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as said.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0)) }
    }
}
