//! What the worker does where it is: nobody calls anything, and house is kept.

mod workers;

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{Session, assert_sound, reserve, wait_until};
use postgres::Client;
use workers::{server_with_worker, stat, wait_for_rounds};

const APP: &[&str] = &["app"];

#[test]
fn a_hold_is_marked_expired_without_anybody_calling() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    let short = reserve(&mut client, "cost_usd => 0.1, ttl => '100 milliseconds'").id().to_owned();
    let long = reserve(&mut client, "cost_usd => 0.1, ttl => '1 hour'").id().to_owned();
    let state = |client: &mut Client, id: &str| {
        client.value(&format!("SELECT state FROM ai_limiter.ai_reservations WHERE id = '{id}'"))
    };
    wait_until("the hold is marked", || state(&mut client, &short) == "expired");
    wait_for_rounds(&mut client, 2);
    assert_eq!(state(&mut client, &long), "open");
    // Expired is not forgotten: the late truth is booked.
    client.run(&format!("SELECT ai_limiter.settle_ai_usage('{short}', cost_usd => 0.05)"));
    assert_sound(&mut client);
}

#[test]
fn more_holds_than_fit_one_transaction_expire_within_a_round() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    // As if a crashed app had left them.
    client.run(
        "INSERT INTO ai_limiter.ai_reservations (id, tenant_id, tier, requests, created_at, expires_at) \
         SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'free', 1, \
            now() - interval '1 hour', now() FROM generate_series(1, 5000)",
    );
    let left = "SELECT count(*) FROM ai_limiter.ai_reservations WHERE state = 'open'";
    wait_until("all are marked", || client.value(left) == "0");
    let transactions = "SELECT count(DISTINCT xmin::text) FROM ai_limiter.ai_reservations";
    let transactions: usize = client.value(transactions).parse().unwrap();
    assert!(transactions >= 5, "each batch is a transaction of its own");
}

#[test]
fn holds_and_keys_are_forgotten_after_their_retention_and_denials_merged() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.01, idempotency_key => 'old')");
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.01, idempotency_key => 'new')");
    client.run("UPDATE ai_limiter.ai_idempotency SET created_at = now() - interval '8 days' WHERE key = 'old'");
    let hold = reserve(&mut client, "cost_usd => 0.1").id().to_owned();
    client.run(&format!("SELECT ai_limiter.release_ai_usage('{hold}')"));
    client.run("UPDATE ai_limiter.ai_reservations SET expires_at = now() - interval '8 days'");
    for count in 1..=3 {
        assert!(!reserve(&mut client, "cost_usd => 100000").allowed);
        wait_for_denials(&mut client, count);
    }
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_denials"), "3");
    client.run(
        "UPDATE ai_limiter.ai_denials SET minute = date_trunc('minute', now()) - interval '1 hour'",
    );
    // Duties of every minute are due at once after a start.
    cluster.stop();
    cluster.start_again();
    let mut client = cluster.database("app").connect();
    wait_for_rounds(&mut client, 1);
    assert_eq!(client.value("SELECT string_agg(key, ',') FROM ai_limiter.ai_idempotency"), "new");
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_reservations"), "0");
    assert_eq!(
        client.value("SELECT count(*) || ' ' || sum(denials) FROM ai_limiter.ai_denials"),
        "1 3"
    );
}

#[track_caller]
fn wait_for_denials(client: &mut Client, count: i32) {
    let written = "SELECT coalesce(sum(denials), 0) FROM ai_limiter.ai_denials";
    wait_until("denials are written", || client.value(written) == count.to_string());
}

#[test]
fn a_denial_outlives_the_rollback_of_its_transaction() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    wait_for_rounds(&mut client, 1);
    client.run("BEGIN");
    assert!(!reserve(&mut client, "cost_usd => 100000").allowed);
    client.run("ROLLBACK");
    wait_for_denials(&mut client, 1);
    let rounds: i64 = stat(&mut client, "worker_rounds").parse().unwrap();
    wait_for_rounds(&mut client, rounds + 2);
    wait_for_denials(&mut client, 1);
}

#[test]
fn partitions_are_made_ahead_where_the_ledger_is_in_use() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    let months =
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ai_limiter.ai_usage'::regclass";
    wait_for_rounds(&mut client, 1);
    // A restore makes a dump's partitions itself, after CREATE EXTENSION and before it fills anything.
    assert_eq!(client.value(months), "0");
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.01)");
    assert_eq!(client.value(months), "4");
    // As if months had passed.
    client.run(
        "DO $$ BEGIN EXECUTE format('DROP TABLE ai_limiter.ai_usage_%s', \
         to_char(now() AT TIME ZONE 'UTC' + interval '3 months', 'YYYY_MM')); END $$",
    );
    cluster.stop();
    cluster.start_again();
    let mut client = cluster.database("app").connect();
    wait_until("the months ahead are there", || client.value(months) == "4");
}

