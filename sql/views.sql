-- Cost views for people who query. All are security_invoker: each shows what RLS lets the caller
-- see of the ledger. Days are of the tenant's zone; costs are settled US dollars.

CREATE VIEW ai_limiter.ai_cost_by_day WITH (security_invoker = true) AS
SELECT u.tenant_id,
    (u.created_at AT TIME ZONE coalesce(t.timezone, z.timezone, 'UTC'))::date AS day,
    sum(u.requests)::bigint AS requests, sum(u.input_tokens)::bigint AS input_tokens,
    sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd
FROM ai_limiter.ai_usage u
LEFT JOIN ai_limiter.ai_tenants t ON t.tenant_id = u.tenant_id
LEFT JOIN ai_limiter.ai_tenants z ON z.tenant_id = '00000000-0000-0000-0000-000000000000'
GROUP BY 1, 2;
COMMENT ON VIEW ai_limiter.ai_cost_by_day IS 'Settled use by tenant and day of its zone.';

CREATE VIEW ai_limiter.ai_cost_by_model WITH (security_invoker = true) AS
SELECT u.tenant_id, u.provider, u.model,
    sum(u.requests)::bigint AS requests, sum(u.input_tokens)::bigint AS input_tokens,
    sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd
FROM ai_limiter.ai_usage u GROUP BY 1, 2, 3;
COMMENT ON VIEW ai_limiter.ai_cost_by_model IS 'Settled use by tenant, provider and requested model.';

CREATE VIEW ai_limiter.ai_cost_by_tenant WITH (security_invoker = true) AS
SELECT u.tenant_id, t.name,
    sum(u.requests)::bigint AS requests, sum(u.input_tokens)::bigint AS input_tokens,
    sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd
FROM ai_limiter.ai_usage u
LEFT JOIN ai_limiter.ai_tenants t ON t.tenant_id = u.tenant_id
GROUP BY 1, 2;
COMMENT ON VIEW ai_limiter.ai_cost_by_tenant IS
    'Settled use by tenant. Who may see only their own rows sees only those summed; get_ai_cost() gives a tenant''s totals to the roles that may see them.';

CREATE VIEW ai_limiter.ai_cost_by_user WITH (security_invoker = true) AS
SELECT u.tenant_id, u.user_id,
    sum(u.requests)::bigint AS requests, sum(u.input_tokens)::bigint AS input_tokens,
    sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd
FROM ai_limiter.ai_usage u GROUP BY 1, 2;
COMMENT ON VIEW ai_limiter.ai_cost_by_user IS 'Settled use by tenant and user; the user null is calls of nobody.';

CREATE VIEW ai_limiter.ai_cost_by_feature WITH (security_invoker = true) AS
SELECT u.tenant_id, u.feature,
    sum(u.requests)::bigint AS requests, sum(u.input_tokens)::bigint AS input_tokens,
    sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd
FROM ai_limiter.ai_usage u GROUP BY 1, 2;
COMMENT ON VIEW ai_limiter.ai_cost_by_feature IS 'Settled use by tenant and feature of the app.';

CREATE VIEW ai_limiter.ai_usage_line_items WITH (security_invoker = true) AS
SELECT u.id AS usage_id, u.created_at, u.recorded_at, u.tenant_id, u.user_id, u.provider, u.model,
    u.response_model, u.feature, u.api_key_id, u.run_id, u.attributes, u.price_context,
    u.correction_of, u.correction_reason,
    i.class, i.quantity, i.unit_price_usd, i.list_unit_price_usd, i.price_source, i.cost_usd,
    i.list_cost_usd, i.charge_usd
