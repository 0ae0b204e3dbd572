-- The settings: names, defaults, who may set them.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- The library brings them along: it is loaded with the first call, or by shared_preload_libraries.
SELECT allowed FROM check_ai_limit();
SELECT name, boot_val AS "default", unit, vartype AS type, enumvals AS "values", context
FROM pg_settings WHERE name LIKE 'ai\_limiter.%' ORDER BY name;
SELECT name AS not_at_its_default FROM pg_settings WHERE name LIKE 'ai\_limiter.%' AND setting IS DISTINCT FROM boot_val;

-- All of them are described.
SELECT name, short_desc FROM pg_settings WHERE name LIKE 'ai\_limiter.%' ORDER BY name;

-- A superuser sets them, for a session, a role or a database.
SET ai_limiter.reservation_ttl = '5 min';
SHOW ai_limiter.reservation_ttl;
SELECT reservation_id AS hold FROM reserve_ai_usage(cost_usd => 1) \gset
SELECT expires_at - created_at AS lives FROM ai_reservations;
RESET ai_limiter.reservation_ttl;
SET ai_limiter.max_reservation_ttl = '2 min';
SELECT refused($$ SELECT reserve_ai_usage(cost_usd => 1, ttl => '3 minutes') $$);
SELECT reservation_id AS hold FROM reserve_ai_usage(cost_usd => 1) \gset
SELECT expires_at - created_at AS lives FROM ai_reservations WHERE id = :'hold';
RESET ai_limiter.max_reservation_ttl;
SET ai_limiter.default_output_tokens = 10;
INSERT INTO ai_prices (model, output_usd_per_million_tokens) VALUES ('m', 1000000);
SELECT (estimate_ai_cost('m')).cost_usd AS ten_tokens;
RESET ai_limiter.default_output_tokens;

-- Nobody else sets any of them, also not a role that acts as the server, nor through set_config().
SET ROLE authenticated;
SELECT name, refused(format('SET %s = %L', name, setting)) AS refused FROM pg_settings WHERE name LIKE 'ai\_limiter.%' ORDER BY name;
SELECT refused($$ SELECT set_config('ai_limiter.mode', 'off', true) $$);
RESET ROLE;
SET ROLE service_role;
SELECT refused($$ SET ai_limiter.mode = 'off' $$);
SELECT refused($$ ALTER ROLE service_role SET ai_limiter.mode = 'off' $$);
RESET ROLE;

-- Unless a superuser grants it.
GRANT SET ON PARAMETER ai_limiter.mode TO service_role;
SET ROLE service_role;
SET ai_limiter.mode = 'shadow';
SHOW ai_limiter.mode;
RESET ai_limiter.mode;
RESET ROLE;
REVOKE SET ON PARAMETER ai_limiter.mode FROM service_role;

-- A misspelt name is refused, so that nobody waits for its effect.
SET ai_limiter.modes = 'shadow';
SET ai_limiter.retention_of_everything = '1 day';

-- A placeholder that was written before the library was loaded is not believed: this session is new.
\c
SET ROLE authenticated;
SET ai_limiter.mode = 'off';
SET client_min_messages = 'error';
SELECT allowed FROM ai_limiter.check_ai_limit(cost_usd => 5000);
SHOW ai_limiter.mode;
RESET ROLE;
