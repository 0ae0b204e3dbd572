-- The truth: holds, ledger, idempotency keys, denials, and the barrier that orders them against
-- edits of rules. The dimension columns of ai_usage and ai_reservations have the same names, so
-- that one rendering of a rule's conditions reads both (domain/src/filter.rs).

CREATE TABLE ai_limiter.ai_reservations (
    id uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    user_id uuid,
    tier text NOT NULL,
    provider text,
    model text,
    requested_model text,
    feature text,
    api_key_id text,
    run_id text,
    attributes jsonb NOT NULL DEFAULT '{}',
    requests bigint NOT NULL CONSTRAINT ai_reservations_requests_in_range
        CHECK (requests BETWEEN 1 AND 1000000000000),
    input_tokens bigint CONSTRAINT ai_reservations_input_in_range
        CHECK (input_tokens BETWEEN 0 AND 1000000000000),
    output_tokens bigint CONSTRAINT ai_reservations_output_in_range
        CHECK (output_tokens BETWEEN 0 AND 1000000000000),
    cost_usd numeric(20,12) CONSTRAINT ai_reservations_cost_not_negative
        CHECK (cost_usd >= 0 AND cost_usd <> 'NaN'),
    max_output_tokens bigint CONSTRAINT ai_reservations_max_output_in_range
        CHECK (max_output_tokens BETWEEN 0 AND 1000000000000),
    max_cost_usd numeric(20,12) CONSTRAINT ai_reservations_max_cost_not_negative
        CHECK (max_cost_usd >= 0 AND max_cost_usd <> 'NaN'),
    state text NOT NULL DEFAULT 'open' CONSTRAINT ai_reservations_state_exists
        CHECK (state IN ('open', 'expired', 'released')),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
-- Rows live for minutes and are deleted when settled: leave room for updates on the page, and let
-- autovacuum follow the churn rather than the size.
ALTER TABLE ai_limiter.ai_reservations SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000);
-- What expires next, at every look.
CREATE INDEX ai_reservations_expiry_idx ON ai_limiter.ai_reservations (expires_at) WHERE state = 'open';
CREATE INDEX ai_reservations_account_idx ON ai_limiter.ai_reservations (tenant_id, user_id);
-- What a run holds, when its cap is fixed or loaded: not all that its tenant does.
CREATE INDEX ai_reservations_run_idx ON ai_limiter.ai_reservations (tenant_id, run_id) WHERE run_id IS NOT NULL;
COMMENT ON TABLE ai_limiter.ai_reservations IS
    'Holds. Settling deletes the row and books it in ai_usage under the same id. A hold counts while its state is open and expires_at is ahead; with the worker, until it is marked, within about a second.';
COMMENT ON COLUMN ai_limiter.ai_reservations.id IS 'A version 7 uuid that carries created_at.';
COMMENT ON COLUMN ai_limiter.ai_reservations.tenant_id IS 'The tenant; the zero uuid in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_reservations.user_id IS 'The user; null for a call of nobody.';
COMMENT ON COLUMN ai_limiter.ai_reservations.tier IS 'The account''s tier when the call was made.';
COMMENT ON COLUMN ai_limiter.ai_reservations.provider IS 'The provider, in lower case.';
COMMENT ON COLUMN ai_limiter.ai_reservations.model IS 'The canonical name of the requested model; rules look at this.';
COMMENT ON COLUMN ai_limiter.ai_reservations.requested_model IS 'The model as the caller wrote it; prices look at this.';
COMMENT ON COLUMN ai_limiter.ai_reservations.feature IS 'The feature of the app.';
COMMENT ON COLUMN ai_limiter.ai_reservations.api_key_id IS 'An identifier of the API key, never the key.';
COMMENT ON COLUMN ai_limiter.ai_reservations.run_id IS 'The chat, agent run or job.';
COMMENT ON COLUMN ai_limiter.ai_reservations.attributes IS 'More dimensions, flat, with text values.';
COMMENT ON COLUMN ai_limiter.ai_reservations.requests IS 'How many requests the hold is for.';
COMMENT ON COLUMN ai_limiter.ai_reservations.input_tokens IS 'Held input tokens; null when the call did not say.';
COMMENT ON COLUMN ai_limiter.ai_reservations.output_tokens IS 'Held output tokens: what such calls are likely to return, at most max_output_tokens; null when the call did not say.';
COMMENT ON COLUMN ai_limiter.ai_reservations.cost_usd IS 'Held cost in US dollars; null when the model has no price.';
COMMENT ON COLUMN ai_limiter.ai_reservations.max_output_tokens IS 'The most that the call may return, by the caller''s maximum; null when that is not known.';
COMMENT ON COLUMN ai_limiter.ai_reservations.max_cost_usd IS 'What the call costs at most, in US dollars, at max_output_tokens; null when that is not known.';
COMMENT ON COLUMN ai_limiter.ai_reservations.state IS 'open, expired (marked by the worker, by a call that it stood in the way of, or by refresh_ai_counters()) or released.';
COMMENT ON COLUMN ai_limiter.ai_reservations.created_at IS 'When it was made; the charge belongs to the windows of this instant.';
COMMENT ON COLUMN ai_limiter.ai_reservations.expires_at IS 'From here on it no longer counts, settled or not; with the worker, within about a second.';

