-- The ledger in the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification), for a FinOps tool to
-- read. A row is a day in UTC, a line item's class and price, and who and what it was for.
--
-- The specification wants PricingQuantity x ListUnitPrice = ListCost, and the same of what is contracted,
-- to the last digit; the ledger rounds each item to 12 decimals. So the products are computed here, of
-- the exact sum of the quantities, and BilledCost is the ledger's sum as it was booked. What rounding
-- made of it (less than 1e-10 USD an item) is in columns of its own.
--
-- Money that is no quantity at a price is priced by the dollar: so many USD at 1 USD each. That is a cost
-- that was told or estimated, a correction, and an item whose cost is not its quantity times its price.
-- What would have cost something else at list, and not by a price for the same quantity, has the
-- difference in a row of its own: so many USD, at 1 by list and at 0 as contracted.

CREATE VIEW ai_limiter.ai_cost_focus WITH (security_invoker = true) AS
WITH items AS (
    SELECT l.*, coalesce(units.unit, 'Units') AS consumed_unit, coalesce(units.per, 1) AS per,
        coalesce(units.share, 1) AS share,
        date_trunc('day', l.created_at, 'UTC') AS day, date_trunc('month', l.created_at, 'UTC') AS month,
        coalesce(l.price_context ->> 'provider', l.provider, l.price_context ->> 'catalog_provider', 'unknown') AS provider_name,
        coalesce(l.model, lower(l.response_model), 'unknown') AS model_name,
        coalesce(l.correction_of IS NULL AND l.class NOT IN ('reported_cost', 'estimated_cost')
            AND l.unit_price_usd >= 0 AND abs(l.quantity * l.unit_price_usd - l.cost_usd) < 1e-10, false) AS is_priced,
        coalesce(l.list_unit_price_usd >= 0
            AND abs(l.quantity * l.list_unit_price_usd - l.list_cost_usd) < 1e-10, false) AS is_listed
    FROM ai_limiter.ai_usage_line_items l
    -- As price lists have them. An hour is no decimal number of seconds, so time is by the second.
    LEFT JOIN (VALUES ('tokens', 'Tokens', 1000000, 0.000001),
            ('characters', 'Characters', 1000000, 0.000001),
            ('pixels', 'Pixels', 1000000000, 0.000000001),
            ('pages', 'Pages', 1000, 0.001),
            ('requests', 'Requests', 1000, 0.001),
            ('searches', 'Searches', 1000, 0.001),
            ('executions', 'Executions', 1000, 0.001),
            ('messages', 'Messages', 1000, 0.001),
            ('seconds', 'Seconds', 1, 1)) AS units(kind, unit, per, share)
        ON units.kind = substring(l.class FROM '[^_]+$')
),
priced AS (
    SELECT i.day, i.month, i.tenant_id, i.provider_name, i.model_name, i.feature, i.attributes, i.class,
        i.price_source, i.correction_reason, i.consumed_unit, p.*,
        i.provider_name || '/' || i.model_name || '/' || i.class AS sku_id,
        -- As for a month that was invoiced, once it has ended; within the month it is one more charge.
        CASE WHEN i.correction_of IS NOT NULL AND date_trunc('month', i.recorded_at, 'UTC') > i.month
            THEN 'Correction' END AS charge_class,
        CASE WHEN i.correction_of IS NULL AND i.price_source ~ '^(ai_prices|catalog)'
            THEN 'Standard' ELSE 'Other' END AS pricing_category,
        CASE WHEN i.correction_of IS NULL THEN i.model_name || ': ' || replace(i.class, '_', ' ')
            ELSE 'Correction of ' || i.model_name || ': ' || i.correction_reason END || p.note AS description,
        -- Keys of one's own begin with x_, and the specification knows none of these.
        (SELECT jsonb_object_agg('x_' || replace(initcap(replace(d.key, '_', ' ')), ' ', ''), d.value)
         FROM jsonb_each_text(i.price_context) d) AS price_details
    FROM items i, LATERAL (
        SELECT CASE i.per WHEN 1 THEN i.consumed_unit ELSE i.per || ' ' || i.consumed_unit END AS pricing_unit,
            i.unit_price_usd * i.per AS price,
            CASE WHEN i.is_listed THEN i.list_unit_price_usd ELSE i.unit_price_usd END * i.per AS list_price,
            i.quantity * i.share AS pricing_quantity, i.quantity AS consumed, i.cost_usd AS billed,
            CASE WHEN i.is_listed THEN i.list_cost_usd ELSE i.cost_usd END AS listed, i.charge_usd AS charged,
            '' AS note
        WHERE i.is_priced
        UNION ALL
        SELECT 'USD', 1, 1, i.cost_usd, CASE WHEN i.correction_of IS NULL THEN i.quantity ELSE 0 END,
            i.cost_usd, i.cost_usd, i.charge_usd, ''
        WHERE NOT i.is_priced
        UNION ALL
        SELECT 'USD', 0, 1, i.list_cost_usd - i.cost_usd, 0, 0, i.list_cost_usd - i.cost_usd, 0,
            ' (more or less at list)'
        WHERE NOT (i.is_priced AND i.is_listed) AND i.list_cost_usd <> i.cost_usd) p
)
SELECT current_database()::text AS "BillingAccountId",
    current_database()::text AS "BillingAccountName",
    'Database' AS "BillingAccountType",
    nullif(p.tenant_id, '00000000-0000-0000-0000-000000000000')::text AS "SubAccountId",
    CASE WHEN p.tenant_id <> '00000000-0000-0000-0000-000000000000' THEN
        coalesce(nullif(btrim(t.name), ''), p.tenant_id::text) END AS "SubAccountName",
    CASE WHEN p.tenant_id <> '00000000-0000-0000-0000-000000000000' THEN 'Tenant' END AS "SubAccountType",
    'USD' AS "BillingCurrency",
    p.month AS "BillingPeriodStart",
    (p.month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' AS "BillingPeriodEnd",
    p.day AS "ChargePeriodStart",
    p.day + interval '24 hours' AS "ChargePeriodEnd",
    'Usage' AS "ChargeCategory",
    p.charge_class AS "ChargeClass",
    p.description AS "ChargeDescription",
    'Usage-Based' AS "ChargeFrequency",
    NULL::text AS "InvoiceId",
    p.provider_name AS "InvoiceIssuerName",
    p.provider_name AS "ProviderName",
    p.provider_name AS "PublisherName",
    'AI and Machine Learning' AS "ServiceCategory",
    'Generative AI' AS "ServiceSubcategory",
    p.model_name AS "ServiceName",
    p.sku_id AS "SkuId",
    p.class AS "SkuMeter",
    p.sku_id || '@' || trim_scale(p.list_price)::text || '/' || p.pricing_unit AS "SkuPriceId",
    p.price_details AS "SkuPriceDetails",
    p.pricing_category AS "PricingCategory",
    trim_scale(sum(p.pricing_quantity)) AS "PricingQuantity",
    p.pricing_unit AS "PricingUnit",
    trim_scale(sum(p.consumed)) AS "ConsumedQuantity",
    p.consumed_unit AS "ConsumedUnit",
    trim_scale(p.list_price) AS "ListUnitPrice",
    trim_scale(sum(p.pricing_quantity) * p.list_price) AS "ListCost",
    trim_scale(p.price) AS "ContractedUnitPrice",
    trim_scale(sum(p.pricing_quantity) * p.price) AS "ContractedCost",
    trim_scale(sum(p.billed)) AS "BilledCost",
    trim_scale(sum(p.billed)) AS "EffectiveCost",
    'USD' AS "PricingCurrency",
    trim_scale(p.list_price) AS "PricingCurrencyListUnitPrice",
    trim_scale(p.price) AS "PricingCurrencyContractedUnitPrice",
    trim_scale(sum(p.billed)) AS "PricingCurrencyEffectiveCost",
    p.attributes AS "Tags",
    p.feature AS "x_Feature",
    p.price_source AS "x_PriceSource",
    p.correction_reason AS "x_CorrectionReason",
    trim_scale(sum(p.charged)) AS "x_TenantChargeUsd",
    trim_scale(sum(p.billed) - sum(p.pricing_quantity) * p.price) AS "x_BilledRoundingUsd",
    trim_scale(sum(p.listed) - sum(p.pricing_quantity) * p.list_price) AS "x_ListRoundingUsd"
FROM priced p
LEFT JOIN ai_limiter.ai_tenants t ON t.tenant_id = p.tenant_id
GROUP BY p.day, p.month, p.tenant_id, t.name, p.provider_name, p.model_name, p.feature, p.attributes, p.class,
    p.sku_id, p.price_source, p.price_details, p.pricing_category, p.pricing_unit, p.price, p.list_price,
    p.consumed_unit, p.charge_class, p.correction_reason, p.description;
COMMENT ON VIEW ai_limiter.ai_cost_focus IS
    'The ledger in the columns of FOCUS 1.2: a row per day in UTC, line item and price, tenant, provider, model, feature and attributes. Money in US dollars.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingAccountId" IS 'The database: the ledger is one account, of all its providers.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingAccountName" IS 'The same.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingAccountType" IS 'Database.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SubAccountId" IS 'The tenant; null in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SubAccountName" IS 'The tenant''s name, else its id; null in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SubAccountType" IS 'Tenant; null in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingCurrency" IS 'USD.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingPeriodStart" IS 'The month in UTC in which the calls were made. A correction belongs to the month of what it corrects.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BillingPeriodEnd" IS 'The start of the next.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargePeriodStart" IS 'The day in UTC in which the calls were made.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargePeriodEnd" IS 'The start of the next.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargeCategory" IS 'Usage.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargeClass" IS 'Correction of a month that had ended when it was booked; null of anything else, as the specification has it, so look at x_CorrectionReason for all corrections.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargeDescription" IS 'What it was, in words; why, of a correction.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ChargeFrequency" IS 'Usage-Based.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."InvoiceId" IS 'Null: the ledger knows no invoices. reconcile_ai_invoice() holds them against it.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."InvoiceIssuerName" IS 'The provider; whose price it has where a call named none, unknown where that is not known either.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ProviderName" IS 'The provider; whose price it has where a call named none, unknown where that is not known either.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PublisherName" IS 'The provider; whose price it has where a call named none, unknown where that is not known either.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ServiceCategory" IS 'AI and Machine Learning.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ServiceSubcategory" IS 'Generative AI.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ServiceName" IS 'The model that was asked for, by its canonical name; unknown where a call named none.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SkuId" IS 'Provider, model and class.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SkuMeter" IS 'The class, as in ai_usage_line_items.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SkuPriceId" IS 'SkuId, list price and its unit.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."SkuPriceDetails" IS 'What the price depended on beside model and time, such as x_ServiceTier; null when nothing.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingCategory" IS 'Standard at a price of the catalogue or of ai_prices, negotiated ones too; Other of a cost that was told, estimated or corrected. There are no commitments, so it is never Committed.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingQuantity" IS 'How many PricingUnits; exact. Negative only of money that was given back.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingUnit" IS 'What the unit prices are for, such as 1000000 Tokens; USD for money that is no quantity at a price.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ConsumedQuantity" IS 'How much was used, in ConsumedUnits; 0 of a correction.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ConsumedUnit" IS 'Tokens, Requests, Seconds, Characters and so on; Units of what has no other.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ListUnitPrice" IS 'US dollars for a PricingUnit at the public price.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ListCost" IS 'PricingQuantity x ListUnitPrice, exactly.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ContractedUnitPrice" IS 'US dollars for a PricingUnit as agreed: the own price where there is one, else the public one.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."ContractedCost" IS 'PricingQuantity x ContractedUnitPrice, exactly.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."BilledCost" IS 'What was booked. The sum of all rows is the sum of cost_usd in ai_usage.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."EffectiveCost" IS 'The same: nothing is paid in advance.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingCurrency" IS 'USD.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingCurrencyListUnitPrice" IS 'ListUnitPrice.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingCurrencyContractedUnitPrice" IS 'ContractedUnitPrice.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."PricingCurrencyEffectiveCost" IS 'EffectiveCost.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."Tags" IS 'The attributes of the calls.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_Feature" IS 'The feature of the app; null where a call named none.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_PriceSource" IS 'Where the price came from: ai_prices and the row''s id, catalog, caller, estimate, adjustment or reprice.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_CorrectionReason" IS 'Why it was corrected; null of what is no correction.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_TenantChargeUsd" IS 'What the tenant is charged, with the markup. The sum of all rows is the sum of charge_usd in ai_usage.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_BilledRoundingUsd" IS 'BilledCost less ContractedCost: what rounding each item to 12 decimals came to.';
COMMENT ON COLUMN ai_limiter.ai_cost_focus."x_ListRoundingUsd" IS 'The ledger''s list_cost_usd less ListCost: what rounding came to there.';
