-- import_ai_usage(): what it takes, how it maps, what it says.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- A table as the ledger has its names: nothing to map. The id is of any type that has an order.
CREATE TABLE public.same (id uuid PRIMARY KEY, created_at timestamptz, user_id uuid, tenant_id uuid, provider text,
    model text, feature text, api_key_id text, run_id text, attributes jsonb, requests int, input_tokens bigint,
    output_tokens bigint, cost_usd numeric, unrelated point);
INSERT INTO public.same VALUES ('00000000-0000-0000-0000-000000000001', '2025-02-03 04:05:06.789+00', :'alice', :'acme',
    'OpenAI', 'openai/gpt-4o-2024-08-06', 'chat', 'key-1', 'run-1', '{"team": "core"}', 3, 100, 20, 0.123456789012, NULL);
SELECT imported, refused, is_complete FROM import_ai_usage('public.same');
SELECT created_at, named(user_id) AS who, named(tenant_id) AS tenant, tier, provider, model, feature, api_key_id, run_id,
       attributes, requests, input_tokens, output_tokens, cost_usd, price_source FROM ai_usage;

-- Other names, constants, a usage object, floats, times without a zone; three rows a call.
CREATE TABLE public.log (key text, at timestamp, app text, body jsonb, price float8);
INSERT INTO public.log
SELECT 'k' || n, '2025-02-03 12:00:00', 'search', '{"prompt_tokens": 1000, "completion_tokens": 500}', CASE WHEN n <> 2 THEN 1e-05 END
FROM generate_series(1, 5) n;
INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens) VALUES ('gpt-4o', 2.5, 10);
SET timezone = 'Europe/Berlin';
\set map '{"id": "key", "created_at": "at", "feature": "app", "usage": "body", "cost_usd": "price", "model": {"value": "gpt-4o"}, "attributes": {"value": {"from": "log"}}}'
SELECT imported, refused, is_complete FROM import_ai_usage('public.log', :'map', batch_rows => 3);
SELECT imported, refused, is_complete FROM import_ai_usage('public.log', :'map', batch_rows => 3);
SELECT imported, refused, is_complete FROM import_ai_usage('public.log', :'map', batch_rows => 3);
SET timezone = 'UTC';
SELECT created_at, feature, attributes, input_tokens, output_tokens, trim_scale(cost_usd) AS cost_usd, price_source, count(*)
FROM ai_usage WHERE feature = 'search' GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY cost_usd;
SELECT source, last_key, imported, refused, is_complete, finished_at IS NOT NULL AS is_finished, started_by
FROM ai_usage_imports ORDER BY id;

-- A view, and a column that is left out.
CREATE VIEW public.some_of_it AS SELECT row_number() OVER (ORDER BY key) AS id, at AT TIME ZONE 'UTC' AS created_at, price AS cost_usd,
    repeat('x', 300) AS feature FROM public.log WHERE price IS NOT NULL;
SELECT imported, refused, is_complete FROM import_ai_usage('public.some_of_it', '{"feature": null}');

-- What has no meaning.
SELECT refused($$SELECT import_ai_usage(NULL)$$);
SELECT refused($$SELECT import_ai_usage('public.log', NULL)$$);
SELECT refused($$SELECT import_ai_usage('public.log', '[]')$$);
SELECT refused($$SELECT import_ai_usage('public.log')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "key"}')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "key", "created_at": "when"}')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "key", "created_at": "at", "modell": "app"}')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "key", "created_at": "at", "model": ["app"]}')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "price", "created_at": "at"}')$$);
SELECT refused($$SELECT import_ai_usage('public.log', '{"id": "key", "created_at": "at"}')$$);
CREATE TABLE public.twice AS SELECT * FROM public.log;
SELECT refused($$SELECT import_ai_usage('public.twice', '{"id": "app", "created_at": "at", "cost_usd": "price"}')$$);
INSERT INTO public.twice DEFAULT VALUES;
SELECT refused($$SELECT import_ai_usage('public.twice', '{"id": "key", "created_at": "at", "cost_usd": "price"}')$$);
DELETE FROM public.twice WHERE key IS NULL;

-- What is refused says why, and goes with its import.
SELECT imported, refused, is_complete FROM import_ai_usage('public.twice', '{"id": "key", "created_at": "at"}');
SELECT source_key, sqlstate, reason FROM ai_usage_import_refusals ORDER BY source_key;
DELETE FROM ai_usage_imports WHERE source = 'public.twice';
SELECT imported, refused, is_complete FROM import_ai_usage('public.twice', '{"id": "key", "created_at": "at", "cost_usd": "price"}');
SELECT source_key, sqlstate, reason FROM ai_usage_import_refusals ORDER BY source_key;
SELECT refused($$SELECT import_ai_usage('public.same', batch_rows => 0)$$);
SELECT refused($$SELECT import_ai_usage('ai_limiter.ai_usage')$$);
SELECT refused($$SELECT import_ai_usage('public.same_pkey')$$);

-- Servers only, with their own rights on the source.
SET ROLE authenticated;
SELECT import_ai_usage('public.same');
SET ROLE service_role;
SELECT import_ai_usage('public.same');
DELETE FROM ai_usage_imports WHERE source = 'public.same';
SELECT source_key FROM ai_usage_import_refusals;
RESET ROLE;
SELECT * FROM books;
