-- What a call is held for before it has run: learned from what such calls returned, and never more than
-- its maximum.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, output_usd_per_million_tokens, max_output_tokens) VALUES ('m', 1000000, 4000);

-- Nothing is known yet: the caller's maximum, the model's, or the default.
SELECT cost_usd, output_tokens, basis, max_output_tokens AS most, max_cost_usd AS most_usd
FROM unnest('{100,9000,NULL}'::bigint[]) caller, LATERAL explain_ai_cost_estimate('m', output_tokens => caller);
SELECT cost_usd, output_tokens, basis, max_output_tokens, price_source FROM explain_ai_cost_estimate('unheard-of');

-- Calls that returned 40 tokens, and one in twenty 400.
SELECT count(record_ai_usage(model => 'm', cost_usd => 0, feature => f,
    output_tokens => CASE n % 20 WHEN 0 THEN 400 ELSE 40 END))
FROM generate_series(1, 100) n, unnest('{title,summary}'::text[]) f;
SELECT refresh_ai_estimates() AS learned, refresh_ai_estimates() AS again;
SELECT model, feature, calls, histogram FROM ai_output_estimates ORDER BY feature;
SELECT cost_usd, output_tokens, basis FROM unnest('{20,100,9000,NULL}'::bigint[]) caller,
    LATERAL explain_ai_cost_estimate('m', output_tokens => caller, feature => 'title');
SELECT f AS feature, basis, explanation FROM unnest('{title,other,NULL}'::text[]) f, LATERAL explain_ai_cost_estimate('m', feature => f);

-- What has run is not estimated.
SELECT cost_usd, output_tokens, basis FROM explain_ai_cost_estimate('m', usage => '{"prompt_tokens": 7, "completion_tokens": 900}');

-- Another quantile, and none.
SET ai_limiter.output_quantile = 0.96;
SELECT output_tokens, explanation FROM explain_ai_cost_estimate('m', output_tokens => 1000);
SET ai_limiter.output_quantile = 1;
SELECT output_tokens, basis FROM explain_ai_cost_estimate('m', output_tokens => 1000);
RESET ai_limiter.output_quantile;

-- What is learned cannot be made nonsense of by hand, and what cannot be read says nothing.
SELECT refused($$ UPDATE ai_output_estimates SET histogram = '[]' $$);
UPDATE ai_output_estimates SET histogram = '{"many": -1}';
SELECT output_tokens, basis FROM explain_ai_cost_estimate('m', output_tokens => 1000);
