-- Prices: the catalogue, and what it and ai_prices say together.

CREATE TYPE ai_limiter.ai_price_catalog_contents AS (providers integer, models integer, unknown_price_keys text[]);
COMMENT ON TYPE ai_limiter.ai_price_catalog_contents IS 'Private: what is in a price catalogue.';
COMMENT ON COLUMN ai_limiter.ai_price_catalog_contents.providers IS 'How many providers.';
COMMENT ON COLUMN ai_limiter.ai_price_catalog_contents.models IS 'How many models.';
COMMENT ON COLUMN ai_limiter.ai_price_catalog_contents.unknown_price_keys IS 'Prices that this release cannot apply.';

CREATE FUNCTION ai_limiter.checked_price_catalog(catalog text)
RETURNS ai_limiter.ai_price_catalog_contents
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'checked_price_catalog_wrapper';
COMMENT ON FUNCTION ai_limiter.checked_price_catalog(text) IS
    'Private: reads a price catalogue as a whole, and says what is in it. Raises 22023 when anything in it is wrong.';

CREATE FUNCTION ai_limiter.ai_price_catalogs_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    contents ai_limiter.ai_price_catalog_contents := ai_limiter.checked_price_catalog(NEW.catalog::text);
BEGIN
    NEW.providers := contents.providers;
    NEW.models := contents.models;
    NEW.unknown_price_keys := contents.unknown_price_keys;
    NEW.loaded_by := coalesce(NEW.loaded_by, session_user
        || CASE current_setting('role') WHEN 'none' THEN '' ELSE ' as ' || current_setting('role') END
        || coalesce(' for ' || ai_limiter.ai_current_user()::text, ''));
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_price_catalogs_check() IS
    'Private: a catalogue is taken whole or not at all, and says who loaded it.';
CREATE TRIGGER ai_price_catalogs_check BEFORE INSERT ON ai_limiter.ai_price_catalogs
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_price_catalogs_check();
-- Sessions keep one that they have read.
CREATE TRIGGER ai_price_catalogs_no_update BEFORE UPDATE ON ai_limiter.ai_price_catalogs
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.append_only();

CREATE FUNCTION ai_limiter.load_ai_price_catalog(catalog jsonb)
RETURNS TABLE (catalog_id bigint, providers integer, models integer, unknown_price_keys text[])
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO ai_limiter.ai_price_catalogs AS c (catalog) VALUES (load_ai_price_catalog.catalog)
    RETURNING c.id, c.providers, c.models, c.unknown_price_keys
$$;
COMMENT ON FUNCTION ai_limiter.load_ai_price_catalog(jsonb) IS
    'Takes a newer price catalogue, an array of providers as the genai-prices project publishes it (v2), which prices from the commit on what ai_prices does not. unknown_price_keys are prices that this release cannot apply. Raises 22023 when anything in it is wrong, and then the one before stays.';

CREATE FUNCTION ai_limiter.ai_catalog_prices()
RETURNS TABLE (provider text, model text, name text, context_window bigint, unit_prices jsonb, variants jsonb,
    catalog_id bigint)
LANGUAGE c STABLE ROWS 2500 AS 'MODULE_PATHNAME', 'ai_catalog_prices_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_catalog_prices() IS
    'Private: a row per model of the catalogue, with what it costs now: see ai_model_prices.';
