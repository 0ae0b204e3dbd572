-- The edges of a budget: free, unknown, nothing, and too much.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00), ('local-*', 0, 0);
UPDATE ai_limits SET enabled = false;
INSERT INTO ai_limits (name, period, per, amount) VALUES ('budget', 'total', '{user}', 1);

-- Exactly the amount fits, to the last of its twelve decimals.
SELECT allowed FROM check_ai_limit(user_id => :'alice', cost_usd => 1);
SELECT allowed FROM check_ai_limit(user_id => :'alice', cost_usd => 1.000000000001);

-- Exhausted. What is known to cost nothing passes: a free model, or a cost of 0.
CALL spend(user_id => :'alice', cost_usd => 1);
SELECT allowed, reason, estimated_cost_usd, remaining FROM check_ai_limit(user_id => :'alice', model => 'local-llama', input_tokens => 5000);
SELECT allowed, reason FROM reserve_ai_usage(user_id => :'alice', cost_usd => 0);
SELECT allowed, reason FROM check_ai_limit(user_id => :'alice', cost_usd => 0.000000000001);

-- Naming neither model nor cost asks "is anything left?", and there is not.
SELECT allowed, reason, remaining FROM check_ai_limit(user_id => :'alice');
SELECT within_ai_limit(user_id => :'alice');

-- A budget of 0 blocks whatever costs, from the first call on, and nothing else.
INSERT INTO ai_limits (name, period, per, amount, user_id) VALUES ('budget', 'total', '{user}', 0, :'bob');
SELECT allowed, limit_name, amount, remaining FROM check_ai_limit(user_id => :'bob', cost_usd => 0.000000000001);
SELECT allowed FROM check_ai_limit(user_id => :'bob');
SELECT allowed FROM check_ai_limit(user_id => :'bob', model => 'local-llama');
INSERT INTO ai_limits (name, period, metric, amount, feature) VALUES ('no images', 'total', 'requests', 0, 'images');
SELECT allowed, limit_name FROM check_ai_limit(user_id => :'carol', feature => 'images', model => 'local-llama');

-- Unknown is not free: a model without a price is refused, unless the caller says the cost.
SELECT allowed, reason, limit_name, estimated_cost_usd FROM check_ai_limit(user_id => :'carol', model => 'brand-new', input_tokens => 1);
SELECT allowed, reason FROM reserve_ai_usage(user_id => :'carol', model => 'brand-new', input_tokens => 1);
SELECT allowed, reason, estimated_cost_usd FROM check_ai_limit(user_id => :'carol', model => 'brand-new', cost_usd => 0.01);

-- Where it is allowed, its cost is still not taken for nothing: it passes only while something is left.
SET ai_limiter.unpriced_model = 'allow';
SELECT allowed, reason, estimated_cost_usd FROM check_ai_limit(user_id => :'carol', model => 'brand-new', input_tokens => 1);
SELECT allowed, reason, remaining FROM check_ai_limit(user_id => :'alice', model => 'brand-new', input_tokens => 1);
RESET ai_limiter.unpriced_model;

-- Without a maximum, a call holds ai_limiter.default_output_tokens and not the budget.
SELECT estimated_cost_usd, remaining FROM reserve_ai_usage(user_id => :'carol', model => 'gpt-4o', input_tokens => 0);
SELECT output_tokens, trim_scale(cost_usd) AS cost_usd FROM ai_reservations WHERE user_id = :'carol';
SELECT count(*) FILTER (WHERE (reserve_ai_usage(user_id => :'carol', model => 'gpt-4o', input_tokens => 0)).allowed) AS more_admitted
FROM generate_series(1, 100);
SELECT used, held, remaining FROM get_ai_limits(:'carol') WHERE limit_name = 'budget';

-- A settle beyond what is left is booked in full: the balance tells the truth.
INSERT INTO ai_limits (name, period, amount, feature) VALUES ('hundred', 'total', 100, 'batch');
SELECT reservation_id AS hold FROM reserve_ai_usage(feature => 'batch', cost_usd => 95) \gset
SELECT reservation_id AS late FROM reserve_ai_usage(feature => 'batch', cost_usd => 5) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold', cost_usd => 110);
SELECT allowed, used, held, amount, remaining FROM check_ai_limit(feature => 'batch', cost_usd => 1);

-- So is one whose hold has expired.
UPDATE ai_reservations SET expires_at = clock_timestamp() WHERE id = :'late';
SELECT used, held FROM check_ai_limit(feature => 'batch', cost_usd => 1);
SELECT cost_usd, already_settled FROM settle_ai_usage(:'late', cost_usd => 5);
SELECT used, held, remaining FROM check_ai_limit(feature => 'batch', cost_usd => 1);
SELECT drift FROM books;
