-- The ledger's history, summed: what a counter is loaded from without reading every row again. All of
-- it can be made again from the ledger, and none of it is dumped, but the totals of dropped months.
-- How the sums stay exact: docs/internals.md, "The rollup".

CREATE TABLE ai_limiter.ai_rollup_state (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT ai_rollup_state_is_one_row CHECK (one),
    watermark timestamptz,
    sealed_at timestamptz,
    sealed_xid xid8
);
INSERT INTO ai_limiter.ai_rollup_state DEFAULT VALUES;
COMMENT ON TABLE ai_limiter.ai_rollup_state IS 'How far the rollup has got: one row.';
COMMENT ON COLUMN ai_limiter.ai_rollup_state.one IS 'Always true.';
COMMENT ON COLUMN ai_limiter.ai_rollup_state.watermark IS
    'Ledger rows with an earlier recorded_at are in the rollup, the others are not; null before the first round.';
COMMENT ON COLUMN ai_limiter.ai_rollup_state.sealed_at IS 'What becomes the watermark once no transaction before sealed_xid is open.';
COMMENT ON COLUMN ai_limiter.ai_rollup_state.sealed_xid IS 'The next transaction id, read after sealed_at was taken.';

CREATE SEQUENCE ai_limiter.ai_rollup_slices_id_seq;
CREATE TABLE ai_limiter.ai_rollup_slices (
    slice_id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('ai_limiter.ai_rollup_slices_id_seq'),
    partition oid NOT NULL,
    identity text NOT NULL,
    dimensions text[] NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    watermark timestamptz,
    stale boolean NOT NULL DEFAULT false
);
ALTER SEQUENCE ai_limiter.ai_rollup_slices_id_seq OWNED BY ai_limiter.ai_rollup_slices.slice_id;
-- One that counts of each partition and grain; a stale one stays until its rows are gone.
CREATE UNIQUE INDEX ai_rollup_slices_live_idx ON ai_limiter.ai_rollup_slices (partition, dimensions) WHERE NOT stale;
COMMENT ON SEQUENCE ai_limiter.ai_rollup_slices_id_seq IS 'Ids of ai_rollup_slices.';
COMMENT ON TABLE ai_limiter.ai_rollup_slices IS 'Which parts of the rollup there are: a row for a partition of the ledger by some dimensions.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.slice_id IS 'The slice.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.partition IS 'The partition of ai_usage, as in pg_class.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.identity IS
    'What the partition was when it was summed: its attachment, its file and its triggers. A slice of another identity does not count.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.dimensions IS 'What its rows are told apart by, beside the quarter-hour; the names are those of ai_limits.per, and tier.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.starts_at IS 'Where the partition begins.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.ends_at IS 'Where the partition ends.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.watermark IS 'Up to where it is summed; null when that is ai_rollup_state.watermark, and only then it is used.';
COMMENT ON COLUMN ai_limiter.ai_rollup_slices.stale IS 'No longer counts; its rows are deleted little by little.';

CREATE TABLE ai_limiter.ai_usage_rollup (
    slice_id bigint NOT NULL,
    quarter timestamptz NOT NULL,
    tenant_id uuid,
    tier text,
    provider text,
    model text,
    feature text,
    api_key_id text,
    attributes jsonb,
    cell uuid NOT NULL,
    usage_id uuid,
    requests numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_usd numeric NOT NULL
);
-- By the cell and not by its columns: a text of any length fits, and a counter of one subject reads
-- its rows alone.
CREATE UNIQUE INDEX ai_usage_rollup_cell_idx ON ai_limiter.ai_usage_rollup
    (slice_id, tenant_id, cell, quarter, usage_id) NULLS NOT DISTINCT;
-- Empty but for moments: what the next round merges.
CREATE INDEX ai_usage_rollup_late_idx ON ai_limiter.ai_usage_rollup (slice_id) WHERE usage_id IS NOT NULL;
-- The running quarter-hour is updated each round.
ALTER TABLE ai_limiter.ai_usage_rollup SET (fillfactor = 90);
COMMENT ON TABLE ai_limiter.ai_usage_rollup IS
    'Sums of the ledger by quarter-hour and the dimensions of its slice; columns that are none of these are null.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.slice_id IS 'The row of ai_rollup_slices.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.quarter IS 'The beginning of the quarter-hour of the rows'' created_at.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.tenant_id IS 'The tenant.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.tier IS 'The tier.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.provider IS 'The provider.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.model IS 'The canonical model.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.feature IS 'The feature.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.api_key_id IS 'The API key''s identifier.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.attributes IS 'Those attributes that the slice tells apart.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.cell IS 'A hash of the dimensions but the tenant.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.usage_id IS 'Of a ledger row that came with a recorded_at before the watermark: its id, until the next round merges it.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.requests IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.input_tokens IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.output_tokens IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_rollup.cost_usd IS 'The sum, in US dollars.';

CREATE TABLE ai_limiter.ai_usage_totals (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    month timestamptz NOT NULL,
    tenant_id uuid NOT NULL,
    user_id uuid,
    tier text NOT NULL,
    provider text,
    model text,
    feature text,
    api_key_id text,
    attributes jsonb NOT NULL,
    requests numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_usd numeric NOT NULL
);
-- Written when a month is dropped, read whenever a user's total is summed.
CREATE INDEX ai_usage_totals_account_idx ON ai_limiter.ai_usage_totals (tenant_id, user_id);
COMMENT ON TABLE ai_limiter.ai_usage_totals IS
    'What months that were dropped from the ledger added up to: rules of the period total go on counting it.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.id IS 'The row.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.month IS 'The beginning of the partition that was dropped.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.tenant_id IS 'The tenant.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.user_id IS 'The user; null for calls of nobody.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.tier IS 'The tier.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.provider IS 'The provider.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.model IS 'The canonical model.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.feature IS 'The feature.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.api_key_id IS 'The API key''s identifier.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.attributes IS 'Those attributes that rules looked at when the month was dropped.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.requests IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.input_tokens IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.output_tokens IS 'The sum.';
COMMENT ON COLUMN ai_limiter.ai_usage_totals.cost_usd IS 'The sum, in US dollars.';
