//! Holds and charges go into their tables without a statement while the tables are as the extension made
//! them, and by one where somebody has added something: then what was added has its say.

use ai_limiter_tests::calls::{Session, assert_sound, database_with_a_dollar, reserve};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;

fn database() -> Database {
    database_with_a_dollar(Cluster::shared())
}

/// Has each call of a trigger counted.
fn count_triggers(client: &mut Client) {
    client.run("SET track_functions = 'all'");
}

/// The triggers that have fired for calls of this session.
fn fired(client: &mut Client) -> String {
    client.run("SELECT pg_stat_force_next_flush()");
    client.value(
        "SELECT coalesce(string_agg(funcname, ' ' ORDER BY funcname), '') FROM pg_stat_user_functions \
         WHERE schemaname = 'ai_limiter' AND funcname ~ '^ai_(usage|reservations)_|^append'",
    )
}

fn settle(client: &mut Client, id: &str) -> Result<String, postgres::Error> {
    let sql =
        format!("SELECT cost_usd::text FROM ai_limiter.settle_ai_usage('{id}', cost_usd => 0.05)");
    client.query_one(&sql, &[]).map(|row| row.get(0))
}

#[test]
fn a_call_fires_no_trigger_of_the_extension_and_counts() {
    let database = database();
    let mut client = database.connect();
    count_triggers(&mut client);
    let hold =
        reserve(&mut client, "cost_usd => 0.1, feature => 'chat', attributes => '{\"a\": \"b\"}'");
    assert_eq!(settle(&mut client, hold.id()).unwrap(), "0.05");
    client.run("SELECT ai_limiter.record_ai_usage(cost_usd => 0.05, model => 'gpt-4o')");
    assert_eq!(fired(&mut client), "");
    let rows = "SELECT count(*), sum(cost_usd), count(recorded_at), min(feature), max(model) \
                FROM ai_limiter.ai_usage";
    let row = client.value(&format!("SELECT r::text FROM ({rows}) r"));
    assert_eq!(row, "(2,0.100000000000,2,chat,gpt-4o)");
    let attributes = "SELECT sum((attributes ->> 'a' = 'b')::int) FROM ai_limiter.ai_usage";
    assert_eq!(client.value(attributes), "1");
    assert!(!reserve(&mut client, "cost_usd => 0.91").allowed);
    assert!(reserve(&mut client, "cost_usd => 0.9").allowed);
    assert_sound(&mut client);
}

/// What somebody may add to each table, and whether the call is then refused.
const ADDED: [(&str, Option<&str>); 7] = [
    ("ALTER TABLE ai_limiter.THIS ADD COLUMN note text DEFAULT 'added'", None),
    (
        "ALTER TABLE ai_limiter.THIS ADD CONSTRAINT small CHECK (cost_usd < 0.01) NOT VALID",
        Some("23514"),
    ),
    (
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE check_violation; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON ai_limiter.THIS \
         FOR EACH ROW EXECUTE FUNCTION public.refuse()",
        Some("23514"),
    ),
    (
        "CREATE TABLE public.copies (cost numeric);
         CREATE FUNCTION public.copy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
         $$ BEGIN INSERT INTO public.copies VALUES (NEW.cost_usd); RETURN NULL; END $$;
         CREATE TRIGGER a_copy AFTER INSERT ON ai_limiter.THIS \
         FOR EACH ROW EXECUTE FUNCTION public.copy()",
        None,
    ),
    ("CREATE INDEX ON ai_limiter.THIS (feature)", None),
    ("CREATE INDEX ON ai_limiter.THIS ((1 / (cost_usd * 0)))", Some("22012")),
    (
        "CREATE UNIQUE INDEX ON ai_limiter.THIS (tier, created_at) WHERE 1 / (requests - 1) > 0",
        Some("22012"),
    ),
];

#[test]
fn what_somebody_has_added_to_a_table_is_heeded() {
    for table in ["ai_reservations", "ai_usage"] {
        for (added, code) in ADDED {
            let database = database();
            let (mut admin, mut client) = (database.connect(), database.connect());
            admin.run(&added.replace("THIS", table));
            let held = client.query_one("SELECT ai_limiter.reserve_ai_usage(cost_usd => 0.1)", &[]);
            let done = match (table, held) {
                ("ai_usage", Ok(_)) => {
                    let id = client.value("SELECT id FROM ai_limiter.ai_reservations");
                    settle(&mut client, &id).map(drop)
                }
                (_, held) => held.map(drop),
            };
            match code {
                None => done.unwrap(),
                Some(code) => assert_eq!(sqlstate(&done.unwrap_err()), code, "{added}"),
            }
            if added.contains("copies") {
                assert_eq!(admin.value("SELECT count(*) FROM public.copies"), "1", "{table}");
            }
            if added.contains("note") {
                let notes = format!("SELECT string_agg(note, ' ') FROM ai_limiter.{table}");
                assert_eq!(admin.value(&notes), "added");
            }
            assert_sound(&mut admin);
        }
    }
}

/// A hold that somebody has written by hand is completed as a statement's row would be.
#[test]
fn a_hold_written_by_hand_is_booked_under_its_canonical_names() {
    let database = database();
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_reservations (id, tenant_id, tier, provider, model, requests, cost_usd, \
         created_at, expires_at) SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'free', \
         'OpenAI', 'OpenAI/GPT-4o-2024-08-06', 1, 0.1, clock_timestamp(), clock_timestamp() + interval '1 hour'",
    );
    let id = client.value("SELECT id FROM ai_limiter.ai_reservations");
    settle(&mut client, &id).unwrap();
    let row = "SELECT provider || ' ' || model FROM ai_limiter.ai_usage";
    assert_eq!(client.value(row), "openai gpt-4o");
    assert_sound(&mut client);
}

/// Each row satisfies the checks of its table, which nobody has looked at.
#[test]
fn rows_satisfy_the_checks_of_their_tables() {
    let database = database();
    let mut client = database.connect();
    let extremes = [
        "cost_usd => 0, input_tokens => 0, output_tokens => 0",
        "cost_usd => 0.000000000001, requests => 2147483647",
        "model => 'm', cost_usd => 0.1, input_tokens => 1000000000000, output_tokens => 1000000000000",
    ];
    for arguments in extremes {
        let hold = reserve(&mut client, arguments);
        assert!(hold.allowed, "{arguments}");
        let usage = format!(
            "SELECT ai_limiter.settle_ai_usage('{}', input_tokens => 1000000000000, output_tokens => 0)",
            hold.id()
        );
        assert!(reserve(&mut client, arguments).allowed, "{arguments}");
        client.run(&usage);
    }
    let checks = checks(&mut client);
    assert!(checks.len() >= 10, "{checks:?}");
    for (table, name, check) in checks {
        let violated = format!("SELECT count(*) FROM {table} WHERE NOT ({check})");
        assert_eq!(client.value(&violated), "0", "{name}");
    }
}

/// Tables, names and conditions.
fn checks(client: &mut Client) -> Vec<(String, String, String)> {
    let sql = "SELECT conrelid::regclass::text, conname::text, pg_get_expr(conbin, conrelid) \
               FROM pg_constraint WHERE contype = 'c' AND conrelid IN \
               ('ai_limiter.ai_usage'::regclass, 'ai_limiter.ai_reservations'::regclass)";
    let rows = client.query(sql, &[]).unwrap();
    rows.into_iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}
