//! `ai_cost_focus` against the rules of FOCUS 1.2, the FinOps Open Cost and Usage Specification: what its
//! columns must be, transcribed by hand from its text, over a ledger of everything that a ledger can have.

mod focus_rules;

use ai_limiter_tests::calls::Session;
use ai_limiter_tests::{Cluster, Database};
use focus_rules::violations;
use postgres::Client;

const VIEW: &str = "ai_limiter.ai_cost_focus";

/// Prices of the catalogue and own ones, negotiated below and above the list and too long for 12
/// decimals; told costs, with and without another list price; attributes, features and contexts; free
/// calls; three tenants over two months. And corrections: of a month that ended, and of this one.
fn varied_ledger() -> (Database, Client) {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    client.run(
        "INSERT INTO ai_limiter.ai_tenants (tenant_id, name)
         VALUES ('00000000-0000-4000-8000-000000000001', 'Acme'), ('00000000-0000-4000-8000-000000000002', ' ')",
    );
    // These make the partitions, and are told costs at once.
    for instant in ["2025-01-31 23:59:59.999999+00", "2025-02-01 00:00:00+00"] {
        client.run(&format!(
            "SELECT ai_limiter.record_ai_usage(cost_usd => 0.25, created_at => '{instant}')"
        ));
    }
    client.run("SELECT ai_limiter.record_ai_usage(model => 'openai/gpt-4o', cost_usd => 3)");
    client.run(
        r#"INSERT INTO ai_limiter.ai_usage (tenant_id, provider, model, response_model, feature, attributes,
            cost_usd, list_cost_usd, charge_usd, price_source, line_items, price_context, created_at)
        SELECT ('00000000-0000-4000-8000-00000000000' || n % 4)::uuid,
            (ARRAY['openai', 'anthropic', NULL])[n % 3 + 1], CASE WHEN n % 11 > 0 THEN 'model-' || n % 4 END,
            CASE n % 4 WHEN 0 THEN 'model-4-2025-01-01' END, CASE n % 5 WHEN 0 THEN 'chat' END,
            (ARRAY['{}', '{"team": "a"}', '{"team": "b", "env": ""}'])[n % 3 + 1]::jsonb,
            c.cost, c.list_cost, round(c.cost * (1 + n % 3 * 0.123456789), 12), i.source, c.items,
            CASE n % 6 WHEN 0 THEN '{"service_tier": "batch", "processing": "eu"}'::jsonb END,
            '2025-01-03 22:00+00'::timestamptz + n * interval '3 hours 7 minutes'
        FROM generate_series(1, 400) n,
            LATERAL (SELECT (ARRAY['catalog', 'ai_prices 7'])[n % 2 + 1] AS source,
                (ARRAY[1, 0.3333333, 1.5])[n % 3 + 1] AS factor) i,
            LATERAL (SELECT jsonb_agg(jsonb_build_object('class', class, 'quantity', quantity,
                    'unit_price_usd', list * factor, 'price_source', source, 'cost_usd', round(quantity * list * factor, 12))
                    || CASE WHEN factor = 1 THEN '{}' ELSE jsonb_build_object('list_unit_price_usd', list,
                        'list_cost_usd', round(quantity * list, 12)) END ORDER BY class) AS items,
                sum(round(quantity * list * factor, 12)) AS cost, sum(round(quantity * list, 12)) AS list_cost
                FROM (VALUES ('input_tokens', n * 17, 0.00000250123456789), ('cache_read_tokens', n % 7, 0.0000001),
                    ('output_reasoning_tokens', n, 0.00001), ('web_searches', n % 3, 0.01), ('audio_seconds', n % 60 / 7.0, 0.0001),
                    ('input_document_pages', n % 2, 0), ('requests', 1, 0.000003)) p (class, quantity, list)) c"#,
    );
    client.run(
        r#"INSERT INTO ai_limiter.ai_usage (provider, model, cost_usd, list_cost_usd, price_source, line_items, created_at)
        VALUES ('groq', 'm', 1.5, 2, 'caller', NULL, '2025-01-09 10:00+00'), ('groq', 'm', 2.5, 2, 'caller', NULL, '2025-01-09 11:00+00'),
            ('groq', 'm', 0, 0, 'estimate', NULL, '2025-01-09 12:00+00'),
            -- An item whose cost is not its quantity times its price, and one without a price.
            ('groq', 'm', 0.5, 0.5, 'catalog', '[{"class": "input_tokens", "quantity": 10, "unit_price_usd": 0.01, "price_source": "catalog", "cost_usd": 0.3},
                {"class": "novelties", "quantity": 2, "price_source": "catalog", "cost_usd": 0.2}]', '2025-01-09 13:00+00'),
            ('groq', 'm', 0.25, 0.3, 'ai_prices', '[{"class": "input_tokens", "quantity": 10, "unit_price_usd": 0.01, "list_unit_price_usd": 0.03,
                "price_source": "ai_prices", "cost_usd": 0.25, "list_cost_usd": 0.3}]', '2025-01-09 14:00+00');
        -- The list has a class that the own price has not.
        INSERT INTO ai_limiter.ai_usage (provider, model, cost_usd, list_cost_usd, price_source, line_items, created_at)
        VALUES ('groq', 'l', 0.005, 0.008, 'ai_prices', '[{"class": "input_tokens", "quantity": 1000, "unit_price_usd": 0.000004, "list_unit_price_usd": 0.00001,
                "price_source": "ai_prices", "cost_usd": 0.004, "list_cost_usd": 0.006}, {"class": "output_tokens", "quantity": 100,
                "unit_price_usd": 0.00001, "price_source": "ai_prices", "cost_usd": 0.001}]', '2025-01-09 14:00+00');
        -- Free for us, and not for the tenant.
        INSERT INTO ai_limiter.ai_usage (model, cost_usd, charge_usd, price_source, line_items, created_at)
        VALUES ('m', 0, 1, 'ai_prices', '[{"class": "input_tokens", "quantity": 10, "unit_price_usd": 0, "price_source": "ai_prices", "cost_usd": 0},
            {"class": "requests", "quantity": 1, "unit_price_usd": 0, "price_source": "ai_prices", "cost_usd": 0}]', '2025-01-09 15:00+00')"#,
    );
    client.run(
        "SELECT ai_limiter.adjust_ai_usage(id, round(cost_usd / -3, 12), 'invoice') FROM ai_limiter.ai_usage
             WHERE cost_usd > 0.01 AND extract(hour FROM created_at) < 6;
         SELECT ai_limiter.adjust_ai_usage(id, 0.75, 'a missing call') FROM ai_limiter.ai_usage
             WHERE created_at > now() - interval '1 day' AND correction_of IS NULL",
    );
    (database, client)
}

