-- The schema and the composite types. The control file's schema is pg_catalog and this makes its
-- own: a schema of this name that somebody made before is an error, and a dump restores.

-- For this script alone: every name and operator below that is not qualified is Postgres's own.
SET LOCAL search_path TO pg_catalog, pg_temp;

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'ai_limiter needs a database with the encoding UTF8' USING
            ERRCODE = 'feature_not_supported',
            HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0;';
    END IF;
END
$$;

CREATE SCHEMA ai_limiter;
COMMENT ON SCHEMA ai_limiter IS 'Stops AI spend before it happens: limits, holds, ledger and verdicts.';

CREATE TYPE ai_limiter.ai_verdict AS (
    allowed boolean,
    reason text,
    limit_name text,
    metric text,
    period text,
    used numeric,
    held numeric,
    amount numeric,
    remaining numeric,
    resets_at timestamptz,
    retry_after interval,
    estimated_cost_usd numeric,
    violations jsonb,
    details jsonb
);
COMMENT ON TYPE ai_limiter.ai_verdict IS
    'What the limiter says of a call. A denial is a value, never an exception.';
COMMENT ON COLUMN ai_limiter.ai_verdict.allowed IS 'Whether the call may run.';
COMMENT ON COLUMN ai_limiter.ai_verdict.reason IS
    'A stable code: ok, limit_exceeded, model_not_allowed, feature_not_allowed, unpriced_model, suspended or degraded.';
COMMENT ON COLUMN ai_limiter.ai_verdict.limit_name IS
    'The binding limit: the one that failed, else the one with the smallest remaining / amount; "platform" where the caller may not see it; null when no limit applies.';
COMMENT ON COLUMN ai_limiter.ai_verdict.metric IS 'What the binding limit counts, and so the unit of the numbers.';
COMMENT ON COLUMN ai_limiter.ai_verdict.period IS 'The period of the binding limit.';
COMMENT ON COLUMN ai_limiter.ai_verdict.used IS 'Settled in the window before this call; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_verdict.held IS 'Held by open reservations before this call; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_verdict.amount IS 'What the binding limit allows; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_verdict.remaining IS 'amount - used - held; may be negative.';
COMMENT ON COLUMN ai_limiter.ai_verdict.resets_at IS
    'When the binding limit''s window ends; of a rolling limit, when its oldest part leaves; null when it never does.';
COMMENT ON COLUMN ai_limiter.ai_verdict.retry_after IS
    'Of a denial: the time until every limit that failed has room again; null when that is unknown.';
COMMENT ON COLUMN ai_limiter.ai_verdict.estimated_cost_usd IS 'The estimate in US dollars; null when the model has no price.';
COMMENT ON COLUMN ai_limiter.ai_verdict.violations IS
    'Every limit that the call would exceed, also those that only warn, with their action; numbers as text.';
COMMENT ON COLUMN ai_limiter.ai_verdict.details IS 'More about the reason, such as the suspension or shadow mode.';

CREATE TYPE ai_limiter.ai_reservation_verdict AS (
    allowed boolean,
    reason text,
    limit_name text,
    metric text,
    period text,
    used numeric,
    held numeric,
    amount numeric,
    remaining numeric,
    resets_at timestamptz,
    retry_after interval,
    estimated_cost_usd numeric,
    violations jsonb,
    details jsonb,
    reservation_id uuid
);
COMMENT ON TYPE ai_limiter.ai_reservation_verdict IS
    'The columns of ai_verdict, and the hold that was written.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.allowed IS
    'Whether the call may run.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.reason IS
    'A stable code: ok, limit_exceeded, model_not_allowed, feature_not_allowed, unpriced_model, suspended or degraded.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.limit_name IS
    'The binding limit: the one that failed, else the one with the smallest remaining / amount; "platform" where the caller may not see it; null when no limit applies.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.metric IS
    'What the binding limit counts, and so the unit of the numbers.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.period IS
    'The period of the binding limit.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.used IS
    'Settled in the window before this call; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.held IS
    'Held by open reservations before this call; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.amount IS
    'What the binding limit allows; null where the caller may not see it.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.remaining IS
    'amount - used - held; may be negative.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.resets_at IS
    'When the binding limit''s window ends; of a rolling limit, when its oldest part leaves; null when it never does.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.retry_after IS
    'Of a denial: the time until every limit that failed has room again; null when that is unknown.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.estimated_cost_usd IS
    'The estimate in US dollars; null when the model has no price.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.violations IS
    'Every limit that the call would exceed, also those that only warn, with their action; numbers as text.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.details IS
    'More about the reason, such as the suspension or shadow mode.';
COMMENT ON COLUMN ai_limiter.ai_reservation_verdict.reservation_id IS 'The hold to settle or release; null when denied.';

CREATE TYPE ai_limiter.ai_settlement AS (
    usage_id uuid,
    cost_usd numeric,
    estimated_cost_usd numeric,
    already_settled boolean
);
COMMENT ON TYPE ai_limiter.ai_settlement IS 'What settling a hold booked.';
COMMENT ON COLUMN ai_limiter.ai_settlement.usage_id IS 'The ledger row; it has the reservation''s id.';
COMMENT ON COLUMN ai_limiter.ai_settlement.cost_usd IS 'What was booked, in US dollars.';
COMMENT ON COLUMN ai_limiter.ai_settlement.estimated_cost_usd IS 'What had been held, in US dollars; null when the model had no price.';
COMMENT ON COLUMN ai_limiter.ai_settlement.already_settled IS 'True when an earlier call settled it: this is then that call''s answer.';

CREATE TYPE ai_limiter.ai_token_count AS (
    tokens bigint,
    is_exact boolean,
    tokenizer text
);
COMMENT ON TYPE ai_limiter.ai_token_count IS 'How many tokens a text is to a model.';
COMMENT ON COLUMN ai_limiter.ai_token_count.tokens IS 'The tokens of the text alone: what a provider adds for each message and tool is not in it.';
COMMENT ON COLUMN ai_limiter.ai_token_count.is_exact IS 'Whether they were counted with the model''s own tokenizer; else estimated.';
COMMENT ON COLUMN ai_limiter.ai_token_count.tokenizer IS 'Which tokenizer counted; null where it was estimated.';
