-- refresh_ai_counters(), ensure_ai_partitions(), verify_ai_counters(): keeping house.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- A hold that expires stops counting by itself, at that moment (here its time is moved, so that nobody
-- has to wait).
SELECT reservation_id AS expired FROM reserve_ai_usage(:'alice', cost_usd => 0.70) \gset
SELECT reservation_id AS open FROM reserve_ai_usage(:'alice', cost_usd => 0.10) \gset
SELECT reservation_id AS released FROM reserve_ai_usage(:'alice', cost_usd => 0.05) \gset
SELECT release_ai_usage(:'released') AS released;
SELECT held, remaining FROM get_ai_limits(:'alice') WHERE limit_name = 'user_daily_cost';
UPDATE ai_reservations SET expires_at = clock_timestamp() WHERE id = :'expired';
SELECT held, remaining FROM get_ai_limits(:'alice') WHERE limit_name = 'user_daily_cost';

-- refresh_ai_counters() makes that visible in the table.
SELECT state, trim_scale(cost_usd) AS cost_usd FROM ai_reservations ORDER BY cost_usd;
SELECT refresh_ai_counters();
SELECT state, trim_scale(cost_usd) AS cost_usd FROM ai_reservations ORDER BY cost_usd;

-- Once more changes nothing, and neither does what it marked: it can still be settled.
SELECT refresh_ai_counters();
SELECT release_ai_usage(:'expired') AS released;
SELECT cost_usd FROM settle_ai_usage(:'expired', cost_usd => 0.60);
SELECT used, held FROM get_ai_limits(:'alice') WHERE limit_name = 'user_daily_cost';

-- Expired and released holds are forgotten after ai_limiter.reservation_retention; open ones are not.
UPDATE ai_reservations SET expires_at = now() - interval '8 days' WHERE id = :'released';
SELECT refresh_ai_counters();
SELECT state FROM ai_reservations;
SELECT regexp_replace(refused(format('SELECT settle_ai_usage(%L)', :'released')), '[0-9a-f-]{36}', '(the id)') AS too_late;
SET ai_limiter.reservation_retention = 0;
SELECT release_ai_usage(:'open') AS released;
SELECT refresh_ai_counters();
SELECT count(*) AS not_expired_yet FROM ai_reservations;
UPDATE ai_reservations SET expires_at = now();
SELECT refresh_ai_counters();
SELECT count(*) AS holds FROM ai_reservations;
RESET ai_limiter.reservation_retention;

-- Idempotency keys are forgotten after ai_limiter.idempotency_retention.
SELECT count(record_ai_usage(:'bob', cost_usd => 0.01, idempotency_key => 'key-' || n)) AS recorded FROM generate_series(1, 3) n;
UPDATE ai_idempotency SET created_at = now() - interval '7 days 1 second' WHERE key = 'key-2';
SELECT refresh_ai_counters();
SELECT key FROM ai_idempotency ORDER BY key;

-- Denials are a row each until their minute has passed; then those that say the same are one.
SELECT count((reserve_ai_usage(:'carol', cost_usd => 2)).reason) AS denied FROM generate_series(1, 5);
SELECT count((reserve_ai_usage(:'carol', cost_usd => 3, feature => 'chat')).reason) AS denied FROM generate_series(1, 2);
SELECT sum(denials) AS denials, sum(estimated_cost_usd) AS estimated FROM ai_denials;
UPDATE ai_denials SET minute = minute - interval '10 minutes';
UPDATE ai_denials SET minute = (SELECT min(minute) FROM ai_denials);
SELECT reason FROM reserve_ai_usage(:'carol', cost_usd => 2);
SELECT refresh_ai_counters();
SELECT limit_name, feature, reason, denials, trim_scale(estimated_cost_usd) AS estimated, minute > now() - interval '5 minutes' AS this_minute
FROM ai_denials ORDER BY this_minute, feature NULLS FIRST;
SELECT refresh_ai_counters();
SELECT count(*) AS rows, sum(denials) AS denials FROM ai_denials;

-- ensure_ai_partitions() makes this month's part of the ledger and the next three; what is there stays.
SELECT ensure_ai_partitions() IS NOT NULL AS made, ensure_ai_partitions() AS once_more;
SELECT count(*) >= 4 AS months, bool_and(relrowsecurity) AS row_security, bool_and(obj_description(oid, 'pg_class') IS NOT NULL) AS commented,
       bool_and(EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')) AS belong_to_the_extension
FROM pg_class c WHERE relispartition AND relkind = 'r' AND relnamespace = 'ai_limiter'::regnamespace;
DO $$
BEGIN
    EXECUTE format('DROP TABLE ai_limiter.ai_usage_%s', to_char(now() AT TIME ZONE 'UTC' + interval '3 months', 'YYYY_MM'));
END
$$;
SELECT ensure_ai_partitions() AS made;

-- verify_ai_counters(): a row per counter that is not empty. What admission says, what the raw rows
-- add up to, and the difference, which is 0.
SELECT reservation_id AS hold FROM reserve_ai_usage(:'alice', cost_usd => 0.15) \gset
SELECT limit_name, named(subject) AS subject, used, held, ledger_used, open_holds, drift FROM verify_ai_counters() ORDER BY 1, 2;

-- All three are for the server only.
SELECT CASE WHEN has_function_privilege('authenticated', f, 'EXECUTE') THEN 'yes' ELSE 'no' END AS users_may, f AS function
FROM unnest('{refresh_ai_counters,ensure_ai_partitions,verify_ai_counters}'::regproc[]) f;
