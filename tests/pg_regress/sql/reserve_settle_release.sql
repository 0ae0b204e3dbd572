-- reserve_ai_usage(), settle_ai_usage(), release_ai_usage(): the path of one model call.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00), ('gpt-4o-mini', 0.15, 0.60);

-- Before the call: its estimate is held. 100,000 × 2.50 + 20,000 × 10.00 in a million is 0.45.
SELECT reservation_id IS NOT NULL AS reserved, allowed, reason, estimated_cost_usd
FROM reserve_ai_usage(user_id => :'alice', model => 'gpt-4o', feature => 'chat', input_tokens => 100000, output_tokens => 20000);
SELECT id AS hold FROM ai_reservations \gset
SELECT tier, provider, model, requested_model, feature, requests, input_tokens, output_tokens,
       trim_scale(cost_usd) AS cost_usd, state, expires_at - created_at AS lives
FROM ai_reservations;
SELECT * FROM books;

-- The id carries the time of the call, so that look-ups find the right month.
SELECT substr(id::text, 15, 1) AS uuid_version, id_time = date_trunc('milliseconds', created_at) AS carries_created_at
FROM ai_reservations,
     to_timestamp(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0) id_time;

-- After it: what it really cost takes the place of the hold, under the same id.
SELECT usage_id = :'hold' AS same_id, cost_usd, estimated_cost_usd, already_settled
FROM settle_ai_usage(:'hold', usage => '{"prompt_tokens": 98000, "completion_tokens": 5000}');
SELECT id = :'hold' AS same_id, model, response_model, input_tokens, output_tokens,
       trim_scale(cost_usd) AS cost_usd, trim_scale(estimated_cost_usd) AS estimated, price_source
FROM ai_usage;
SELECT * FROM books;

-- Sent again, with whatever: nothing more is charged, and the answer is the first one.
SELECT usage_id = :'hold' AS same_id, cost_usd, estimated_cost_usd, already_settled
FROM settle_ai_usage(:'hold', cost_usd => 99);
SELECT count(*) FILTER (WHERE (settle_ai_usage(:'hold')).already_settled) AS a_hundred_times FROM generate_series(1, 100);
SELECT * FROM books;

-- What is settled can no longer be given back.
SELECT release_ai_usage(:'hold') AS released;

-- A call that failed gives its hold back, once. Nothing is charged.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'alice', cost_usd => 0.50) \gset
SELECT allowed, remaining FROM check_ai_limit(user_id => :'alice', cost_usd => 0.50);
SELECT release_ai_usage(:'hold') AS released;
SELECT release_ai_usage(:'hold') AS again;
SELECT allowed, remaining FROM check_ai_limit(user_id => :'alice', cost_usd => 0.50);

-- When it ran after all, it is booked all the same: the truth is recorded.
SELECT cost_usd, already_settled FROM settle_ai_usage(:'hold', cost_usd => 0.40);
SELECT release_ai_usage(:'hold') AS released;
SELECT * FROM books;

-- What a charge comes to. A given cost goes before everything.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd, estimated_cost_usd FROM settle_ai_usage(:'hold', cost_usd => 0.0001, usage => '{"input_tokens": 1, "output_tokens": 1}');

-- Without one, tokens at the price of the model that answered. Rules look at the model that was
-- asked for; the ledger keeps both.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'openai/gpt-4o-2024-08-06', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd, estimated_cost_usd FROM settle_ai_usage(:'hold', model => 'gpt-4o-mini-2024-07-18', input_tokens => 1000, output_tokens => 1000);
SELECT provider, model, response_model, price_source FROM ai_usage WHERE id = :'hold';

-- One number told: the other is the hold's (input, already sent) or nothing (output).
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold', output_tokens => 100);
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold', input_tokens => 900);

-- Nothing told, as after a connection that broke: what was held. The call was not free.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold');
SELECT price_source, input_tokens, output_tokens FROM ai_usage WHERE id = :'hold';