FROM ai_limiter.ai_usage u,
    -- Null in a row that passed the triggers by.
    LATERAL (SELECT coalesce(u.list_cost_usd, u.cost_usd) AS list_cost_usd,
        coalesce(u.charge_usd, u.cost_usd) AS charge_usd) whole, LATERAL (
    -- A charge is of the whole row. Each item gets its share by cost, as what the shares up to it come
    -- to less what those before it do: so they add up whatever the rounding.
    SELECT l.class, l.quantity, l.unit_price_usd,
        coalesce(l.list_unit_price_usd, l.unit_price_usd) AS list_unit_price_usd, l.price_source,
        l.cost_usd,
        -- A list may have other classes than an own price: what no item has is the last one's.
        coalesce(l.list_cost_usd, l.cost_usd) + CASE WHEN l.position = count(*) OVER ()
            THEN whole.list_cost_usd - sum(coalesce(l.list_cost_usd, l.cost_usd)) OVER () ELSE 0 END AS list_cost_usd,
        CASE WHEN u.cost_usd <> 0 THEN
                round(whole.charge_usd * (sum(l.cost_usd) OVER upto) / u.cost_usd, 12)
                - round(whole.charge_usd * (sum(l.cost_usd) OVER upto - l.cost_usd) / u.cost_usd, 12)
            WHEN l.position = 1 THEN whole.charge_usd ELSE 0 END AS charge_usd
    FROM ROWS FROM (pg_catalog.jsonb_to_recordset(u.line_items) AS (class text, quantity numeric,
            unit_price_usd numeric, list_unit_price_usd numeric, price_source text, cost_usd numeric,
            list_cost_usd numeric)) WITH ORDINALITY
        AS l(class, quantity, unit_price_usd, list_unit_price_usd, price_source, cost_usd, list_cost_usd, position)
    WINDOW upto AS (ORDER BY l.position)
    UNION ALL
    SELECT 'reported_cost', 1, u.cost_usd, whole.list_cost_usd, u.price_source, u.cost_usd,
        whole.list_cost_usd, whole.charge_usd
    WHERE u.line_items IS NULL) i;
COMMENT ON VIEW ai_limiter.ai_usage_line_items IS
    'What each row of the ledger is made of: quantity times unit price of each class. A row''s items add up to its cost_usd, its list_cost_usd and its charge_usd. A cost that was told and not priced is one item, reported_cost.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.usage_id IS 'The row of the ledger.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.class IS 'input_tokens, cache_read_tokens, output_tokens, web_searches, requests and the other classes of the price catalogue; what has a class of its own is not in the whole''s. reported_cost for a cost that was told and not priced, estimated_cost for what was held, adjustment for a correction of money alone.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.quantity IS 'How much of the class, in tokens, requests, seconds, characters, pages or pixels.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.unit_price_usd IS 'US dollars for one, as they are paid.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.list_unit_price_usd IS 'US dollars for one at the public price; what is paid where no other is known.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.price_source IS 'Where the price came from: ai_prices and the row''s id, catalog, caller, estimate, adjustment or reprice; unpriced for what was used and has no price.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.cost_usd IS 'Quantity times unit price, rounded to 12 decimals so that a row''s items add up to its cost.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.list_cost_usd IS 'The same at the public price; the last item also has what the list prices by classes that the row was not priced by.';
COMMENT ON COLUMN ai_limiter.ai_usage_line_items.charge_usd IS 'The item''s share of what the tenant is charged, by cost.';

CREATE VIEW ai_limiter.ai_model_prices WITH (security_invoker = true) AS
SELECT p.provider, p.model, NULL::text AS name, p.tenant_id, NULL::bigint AS context_window,
    coalesce(p.unit_prices, '{}') || jsonb_strip_nulls(jsonb_build_object(
        'input_mtok', p.input_usd_per_million_tokens, 'output_mtok', p.output_usd_per_million_tokens,
        'requests_kcount', p.usd_per_request * 1000)) AS unit_prices,
    '[]'::jsonb AS variants, p.discount_factor, p.markup_factor, p.valid_during,
    'ai_prices'::text AS price_source, p.id AS price_id, p.source AS imported_from
FROM ai_limiter.ai_prices p WHERE p.valid_during @> now()
UNION ALL
SELECT c.provider, c.model, c.name, NULL, c.context_window, c.unit_prices, c.variants, NULL, NULL, NULL,
    'catalog', c.catalog_id, NULL
FROM ai_limiter.ai_catalog_prices() c;
COMMENT ON VIEW ai_limiter.ai_model_prices IS
    'Every model that can be priced now: the rows of ai_prices that are valid and that the caller may see, which win, and the models of the catalogue.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.provider IS 'The provider whose price it is; in a row of ai_prices null for any, and empty for calls that name none.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.model IS 'The model, in ai_prices also a pattern with *.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.name IS 'The catalogue''s name of the model for people.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.tenant_id IS 'The tenant that has this price; null is everyone.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.context_window IS 'How many tokens fit into a call; null where it is not known.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.unit_prices IS 'US dollars by price key: input_mtok is for a million input tokens, web_searches_kcount for a thousand searches; a number, or base and tiers by the call''s input tokens. Empty in a row of ai_prices that only changes another price by its factors.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.variants IS 'Prices that hold instead under a condition, such as a service tier or a batch: an array of objects with when and unit_prices.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.discount_factor IS 'Of a row of ai_prices.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.markup_factor IS 'Of a row of ai_prices.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.valid_during IS 'Of a row of ai_prices.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.price_source IS 'ai_prices or catalog.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.price_id IS 'The row of ai_prices, or of ai_price_catalogs; null for the catalogue that came with the library.';
