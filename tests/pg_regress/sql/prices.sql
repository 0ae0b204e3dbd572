-- ai_prices: what models cost, and that money is exact.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Several rows can match a call. price_source tells which one was taken; here by its number of
-- dollars a request.
CREATE FUNCTION public.price(model text, provider text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS text
LANGUAGE sql AS $$
    SELECT coalesce((SELECT trim_scale(estimated_cost_usd)::text FROM ai_limiter.check_ai_limit(model => $1, provider => $2, tenant_id => $3)), 'no price')
$$;
INSERT INTO ai_prices (model, provider, tenant_id, usd_per_request) VALUES
    ('*', NULL, NULL, 1), ('gpt-*', NULL, NULL, 2), ('gpt-4*', NULL, NULL, 3), ('gpt-4o', NULL, NULL, 4),
    ('gpt-4o', 'azure', NULL, 5), ('gpt-4o-2024-05-13', NULL, NULL, 6), ('gpt-4o', NULL, :'acme', 7), ('gpt-*', NULL, :'acme', 8);

-- A name goes before a pattern, a longer pattern before a shorter one.
SELECT m AS model, price(m) FROM unnest('{gpt-4o,gpt-4.1,gpt-5,llama-4}'::text[]) m;

-- Prefix, case and release date do not matter, but where a dated release has a row of its own.
SELECT m AS model, price(m) FROM unnest('{openai/GPT-4o,gpt-4o-2024-08-06,gpt-4o-20240806,GPT-4o-2024-05-13,openrouter/openai/gpt-4o-2024-05-13}'::text[]) m;

-- A row with a provider is that provider's, whether it is named or in the prefix.
SELECT price('gpt-4o', 'Azure') AS named, price('azure/gpt-4o') AS prefix, price('gpt-4o', 'openai') AS another;

-- A tenant's own row goes before all others, also a pattern before a name.
SELECT price('gpt-4o', NULL, :'acme') AS gpt_4o, price('gpt-4o-2024-05-13', 'azure', :'acme') AS dated_azure,
       price('gpt-4.1', NULL, :'acme') AS gpt_4_1, price('llama-4', NULL, :'acme') AS llama, price('gpt-4o', NULL, :'globex') AS globex;
SELECT limit_name, price_source ~ '^ai_prices row \d+$' AS price_source FROM explain_ai_limit(model => 'gpt-4o') WHERE limit_id = -1;

-- Only * is special in a pattern.
DELETE FROM ai_prices;
INSERT INTO ai_prices (model, usd_per_request) VALUES ('a_b*', 1), ('a%b*', 2), ('a\b*', 3), ('*\', 4), ('x*y*z', 5);
SELECT m AS model, price(m) FROM unnest(ARRAY['a_b', 'aXb', 'a%b', 'aXXb', 'a\b', 'ab', 'end\', 'xyz', 'x1y2z', 'xz']) m;

-- No row is no price; a price of 0 is free.
DELETE FROM ai_prices;
INSERT INTO ai_prices (model) VALUES ('free');
SELECT price('free') AS free, price('other') AS other;
SELECT (estimate_ai_cost('other')).cost_usd IS NULL AS unknown, (estimate_ai_cost('free')).cost_usd AS free;

-- A price is valid for a time. A call costs what it cost when it was made.
INSERT INTO ai_prices (model, usd_per_request, valid_during)
VALUES ('m', 1, '[2024-01-01 00:00+00,2024-07-01 00:00+00)'), ('m', 2, '[2024-07-01 00:00+00,2025-01-01 00:00+00)'), ('m', 3, '[2025-01-01 00:00+00,)');
SELECT record_ai_usage(model => 'm', created_at => at, input_tokens => 0) IS NOT NULL AS recorded
FROM unnest('{2024-06-30 23:59:59+00,2024-07-01 00:00:00+00,2025-03-01 00:00:00+00}'::timestamptz[]) at;
SELECT created_at, trim_scale(cost_usd) AS cost_usd FROM ai_usage ORDER BY created_at;
SELECT refused($$ SELECT record_ai_usage(model => 'm', created_at => '2023-12-31', input_tokens => 0) $$);

-- Two prices of one thing cannot hold at once.
SELECT regexp_replace(refused($$ INSERT INTO ai_prices (model, usd_per_request, valid_during) VALUES ('M', 9, '[2024-06-30,2024-07-02)') $$), '\d+(?= is| = |;)', '(id)', 'g') AS refused;
SELECT left(refused($$ UPDATE ai_prices SET valid_during = '[2024-12-31,)' WHERE usd_per_request = 3 $$), 6) AS moved_over_another;
INSERT INTO ai_prices (model, provider, usd_per_request) VALUES ('m', 'azure', 9);
INSERT INTO ai_prices (model, tenant_id, usd_per_request) VALUES ('m', :'acme', 9);

-- What makes no sense.
SELECT refused($$ INSERT INTO ai_prices (model, input_usd_per_million_tokens) VALUES ('x', -1) $$);
SELECT refused($$ INSERT INTO ai_prices (model, usd_per_request) VALUES ('x', 'NaN') $$);
SELECT refused($$ INSERT INTO ai_prices (model, valid_during) VALUES ('x', 'empty') $$);
SELECT refused($$ INSERT INTO ai_prices (model, usd_per_request) VALUES ('x', 1e8) $$);
SELECT left(refused($$ INSERT INTO ai_prices (model) VALUES (NULL) $$), 6) AS without_a_model;

-- Exact: ten dimes are a dollar, and there is no noise of floats.
SELECT count(record_ai_usage(feature => 'dimes', cost_usd => 0.1)) AS dimes FROM generate_series(1, 10);
SELECT trim_scale(sum(cost_usd)) AS ledger, sum(0.1::float8) AS floats FROM ai_usage WHERE feature = 'dimes';
INSERT INTO ai_limits (name, period, amount, feature) VALUES ('a dollar', 'total', 1, 'dimes');
SELECT used, remaining FROM check_ai_limit(feature => 'dimes', cost_usd => 0);

-- Rounded once a charge, to twelve decimals, half away from zero: 1 token of 0.0000015 dollars a
-- million is half of the last decimal more than one of it.
INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('tiny', 0.0000015, 0), ('third', 0.333333333333, 0), ('pair', 0.0000005, 0.0000005);
SELECT (estimate_ai_cost('tiny', input_tokens => 1, output_tokens => 0)).cost_usd AS "1.5 rounds to 2",
       (estimate_ai_cost('tiny', input_tokens => 3, output_tokens => 0)).cost_usd AS "4.5 to 5",
       (estimate_ai_cost('pair', input_tokens => 1, output_tokens => 1)).cost_usd AS "half and half is 1";
SELECT (estimate_ai_cost('third', input_tokens => 3000000, output_tokens => 0)).cost_usd AS three_million_tokens;
SELECT count(record_ai_usage(model => 'third', feature => 'sum', input_tokens => 1)) AS charges FROM generate_series(1, 1000);
SELECT trim_scale(sum(cost_usd)) AS settled FROM ai_usage WHERE feature = 'sum';
SELECT sum(abs(drift)) AS drift FROM verify_ai_counters();

-- A cost that the ledger could not hold is an error where it is written.
INSERT INTO ai_prices (model, input_usd_per_million_tokens) VALUES ('gold', 99999999);
SELECT (estimate_ai_cost('gold', input_tokens => 1000000, output_tokens => 0)).cost_usd;
SELECT refused($$ SELECT reserve_ai_usage(model => 'gold', input_tokens => 1000002, output_tokens => 0) $$);
SELECT refused($$ SELECT record_ai_usage(model => 'gold', input_tokens => 1000000000000) $$);
