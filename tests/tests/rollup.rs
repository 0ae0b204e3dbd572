//! Rollup and tail are the ledger: for every snapshot, under open transactions, concurrent rounds, crashes,
//! and partitions that change.

mod people;
mod rolling;

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{backend_pid, wait_for_lock_wait};
use people::{ask, drift, id, run};
use rolling::{UNEQUAL, advance, assert_equal, database, in_use, insert, prepare, tail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

#[test]
fn counters_are_read_from_the_rollup_and_the_oracle_is_not() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, &insert(300, "", ""));
    advance(&mut client);
    run(&mut client, &insert(20, "", ""));
    assert_equal(&mut client, "with a tail");
    assert_eq!(tail(&mut client), "20");
    // A cent that only the rollup has is what each counter says too much, beside those of users.
    run(&mut client, "UPDATE ai_limiter.ai_usage_rollup SET cost_usd = cost_usd + 0.01");
    let told = "SELECT count(*) FILTER (WHERE drift > 0) > 2, count(*) FILTER (WHERE drift > 0
            AND limit_name IN ('users')), count(*) FILTER (WHERE drift < 0)
        FROM ai_limiter.verify_ai_counters()";
    assert_eq!(ask(&mut client, told), "t|0|0");
    run(&mut client, "SELECT ai_limiter.advance_ai_rollup(true)");
    advance(&mut client);
    assert_equal(&mut client, "summed anew");
    assert!(in_use(&mut client) >= 5);
}

#[test]
fn transactions_that_stay_open_across_rounds_lose_nothing() {
    let database = database();
    let (mut client, mut early, mut late, mut held) =
        (database.connect(), database.connect(), database.connect(), database.connect());
    run(&mut client, &insert(50, "", ""));
    advance(&mut client);
    run(&mut early, &format!("BEGIN; {}", insert(7, "", "")));
    run(&mut late, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()");
    run(&mut held, "BEGIN ISOLATION LEVEL SERIALIZABLE");
    for round in 0..4 {
        run(&mut client, &insert(9, "", ""));
        advance(&mut client);
        assert_equal(&mut client, &format!("round {round}"));
        assert_equal(&mut early, &format!("round {round}, in the open transaction"));
        // An id from long before, a row of now.
        run(&mut late, &insert(3, "", ""));
        assert_equal(&mut late, &format!("round {round}, in the old snapshot"));
    }
    assert_ne!(tail(&mut client), "0", "what is open holds the watermark back");
    run(&mut early, "COMMIT");
    assert_equal(&mut client, "after one commit");
    advance(&mut client);
    assert_equal(&mut client, "after one commit and a round");
    run(&mut late, "COMMIT");
    run(&mut held, &format!("{}; ROLLBACK", insert(3, "", "")));
    advance(&mut client);
    advance(&mut client);
    assert_equal(&mut client, "at the end");
    assert_eq!(tail(&mut client), "0");
}

#[test]
fn what_savepoints_take_back_is_in_no_sum() {
    let database = database();
    let (mut client, mut open) = (database.connect(), database.connect());
    run(&mut client, &insert(30, "", ""));
    advance(&mut client);
    let backdated = insert(4, ", recorded_at", ", now() - interval '1 hour'");
    let stamped = insert(4, "", "");
    run(&mut open, &format!("BEGIN; {stamped}; SAVEPOINT a; {backdated}; {stamped}"));
    assert_equal(&mut open, "before the rollback to the savepoint");
    run(&mut open, &format!("ROLLBACK TO a; SAVEPOINT b; {backdated}; RELEASE b; {backdated}"));
    assert_equal(&mut open, "after it");
    advance(&mut client);
    assert_equal(&mut client, "while that is open");
    run(&mut open, "SAVEPOINT c; SAVEPOINT d");
    run(&mut open, &format!("{backdated}; RELEASE d; ROLLBACK TO c"));
    run(&mut open, "COMMIT");
    assert_equal(&mut client, "committed");
    advance(&mut client);
    assert_equal(&mut client, "and a round later");
    run(&mut open, &format!("BEGIN; {backdated}; {stamped}; ROLLBACK"));
    advance(&mut client);
    assert_equal(&mut client, "rolled back");
    assert_eq!(
        ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_usage WHERE cost_usd > 0"),
        "42"
    );
}

#[test]
fn a_partition_that_goes_comes_or_is_rewritten_changes_the_sums_with_it() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, &insert(60, ", created_at", ", now() - i * interval '1 day'"));
    advance(&mut client);
    assert_equal(&mut client, "filled");
    let partition = ask(
        &mut client,
        "SELECT tableoid::regclass FROM ai_limiter.ai_usage ORDER BY created_at LIMIT 1",
    );
    let bound = ask(
        &mut client,
        &format!(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = '{partition}'::regclass"
        ),
    );
    let detach = format!("ALTER TABLE ai_limiter.ai_usage DETACH PARTITION {partition}");
    let attach = format!("ALTER TABLE ai_limiter.ai_usage ATTACH PARTITION {partition} {bound}");
    let steps = [
        detach.clone(),
        format!("{}; {attach}", "SELECT 1"),
        format!("VACUUM FULL {partition}"),
        detach,
        format!("UPDATE {partition} SET cost_usd = cost_usd * 2"),
        attach,
        format!("DROP TABLE {partition}"),
    ];
    for step in steps {
        // Each statement by itself: one of them wants no transaction around it.
        step.split("; ").for_each(|sql| run(&mut client, sql));
        assert_equal(&mut client, &step);
        run(&mut client, &insert(5, "", ""));
        advance(&mut client);
        assert_equal(&mut client, &format!("a round after {step}"));
    }
}