/// A ledger with a charge in each of the last twelve months, and only rules of a day.
fn year_of_ledger(client: &mut Client) {
    client.run("UPDATE ai_limiter.ai_limits SET enabled = false WHERE id < 0");
    client.run(
        "SELECT ai_limiter.record_ai_usage(cost_usd => 1, \
            created_at => date_trunc('month', now()) - make_interval(months => n) + interval '1 day') \
         FROM generate_series(1, 12) n",
    );
}

/// Which months of the past the ledger has, as numbers of months ago.
const PAST: &str = "SELECT coalesce(string_agg(ago::text, ' ' ORDER BY ago), '') \
    FROM (SELECT (12 * date_part('year', a) + date_part('month', a))::int AS ago \
        FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid, \
            age(date_trunc('month', now() AT TIME ZONE 'UTC'), \
                to_date(right(relname, 7), 'YYYY_MM')) a \
        WHERE inhparent = 'ai_limiter.ai_usage'::regclass) m WHERE ago > 0";

fn set_retention(client: &mut Client, days: i32) {
    client.run(&format!("ALTER DATABASE app SET ai_limiter.retention = '{days}d'"));
}

/// Has every duty done at once.
fn restart(cluster: &Cluster) -> Client {
    cluster.stop();
    cluster.start_again();
    let mut client = cluster.database("app").connect();
    wait_for_rounds(&mut client, 1);
    client
}

#[test]
fn months_of_the_ledger_go_after_their_retention_and_not_by_default() {
    let cluster = server_with_worker(APP);
    year_of_ledger(&mut cluster.database("app").connect());
    let mut client = restart(&cluster);
    assert_eq!(client.value(PAST), "1 2 3 4 5 6 7 8 9 10 11 12");
    // Months that ended more than 200 days ago.
    set_retention(&mut client, 200);
    let mut client = restart(&cluster);
    let expected = client.value(
        "SELECT string_agg(n::text, ' ' ORDER BY n) FROM generate_series(1, 12) n \
         WHERE date_trunc('month', now()) - make_interval(months => n - 1) > now() - interval '200 days'",
    );
    assert!(expected.ends_with('6') || expected.ends_with('7'), "{expected}");
    assert_eq!(client.value(PAST), expected);
    assert_eq!(stat(&mut client, "last_error"), "");
    assert_sound(&mut client);
}

#[test]
fn no_month_goes_that_a_limit_can_still_count() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    year_of_ledger(&mut client);
    client.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, rolling, amount) \
         VALUES ('half a year', 'cost_usd', '180 days', 1000)",
    );
    let used = "SELECT used FROM ai_limiter.verify_ai_counters() WHERE limit_name = 'half a year'";
    let before = client.value(used);
    set_retention(&mut client, 1);
    let mut client = restart(&cluster);
    assert_eq!(client.value(used), before);
    let past = client.value(PAST);
    assert!(past.ends_with('6') || past.ends_with('7'), "{past}");
    // Without it, a month is kept for the limits of a month that anybody may add.
    client.run("DELETE FROM ai_limiter.ai_limits WHERE name = 'half a year'");
    let mut client = restart(&cluster);
    let past = client.value(PAST);
    assert!(past == "1" || past == "1 2", "{past}");
}

#[test]
fn a_limit_of_all_time_counts_the_months_that_went() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    year_of_ledger(&mut client);
    client.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('lifetime', 'cost_usd', 'total', 12)",
    );
    // Corrections go with the month of their row.
    client.run(
        "SELECT ai_limiter.adjust_ai_usage(id, -0.25, 'credit') \
         FROM (SELECT id FROM ai_limiter.ai_usage ORDER BY created_at LIMIT 2) oldest",
    );
    set_retention(&mut client, 40);
    let mut client = restart(&cluster);
    wait_until("months go", || client.value(PAST).len() <= "1 2".len());
    assert_eq!(stat(&mut client, "last_error"), "");
    assert!(!reserve(&mut client, "cost_usd => 0.6").allowed);
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.1").allowed);
    assert_sound(&mut client);
}

#[test]
fn a_drop_that_somebody_is_in_the_way_of_gives_way_at_once() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    year_of_ledger(&mut client);
    set_retention(&mut client, 40);
    // Prepared, and so in the way from the first round after the start.
    client.run("BEGIN; LOCK TABLE ai_limiter.ai_usage IN ACCESS SHARE MODE");
    client.run("PREPARE TRANSACTION 'in the way'");
    let mut client = restart(&cluster);
    let told = "could not drop old partitions: canceling statement due to lock timeout";
    wait_until("it is told", || stat(&mut client, "last_error") == told);
    client.run("SET lock_timeout = '500ms'");
    assert_eq!(client.value("SELECT count(*) FROM ai_limiter.ai_usage"), "12");
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    client.run("ROLLBACK PREPARED 'in the way'");
    let mut client = restart(&cluster);
    let past = client.value(PAST);
    assert!(past == "1" || past == "1 2", "{past}");
}