COMMENT ON COLUMN ai_limiter.ai_model_prices.imported_from IS 'manual or litellm, of a row of ai_prices.';

CREATE VIEW ai_limiter.ai_limit_status WITH (security_invoker = true) AS
SELECT c.limit_name, c.limit_id, c.subject, c.tenant_id, c.user_id, c.metric, c.period, c.action,
    c.used, c.held, c.amount, c.headroom, c.window_start, c.resets_at
FROM ai_limiter.ai_counters() c;
COMMENT ON VIEW ai_limiter.ai_limit_status IS
    'Every counter that is not empty and that the caller may see: settled, held, allowed, left, and when it resets.';

CREATE VIEW ai_limiter.ai_overspend_bound WITH (security_invoker = true) AS
SELECT e.limit_name, e.limit_id, e.subject, e.tenant_id, e.user_id, e.metric, e.period, e.action, e.amount,
    e.open_holds, e.unbounded_holds, e.held, e.held_at_most, e.overspend_bound, e.resets_at
FROM ai_limiter.ai_hold_exposure() e;
COMMENT ON VIEW ai_limiter.ai_overspend_bound IS
    'Of every counter with open holds that the caller may see: how far these could exceed what is held, if each call came to the most that it may. A hold without a known maximum has no bound, and is counted in unbounded_holds.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.limit_name IS 'The rule; run_limit for the cap of a single run.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.limit_id IS 'The row of ai_limits; 0 is a run''s own cap.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.subject IS 'Whose counter it is; empty for one counter for all.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.tenant_id IS 'The tenant whose counter it is, as far as it is anyone''s.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.user_id IS 'The user whose counter it is, as far as it is anyone''s.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.metric IS 'What is counted, and so the unit of the numbers.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.period IS 'The period of the rule.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.action IS 'deny or warn.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.amount IS 'What the rule allows.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.open_holds IS 'How many holds are open.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.unbounded_holds IS 'How many of them have no known maximum; they are in held_at_most with what is held.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.held IS 'What they hold.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.held_at_most IS 'The most that they may come to.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.overspend_bound IS 'held_at_most - held.';
COMMENT ON COLUMN ai_limiter.ai_overspend_bound.resets_at IS 'When the window ends; null when it never does, and of a rolling limit.';

CREATE VIEW ai_limiter.ai_limiter_stat WITH (security_invoker = true) AS
SELECT c.checks, c.admitted, c.denied_limit_exceeded, c.denied_model_not_allowed,
    c.denied_feature_not_allowed, c.denied_unpriced_model, c.denied_suspended, c.denied_degraded,
    c.loads, c.evictions, c.entries, c.lock_waits, c.table_path_calls, c.bulk_episodes,
    w.worker_state, w.worker_pid, w.worker_rounds, w.worker_started_at, w.worker_finished_at,
    w.worker_lag, w.last_error, w.last_error_at
FROM ai_limiter.ai_counter_stat() c, ai_limiter.ai_worker_stat() w;
COMMENT ON VIEW ai_limiter.ai_limiter_stat IS
    'How the limiter itself is doing, in one row: what the whole server has counted since it started, and the worker in this database. What needs shared memory is null where the library is not preloaded.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.checks IS 'Verdicts of functions that only ask.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.admitted IS 'Calls that were admitted.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_limit_exceeded IS 'Calls that were denied by a limit.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_model_not_allowed IS 'Calls that were denied by the models of a tier.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_feature_not_allowed IS 'Calls that were denied by the features of a tier.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_unpriced_model IS 'Calls that were denied for want of a price.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_suspended IS 'Calls that were denied by a suspension.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.denied_degraded IS 'Calls that were denied because counters could not be read.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.loads IS 'Counters that were summed from the tables into shared memory.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.evictions IS 'Counters that made room for others.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.entries IS 'Counters that are in shared memory now.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.lock_waits IS 'Loads that waited for another session to load the same counter.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.table_path_calls IS 'Calls that summed their counters from the tables.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.bulk_episodes IS 'Transactions that had all counters loaded anew instead of telling them one by one: they wrote too much, or after an edit of rules.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_state IS
    'working, waiting for its next round, or why there is no worker: not preloaded, standby, not named, no launcher.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_pid IS 'The process of the round that is under way; null between rounds.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_rounds IS 'How many rounds the worker has finished.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_started_at IS 'When its last round began.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_finished_at IS 'When it last finished a round.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.worker_lag IS 'How long ago that is: about a second at most while all is well.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.last_error IS 'What the worker could not do last; it tries again.';
COMMENT ON COLUMN ai_limiter.ai_limiter_stat.last_error_at IS 'When that was last.';
