//! A dump that is restored into a fresh server says the same of every call, and goes on from there.

mod people;

use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, drift, id, outcome, run};
use postgres::Client;

/// Where dumps are restored: a server that has Supabase's roles, and nothing else.
fn fresh_server() -> &'static Cluster {
    static FRESH: OnceLock<Cluster> = OnceLock::new();
    FRESH.get_or_init(|| Cluster::builder().supabase_roles().setting("fsync", "off").start())
}

/// Edited, disabled, renamed and added rules; tenants with zones; a ledger of two months.
fn filled_database() -> Database {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    let configured = "
        INSERT INTO ai_limiter.ai_tenants VALUES
            ('00000000-0000-0000-0000-000000000000', 'zone', 'Europe/Berlin'),
            (:t1, 'one', 'America/New_York'), (:t2, 'two', 'Asia/Kathmandu');
        UPDATE ai_limiter.ai_tiers SET allowed_models = '{gpt-*,o3}' WHERE tier = 'pro';
        INSERT INTO ai_limiter.ai_tiers VALUES ('trial', '{gpt-4o}', '{chat}', 'ours');
        INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier, timezone, role, suspended) VALUES
            (:t1, :u1, 'pro', 'Asia/Tokyo', 'analyst', false), (:t1, :u2, 'trial', NULL, 'member', false),
            (:t2, :u3, 'enterprise', NULL, 'member', true);
        UPDATE ai_limiter.ai_limits SET amount = 901.5, action = 'warn' WHERE id = -1;
        UPDATE ai_limiter.ai_limits SET enabled = false WHERE id = -2;
        UPDATE ai_limiter.ai_limits SET name = 'few_requests', amount = 3 WHERE id = -4;
        UPDATE ai_limiter.ai_limits SET amount = 15, alert_at = '{0.25}' WHERE id = -5;
        INSERT INTO ai_limiter.ai_limits
            (name, tier, tenant_id, per, metric, period, rolling, amount, managed_by, attributes) VALUES
            ('user_daily_cost', NULL, :t1, '{user}', 'cost_usd', 'day', NULL, 11, 'platform', NULL),
('rolling', NULL, NULL, '{tenant,model}', 'total_tokens', NULL, '60 days', 5000, 'platform', NULL),
            ('of_team', NULL, NULL, '{attribute:team}', 'cost_usd', 'month', NULL, 40, 'platform', '{\"env\": \"live\"}'),
            ('own_cap', NULL, :t1, '{tenant}', 'cost_usd', 'week', NULL, 30, 'tenant', NULL),
            ('at_once', NULL, NULL, '{user}', 'concurrent', 'total', NULL, 5, 'platform', NULL);
        INSERT INTO ai_limiter.ai_limits (name, period, amount) VALUES ('passing', 'day', 1);
        DELETE FROM ai_limiter.ai_limits WHERE name = 'passing';
        INSERT INTO ai_limiter.ai_prices (model, tenant_id, input_usd_per_million_tokens,
            output_usd_per_million_tokens, valid_during) VALUES
            ('gpt-4o', NULL, 2.5, 10, '(,2025-01-01)'), ('gpt-4o', NULL, 2, 8, '[2025-01-01,)'),
            ('o3*', :t1, 0.123456789012, 1, '(,)');
        SELECT ai_limiter.suspend_ai('model', 'banned', 'broken');
        SELECT ai_limiter.suspend_ai('run', 'r9', until => now() + interval '1 day')";
    let called = "
        SELECT ai_limiter.record_ai_usage(:u1, :t1, 'openai/gpt-4o', input_tokens => 1000,
            output_tokens => 2000, created_at => date_trunc('month', now()) - interval '3 days');
        SELECT ai_limiter.record_ai_usage(:u1, :t1, 'gpt-4o-2024-08-06', input_tokens => 700,
            output_tokens => 20, idempotency_key => 'booked', attributes => '{\"team\":\"a\",\"env\":\"live\"}');
        INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, model, cost_usd, requests)
            VALUES (:t2, :u3, 'o3', 1.000000000001, 2), (:t1, NULL, NULL, 0.5, 1);
        SELECT ai_limiter.reserve_ai_usage(:u1, :t1, cost_usd => 1.5, run_id => 'r1',
            run_limit_usd => 2, idempotency_key => 'open', ttl => '1 day');
        SELECT ai_limiter.release_ai_usage(reservation_id)
            FROM ai_limiter.reserve_ai_usage(:u2, :t1, 'gpt-4o', feature => 'chat');
        SELECT ai_limiter.settle_ai_usage(reservation_id, cost_usd => 0.25)
            FROM ai_limiter.reserve_ai_usage(:u1, :t1, cost_usd => 0.5, idempotency_key => 'settled');
        SELECT ai_limiter.reserve_ai_usage(:u1, :t1, cost_usd => 2, run_id => 'r1');
        SELECT ai_limiter.reserve_ai_usage(:u3, :t2, cost_usd => 0);
        SELECT ai_limiter.adjust_ai_usage(id, -0.0001, 'a credit') FROM ai_limiter.ai_usage
            WHERE cost_usd > 0.001;
        UPDATE ai_limiter.ai_prices SET output_usd_per_million_tokens = 7 WHERE model = 'gpt-4o';
        SELECT ai_limiter.reprice_ai_usage('2020-01-01', now(), dry_run => false);
        CREATE VIEW public.elsewhere AS SELECT n AS id, timestamptz '2025-05-06 07:08:09+00' AS created_at,
            n AS cost_usd FROM generate_series(-1, 3) n;
        SELECT ai_limiter.import_ai_usage('public.elsewhere', batch_rows => 3)";
    run(&mut owner, &numbered(configured));
    run(&mut owner, &numbered(called));
    database
}

