-- Refusing what makes no sense when it is written, keeping the audit, and ordering edits of rules
-- against admission. Every trigger here also fires while a dump is restored, and lets it pass.

-- Tiers that others name --------------------------------------------------------------------------

CREATE FUNCTION ai_limiter.require_tier(tier text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A dump's script sets row_security off; its tables come in any order. A call meets a tier that is
    -- missing after all with an error.
    IF tier IS NOT NULL AND current_setting('row_security') = 'on'
        AND NOT EXISTS (SELECT FROM ai_limiter.ai_tiers t WHERE t.tier = require_tier.tier) THEN
        RAISE EXCEPTION 'tier "%" does not exist', tier USING
            ERRCODE = 'foreign_key_violation',
            HINT = 'Add it to ai_limiter.ai_tiers first.';
    END IF;
END
$$;
COMMENT ON FUNCTION ai_limiter.require_tier(text) IS 'Private: refuses a tier that does not exist (23503).';

CREATE FUNCTION ai_limiter.ai_tiers_keep_used() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM ai_limiter.ai_accounts a WHERE a.tier = OLD.tier)
        OR EXISTS (SELECT FROM ai_limiter.ai_limits l WHERE l.tier = OLD.tier) THEN
        RAISE EXCEPTION 'tier "%" is still in use', OLD.tier USING
            ERRCODE = 'foreign_key_violation',
            DETAIL = 'Rows of ai_accounts or ai_limits name it.';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_tiers_keep_used() IS
    'Private: keeps a tier that accounts or rules name from being deleted or renamed (23503).';
CREATE TRIGGER ai_tiers_keep_used_delete BEFORE DELETE ON ai_limiter.ai_tiers
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_tiers_keep_used();
CREATE TRIGGER ai_tiers_keep_used_rename BEFORE UPDATE OF tier ON ai_limiter.ai_tiers
    FOR EACH ROW WHEN (OLD.tier <> NEW.tier) EXECUTE FUNCTION ai_limiter.ai_tiers_keep_used();

CREATE FUNCTION ai_limiter.ai_accounts_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ai_limiter.require_tier(NEW.tier);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_accounts_check() IS 'Private: checks a row of ai_accounts before it is written.';
CREATE TRIGGER ai_accounts_check BEFORE INSERT OR UPDATE OF tier ON ai_limiter.ai_accounts
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_accounts_check();

-- Rules -------------------------------------------------------------------------------------------

CREATE FUNCTION ai_limiter.checked_limit(limit_row text) RETURNS jsonb
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'checked_limit_wrapper';
COMMENT ON FUNCTION ai_limiter.checked_limit(text) IS
    'Private: refuses a rule that makes no sense (22023, 22003, 22004); gives its canonical model and provider.';

CREATE FUNCTION ai_limiter.ai_limits_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    checked jsonb;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'cannot change the id of a limit'
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        -- Only the restore below keeps the mark.
        NEW.shipped := NEW.shipped AND pg_trigger_depth() > 1;
    END IF;
    PERFORM ai_limiter.require_tier(NEW.tier);
    checked := ai_limiter.checked_limit(to_jsonb(NEW)::text);
    NEW.model := checked ->> 'model';
    NEW.provider := checked ->> 'provider';
    IF TG_OP = 'INSERT' THEN
        -- A dump holds the shipped rows, edited or not, and the script has just made them again.
        UPDATE ai_limiter.ai_limits l SET name = NEW.name, tier = NEW.tier, tenant_id = NEW.tenant_id,
            user_id = NEW.user_id, provider = NEW.provider, model = NEW.model, feature = NEW.feature,
            api_key_id = NEW.api_key_id, attributes = NEW.attributes, per = NEW.per,
            metric = NEW.metric, period = NEW.period, rolling = NEW.rolling, amount = NEW.amount,
            action = NEW.action, alert_at = NEW.alert_at, enabled = NEW.enabled,
            managed_by = NEW.managed_by, description = NEW.description, shipped = NEW.shipped
        WHERE l.id = NEW.id AND l.shipped;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_limits_check() IS 'Private: checks a row of ai_limits before it is written.';