-- The model that answered has no price: what was held.
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 1000) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold', model => 'brand-new', usage => '{"input_tokens": 5, "output_tokens": 5}');
SELECT price_source FROM ai_usage WHERE id = :'hold';

-- The spellings of usage that providers have. Cached input is part of OpenAI's count and beside
-- Anthropic's; no token is charged twice.
SELECT usage, trim_scale((estimate_ai_cost('gpt-4o', usage => usage)).cost_usd * 1000000) AS millionths
FROM (VALUES ('{"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}'::jsonb),
             ('{"input_tokens": 10, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}'),
             ('{"input_tokens": 2, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 2}'),
             ('{"id": "msg_1", "usage": {"input_tokens": 10, "output_tokens": 2}}')) u (usage);

-- A hold for several requests at once.
SELECT estimated_cost_usd FROM reserve_ai_usage(user_id => :'carol', cost_usd => 0.10, requests => 7);
SELECT used, held, remaining FROM get_ai_limits(:'carol') WHERE metric = 'requests';

-- A denied one leaves no hold, only a denial.
SELECT allowed, reason, limit_name, reservation_id FROM reserve_ai_usage(user_id => :'carol', cost_usd => 5, feature => 'chat');
SELECT limit_name, user_id = :'carol' AS carols, feature, reason, denials, estimated_cost_usd FROM ai_denials;

-- All limits or none: where one denies, no other counts the call.
SELECT allowed, limit_name FROM reserve_ai_usage(user_id => :'carol', cost_usd => 0.01, requests => 44);
SELECT metric, held FROM get_ai_limits(:'carol') WHERE limit_name LIKE 'user%' ORDER BY metric;

-- A run with its own cap. The first reserve fixes it; later ones need not repeat it and cannot raise it.
SELECT allowed, limit_name, amount, remaining
FROM reserve_ai_usage(user_id => :'bob', run_id => 'agent-1', run_limit_usd => 0.20, cost_usd => 0.15);
SELECT allowed, limit_name, period, used, held, amount, remaining, retry_after
FROM reserve_ai_usage(user_id => :'bob', run_id => 'agent-1', run_limit_usd => 100, cost_usd => 0.06);
SELECT allowed, limit_name, amount FROM reserve_ai_usage(user_id => :'bob', run_id => 'agent-1', cost_usd => 0.05);
SELECT run_id, trim_scale(amount_usd) AS amount_usd FROM ai_run_limits;

-- Runs of other tenants have other caps, and what a run spent before its cap counts.
SELECT allowed, limit_name FROM reserve_ai_usage(user_id => :'bob', tenant_id => :'acme', run_id => 'agent-1', cost_usd => 0.5);
SELECT allowed, limit_name, held, amount
FROM reserve_ai_usage(user_id => :'bob', tenant_id => :'acme', run_id => 'agent-1', run_limit_usd => 0.6, cost_usd => 0.2);
SELECT count(*) AS caps FROM ai_run_limits;

-- How long a hold lives: ai_limiter.reservation_ttl, or ttl up to ai_limiter.max_reservation_ttl.
SELECT reservation_id AS hold FROM reserve_ai_usage(cost_usd => 1, ttl => '90 seconds') \gset
SELECT expires_at - created_at AS lives FROM ai_reservations WHERE id = :'hold';

-- A rolled-back reserve, settle or release leaves no trace.
SELECT * FROM books;
BEGIN;
SELECT settle_ai_usage(:'hold') IS NOT NULL AS settled;
SAVEPOINT a;
SELECT reservation_id IS NOT NULL AS reserved FROM reserve_ai_usage(cost_usd => 2);
ROLLBACK TO a;
SELECT held_usd, charges FROM books;
ROLLBACK;
BEGIN;
SELECT release_ai_usage(:'hold') AS released;
ROLLBACK;
SELECT * FROM books;
