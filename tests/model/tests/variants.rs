//! Each step of the protocol left out: what then breaks.

use ai_limiter_model::explore::assert_breaks;
use ai_limiter_model::model::{NO_OVER_ADMISSION, NO_PHANTOM};
use ai_limiter_model::scenario::Without;
use ai_limiter_model::scenarios;

macro_rules! breaks {
    ($($name:ident: $scenario:ident without $without:ident, $property:ident;)*) => {
        $(
            #[test]
            fn $name() {
                let scenario = scenarios::$scenario().without(Without::$without);
                assert_breaks(stringify!($name), scenario, $property);
            }
        )*
    };
}

breaks! {
    writers_not_taking_the_barrier: rule_edit without WritersBarrier, NO_OVER_ADMISSION;
    the_barrier_not_taken_again_after_a_rollback: savepoint_and_edit without BarrierInEveryCall, NO_OVER_ADMISSION;
    rules_resolved_before_the_barrier: rule_edit without RulesAfterBarrier, NO_OVER_ADMISSION;
    an_edit_without_the_barrier: rule_edit without EditBarrier, NO_OVER_ADMISSION;
    an_edit_that_drops_no_entries: rule_edit without EditDrop, NO_PHANTOM;
    an_edit_announced_before_it_is_visible: rule_edit without EditCallbackAfterVisible, NO_PHANTOM;
    publishing_without_the_epoch_check: rule_edit without EpochCheck, NO_PHANTOM;
    the_epoch_read_after_the_rules: rule_edit without EpochBeforeRules, NO_PHANTOM;
    remembered_rules_not_validated: rule_edit without GenerationCheck, NO_PHANTOM;
    no_load_lock: core without LoadLock, NO_OVER_ADMISSION;
    a_snapshot_from_before_the_load_lock: core without SnapshotAfterLoadLock, NO_OVER_ADMISSION;
    no_second_look_after_the_load_lock: core without SecondLook, NO_OVER_ADMISSION;
    own_rows_not_hidden_from_a_load: inserts without OwnRowsHidden, NO_PHANTOM;
    checking_and_applying_apart: core without ApplyAtOnce, NO_OVER_ADMISSION;
    entries_not_pinned: core without Pins, NO_OVER_ADMISSION;
    decreases_published_before_the_commit: decreases without DecreasesAtCommit, NO_OVER_ADMISSION;
    the_callback_before_the_commit_is_visible: core without CallbackAfterVisible, NO_OVER_ADMISSION;
    the_net_published_instead_of_the_most: savepoints without MostOverSavepoints, NO_OVER_ADMISSION;
    a_rollback_that_keeps_its_frames: savepoints without FramesDropped, NO_PHANTOM;
    pins_that_outlive_their_savepoint: savepoint_and_edit without PinsGoWithSavepoint, NO_OVER_ADMISSION;
    a_window_not_checked_against_the_stamp: window_turns without WindowChecked, NO_OVER_ADMISSION;
    a_zone_edit_without_the_barrier: zone_edit without EditBarrier, NO_OVER_ADMISSION;
    a_zone_edit_that_drops_no_entries: zone_edit without EditDrop, NO_PHANTOM;
    bulk_that_drops_no_entries: bulk without BulkDrop, NO_PHANTOM;
    bulk_that_bumps_no_epoch: bulk without BulkEpoch, NO_PHANTOM;
    bulk_without_the_barrier: bulk without BulkBarrier, NO_OVER_ADMISSION;
    bulk_that_outlives_its_savepoint: bulk without BulkEndsWithSavepoint, NO_OVER_ADMISSION;
    a_denial_giving_back_pins_of_earlier_calls: core without DenialGivesBackItsOwn, NO_OVER_ADMISSION;
    locks_that_go_before_the_callback: rule_edit without LocksAfterCallback, NO_PHANTOM;
    dropping_before_bumping: rule_edit without DropAndBumpAtOnce, NO_PHANTOM;
    a_degraded_call_that_writes_beside_the_counters: degraded without DegradedInBulk, NO_PHANTOM;
    a_full_table_without_keeping_the_lock: table_full without KeptLock, NO_OVER_ADMISSION;
    a_keeper_of_a_lock_that_loads_later: table_full without KeeperStaysWithSums, NO_PHANTOM;
    a_check_publishing_what_its_transaction_locks: table_full without KeeperNeverPublishes, NO_OVER_ADMISSION;
    a_check_publishing_by_uncommitted_rules: edit_and_write without EditorNeverPublishes, NO_PHANTOM;
    an_editor_writing_as_any_other: edit_and_write without EditorsBulk, NO_OVER_ADMISSION;
}
