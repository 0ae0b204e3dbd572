-- A provider's own account of what it charged, against the ledger, by day in UTC and model.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

CALL spend(:'alice', 6, :'acme', model => 'openai/gpt-4o', created_at => '2025-05-01 10:00+00');
CALL spend(:'alice', 2, :'acme', model => 'gpt-4o-2024-08-06', provider => 'OpenAI', created_at => '2025-05-01 23:59:59+00');
CALL spend(:'bob', 1, :'globex', model => 'gpt-4o', provider => 'openai', created_at => '2025-05-01 12:00+00');
CALL spend(:'bob', 1, :'globex', model => 'gpt-4o', provider => 'openai', created_at => '2025-05-01 13:00+00');
CALL spend(:'bob', 5, :'globex', model => 'gpt-4o-mini', provider => 'openai', created_at => '2025-05-02 09:00+00');
CALL spend(:'bob', 7, :'globex', model => 'claude-sonnet-4', provider => 'anthropic', created_at => '2025-05-02 09:00+00');

-- One line a day and model, or more, which add up. Models in any spelling. What is in the ledger alone, of the
-- invoice's days and providers, is shown too; other providers' models are not.
SELECT $$[{"day": "2025-05-01", "model": "gpt-4o-2024-08-06", "provider": "OpenAI", "cost_usd": 12},
    {"date": "2025-05-01T18:30:00-07:00", "model": "openai/gpt-4o", "provider": "openai", "amount_usd": "0.30"},
    {"day": 1746144000, "model": "GPT-4o", "provider": "openai", "cost": 0.2}]$$ AS invoice \gset
SELECT * FROM reconcile_ai_invoice(:'invoice'::jsonb);

-- Without providers, models are looked at alone.
SELECT day, provider, model, invoiced_usd, recorded_usd, capture_rate FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-02", "model": "claude-sonnet-4", "cost_usd": 7}]');

-- Booked, the difference is spread over the accounts in proportion to what each used: 4/5 and 1/5 of 2 dollars.
-- Each account's part is on its largest row.
SELECT * FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-01", "model": "gpt-4o", "provider": "openai", "cost_usd": 12}]', book => true);
CREATE VIEW public.corrections AS
SELECT named(c.user_id) AS "user", u.cost_usd::real AS corrected, trim_scale(c.cost_usd) AS by, c.correction_reason AS reason
FROM ai_usage c JOIN ai_usage u ON u.id = c.correction_of;
SELECT * FROM public.corrections ORDER BY 1, 2;
-- A second time there is nothing to book.
SELECT difference_usd, capture_rate, adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-01", "model": "gpt-4o", "provider": "openai", "cost_usd": 12}]', book => true);
SELECT count(*) FROM public.corrections;

-- The other way: money is given back, from the largest rows, none of which falls below zero.
SELECT difference_usd, adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-01", "model": "gpt-4o", "cost_usd": 1}]', book => true);
SELECT * FROM public.corrections WHERE by < 0 ORDER BY 1, 2;
SELECT difference_usd, adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-01", "model": "gpt-4o", "cost_usd": 1}]', book => true);
SELECT min(usd) >= 0 AS none_below_zero, trim_scale(sum(usd)) AS recorded
FROM (SELECT sum(cost_usd) AS usd FROM ai_usage WHERE model = 'gpt-4o' GROUP BY coalesce(correction_of, id)) r;