CREATE TRIGGER ai_limits_check BEFORE INSERT OR UPDATE ON ai_limiter.ai_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_limits_check();

CREATE FUNCTION ai_limiter.ai_limits_keep_shipped() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.id < 0 THEN
        RAISE EXCEPTION 'cannot delete limit "%", which ships with the extension', OLD.name USING
            ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Disable it: UPDATE ai_limiter.ai_limits SET enabled = false WHERE id = ' || OLD.id || ';';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_limits_keep_shipped() IS 'Private: shipped rules are disabled, not deleted.';
CREATE TRIGGER ai_limits_keep_shipped BEFORE DELETE ON ai_limiter.ai_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_limits_keep_shipped();

CREATE FUNCTION ai_limiter.ai_limits_change() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_limits_change_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_limits_change() IS
    'Private: when an edit that changes which calls a rule counts commits, waits in short tries for 10 seconds until no call that was admitted under the old rules is open, then refuses ties. Raises 55P03 with who blocks it, 23514 for a tie.';
-- Deferred to the commit, so that an administrator who leaves an edit open stops nobody. An amount,
-- an action, alert thresholds and descriptions change no counter and wait for nobody.
CREATE CONSTRAINT TRIGGER ai_limits_change_membership AFTER INSERT OR DELETE ON ai_limiter.ai_limits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_limits_change();
CREATE CONSTRAINT TRIGGER ai_limits_change_shape AFTER UPDATE ON ai_limiter.ai_limits
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.name, OLD.tier, OLD.tenant_id, OLD.user_id, OLD.provider, OLD.model, OLD.feature,
           OLD.api_key_id, OLD.attributes, OLD.per, OLD.metric, OLD.period, OLD.rolling, OLD.enabled,
           OLD.managed_by)
      IS DISTINCT FROM
          (NEW.name, NEW.tier, NEW.tenant_id, NEW.user_id, NEW.provider, NEW.model, NEW.feature,
           NEW.api_key_id, NEW.attributes, NEW.per, NEW.metric, NEW.period, NEW.rolling, NEW.enabled,
           NEW.managed_by))
    EXECUTE FUNCTION ai_limiter.ai_limits_change();

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

CREATE FUNCTION ai_limiter.ai_prices_check() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other bigint;
BEGIN
    IF 'NaN'::numeric IN (NEW.input_usd_per_million_tokens, NEW.output_usd_per_million_tokens, NEW.usd_per_request) THEN
        RAISE EXCEPTION 'a price must be a finite number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
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
CREATE TRIGGER ai_suspensions_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_suspensions
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.no_truncate();

-- Ledger ------------------------------------------------------------------------------------------

CREATE FUNCTION ai_limiter.ai_usage_insert() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_usage_insert_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_usage_insert() IS
    'Private: completes and checks a ledger row: tier, canonical model, attributes, nothing in the future.';
CREATE TRIGGER ai_usage_insert BEFORE INSERT ON ai_limiter.ai_usage
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_usage_insert();

CREATE FUNCTION ai_limiter.append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'cannot % table "%"', CASE TG_OP WHEN 'DELETE' THEN 'delete from' ELSE lower(TG_OP) END,
        TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'It is append-only.';
END
$$;
COMMENT ON FUNCTION ai_limiter.append_only() IS 'Private: refuses to change what was recorded (55000).';
-- Row triggers are cloned to partitions; the one on TRUNCATE is not, so each partition gets its own.
CREATE TRIGGER ai_usage_append_only BEFORE UPDATE OR DELETE ON ai_limiter.ai_usage
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.append_only();
CREATE TRIGGER ai_usage_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_usage
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.append_only();
CREATE TRIGGER ai_config_changes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ai_limiter.ai_config_changes
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.append_only();
