-- adjust_ai_usage() and reprice_ai_usage(): what was booked is never edited; a row of its own says by how much
-- it was wrong.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- Alice has spent what she may today. Then the provider refunds an answer.
INSERT INTO ai_accounts (tenant_id, user_id, tier) VALUES (:'acme', :'alice', 'free');
SELECT record_ai_usage(:'alice', :'acme', model => 'gpt-4o', feature => 'chat', run_id => 'run-1',
    attributes => '{"team": "search"}', input_tokens => 1000, output_tokens => 50, cost_usd => 1) AS id \gset
SELECT allowed, reason, used FROM check_ai_limit(:'alice', :'acme', cost_usd => 0.25);
SELECT adjust_ai_usage(:'id', -0.4, 'refunded by the provider') AS correction \gset
SELECT allowed, reason, used FROM check_ai_limit(:'alice', :'acme', cost_usd => 0.25);

-- The correction is where its row is, in every dimension and window; it is no request, and has no tokens.
\pset expanded on
SELECT named(tenant_id) AS tenant, named(user_id) AS "user", tier, provider, model, feature, run_id, attributes,
    requests, input_tokens, output_tokens, trim_scale(cost_usd) AS cost_usd, price_source,
    correction_of = :'id' AS corrects_it, correction_reason, line_items
FROM ai_usage WHERE id = :'correction';
\pset expanded off
SELECT count(*) AS at_one_instant FROM ai_usage GROUP BY created_at;
SELECT requests, input_tokens, trim_scale(cost_usd) AS cost_usd FROM get_user_daily_ai_usage(:'alice');
SELECT class, quantity, trim_scale(unit_price_usd) AS unit_price_usd, price_source, trim_scale(cost_usd) AS cost_usd
FROM ai_usage_line_items ORDER BY recorded_at;
SELECT * FROM books;

-- As of an instant: what was corrected later was not known then.
SELECT recorded_at AS booked FROM ai_usage WHERE id = :'id' \gset
SELECT trim_scale(cost_usd) AS as_it_was FROM get_ai_cost('2020-01-01', as_of => :'booked');
SELECT trim_scale(cost_usd) AS as_it_is FROM get_ai_cost('2020-01-01');

-- Up as well as down, and down to nothing; not below.
SELECT adjust_ai_usage(:'id', 0.15, 'tax') IS NOT NULL AS booked;
SELECT refused(format($$ SELECT adjust_ai_usage(%L, -0.76, 'too much') $$, :'id'));
SELECT adjust_ai_usage(:'id', -0.75, 'written off') IS NOT NULL AS booked;
SELECT refused(format($$ SELECT adjust_ai_usage(%L, -0.000000000001, 'too much') $$, :'id'));
SELECT * FROM books;

-- What is rolled back was never there; nor is what comes after a savepoint.
BEGIN;
SELECT adjust_ai_usage(:'id', 0.5, 'undone') IS NOT NULL AS booked;
SAVEPOINT a;
SELECT adjust_ai_usage(:'id', -0.25, 'undone') IS NOT NULL AS booked;
SELECT settled_usd FROM books;
ROLLBACK TO a;
SELECT settled_usd FROM books;
ROLLBACK;
SELECT * FROM books;

-- A settled reservation is adjusted by its id; one that is open, or released, cost nothing yet.
SELECT reservation_id AS hold FROM reserve_ai_usage(:'bob', cost_usd => 0.5) \gset
SELECT refused(format($$ SELECT adjust_ai_usage(%L, -0.1, 'too early') $$, :'hold')) LIKE '42704%' AS not_booked_yet;
SELECT cost_usd FROM settle_ai_usage(:'hold', cost_usd => 0.4);
SELECT adjust_ai_usage(:'hold', -0.1, 'credit') IS NOT NULL AS booked;
SELECT used FROM get_ai_limits(:'bob') WHERE limit_name = 'user_daily_cost';

