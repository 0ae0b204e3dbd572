-- ai_usage: an app that writes its usage into the ledger itself is counted too.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Such an app makes the months first; reserve and record do so by themselves.
SELECT refused($$ INSERT INTO ai_usage (cost_usd) VALUES (1) $$) LIKE '23514: no partition of relation "ai_usage" found for row%' AS no_month_yet;
SELECT ensure_ai_partitions() AS months_made;

-- The row is completed: tier, canonical model and provider.
INSERT INTO ai_accounts (tenant_id, user_id, tier) VALUES (:'acme', :'alice', 'pro');
INSERT INTO ai_usage (tenant_id, user_id, model, input_tokens, output_tokens, cost_usd)
VALUES (:'acme', :'alice', 'OpenAI/gpt-4o-2024-08-06', 100, 50, 0.25);
SELECT tier, provider, model, requests, price_source, recorded_at >= created_at AS recorded, id IS NOT NULL AS has_id FROM ai_usage;

-- It counts in every limit, at once and in its own transaction.
SELECT limit_name, used FROM get_ai_limits(:'alice', :'acme');
BEGIN;
INSERT INTO ai_usage (user_id, cost_usd) SELECT :'bob', 0.1 FROM generate_series(1, 10);
SELECT allowed, used FROM check_ai_limit(:'bob', cost_usd => 0.01);
SAVEPOINT a;
INSERT INTO ai_usage (user_id, cost_usd) VALUES (:'bob', 5);
ROLLBACK TO a;
SELECT allowed, used FROM check_ai_limit(:'bob', cost_usd => 0.01);
ROLLBACK;
SELECT allowed, used FROM check_ai_limit(:'bob', cost_usd => 0.01);

-- COPY is such an insert as well.
COPY ai_usage (user_id, cost_usd) FROM stdin;
b0b00000-0000-0000-0000-000000000000	0.75
b0b00000-0000-0000-0000-000000000000	0.125
\.
SELECT limit_name, used FROM get_ai_limits(:'bob') WHERE limit_name LIKE 'user%' ORDER BY 1;

-- A provider's id is an attribute or no part of it: rows with the same one do not vanish.
INSERT INTO ai_usage (user_id, cost_usd, attributes) SELECT :'carol', 0.01, '{"request_id": "req_1"}' FROM generate_series(1, 3);
SELECT used FROM get_ai_limits(:'carol') WHERE limit_name = 'user_daily_cost';

-- What is written stays: on the ledger and on each of its months.
SELECT tableoid::regclass AS month FROM ai_usage LIMIT 1 \gset
SELECT what, refused(what)
FROM (VALUES ('UPDATE ai_usage SET cost_usd = 0'), ('DELETE FROM ai_usage'), ('TRUNCATE ai_usage')) s (what);
SELECT split_part(what, ' ', 1) AS what_on_a_month, refused(what)
FROM (VALUES ('UPDATE ' || :'month' || ' SET cost_usd = 0'), ('DELETE FROM ' || :'month'), ('TRUNCATE ' || :'month')) s (what);
SELECT * FROM books;

-- What makes no sense is refused, and nothing of the statement is kept.
SELECT what, refused('INSERT INTO ai_usage (' || columns || ') VALUES (' || row || ')') AS refused
FROM (VALUES ('a negative cost', 'cost_usd', '-1'),
             ('no cost', 'feature', '''chat'''),
             ('not a number', 'cost_usd', '''NaN'''),
             ('too large', 'cost_usd', '100000000'),
             ('negative tokens', 'cost_usd, input_tokens', '1, -1'),
             ('absurd tokens', 'cost_usd, input_tokens, output_tokens', '1, 9223372036854775807, 9223372036854775807'),
             ('absurd requests', 'cost_usd, requests', '1, 9223372036854775807'),
             ('negative requests', 'cost_usd, requests', '1, -1'),
             ('the future', 'cost_usd, created_at', '1, now() + interval ''1 hour'''),
             ('nested attributes', 'cost_usd, attributes', '1, ''{"a": {"b": "c"}}'''),
             ('a secret', 'cost_usd, api_key_id', '1, ''sk-proj-abcdefghijklmnopqrstuvwxyz''')) s (what, columns, row);
SELECT * FROM books;

-- Holds are made by reserve_ai_usage() alone; a row that somebody writes there must at least make sense.
SELECT what, refused('INSERT INTO ai_reservations (id, tenant_id, tier, created_at, expires_at, requests, cost_usd, output_tokens) '
    || 'VALUES (gen_random_uuid(), gen_random_uuid(), ''free'', now(), now() + interval ''1 hour'', ' || row || ')') AS refused
FROM (VALUES ('a negative cost', '1, -5, 0'), ('not a number', '1, ''NaN'', 0'), ('no request', '0, 1, 0'), ('absurd tokens', '1, 1, 9223372036854775807')) s (what, row);
