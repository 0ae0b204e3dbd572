-- Prices of others: LiteLLM's list as rows of ai_prices.

CREATE TYPE ai_limiter.ai_litellm_price AS (entry text, provider text, model text, unit_prices jsonb,
    not_represented jsonb);
COMMENT ON TYPE ai_limiter.ai_litellm_price IS 'Private: a row of ai_prices that LiteLLM''s list makes.';
COMMENT ON COLUMN ai_limiter.ai_litellm_price.entry IS 'LiteLLM''s name of the model.';
COMMENT ON COLUMN ai_limiter.ai_litellm_price.provider IS 'The provider; empty for calls that name none.';
COMMENT ON COLUMN ai_limiter.ai_litellm_price.model IS 'The model; null in an entry that makes no row.';
COMMENT ON COLUMN ai_limiter.ai_litellm_price.unit_prices IS 'US dollars by price key.';
COMMENT ON COLUMN ai_limiter.ai_litellm_price.not_represented IS 'By key, what of the entry could not be represented and why.';

CREATE FUNCTION ai_limiter.litellm_prices(prices text) RETURNS SETOF ai_limiter.ai_litellm_price
LANGUAGE c IMMUTABLE ROWS 5000 AS 'MODULE_PATHNAME', 'litellm_prices_wrapper';
COMMENT ON FUNCTION ai_limiter.litellm_prices(text) IS
    'Private: LiteLLM''s list of prices as rows of ai_prices. Raises 22023 when it is no object of objects.';

CREATE FUNCTION ai_limiter.import_litellm_prices(prices jsonb)
RETURNS TABLE (imported integer, updated integer, unchanged integer, kept_manual integer, gone text[],
    not_represented jsonb)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    list ai_limiter.ai_litellm_price[];
    manual bigint[];
    now_at timestamptz;
BEGIN
    list := ARRAY(SELECT l FROM ai_limiter.litellm_prices(import_litellm_prices.prices::text) l);
    -- Keeps other writers out: a lock for each model would be more than there is room for.
    LOCK TABLE ai_limiter.ai_prices IN SHARE ROW EXCLUSIVE MODE;
    now_at := clock_timestamp();

    -- Where a row written by hand holds now, the entry is left out.
    SELECT coalesce(array_agg(n.ordinal), '{}') INTO manual
    FROM unnest(list) WITH ORDINALITY AS n(entry, provider, model, unit_prices, not_represented, ordinal)
    WHERE EXISTS (SELECT FROM ai_limiter.ai_prices p WHERE lower(p.model) = n.model
        AND lower(p.provider) = n.provider AND p.tenant_id IS NULL AND p.source = 'manual'
        AND p.valid_during @> now_at);
    kept_manual := cardinality(manual);

    SELECT count(*) INTO unchanged
    FROM unnest(list) WITH ORDINALITY AS n(entry, provider, model, unit_prices, not_represented, ordinal)
    JOIN ai_limiter.ai_prices p ON lower(p.model) = n.model AND lower(p.provider) = n.provider
    WHERE p.tenant_id IS NULL AND p.source = 'litellm' AND p.valid_during @> now_at
        AND p.unit_prices = n.unit_prices;

    -- A price that has changed held until now: calls keep the price of their time.
    UPDATE ai_limiter.ai_prices AS p
    SET valid_during = p.valid_during * tstzrange(NULL, now_at)
    FROM unnest(list) AS n
    WHERE lower(p.model) = n.model AND lower(p.provider) = n.provider AND p.tenant_id IS NULL
        AND p.source = 'litellm' AND p.valid_during @> now_at
        AND p.unit_prices IS DISTINCT FROM n.unit_prices;
    GET DIAGNOSTICS updated = ROW_COUNT;

    INSERT INTO ai_limiter.ai_prices (provider, model, unit_prices, source, valid_during)
    SELECT n.provider, n.model, n.unit_prices, 'litellm',
        -- Up to where a row begins that somebody wrote for later.
        tstzrange(now_at, (SELECT min(lower(p.valid_during)) FROM ai_limiter.ai_prices p
            WHERE lower(p.model) = n.model AND lower(p.provider) = n.provider AND p.tenant_id IS NULL
                AND lower(p.valid_during) > now_at))
    FROM unnest(list) WITH ORDINALITY AS n(entry, provider, model, unit_prices, not_represented, ordinal)
    WHERE n.model IS NOT NULL AND n.ordinal <> ALL (manual)
        AND NOT EXISTS (SELECT FROM ai_limiter.ai_prices p WHERE lower(p.model) = n.model
            AND lower(p.provider) = n.provider AND p.tenant_id IS NULL AND p.valid_during @> now_at);
    GET DIAGNOSTICS imported = ROW_COUNT;
    imported := imported - updated;

    gone := ARRAY(SELECT ltrim(p.provider || '/' || p.model, '/')
        FROM ai_limiter.ai_prices p
        WHERE p.tenant_id IS NULL AND p.source = 'litellm' AND p.valid_during @> now_at
            AND NOT EXISTS (SELECT FROM unnest(list) n
                WHERE n.model = lower(p.model) AND n.provider = lower(p.provider))
        ORDER BY 1);
    not_represented := (SELECT coalesce(jsonb_agg(jsonb_build_object('entry', n.entry,
            'imported', n.model IS NOT NULL, 'keys', n.not_represented) ORDER BY n.entry), '[]')
        FROM unnest(list) n WHERE n.not_represented IS NOT NULL);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION ai_limiter.import_litellm_prices(jsonb) IS
    'Takes LiteLLM''s model_prices_and_context_window.json into ai_prices, as rows with source litellm for all tenants. A price that has changed ends the row before and begins a new one; where a row written by hand holds, the entry is left out; a row whose entry is gone stays and is named. not_represented is an array of objects with entry, imported and keys: by key, what could not be taken and why. Raises 22023 when prices is no object of objects.';
