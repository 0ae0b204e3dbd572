-- ai_limits: what a rule counts of each call (its metric).
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

UPDATE ai_limits SET enabled = false;
INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00);
INSERT INTO ai_limits (name, metric, period, amount, per)
VALUES ('cost', 'cost_usd', 'total', 1, '{user}'), ('calls', 'requests', 'total', 10, '{user}'),
       ('input', 'input_tokens', 'total', 1000, '{user}'), ('output', 'output_tokens', 'total', 1000, '{user}'),
       ('both', 'total_tokens', 'total', 1900, '{user}'), ('running', 'concurrent', 'total', 3, '{user}');

-- One settled call, one that is running.
CALL spend(user_id => :'alice', model => 'gpt-4o', input_tokens => 400, output_tokens => 200, requests => 2, cost_usd => 0.25);
SELECT reservation_id AS hold
FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 300, output_tokens => 100, requests => 2) \gset
SELECT limit_name, metric, used, held, amount, remaining FROM get_ai_limits(:'alice');

-- Each of them stops a call that is too large for it alone.
SELECT c.what, v.limit_name, v.remaining
FROM (VALUES ('cost', 0.75, 1, 1), ('input', 0, 301, 0), ('output', 0, 0, 701), ('both', 0, 300, 601))
         c (what, cost, input, output),
     check_ai_limit(user_id => :'alice', model => 'gpt-4o', cost_usd => cost, input_tokens => input, output_tokens => output) v;

-- And admits what just fits.
SELECT allowed, violations FROM check_ai_limit(user_id => :'alice', model => 'gpt-4o', cost_usd => 0.748, input_tokens => 300, output_tokens => 600);

-- Requests: six are left, and one of those that may run.
SELECT allowed, limit_name FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1, requests => 7);
SELECT allowed, limit_name FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1);

-- concurrent counts what is running now: three requests of two holds. It has no window, and frees
-- when a hold ends, however it ends.
SELECT allowed, limit_name, metric, used, held, amount, resets_at
FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1);
SELECT settle_ai_usage(:'hold') IS NOT NULL AS settled;
SELECT reservation_id AS hold, allowed FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1, requests => 2) \gset
\echo :allowed
SELECT allowed FROM check_ai_limit(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1);
SELECT release_ai_usage(:'hold') AS released;
SELECT reservation_id AS hold, allowed FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1, requests => 2) \gset
\echo :allowed
UPDATE ai_reservations SET expires_at = clock_timestamp() WHERE id = :'hold';
SELECT used, held FROM get_ai_limits(:'alice') WHERE metric = 'concurrent';
SELECT allowed FROM check_ai_limit(user_id => :'alice', model => 'gpt-4o', input_tokens => 1, output_tokens => 1);

-- Bob runs his own three.
SELECT n, (reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1, output_tokens => 1)).allowed
FROM generate_series(1, 5) n;

-- A call that does not say its input is asked to find some left, not taken for none.
SELECT allowed FROM check_ai_limit(user_id => :'carol', model => 'gpt-4o', output_tokens => 1);
CALL spend(user_id => :'carol', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1);
SELECT allowed, limit_name FROM check_ai_limit(user_id => :'carol', model => 'gpt-4o', output_tokens => 1);
SELECT allowed FROM check_ai_limit(user_id => :'carol', model => 'gpt-4o', input_tokens => 0, output_tokens => 1);
SELECT count(*) AS counters, sum(abs(drift)) AS drift FROM verify_ai_counters();
