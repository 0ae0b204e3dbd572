-- The rest of the configuration: refused when it makes no sense, and audited. Every trigger here also
-- fires while a dump is restored, and lets it pass.

-- Tiers, zones, prices ----------------------------------------------------------------------------

CREATE FUNCTION ai_limiter.ai_tiers_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.shipped := NEW.shipped AND pg_trigger_depth() > 1;
    END IF;
    IF array_position(NEW.allowed_models, NULL) IS NOT NULL
        OR array_position(NEW.allowed_features, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'an element of allowed_models and allowed_features must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF TG_OP = 'INSERT' THEN
        -- In place: deleting the row would break the references of ai_limits for a moment.
        UPDATE ai_limiter.ai_tiers t SET allowed_models = NEW.allowed_models,
            allowed_features = NEW.allowed_features, description = NEW.description,
            shipped = NEW.shipped
        WHERE t.tier = NEW.tier AND t.shipped;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_tiers_check() IS 'Private: checks a row of ai_tiers before it is written.';
CREATE TRIGGER ai_tiers_check BEFORE INSERT OR UPDATE ON ai_limiter.ai_tiers
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_tiers_check();

CREATE FUNCTION ai_limiter.timezone_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.timezone IS NOT NULL THEN
        PERFORM timezone(NEW.timezone, now());
        -- What an abbreviation means is the session's to set: whoever asks could move their day.
        IF upper(NEW.timezone) NOT IN ('UTC', 'GMT') AND EXISTS
            (SELECT FROM pg_timezone_abbrevs a WHERE upper(a.abbrev) = upper(NEW.timezone)) THEN
            RAISE EXCEPTION 'time zone "%" is an abbreviation', NEW.timezone USING
                ERRCODE = 'invalid_parameter_value',
                HINT = 'Use a full name, such as Europe/Berlin: see pg_timezone_names.';
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.timezone_check() IS 'Private: refuses a zone that Postgres does not know, and abbreviations (22023).';
CREATE TRIGGER ai_tenants_timezone_check BEFORE INSERT OR UPDATE OF timezone ON ai_limiter.ai_tenants
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.timezone_check();
CREATE TRIGGER ai_accounts_timezone_check BEFORE INSERT OR UPDATE OF timezone ON ai_limiter.ai_accounts
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.timezone_check();

CREATE FUNCTION ai_limiter.overlapping_price(id bigint, tenant_id uuid, provider text, model text,
    valid_during text) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'overlapping_price_wrapper';
COMMENT ON FUNCTION ai_limiter.overlapping_price(bigint, uuid, text, text, text) IS
    'Private: another price row for the same model that is valid in a part of the same time; null when there is none.';

CREATE FUNCTION ai_limiter.checked_price(input_usd_per_million_tokens text, output_usd_per_million_tokens text,
    usd_per_request text, unit_prices text, discount_factor text, markup_factor text) RETURNS void
LANGUAGE c IMMUTABLE AS 'MODULE_PATHNAME', 'checked_price_wrapper';
COMMENT ON FUNCTION ai_limiter.checked_price(text, text, text, text, text, text) IS
    'Private: raises 22023 or 22003 where the prices of a row make no sense.';

CREATE FUNCTION ai_limiter.ai_prices_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other bigint;
BEGIN
    NEW.model := btrim(NEW.model);
    IF NEW.model = '' THEN
        RAISE EXCEPTION 'a price must name a model' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use * for every model.';
    END IF;
    NEW.provider := btrim(NEW.provider);
    IF TG_OP = 'UPDATE' AND NEW IS DISTINCT FROM OLD THEN
        NEW.recorded_at := clock_timestamp();
    END IF;
    IF 'NaN'::numeric IN (NEW.input_usd_per_million_tokens, NEW.output_usd_per_million_tokens, NEW.usd_per_request,
        NEW.discount_factor, NEW.markup_factor) THEN
        RAISE EXCEPTION 'a price must be a finite number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM ai_limiter.checked_price(NEW.input_usd_per_million_tokens::text, NEW.output_usd_per_million_tokens::text,
        NEW.usd_per_request::text, NEW.unit_prices::text, NEW.discount_factor::text, NEW.markup_factor::text);
    other := ai_limiter.overlapping_price(NEW.id, NEW.tenant_id, NEW.provider, NEW.model,
        NEW.valid_during::text);
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'two prices of model "%" overlap in time', NEW.model USING
            ERRCODE = 'exclusion_violation',
            DETAIL = 'Row ' || other || ' is valid in a part of the same time.',
            HINT = 'End that price first: UPDATE ai_limiter.ai_prices SET valid_during = ... WHERE id = ' || other || ';';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_prices_check() IS 'Private: prices that match alike must not overlap in time (23P01).';
