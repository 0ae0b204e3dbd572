-- ai_limits: which calls a rule counts (its filter), and what gets a counter of its own (per).
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Without the rules that ship.
UPDATE ai_limits SET enabled = false;
INSERT INTO ai_accounts (tenant_id, user_id, tier) VALUES (:'acme', :'alice', 'pro');

-- Filters. Every column narrows the rule to the calls that have that value; null matches all. A
-- model can be a pattern, and attributes match when they are contained.
INSERT INTO ai_limits (name, period, amount, tier, tenant_id, user_id, provider, model, feature, api_key_id, attributes)
VALUES ('of tier pro',      'total', 1.5, 'pro', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
       ('of acme',          'total', 1.5, NULL, :'acme', NULL, NULL, NULL, NULL, NULL, NULL),
       ('of alice',         'total', 1.5, NULL, NULL, :'alice', NULL, NULL, NULL, NULL, NULL),
       ('of openai',        'total', 1.5, NULL, NULL, NULL, 'openai', NULL, NULL, NULL, NULL),
       ('of gpt-4o',        'total', 1.5, NULL, NULL, NULL, NULL, 'gpt-4o', NULL, NULL, NULL),
       ('of gpt-*',         'total', 1.5, NULL, NULL, NULL, NULL, 'gpt-*', NULL, NULL, NULL),
       ('of chat',          'total', 1.5, NULL, NULL, NULL, NULL, NULL, 'chat', NULL, NULL),
       ('of key-1',         'total', 1.5, NULL, NULL, NULL, NULL, NULL, NULL, 'key-1', NULL),
       ('of team search',   'total', 1.5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{"team": "search"}'),
       ('of all that',      'total', 1.5, 'pro', :'acme', :'alice', 'openai', 'gpt-4o', 'chat', 'key-1', '{"team": "search"}'),
       ('of anything',      'total', 1000, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- One dollar by a call that matches everything, ten by one that matches nothing, a hundred by one
-- that says nothing.
CALL spend(tenant_id => :'acme', user_id => :'alice', model => 'openai/gpt-4o-2024-08-06', feature => 'chat',
    api_key_id => 'key-1', attributes => '{"team": "search", "environment": "production"}', cost_usd => 1);
CALL spend(tenant_id => :'globex', user_id => :'bob', model => 'anthropic/claude-sonnet-4', feature => 'mail',
    api_key_id => 'key-2', attributes => '{"team": "growth"}', cost_usd => 10);
CALL spend(cost_usd => 100);
SELECT limit_name, used FROM ai_limit_status ORDER BY limit_id;

-- The same calls asked for again: each rule stops its own.
SELECT v ->> 'limit_name' AS stops FROM check_ai_limit(tenant_id => :'acme', user_id => :'alice',
    model => 'gpt-4o', provider => 'OpenAI', feature => 'chat', api_key_id => 'key-1',
    attributes => '{"team": "search"}', cost_usd => 1), jsonb_array_elements(violations) v;
SELECT allowed, limit_name FROM check_ai_limit(tenant_id => :'globex', user_id => :'bob',
    model => 'claude-sonnet-4', provider => 'anthropic', feature => 'mail', cost_usd => 1);
SELECT allowed, limit_name FROM check_ai_limit(cost_usd => 1);

-- Why a rule does not apply to a call.
SELECT limit_name, named(explanation) AS explanation
FROM explain_ai_limit(user_id => :'bob', model => 'gpt-4o', attributes => '{"team": "growth"}', cost_usd => 1);

-- Provider and model are compared in lower case and by canonical names, as rules keep them.
INSERT INTO ai_limits (name, period, amount, model) VALUES ('written loosely', 'total', 0, 'OpenAI/O3-2025-04-16');
SELECT provider, model FROM ai_limits WHERE name = 'written loosely';
SELECT allowed, limit_name FROM check_ai_limit(model => 'openai/o3', cost_usd => 1);
SELECT allowed FROM check_ai_limit(model => 'azure/o3', cost_usd => 1);

-- Per. {} is one counter for all; each name splits it. A rule says nothing of a call that lacks one
-- of its dimensions. A user is one within a tenant, and so is a run.
DELETE FROM ai_limits WHERE id > 0;
INSERT INTO ai_limits (name, period, amount, per)
VALUES ('a', 'total', 2000, '{}'), ('b', 'total', 2000, '{tenant}'), ('c', 'total', 2000, '{user}'),
       ('d', 'total', 2000, '{provider}'), ('e', 'total', 2000, '{model}'), ('f', 'total', 2000, '{feature}'),
       ('g', 'total', 2000, '{api_key_id}'), ('h', 'total', 2000, '{run}'),
       ('i', 'total', 2000, '{attribute:team}'), ('j', 'total', 2000, '{user,model}');
CALL spend(tenant_id => :'globex', user_id => :'alice', run_id => 'run-1', cost_usd => 1000);
SELECT per, named(subject) AS subject, named(s.tenant_id) AS tenant, named(s.user_id) AS "user", used
FROM ai_limit_status s JOIN ai_limits l ON l.id = limit_id ORDER BY limit_name, subject;

-- The counters are apart: one that is full stops nobody else.
UPDATE ai_limits SET amount = 10 WHERE name IN ('c', 'g', 'h', 'i', 'j');
SELECT allowed, limit_name, used FROM check_ai_limit(tenant_id => :'globex', user_id => :'bob', cost_usd => 1);
SELECT allowed, used FROM check_ai_limit(tenant_id => :'acme', user_id => :'bob', cost_usd => 1);
SELECT allowed, limit_name FROM check_ai_limit(api_key_id => 'key-2', cost_usd => 1);
SELECT allowed FROM check_ai_limit(api_key_id => 'key-3', cost_usd => 1);
SELECT allowed, limit_name FROM check_ai_limit(tenant_id => :'globex', run_id => 'run-1', cost_usd => 1);
SELECT allowed FROM check_ai_limit(tenant_id => :'acme', run_id => 'run-1', cost_usd => 1);
SELECT allowed, limit_name FROM check_ai_limit(attributes => '{"team": "growth"}', cost_usd => 1);
SELECT allowed FROM check_ai_limit(attributes => '{"team": "search"}', cost_usd => 1);

-- Changing what a rule counts resets nothing: the ledger is counted anew, as the rule now says.
UPDATE ai_limits SET per = '{}' WHERE name = 'i';
SELECT used FROM ai_limit_status WHERE limit_name = 'i';
UPDATE ai_limits SET feature = 'mail' WHERE name = 'i';
SELECT used FROM ai_limit_status WHERE limit_name = 'i';
INSERT INTO ai_limits (name, period, amount, feature) VALUES ('new', 'total', 100, 'chat');
SELECT used FROM ai_limit_status WHERE limit_name = 'new';

-- The tier of a call is the one it was made in: what alice spent as pro stays there.
UPDATE ai_accounts SET tier = 'free' WHERE user_id = :'alice';
INSERT INTO ai_limits (name, period, amount, tier) VALUES ('pro calls', 'total', 100, 'pro'), ('free calls', 'total', 2000, 'free');
SELECT limit_name, used FROM ai_limit_status WHERE limit_name LIKE '%calls' ORDER BY 1;
SELECT count(*) AS counters, sum(abs(drift)) AS drift FROM verify_ai_counters();
