//! Results: one composite value, or a set of rows, formed in the order in which `sql/` declares the
//! columns.

use ai_limiter_domain::verdict::Answer;
use ai_limiter_domain::{Amount, Timestamp};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::{IntoDatum, pg_sys};
use serde_json::Value;
use uuid::Uuid;

/// The columns of one row; `None` is null.
pub type Columns = Vec<Option<pg_sys::Datum>>;

/// A row of the composite type that the SQL function is declared to return.
pub struct Composite(Columns);

/// The rows of a SQL function that is declared to return a table.
pub struct Rows(pub Vec<Columns>);

/// One row, column by column.
#[macro_export]
macro_rules! columns {
    ($($value:expr),* $(,)?) => { vec![$(pgrx::IntoDatum::into_datum($value)),*] };
}

pub fn numeric(amount: Option<Amount>) -> Option<pg_sys::Datum> {
    amount.and_then(|a| super::numeric::from_amount(a).into_datum())
}

pub fn uuid(value: Option<Uuid>) -> Option<pg_sys::Datum> {
    value.and_then(|v| super::uuid::to_pg(v).into_datum())
}

pub fn timestamp(value: Option<Timestamp>) -> Option<pg_sys::Datum> {
    value.map(|v| pg_sys::Datum::from(v.0))
}

/// The usual ones are empty, and need no parser.
pub fn jsonb(value: &Value) -> Option<pg_sys::Datum> {
    // SAFETY: SQL functions without arguments that need nothing of their caller.
    unsafe {
        match value {
            Value::Array(all) if all.is_empty() => {
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_build_array_noargs, &[])
            }
            Value::Object(all) if all.is_empty() => {
                pgrx::direct_function_call_as_datum(pg_sys::jsonb_build_object_noargs, &[])
            }
            value => jsonb_of_text(&value.to_string()),
        }
    }
}

/// JSON text, with the digits that its numbers have.
pub fn jsonb_of_text(text: &str) -> Option<pg_sys::Datum> {
    let text = std::ffi::CString::new(text).ok()?;
    // SAFETY: jsonb_in(cstring) reads the text, which outlives the call; it raises where that is no JSON.
    unsafe {
        pgrx::direct_function_call_as_datum(
            pg_sys::jsonb_in,
            &[Some(pg_sys::Datum::from(text.as_ptr()))],
        )
    }
}

impl Composite {
    /// These columns.
    pub fn of(columns: Columns) -> Self {
        Self(columns)
    }

    /// `ai_verdict`, and with a hold `ai_reservation_verdict`.
    pub fn verdict(answer: &Answer, with_reservation: bool) -> Self {
        let text = |value: Option<&str>| value.and_then(IntoDatum::into_datum);
        let retry = answer.retry_after_microseconds.map(pgrx::datum::Interval::from_micros);
        let mut columns = vec![
            answer.allowed.into_datum(),
            text(Some(&answer.reason)),
            text(answer.limit_name.as_deref()),
            text(answer.metric.as_deref()),
            text(answer.period.as_deref()),
            numeric(answer.used),
            numeric(answer.held),
            numeric(answer.amount),
            numeric(answer.remaining),
            timestamp(answer.resets_at.map(Timestamp)),
            retry.and_then(IntoDatum::into_datum),
            numeric(answer.estimated_cost_usd),
            jsonb(&answer.violations),
            jsonb(&answer.details),
        ];
        if with_reservation {
            columns.push(uuid(answer.reservation_id));
        }
        Self(columns)
    }

    /// `ai_settlement`.
    pub fn settlement(id: Uuid, cost: Amount, estimated: Option<Amount>, already: bool) -> Self {
        Self(vec![uuid(Some(id)), numeric(Some(cost)), numeric(estimated), already.into_datum()])
    }

    /// `ai_token_count`; counted by a tokenizer, or estimated without one.
    pub fn token_count(tokens: i64, tokenizer: Option<&str>) -> Self {
        let name = tokenizer.and_then(IntoDatum::into_datum);
        Self(vec![tokens.into_datum(), tokenizer.is_some().into_datum(), name])
    }
}

/// For what only functions return whose SQL is written by hand.
macro_rules! returned_by_hand_written_sql {
    ($type:ty) => {
        // SAFETY: only functions whose SQL is written by hand return it; none is derived from this.
        unsafe impl pgrx::pgrx_sql_entity_graph::metadata::SqlTranslatable for $type {
            const TYPE_IDENT: &'static str = concat!("ai_limiter::", stringify!($type));
            const TYPE_ORIGIN: pgrx::pgrx_sql_entity_graph::metadata::TypeOrigin =
                pgrx::pgrx_sql_entity_graph::metadata::TypeOrigin::External;
            const ARGUMENT_SQL: std::result::Result<
                pgrx::pgrx_sql_entity_graph::metadata::SqlMappingRef,
                pgrx::pgrx_sql_entity_graph::metadata::ArgumentError,
            > = Err(pgrx::pgrx_sql_entity_graph::metadata::ArgumentError::NotValidAsArgument(
                stringify!($type),
            ));
            const RETURN_SQL: std::result::Result<
                pgrx::pgrx_sql_entity_graph::metadata::ReturnsRef,
                pgrx::pgrx_sql_entity_graph::metadata::ReturnsError,
            > = Ok(pgrx::pgrx_sql_entity_graph::metadata::ReturnsRef::One(
                pgrx::pgrx_sql_entity_graph::metadata::SqlMappingRef::literal("record"),
            ));
        }
    };
}
pub(super) use returned_by_hand_written_sql;
returned_by_hand_written_sql!(Composite);
returned_by_hand_written_sql!(Rows);

/// Values and null flags as Postgres takes them.
fn split(columns: Columns) -> (Vec<pg_sys::Datum>, Vec<bool>) {
    columns.into_iter().map(|d| (d.unwrap_or(pg_sys::Datum::from(0)), d.is_none())).unzip()
}

// SAFETY: gives a composite datum of the function's declared result type, which has as many columns.
unsafe impl BoxRet for Composite {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let (mut values, mut nulls) = split(self.0);
        // SAFETY: the descriptor is that of the declared composite type; its column count is
        // checked before the arrays are read.
        unsafe {
            // The type's own descriptor: get_call_result_type would copy it.
            let function = (*(*fcinfo.as_mut_ptr()).flinfo).fn_oid;
            let descriptor = pg_sys::lookup_rowtype_tupdesc(pg_sys::get_func_rettype(function), -1);
            assert!(
                (*descriptor).natts as usize == values.len(),
                "the SQL declaration and the library disagree on the columns"
            );
            let tuple =
                pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            if (*descriptor).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(descriptor);
            }
            fcinfo.return_raw_datum(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }
}

// SAFETY: fills the tuplestore of the function's declared row type, which has as many columns.
unsafe impl BoxRet for Rows {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: InitMaterializedSRF checks that a set is wanted and makes store and descriptor;
        // the column count is checked before the arrays are read.
        unsafe {
            let raw = fcinfo.as_mut_ptr();
            pg_sys::InitMaterializedSRF(raw, 0);
            let result = (*raw).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            for row in self.0 {
                let (mut values, mut nulls) = split(row);
                assert!(
                    (*(*result).setDesc).natts as usize == values.len(),
                    "the SQL declaration and the library disagree on the columns"
                );
                pg_sys::tuplestore_putvalues(
                    (*result).setResult,
                    (*result).setDesc,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
            }
        }
        fcinfo.return_null()
    }
}
