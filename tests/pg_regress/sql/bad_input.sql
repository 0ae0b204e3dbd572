-- Bad input: each gets an error that says what is wrong, and nothing is held, charged or lost.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all
-- Each statement is followed by its error: SQLSTATE, message, and DETAIL and HINT where there is more to say.
CREATE FUNCTION public.errors(VARIADIC statements text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s || E'\n' || refused(CASE WHEN s ~ '^[A-Z]' THEN s ELSE 'SELECT ' || s END) FROM unnest(statements) WITH ORDINALITY u (s, n) ORDER BY n
$$;
INSERT INTO ai_prices (model, usd_per_request) VALUES ('m', 0.01);
SELECT reservation_id AS hold FROM reserve_ai_usage(:'alice', cost_usd => 0.50) \gset
CALL spend(:'alice', cost_usd => 0.25);
SELECT * FROM books;
\pset tuples_only on
\pset format unaligned

-- Money: negative, not a number, infinite, absurdly large.
SELECT errors($$check_ai_limit(cost_usd => -0.01)$$, $$check_ai_limit(cost_usd => 'NaN')$$, $$check_ai_limit(cost_usd => 'Infinity')$$,
    $$check_ai_limit(cost_usd => '-Infinity')$$, $$check_ai_limit(cost_usd => 100000000)$$, $$check_ai_limit(cost_usd => 1e200)$$);
SELECT errors($$reserve_ai_usage(cost_usd => -0.01)$$, $$reserve_ai_usage(cost_usd => 'NaN')$$,
    $$reserve_ai_usage(cost_usd => 1e8)$$, $$reserve_ai_usage(cost_usd => 99999999.9999999999996)$$,
    $$reserve_ai_usage(cost_usd => 1, run_id => 'r', run_limit_usd => -1)$$, $$reserve_ai_usage(cost_usd => 1, run_id => 'r', run_limit_usd => 'NaN')$$,
    $$reserve_ai_usage(cost_usd => 1, run_limit_usd => 1)$$);
SELECT errors($$record_ai_usage(cost_usd => -0.01)$$, $$record_ai_usage(cost_usd => 'Infinity')$$, $$record_ai_usage(cost_usd => 1e8)$$);
SELECT errors(format($$settle_ai_usage(%L, cost_usd => -1)$$, id), format($$settle_ai_usage(%L, cost_usd => 'NaN')$$, id), format($$settle_ai_usage(%L, cost_usd => 1e30)$$, id),
    format($$extend_ai_reservation(%L, cost_usd => 'NaN')$$, id), format($$extend_ai_reservation(%L, output_tokens => -1)$$, id))
FROM (SELECT '00000000-0000-7000-8000-000000000000' AS id) any_id;

-- Tokens and requests.
SELECT errors($$check_ai_limit(model => 'm', input_tokens => -1)$$, $$check_ai_limit(model => 'm', output_tokens => -1)$$,
    $$check_ai_limit(model => 'm', input_tokens => 1000000000001)$$, $$check_ai_limit(model => 'm', output_tokens => 9223372036854775807)$$,
    $$reserve_ai_usage(model => 'm', requests => 0)$$, $$reserve_ai_usage(model => 'm', requests => -1)$$, $$reserve_ai_usage(model => 'm', requests => NULL)$$,
    $$record_ai_usage(model => 'm', input_tokens => -1)$$, $$record_ai_usage(model => 'm', cost_usd => 1, requests => 0)$$,
    $$estimate_ai_cost('m', input_tokens => -1)$$);

-- What a provider's usage object may not be.
SELECT errors($$record_ai_usage(model => 'm', usage => '[]')$$, $$record_ai_usage(model => 'm', usage => '"many"')$$,
    $$record_ai_usage(model => 'm', usage => '{"input_tokens": -5}')$$, $$record_ai_usage(model => 'm', usage => '{"input_tokens": "5"}')$$,
    $$record_ai_usage(model => 'm', usage => '{"output_tokens": 1.5}')$$, $$record_ai_usage(model => 'm', usage => '{"prompt_tokens": 1e30}')$$,
    $$record_ai_usage(model => 'm', usage => '{}')$$, $$estimate_ai_cost('m', usage => '7')$$);

-- Nothing to go by.
SELECT errors($$reserve_ai_usage()$$, $$reserve_ai_usage(model => '  ')$$, $$record_ai_usage()$$, $$record_ai_usage(model => 'm')$$,
    $$record_ai_usage(input_tokens => 5)$$, $$record_ai_usage(model => 'unheard-of', input_tokens => 5)$$, $$estimate_ai_cost()$$);

-- A null where a value is needed.
SELECT errors($$settle_ai_usage(NULL)$$, $$release_ai_usage(NULL)$$, $$extend_ai_reservation(NULL)$$, $$get_global_ai_cost(NULL)$$,
    $$get_ai_cost(group_by => '{NULL}')$$, $$suspend_ai(NULL)$$,
    $$INSERT INTO ai_limits (name, period, amount) VALUES (NULL, 'day', 1)$$, $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'day', NULL)$$,
    $$INSERT INTO ai_limits (name, period, amount, metric) VALUES ('x', 'day', 1, NULL)$$, $$INSERT INTO ai_limits (name, period, amount, per) VALUES ('x', 'day', 1, '{user,NULL}')$$);