/// `:u1` and `:t1` written out.
fn numbered(sql: &str) -> String {
    (1..=3).fold(sql.to_owned(), |sql, n| {
        let id = format!("'{}'", id(n));
        sql.replace(&format!(":u{n}"), &id).replace(&format!(":t{n}"), &id)
    })
}

/// All that must be the same afterwards, a line each.
fn picture(client: &mut Client) -> String {
    let tables = [
        "ai_tiers",
        "ai_tenants",
        "ai_accounts",
        "ai_limits",
        "ai_prices",
        "ai_suspensions",
        "ai_run_limits",
        "ai_reservations",
        "ai_usage",
        "ai_idempotency",
        "ai_denials",
        "ai_usage_imports",
        "ai_usage_import_refusals",
    ];
    let mut questions: Vec<String> = tables
        .iter()
        .map(|table| {
            format!("SELECT '{table}', to_jsonb(t) FROM ai_limiter.{table} t ORDER BY 2::text")
        })
        .collect();
    for call in [
        ":u1, :t1, cost_usd => 0.1",
        ":u1, :t1, cost_usd => 100000",
        ":u1, :t1, 'gpt-4o', input_tokens => 100000, output_tokens => 5",
        ":u1, :t1, 'o3-mini', output_tokens => 5",
        ":u1, :t1, 'claude-sonnet-4', cost_usd => 0",
        ":u1, :t1, 'banned', cost_usd => 0",
        ":u1, :t1, run_id => 'r1', cost_usd => 0.3",
        ":u1, :t1, run_id => 'r9', cost_usd => 0.3",
        ":u1, :t1, attributes => '{\"team\":\"a\",\"env\":\"live\"}', cost_usd => 41",
        ":u2, :t1, 'gpt-4o', feature => 'search'",
        ":u3, :t2, cost_usd => 1",
        "gen_random_uuid(), :t2, cost_usd => 2",
        "",
    ] {
        questions.push(format!(
            "SELECT to_jsonb(v) - 'retry_after' FROM ai_limiter.check_ai_limit({call}) v"
        ));
    }
    questions.extend([
        "SELECT ai_limiter.get_ai_cost('2020-01-01', group_by => '{month,tenant,user,model}')".to_owned(),
        "SELECT ai_limiter.get_ai_limits(:u1, :t1)".to_owned(),
        "SELECT * FROM ai_limiter.verify_ai_counters()".to_owned(),
        "SELECT last_value, is_called FROM ai_limiter.ai_limits_id_seq".to_owned(),
        "SELECT last_value, is_called FROM ai_limiter.ai_prices_id_seq".to_owned(),
        // What belongs to each partition, and who may do what with which relation.
        "SELECT relname, relrowsecurity, relispartition, obj_description(oid),
            (SELECT string_agg(pg_get_triggerdef(t.oid), ' ' ORDER BY t.tgname) FROM pg_trigger t
             WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
            (SELECT string_agg(pg_get_indexdef(i.indexrelid), ' ' ORDER BY i.indexrelid::regclass::text) FROM pg_index i
             WHERE i.indrelid = c.oid),
            (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
             FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n'),
            (SELECT string_agg(acl::text, ' ' ORDER BY acl::text) FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) acl)
         FROM pg_class c WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p', 'v')
         ORDER BY 1".to_owned(),
    ]);
    questions.iter().map(|sql| ask(client, &numbered(sql)) + "\n").collect()
}

#[track_caller]
fn assert_silent(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{what}: {}\n{said}", output.status);
}

/// Dumps with `dump`, restores with `restore` (a program and its arguments), into `name`.
fn restored(from: &Database, name: &str, dump: &[&str], restore: &[&str]) -> Database {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    dump_to(from, dump, &file);
    let to = fresh_server().create_database(name);
    let (file, database) = (file.to_str().unwrap(), to.name().to_owned());
    let (program, options) = restore.split_first().unwrap();
    let mut arguments = options.to_vec();
    arguments.extend(["-d", &database]);
    match *program {
        "psql" => arguments.extend(["-Xq", "-o", "/dev/null", "-f", file]),
        _ => arguments.push(file),
    }
    assert_silent(name, &fresh_server().run(program, &arguments));
    to
}

fn dump_to(from: &Database, options: &[&str], file: &Path) {
    let mut arguments = options.to_vec();
    arguments.extend(["-f", file.to_str().unwrap(), from.name()]);
    assert_silent("pg_dump", &Cluster::shared().run("pg_dump", &arguments));
}

/// What a restored database must still do, beyond looking the same.
fn assert_goes_on(original: &mut Client, client: &mut Client, name: &str) {
    let same = |original: &mut Client, client: &mut Client, sql: &str| {
        let sql = numbered(sql);
        assert_eq!(ask(client, &sql), ask(original, &sql), "{name}: {sql}");
    };
    // Keys answer as they did, and book nothing.
    for sql in [
        "SELECT to_jsonb(v) FROM ai_limiter.reserve_ai_usage(:u1, :t1, cost_usd => 1.5, run_id => 'r1',
            run_limit_usd => 2, idempotency_key => 'open', ttl => '1 day') v",
        "SELECT reservation_id FROM ai_limiter.reserve_ai_usage(:u1, :t1, cost_usd => 0.5,
            idempotency_key => 'settled')",
        "SELECT ai_limiter.record_ai_usage(:u1, :t1, 'gpt-4o-2024-08-06', input_tokens => 700,
            output_tokens => 20, idempotency_key => 'booked', attributes => '{\"team\":\"a\",\"env\":\"live\"}')",
        "SELECT ai_limiter.settle_ai_usage(id) FROM ai_limiter.ai_usage
            WHERE estimated_cost_usd IS NOT NULL",
    ] {
        same(original, client, sql);
    }
    let settle = "SELECT s.cost_usd, already_settled FROM ai_limiter.ai_reservations r,
        ai_limiter.settle_ai_usage(r.id, cost_usd => 1.75) s WHERE r.run_id = 'r1'";
    assert_eq!(ask(client, settle), "1.75|f", "{name}");
    assert_eq!(ask(client, settle), "", "{name}");
    let released = "SELECT s.cost_usd FROM ai_limiter.ai_reservations r,
        ai_limiter.settle_ai_usage(r.id, cost_usd => 0.125) s WHERE r.state = 'released'";
    assert_eq!(ask(client, released), "0.125", "{name}");
    // Sequences, partitions of other months.
    let largest = ask(client, "SELECT max(id) FROM ai_limiter.ai_limits");
    let added = ask(
        client,
        "INSERT INTO ai_limiter.ai_limits (name, period, amount) VALUES ('new', 'day', 7) RETURNING id",
    );
    assert!(added.parse::<i64>().unwrap() > largest.parse().unwrap(), "{name}: {added}");
    run(
        client,
        "SELECT ai_limiter.record_ai_usage(cost_usd => 3, created_at => '2024-02-29 12:00Z')",
    );
    assert_eq!(ask(client, "SELECT count(*) FROM ai_limiter.ai_usage_2024_02"), "1", "{name}");
    assert_eq!(ask(client, "SELECT ai_limiter.ensure_ai_partitions()"), "0", "{name}");
    assert_eq!(drift(client), "", "{name}");
    // The ledger is append-only, each partition too, and goes with the extension.
    let partitions = "SELECT inhrelid::regclass FROM pg_inherits
        WHERE inhparent = 'ai_limiter.ai_usage'::regclass";
    for table in ask(client, partitions).lines().chain(["ai_limiter.ai_usage"]) {
        assert_eq!(outcome(client, &format!("TRUNCATE {table}")), "55000", "{name} {table}");
        for sql in [format!("DELETE FROM {table}"), format!("UPDATE {table} SET requests = 0")] {
            let rows = ask(client, &format!("SELECT count(*) FROM {table}"));
            let expected = if rows == "0" { "" } else { "55000" };
            assert_eq!(outcome(client, &sql), expected, "{name} {sql}");
        }
    }
    assert_eq!(outcome(client, "DELETE FROM ai_limiter.ai_limits WHERE id = -1"), "55000");
    run(client, "DROP EXTENSION ai_limiter CASCADE");
    let left = "SELECT relname FROM pg_class WHERE relname LIKE 'ai\\_%'";
    assert_eq!(ask(client, left), "", "{name}");
    assert_eq!(ask(client, "SELECT to_regnamespace('ai_limiter')"), "", "{name}");
}

