-- record_ai_usage(): booking a call after the fact.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens, usd_per_request)
VALUES ('gpt-4o', 2.50, 10.00, 0), ('search-1', 0, 0, 0.005);
INSERT INTO ai_accounts (tenant_id, user_id, tier) VALUES (:'acme', :'alice', 'pro');

-- Everything is kept, the tier of the account as it is now among it.
SELECT record_ai_usage(tenant_id => :'acme', user_id => :'alice', model => 'OpenAI/gpt-4o-2024-08-06',
    feature => 'chat', api_key_id => 'key-1', run_id => 'run-1', attributes => '{"team": "search"}',
    usage => '{"prompt_tokens": 1000, "completion_tokens": 100}') AS id \gset
\pset expanded on
SELECT tenant_id = :'acme' AND user_id = :'alice' AS whose, tier, provider, model, response_model, feature, api_key_id, run_id, attributes,
       requests, input_tokens, output_tokens, trim_scale(cost_usd) AS cost_usd, estimated_cost_usd, price_source
FROM ai_usage WHERE id = :'id';
\pset expanded off

-- The cost: given, else tokens at the model's price. Tokens that are not told were not used.
SELECT record_ai_usage(user_id => :'bob', model => 'gpt-4o', cost_usd => 0.07, input_tokens => 5) AS id \gset
SELECT trim_scale(cost_usd) AS cost_usd, price_source, input_tokens, output_tokens FROM ai_usage WHERE id = :'id';
SELECT record_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000) AS id \gset
SELECT trim_scale(cost_usd) AS cost_usd, price_source, input_tokens, output_tokens FROM ai_usage WHERE id = :'id';

-- For several requests at once: tokens are those of all of them, a price a request is of each.
SELECT record_ai_usage(user_id => :'bob', model => 'search-1', requests => 20, input_tokens => 0) AS id \gset
SELECT requests, trim_scale(cost_usd) AS cost_usd FROM ai_usage WHERE id = :'id';

-- It is what happened, so no limit can refuse it. What is beyond a limit counts.
CALL spend(user_id => :'carol', cost_usd => 115);
SELECT allowed, used, amount, remaining FROM check_ai_limit(user_id => :'carol', cost_usd => 0.01);

-- created_at decides the windows that it counts in: yesterday's last moment is not today.
SELECT lower(ai_window('day', now(), :'noon')) AS midnight \gset
CALL spend(user_id => :'carol', cost_usd => 3, created_at => :'midnight'::timestamptz - interval '1 microsecond');
SELECT used FROM get_ai_limits(:'carol') WHERE limit_name = 'user_daily_cost';
CALL spend(user_id => :'carol', cost_usd => 4, created_at => :'midnight');
SELECT used FROM get_ai_limits(:'carol') WHERE limit_name = 'user_daily_cost';

-- Months that have passed get their part of the ledger when they are first written.
CALL spend(user_id => :'carol', cost_usd => 5, created_at => '2024-02-29 23:59:59+00');
CALL spend(user_id => :'carol', cost_usd => 6, created_at => '2024-03-01 00:00:00+00');
SELECT tableoid::regclass AS month, created_at, trim_scale(cost_usd) AS cost_usd FROM ai_usage
WHERE created_at < '2025-01-01' ORDER BY created_at;
SELECT * FROM books;

-- A call of nobody, in no tenant, is one too.
SELECT record_ai_usage(cost_usd => 1) AS id \gset
SELECT tenant_id, user_id, tier FROM ai_usage WHERE id = :'id';
