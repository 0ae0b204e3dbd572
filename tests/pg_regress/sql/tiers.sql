-- ai_tiers and ai_accounts: what an account may call.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, usd_per_request) VALUES ('*', 0.01);

-- A tier names models, with patterns, and features. Null allows all, {} nothing.
UPDATE ai_tiers SET allowed_models = '{gpt-4o-mini,claude-haiku-*}', allowed_features = '{chat}' WHERE tier = 'free';
INSERT INTO ai_tiers (tier, allowed_models) VALUES ('parked', '{}');
SELECT model, feature, allowed, reason
FROM (VALUES ('gpt-4o-mini', 'chat'), ('openai/GPT-4o-mini-2024-07-18', 'chat'), ('claude-haiku-4-5', NULL),
             ('gpt-4o', 'chat'), ('gpt-4o-mini', 'images'), (NULL, 'chat')) c (model, feature),
     check_ai_limit(user_id => :'alice', model => c.model, feature => c.feature, cost_usd => 0.01);

-- No limit refused, so that none is named; a reserve is refused too, and leaves its denial.
SELECT allowed, reason, limit_name, violations FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o');
SELECT reason, limit_name, model FROM ai_denials;

-- Unknown users have the tier of ai_limiter.default_tier and the role member; so has an account
-- that names none.
INSERT INTO ai_accounts (user_id) VALUES (:'bob');
SELECT limit_name, amount FROM get_ai_limits(:'alice') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';
SELECT limit_name, amount FROM get_ai_limits(:'bob') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';
SET ai_limiter.default_tier = 'pro';
SELECT limit_name, amount FROM get_ai_limits(:'alice') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';
SELECT allowed FROM check_ai_limit(user_id => :'alice', model => 'gpt-4o');
RESET ai_limiter.default_tier;

-- A change of tier takes effect with the next call. Each tier's row counts the calls that were made
-- in it.
CALL spend(user_id => :'bob', cost_usd => 0.9);
UPDATE ai_accounts SET tier = 'pro' WHERE user_id = :'bob';
SELECT limit_name, used, amount FROM get_ai_limits(:'bob') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';
CALL spend(user_id => :'bob', cost_usd => 6);
SELECT limit_name, used, amount FROM get_ai_limits(:'bob') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';
SELECT tier, trim_scale(cost_usd) AS cost_usd FROM ai_usage ORDER BY created_at;
UPDATE ai_accounts SET tier = 'free' WHERE user_id = :'bob';
SELECT limit_name, used, amount FROM get_ai_limits(:'bob') WHERE metric = 'cost_usd' AND limit_name LIKE 'user%';

-- enterprise has no limit of requests.
UPDATE ai_accounts SET tier = 'enterprise' WHERE user_id = :'bob';
SELECT limit_name, metric, amount FROM get_ai_limits(:'bob') ORDER BY amount;

-- Nothing is allowed in a tier that allows nothing, but to a call that names no model.
UPDATE ai_accounts SET tier = 'parked' WHERE user_id = :'bob';
SELECT allowed, reason FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o-mini');
SELECT allowed, reason FROM check_ai_limit(user_id => :'bob', cost_usd => 0.01);

-- A tier must exist, and cannot go while accounts or rules have it.
SELECT refused($$ UPDATE ai_limiter.ai_accounts SET tier = 'platinum' $$);
SELECT refused($$ DELETE FROM ai_limiter.ai_tiers WHERE tier = 'parked' $$);
SELECT refused($$ UPDATE ai_limiter.ai_tiers SET allowed_models = '{gpt-4o,NULL}' WHERE tier = 'parked' $$);

-- The same user in another tenant is another account.
SELECT named(t) AS tenant, allowed FROM unnest(ARRAY['00000000-0000-0000-0000-000000000000', :'acme']::uuid[]) t,
    check_ai_limit(user_id => :'bob', tenant_id => t, model => 'gpt-4o-mini');