#[test]
fn every_row_keeps_the_rules_of_the_specification() {
    let (_database, mut client) = varied_ledger();
    assert!(client.value(&format!("SELECT count(*) > 1000 FROM {VIEW}")) == "t");
    assert_eq!(violations(&mut client, VIEW), [""; 0]);
}

#[test]
fn the_rules_see_what_is_broken() {
    let (_database, mut client) = varied_ledger();
    client.run(&format!("CREATE TABLE public.rows AS SELECT * FROM {VIEW}"));
    assert_eq!(violations(&mut client, "public.rows"), [""; 0]);
    for (change, expected) in focus_rules::BREAKAGES {
        let mut transaction = client.transaction().unwrap();
        transaction.run(change);
        let found = violations(&mut transaction, "public.rows");
        assert!(found.iter().any(|rule| rule == expected), "{change}: {found:?}");
        transaction.rollback().unwrap();
    }
    for rule in focus_rules::rules() {
        assert!(focus_rules::BREAKAGES.iter().any(|(_, seen)| *seen == rule), "{rule}");
    }
}

#[test]
fn its_sums_are_the_ledgers_to_the_last_digit() {
    let (_database, mut client) = varied_ledger();
    let by_day = "SELECT count(*) FROM (
        SELECT date_trunc('day', created_at, 'UTC') AS day, sum(cost_usd) AS cost, sum(list_cost_usd) AS list,
            sum(charge_usd) AS charge FROM ai_limiter.ai_usage GROUP BY 1) l
        FULL JOIN (SELECT \"ChargePeriodStart\" AS day, sum(\"BilledCost\") AS cost,
            sum(\"ListCost\" + \"x_ListRoundingUsd\") AS list, sum(\"x_TenantChargeUsd\") AS charge
            FROM ai_limiter.ai_cost_focus GROUP BY 1) f USING (day)
        WHERE (l.cost, l.list, l.charge) IS DISTINCT FROM (f.cost, f.list, f.charge)";
    assert_eq!(client.value(by_day), "0");
    let rounding = format!(
        "SELECT max(abs(\"x_BilledRoundingUsd\")) BETWEEN 1e-13 AND 1e-9
            AND max(abs(\"x_ListRoundingUsd\")) BETWEEN 1e-13 AND 1e-9 FROM {VIEW}"
    );
    assert_eq!(client.value(&rounding), "t", "it is shown, and it is small");
    let used = "SELECT sum(\"ConsumedQuantity\") = (SELECT sum(quantity) FROM ai_limiter.ai_usage_line_items
            WHERE class = 'output_reasoning_tokens')
        FROM ai_limiter.ai_cost_focus WHERE \"SkuMeter\" = 'output_reasoning_tokens'";
    assert_eq!(client.value(used), "t");
}

#[test]
fn a_correction_is_marked_and_belongs_to_the_day_of_what_it_corrects() {
    let (_database, mut client) = varied_ledger();
    let marked = format!(
        "SELECT string_agg(DISTINCT concat_ws(' ', \"x_CorrectionReason\", \"ChargeClass\", \"PricingUnit\"), '; ')
         FROM {VIEW} WHERE \"x_CorrectionReason\" IS NOT NULL"
    );
    assert_eq!(client.value(&marked), "a missing call USD; invoice Correction USD");
    let others = format!(
        "SELECT count(*) FROM {VIEW} WHERE \"ChargeClass\" = 'Correction' AND \"x_CorrectionReason\" IS NULL"
    );
    assert_eq!(client.value(&others), "0");
    let returned = format!(
        "SELECT sum(\"BilledCost\") = (SELECT sum(cost_usd) FROM ai_limiter.ai_usage
            WHERE correction_of IS NOT NULL AND created_at < '2025-02-01+00')
         FROM {VIEW} WHERE \"ChargeClass\" = 'Correction' AND \"ChargePeriodEnd\" <= '2025-02-01+00'"
    );
    assert_eq!(client.value(&returned), "t");
}

