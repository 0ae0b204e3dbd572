-- Asking and holding: check, reserve, extend, and what a policy or a form asks.
--
-- The arguments of a call are the same everywhere, in the same order, and src/api/arguments.rs reads
-- them by that order. output_tokens is the caller's maximum; a given cost_usd is the estimate.

CREATE FUNCTION ai_limiter.check_ai_limit(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL)
RETURNS ai_limiter.ai_verdict
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'check_ai_limit_wrapper';
COMMENT ON FUNCTION ai_limiter.check_ai_limit(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric) IS
    'Whether a call would be admitted now. Holds nothing and writes nothing: usable in policies, in read-only transactions and on a standby. user_id and tenant_id default to the caller''s claims. A check that names neither model nor cost asks whether anything is left. Raises 42501 about another account without the right, 22003 and 22023 for values that make no sense.';

CREATE FUNCTION ai_limiter.within_ai_limit(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'within_ai_limit_wrapper';
COMMENT ON FUNCTION ai_limiter.within_ai_limit(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric) IS
    'check_ai_limit(...).allowed, for policies: WITH CHECK ((SELECT ai_limiter.within_ai_limit())). It holds nothing and, written so, judges a whole statement once.';

CREATE FUNCTION ai_limiter.require_ai_limit(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verdict ai_limiter.ai_verdict := ai_limiter.check_ai_limit(user_id => $1, tenant_id => $2, model => $3, provider => $4,
        feature => $5, api_key_id => $6, run_id => $7, attributes => $8, input_tokens => $9,
        output_tokens => $10, cost_usd => $11);
BEGIN
    IF NOT verdict.allowed THEN
        -- PostgREST's protocol turns the SQLSTATE PT429 into the HTTP status 429.
        RAISE SQLSTATE 'PT429' USING
            MESSAGE = 'AI usage denied: ' || verdict.reason,
            DETAIL = coalesce('Limit "' || verdict.limit_name || '" resets at '
                || coalesce(verdict.resets_at::text, 'no set time') || '.', 'No limit was reached.'),
            HINT = coalesce('Retry after ' || verdict.retry_after::text || '.', 'Retrying will not help by itself.');
    END IF;
END
$$;
COMMENT ON FUNCTION ai_limiter.require_ai_limit(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric) IS
    'check_ai_limit(...) that raises PT429 (HTTP 429 through a REST server of PostgREST''s protocol) when the call is denied.';

CREATE FUNCTION ai_limiter.reserve_ai_usage(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL,
    requests integer DEFAULT 1, run_limit_usd numeric DEFAULT NULL, idempotency_key text DEFAULT NULL,
    ttl interval DEFAULT NULL)
RETURNS ai_limiter.ai_reservation_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'reserve_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.reserve_ai_usage(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric, integer, numeric, text, interval) IS
    'Admits a call and holds its estimate until it is settled, released or ttl has passed (default ai_limiter.reservation_ttl): all limits or none. requests is how many calls the hold is for. run_limit_usd fixes the cap of the run in US dollars, once. The same idempotency_key gives the first answer. Raises 22023 when neither model nor cost_usd is named, or for a key used with other arguments.';

CREATE FUNCTION ai_limiter.extend_ai_reservation(reservation_id uuid, output_tokens bigint DEFAULT NULL,
    cost_usd numeric DEFAULT NULL, ttl interval DEFAULT NULL)
RETURNS ai_limiter.ai_reservation_verdict
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'extend_ai_reservation_wrapper';
COMMENT ON FUNCTION ai_limiter.extend_ai_reservation(uuid, bigint, numeric, interval) IS
    'Raises a hold to this new total of output tokens or US dollars and lets it live ttl from now: all or nothing. Denied, the hold stays as it was. An expired hold is admitted anew. Raises 42704 when there is no such hold, 55000 when it was settled or released.';

CREATE FUNCTION ai_limiter.settle_ai_usage(reservation_id uuid, usage jsonb DEFAULT NULL,
    model text DEFAULT NULL, provider text DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL)
RETURNS ai_limiter.ai_settlement
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'settle_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.settle_ai_usage(uuid, jsonb, text, text, bigint, bigint, numeric) IS
    'Replaces a hold by what the call really cost, also above the limit, and also when the hold has expired or was released. The cost is cost_usd, else the tokens (given, or of usage) at the price of the model that answered, else what was held. Sent again it books nothing and gives the first answer. Raises 42704 when there is no such reservation.';

CREATE FUNCTION ai_limiter.release_ai_usage(reservation_id uuid)
RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'release_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.release_ai_usage(uuid) IS
    'Gives a hold back without a charge. False when it was released, expired or settled before. Raises 42704 when there is no such reservation.';

CREATE FUNCTION ai_limiter.record_ai_usage(
    user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, model text DEFAULT NULL,
    provider text DEFAULT NULL, feature text DEFAULT NULL, api_key_id text DEFAULT NULL,
    run_id text DEFAULT NULL, attributes jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL,
    output_tokens bigint DEFAULT NULL, cost_usd numeric DEFAULT NULL,
    usage jsonb DEFAULT NULL, requests integer DEFAULT 1, idempotency_key text DEFAULT NULL,
    created_at timestamptz DEFAULT NULL)
RETURNS uuid
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'record_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.record_ai_usage(uuid, uuid, text, text, text, text, text, jsonb, bigint, bigint, numeric, jsonb, integer, text, timestamptz) IS
    'Books a call after the fact, whatever the limits say, and gives the ledger row''s id. created_at (default now) decides the windows that it counts in. Raises 22023 when the cost cannot be known, or for a created_at in the future.';