#[test]
fn totals_of_a_dropped_month_go_on_counting() {
    let database = database();
    let (mut client, mut reader) = (database.connect(), database.connect());
    let month = "date_trunc('month', now()) - interval '5 months'";
    run(
        &mut client,
        &format!("SELECT ai_limiter.record_ai_usage(cost_usd => 3, created_at => {month})"),
    );
    run(&mut client, &insert(40, ", created_at", &format!(", {month} + i * interval '1 hour'")));
    run(&mut client, &insert(10, "", ""));
    advance(&mut client);
    let total = "SELECT used FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'all'";
    let before = ask(&mut client, total);
    let partition = ask(
        &mut client,
        "SELECT tableoid::regclass FROM ai_limiter.ai_usage ORDER BY created_at LIMIT 1",
    );
    run(
        &mut client,
        &format!(
            "BEGIN; LOCK TABLE ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE;
             INSERT INTO ai_limiter.ai_usage_totals (month, tenant_id, user_id, tier, provider, model,
                feature, api_key_id, attributes, requests, input_tokens, output_tokens, cost_usd)
             SELECT {month}, tenant_id, user_id, tier, provider, model, feature, api_key_id, attributes,
                sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_usd)
             FROM {partition} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;
             DROP TABLE {partition}"
        ),
    );
    // Who asks meanwhile waits, and sees the month or its totals, never neither.
    let both =
        "SELECT used, ledger_used FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'all'";
    let pid = backend_pid(&mut reader);
    let asked = scope(|threads| {
        let asking = threads.spawn(|| ask(&mut reader, both));
        wait_for_lock_wait(&mut database.connect(), pid);
        run(&mut client, "COMMIT");
        asking.join().unwrap()
    });
    assert_eq!(asked, format!("{before}|{before}"));
    assert_equal(&mut client, "dropped");
    advance(&mut client);
    assert_equal(&mut client, "dropped, and a round later");
    // A charge that comes for that month makes it anew, beside its totals.
    run(
        &mut client,
        &format!("SELECT ai_limiter.record_ai_usage(cost_usd => 2, created_at => {month})"),
    );
    assert_equal(&mut client, "a straggler");
    advance(&mut client);
    assert_equal(&mut client, "a straggler that is summed");
    assert_eq!(ask(&mut client, &format!("SELECT {before} + 2 = ({total})")), "t");
}