-- Attributes are flat, have text values, and are at most sixteen; the texts of a call are short.
SELECT errors($$check_ai_limit(attributes => '{"team": {"name": "search"}}')$$, $$check_ai_limit(attributes => '{"team": 7}')$$,
    $$check_ai_limit(attributes => '{"team": ["a", "b"]}')$$, $$check_ai_limit(attributes => '{"team": null}')$$, $$check_ai_limit(attributes => '["team"]')$$,
    $$check_ai_limit(attributes => (SELECT jsonb_object_agg('key' || n, 'v') FROM generate_series(1, 17) n))$$,
    $$check_ai_limit(attributes => jsonb_build_object('team', repeat('x', 257)))$$,
    $$check_ai_limit(model => repeat('x', 257))$$, $$check_ai_limit(feature => repeat('x', 257))$$, $$check_ai_limit(run_id => repeat('x', 257))$$,
    $$reserve_ai_usage(cost_usd => 1, idempotency_key => repeat('x', 257))$$,
    $$INSERT INTO ai_limits (name, period, amount, attributes) VALUES ('x', 'day', 1, '{"team": {}}')$$);

-- A key instead of its identifier. The value is not repeated: messages end up in logs.
SELECT errors($$check_ai_limit(api_key_id => 'sk-proj-' || repeat('a1', 20))$$, $$reserve_ai_usage(cost_usd => 1, api_key_id => 'sk-ant-' || repeat('a1', 20))$$,
    $$record_ai_usage(cost_usd => 1, api_key_id => 'AIza' || repeat('a1', 20))$$, $$check_ai_limit(api_key_id => 'eyJ' || repeat('a1', 20))$$,
    $$check_ai_limit(api_key_id => 'Bearer ' || repeat('a1', 20))$$, $$check_ai_limit(api_key_id => repeat('a1', 20))$$,
    $$suspend_ai('api_key_id', 'sk-proj-' || repeat('a1', 20))$$,
    $$INSERT INTO ai_limits (name, period, amount, api_key_id) VALUES ('x', 'day', 1, 'sk-proj-' || repeat('a1', 20))$$);
SELECT allowed FROM unnest('{key-1,production,sk-1,0190c5f2-7d5e-7c3a-9f6b-2f1f3c4d5e6f}'::text[]) k, check_ai_limit(api_key_id => k);