-- Only the parent belongs to the extension, with no key, index or partition: pg_dump writes
-- nothing of a partitioned table that is a member, and partitions that the script made would be
-- members too. ensure_ai_partitions() makes them afterwards, as the user's own tables, which dump.
CREATE TABLE ai_limiter.ai_usage (
    id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    tenant_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    user_id uuid,
    tier text NOT NULL,
    provider text,
    model text,
    response_model text,
    feature text,
    api_key_id text,
    run_id text,
    attributes jsonb NOT NULL DEFAULT '{}',
    requests bigint NOT NULL DEFAULT 1 CONSTRAINT ai_usage_requests_not_negative CHECK (requests >= 0),
    input_tokens bigint NOT NULL DEFAULT 0 CONSTRAINT ai_usage_input_not_negative CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL DEFAULT 0 CONSTRAINT ai_usage_output_not_negative CHECK (output_tokens >= 0),
    cost_usd numeric(20,12) NOT NULL,
    list_cost_usd numeric(20,12),
    charge_usd numeric(20,12),
    estimated_cost_usd numeric(20,12) CONSTRAINT ai_usage_estimate_not_negative
        CHECK (estimated_cost_usd >= 0 AND estimated_cost_usd <> 'NaN'),
    price_source text NOT NULL DEFAULT 'caller',
    line_items jsonb,
    price_context jsonb,
    correction_of uuid,
    correction_reason text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    recorded_at timestamptz NOT NULL,
    CONSTRAINT ai_usage_cost_not_negative CHECK (cost_usd <> 'NaN' AND list_cost_usd <> 'NaN' AND charge_usd <> 'NaN'
        AND (correction_of IS NOT NULL OR (cost_usd >= 0 AND list_cost_usd >= 0 AND charge_usd >= 0))),
    CONSTRAINT ai_usage_correction_says_why CHECK ((correction_of IS NULL) = (correction_reason IS NULL))
) PARTITION BY RANGE (created_at);
COMMENT ON TABLE ai_limiter.ai_usage IS
    'The ledger: append-only, partitioned by month on created_at. A row that an app inserts itself is counted like any other.';
COMMENT ON COLUMN ai_limiter.ai_usage.id IS 'The reservation''s id, or one of its own.';
COMMENT ON COLUMN ai_limiter.ai_usage.tenant_id IS 'The tenant; the zero uuid in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_usage.user_id IS 'The user; null for a call of nobody.';
COMMENT ON COLUMN ai_limiter.ai_usage.tier IS 'The account''s tier when the call was made; filled in when an insert leaves it null.';
COMMENT ON COLUMN ai_limiter.ai_usage.provider IS 'The provider, in lower case.';
COMMENT ON COLUMN ai_limiter.ai_usage.model IS 'The canonical name of the requested model; an insert may give any spelling.';
COMMENT ON COLUMN ai_limiter.ai_usage.response_model IS 'The model that answered, as the provider wrote it; the price is that model''s.';
COMMENT ON COLUMN ai_limiter.ai_usage.feature IS 'The feature of the app.';
COMMENT ON COLUMN ai_limiter.ai_usage.api_key_id IS 'An identifier of the API key, never the key.';
COMMENT ON COLUMN ai_limiter.ai_usage.run_id IS 'The chat, agent run or job.';
COMMENT ON COLUMN ai_limiter.ai_usage.attributes IS 'More dimensions, flat, with text values, at most sixteen.';
COMMENT ON COLUMN ai_limiter.ai_usage.requests IS 'How many requests the row stands for.';
COMMENT ON COLUMN ai_limiter.ai_usage.input_tokens IS 'Input tokens, cached ones included.';
COMMENT ON COLUMN ai_limiter.ai_usage.output_tokens IS 'Output tokens, reasoning included.';
COMMENT ON COLUMN ai_limiter.ai_usage.cost_usd IS 'What it cost, in US dollars; limits count this. Negative only in a correction.';
COMMENT ON COLUMN ai_limiter.ai_usage.list_cost_usd IS 'What it would have cost at the public price, in US dollars; cost_usd where no other is known, also when an insert leaves it null; null in a row that passed the triggers by, which means cost_usd.';
COMMENT ON COLUMN ai_limiter.ai_usage.charge_usd IS 'What the tenant is charged for it, in US dollars: cost_usd with the markup; cost_usd when an insert leaves it null; null in a row that passed the triggers by, which means cost_usd.';
COMMENT ON COLUMN ai_limiter.ai_usage.estimated_cost_usd IS 'What had been held for it, in US dollars; null without a hold or a price.';
COMMENT ON COLUMN ai_limiter.ai_usage.price_source IS 'Where cost_usd came from: caller, ai_prices, catalog, provider when only its response tells, estimate when nothing better was known, or adjustment and reprice of a correction.';
COMMENT ON COLUMN ai_limiter.ai_usage.line_items IS 'What cost_usd is made of: an array of objects with class, quantity, unit_price_usd (of one), price_source and cost_usd, which add up to it. Null in a row that an app inserted itself; ai_usage_line_items shows such a row as one item.';
COMMENT ON COLUMN ai_limiter.ai_usage.price_context IS 'What the price depended on beside model and time, as the response said it: service_tier, processing; model and provider, what was priced where no column has it; and catalog_provider, whose catalogue price a call without a provider has. Null when nothing.';
COMMENT ON COLUMN ai_limiter.ai_usage.correction_of IS 'The row that this one corrects; null in a row that is no correction.';
COMMENT ON COLUMN ai_limiter.ai_usage.correction_reason IS 'Why it was corrected; null in a row that is no correction.';
COMMENT ON COLUMN ai_limiter.ai_usage.created_at IS 'When the call was made; decides the windows that it counts in. Never in the future.';
COMMENT ON COLUMN ai_limiter.ai_usage.recorded_at IS 'When it was booked; get_ai_cost(as_of) looks at this. Filled in where it is left null, after the transaction has its id: the rollup builds on that order.';

