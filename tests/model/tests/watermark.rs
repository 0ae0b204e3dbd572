//! Rollup and tail: explored to the end, and without each step.

use ai_limiter_model::explore::{assert_breaks, assert_holds};
use ai_limiter_model::watermark::{Lacks, Ledger, ROLLUP_AND_TAIL, Writer};

/// Three writers, one of two rows; the worker seals twice; the clock is set back once.
fn sealing() -> Ledger {
    Ledger {
        writers: vec![Writer::Rows(1), Writer::Rows(1), Writer::Rows(2)],
        rounds: 2,
        last_instant: 2,
        set_backs: 1,
        crashes: 0,
        lacks: Lacks::Nothing,
    }
}

/// A crash and a clock that was set back.
fn crashing() -> Ledger {
    Ledger { writers: vec![Writer::Rows(1), Writer::Rows(1)], crashes: 1, ..sealing() }
}

/// Two that read and write the last stamp at once, and one instant more.
fn racing() -> Ledger {
    Ledger {
        writers: vec![Writer::Rows(1), Writer::Rows(1)],
        rounds: 1,
        last_instant: 3,
        ..sealing()
    }
}

/// Beside others, rows arrive whose time of recording is given.
fn restoring() -> Ledger {
    Ledger {
        writers: vec![Writer::GivenTime, Writer::Rows(1), Writer::Rows(1)],
        set_backs: 0,
        ..sealing()
    }
}

#[test]
fn sealed_beside_open_transactions() {
    assert_holds("watermark", sealing());
}

#[test]
fn sealed_across_a_crash() {
    assert_holds("watermark, crash", crashing());
}

#[test]
fn sealed_beside_rows_of_given_times() {
    assert_holds("watermark, given times", restoring());
}

macro_rules! breaks {
    ($($name:ident: $ledger:ident without $lacks:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let ledger = Ledger { lacks: Lacks::$lacks, ..$ledger() };
                assert_breaks(stringify!($name), ledger, ROLLUP_AND_TAIL);
            }
        )*
    };
}

breaks! {
    an_xid_assigned_after_the_stamp: sealing without XidBeforeStamp;
    a_stamp_that_goes_back: sealing without StampThatNeverGoesBack;
    a_stamp_read_and_written_apart: racing without StampAtOnce;
    x_taken_before_w: sealing without WBeforeX;
    x_taken_from_a_snapshot: sealing without XOfItsOwn;
    not_waiting_for_older_transactions: sealing without Wait;
    rollup_and_watermark_committed_apart: sealing without SealAtOnce;
    a_stamp_from_the_clock_after_a_restart: crashing without StampFromWatermarkAfterRestart;
    given_times_that_leave_the_watermark: restoring without GivenTimesResetWatermark;
}