-- What makes no sense is refused.
SELECT what, refused(format('SELECT adjust_ai_usage(%s)', arguments)) AS refused
FROM (VALUES (1, 'zero', format('%L, 0, %L', :'id', 'x')),
             (2, 'too small', format('%L, 1e-13, %L', :'id', 'x')),
             (3, 'not a number', format('%L, %L, %L', :'id', 'NaN', 'x')),
             (4, 'too large', format('%L, 1e8, %L', :'id', 'x')),
             (5, 'no amount', format('%L, NULL, %L', :'id', 'x')),
             (6, 'no reason', format('%L, 1, NULL', :'id')),
             (7, 'a blank reason', format('%L, 1, %L', :'id', ' ')),
             (8, 'no row', 'NULL, 1, ''x'''),
             (9, 'an unknown row', '''00000000-0000-4000-8000-000000000000'', 1, ''x'''),
             (10, 'a month that is not there', '''01700000-0000-7000-8000-000000000000'', 1, ''x''')) s (i, what, arguments)
ORDER BY i;
SELECT replace(replace(refused(format($$ SELECT adjust_ai_usage(%L, 1, 'x') $$, :'correction')), :'correction', 'correction'), :'id', 'row') AS of_a_correction;

-- Nobody else writes corrections, or anything negative.
SELECT refused(format($$ INSERT INTO ai_usage (cost_usd, correction_of, correction_reason) VALUES (-1, %L, 'mine') $$, :'id'));
SELECT refused($$ INSERT INTO ai_usage (cost_usd) VALUES (-1) $$);
SELECT refused($$ UPDATE ai_usage SET cost_usd = -1 $$);

-- Prices that were wrong: rows are priced again, at the prices of their time as they are written now.
INSERT INTO ai_prices (model, input_usd_per_million_tokens, valid_during)
VALUES ('acme-1', 4, '(,2026-01-01 00:00+00)'), ('acme-1', 2, '[2026-01-01 00:00+00,)'), ('acme-2', 1, '(,)');
CALL spend(cost_usd => NULL, model => 'acme-1', input_tokens => 1000000, created_at => '2025-12-31 23:59+00');
CALL spend(cost_usd => NULL, model => 'acme-1', input_tokens => 1000000, created_at => '2026-01-01 00:00+00');
CALL spend(cost_usd => NULL, model => 'acme-2', input_tokens => 1000000, created_at => '2026-01-01 00:00+00');
UPDATE ai_prices SET input_usd_per_million_tokens = 3 WHERE input_usd_per_million_tokens = 4;
DELETE FROM ai_prices WHERE model = 'acme-2';

-- First without booking anything, which is the default. What was told a cost is not among it.
SELECT * FROM reprice_ai_usage('2020-01-01', now());
SELECT count(*) AS corrections FROM ai_usage WHERE price_source = 'reprice';
SELECT * FROM reprice_ai_usage('2020-01-01', now(), dry_run => false);
SELECT created_at, trim_scale(cost_usd) AS cost_usd, correction_reason FROM ai_usage WHERE price_source = 'reprice';
-- Again: there is nothing left to book.
SELECT * FROM reprice_ai_usage('2020-01-01', now(), 'ACME/acme-1', dry_run => false);
SELECT * FROM reprice_ai_usage('2026-01-01', '2026-01-02');
SELECT * FROM books;

SELECT refused($$ SELECT reprice_ai_usage(now(), now()) $$);
SELECT refused($$ SELECT reprice_ai_usage(NULL, now()) $$);

-- Both are for servers.
GRANT EXECUTE ON FUNCTION adjust_ai_usage, reprice_ai_usage TO authenticated;
CALL log_in(:'alice', :'acme');
SET ROLE authenticated;
SELECT refused(format($$ SELECT adjust_ai_usage(%L, -0.1, 'mine') $$, :'id'));
SELECT refused($$ SELECT reprice_ai_usage('2020-01-01', now()) $$);
RESET ROLE;