CREATE TRIGGER ai_prices_check BEFORE INSERT OR UPDATE ON ai_limiter.ai_prices
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_prices_check();

CREATE FUNCTION ai_limiter.ai_suspensions_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.subject := ai_limiter.suspension_subject(NEW.scope, NEW.subject);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_suspensions_check() IS 'Private: a suspension''s subject as calls name it.';
CREATE TRIGGER ai_suspensions_check BEFORE INSERT OR UPDATE ON ai_limiter.ai_suspensions
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_suspensions_check();

-- What backends keep ------------------------------------------------------------------------------
-- All of them for each row: logical replication fires no trigger of a statement.

CREATE TRIGGER ai_tiers_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_tiers
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('tiers');
CREATE TRIGGER ai_prices_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_prices
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('prices');
CREATE TRIGGER ai_price_catalogs_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_price_catalogs
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('prices');
-- A tenant's markup is kept with its prices; that of a tenant without a row is 1.
CREATE TRIGGER ai_tenants_markup_added AFTER INSERT ON ai_limiter.ai_tenants
    FOR EACH ROW WHEN (NEW.markup_factor <> 1) EXECUTE FUNCTION ai_limiter.ai_config_touch('prices');
CREATE TRIGGER ai_tenants_markup_removed AFTER DELETE ON ai_limiter.ai_tenants
    FOR EACH ROW WHEN (OLD.markup_factor <> 1) EXECUTE FUNCTION ai_limiter.ai_config_touch('prices');
CREATE TRIGGER ai_tenants_markup_change AFTER UPDATE ON ai_limiter.ai_tenants
    FOR EACH ROW WHEN ((OLD.tenant_id, OLD.markup_factor) IS DISTINCT FROM (NEW.tenant_id, NEW.markup_factor))
    EXECUTE FUNCTION ai_limiter.ai_config_touch('prices');
CREATE TRIGGER ai_suspensions_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_suspensions
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('suspensions');
CREATE TRIGGER ai_tenants_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_tenants
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('account');
CREATE TRIGGER ai_accounts_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_accounts
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('account');
CREATE TRIGGER ai_run_limits_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_run_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('run');

CREATE CONSTRAINT TRIGGER ai_tenants_zone_membership AFTER INSERT OR DELETE ON ai_limiter.ai_tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_zone_change();
CREATE CONSTRAINT TRIGGER ai_tenants_zone_change AFTER UPDATE ON ai_limiter.ai_tenants
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.timezone) IS DISTINCT FROM (NEW.tenant_id, NEW.timezone))
    EXECUTE FUNCTION ai_limiter.ai_zone_change();
CREATE CONSTRAINT TRIGGER ai_accounts_zone_added AFTER INSERT ON ai_limiter.ai_accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.timezone IS NOT NULL)
    EXECUTE FUNCTION ai_limiter.ai_zone_change();
CREATE CONSTRAINT TRIGGER ai_accounts_zone_removed AFTER DELETE ON ai_limiter.ai_accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.timezone IS NOT NULL)
    EXECUTE FUNCTION ai_limiter.ai_zone_change();
