//! Rows that bring a `recorded_at` of their own, or pass triggers by: backdated ones, replicated ones,
//! restores. Rollup and tail are the ledger all the same.

mod people;
mod rolling;

use ai_limiter_tests::Database;
use people::{ask, outcome, run};
use rolling::{advance, assert_equal, database, in_use, insert, prepare, server, tail};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

#[test]
fn calls_of_long_ago_and_backdated_rows_are_summed_once() {
    let database = database();
    let (mut client, mut other) = (database.connect(), database.connect());
    for days in [0, 20, 45, 400] {
        let sql = format!(
            "SELECT ai_limiter.record_ai_usage(cost_usd => 1, created_at => now() - interval '{days} days')"
        );
        run(&mut client, &sql);
    }
    run(&mut client, &insert(200, ", created_at", ", now() - i * interval '5 hours'"));
    advance(&mut client);
    assert_equal(&mut client, "filled");
    let used = in_use(&mut client);
    // Booked now, made long ago; and booked long ago, at every level.
    run(&mut client, &insert(20, ", created_at", ", now() - i * interval '2 days'"));
    assert_equal(&mut client, "old calls in the tail");
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let backdated = insert(
            20,
            ", created_at, recorded_at",
            ", now() - i * interval '2 days', now() - i * interval '1 day'",
        );
        run(&mut other, &format!("BEGIN ISOLATION LEVEL {level}; {backdated}"));
        assert_equal(&mut other, "one's own backdated rows");
        advance(&mut client);
        assert_equal(&mut client, "another's backdated rows");
        run(&mut other, "COMMIT");
        assert_equal(&mut client, "backdated rows");
        advance(&mut client);
        assert_equal(&mut client, "merged");
    }
    assert_eq!(in_use(&mut client), used, "a few are added, nothing is summed anew");
    // Rows of the future, and without end.
    run(&mut client, &insert(3, ", recorded_at", ", now() + interval '2 seconds'"));
    run(&mut client, &insert(3, ", recorded_at", ", 'infinity'"));
    run(&mut client, &insert(3, ", recorded_at", ", '-infinity'"));
    advance(&mut client);
    assert_equal(&mut client, "odd times");
    sleep(Duration::from_millis(2_100));
    advance(&mut client);
    assert_equal(&mut client, "odd times that have passed");
    assert_eq!(tail(&mut client), "3");
}

#[test]
fn a_backdated_row_that_conflicts_is_not_added() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, &insert(10, "", ""));
    advance(&mut client);
    let twice = "INSERT INTO ai_limiter.ai_usage (id, tier, cost_usd, created_at, recorded_at)
        SELECT md5('one')::uuid, 'free', 5, date_trunc('minute', now()), now() - interval '1 hour'
        FROM generate_series(1, 3) ON CONFLICT DO NOTHING";
    run(&mut client, twice);
    run(&mut client, twice);
    assert_equal(&mut client, "one of six");
    advance(&mut client);
    assert_equal(&mut client, "merged");
}

#[test]
fn very_many_backdated_rows_make_a_partition_be_summed_anew() {
    let database = database();
    let (mut client, mut other) = (database.connect(), database.connect());
    run(&mut client, &insert(100, "", ""));
    advance(&mut client);
    let many = insert(5_000, ", recorded_at", ", now() - interval '1 hour'");
    run(&mut other, &format!("BEGIN; SAVEPOINT a; {many}; ROLLBACK TO a; {many}"));
    assert_equal(&mut other, "by who writes");
    assert_equal(&mut client, "by others");
    assert!(in_use(&mut client) > 0, "until it commits the others' sums count");
    run(&mut other, "ROLLBACK");
    assert!(in_use(&mut client) > 0);
    assert_equal(&mut client, "rolled back");
    run(&mut other, &many);
    assert_eq!(in_use(&mut client), 0);
    assert_equal(&mut client, "committed");
    advance(&mut client);
    assert!(in_use(&mut client) > 0);
    assert_equal(&mut client, "summed anew");
    let cells = "SELECT count(*) FROM ai_limiter.ai_usage_rollup r WHERE usage_id IS NOT NULL
        OR NOT EXISTS (SELECT FROM ai_limiter.ai_rollup_slices s WHERE s.slice_id = r.slice_id AND NOT s.stale)";
    assert_eq!(ask(&mut client, cells), "0", "nothing is left of what was stale or late");
}

