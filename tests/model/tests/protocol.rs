//! The protocol as it is: every scenario, explored to the end.

use ai_limiter_model::explore::assert_holds;
use ai_limiter_model::scenarios;

macro_rules! holds {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                let scenario = scenarios::$name();
                assert_holds(scenario.name, scenario);
            }
        )*
    };
}

holds!(
    core,
    decreases,
    two_limits,
    savepoints,
    inserts,
    rule_edit,
    edit_and_write,
    window_turns,
    zone_edit,
    bulk,
    degraded,
    table_full,
    savepoint_and_edit,
    expiry,
    mixed
);
