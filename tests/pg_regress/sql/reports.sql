-- Reports: what is left, what was spent, what is near its limit, and why.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Three days of two tenants, around the night in which Berlin's clock went forward (30 March 2025).
INSERT INTO ai_tenants (tenant_id, name, timezone) VALUES (:'acme', 'Acme', 'Europe/Berlin'), (:'globex', 'Globex', 'America/New_York');
INSERT INTO ai_accounts (tenant_id, user_id, timezone) VALUES (:'acme', :'alice', NULL), (:'acme', :'bob', 'UTC'), (:'globex', :'carol', NULL);
INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00), ('claude-sonnet-4', 3.00, 15.00);
CALL spend(:'alice', 1.00, :'acme', 'openai/gpt-4o', feature => 'chat', attributes => '{"team": "search"}', input_tokens => 1000, output_tokens => 100, created_at => '2025-03-28 22:59:59+00');
CALL spend(:'alice', 2.00, :'acme', 'openai/gpt-4o', feature => 'chat', attributes => '{"team": "search"}', input_tokens => 2000, output_tokens => 200, created_at => '2025-03-28 23:00:00+00');
CALL spend(:'bob',   4.00, :'acme', 'anthropic/claude-sonnet-4', feature => 'mail', attributes => '{"team": "growth"}', input_tokens => 4000, output_tokens => 400, requests => 3, created_at => '2025-03-30 21:59:59+00');
CALL spend(:'alice', 8.00, :'acme', 'openai/gpt-4o', run_id => 'run-1', api_key_id => 'key-1', created_at => '2025-03-30 22:00:00+00');
CALL spend(:'carol', 16.00, :'globex', 'gpt-4o', created_at => '2025-03-30 22:00:00+00');

-- get_ai_cost(): by any dimensions. Days are of the zone that is asked for.
SELECT requests, input_tokens, output_tokens, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01');
SELECT named(dimensions ->> 'tenant') AS tenant, requests, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{tenant}');
SELECT dimensions ->> 'day' AS day, named(dimensions ->> 'tenant') AS tenant, requests, cost_usd
FROM get_ai_cost('2025-03-01', '2025-04-01', '{tenant,day}', 'Europe/Berlin');
SELECT dimensions ->> 'day' AS utc_day, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{day}', 'UTC');
SELECT dimensions ->> 'hour' AS hour, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{hour}', 'Europe/Berlin');
SELECT dimensions ->> 'week' AS week, dimensions ->> 'month' AS month, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{week,month}', 'Europe/Berlin');
SELECT named(dimensions::text) AS dimensions, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{user,provider,model}');
SELECT dimensions, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{attribute:team,feature}');
SELECT dimensions, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{tier,api_key_id,run}');

-- from counts, to does not. Without to, everything until now; without from, this month.
SELECT cost_usd FROM get_ai_cost('2025-03-28 23:00:00+00', '2025-03-30 22:00:00+00');
SELECT cost_usd FROM get_ai_cost('2025-03-30 22:00:00+00');
SELECT requests, cost_usd FROM get_ai_cost();
SELECT count(*) AS rows FROM get_ai_cost(group_by => '{day}');

