-- The ledger: completed and checked by whoever inserts, and append-only. Every trigger here also fires
-- while a dump is restored, and lets it pass.

CREATE FUNCTION ai_limiter.ai_usage_insert() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_usage_insert_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_usage_insert() IS
    'Private: completes and checks a ledger row: tier, canonical model, attributes, recorded_at, nothing in the future.';
CREATE TRIGGER ai_usage_insert BEFORE INSERT ON ai_limiter.ai_usage
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_usage_insert();

CREATE FUNCTION ai_limiter.ai_usage_count() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_usage_count_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_usage_count() IS
    'Private: tells the counters in shared memory of a row of the ledger, whoever inserts it, and adds one whose given recorded_at lies before the watermark to the rollup.';
-- AFTER: a BEFORE trigger also runs for a row that ON CONFLICT DO NOTHING leaves out.
CREATE TRIGGER ai_usage_count AFTER INSERT ON ai_limiter.ai_usage
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.ai_usage_count();

CREATE FUNCTION ai_limiter.ai_reservations_write() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'ai_reservations_write_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_reservations_write() IS
    'Private: has all counters loaded anew when a statement that is not the extension''s own has written holds, as a restore does.';
CREATE TRIGGER ai_reservations_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ai_limiter.ai_reservations
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.ai_reservations_write();

-- Also where a replica applies what its source has written.
ALTER TABLE ai_limiter.ai_usage ENABLE ALWAYS TRIGGER ai_usage_count;
ALTER TABLE ai_limiter.ai_reservations ENABLE ALWAYS TRIGGER ai_reservations_write;

CREATE FUNCTION ai_limiter.append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'cannot % table "%"', CASE TG_OP WHEN 'DELETE' THEN 'delete from' ELSE lower(TG_OP) END,
        TG_TABLE_NAME USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'It is append-only.';
END
$$;
COMMENT ON FUNCTION ai_limiter.append_only() IS 'Private: refuses to change what was recorded (55000).';
-- Row triggers are cloned to partitions; the one on TRUNCATE is not, so each partition gets its own.
CREATE TRIGGER ai_usage_append_only BEFORE UPDATE OR DELETE ON ai_limiter.ai_usage
    FOR EACH ROW EXECUTE FUNCTION ai_limiter.append_only();
-- Also where rows are applied by logical replication: the rollup must hear of every one.
ALTER TABLE ai_limiter.ai_usage ENABLE ALWAYS TRIGGER ai_usage_insert;
ALTER TABLE ai_limiter.ai_usage ENABLE ALWAYS TRIGGER ai_usage_inserted;
ALTER TABLE ai_limiter.ai_usage ENABLE ALWAYS TRIGGER ai_usage_append_only;
CREATE TRIGGER ai_usage_no_truncate BEFORE TRUNCATE ON ai_limiter.ai_usage
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.append_only();
CREATE TRIGGER ai_config_changes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ai_limiter.ai_config_changes
    FOR EACH STATEMENT EXECUTE FUNCTION ai_limiter.append_only();