#[test]
fn windows_of_zones_off_the_hour_are_summed_to_the_row() {
    let database = database();
    let mut client = database.connect();
    let zones = [
        "Asia/Kathmandu",
        "Asia/Kolkata",
        "Australia/Eucla",
        "Pacific/Chatham",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Pacific/Kiritimati",
        "Africa/Monrovia",
        "UTC",
    ];
    run(
        &mut client,
        "
        INSERT INTO ai_limiter.ai_limits (name, per, period, amount, action)
        SELECT 'zone_' || unit, '{tenant}', unit, 1e9, 'warn'
        FROM unnest(ARRAY['minute', 'hour', 'day', 'week', 'month']) unit",
    );
    for (n, zone) in zones.iter().enumerate() {
        let tenant = id(n as u32 + 50);
        run(
            &mut client,
            &format!("INSERT INTO ai_limiter.ai_tenants VALUES ('{tenant}', 'z', '{zone}')"),
        );
        // Rows on both sides of each edge of the window that runs now, and of its quarters.
        run(&mut client, &format!(
            "INSERT INTO ai_limiter.ai_usage (tenant_id, tier, cost_usd, created_at)
             SELECT '{tenant}', 'free', 0.01 + row_number() OVER () * 0.000001, edge + near
             FROM unnest(ARRAY['minute', 'hour', 'day', 'week', 'month']) unit,
                LATERAL (SELECT lower(ai_limiter.ai_window(unit, now(), '{zone}'))) w(edge),
                unnest(ARRAY['-1 hour', '-15 minutes', '-1 microsecond', '0', '1 microsecond', '14 minutes',
                    '15 minutes', '1 hour']::interval[]) near
             WHERE edge + near <= now()"
        ));
    }
    assert_equal(&mut client, "from the ledger");
    advance(&mut client);
    assert_equal(&mut client, "from the rollup");
    // Another zone is other edges of the same cells.
    run(
        &mut client,
        "UPDATE ai_limiter.ai_tenants SET timezone = 'Asia/Kathmandu' WHERE timezone <> 'UTC'",
    );
    assert_equal(&mut client, "after an edit of the zones");
}

#[test]
fn a_rule_with_a_new_dimension_reads_the_ledger_until_it_is_summed() {
    let database = database();
    let mut client = database.connect();
    run(&mut client, &insert(90, "", ""));
    advance(&mut client);
    let before = in_use(&mut client);
    run(
        &mut client,
        "
        INSERT INTO ai_limiter.ai_limits (name, attributes, per, period, amount, action) VALUES
            ('new', '{\"env\": \"live\"}', '{model,attribute:team}', 'month', 1e9, 'warn'),
            ('models', NULL, '{model}', 'month', 1e9, 'warn')",
    );
    assert_equal(&mut client, "at once");
    let counted = "SELECT count(*) > 0 FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'new' AND used > 0";
    assert_eq!(ask(&mut client, counted), "t");
    advance(&mut client);
    assert_equal(&mut client, "summed");
    assert_eq!(ask(&mut client, counted), "t");
    assert!(in_use(&mut client) > before);
    run(&mut client, "DELETE FROM ai_limiter.ai_limits WHERE name IN ('new', 'models')");
    advance(&mut client);
    assert_equal(&mut client, "gone");
    assert!(in_use(&mut client) < before, "what no rule needs is let go");
}