#[test]
fn a_restored_database_says_the_same_and_goes_on() {
    let original = filled_database();
    let mut owner = original.connect();
    let before = picture(&mut owner);
    let audit = "SELECT to_jsonb(c) FROM ai_limiter.ai_config_changes c ORDER BY 1::text";
    let audited = ask(&mut owner, audit);
    let corrections = "SELECT count(DISTINCT price_source) FROM ai_limiter.ai_usage
        WHERE correction_of IS NOT NULL AND cost_usd < 0";
    assert_eq!(ask(&mut owner, corrections), "2");
    assert_eq!(drift(&mut owner), "");
    const ONE: &str = "--single-transaction";
    for (name, dump, restore) in [
        ("plain", &[][..], &["psql", "-v", "ON_ERROR_STOP=1"][..]),
        ("plain_in_one", &[], &["psql", "-v", "ON_ERROR_STOP=1", ONE]),
        ("inserts", &["--inserts"], &["psql", "-v", "ON_ERROR_STOP=1"]),
        ("inserts_in_one", &["--inserts"], &["psql", "-v", "ON_ERROR_STOP=1", ONE]),
        ("custom", &["-Fc"], &["pg_restore", "--exit-on-error"]),
        ("custom_in_one", &["-Fc"], &["pg_restore", ONE]),
        ("by_root", &["--load-via-partition-root"], &["psql", "-v", "ON_ERROR_STOP=1", ONE]),
    ] {
        let mut client = restored(&original, name, dump, restore).connect();
        let after = picture(&mut client);
        for (before, after) in before.lines().zip(after.lines()) {
            assert_eq!(after, before, "{name}");
        }
        assert_eq!(after.len(), before.len(), "{name}");
        // The restore is in the audit, beside all that was there.
        let now_audited = ask(&mut client, audit);
        for entry in audited.lines() {
            assert!(now_audited.contains(entry), "{name}: {entry}");
        }
        assert_goes_on(&mut owner, &mut client, name);
    }
}

/// Nothing in the archive orders the data of an extension's tables: a restore with several workers
/// takes them as they come.
#[test]
fn config_tables_restore_in_any_order() {
    let original = filled_database();
    let before = picture(&mut original.connect());
    let dir = tempfile::tempdir().unwrap();
    let path = |name| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, list) = (path("dump"), path("list"));
    dump_to(&original, &["-Fc"], Path::new(&file));
    let entries = fresh_server().run_ok("pg_restore", &["-l", &file]);
    let (data, rest): (Vec<&str>, Vec<&str>) =
        entries.lines().partition(|line| line.contains(" TABLE DATA "));
    let reversed: Vec<&str> = rest.into_iter().chain(data.into_iter().rev()).collect();
    std::fs::write(&list, reversed.join("\n")).unwrap();
    for (name, options) in [("reversed", &["-L", &list][..]), ("parallel", &["-j", "3"])] {
        let to = fresh_server().create_database(name);
        let arguments = [&["--exit-on-error", "-d", name], options, &[&file]].concat();
        assert_silent(name, &fresh_server().run("pg_restore", &arguments));
        let mut client = to.connect();
        assert_eq!(picture(&mut client), before, "{name}");
        assert_eq!(drift(&mut client), "", "{name}");
    }
}