#[test]
fn a_duty_that_fails_is_told_and_stops_no_other() {
    let cluster = server_with_worker(APP);
    let mut client = cluster.database("app").connect();
    client.run(
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'the disk is on strike'; END $$; \
         CREATE TRIGGER fail BEFORE UPDATE ON ai_limiter.ai_reservations \
         FOR EACH ROW EXECUTE FUNCTION public.fail()",
    );
    let hold = reserve(&mut client, "cost_usd => 0.1, ttl => '1 millisecond'").id().to_owned();
    let told = "could not expire holds: the disk is on strike";
    wait_until("the error is told", || stat(&mut client, "last_error") == told);
    let rounds: i64 = stat(&mut client, "worker_rounds").parse().unwrap();
    wait_for_rounds(&mut client, rounds + 3);
    let logged =
        cluster.log().matches("ai_limiter could not expire holds in database \"app\"").count();
    assert_eq!(logged, 1, "once a minute is enough for the log");
    client.run("DROP TRIGGER fail ON ai_limiter.ai_reservations");
    let state = format!("SELECT state FROM ai_limiter.ai_reservations WHERE id = '{hold}'");
    wait_until("it is done after all", || client.value(&state) == "expired");
    assert_eq!(stat(&mut client, "last_error"), told, "the last error stays to be read");
}

#[test]
fn a_row_that_somebody_holds_keeps_no_other_from_expiring() {
    let cluster = server_with_worker(APP);
    let (mut client, mut holder) =
        (cluster.database("app").connect(), cluster.database("app").connect());
    let held = reserve(&mut client, "cost_usd => 0.1, ttl => '1 second'").id().to_owned();
    holder.run("BEGIN");
    holder.run(&format!("SELECT FROM ai_limiter.ai_reservations WHERE id = '{held}' FOR UPDATE"));
    let free = reserve(&mut client, "cost_usd => 0.1, ttl => '1 second'").id().to_owned();
    let state =
        |id: &str| format!("SELECT state FROM ai_limiter.ai_reservations WHERE id = '{id}'");
    wait_until("the free one is marked", || client.value(&state(&free)) == "expired");
    assert_eq!(client.value(&state(&held)), "open");
    holder.run("COMMIT");
    wait_until("the other is marked", || client.value(&state(&held)) == "expired");
    assert_eq!(stat(&mut client, "last_error"), "");
}

#[test]
fn what_a_database_sets_for_its_sessions_does_not_stop_the_worker() {
    let cluster = server_with_worker(APP);
    let mut admin = cluster.database("app").connect();
    for setting in [
        "default_transaction_read_only = on",
        "statement_timeout = 1",
        "default_transaction_isolation = 'serializable'",
        "session_replication_role = 'replica'",
        "search_path = 'nowhere'",
    ] {
        admin.run(&format!("ALTER DATABASE app SET {setting}"));
    }
    admin.run("INSERT INTO ai_limiter.ai_reservations (id, tenant_id, tier, requests, created_at, expires_at) \
        VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'free', 1, now(), \
        clock_timestamp() + interval '1500 milliseconds')");
    let state = "SELECT state FROM ai_limiter.ai_reservations";
    wait_until("the hold is marked", || admin.value(state) == "expired");
    assert_eq!(stat(&mut admin, "last_error"), "");
}

#[test]
fn its_state_is_for_those_who_watch_the_server() {
    let cluster = server_with_worker(APP);
    let mut owner = cluster.database("app").connect();
    owner.run(
        "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE anybody LOGIN; \
        GRANT USAGE ON SCHEMA ai_limiter TO anybody",
    );
    wait_for_rounds(&mut owner, 1);
    let sql = "SELECT worker_state IN ('waiting', 'working') AND worker_rounds > 0 \
        AND worker_started_at <= clock_timestamp() AND worker_lag < interval '5 seconds' \
        AND last_error IS NULL AND last_error_at IS NULL FROM ai_limiter.ai_limiter_stat";
    assert_eq!(owner.value(sql), "t");
    assert_eq!(cluster.connect_as("watcher", "app").value(sql), "t");
    let refused = cluster.connect_as("anybody", "app").rows(sql).unwrap_err();
    assert_eq!(ai_limiter_tests::sqlstate(&refused), "42501");
}

#[test]
fn without_the_library_preloaded_there_is_no_worker_and_no_error() {
    let cluster = Cluster::builder().setting("fsync", "off").without_preload().start();
    let database = cluster.fresh_database();
    let mut client = database.connect();
    assert_eq!(stat(&mut client, "worker_state"), "not preloaded");
    assert_eq!(stat(&mut client, "worker_rounds"), "");
    reserve(&mut client, "cost_usd => 0.1, ttl => '1 millisecond'");
    client.run("SELECT pg_sleep(0.01), ai_limiter.refresh_ai_counters()");
    assert_eq!(client.value("SELECT state FROM ai_limiter.ai_reservations"), "expired");
}
