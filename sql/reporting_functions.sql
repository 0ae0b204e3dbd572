-- Reading: what is left, what was spent, what is wrong. Functions that sum for someone run as the
-- tables' owner and filter by the caller's role themselves; the others see what RLS lets through.

CREATE FUNCTION ai_limiter.get_ai_limits(user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL)
RETURNS TABLE (limit_name text, metric text, period text, used numeric, held numeric, amount numeric,
    remaining numeric, resets_at timestamptz, action text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'get_ai_limits_wrapper';
COMMENT ON FUNCTION ai_limiter.get_ai_limits(uuid, uuid) IS
    'What is left: a row per rule that applies to the account, default the caller''s. A limit that is not the caller''s to see is named platform and has no numbers. Raises 42501 about another account without the right.';

CREATE FUNCTION ai_limiter.explain_ai_limit(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL)
RETURNS TABLE (limit_id bigint, limit_name text, applies boolean, explanation text, replaced_by bigint,
    counter text, timezone text, window_start timestamptz, window_end timestamptz, price_source text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'explain_ai_limit_wrapper';
COMMENT ON FUNCTION ai_limiter.explain_ai_limit(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric) IS
    'A row per rule that was considered for such a call: whether it applies, else why not or which row replaces it, the counter, its zone and window, and where the estimate comes from. For a server role and platform_admin; raises 42501 for others.';

CREATE FUNCTION ai_limiter.get_user_daily_ai_usage(user_id uuid DEFAULT NULL, day date DEFAULT NULL)
RETURNS TABLE (model text, requests bigint, input_tokens bigint, output_tokens bigint, cost_usd numeric)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'get_user_daily_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.get_user_daily_ai_usage(uuid, date) IS
    'What a user of the caller''s tenant settled on a day of the account''s zone, a row per model; defaults: the caller, today. Costs in US dollars. Raises 42501 about another user without the right.';

CREATE FUNCTION ai_limiter.get_ai_cost_alerts()
RETURNS TABLE (severity text, scope text, subject text, limit_name text, used numeric, amount numeric,
    ratio numeric, period text, resets_at timestamptz, message text)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'get_ai_cost_alerts_wrapper';
COMMENT ON FUNCTION ai_limiter.get_ai_cost_alerts() IS
    'A row per counter whose settled use has crossed one of its limit''s alert_at thresholds now, worst first, as far as the caller may see: critical from the whole amount, warning from 0.8 of it, else info.';

CREATE FUNCTION ai_limiter.get_global_ai_cost(period text DEFAULT 'day')
RETURNS TABLE (settled_usd numeric, held_usd numeric, cap_usd numeric)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'get_global_ai_cost_wrapper';
COMMENT ON FUNCTION ai_limiter.get_global_ai_cost(text) IS
    'Cost of everything in the running day or month of the default zone, in US dollars, and the smallest enabled cap on it (null when there is none). For a server role and platform_admin; raises 42501 for others, 22023 for another period.';

CREATE FUNCTION ai_limiter.get_ai_cost("from" timestamptz DEFAULT NULL, "to" timestamptz DEFAULT NULL,
    group_by text[] DEFAULT '{}', timezone text DEFAULT NULL, as_of timestamptz DEFAULT NULL)
RETURNS TABLE (dimensions jsonb, requests bigint, input_tokens bigint, output_tokens bigint, cost_usd numeric)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'get_ai_cost_wrapper';
COMMENT ON FUNCTION ai_limiter.get_ai_cost(timestamptz, timestamptz, text[], text, timestamptz) IS
    'Settled cost in US dollars from (default: the start of the running month) until to, by any of tenant, user, tier, provider, model, feature, api_key_id, run, attribute:<key>, hour, day, week, month (in timezone, default the caller''s tenant''s). as_of leaves out what was booked later. Sees what the caller''s role may: everything, the tenant, its totals, or their own. Raises 22023 for another dimension or zone, 42501 when totals are asked by person without the right.';

CREATE FUNCTION ai_limiter.estimate_ai_cost(model text DEFAULT NULL, provider text DEFAULT NULL,
    usage jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL, output_tokens bigint DEFAULT NULL)
RETURNS numeric
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'estimate_ai_cost_wrapper';
COMMENT ON FUNCTION ai_limiter.estimate_ai_cost(text, text, jsonb, bigint, bigint) IS
    'What one request would be held for, in US dollars, at the caller''s tenant''s price: explain_ai_cost_estimate() says by which output tokens, and why. With usage, what that costs. Null when the model has no price. Raises 22004 without a model.';

-- IMMUTABLE, so that it can fill a generated column: it looks at nothing but its arguments. A later version
-- may know more models; what was stored stays as it was counted.
CREATE FUNCTION ai_limiter.count_tokens(model text, "text" text)
RETURNS ai_limiter.ai_token_count
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'count_tokens_wrapper';
COMMENT ON FUNCTION ai_limiter.count_tokens(text, text) IS
    'How many tokens a text is to a model: counted where the model''s tokenizer is public (OpenAI''s), else estimated from its characters, and it says which. Nothing in the text is special.';
