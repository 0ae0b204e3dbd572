-- What calls have returned, from which is told what the next one is likely to. Made from the ledger by
-- the worker, and not dumped: it is learned again.

CREATE TABLE ai_limiter.ai_output_estimates (
    model text NOT NULL,
    feature text,
    calls bigint NOT NULL CONSTRAINT ai_output_estimates_calls_not_negative CHECK (calls >= 0),
    histogram jsonb NOT NULL CONSTRAINT ai_output_estimates_histogram_is_object
        CHECK (pg_catalog.jsonb_typeof(histogram) = 'object'),
    updated_at timestamptz NOT NULL,
    CONSTRAINT ai_output_estimates_are_one_each UNIQUE NULLS NOT DISTINCT (model, feature)
);
-- Rewritten each time it is learned from.
ALTER TABLE ai_limiter.ai_output_estimates SET (fillfactor = 50);
COMMENT ON TABLE ai_limiter.ai_output_estimates IS
    'What calls of each model and feature have returned; everybody''s calls together. Holds are made for a quantile of it: see ai_limiter.output_quantile.';
COMMENT ON COLUMN ai_limiter.ai_output_estimates.model IS 'The canonical name of the requested model.';
COMMENT ON COLUMN ai_limiter.ai_output_estimates.feature IS 'The feature of the app; null for all calls of the model.';
COMMENT ON COLUMN ai_limiter.ai_output_estimates.calls IS 'How many calls are remembered: past 10,000 the older ones count less. With fewer than 100 nothing is told from them.';
COMMENT ON COLUMN ai_limiter.ai_output_estimates.histogram IS 'Calls by the bucket of their output tokens for a request; the buckets are 5% wide.';
COMMENT ON COLUMN ai_limiter.ai_output_estimates.updated_at IS 'When it last learned.';

CREATE TABLE ai_limiter.ai_output_estimate_state (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT ai_output_estimate_state_is_one_row CHECK (one),
    learned_until timestamptz
);
INSERT INTO ai_limiter.ai_output_estimate_state DEFAULT VALUES;
COMMENT ON TABLE ai_limiter.ai_output_estimate_state IS 'How far the ledger has been learned from: one row.';
COMMENT ON COLUMN ai_limiter.ai_output_estimate_state.one IS 'Always true.';
COMMENT ON COLUMN ai_limiter.ai_output_estimate_state.learned_until IS 'Ledger rows with an earlier recorded_at have been learned from; null before the first round, which begins a week back.';