/// Many write, roll back and write late while several advance, and somebody always compares.
#[test]
fn under_load_every_snapshot_adds_up() {
    let database = database();
    run(&mut database.connect(), &insert(100, "", ""));
    let stop = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(6);
    scope(|threads| {
        for writer in 0..4 {
            let (database, stop) = (&database, &stop);
            threads.spawn(move || {
                let mut client = database.connect();
                let mut turn = writer;
                while !stop.load(Ordering::Relaxed) {
                    turn += 7;
                    let stamped = insert(1 + turn % 4, "", "");
                    let late = insert(2, ", recorded_at", ", now() - interval '20 milliseconds'");
                    run(&mut client, &format!("BEGIN; {stamped}"));
                    sleep(Duration::from_millis(u64::from(turn % 13)));
                    let end = if turn % 5 == 0 { "ROLLBACK" } else { "COMMIT" };
                    let more = if turn % 3 == 0 { late } else { stamped };
                    run(&mut client, &format!("SAVEPOINT s; {more}; ROLLBACK TO s; {more}; {end}"));
                }
            });
        }
        for _ in 0..2 {
            threads.spawn(|| {
                let mut client = database.connect();
                while !stop.load(Ordering::Relaxed) {
                    run(&mut client, "SELECT ai_limiter.advance_ai_rollup()");
                }
            });
        }
        let mut client = database.connect();
        while Instant::now() < deadline {
            let unequal = ask(&mut client, UNEQUAL);
            let drifting = drift(&mut client);
            if !(unequal.is_empty() && drifting.is_empty()) {
                stop.store(true, Ordering::Relaxed);
                panic!("{unequal}\n{drifting}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut client = database.connect();
    advance(&mut client);
    advance(&mut client);
    assert_equal(&mut client, "when all is quiet");
    assert_eq!(tail(&mut client), "0");
    assert!(in_use(&mut client) >= 5);
}

#[test]
fn rounds_at_once_neither_wait_nor_sum_twice() {
    let database = database();
    run(
        &mut database.connect(),
        &insert(5_000, ", created_at", ", now() - i * interval '20 minutes'"),
    );
    database.clients(4, |_, client| {
        for _ in 0..30 {
            run(client, "SET lock_timeout = 1; SELECT ai_limiter.advance_ai_rollup()");
        }
    });
    let mut client = database.connect();
    advance(&mut client);
    assert_equal(&mut client, "after rounds at once");
    // One that is open keeps the others from working, and not from asking.
    let mut open = database.connect();
    run(&mut open, "BEGIN");
    run(&mut client, &insert(3, "", ""));
    advance(&mut open);
    advance(&mut client);
    assert_equal(&mut client, "beside an open round");
    run(&mut open, "ROLLBACK");
    advance(&mut client);
    assert_equal(&mut client, "after a round that was rolled back");
}

#[test]
fn a_crash_at_any_moment_leaves_sums_that_add_up() {
    let cluster = Cluster::builder().without_preload().start();
    let database = cluster.fresh_database();
    prepare(&mut database.connect());
    for crash in 0..4 {
        let stop = AtomicBool::new(false);
        scope(|threads| {
            for number in 0..3 {
                let (database, stop) = (&database, &stop);
                threads.spawn(move || {
                    let mut client = database.connect();
                    let late = insert(2, ", recorded_at", ", now() - interval '1 minute'");
                    let sql = match number {
                        0 => "SELECT ai_limiter.advance_ai_rollup()".to_owned(),
                        1 => format!("SET synchronous_commit = off; {}", insert(40, "", "")),
                        _ => late,
                    };
                    while !stop.load(Ordering::Relaxed) && client.batch_execute(&sql).is_ok() {}
                });
            }
            sleep(Duration::from_millis(400 + 170 * crash));
            cluster.stop_immediately();
            stop.store(true, Ordering::Relaxed);
        });
        cluster.start_again();
        let mut client = database.connect();
        assert_equal(&mut client, "after the crash");
        advance(&mut client);
        assert_equal(&mut client, "after the crash and a round");
    }
    assert!(in_use(&mut database.connect()) > 0);
}
