-- What CREATE EXTENSION makes, and the promises that hold for all of it.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Tables and views.
SELECT relname AS name, CASE relkind WHEN 'v' THEN 'view' ELSE 'table' END AS kind
FROM pg_class WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p', 'v')
  AND NOT relispartition
ORDER BY kind, name;

-- Functions that people call. Those that only the extension itself calls say so in their comment.
SELECT proname AS function
FROM pg_proc WHERE pronamespace = 'ai_limiter'::regnamespace
  AND obj_description(oid, 'pg_proc') NOT LIKE 'Private:%'
ORDER BY function;

-- Tiers and rules that ship with it.
SELECT tier, allowed_models, allowed_features FROM ai_tiers ORDER BY tier;
SELECT id, name, tier, per, metric, period, amount, action FROM ai_limits ORDER BY id DESC;

-- Everything has a comment: what the extension owns, and the columns of its tables and types.
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ai_limiter')
  AND obj_description(objid, (SELECT relname FROM pg_class WHERE oid = classid)) IS NULL
  -- A table's row type and the arrays of types are not objects of their own.
  AND objid NOT IN (SELECT t.oid FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
                    WHERE c.relkind <> 'c' OR t.typelem <> 0)
ORDER BY 1;
SELECT attrelid::regclass AS relation, attname AS column_without_comment
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p', 'c') AND NOT relispartition
  AND attnum > 0 AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL
ORDER BY 1, attnum;

-- Every table has row-level security, each month of the ledger too.
SELECT ensure_ai_partitions() AS months_made;
SELECT relname AS without_rls FROM pg_class
WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity;

-- Every view shows what the caller may see, not what its owner may.
SELECT relname AS not_invoker FROM pg_class
WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind = 'v'
  AND NOT coalesce(reloptions @> '{security_invoker=true}', false);

-- PUBLIC may call only what row-level security asks, and only with USAGE on the schema; it may not
-- touch a table.
SELECT proname AS public_may_call FROM pg_proc
WHERE pronamespace = 'ai_limiter'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')
ORDER BY 1;
SELECT has_schema_privilege('public', 'ai_limiter', 'USAGE') AS public_may_use_the_schema;
SELECT relname AS public_may_touch FROM pg_class
WHERE relnamespace = 'ai_limiter'::regnamespace AND relkind IN ('r', 'p', 'v')
  AND has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');

-- Every function in SQL pins its search_path, and one runs with its owner's rights: it keeps the audit.
SELECT proname AS without_search_path FROM pg_proc JOIN pg_language l ON l.oid = prolang
WHERE pronamespace = 'ai_limiter'::regnamespace AND lanname IN ('sql', 'plpgsql')
  AND NOT coalesce(proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false);
SELECT proname AS security_definer FROM pg_proc
WHERE pronamespace = 'ai_limiter'::regnamespace AND prosecdef;

-- Supabase's roles got their part when the extension was made: a user asks, the server acts.
SELECT r AS role,
       has_function_privilege(r, 'check_ai_limit'::regproc, 'EXECUTE') AS asks,
       has_function_privilege(r, 'get_ai_cost'::regproc, 'EXECUTE') AS reads,
       has_function_privilege(r, 'reserve_ai_usage'::regproc, 'EXECUTE') AS reserves,
       has_table_privilege(r, 'ai_reservations', 'INSERT') AS acts_for_anyone
FROM unnest('{anon,authenticated,service_role}'::text[]) r;

-- Shipped rules can be changed and disabled, not deleted; one's own can be.
UPDATE ai_limits SET amount = 2 WHERE name = 'global_daily_cost';
UPDATE ai_limits SET enabled = false WHERE name = 'global_monthly_cost';
DELETE FROM ai_limits WHERE name = 'global_daily_cost';
INSERT INTO ai_limits (name, period, amount) VALUES ('mine', 'day', 5);
DELETE FROM ai_limits WHERE name = 'mine';

-- A row of a shipped name does not take the shipped one's place: two that could govern one call are
-- refused. Rows that are more specific override it.
INSERT INTO ai_limits (name, period, amount, model) VALUES ('global_daily_cost', 'day', 5, 'gpt-4o');
INSERT INTO ai_limits (name, period, amount, tenant_id) VALUES ('global_daily_cost', 'day', 5, :'acme');

-- A restore inserts the rows that ship, as they were edited. Where they are untouched since they were
-- installed, that edits them; once edited they stay.
INSERT INTO ai_limits (id, name, tier, per, metric, period, amount) VALUES (-3, 'user_daily_cost', 'free', '{user}', 'cost_usd', 'day', 0.50);
INSERT INTO ai_tiers (tier, allowed_models) VALUES ('free', '{gpt-4o-mini}');
SELECT id, amount, shipped FROM ai_limits WHERE tier = 'free' ORDER BY id;
SELECT tier, allowed_models, shipped FROM ai_tiers ORDER BY tier;
SELECT refused($$ INSERT INTO ai_limits (id, name, tier, per, metric, period, amount) VALUES (-3, 'user_daily_cost', 'free', '{user}', 'cost_usd', 'day', 99) $$);
SELECT amount FROM ai_limits WHERE id = -3;

-- The audit knows all of it. Installing is no change.
SELECT operation, coalesce(new_row, old_row) ->> 'name' AS name, old_row ->> 'amount' AS old_amount,
       new_row ->> 'amount' AS new_amount, new_row ->> 'enabled' AS enabled, actor
FROM ai_config_changes WHERE table_name = 'ai_limits' ORDER BY changed_at;
UPDATE ai_config_changes SET actor = 'nobody';
DELETE FROM ai_config_changes;
TRUNCATE ai_config_changes;

-- Dropping the extension takes its schema and the months of the ledger along.
DROP EXTENSION ai_limiter CASCADE;
SELECT count(*) AS left_over FROM pg_class WHERE relname LIKE 'ai\_%';
SELECT to_regnamespace('ai_limiter') AS schema;

-- Somebody else's schema of this name is not moved into.
CREATE SCHEMA ai_limiter;
CREATE EXTENSION ai_limiter;
