-- Who is asking. Claims count only when session_user is named in ai_limiter.claim_setters or is a
-- superuser: any other session could write them itself.

CREATE FUNCTION ai_limiter.ai_current_user() RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ai_current_user_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_current_user() IS
    'The caller''s user: the claim sub. Null without claims that count. Raises 22023 when the claims are malformed.';

CREATE FUNCTION ai_limiter.ai_current_tenant() RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ai_current_tenant_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_current_tenant() IS
    'The caller''s tenant: the claim app_metadata.tenant_id, else the zero uuid. Raises 22023 when the claims are malformed.';

CREATE FUNCTION ai_limiter.ai_current_role() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ai_current_role_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_current_role() IS
    'The caller''s role: the claim app_metadata.role, else the account''s, else member. Raises 22023 when the claims are malformed.';

CREATE FUNCTION ai_limiter.ai_is_server() RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'ai_is_server_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_is_server() IS
    'Whether the current database role may act for anyone: one that may insert into ai_reservations, such as service_role, the owner and superusers.';

CREATE FUNCTION ai_limiter.ai_sees_platform() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ai_sees_platform_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_sees_platform() IS
    'Whether the caller sees every tenant: a server role, a member of pg_monitor, or the role platform_admin.';

CREATE FUNCTION ai_limiter.ai_sees_people() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ai_sees_people_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_sees_people() IS
    'Whether the caller sees the usage of each person of their tenant.';

CREATE FUNCTION ai_limiter.canonical_model_name(model text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'canonical_model_name_wrapper';
COMMENT ON FUNCTION ai_limiter.canonical_model_name(text) IS
    'The name by which rules know a model: in lower case, without the provider''s prefix and the release date.';

CREATE FUNCTION ai_limiter.ai_window(period text, at timestamptz DEFAULT pg_catalog.clock_timestamp(),
    timezone text DEFAULT 'UTC') RETURNS tstzrange
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'ai_window_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_window(text, timestamptz, text) IS
    'The window of a calendar period (minute, hour, day, week, month) that contains an instant, in a zone; unbounded for total. Raises 22023 for another period or zone.';