-- A rule that makes no sense is refused when it is written.
SELECT errors($$INSERT INTO ai_limits (name, period, amount, metric) VALUES ('x', 'day', 1, 'euros')$$, $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'fortnight', 1)$$,
    $$INSERT INTO ai_limits (name, amount) VALUES ('x', 1)$$, $$INSERT INTO ai_limits (name, period, rolling, amount) VALUES ('x', 'day', '1 day', 1)$$,
    $$INSERT INTO ai_limits (name, rolling, amount) VALUES ('x', '1 month', 1)$$, $$INSERT INTO ai_limits (name, rolling, amount) VALUES ('x', '-1 day', 1)$$,
    $$INSERT INTO ai_limits (name, rolling, amount) VALUES ('x', '0.5 seconds', 1)$$, $$INSERT INTO ai_limits (name, rolling, amount) VALUES ('x', '400 days', 1)$$,
    $$INSERT INTO ai_limits (name, period, amount, metric) VALUES ('x', 'day', 1, 'concurrent')$$,
    $$INSERT INTO ai_limits (name, period, amount, per) VALUES ('x', 'day', 1, '{planet}')$$, $$INSERT INTO ai_limits (name, period, amount, per) VALUES ('x', 'day', 1, '{attribute:}')$$,
    $$INSERT INTO ai_limits (name, period, amount, per) VALUES ('x', 'day', 1, '{{user},{model}}')$$,
    $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'day', -1)$$, $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'day', 'NaN')$$,
    $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'day', 'Infinity')$$, $$INSERT INTO ai_limits (name, period, amount) VALUES ('x', 'day', 1e40)$$,
    $$INSERT INTO ai_limits (name, period, amount, action) VALUES ('x', 'day', 1, 'shout')$$, $$INSERT INTO ai_limits (name, period, amount, alert_at) VALUES ('x', 'day', 1, '{0}')$$,
    $$INSERT INTO ai_limits (name, period, amount, alert_at) VALUES ('x', 'day', 1, '{80}'), ('y', 'day', 1, '{101}')$$, $$INSERT INTO ai_limits (name, period, amount, alert_at) VALUES ('x', 'day', 1, '{NaN}')$$,
    $$INSERT INTO ai_limits (name, period, amount, managed_by) VALUES ('x', 'day', 1, 'tenant')$$, $$INSERT INTO ai_limits (name, period, amount, managed_by) VALUES ('x', 'day', 1, 'nobody')$$,
    $$INSERT INTO ai_limits (name, period, amount, tier) VALUES ('x', 'day', 1, 'platinum')$$, $$INSERT INTO ai_limits (name, period, amount) VALUES (' ', 'day', 1)$$,
    $$INSERT INTO ai_limits (id, name, period, amount) VALUES (0, 'x', 'day', 1)$$, $$UPDATE ai_limits SET id = 5 WHERE id = -1$$, $$UPDATE ai_limits SET per = '{planet}' WHERE id = -1$$);

-- Configuration is changed row by row, so that each change is in the audit.
SELECT errors($$TRUNCATE ai_limits$$, $$TRUNCATE ai_prices$$, $$TRUNCATE ai_tiers CASCADE$$, $$TRUNCATE ai_tenants$$, $$TRUNCATE ai_accounts$$, $$TRUNCATE ai_suspensions$$);

-- Zones, roles, tiers. An abbreviation is no zone: what it means is a setting of the session.
SELECT errors($$INSERT INTO ai_tenants (tenant_id, timezone) VALUES (gen_random_uuid(), 'EST')$$, $$INSERT INTO ai_tenants (tenant_id, timezone) VALUES (gen_random_uuid(), 'Mars/Olympus')$$, $$UPDATE ai_tenants SET timezone = ''$$,
    $$INSERT INTO ai_accounts (user_id, timezone) VALUES (gen_random_uuid(), 'Mars/Olympus')$$,
    $$INSERT INTO ai_accounts (user_id, role) VALUES (gen_random_uuid(), 'emperor')$$, $$INSERT INTO ai_accounts (user_id, tier) VALUES (gen_random_uuid(), 'platinum')$$,
    $$ai_window('day', now(), 'Mars/Olympus')$$, $$ai_window('fortnight')$$, $$get_ai_cost(timezone => 'Mars/Olympus')$$);

-- A default tier that does not exist would lift the limits of everybody who has no tier of their own.
SET ai_limiter.default_tier = 'platinum';
SELECT errors($$check_ai_limit(cost_usd => 0)$$, $$reserve_ai_usage('a11ce000-0000-0000-0000-000000000000', cost_usd => 1)$$);
RESET ai_limiter.default_tier;

-- Times.
SELECT errors($$record_ai_usage(cost_usd => 1, created_at => now() + interval '1 hour')$$, $$record_ai_usage(cost_usd => 1, created_at => 'infinity')$$,
    $$record_ai_usage(cost_usd => 1, created_at => '-infinity')$$, $$record_ai_usage(cost_usd => 1, created_at => '2019-12-31')$$, $$record_ai_usage(cost_usd => 1, created_at => '0001-01-01 BC')$$,
    $$reserve_ai_usage(cost_usd => 1, ttl => '0')$$, $$reserve_ai_usage(cost_usd => 1, ttl => '-1 minute')$$, $$reserve_ai_usage(cost_usd => 1, ttl => '8 days')$$,
    $$reserve_ai_usage(cost_usd => 1, ttl => '1 month')$$, $$get_user_daily_ai_usage(day => 'infinity')$$, $$get_user_daily_ai_usage(day => '10000-01-01')$$,
    $$ai_window('day', 'infinity')$$, $$ai_window('month', '-infinity')$$, $$suspend_ai('all', until => '-infinity')$$);

