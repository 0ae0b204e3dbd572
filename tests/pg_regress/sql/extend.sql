-- extend_ai_reservation(): a long stream asks for more while it runs.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00);

-- A stream begins with 10,000 output tokens: ten cents.
SELECT reservation_id AS hold, allowed, estimated_cost_usd
FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', output_tokens => 10000) \gset
SELECT allowed, reason, limit_name, used, held, remaining, estimated_cost_usd, reservation_id = :'hold' AS same_hold
FROM extend_ai_reservation(:'hold', output_tokens => 60000);
SELECT output_tokens, trim_scale(cost_usd) AS cost_usd FROM ai_reservations;

-- The number is the new total. held in the verdict is without this hold: nothing is counted twice.
SELECT held FROM check_ai_limit(user_id => :'alice', cost_usd => 0);

-- No: it would be 1.20 of a dollar. The hold stays as it was, and the stream can end in peace.
CREATE TEMP TABLE before AS SELECT * FROM ai_reservations;
SELECT allowed, reason, limit_name, used, held, amount, remaining, estimated_cost_usd, reservation_id
FROM extend_ai_reservation(:'hold', output_tokens => 120000, ttl => '1 hour');
SELECT count(*) AS unchanged FROM (TABLE ai_reservations INTERSECT TABLE before) r;

-- To the last cent it may.
SELECT allowed, estimated_cost_usd FROM extend_ai_reservation(:'hold', output_tokens => 100000);

-- It never lowers, in tokens or in money.
SELECT allowed, estimated_cost_usd FROM extend_ai_reservation(:'hold', output_tokens => 5);
SELECT allowed, estimated_cost_usd FROM extend_ai_reservation(:'hold', cost_usd => 0.01);
SELECT output_tokens, trim_scale(cost_usd) AS cost_usd FROM ai_reservations;

-- Without numbers it only prolongs, from now; never less than it had.
SELECT allowed FROM extend_ai_reservation(:'hold', ttl => '2 hours');
SELECT allowed FROM extend_ai_reservation(:'hold', ttl => '1 second');
SELECT expires_at - created_at BETWEEN '2 hours' AND '2 hours 1 minute' AS two_hours FROM ai_reservations;
SELECT * FROM books;
SELECT cost_usd, estimated_cost_usd FROM settle_ai_usage(:'hold', usage => '{"input_tokens": 0, "output_tokens": 90000}');

-- A hold of a given cost is raised to a new cost.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', cost_usd => 0.30) \gset
SELECT allowed, estimated_cost_usd FROM extend_ai_reservation(:'hold', cost_usd => 0.90);
SELECT allowed, limit_name, remaining FROM extend_ai_reservation(:'hold', cost_usd => 1.01);
SELECT held_usd FROM books;

-- The cap of a run holds for extensions too.
SELECT reservation_id AS run_hold
FROM reserve_ai_usage(user_id => :'carol', run_id => 'agent', run_limit_usd => 0.50, cost_usd => 0.40) \gset
SELECT allowed, limit_name, amount FROM extend_ai_reservation(:'run_hold', cost_usd => 0.60);
SELECT allowed, limit_name, amount FROM extend_ai_reservation(:'run_hold', cost_usd => 0.50);

-- An expired hold is admitted anew: its budget may have gone to others meanwhile.
UPDATE ai_reservations SET expires_at = clock_timestamp() WHERE id = :'hold';
SELECT reservation_id AS other FROM reserve_ai_usage(user_id => :'bob', cost_usd => 0.70) \gset
SELECT allowed, limit_name, remaining FROM extend_ai_reservation(:'hold');
SELECT release_ai_usage(:'other') AS released;
SELECT allowed, limit_name, remaining FROM extend_ai_reservation(:'hold');
SELECT state, expires_at > now() AS open_again FROM ai_reservations WHERE id = :'hold';

-- Whatever it names, an extension is judged by what it will hold, never by less than it held before.
SELECT reservation_id AS costly FROM reserve_ai_usage(:'alice', :'acme', model => 'gpt-4o', cost_usd => 0.80) \gset
UPDATE ai_reservations SET expires_at = clock_timestamp() WHERE id = :'costly';
SELECT reservation_id AS other FROM reserve_ai_usage(:'alice', :'acme', cost_usd => 0.70) \gset
SELECT allowed, limit_name, remaining, estimated_cost_usd FROM extend_ai_reservation(:'costly', output_tokens => 1000);
SELECT release_ai_usage(:'other') AS released;
SELECT allowed, estimated_cost_usd FROM extend_ai_reservation(:'costly', output_tokens => 1000);
SELECT held, remaining FROM get_ai_limits(:'alice', :'acme') WHERE limit_name = 'user_daily_cost';
SELECT release_ai_usage(:'costly') AS released;

-- Released or settled, there is nothing to extend.
SELECT release_ai_usage(:'hold') AS released;
SELECT regexp_replace(refused(format('SELECT ai_limiter.extend_ai_reservation(%L)', :'hold')), '[0-9a-f-]{36}', '(the id)') AS released;
SELECT settle_ai_usage(:'run_hold') IS NOT NULL AS settled;
SELECT regexp_replace(refused(format('SELECT ai_limiter.extend_ai_reservation(%L)', :'run_hold')), '[0-9a-f-]{36}', '(the id)') AS settled;
SELECT * FROM books;
