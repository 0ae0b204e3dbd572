-- Rules: refused when they make no sense, kept when they ship, and ordered against admission. Every
-- trigger here also fires while a dump is restored, and lets it pass.

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
    'Private: when an edit that changes which calls a rule counts commits, waits in short tries for 10 seconds until no transaction is open that has held or booked under the old rules, then refuses ties; when it has committed, the counters of its name are loaded anew. Raises 55P03 with who blocks it, 23514 for a tie.';
-- At once, so that this transaction itself sees its rules; others when it has committed.
CREATE FUNCTION ai_limiter.ai_config_touch() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_config_touch_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_config_touch() IS
    'Private: lets every backend read a changed table, account, tenant or run again once the change is committed, and this transaction at once.';
CREATE FUNCTION ai_limiter.ai_limits_reshape() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_limits_reshape_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_limits_reshape() IS
    'Private: remembers that this transaction has changed which calls a rule counts.';
CREATE FUNCTION ai_limiter.ai_zone_change() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_zone_change_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_zone_change() IS
    'Private: when an edit of a time zone commits, waits as ai_limits_change() does, since open calls count in the windows of the old zone.';
CREATE TRIGGER ai_limits_touch AFTER INSERT OR UPDATE OR DELETE ON ai_limiter.ai_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_config_touch('rules');
CREATE TRIGGER ai_limits_reshape_membership AFTER INSERT OR DELETE ON ai_limiter.ai_limits
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_limits_reshape();
CREATE TRIGGER ai_limits_reshape_shape AFTER UPDATE ON ai_limiter.ai_limits
    FOR EACH ROW
    WHEN ((OLD.name, OLD.tier, OLD.tenant_id, OLD.user_id, OLD.provider, OLD.model, OLD.feature,
           OLD.api_key_id, OLD.attributes, OLD.per, OLD.metric, OLD.period, OLD.rolling, OLD.enabled,
           OLD.managed_by)
      IS DISTINCT FROM
          (NEW.name, NEW.tier, NEW.tenant_id, NEW.user_id, NEW.provider, NEW.model, NEW.feature,
           NEW.api_key_id, NEW.attributes, NEW.per, NEW.metric, NEW.period, NEW.rolling, NEW.enabled,
           NEW.managed_by))
    EXECUTE FUNCTION ai_limiter.ai_limits_reshape();
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
