//! The barrier: the lock of the empty relation `ai_barrier`, which orders writers against those who
//! change what counters mean.
//!
//! Whoever writes holds or usage joins it in ROW SHARE mode, to the end of the transaction; a rollback
//! to a savepoint gives it back, so every call joins. Whoever changes which rows a counter counts takes
//! it in EXCLUSIVE mode when committing: no writer is open then, and none begins until the change is
//! visible.
//!
//! A waiter that queues without end behind one forgotten transaction would stop all writers, since new
//! ones queue behind it; one that only takes the barrier when it is free would starve under load. So it
//! queues for a moment, gives way for longer, and tries again ([`TRIES`]); then it gives up and
//! names who blocked it.

use super::owner::as_owner;
use super::spi::Arg;
use super::{guc, lock, relation, subtransaction};
use ai_limiter_domain::error::Result;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};
use std::ffi::CString;

/// Milliseconds to queue, and then to give way. Together they queue for 1.3 of 10 seconds. The second
/// is long enough for 64 calls that wait for one counter at 6 ms each, within the first second; the
/// third for 11 ms each; the last for the case that who blocked it has gone meanwhile.
const TRIES: [(u32, u32); 4] = [(50, 150), (400, 1400), (700, 7150), (150, 0)];

const WRITER: i32 = pg_sys::RowShareLock as i32;
const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;

/// Joins the writers: from here to the end of the transaction no rule changes which rows it counts.
/// Also accepts pending invalidations, so that what is resolved afterwards is the committed state.
pub fn join() -> Result<()> {
    let barrier = relation::oid(c"ai_barrier")?;
    if lock::is_relation_held(barrier, WRITER) || lock::is_relation_held(barrier, EXCLUSIVE) {
        // SAFETY: inside a transaction; what it may raise unwinds.
        unsafe { pg_sys::AcceptInvalidationMessages() };
        return Ok(());
    }
    // SAFETY: an existing relation; at this level no privilege is needed. The lock belongs to the
    // (sub)transaction rather than to the portal that happens to run, so that `leave` finds it.
    unsafe {
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::CurrentResourceOwner = pg_sys::CurTransactionResourceOwner;
        pg_sys::LockRelationOid(barrier, WRITER);
        pg_sys::CurrentResourceOwner = owner;
    }
    Ok(())
}

/// Leaves the writers before the transaction ends: it has nothing left that an edit must wait for.
/// Within a subtransaction the lock may be the outer one's, and stays.
pub fn leave() {
    let Some(barrier) = relation::find(c"ai_barrier") else { return };
    // SAFETY: a lock that this transaction itself holds, by `join`, under the same owner.
    unsafe {
        if pg_sys::GetCurrentTransactionNestLevel() > 1 || !lock::is_relation_held(barrier, WRITER)
        {
            return;
        }
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::CurrentResourceOwner = pg_sys::CurTransactionResourceOwner;
        pg_sys::UnlockRelationOid(barrier, WRITER);
        pg_sys::CurrentResourceOwner = owner;
    }
}

/// Whether this transaction keeps writers out; a rollback to a savepoint may have ended that.
pub fn excludes_writers() -> Result<bool> {
    Ok(lock::is_relation_held(relation::oid(c"ai_barrier")?, EXCLUSIVE))
}

/// Whether this transaction is among the writers.
pub fn is_joined() -> Result<bool> {
    Ok(lock::is_relation_held(relation::oid(c"ai_barrier")?, WRITER))
}

/// Waits, in tries, for every writer to end, and keeps new ones out to the end of the transaction.
/// `purpose` is what could not be done if they do not.
///
/// # Errors
/// 55P03 after ten seconds, with who blocked it.
pub fn exclude_writers(purpose: &str) -> Result<()> {
    if excludes_writers()? {
        return Ok(());
    }
    for (queue, give_way) in TRIES {
        // Of two who have both written and both want to be alone, one must fail: a deadlock passes.
        match try_to_exclude(queue)? {
            Tried::Excluded => return Ok(()),
            Tried::InTheWay => {}
            Tried::Deadlock(error) => error.rethrow(),
        }
        sleep(give_way);
    }
    report_blockers(purpose)
}

/// As [`exclude_writers`], in the first two tries alone; whether it came to that.
pub fn try_exclude_writers() -> Result<bool> {
    let [(first, give_way), (second, _), ..] = TRIES;
    if excludes_writers()? || matches!(try_to_exclude(first)?, Tried::Excluded) {
        return Ok(true);
    }
    sleep(give_way);
    Ok(matches!(try_to_exclude(second)?, Tried::Excluded))
}

#[allow(clippy::large_enum_variant)] // the error is what pgrx caught
enum Tried {
    Excluded,
    InTheWay,
    Deadlock(CaughtError),
}

fn try_to_exclude(queue: u32) -> Result<Tried> {
    let exclude = || {
        let settings = guc::Scope::new();
        settings.set(c"lock_timeout", &milliseconds(queue));
        let barrier = relation::oid(c"ai_barrier")?;
        // SAFETY: an existing relation.
        unsafe { pg_sys::LockRelationOid(barrier, EXCLUSIVE) };
        Ok(())
    };
    Ok(match subtransaction::attempt(exclude, |()| true)? {
        Ok(()) => Tried::Excluded,
        Err(error) => match subtransaction::code_of(&error) {
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Tried::InTheWay,
            PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED => Tried::Deadlock(error),
            _ => error.rethrow(),
        },
    })
}

fn milliseconds(count: u32) -> CString {
    CString::new(count.to_string()).expect("digits")
}

/// Sleeps in short pieces, so that a cancel is heard.
fn sleep(milliseconds: u32) {
    for _ in 0..milliseconds / 10 {
        // SAFETY: an interrupt that is pending raises, which unwinds.
        unsafe { pg_sys::pg_usleep(10_000) };
        pgrx::check_for_interrupts!();
    }
}

fn report_blockers(purpose: &str) -> Result<()> {
    // A prepared transaction has no process; it is known by the lock on its own number, which has
    // the same virtual transaction.
    const SQL: &str = "SELECT string_agg(DISTINCT coalesce('process ' || l.pid, \
            'prepared transaction \"' || p.gid || '\"'), ', ') \
        FROM pg_locks l \
        LEFT JOIN pg_locks t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid' \
            AND t.granted AND t.virtualtransaction = l.virtualtransaction \
        LEFT JOIN pg_prepared_xacts p ON p.transaction = t.transactionid \
        WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted \
          AND l.pid IS DISTINCT FROM pg_backend_pid() \
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let barrier = relation::oid(c"ai_barrier")?;
    let args = [Arg::Int(Some(i64::from(barrier.to_u32())))];
    let blockers = as_owner(|spi| spi.read(SQL, &args, |row| Ok(row.text(1))))?;
    let blockers = blockers.into_iter().next().flatten();
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        format!("could not {purpose} while calls are being admitted"),
        function_name!(),
    )
    .set_detail(match blockers {
        Some(blockers) => {
            format!("Calls admitted under the present limits are still open in: {blockers}.")
        }
        None => "The transactions that blocked it have just ended.".to_owned(),
    })
    .set_hint("Try again, or end them: SELECT pg_terminate_backend(pid), or ROLLBACK PREPARED.")
    .report(PgLogLevel::ERROR);
    Ok(())
}