CREATE CONSTRAINT TRIGGER ai_accounts_zone_change AFTER UPDATE ON ai_limiter.ai_accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.user_id, OLD.timezone)
        IS DISTINCT FROM (NEW.tenant_id, NEW.user_id, NEW.timezone))
    EXECUTE FUNCTION ai_limiter.ai_zone_change();

-- Also where a replica applies what its source has written.
ALTER TABLE ai_limiter.ai_limits ENABLE ALWAYS TRIGGER ai_limits_touch;
ALTER TABLE ai_limiter.ai_limits ENABLE ALWAYS TRIGGER ai_limits_reshape_membership;
ALTER TABLE ai_limiter.ai_limits ENABLE ALWAYS TRIGGER ai_limits_reshape_shape;
ALTER TABLE ai_limiter.ai_limits ENABLE ALWAYS TRIGGER ai_limits_change_membership;
ALTER TABLE ai_limiter.ai_limits ENABLE ALWAYS TRIGGER ai_limits_change_shape;
ALTER TABLE ai_limiter.ai_tiers ENABLE ALWAYS TRIGGER ai_tiers_touch;
ALTER TABLE ai_limiter.ai_prices ENABLE ALWAYS TRIGGER ai_prices_touch;
ALTER TABLE ai_limiter.ai_price_catalogs ENABLE ALWAYS TRIGGER ai_price_catalogs_touch;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_markup_added;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_markup_removed;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_markup_change;
ALTER TABLE ai_limiter.ai_suspensions ENABLE ALWAYS TRIGGER ai_suspensions_touch;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_touch;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_zone_membership;
ALTER TABLE ai_limiter.ai_tenants ENABLE ALWAYS TRIGGER ai_tenants_zone_change;
ALTER TABLE ai_limiter.ai_accounts ENABLE ALWAYS TRIGGER ai_accounts_touch;
ALTER TABLE ai_limiter.ai_accounts ENABLE ALWAYS TRIGGER ai_accounts_zone_added;
ALTER TABLE ai_limiter.ai_accounts ENABLE ALWAYS TRIGGER ai_accounts_zone_removed;
ALTER TABLE ai_limiter.ai_accounts ENABLE ALWAYS TRIGGER ai_accounts_zone_change;
ALTER TABLE ai_limiter.ai_run_limits ENABLE ALWAYS TRIGGER ai_run_limits_touch;

-- Audit -------------------------------------------------------------------------------------------

-- SECURITY DEFINER, so that whoever may change the configuration need not be able to write its
-- audit. It takes nothing from the caller but the row.
CREATE FUNCTION ai_limiter.audit_config_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO ai_limiter.ai_config_changes (table_name, operation, old_row, new_row, actor, sub)
    VALUES (TG_TABLE_NAME, TG_OP,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END,
        session_user || CASE current_setting('role') WHEN 'none' THEN '' ELSE ' as ' || current_setting('role') END,
        ai_limiter.ai_current_user()::text);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION ai_limiter.audit_config_change() IS 'Private: writes ai_config_changes.';
CREATE TRIGGER ai_tiers_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_tiers
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();
CREATE TRIGGER ai_tenants_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_tenants
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();
CREATE TRIGGER ai_accounts_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_accounts
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();
CREATE TRIGGER ai_limits_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();
CREATE TRIGGER ai_prices_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_prices
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();
CREATE TRIGGER ai_suspensions_audit AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_suspensions
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.audit_config_change();

CREATE FUNCTION ai_limiter.no_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'cannot truncate table "%"', TG_TABLE_NAME USING
        ERRCODE = 'object_not_in_prerequisite_state',
        DETAIL = 'Each of its rows is audited.',
        HINT = 'Use DELETE.';
END
$$;
COMMENT ON FUNCTION ai_limiter.no_truncate() IS 'Private: TRUNCATE would pass the audit by (55000).';
CREATE TRIGGER ai_tiers_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_tiers
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_tenants_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_tenants
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_accounts_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_limits_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_limits
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_prices_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_prices
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_price_catalogs_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_price_catalogs
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
CREATE TRIGGER ai_suspensions_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_suspensions
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();
