-- Coming from elsewhere. Runs with the caller's own rights: the source is read with them.

CREATE FUNCTION ai_limiter.import_ai_usage(source regclass, mapping jsonb DEFAULT '{}',
    batch_rows integer DEFAULT 10000)
RETURNS TABLE (import_id bigint, imported bigint, refused bigint, is_complete boolean)
LANGUAGE c VOLATILE ROWS 1 AS 'MODULE_PATHNAME', 'import_ai_usage_wrapper';
COMMENT ON FUNCTION ai_limiter.import_ai_usage(regclass, jsonb, integer) IS
    'Books the next rows of another usage table or view, at most batch_rows (null: all), and says how many of it are booked and refused by now and whether the end is reached: call it until it is. mapping names a column of the source, or a constant as {"value": ...}, for created_at, tenant_id, user_id, provider, model, feature, api_key_id, run_id, attributes, requests, input_tokens, output_tokens, cost_usd, usage and the key id; what it leaves out is the column of that name. Rows without a cost are priced as of their created_at. For server roles, who read the source with their own rights. Raises 22023 for a mapping without meaning or other than before, 42704 for a column that is not there, 42501 without the right.';
