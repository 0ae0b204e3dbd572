-- ai_limits: rows of one name are one rule, and the most specific that matches a call applies.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

UPDATE ai_limits SET enabled = false;
INSERT INTO ai_accounts (tenant_id, user_id, tier)
VALUES (:'acme', :'alice', 'pro'), (:'acme', :'bob', 'pro'), (:'globex', :'carol', 'pro');

-- One rule of four rows: any call, the tier pro, the tenant acme, alice.
INSERT INTO ai_limits (name, period, per, amount, tier, tenant_id, user_id)
VALUES ('budget', 'total', '{user}', 1, NULL, NULL, NULL), ('budget', 'total', '{user}', 20, 'pro', NULL, NULL),
       ('budget', 'total', '{user}', 30, NULL, :'acme', NULL), ('budget', 'total', '{user}', 50, NULL, NULL, :'alice');
SELECT named(t) AS tenant, named(u) AS "user", count(*) AS limits, min(amount) AS amount
FROM (VALUES (:'acme'::uuid, :'alice'::uuid), (:'acme', :'bob'), (:'globex', :'carol'), (:'globex', :'bob')) who (t, u),
     get_ai_limits(u, t)
GROUP BY t, u ORDER BY amount DESC;
SELECT applies, explanation, (SELECT amount FROM ai_limits WHERE id = replaced_by) AS by_the_amount
FROM explain_ai_limit(user_id => :'alice', tenant_id => :'acme') ORDER BY limit_id;

-- The row that applies is also the only one that counts.
CALL spend(tenant_id => :'acme', user_id => :'alice', cost_usd => 10);
CALL spend(tenant_id => :'acme', user_id => :'bob', cost_usd => 2);
CALL spend(tenant_id => :'globex', user_id => :'carol', cost_usd => 3);
SELECT limit_name, amount, named(subject) AS subject, used FROM ai_limit_status ORDER BY amount;

-- An override may change the metric, the period, the dimensions: also with one shared counter, each
-- call is counted once.
INSERT INTO ai_limits (name, period, amount) VALUES ('shared', 'total', 12);
INSERT INTO ai_limits (name, period, amount, tenant_id) VALUES ('shared', 'total', 5, :'globex');
SELECT amount, used FROM ai_limit_status WHERE limit_name = 'shared' ORDER BY amount;
SELECT allowed, limit_name, amount FROM check_ai_limit(tenant_id => :'globex', user_id => :'bob', cost_usd => 2.01);
SELECT allowed, limit_name, amount FROM check_ai_limit(cost_usd => 0.01);

-- A disabled row is as if it were not there; what it counted falls to the row below.
UPDATE ai_limits SET enabled = false WHERE name = 'shared' AND amount = 5;
SELECT amount, used FROM ai_limit_status WHERE limit_name = 'shared';
SELECT allowed, limit_name, amount FROM check_ai_limit(tenant_id => :'globex', user_id => :'bob', cost_usd => 0.5);
DELETE FROM ai_limits WHERE name = 'shared';

-- Equally specific rows of one name may tell calls apart by their other filters.
INSERT INTO ai_limits (name, period, amount, model) VALUES ('models', 'total', 10, 'o3'), ('models', 'total', 20, 'o4-*'), ('models', 'total', 30, 'gpt-*');

-- Two that could govern one call are refused when the transaction commits, whichever came first.
BEGIN;
INSERT INTO ai_limits (name, period, amount) VALUES ('budget', 'day', 5);
SELECT 'not yet' AS refused;
COMMIT;
SELECT split_part(refused($$ INSERT INTO ai_limits (name, period, amount, tier) VALUES ('budget', 'day', 5, 'pro') $$), E'\n', 1) AS a_second_row_for_pro;
SELECT split_part(refused($$ UPDATE ai_limits SET name = 'budget' WHERE model = 'o3' $$), E'\n', 1) AS renamed;
SELECT split_part(refused($$ UPDATE ai_limits SET model = 'o4-mini' WHERE model = 'o3' $$), E'\n', 1) AS with_another_filter;
SELECT split_part(refused($$ UPDATE ai_limits SET model = 'o*' WHERE model = 'gpt-*' $$), E'\n', 1) AS with_a_wider_pattern;
BEGIN;
UPDATE ai_limits SET enabled = false WHERE name = 'budget' AND tier = 'pro';
INSERT INTO ai_limits (name, period, amount, tier) VALUES ('budget', 'day', 5, 'pro');
COMMIT;
SELECT split_part(refused($$ UPDATE ai_limits SET enabled = true WHERE name = 'budget' AND NOT enabled $$), E'\n', 1) AS enabled_again;
DELETE FROM ai_limits WHERE name = 'models';
SELECT count(*) AS rows FROM ai_limits WHERE name = 'budget';

-- A tenant's own rows never replace and are never replaced: they apply in addition, and so only
-- ever tighten.
INSERT INTO ai_limits (name, period, per, amount, tenant_id, managed_by)
VALUES ('budget', 'total', '{user}', 25, :'acme', 'tenant'), ('own cap', 'total', '{tenant}', 15, :'acme', 'tenant');
SELECT limit_name, amount, used, remaining FROM get_ai_limits(:'alice', :'acme') ORDER BY amount;
SELECT allowed, limit_name FROM check_ai_limit(tenant_id => :'acme', user_id => :'alice', cost_usd => 4);
SELECT allowed, limit_name FROM check_ai_limit(tenant_id => :'globex', user_id => :'carol', cost_usd => 4);
SELECT count(*) AS counters, sum(abs(drift)) AS drift FROM verify_ai_counters();
