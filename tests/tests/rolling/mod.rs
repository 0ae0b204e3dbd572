//! What tests of the rollup share: rules of all grains, rows, rounds, and what must be equal.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use crate::people::{ask, drift, id, run};
use ai_limiter_tests::calls::{disable_shipped_limits, wait_until};
use ai_limiter_tests::{Cluster, Database};
use postgres::Client;

/// Rules of every grain that is rolled up, and of some that are not; nothing is refused.
pub const RULES: &str = "
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
pub fn server() -> &'static Cluster {
    Cluster::shared_without_preload()
}

pub fn database() -> Database {
    let database = server().fresh_database();
    prepare(&mut database.connect());
    database
}

pub fn prepare(admin: &mut Client) {
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
pub fn insert(count: u32, columns: &str, values: &str) -> String {
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
pub fn advance(client: &mut Client) {
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
pub const UNEQUAL: &str = "
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
pub fn assert_equal(client: &mut Client, when: &str) {
    assert_eq!(ask(client, UNEQUAL), "", "{when}");
    assert_eq!(drift(client), "", "{when}");
}

/// How many slices count for the partition of the running month.
pub fn in_use(client: &mut Client) -> u32 {
    let sql = "SELECT count(*) FROM ai_limiter.ai_rollup_slices
        WHERE NOT stale AND watermark IS NULL AND now() >= starts_at AND now() < ends_at";
    ask(client, sql).parse().unwrap()
}

/// Rows that are in the tail.
pub fn tail(client: &mut Client) -> String {
    ask(
        client,
        "SELECT count(*) FROM ai_limiter.ai_usage, ai_limiter.ai_rollup_state WHERE recorded_at >= watermark",
    )
}
