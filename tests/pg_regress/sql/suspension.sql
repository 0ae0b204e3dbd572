-- suspend_ai() and resume_ai(): blocking everything of a scope at once.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_prices (model, usd_per_request) VALUES ('gpt-4o', 0.01), ('free-model', 0);

-- Each scope blocks the calls that have its subject, free ones too, and no others.
CREATE VIEW public.blocked AS
SELECT scope, subject, bool_or(matches AND allowed) AS lets_some_through, bool_and(matches OR allowed) AS others_pass
FROM (SELECT s.scope, s.subject, is_acme, is_alice, is_gpt, is_chat, is_key, is_run,
             CASE s.scope WHEN 'all' THEN true WHEN 'tenant' THEN is_acme WHEN 'user' THEN is_alice WHEN 'model' THEN is_gpt
                          WHEN 'feature' THEN is_chat WHEN 'api_key_id' THEN is_key WHEN 'run' THEN is_run AND is_acme = (s.subject LIKE '%/%') END AS matches,
             (ai_limiter.check_ai_limit(
                 tenant_id => CASE WHEN is_acme THEN 'acacacac-0000-0000-0000-000000000000'::uuid END,
                 user_id => CASE WHEN is_alice THEN 'a11ce000-0000-0000-0000-000000000000'::uuid END,
                 model => CASE WHEN is_gpt THEN 'openai/gpt-4o-2024-08-06' ELSE 'free-model' END,
                 feature => CASE WHEN is_chat THEN 'chat' END, api_key_id => CASE WHEN is_key THEN 'key-1' END,
                 run_id => CASE WHEN is_run THEN 'run-1' END, input_tokens => 0, output_tokens => 0)).allowed
      FROM ai_limiter.ai_suspensions s, (VALUES (true), (false)) a (is_acme), (VALUES (true), (false)) b (is_alice),
           (VALUES (true), (false)) c (is_gpt), (VALUES (true), (false)) d (is_chat),
           (VALUES (true), (false)) e (is_key), (VALUES (true), (false)) f (is_run)) calls
GROUP BY scope, subject;

SELECT suspend_ai('tenant', :'acme');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('tenant', :'acme') AS resumed;
SELECT suspend_ai('user', :'alice');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('user', :'alice') AS resumed;
SELECT suspend_ai('model', 'OpenAI/gpt-4o');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('model', 'gpt-4o-2024-08-06') AS resumed;
SELECT suspend_ai('feature', 'chat');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('feature', 'chat') AS resumed;
SELECT suspend_ai('api_key_id', 'key-1');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('api_key_id', 'key-1') AS resumed;
SELECT suspend_ai('run', 'run-1');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('run', 'run-1') AS resumed;
-- A tenant's run is named with the tenant, as another tenant may have a run of the same name.
SELECT suspend_ai('run', :'acme' || '/run-1');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('run', :'acme' || '/run-1') AS resumed;
SELECT suspend_ai('all');
SELECT scope, named(subject) AS subject, lets_some_through, others_pass FROM blocked;
SELECT resume_ai('all') AS resumed;
SELECT resume_ai('all') AS again;

-- The verdict says what is suspended and why; the caller may be told.
SELECT suspend_ai('user', upper(:'alice'), reason => 'card expired');
SELECT allowed, reason, limit_name, retry_after, details FROM check_ai_limit(user_id => :'alice', model => 'free-model');

-- Nothing new begins. What runs can end, be booked or given back.
SELECT reservation_id AS running FROM reserve_ai_usage(user_id => :'bob', cost_usd => 0.10) \gset
SELECT suspend_ai('user', :'bob');
SELECT allowed, reason FROM reserve_ai_usage(user_id => :'bob', cost_usd => 0.10);
SELECT allowed, reason FROM extend_ai_reservation(:'running', cost_usd => 0.20);
SELECT cost_usd FROM settle_ai_usage(:'running', cost_usd => 0.12);
CALL spend(user_id => :'bob', cost_usd => 0.01);
SELECT reason, denials FROM ai_denials;

-- With until it ends by itself, and the verdict knows when. Suspending again changes the term.
SELECT suspend_ai('user', :'bob', until => now() + interval '1 hour');
SELECT allowed, reason, retry_after BETWEEN '59 minutes' AND '1 hour' AS an_hour FROM check_ai_limit(user_id => :'bob', cost_usd => 0.10);
SELECT suspend_ai('user', :'bob', until => clock_timestamp() + interval '200 milliseconds');
SELECT pg_sleep(0.25);
SELECT allowed, reason FROM check_ai_limit(user_id => :'bob', cost_usd => 0.10);

SELECT suspend_ai('user', :'bob', until => 'infinity');
SELECT allowed, reason, retry_after, details FROM check_ai_limit(user_id => :'bob', cost_usd => 0.10);
SELECT resume_ai('user', :'bob') AS resumed;

-- Rolled back, it never was. Not committed, it is seen by its own transaction.
BEGIN;
SELECT suspend_ai('all');
SELECT allowed FROM check_ai_limit(cost_usd => 1);
ROLLBACK;
SELECT allowed FROM check_ai_limit(cost_usd => 1);

-- An account's own flag does the same.
INSERT INTO ai_accounts (user_id, suspended) VALUES (:'carol', true);
SELECT allowed, reason, details FROM check_ai_limit(user_id => :'carol', model => 'free-model');

-- All of it is in the audit.
SELECT operation, coalesce(new_row, old_row) ->> 'scope' AS scope, named(coalesce(new_row, old_row) ->> 'subject') AS subject,
       coalesce(new_row, old_row) ->> 'reason' AS reason
FROM ai_config_changes WHERE table_name = 'ai_suspensions' ORDER BY changed_at;

-- What makes no sense.
SELECT refused($$ SELECT ai_limiter.suspend_ai('planet', 'earth') $$);
SELECT refused($$ SELECT ai_limiter.suspend_ai('all', 'earth') $$);
SELECT refused($$ SELECT ai_limiter.suspend_ai('feature') $$);
SELECT refused($$ SELECT ai_limiter.suspend_ai('user', 'alice') $$);
SELECT refused($$ SELECT ai_limiter.suspend_ai(NULL) $$);
SELECT refused($$ SELECT ai_limiter.suspend_ai('all', until => now()) $$);
SELECT refused($$ SELECT ai_limiter.resume_ai('planet', 'earth') $$);