/// As an apply worker of logical replication writes, and a restore with triggers off.
#[test]
fn rows_that_pass_ordinary_triggers_by_are_not_missed() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, &insert(50, "", ""));
    advance(&mut client);
    let backdated = insert(6, ", recorded_at", ", now() - interval '1 hour'");
    let replica = "SET session_replication_role = replica";
    run(&mut client, &format!("{replica}; {backdated}; RESET session_replication_role"));
    assert_equal(&mut client, "replicated");
    let refused = format!("{replica}; DELETE FROM ai_limiter.ai_usage");
    assert_eq!(outcome(&mut client, &refused), "55000");
    run(&mut client, "RESET session_replication_role");
    advance(&mut client);
    assert_equal(&mut client, "replicated and merged");
    let partition = ask(
        &mut client,
        "SELECT tableoid::regclass FROM ai_limiter.ai_usage ORDER BY created_at DESC LIMIT 1",
    );
    let into = |sql: &str| sql.replace("INTO ai_limiter.ai_usage", &format!("INTO {partition}"));
    for triggers in ["ALL", "USER"] {
        run(&mut client, &format!("ALTER TABLE {partition} DISABLE TRIGGER {triggers}"));
        assert_equal(&mut client, "triggers off");
        run(&mut client, &into(&backdated));
        assert_equal(&mut client, "written without triggers");
        advance(&mut client);
        assert_equal(&mut client, "a round without triggers");
        run(
            &mut client,
            &format!("DELETE FROM {partition} WHERE cost_usd < 0.011 AND requests = 1"),
        );
        run(&mut client, &format!("ALTER TABLE {partition} ENABLE TRIGGER {triggers}"));
        assert_equal(&mut client, "triggers on");
        assert_eq!(in_use(&mut client), 0, "triggers that were off tell nothing");
        for name in ["ai_usage_insert", "ai_usage_count", "ai_usage_append_only"] {
            run(&mut client, &format!("ALTER TABLE {partition} ENABLE ALWAYS TRIGGER {name}"));
        }
        advance(&mut client);
        assert_equal(&mut client, "summed anew");
        assert!(in_use(&mut client) > 0);
    }
}

/// Restored into databases in which rounds go on all the time.
#[test]
fn a_restore_beside_running_rounds_is_summed_to_the_row() {
    let original = database();
    let mut owner = original.connect();
    run(&mut owner, &insert(2_000, ", created_at", ", now() - i * interval '1 hour'"));
    advance(&mut owner);
    run(&mut owner, &insert(100, "", ""));
    let all = "SELECT count(*), sum(cost_usd), min(recorded_at), max(recorded_at) FROM ai_limiter.ai_usage";
    let expected = ask(&mut owner, all);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump").to_str().unwrap().to_owned();
    server().run_ok("pg_dump", &["-Fc", "-f", &file, original.name()]);
    for (name, options) in [
        ("whole", &["--exit-on-error"][..]),
        ("parallel", &["--exit-on-error", "-j", "2"]),
        ("in_one", &["--single-transaction"]),
    ] {
        let to = server().create_database(&format!("rollup_{name}"));
        while_rounds_run(&to, || restore(&file, to.name(), options));
        let mut client = to.connect();
        assert_eq!(ask(&mut client, all), expected, "{name}");
        assert_equal(&mut client, name);
        advance(&mut client);
        assert_equal(&mut client, name);
        assert!(in_use(&mut client) > 0, "{name}");
    }
    // Only the ledger's rows, into a database whose watermark is ahead of all of them.
    for (name, options) in [("data", &[][..]), ("no_triggers", &["--disable-triggers"])] {
        let to = server().fresh_database();
        let mut client = to.connect();
        prepare(&mut client);
        let months = "SELECT ai_limiter.record_ai_usage(cost_usd => 1, created_at => now() - i * interval '27 days')
            FROM generate_series(0, 6) i";
        run(&mut client, months);
        advance(&mut client);
        let rows = "SELECT count(*) FROM ai_limiter.ai_usage";
        let before: u32 = ask(&mut client, rows).parse().unwrap();
        let list = dir.path().join(name);
        ledger_data(&file, &list);
        let options =
            [options, &["--data-only", "--exit-on-error", "-L", list.to_str().unwrap()]].concat();
        while_rounds_run(&to, || restore(&file, to.name(), &options));
        let restored = ask(&mut client, rows).parse::<u32>().unwrap() - before;
        assert_eq!(restored.to_string(), expected.split('|').next().unwrap(), "{name}");
        assert_equal(&mut client, name);
        advance(&mut client);
        assert_equal(&mut client, name);
    }
}

fn restore(file: &str, into: &str, options: &[&str]) {
    server().run_ok("pg_restore", &[options, &["-d", into, file]].concat());
}

/// A list for `pg_restore` of what fills the ledger's partitions.
fn ledger_data(file: &str, list: &Path) {
    let entries = server().run_ok("pg_restore", &["-l", file]);
    let data = |line: &&str| line.contains(" TABLE DATA ai_limiter ai_usage_2");
    let lines: Vec<&str> = entries.lines().filter(data).collect();
    assert!(lines.len() > 3, "{entries}");
    std::fs::write(list, lines.join("\n")).unwrap();
}

fn while_rounds_run(database: &Database, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    scope(|threads| {
        threads.spawn(|| {
            let mut client = database.connect();
            while !stop.load(Ordering::Relaxed) {
                // The extension may not be there yet.
                let _ = client.batch_execute("SELECT ai_limiter.advance_ai_rollup()");
                sleep(Duration::from_millis(1));
            }
        });
        // Also when the work fails.
        let result = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}
