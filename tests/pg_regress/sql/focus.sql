-- The ledger in the columns of FOCUS 1.2: a row is a day in UTC, a line item and its price, and whose it was.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

INSERT INTO ai_tenants (tenant_id, name) VALUES (:'acme', 'Acme'), (:'globex', NULL);
CALL spend(cost_usd => 0, created_at => '2025-05-01 00:00+00');

-- Two calls of one day, one of the next, at an own price: half the list's.
INSERT INTO ai_usage (tenant_id, model, attributes, feature, cost_usd, list_cost_usd, charge_usd, price_source, created_at, line_items)
SELECT :'acme', 'openai/gpt-4o', '{"team": "search"}', 'chat', tokens * 0.00000125, tokens * 0.0000025, tokens * 0.000002,
    'ai_prices', created_at, jsonb_build_array(jsonb_build_object('class', 'input_tokens', 'quantity', tokens,
        'unit_price_usd', 0.00000125, 'list_unit_price_usd', 0.0000025, 'price_source', 'ai_prices 1',
        'cost_usd', tokens * 0.00000125, 'list_cost_usd', tokens * 0.0000025))
FROM (VALUES (1000, '2025-05-02 23:00+00'::timestamptz), (500, '2025-05-02 23:59:59.999999+00'), (2, '2025-05-03 00:00+00')) v (tokens, created_at);

CREATE VIEW public.focus AS
SELECT "ChargePeriodStart"::date AS day, "SubAccountName" AS sub_account, "SkuMeter" AS meter, "ConsumedQuantity" AS consumed,
    "ConsumedUnit" AS unit, "PricingQuantity" AS quantity, "PricingUnit" AS pricing_unit, "ListUnitPrice" AS list_price,
    "ListCost" AS list_cost, "ContractedUnitPrice" AS price, "ContractedCost" AS cost, "BilledCost" AS billed,
    "x_TenantChargeUsd" AS charged
FROM ai_cost_focus WHERE "BilledCost" <> 0 OR "ListCost" <> 0;
SELECT * FROM public.focus ORDER BY day, meter;

-- What stands beside them.
SELECT DISTINCT "ProviderName", "ServiceName", "ServiceCategory", "ServiceSubcategory", "SkuId", "SkuPriceId" FROM ai_cost_focus WHERE "Tags" <> '{}';
SELECT DISTINCT "PricingCategory", "ChargeCategory", "ChargeClass", "ChargeFrequency", "BillingCurrency", "PricingCurrency", "ChargeDescription", "Tags", "x_Feature", "x_PriceSource" FROM ai_cost_focus WHERE "Tags" <> '{}';
SELECT DISTINCT "BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd" FROM ai_cost_focus WHERE "Tags" <> '{}' ORDER BY 3;

-- A cost that was told has no price: it is so many dollars at one dollar each. Without a tenant there is no
-- sub account, and a tenant without a name is known by its id.
CALL spend(cost_usd => 0.3, model => 'm', created_at => '2025-05-04 10:00+00');
CALL spend(cost_usd => 0.2, model => 'm', created_at => '2025-05-04 11:00+00');
CALL spend(cost_usd => 0.1, model => 'm', tenant_id => :'globex', created_at => '2025-05-04 12:00+00');
SELECT named(sub_account) AS sub_account, meter, consumed, unit, quantity, pricing_unit, list_price, list_cost, price, cost, billed FROM public.focus WHERE day = '2025-05-04' ORDER BY 5;

-- Where it would have cost something else at list, the difference is a row of its own, which costs nothing.
INSERT INTO ai_usage (model, cost_usd, list_cost_usd, created_at) VALUES ('m', 3, 4, '2025-05-05 10:00+00'), ('m', 3, 2.5, '2025-05-05 11:00+00');
SELECT quantity, pricing_unit, list_price, list_cost, price, cost, billed FROM public.focus WHERE day = '2025-05-05' ORDER BY cost, quantity;

