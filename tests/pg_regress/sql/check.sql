-- check_ai_limit(): would a call be admitted now?
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- A user of the tier free has one US dollar a day. Sixty cents are spent and thirty held.
CALL spend(user_id => :'alice', cost_usd => 0.60);
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'alice', cost_usd => 0.30) \gset

-- Ten cents are left. The verdict names the limit that is nearest to its end; used and held are
-- without this call.
SELECT allowed, reason, limit_name, metric, period, used, held, amount, remaining
FROM check_ai_limit(user_id => :'alice', cost_usd => 0.10);

-- One cent more is denied. A denial is a value: it says which limit, how much is left, when it
-- resets and how long that is.
SELECT allowed, reason, limit_name, used, held, amount, remaining,
       resets_at = upper(ai_window('day', now(), :'noon')) AS resets_at_midnight,
       retry_after BETWEEN '11 hours' AND '12 hours' AS retry_after_that
FROM check_ai_limit(user_id => :'alice', cost_usd => 0.11);
SELECT jsonb_pretty(violations) AS violations FROM check_ai_limit(user_id => :'alice', cost_usd => 0.11);

-- Asking wrote nothing.
SELECT * FROM books;

-- An admitted call has nothing to retry and no violations.
SELECT retry_after, violations, details FROM check_ai_limit(user_id => :'alice', cost_usd => 0.10);

-- With neither model nor cost it asks: is anything left? There is, until there is not.
SELECT allowed, remaining, estimated_cost_usd FROM check_ai_limit(user_id => :'alice');
CALL spend(user_id => :'alice', cost_usd => 0.10);
SELECT allowed, reason, remaining FROM check_ai_limit(user_id => :'alice');

-- Bob has his own dollar. A call of nobody meets only the rules that do not speak of users.
SELECT allowed, limit_name, used, remaining FROM check_ai_limit(user_id => :'bob', cost_usd => 1);
SELECT allowed, limit_name, used, held, remaining FROM check_ai_limit(cost_usd => 1);

-- With a model the estimate is tokens times its price. Without output_tokens, the caller's maximum,
-- ai_limiter.default_output_tokens are assumed.
INSERT INTO ai_prices (model, input_usd_per_million_tokens, output_usd_per_million_tokens)
VALUES ('gpt-4o', 2.50, 10.00);
SELECT allowed, estimated_cost_usd
FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, output_tokens => 500);
SELECT allowed, estimated_cost_usd FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000);

-- A given cost is the estimate, whatever the model.
SELECT allowed, estimated_cost_usd
FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000, cost_usd => 0.5);

-- Several limits: every failing one is in the violations, and the verdict names one of them.
INSERT INTO ai_limits (name, metric, period, per, amount)
VALUES ('tokens', 'total_tokens', 'total', '{user}', 100), ('calls', 'requests', 'total', '{user}', 0);
SELECT v ->> 'limit_name' AS limit_name, v ->> 'metric' AS metric, v ->> 'remaining' AS remaining
FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000000),
     jsonb_array_elements(violations) v ORDER BY 1;

-- One of the failing limits never has room again, so that no wait is known.
SELECT allowed, limit_name, resets_at, retry_after
FROM check_ai_limit(user_id => :'bob', model => 'gpt-4o', input_tokens => 1000000);

-- Within a read-only transaction it works too, and sees what its own transaction has booked.
BEGIN;
CALL spend(cost_usd => 7);
SELECT used FROM check_ai_limit(cost_usd => 1);
ROLLBACK;
BEGIN READ ONLY;
SELECT allowed, used FROM check_ai_limit(cost_usd => 1);
COMMIT;

-- within_ai_limit() is its boolean, for policies; require_ai_limit() raises instead, with the
-- SQLSTATE that a REST server turns into the status 429.
SELECT within_ai_limit(user_id => :'alice') AS alice, within_ai_limit(cost_usd => 1) AS nobody;
CREATE TABLE public.messages (author uuid, body text);
ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.messages FORCE ROW LEVEL SECURITY;
CREATE POLICY ask ON public.messages FOR INSERT TO authenticated WITH CHECK ((SELECT ai_limiter.within_ai_limit()));
GRANT INSERT ON public.messages TO authenticated;
CALL log_in(:'alice');
SET ROLE authenticated;
INSERT INTO public.messages VALUES (:'alice', 'once more?');
RESET ROLE;
DELETE FROM ai_limits WHERE name = 'calls';
CALL log_in(:'carol');
SET ROLE authenticated;
INSERT INTO public.messages VALUES (:'carol', 'hello');
RESET ROLE;
CALL log_out();
SELECT require_ai_limit(cost_usd => 1);
SELECT regexp_replace(refused($$ SELECT require_ai_limit('a11ce000-0000-0000-0000-000000000000', cost_usd => 2) $$),
    '\d[-:.+ \d]{6,}\d', '(a time)', 'g') AS require_ai_limit;
SELECT refused($$ SELECT require_ai_limit(model => 'gpt-4o', user_id => 'b0b00000-0000-0000-0000-000000000000', input_tokens => 101) $$) AS require_ai_limit;
