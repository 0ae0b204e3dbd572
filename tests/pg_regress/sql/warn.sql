-- action = 'warn': a limit that tells and does not stop.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

UPDATE ai_limits SET enabled = false;
INSERT INTO ai_limits (name, period, amount, per, action)
VALUES ('soft', 'total', 1, '{user}', 'warn'), ('hard', 'total', 3, '{user}', 'deny');

-- Below it: nothing to say.
SELECT allowed, reason, limit_name, violations FROM check_ai_limit(user_id => :'alice', cost_usd => 1);

-- Beyond it: admitted, with the violation listed.
SELECT allowed, reason, v ->> 'limit_name' AS limit_name, v ->> 'action' AS action, v ->> 'remaining' AS remaining, retry_after
FROM reserve_ai_usage(user_id => :'alice', cost_usd => 1.50), jsonb_array_elements(violations) v;
SELECT allowed, reason, limit_name, held, remaining FROM check_ai_limit(user_id => :'alice', cost_usd => 1);

-- Beyond both: denied by the hard one, which is the one named.
SELECT allowed, reason, limit_name, jsonb_path_query_array(violations, '$[*].limit_name') AS violations, jsonb_path_query_array(violations, '$[*].action') AS actions
FROM check_ai_limit(user_id => :'alice', cost_usd => 2);

-- Turning it into a cap, and back, waits for nobody and forgets nothing.
UPDATE ai_limits SET action = 'deny' WHERE name = 'soft';
SELECT allowed, limit_name, held FROM check_ai_limit(user_id => :'alice', cost_usd => 1);
UPDATE ai_limits SET action = 'warn' WHERE name = 'soft';
SELECT allowed, limit_name, held FROM check_ai_limit(user_id => :'alice', cost_usd => 1);

-- It is among the limits and the alerts of the user.
SELECT limit_name, action, used, held, amount, remaining FROM get_ai_limits(:'alice');
CALL spend(user_id => :'alice', cost_usd => 0.90);
SELECT severity, limit_name, used, amount, ratio FROM get_ai_cost_alerts();
