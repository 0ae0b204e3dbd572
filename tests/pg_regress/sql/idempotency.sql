-- idempotency_key: sent again, a call is charged once and answered as the first time.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- The same call, three times: one hold, and word for word one answer.
CREATE TEMP TABLE answers AS
SELECT n, (reserve_ai_usage(user_id => :'alice', cost_usd => 0.40, feature => 'chat', idempotency_key => 'order-1')).*
FROM generate_series(1, 3) n;
SELECT count(*) AS calls, count(DISTINCT reservation_id) AS holds,
       count(DISTINCT (allowed, reason, limit_name, used, held, remaining, resets_at, retry_after, violations, details)) AS answers FROM answers;
SELECT allowed, held, remaining FROM answers;
SELECT * FROM books;

-- Also after it was settled, and from another place of the code.
SELECT settle_ai_usage(reservation_id) IS NOT NULL AS settled FROM answers WHERE n = 1;
SELECT r.reservation_id = a.reservation_id AS same_hold, r.held, r.remaining
FROM answers a, reserve_ai_usage(:'alice', idempotency_key => 'order-1', feature => 'chat', cost_usd => 0.4) r WHERE n = 1;
SELECT * FROM books;

-- With other arguments it is a mistake, whatever differs.
SELECT refused($$ SELECT reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.41, feature => 'chat', idempotency_key => 'order-1') $$);
SELECT what, left(refused('SELECT ' || call), 5) AS sqlstate
FROM (VALUES ('the user', $$reserve_ai_usage('b0b00000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', idempotency_key => 'order-1')$$),
             ('the feature', $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, idempotency_key => 'order-1')$$),
             ('the tokens', $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', input_tokens => 1, idempotency_key => 'order-1')$$),
             ('the requests', $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', requests => 2, idempotency_key => 'order-1')$$),
             ('the ttl', $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', ttl => '1 minute', idempotency_key => 'order-1')$$),
             ('the attributes', $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', attributes => '{"a": "b"}', idempotency_key => 'order-1')$$),
             ('the function', $$record_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 0.40, feature => 'chat', idempotency_key => 'order-1')$$)) c (what, call);

-- Keys of tenants do not meet.
SELECT allowed, reservation_id NOT IN (SELECT reservation_id FROM answers) AS a_hold_of_its_own
FROM reserve_ai_usage(:'alice', :'acme', cost_usd => 0.40, feature => 'chat', idempotency_key => 'order-1');

-- A denied reserve held nothing, so its key is not remembered: it may be tried again when there is room.
SELECT allowed FROM reserve_ai_usage(:'alice', cost_usd => 0.70, idempotency_key => 'order-2');
UPDATE ai_limits SET amount = 5 WHERE name = 'user_daily_cost' AND tier = 'free';
SELECT allowed FROM reserve_ai_usage(:'alice', cost_usd => 0.70, idempotency_key => 'order-2');

-- record_ai_usage() books once.
SELECT count(DISTINCT record_ai_usage(:'bob', cost_usd => 0.10, idempotency_key => 'order-3')) AS ids FROM generate_series(1, 100);
SELECT count(*) AS charges, trim_scale(sum(cost_usd)) AS cost_usd FROM ai_usage WHERE user_id = :'bob';

-- What rolled back is forgotten with its key.
BEGIN;
SELECT record_ai_usage(:'bob', cost_usd => 9, idempotency_key => 'order-4') IS NOT NULL AS recorded;
ROLLBACK;
SELECT record_ai_usage(:'bob', cost_usd => 0.20, idempotency_key => 'order-4') IS NOT NULL AS recorded;
SELECT trim_scale(sum(cost_usd)) AS cost_usd FROM ai_usage WHERE user_id = :'bob';

-- Only hashes of the arguments are kept.
SELECT named(tenant_id) AS tenant, key, length(arguments_hash) AS bytes FROM ai_idempotency ORDER BY key, tenant;

-- A key lives for ai_limiter.idempotency_retention; later it is a new one.
UPDATE ai_idempotency SET created_at = now() - interval '8 days' WHERE key = 'order-3';
SELECT record_ai_usage(:'bob', cost_usd => 0.30, idempotency_key => 'order-3') IS NOT NULL AS recorded;
SELECT trim_scale(sum(cost_usd)) AS cost_usd FROM ai_usage WHERE user_id = :'bob';
SELECT drift FROM books;