-- Reports.
SELECT errors($$get_ai_cost(group_by => '{planet}')$$, $$get_ai_cost(group_by => '{attribute:}')$$, $$get_global_ai_cost('week')$$);

-- Reservations that do not exist.
SELECT errors($$settle_ai_usage('00000000-0000-7000-8000-000000000000')$$, $$release_ai_usage('00000000-0000-7000-8000-000000000000')$$,
    $$extend_ai_reservation('00000000-0000-7000-8000-000000000000')$$, $$settle_ai_usage('ffffffff-ffff-ffff-ffff-ffffffffffff')$$, $$settle_ai_usage('not-an-id')$$);

-- Somebody else's looks the same as none, where users may settle at all, and is left as it was.
GRANT EXECUTE ON FUNCTION settle_ai_usage, release_ai_usage, extend_ai_reservation TO authenticated;
CALL log_in(:'bob', role => 'tenant_admin');
SET ROLE authenticated;
SELECT replace(errors(format($$settle_ai_usage(%L, cost_usd => 0)$$, :'hold'), format($$release_ai_usage(%L)$$, :'hold'), format($$extend_ai_reservation(%L)$$, :'hold')), :'hold', '(the id)');
RESET ROLE;
CALL log_in(:'alice', :'acme');
SET ROLE authenticated;
SELECT replace(errors(format($$settle_ai_usage(%L, cost_usd => 0)$$, :'hold'), format($$release_ai_usage(%L)$$, :'hold')), :'hold', '(the id)');
RESET ROLE;

-- Another account's numbers, and another user's usage.
CALL log_in(:'bob');
SET ROLE authenticated;
SELECT errors($$check_ai_limit('a11ce000-0000-0000-0000-000000000000')$$, $$check_ai_limit('12345678-0000-0000-0000-000000000000')$$, $$get_ai_limits('a11ce000-0000-0000-0000-000000000000')$$,
    $$get_user_daily_ai_usage('a11ce000-0000-0000-0000-000000000000')$$, $$check_ai_limit(tenant_id => 'acacacac-0000-0000-0000-000000000000')$$, $$explain_ai_limit()$$, $$get_global_ai_cost()$$, $$reserve_ai_usage(cost_usd => 1)$$);
RESET ROLE;

-- Claims that are none. No part of them is repeated.
CREATE FUNCTION public.with_claims(claims text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.jwt.claims', claims, false);
    RETURN claims || E'\n' || refused('SELECT check_ai_limit(cost_usd => 0)');
END
$$;
SELECT with_claims(c) FROM unnest(ARRAY['{', 'null', '[]', '"sub"', '{"sub": "alice"}', '{"sub": 7}', '{"app_metadata": {"tenant_id": "acme"}}',
    '{"app_metadata": {"role": "emperor"}}', '{"app_metadata": {"role": 1}}']) c;
-- Claims that say nothing are those of nobody; user_metadata, which users edit themselves, is not read.
SELECT with_claims(c) FROM unnest(ARRAY['{}', '{"sub": null}', '{"sub": "", "app_metadata": "none", "user_metadata": {"role": "platform_admin"}}']) c;
CALL log_out();

-- An idempotency key of other arguments.
SELECT record_ai_usage(:'carol', cost_usd => 0.10, idempotency_key => 'k') IS NOT NULL;
SELECT errors($$record_ai_usage('ca501000-0000-0000-0000-000000000000', cost_usd => 0.11, idempotency_key => 'k')$$);

-- Settings.
SELECT regexp_replace(e, '^([^\n]*\n.{5}).*$', '\1') FROM errors($$SET ai_limiter.mode = 'maybe'$$, $$SET ai_limiter.reservation_ttl = '-1s'$$,
    $$SET ai_limiter.default_output_tokens = -1$$, $$SET ai_limiter.on_error = 'ignore'$$, $$SET ai_limiter.modus = 'off'$$) e;

-- After all this: the hold and the charge from the beginning, the charge with the key, the rules that
-- ship, and nothing else.
\pset tuples_only off
\pset format aligned
SELECT * FROM books;
SELECT count(*) FILTER (WHERE id < 0) AS shipped, count(*) FILTER (WHERE id > 0) AS others FROM ai_limits;
SELECT (SELECT count(*) FROM ai_suspensions) AS suspensions, (SELECT count(*) FROM ai_denials) AS denials,
       (SELECT count(*) FROM ai_run_limits) AS run_limits, (SELECT count(*) FROM ai_idempotency) AS keys;
