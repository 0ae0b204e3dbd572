-- Estimates: what a call would be held for and why, and what is learned.

CREATE TYPE ai_limiter.ai_cost_estimate AS (
    cost_usd numeric,
    input_tokens bigint,
    output_tokens bigint,
    basis text,
    explanation text,
    max_output_tokens bigint,
    max_cost_usd numeric,
    price_source text
);
COMMENT ON TYPE ai_limiter.ai_cost_estimate IS 'What a call would be held for, and why.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.cost_usd IS 'What it would be held for, in US dollars; null when the model has no price.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.input_tokens IS 'The input tokens, as given; null when they were not.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.output_tokens IS 'The output tokens that it would be held for.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.basis IS
    'Where output_tokens come from: learned_of_feature, learned_of_model, caller_maximum, model_maximum, default, or reported with a usage object.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.explanation IS 'The same for people.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.max_output_tokens IS 'The most that it may return: the caller''s or the model''s maximum; null when nothing bounds it.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.max_cost_usd IS 'What it would then cost, and is held for in the last part of a limit; null when nothing bounds it.';
COMMENT ON COLUMN ai_limiter.ai_cost_estimate.price_source IS 'Where the price comes from; null when the model has none.';

CREATE FUNCTION ai_limiter.explain_ai_cost_estimate(model text DEFAULT NULL, provider text DEFAULT NULL,
    usage jsonb DEFAULT NULL, input_tokens bigint DEFAULT NULL, output_tokens bigint DEFAULT NULL,
    feature text DEFAULT NULL)
RETURNS ai_limiter.ai_cost_estimate
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'explain_ai_cost_estimate_wrapper';
COMMENT ON FUNCTION ai_limiter.explain_ai_cost_estimate(text, text, jsonb, bigint, bigint, text) IS
    'What estimate_ai_cost() says, and why: what one request would be held for, in US dollars, at the caller''s tenant''s price, by what such calls are likely to return, else output_tokens (the caller''s maximum), else ai_limiter.default_output_tokens. With usage, what that costs. Raises 22004 without a model.';

CREATE FUNCTION ai_limiter.refresh_ai_estimates()
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refresh_ai_estimates_wrapper';
COMMENT ON FUNCTION ai_limiter.refresh_ai_estimates() IS
    'Learns from the ledger what calls have returned since the last time, and gives how many calls that were. The worker does it every ten seconds; call it where there is none. For a server role; raises 42501 for others.';

CREATE FUNCTION ai_limiter.ai_hold_exposure()
RETURNS TABLE (limit_name text, limit_id bigint, subject text, tenant_id uuid, user_id uuid, metric text,
    period text, action text, amount numeric, open_holds bigint, unbounded_holds bigint, held numeric,
    held_at_most numeric, overspend_bound numeric, resets_at timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'ai_hold_exposure_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_hold_exposure() IS
    'What the view ai_overspend_bound shows: every counter with open holds that the caller may see, and the most that these may come to.';