-- as_of shows what was known then: what was booked later is left out, whenever it was made.
SELECT clock_timestamp() AS first_close \gset
CALL spend(:'bob', 32.00, :'acme', 'gpt-4o', created_at => '2025-03-29 12:00:00+00');
SELECT (SELECT cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', as_of => :'first_close')) AS first_close,
       (SELECT cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01')) AS now;

-- The cost views: all of the ledger, days in each tenant's own zone.
SELECT named(tenant_id) AS tenant, day, requests, input_tokens, output_tokens, trim_scale(cost_usd) AS cost_usd FROM ai_cost_by_day ORDER BY 1, 2;
SELECT named(tenant_id) AS tenant, provider, model, requests, trim_scale(cost_usd) AS cost_usd FROM ai_cost_by_model ORDER BY 1, 2, 3;
SELECT name, requests, input_tokens, output_tokens, trim_scale(cost_usd) AS cost_usd FROM ai_cost_by_tenant ORDER BY 1;
SELECT named(tenant_id) AS tenant, named(user_id) AS "user", requests, trim_scale(cost_usd) AS cost_usd FROM ai_cost_by_user ORDER BY 1, 2;
SELECT named(tenant_id) AS tenant, feature, requests, trim_scale(cost_usd) AS cost_usd FROM ai_cost_by_feature ORDER BY 1, 2;

-- get_user_daily_ai_usage(): a day of the account's zone; Berlin's 29 March began at 23:00 UTC.
SELECT * FROM get_user_daily_ai_usage(:'alice', '2025-03-28');
SELECT * FROM get_user_daily_ai_usage(:'alice', '2025-03-29');
SELECT * FROM get_user_daily_ai_usage(:'bob', '2025-03-30');
SELECT * FROM get_user_daily_ai_usage(:'alice', '2025-03-30');
SELECT count(*) AS today FROM get_user_daily_ai_usage(:'alice');

-- get_ai_limits(): what has alice left? Every rule that applies to her, whatever she calls next.
DELETE FROM ai_prices WHERE model LIKE 'claude%';
UPDATE ai_tenants SET timezone = :'noon' WHERE tenant_id = :'acme';
INSERT INTO ai_limits (name, period, amount, feature) VALUES ('images', 'month', 3, 'images');
CALL spend(:'alice', 0.50, :'acme', 'gpt-4o');
SELECT reservation_id AS hold FROM reserve_ai_usage(:'alice', :'acme', cost_usd => 0.30) \gset
SELECT limit_name, metric, period, used, held, amount, remaining, action,
       resets_at = upper(ai_window(period, now(), :'noon')) AS resets_at_the_end_of_period FROM get_ai_limits(:'alice', :'acme');

-- explain_ai_limit(): why does a rule apply to this call or not, with which counter and price?
SELECT limit_name, applies, explanation, named(counter) AS counter, CASE timezone WHEN :'noon' THEN 'noon' ELSE timezone END AS zone,
       CASE WHEN applies THEN tstzrange(window_start, window_end) = ai_window(CASE limit_id WHEN -2 THEN 'month' ELSE 'day' END, now(), :'noon') END AS its_window, regexp_replace(price_source, '\d+', '(id)') AS price
FROM explain_ai_limit(:'alice', :'acme', 'gpt-4o', feature => 'chat', input_tokens => 100);
SELECT DISTINCT price_source FROM explain_ai_limit(:'alice', :'acme', 'gpt-4o', cost_usd => 1);
SELECT DISTINCT price_source IS NULL AS no_price FROM explain_ai_limit(:'alice', :'acme', 'unheard-of');

-- get_global_ai_cost(): everybody together, today and this month.
SELECT * FROM get_global_ai_cost();
SELECT * FROM get_global_ai_cost('month');
UPDATE ai_limits SET enabled = false WHERE id = -1;
SELECT cap_usd FROM get_global_ai_cost('day');
INSERT INTO ai_limits (name, period, amount) VALUES ('tighter', 'day', 70), ('looser', 'day', 90);
SELECT cap_usd FROM get_global_ai_cost('day');
DELETE FROM ai_limits WHERE name IN ('tighter', 'looser');

-- get_ai_cost_alerts(): counters whose settled use has crossed a part of their amount; one row each,
-- of the highest threshold: critical from the whole amount, warning from 0.8, else info.
SELECT severity, scope, named(subject) AS subject, limit_name, used, amount, ratio, period, named(message) AS message FROM get_ai_cost_alerts();
CALL spend(:'alice', 0.30, :'acme', 'gpt-4o');
CALL spend(feature => 'images', cost_usd => 3);
SELECT severity, scope, limit_name, used, amount, ratio, named(message) AS message, resets_at IS NOT NULL AS resets FROM get_ai_cost_alerts();
UPDATE ai_limits SET alert_at = '{0.9}' WHERE name = 'user_daily_cost' AND tier = 'free';
SELECT severity, limit_name FROM get_ai_cost_alerts();
UPDATE ai_limits SET amount = 0 WHERE name = 'images';
SELECT severity, limit_name, used, amount, ratio FROM get_ai_cost_alerts();

-- ai_limit_status: every counter that is not empty.
SELECT limit_name, named(subject) AS subject, metric, period, used, held, amount, headroom, action FROM ai_limit_status
WHERE limit_name NOT LIKE 'global%' ORDER BY limit_name, subject;

-- The cap of a single run is a counter too, and is verified like any other.
SELECT allowed FROM reserve_ai_usage(user_id => :'carol', run_id => 'nightly', run_limit_usd => 2, cost_usd => 0.25);
SELECT limit_name, limit_id, subject, used, held, amount, headroom FROM ai_limit_status WHERE limit_name = 'run_limit';
SELECT limit_name, subject, used, held, ledger_used, open_holds, drift FROM verify_ai_counters() WHERE limit_id = 0;

-- estimate_ai_cost(): one request, before it is made. Without output_tokens the default is assumed.
SELECT (estimate_ai_cost('gpt-4o', input_tokens => 1000, output_tokens => 100)).cost_usd AS given,
       (estimate_ai_cost('gpt-4o', usage => '{"prompt_tokens": 1000, "completion_tokens": 100}')).cost_usd AS as_the_provider_says,
       (estimate_ai_cost('gpt-4o', input_tokens => 1000)).cost_usd AS default_output;

-- Which names and zones: the small helpers.
SELECT canonical_model_name(m) FROM unnest('{gpt-4o,OpenAI/GPT-4o-2024-08-06,claude-sonnet-4-20250514,anthropic.claude-v2,models/gemini-2.5-pro,us/azure/gpt-4o,gpt-4-0613}'::text[]) m;

-- A user asks for themselves: their own numbers, and none of the platform's.
CALL log_in(:'alice', :'acme');
SET ROLE authenticated;
SELECT ai_current_user() = :'alice' AS alice, ai_current_tenant() = :'acme' AS acme, ai_current_role(), ai_sees_people(), ai_sees_platform(), ai_is_server();
SELECT limit_name, metric, used, held, amount, remaining, resets_at IS NOT NULL AS resets FROM get_ai_limits();
SELECT allowed, reason, limit_name, metric, period, used, amount, remaining, resets_at IS NOT NULL AS resets FROM check_ai_limit(feature => 'images', cost_usd => 0.1);
SELECT jsonb_path_query(violations, '$[*] ? (@.limit_name == "platform")') AS violation FROM check_ai_limit(feature => 'images', cost_usd => 0.1);
SELECT named(dimensions::text) AS dimensions, cost_usd FROM get_ai_cost('2025-03-01', '2025-04-01', '{tenant,user}');
SELECT limit_name FROM get_ai_cost_alerts();
SELECT DISTINCT limit_name FROM ai_limit_status;
SELECT named(tenant_id) AS tenant, named(user_id) AS "user", count(*) FROM ai_cost_by_user GROUP BY 1, 2;
RESET ROLE;