-- Prices with more digits than the ledger has: the products are exact, and what rounding came to is told.
INSERT INTO ai_usage (model, cost_usd, list_cost_usd, created_at, price_source, line_items)
SELECT 'm', 0.000000666667, 0.000001, '2025-05-06 10:00+00', 'ai_prices', '[{"class": "output_tokens", "quantity": 2, "unit_price_usd": 0.0000003333333, "list_unit_price_usd": 0.0000005, "price_source": "ai_prices 1", "cost_usd": 0.000000666667, "list_cost_usd": 0.000001}]'
FROM generate_series(1, 3);
SELECT "PricingQuantity", "ContractedUnitPrice", "ContractedCost", "PricingQuantity" * "ContractedUnitPrice" = "ContractedCost" AS exact, "BilledCost", "x_BilledRoundingUsd", "x_ListRoundingUsd"
FROM ai_cost_focus WHERE "ChargePeriodStart" = '2025-05-06';

-- A list that prices by other classes: what is paid keeps its quantity and price, and the list's total is kept.
INSERT INTO ai_usage (model, cost_usd, list_cost_usd, created_at, price_source, line_items)
VALUES ('m', 0.004, 0.008, '2025-05-06 20:00+00', 'ai_prices', '[{"class": "input_tokens", "quantity": 1000, "unit_price_usd": 0.000004, "price_source": "ai_prices 1", "cost_usd": 0.004, "list_unit_price_usd": 0.00001, "list_cost_usd": 0.006}]');
SELECT meter, consumed, unit, quantity, pricing_unit, list_price, list_cost, price, cost, billed FROM public.focus WHERE day = '2025-05-06' AND meter = 'input_tokens' ORDER BY billed;

-- A price that hung on more than model and time says on what.
INSERT INTO ai_usage (model, cost_usd, created_at, price_source, price_context, line_items)
VALUES ('m', 0.001, '2025-05-07 10:00+00', 'catalog', '{"service_tier": "batch"}', '[{"class": "web_searches", "quantity": 1, "unit_price_usd": 0.001, "price_source": "catalog", "cost_usd": 0.001}]');
SELECT "SkuPriceDetails", "PricingQuantity", "PricingUnit", "ListUnitPrice", "ListCost" FROM ai_cost_focus WHERE "ChargePeriodStart" = '2025-05-07';

-- A correction stands on the day of what it corrects. By the specification it is a Correction once the month is
-- over; before that it is one more charge, and x_CorrectionReason tells it.
SELECT adjust_ai_usage(id, -0.05, 'invoice') IS NOT NULL AS booked FROM ai_usage WHERE cost_usd = 0.3;
CALL spend(cost_usd => 8, model => 'now');
SELECT adjust_ai_usage(id, 0.5, 'a missing call') IS NOT NULL AS booked FROM ai_usage WHERE cost_usd = 8;
SELECT "ChargeClass", "x_CorrectionReason", "ChargeDescription", "PricingQuantity", "PricingUnit", "BilledCost", "PricingCategory" FROM ai_cost_focus WHERE "x_CorrectionReason" IS NOT NULL ORDER BY 2;

-- The sums are the ledger's.
SELECT sum("BilledCost") = (SELECT sum(cost_usd) FROM ai_usage) AS billed, sum("ListCost" + "x_ListRoundingUsd") = (SELECT sum(list_cost_usd) FROM ai_usage) AS listed,
    sum("x_TenantChargeUsd") = (SELECT sum(charge_usd) FROM ai_usage) AS charged FROM ai_cost_focus;

-- As a user, one's own.
CALL spend(:'alice', 1, :'acme', created_at => '2025-05-08 10:00+00');
CALL spend(:'bob', 2, :'acme', created_at => '2025-05-08 10:00+00');
CALL log_in(:'alice', :'acme');
SET ROLE authenticated;
SELECT sum("BilledCost") AS billed FROM ai_limiter.ai_cost_focus;
RESET ROLE;
