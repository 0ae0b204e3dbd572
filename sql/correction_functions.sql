-- Correcting what was booked: the only source of negative rows. Nothing in the ledger is edited; a
-- correction is a row of its own, in the windows of the row that it corrects.

CREATE FUNCTION ai_limiter.adjust_ai_usage(usage_id uuid, cost_usd_delta numeric, reason text)
RETURNS uuid
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'adjust_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.adjust_ai_usage(uuid, numeric, text) IS
    'Books a correction of a ledger row, up or down, in the windows of that row, and gives the correction''s id. Counters follow: what is taken away is free when it commits. Raises 42704 for an unknown row, 22003 for more than the row and its corrections come to, 22023 for zero, NaN or a row that is itself a correction, 22004 without a reason. For servers.';

CREATE FUNCTION ai_limiter.reprice_ai_usage("from" timestamptz, "to" timestamptz, model text DEFAULT NULL,
    dry_run boolean DEFAULT true)
RETURNS TABLE (model text, rows bigint, cost_usd_before numeric, cost_usd_after numeric,
    difference_usd numeric, unpriced bigint)
LANGUAGE c VOLATILE ROWS 100 AS 'MODULE_PATHNAME', 'reprice_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.reprice_ai_usage(timestamptz, timestamptz, text, boolean) IS
    'What the priced ledger rows made from an instant until another would cost at the prices of their time as they are written now: a row per model. Unless dry_run, the difference is booked, a correction for each row whose cost differs. A second run books nothing. A cost that was told is left alone. Raises 22023 for an empty time, 22004 for a null one. For servers.';