CREATE TABLE ai_limiter.ai_idempotency (
    tenant_id uuid NOT NULL,
    key text NOT NULL,
    arguments_hash bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (tenant_id, key)
);
COMMENT ON TABLE ai_limiter.ai_idempotency IS
    'The first answer to each idempotency key. A denied reserve writes nothing, so its key may be tried again.';
COMMENT ON COLUMN ai_limiter.ai_idempotency.tenant_id IS 'Keys of tenants do not meet.';
COMMENT ON COLUMN ai_limiter.ai_idempotency.key IS 'The caller''s key.';
COMMENT ON COLUMN ai_limiter.ai_idempotency.arguments_hash IS 'SHA-256 of the function and its arguments.';
COMMENT ON COLUMN ai_limiter.ai_idempotency.answer IS 'What the first call answered.';
COMMENT ON COLUMN ai_limiter.ai_idempotency.created_at IS 'Forgotten when older than ai_limiter.idempotency_retention.';

CREATE TABLE ai_limiter.ai_denials (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    minute timestamptz NOT NULL,
    limit_name text,
    limit_id bigint,
    tenant_id uuid NOT NULL,
    user_id uuid,
    model text,
    feature text,
    reason text NOT NULL,
    denials bigint NOT NULL DEFAULT 1,
    estimated_cost_usd numeric NOT NULL DEFAULT 0
);
CREATE INDEX ai_denials_minute_idx ON ai_limiter.ai_denials (minute);
COMMENT ON TABLE ai_limiter.ai_denials IS
    'What was refused by reserve_ai_usage(). Several rows may describe one minute and subject: sum them. With the worker they are here within about a second, also where the caller rolled back; without it a denial in a transaction that rolls back leaves none.';
COMMENT ON COLUMN ai_limiter.ai_denials.id IS 'The row.';
COMMENT ON COLUMN ai_limiter.ai_denials.minute IS 'The minute in which the calls were refused.';
COMMENT ON COLUMN ai_limiter.ai_denials.limit_name IS 'The limit that refused, "platform" for one that is of no user, tenant or run; null when it was no limit.';
COMMENT ON COLUMN ai_limiter.ai_denials.limit_id IS 'The row of ai_limits that refused; 0 is a run''s own cap, null no limit.';
COMMENT ON COLUMN ai_limiter.ai_denials.tenant_id IS 'The tenant that was refused.';
COMMENT ON COLUMN ai_limiter.ai_denials.user_id IS 'The user that was refused.';
COMMENT ON COLUMN ai_limiter.ai_denials.model IS 'The canonical model that was refused.';
COMMENT ON COLUMN ai_limiter.ai_denials.feature IS 'The feature that was refused.';
COMMENT ON COLUMN ai_limiter.ai_denials.reason IS 'The verdict''s reason.';
COMMENT ON COLUMN ai_limiter.ai_denials.denials IS 'How many.';
COMMENT ON COLUMN ai_limiter.ai_denials.estimated_cost_usd IS 'What they would have cost, in US dollars, as far as known.';

CREATE TABLE ai_limiter.ai_barrier ();
COMMENT ON TABLE ai_limiter.ai_barrier IS
    'Always empty. Whoever holds or books usage locks it in ROW SHARE mode; an edit that changes which calls a rule counts, or of a time zone, and a bulk load in EXCLUSIVE mode when they commit.';
