//! Usage of elsewhere is booked once, whoever stops it, and by the rights of whoever imports it.

use std::thread;
use std::time::Duration;

use ai_limiter_tests::calls::{
    Session, assert_no_drift, backend_pid, disable_shipped_limits, explained, reserve, wait_until,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;

/// A table as apps have them, with that many rows of ten cents over the last 400 days.
fn database_with(rows: u32) -> (Database, Client) {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    disable_shipped_limits(&mut client);
    client.run(&format!(
        "CREATE TABLE public.calls (id bigint PRIMARY KEY, ts timestamptz, who uuid, model text, \
             prompt_tokens int, completion_tokens int, cost numeric); \
         INSERT INTO public.calls SELECT n, now() - interval '400 days' * (1 - n / {rows}.0) - interval '1 s', \
             '11111111-1111-4111-8111-111111111111', 'inhouse', 100, 10, 0.1 FROM generate_series(1, {rows}) n"
    ));
    (database, client)
}

const MAPPING: &str = r#"'{"created_at": "ts", "user_id": "who", "input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "cost_usd": "cost"}'"#;

fn import_sql(batch_rows: &str) -> String {
    format!(
        "SELECT imported || ' ' || refused || ' ' || is_complete \
         FROM ai_limiter.import_ai_usage('public.calls', {MAPPING}, {batch_rows})"
    )
}

#[track_caller]
fn import(session: &mut impl Session, batch_rows: &str) -> String {
    session.value(&import_sql(batch_rows))
}

/// Rows of the ledger, and dollars.
fn booked(session: &mut impl Session) -> String {
    session.value(
        "SELECT count(*) || ' ' || coalesce(trim_scale(sum(cost_usd)), 0) FROM ai_limiter.ai_usage",
    )
}

#[test]
fn an_import_goes_on_where_it_stopped() {
    let (_database, mut client) = database_with(1000);
    assert_eq!(import(&mut client, "300"), "300 0 false");
    assert_eq!(import(&mut client, "300"), "600 0 false");
    assert_eq!(booked(&mut client), "600 60");
    assert_eq!(import(&mut client, "NULL"), "1000 0 true");
    assert_eq!(import(&mut client, "300"), "1000 0 true");
    assert_eq!(booked(&mut client), "1000 100");
    // What the app has written meanwhile.
    client.run("INSERT INTO public.calls SELECT 1001, now() - interval '1 s', who, model, 1, 1, 0.1 FROM public.calls LIMIT 1");
    assert_eq!(import(&mut client, "300"), "1001 0 true");
    assert_eq!(booked(&mut client), "1001 100.1");
    assert_no_drift(&mut client);
}

#[test]
fn a_batch_that_is_killed_is_done_again() {
    let (database, mut client) = database_with(20_000);
    assert_eq!(import(&mut client, "1000"), "1000 0 false");
    let mut other = database.connect();
    let pid = backend_pid(&mut other);
    let killed = thread::spawn(move || other.simple_query(&import_sql("NULL")).map(|_| ()));
    let runs = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND backend_xid IS NOT NULL"
    );
    wait_until("the import books", || client.value(&runs) == "1");
    thread::sleep(Duration::from_millis(100));
    client.run(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
    let error = killed.join().unwrap().unwrap_err();
    // Whether the client still reads why it is gone is a matter of luck.
    assert!(error.is_closed() || sqlstate(&error) == "57P01", "{}", explained(&error));
    assert_eq!(booked(&mut client), "1000 100");
    assert_eq!(import(&mut client, "NULL"), "20000 0 true");
    assert_eq!(booked(&mut client), "20000 2000");
    assert_no_drift(&mut client);
}

#[test]
fn an_import_that_begins_anew_books_nothing_twice() {
    let (_database, mut client) = database_with(500);
    import(&mut client, "NULL");
    client.run("DELETE FROM ai_limiter.ai_usage_imports");
    client.run(
        "INSERT INTO public.calls SELECT 0, ts, who, model, 1, 1, 0.1 FROM public.calls LIMIT 1",
    );
    assert_eq!(import(&mut client, "NULL"), "501 0 true");
    assert_eq!(booked(&mut client), "501 50.1");
}

#[test]
fn what_is_rolled_back_is_not_imported() {
    let (_database, mut client) = database_with(500);
    client.run("BEGIN");
    import(&mut client, "200");
    client.run("SAVEPOINT a");
    import(&mut client, "200");
    client.run("ROLLBACK TO a");
    client.run("COMMIT");
    assert_eq!(booked(&mut client), "200 20");
    assert_eq!(import(&mut client, "NULL"), "500 0 true");
    assert_eq!(booked(&mut client), "500 50");
    assert_no_drift(&mut client);
}

#[test]
fn two_at_once_share_the_work() {
    let (database, mut client) = database_with(5000);
    let done = database.clients(2, |_, client| {
        let mut calls = 0;
        while !import(client, "250").ends_with("true") {
            calls += 1;
        }
        calls
    });
    assert!((19..=21).contains(&done.iter().sum::<i32>()), "{done:?}");
    assert_eq!(booked(&mut client), "5000 500");
    assert_no_drift(&mut client);
}

#[test]
fn another_mapping_is_refused_and_the_import_stays() {
    let (_database, mut client) = database_with(10);
    import(&mut client, "5");
    let other = import_sql("5").replace(r#""cost_usd": "cost""#, r#""cost_usd": {"value": 1}"#);
    let error = client.rows(&other).unwrap_err();
    assert_eq!(sqlstate(&error), "22023");
    assert_eq!(import(&mut client, "NULL"), "10 0 true");
    assert_eq!(booked(&mut client), "10 1");
}

#[test]
fn rows_that_make_no_sense_are_refused_each_with_its_reason() {
    let (_database, mut client) = database_with(300);
    client.run(
        "ALTER TABLE public.calls ALTER who TYPE text, ALTER prompt_tokens TYPE text, ADD provider text; \
         UPDATE public.calls SET ts = NULL WHERE id = 1; \
         UPDATE public.calls SET ts = now() + interval '1 day' WHERE id = 2; \
         UPDATE public.calls SET ts = '2019-12-31' WHERE id = 3; \
         UPDATE public.calls SET ts = 'infinity' WHERE id = 4; \
         UPDATE public.calls SET prompt_tokens = -1 WHERE id = 5; \
         UPDATE public.calls SET prompt_tokens = '99999999999999999999999999999999' WHERE id = 6; \
         UPDATE public.calls SET who = 'bob' WHERE id = 7; \
         UPDATE public.calls SET cost = NULL WHERE id = 8; \
         UPDATE public.calls SET cost = 'NaN' WHERE id = 9; \
         UPDATE public.calls SET model = repeat('x', 300) WHERE id = 10; \
         UPDATE public.calls SET ts = '-infinity' WHERE id = 11; \
         UPDATE public.calls SET model = NULL, cost = NULL, prompt_tokens = NULL, completion_tokens = NULL WHERE id = 12",
    );
    assert_eq!(import(&mut client, "NULL"), "288 12 true");
    assert_eq!(booked(&mut client), "288 28.8");
    let reasons = "SELECT string_agg(source_key || ' ' || sqlstate || ' ' || reason, E'\n' ORDER BY source_key::int) \
        FROM ai_limiter.ai_usage_import_refusals";
    let reasons = client.value(reasons);
    let told: Vec<&str> = reasons.lines().collect();
    for (told, expected) in told.iter().zip([
        "1 22004 created_at must not be null",
        "2 22023 created_at must not be in the future",
        "3 22023 created_at is out of range",
        "4 22023 created_at must not be in the future",
        "5 22003 input_tokens must not be negative",
        "6 22003 input_tokens is out of range",
        "7 22023 user_id is no uuid",
        "8 22023 model has no price",
        "9 22023 cost_usd must be a finite number",
        "10 22023 model is too long",
        "11 22023 created_at is out of range",
        "12 22023 usage must say its tokens or its cost",
    ]) {
        assert!(told.starts_with(expected), "{told}, not {expected}");
    }
    assert_eq!(told.len(), 12);
    // The cure, and once more.
    client.run(
        "INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('inhouse', 0.5); \
         DELETE FROM ai_limiter.ai_usage_imports",
    );
    assert_eq!(import(&mut client, "NULL"), "289 11 true");
    assert_eq!(booked(&mut client), "289 29.3");
}

#[test]
fn a_row_that_a_trigger_of_ones_own_refuses_is_passed_over() {
    let (_database, mut client) = database_with(300);
    client.run(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF NEW.feature = 'bad' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER own BEFORE INSERT ON ai_limiter.ai_usage FOR EACH ROW EXECUTE FUNCTION public.no(); \
         ALTER TABLE public.calls ADD feature text; \
         UPDATE public.calls SET feature = 'bad' WHERE id IN (7, 290)",
    );
    assert_eq!(import(&mut client, "NULL"), "298 2 true");
    let refusals = "SELECT string_agg(source_key || sqlstate || reason, ',' ORDER BY source_key) FROM ai_limiter.ai_usage_import_refusals";
    assert_eq!(client.value(refusals), "290P0001not this one,7P0001not this one");
    assert_eq!(booked(&mut client), "298 29.8");
    assert_no_drift(&mut client);
}

#[test]
fn imported_rows_count_in_running_windows_and_those_that_are_over_raise_no_alert() {
    // A few rows are told to the counters one by one, many are a bulk load.
    for rows in [40, 4000] {
        let (_database, mut client) = database_with(rows);
        client.run(
            "INSERT INTO ai_limiter.ai_limits (name, period, amount) VALUES ('all', 'total', 1000), ('a_day', 'day', 10)",
        );
        // The counters are known before; on each of the days before today more was spent than a day's 10.
        assert!(reserve(&mut client, "cost_usd => 1").allowed);
        client.run("UPDATE public.calls SET ts = ts - interval '2 days', cost = 400.0 / (SELECT count(*) FROM public.calls)");
        assert!(import(&mut client, "NULL").ends_with(" 0 true"));
        assert_no_drift(&mut client);
        assert_eq!(client.value("SELECT count(*) FROM ai_limiter.get_ai_cost_alerts()"), "0");
        assert!(reserve(&mut client, "cost_usd => 5").allowed);
        assert!(!reserve(&mut client, "cost_usd => 595").allowed, "{rows} rows do not count");
        client.run("INSERT INTO public.calls SELECT 10000 + n, now() - interval '1 ms', who, model, 1, 1, 0.1 FROM public.calls, generate_series(1, 120) n WHERE id = 1");
        assert!(import(&mut client, "NULL").ends_with(" 0 true"));
        assert_no_drift(&mut client);
        let alert = "SELECT string_agg(limit_name || ' ' || severity, ',') FROM ai_limiter.get_ai_cost_alerts()";
        // Unless midnight has passed meanwhile.
        if client.value("SELECT (now() - interval '10 s')::date = now()::date") == "t" {
            assert_eq!(client.value(alert), "a_day critical");
        }
    }
}

#[test]
fn each_row_goes_to_its_month_at_the_price_of_its_time() {
    let (_database, mut client) = database_with(100);
    client.run(
        "UPDATE public.calls SET cost = NULL, ts = CASE WHEN id <= 50 THEN '2024-03-31 23:59:59+00' ELSE '2025-07-01 00:00:00+00' END::timestamptz; \
         INSERT INTO ai_limiter.ai_prices (model, usd_per_request, valid_during) \
             VALUES ('inhouse', 1, '(,2025-01-01)'), ('inhouse', 2, '[2025-01-01,)')",
    );
    assert_eq!(import(&mut client, "NULL"), "100 0 true");
    let months = "SELECT string_agg(t, ',' ORDER BY t) FROM (SELECT tableoid::regclass || ' ' || trim_scale(sum(cost_usd)) AS t \
        FROM ai_limiter.ai_usage GROUP BY tableoid) m";
    assert_eq!(
        client.value(months),
        "ai_limiter.ai_usage_2024_03 50,ai_limiter.ai_usage_2025_07 100"
    );
    // The id tells the month, as ids here do.
    let found = "SELECT count(*) FROM ai_limiter.ai_usage u, LATERAL ai_limiter.settle_ai_usage(u.id) s WHERE s.already_settled";
    assert_eq!(client.value(found), "100");
}

#[test]
fn the_source_is_read_with_the_callers_own_rights() {
    let (_database, mut client) = database_with(10);
    // A server that row-level security holds for, unlike service_role.
    client.run(
        "DO $$ BEGIN CREATE ROLE importing_server; EXCEPTION WHEN duplicate_object THEN END $$; \
         GRANT USAGE ON SCHEMA ai_limiter TO importing_server; \
         GRANT INSERT ON ai_limiter.ai_reservations TO importing_server; \
         GRANT EXECUTE ON FUNCTION ai_limiter.import_ai_usage TO importing_server; \
         SET ROLE importing_server",
    );
    let error = client.rows(&import_sql("NULL")).unwrap_err();
    assert_eq!(sqlstate(&error), "42501", "{}", explained(&error));
    assert!(explained(&error).contains("permission denied for table calls"));
    client.run(
        "RESET ROLE; GRANT SELECT ON public.calls TO importing_server; \
         ALTER TABLE public.calls ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY a_few ON public.calls FOR SELECT TO importing_server USING (id <= 4); \
         CREATE FUNCTION public.whoami(id bigint) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT current_user::text'; \
         CREATE VIEW public.seen WITH (security_invoker = true) AS \
             SELECT *, public.whoami(id) AS feature FROM public.calls; \
         GRANT SELECT ON public.seen TO importing_server; SET ROLE importing_server",
    );
    let import = import_sql("NULL").replace("public.calls", "public.seen");
    assert_eq!(client.value(&import), "4 0 true");
    client.run("RESET ROLE");
    let who = "SELECT DISTINCT feature FROM ai_limiter.ai_usage";
    assert_eq!(client.value(who), "importing_server");
    let started = "SELECT started_by FROM ai_limiter.ai_usage_imports";
    assert_eq!(client.value(started), "postgres as importing_server");
    // Whoever is no server does not import.
    client.run(
        "GRANT EXECUTE ON FUNCTION ai_limiter.import_ai_usage TO authenticated; \
        GRANT SELECT ON public.calls TO authenticated; SET ROLE authenticated",
    );
    let error = client.rows(&import_sql("NULL")).unwrap_err();
    assert_eq!(sqlstate(&error), "42501", "{}", explained(&error));
}

#[test]
fn names_are_names_and_a_search_path_changes_nothing() {
    let (_database, mut client) = database_with(300);
    client.run(
        r#"CREATE SCHEMA "odd ""one"; ALTER TABLE public.calls SET SCHEMA "odd ""one";
         ALTER TABLE "odd ""one".calls RENAME TO "x; DROP TABLE y --";
         ALTER TABLE "odd ""one"."x; DROP TABLE y --" RENAME cost TO "a"" FROM nowhere --";
         CREATE FUNCTION public.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR public.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = public.never);
         SET search_path = public, pg_catalog"#,
    );
    let import = |rows: &str| {
        import_sql(rows)
            .replace("'public.calls'", r#"'"odd ""one"."x; DROP TABLE y --"'"#)
            .replace(r#""cost_usd": "cost""#, r#""cost_usd": "a\" FROM nowhere --""#)
    };
    assert_eq!(client.value(&import("100")), "100 0 false");
    assert_eq!(client.value(&import("NULL")), "300 0 true");
    assert_eq!(booked(&mut client), "300 30");
}

#[test]
fn a_key_that_does_not_tell_rows_apart_is_refused() {
    let (_database, mut client) = database_with(10);
    let by = |key: &str| import_sql("3").replace(r#"'{"#, &format!(r#"'{{"id": "{key}", "#));
    for (key, state) in
        [("model", "22023"), ("cost", "22023"), ("nothing", "42704"), ("ts", "22023")]
    {
        let error = client.rows(&by(key)).unwrap_err();
        assert_eq!(sqlstate(&error), state, "{key}: {}", explained(&error));
    }
    client.run("ALTER TABLE public.calls ADD nothing text");
    let error = client.rows(&by("nothing")).unwrap_err();
    assert_eq!(sqlstate(&error), "22004", "{}", explained(&error));
    for source in
        ["'ai_limiter.ai_usage'", "'ai_limiter.ai_cost_by_day'", "'public.calls_pkey'", "99999999"]
    {
        let error = client.rows(&import_sql("3").replace("'public.calls'", source)).unwrap_err();
        assert_eq!(sqlstate(&error), "22023", "{source}");
    }
    assert_eq!(booked(&mut client), "0 0");
}

#[test]
fn a_key_of_any_length_can_be_refused() {
    let (_database, mut client) = database_with(1);
    client.run(
        "CREATE TABLE public.long AS SELECT k || (SELECT string_agg(md5(n::text), '') \
             FROM generate_series(1, 400) n) AS id, NULL::timestamptz AS created_at, 1 AS cost_usd \
         FROM unnest('{a,b}'::text[]) k",
    );
    let done = "SELECT concat_ws(' ', imported, refused, is_complete) \
                FROM ai_limiter.import_ai_usage('public.long')";
    assert_eq!(client.value(done), "0 2 t");
    let keys = "SELECT concat_ws(' ', count(DISTINCT source_key), max(length(source_key)) < 200) \
                FROM ai_limiter.ai_usage_import_refusals";
    assert_eq!(client.value(keys), "2 t");
}

#[test]
fn a_large_table_is_imported_batch_by_batch() {
    let (_database, mut client) = database_with(30_000);
    let batches = (1..).find(|_| import(&mut client, "10000").ends_with("true"));
    assert!(batches.is_some_and(|batches| (3..=4).contains(&batches)), "{batches:?}");
    assert_eq!(booked(&mut client), "30000 3000");
    assert_no_drift(&mut client);
}
