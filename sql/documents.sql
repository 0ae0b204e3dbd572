-- Configuration as the library reads it: JSON documents with numbers as text, one query and so one
-- snapshot each. Private: only the library and the triggers call these.

CREATE FUNCTION ai_limiter.limit_document(limit_row ai_limiter.ai_limits) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'id', (limit_row).id, 'name', (limit_row).name, 'tier', (limit_row).tier,
        'tenant_id', (limit_row).tenant_id, 'user_id', (limit_row).user_id,
        'provider', (limit_row).provider, 'model', (limit_row).model,
        'feature', (limit_row).feature, 'api_key_id', (limit_row).api_key_id,
        'attributes', (limit_row).attributes, 'per', (limit_row).per,
        'metric', (limit_row).metric, 'period', (limit_row).period,
        'rolling', (limit_row).rolling::text,
        'rolling_microseconds', CASE WHEN extract(year FROM (limit_row).rolling) = 0
            AND extract(month FROM (limit_row).rolling) = 0
            THEN (extract(epoch FROM (limit_row).rolling) * 1000000)::bigint END,
        'amount', (limit_row).amount::text, 'action', (limit_row).action,
        'alert_at', (limit_row).alert_at::text[], 'enabled', (limit_row).enabled,
        'managed_by', (limit_row).managed_by)
$$;
COMMENT ON FUNCTION ai_limiter.limit_document(ai_limiter.ai_limits) IS
    'Private: a row of ai_limits as the library reads it.';

CREATE FUNCTION ai_limiter.limits_document() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(ai_limiter.limit_document(l) ORDER BY l.id), '[]')
    FROM ai_limiter.ai_limits l WHERE l.enabled
$$;
COMMENT ON FUNCTION ai_limiter.limits_document() IS 'Private: every enabled rule.';

CREATE FUNCTION ai_limiter.account_document(tenant_id uuid, user_id uuid, default_tier text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'tier', coalesce(a.tier, $3), 'role', a.role, 'suspended', coalesce(a.suspended, false),
        'account_timezone', coalesce(a.timezone, t.timezone, z.timezone, 'UTC'),
        'tenant_timezone', coalesce(t.timezone, z.timezone, 'UTC'),
        'default_timezone', coalesce(z.timezone, 'UTC'),
        'allowed_models', d.allowed_models, 'allowed_features', d.allowed_features)
    FROM (VALUES (1)) one
    LEFT JOIN ai_limiter.ai_accounts a ON a.tenant_id = $1 AND a.user_id = $2
    LEFT JOIN ai_limiter.ai_tenants t ON t.tenant_id = $1
    LEFT JOIN ai_limiter.ai_tenants z ON z.tenant_id = '00000000-0000-0000-0000-000000000000'
    LEFT JOIN ai_limiter.ai_tiers d ON d.tier = coalesce(a.tier, $3)
$$;
COMMENT ON FUNCTION ai_limiter.account_document(uuid, uuid, text) IS
    'Private: tier, role, zones and permissions of an account, with or without rows.';

CREATE FUNCTION ai_limiter.suspension_document(tenant_id uuid, user_id uuid, model text,
    feature text, api_key_id text, run_id text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('scope', s.scope, 'reason', s.reason,
        'until_microseconds', (extract(epoch FROM s.suspended_until) * 1000000)::bigint - 946684800000000)
    FROM ai_limiter.ai_suspensions s
    WHERE (s.scope, s.subject) IN (('all', ''), ('tenant', $1::text), ('user', $2::text),
        ('model', $3), ('feature', $4), ('api_key_id', $5), ('run', $6))
      AND (s.suspended_until IS NULL OR s.suspended_until > clock_timestamp())
    ORDER BY s.suspended_until DESC NULLS FIRST LIMIT 1
$$;
COMMENT ON FUNCTION ai_limiter.suspension_document(uuid, uuid, text, text, text, text) IS
    'Private: the suspension that blocks such a call longest; null when none does. Times are microseconds since 2000-01-01 UTC.';

CREATE FUNCTION ai_limiter.price_document(tenant_id uuid, provider text, requested_model text,
    model text, at timestamptz) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('id', p.id,
        'input_usd_per_million_tokens', p.input_usd_per_million_tokens::text,
        'output_usd_per_million_tokens', p.output_usd_per_million_tokens::text,
        'usd_per_request', p.usd_per_request::text)
    FROM ai_limiter.ai_prices p,
        LATERAL (SELECT lower(p.model) AS pattern, position('*' IN p.model) > 0 AS is_pattern) n,
        LATERAL (SELECT replace(replace(replace(replace(n.pattern, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%') AS mask) m
    WHERE (p.tenant_id IS NULL OR p.tenant_id = $1)
      AND (p.provider IS NULL OR lower(p.provider) = $2)
      AND (lower($3) LIKE m.mask OR $4 LIKE m.mask OR ai_limiter.canonical_model_name($3, false) LIKE m.mask)
      AND p.valid_during @> $5
    ORDER BY p.tenant_id IS NULL, n.is_pattern, lower($3) LIKE m.mask DESC,
        ai_limiter.canonical_model_name($3, false) LIKE m.mask DESC, p.provider IS NULL,
        length(p.model) DESC, p.id
    LIMIT 1
$$;
COMMENT ON FUNCTION ai_limiter.price_document(uuid, text, text, text, timestamptz) IS
    'Private: the price row for a model at an instant; null when it has none.';