#[test]
fn an_own_price_is_contracted_beside_the_list_price() {
    let (_database, mut client) = varied_ledger();
    let prices = format!(
        "SELECT string_agg(DISTINCT concat_ws(' ', \"ListUnitPrice\", \"ContractedUnitPrice\", \"PricingUnit\", \"PricingCategory\"), '; ')
         FROM {VIEW} WHERE \"SkuMeter\" = 'output_reasoning_tokens' AND \"x_PriceSource\" = 'ai_prices 7'"
    );
    assert_eq!(
        client.value(&prices),
        "10 10 1000000 Tokens Standard; 10 15 1000000 Tokens Standard; 10 3.333333 1000000 Tokens Standard"
    );
}

#[test]
fn a_list_of_other_classes_leaves_quantities_and_contracted_prices_as_they_are() {
    let (_database, mut client) = varied_ledger();
    let rows = format!(
        "SELECT string_agg(concat_ws(' ', \"SkuMeter\", \"PricingQuantity\", \"PricingUnit\", \"ContractedUnitPrice\", \"ListUnitPrice\"), '; '
            ORDER BY \"SkuMeter\", \"ContractedUnitPrice\" DESC)
         FROM {VIEW} WHERE \"ServiceName\" = 'l'"
    );
    assert_eq!(
        client.value(&rows),
        "input_tokens 0.001 1000000 Tokens 4 4; input_tokens 0.002 USD 0 1; \
         output_tokens 0.0001 1000000 Tokens 10 10; output_tokens 0.001 USD 0 1"
    );
}

#[test]
fn a_user_sees_only_their_own_rows() {
    let database = Cluster::shared().fresh_database();
    let mut client = database.connect();
    client.run(
        "SELECT ai_limiter.record_ai_usage('00000000-0000-4000-8000-00000000000a', cost_usd => 1);
         SELECT ai_limiter.record_ai_usage('00000000-0000-4000-8000-00000000000b', cost_usd => 2);
         SET request.jwt.claims = '{\"sub\": \"00000000-0000-4000-8000-00000000000a\"}'; SET ROLE authenticated",
    );
    assert_eq!(client.value(&format!("SELECT sum(\"BilledCost\") FROM {VIEW}")), "1");
}
