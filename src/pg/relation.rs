//! The extension's relations by name, and what the current user may do with them.

use ai_limiter_domain::{Error, Kind, error::Result};
use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};

thread_local! {
    /// Relations that were found, until anything is renamed, dropped or created. Four of them are looked
    /// up at each call, at 0.15 µs each.
    static FOUND: RefCell<Vec<(CString, pg_sys::Oid)>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// # Safety
/// Called by Postgres.
#[pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    FOUND.with_borrow_mut(Vec::clear);
}

/// A relation of the schema `ai_limiter`.
pub fn oid(name: &CStr) -> Result<pg_sys::Oid> {
    find(name).ok_or_else(|| {
        Error::new(
            Kind::UndefinedObject,
            "extension \"ai_limiter\" is not created in this database",
        )
        .hint("CREATE EXTENSION ai_limiter;")
    })
}

pub fn find(name: &CStr) -> Option<pg_sys::Oid> {
    let known = FOUND.with_borrow(|found| {
        found.iter().find(|(known, _)| known.as_c_str() == name).map(|(_, oid)| *oid)
    });
    if known.is_some() {
        return known;
    }
    if !REGISTERED.replace(true) {
        for cache in [pg_sys::SysCacheIdentifier::RELOID, pg_sys::SysCacheIdentifier::NAMESPACEOID]
        {
            // SAFETY: registered once, for the life of the backend.
            unsafe {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as i32,
                    Some(forget),
                    pg_sys::Datum::from(0),
                );
            }
        }
    }
    // SAFETY: NUL-terminated names; both calls only read the system caches.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"ai_limiter".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    let found = (oid != pg_sys::InvalidOid).then_some(oid)?;
    FOUND.with_borrow_mut(|all| all.push((name.to_owned(), found)));
    Some(found)
}

pub fn owner(relation: pg_sys::Oid) -> Result<pg_sys::Oid> {
    let id = pg_sys::SysCacheIdentifier::RELOID as i32;
    // SAFETY: a RELOID cache tuple is a Form_pg_class, read before it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(id, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return Err(Error::new(Kind::UndefinedObject, "a table of ai_limiter was dropped"));
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*class).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// A relation's name with its schema, quoted, for SQL.
pub fn qualified_name(relation: pg_sys::Oid) -> String {
    // SAFETY: names of a relation that is locked, copied before they are freed.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        let quoted = pg_sys::quote_qualified_identifier(schema, pg_sys::get_rel_name(relation));
        CStr::from_ptr(quoted).to_string_lossy().into_owned()
    }
}

/// Keeps out whoever changes the table, to the end of the transaction, as a statement that writes rows does.
pub fn lock_for_rows(relation: pg_sys::Oid) {
    // SAFETY: a lock on an oid; no privilege is needed at this level.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::RowExclusiveLock as i32) }
}

/// Keeps vacuum and whoever else maintains the table out, to the end of the transaction, unless one is
/// at it.
pub fn try_lock_against_vacuum(relation: pg_sys::Oid) -> bool {
    // SAFETY: a lock on an oid; no privilege is needed at this level.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::ShareUpdateExclusiveLock as i32) }
}

/// Whether the current user may insert into the relation (superusers and the owner may).
pub fn may_insert(relation: pg_sys::Oid) -> bool {
    // SAFETY: reads the caches for a relation that exists.
    unsafe {
        pg_sys::superuser()
            || pg_sys::pg_class_aclcheck(
                relation,
                pg_sys::GetUserId(),
                pg_sys::ACL_INSERT as pg_sys::AclMode,
            ) == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the current user may do whatever the relation's owner may.
pub fn is_as_good_as_owned(relation: pg_sys::Oid) -> Result<bool> {
    let owner = owner(relation)?;
    // SAFETY: reads the current user and the memberships of roles.
    Ok(unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) })
}

/// Whether the current user may see what `pg_monitor` may.
pub fn is_monitor() -> bool {
    // SAFETY: reads the caches.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(ROLE_PG_MONITOR)) }
}

/// The predefined role `pg_monitor`, as pg_authid.dat numbers it.
const ROLE_PG_MONITOR: u32 = 3373;
