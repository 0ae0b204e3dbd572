//! Rollup and tail are the ledger: for every snapshot, under open transactions, late and backdated rows,
//! restores, concurrent rounds, crashes, and partitions that change.

mod people;

use ai_limiter_tests::calls::{
    backend_pid, disable_shipped_limits, wait_for_lock_wait, wait_until,
};
use ai_limiter_tests::{Cluster, Database};
use people::{ask, drift, id, outcome, run};
use postgres::Client;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Rules of every grain that is rolled up, and of some that are not; nothing is refused.
const RULES: &str = "
    INSERT INTO ai_limiter.ai_limits (name, tier, model, attributes, per, metric, period, amount, action) VALUES
        ('all', NULL, NULL, NULL, '{}', 'cost_usd', 'total', 1e9, 'warn'),
        ('month', NULL, NULL, NULL, '{}', 'requests', 'month', 1e9, 'warn'),
        ('tenants', NULL, NULL, NULL, '{tenant}', 'cost_usd', 'day', 1e9, 'warn'),
        ('users', NULL, NULL, NULL, '{user}', 'cost_usd', 'month', 1e9, 'warn'),
        ('models', 'free', 'gpt*', NULL, '{model,feature}', 'total_tokens', 'week', 1e9, 'warn'),
        ('teams', NULL, NULL, NULL, '{tenant,attribute:team}', 'cost_usd', 'month', 1e9, 'warn'),
        ('keys', NULL, NULL, '{\"env\": \"live\"}', '{api_key_id}', 'input_tokens', 'hour', 1e9, 'warn')";

/// Without counters in shared memory, so that each reading is from the tables, and an open transaction
/// shows to nobody.
fn server() -> &'static Cluster {
    Cluster::shared_without_preload()
}

fn database() -> Database {
    let database = server().fresh_database();
    prepare(&mut database.connect());
    database
}

fn prepare(admin: &mut Client) {
    disable_shipped_limits(admin);
    run(admin, RULES);
    // This month and the three before and after it.
    run(
        admin,
        "SELECT ai_limiter.ensure_ai_partitions();
         SELECT ai_limiter.record_ai_usage(cost_usd => 0, created_at => now() - i * interval '28 days')
         FROM generate_series(1, 4) i",
    );
}

/// Rows of several tenants, users, models, teams, keys; `columns` and `values` say more of each.
fn insert(count: u32, columns: &str, values: &str) -> String {
    format!(
        "INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, tier, model, feature, api_key_id, attributes,
            requests, input_tokens, output_tokens, cost_usd{columns})
         SELECT ('{}')::uuid, ('00000000-0000-4000-8000-00000000001' || i % 5)::uuid,
            (ARRAY['free', 'pro'])[1 + i % 2], (ARRAY['gpt-4o', 'o3', NULL, 'gpt-4o-mini'])[1 + i % 4],
            (ARRAY['chat', NULL])[1 + i % 2], (ARRAY['k1', 'k2', NULL])[1 + i % 3],
            (ARRAY['{{}}', '{{\"team\": \"a\"}}', '{{\"team\": \"b\", \"env\": \"live\"}}'])[1 + i % 3]::jsonb,
            1 + i % 3, i % 700, i % 90, (i % 1000) * 0.000000000001 + 0.01{values}
         FROM generate_series(1, {count}) i",
        id(1)
    )
}

/// Rounds until there is nothing to do. A seal also waits for transactions of other tests, which end.
#[track_caller]
fn advance(client: &mut Client) {
    const OPEN: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL
        AND datname = current_database() AND pid <> pg_backend_pid())";
    const WAITING: &str =
        "SELECT sealed_at IS NOT NULL OR watermark IS NULL FROM ai_limiter.ai_rollup_state";
    wait_until("the rollup comes to an end", || {
        ask(client, "SELECT ai_limiter.advance_ai_rollup()") == "f"
            && (ask(client, WAITING) == "f" || ask(client, OPEN) == "t")
    });
}

/// What differs, slice by slice of what counts, between rollup and tail and the ledger: in SQL of its own.
const UNEQUAL: &str = "
    SELECT coalesce(string_agg(format('slice %s of %s by %s: %s <> %s', s.slice_id, s.partition::regclass,
        s.dimensions, summed, ledger), E'\\n'), '')
    FROM ai_limiter.ai_rollup_slices s, ai_limiter.ai_rollup_state w,
    LATERAL (SELECT ARRAY[coalesce(sum(requests), 0), coalesce(sum(input_tokens), 0),
            coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0)] AS ledger
        FROM ai_limiter.ai_usage u WHERE u.tableoid = s.partition) l,
    LATERAL (SELECT ARRAY[coalesce(sum(requests), 0), coalesce(sum(input_tokens), 0),
            coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0)] AS summed
        FROM (SELECT requests, input_tokens, output_tokens, cost_usd FROM ai_limiter.ai_usage_rollup r
              WHERE r.slice_id = s.slice_id
              UNION ALL SELECT requests, input_tokens, output_tokens, cost_usd FROM ai_limiter.ai_usage u
              WHERE u.tableoid = s.partition AND u.recorded_at >= w.watermark) a) r
    WHERE NOT s.stale AND s.watermark IS NULL AND summed <> ledger AND EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE c.oid = s.partition AND i.inhparent = 'ai_limiter.ai_usage'::regclass
          AND s.identity = concat_ws(' ', i.xmin, c.relfilenode, (SELECT string_agg(
            concat_ws('/', t.oid, t.xmin, t.tgenabled), ' ' ORDER BY t.oid) FROM pg_trigger t WHERE t.tgrelid = c.oid)))";

/// What differs, and what no counter may say.
#[track_caller]
fn assert_equal(client: &mut Client, when: &str) {
    assert_eq!(ask(client, UNEQUAL), "", "{when}");
    assert_eq!(drift(client), "", "{when}");
}

/// How many slices count for the partition of the running month.
fn in_use(client: &mut Client) -> u32 {
    let sql = "SELECT count(*) FROM ai_limiter.ai_rollup_slices
        WHERE NOT stale AND watermark IS NULL AND now() >= starts_at AND now() < ends_at";
    ask(client, sql).parse().unwrap()
}

/// Rows that are in the tail.
fn tail(client: &mut Client) -> String {
    ask(
        client,
        "SELECT count(*) FROM ai_limiter.ai_usage, ai_limiter.ai_rollup_state WHERE recorded_at >= watermark",
    )
}

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