-- Nothing is booked where there is no row to correct, nor of what the invoice does not name: it may be on another.
-- A credit takes back what there is, and no more.
SELECT day, model, difference_usd, capture_rate, adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-03", "model": "o3", "cost_usd": 4}, {"day": "2025-05-02", "model": "gpt-4o-mini", "cost_usd": -1}]', book => true)
ORDER BY day, model;
-- Free calls that turn out to cost something: there is no proportion, and one of them takes it.
CALL spend(:'alice', 0, :'acme', model => 'free', created_at => '2025-05-04 09:00+00');
CALL spend(:'bob', 0, :'acme', model => 'free', created_at => '2025-05-04 09:00+00');
SELECT recorded_usd, adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-04", "model": "free", "cost_usd": 0.5}]', book => true);
-- Thirds of what does not divide by three add up to it.
CALL spend(:'alice', 1, :'acme', model => 'thirds', created_at => '2025-05-05 09:00+00');
CALL spend(:'bob', 1, :'acme', model => 'thirds', created_at => '2025-05-05 09:00+00');
CALL spend(:'carol', 1, :'acme', model => 'thirds', created_at => '2025-05-05 09:00+00');
SELECT adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-05", "model": "thirds", "cost_usd": 3.000000000001}]', book => true);
SELECT adjusted_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-05", "model": "thirds", "cost_usd": 2}]', book => true);
SELECT trim_scale(sum(cost_usd)) AS recorded FROM ai_usage WHERE model = 'thirds';
-- The model that answered is the one that is billed.
INSERT INTO ai_usage (model, response_model, cost_usd, created_at) VALUES ('auto', 'openai/gpt-5-2025-08-07', 2, '2025-05-06 09:00+00');
SELECT model, recorded_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-06", "model": "gpt-5", "cost_usd": 2}]');
-- What is of no model.
SELECT model, invoiced_usd, recorded_usd FROM reconcile_ai_invoice(invoice => '[{"day": "2025-05-07", "model": null, "cost_usd": 2}]');
SELECT count(*) FROM reconcile_ai_invoice(invoice => '[]');
-- Counters have followed.
SELECT drift FROM public.books;

-- An invoice in a table; mapping says what its columns are called. (Of two functions of one name, the name of the
-- argument says which.)
CREATE TABLE public.openai_costs (bucket timestamptz, line text, amount numeric, organization text);
INSERT INTO public.openai_costs VALUES ('2025-05-02 00:00+00', 'gpt-4o-mini', 6, 'o'), ('2025-05-02 23:59+00', 'gpt-4o-mini', 0.5, 'o');
SELECT day, provider, model, invoiced_usd, recorded_usd FROM reconcile_ai_invoice(invoice_table => 'public.openai_costs', mapping => '{"day": "bucket", "model": "line", "cost_usd": "amount"}') WHERE model LIKE 'gpt%';
SELECT refused($$SELECT reconcile_ai_invoice(invoice_table => 'public.openai_costs', mapping => '{"day": "bucket", "model": "line"}')$$);
SELECT refused($$SELECT reconcile_ai_invoice(invoice_table => 'public.openai_costs', mapping => '{"when": "bucket"}')$$);
SELECT refused($$SELECT reconcile_ai_invoice(invoice_table => NULL)$$);

-- A line that makes no sense is named, and nothing is booked.
SELECT refused(format('SELECT reconcile_ai_invoice(invoice => %L, book => true)', line)) FROM unnest(ARRAY[
    '{"day": "2025-05-01"}', '[{"day": "2025-05-01", "model": "m", "cost_usd": 1}, 2]',
    '[{"model": "m", "cost_usd": 1}]', '[{"day": "2025-02-30", "model": "m", "cost_usd": 1}]', '[{"day": "yesterday", "model": "m", "cost_usd": 1}]',
    '[{"day": 1e300, "model": "m", "cost_usd": 1}]', '[{"day": "2025-05-01", "cost_usd": 1}]', '[{"day": "2025-05-01", "model": 4, "cost_usd": 1}]',
    '[{"day": "2025-05-01", "model": "m"}]', '[{"day": "2025-05-01", "model": "m", "cost_usd": "NaN"}]', '[{"day": "2025-05-01", "model": "m", "cost_usd": 1e20}]',
    '[{"day": "2025-05-01", "model": "m", "cost_usd": null}]', '[{"day": "2025-05-01", "model": "m", "provider": {}, "cost_usd": 1}]',
    '[{"day": "2025-05-01", "model": "m", "provider": "openai", "cost_usd": 1}, {"day": "2025-05-01", "model": "m", "cost_usd": 1}]']) line;
SELECT refused('SELECT reconcile_ai_invoice(invoice => NULL)');
-- Twice at once must not book twice, so each must see what the other has booked.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT refused($$SELECT reconcile_ai_invoice(invoice => '[]', book => true)$$);
ROLLBACK;
-- It is for servers.
SET ROLE authenticated;
SELECT public.refused($$SELECT ai_limiter.reconcile_ai_invoice(invoice => '[]')$$);
RESET ROLE;
