-- Operating: suspend at once, verify, rebuild, make partitions.

CREATE FUNCTION ai_limiter.suspend_ai(scope text, subject text DEFAULT NULL, reason text DEFAULT NULL,
    until timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subject_key text := ai_limiter.suspension_subject(scope, subject);
BEGIN
    IF until <= clock_timestamp() THEN
        RAISE EXCEPTION 'until must be in the future' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO ai_limiter.ai_suspensions AS s (scope, subject, reason, suspended_until)
    VALUES (suspend_ai.scope, subject_key, suspend_ai.reason, suspend_ai.until)
    ON CONFLICT ON CONSTRAINT ai_suspensions_pkey DO UPDATE
        SET reason = excluded.reason, suspended_until = excluded.suspended_until;
END
$$;
COMMENT ON FUNCTION ai_limiter.suspend_ai(text, text, text, timestamptz) IS
    'Blocks every call of a scope (all, tenant, user, model, feature, api_key_id, run) from its commit on, free calls too, until an instant or for good. Waits for no call. Raises 22023 for another scope, a subject that does not fit or an until that has passed.';

CREATE FUNCTION ai_limiter.resume_ai(scope text, subject text DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    subject_key text := ai_limiter.suspension_subject(scope, subject);
BEGIN
    DELETE FROM ai_limiter.ai_suspensions s
    WHERE s.scope = resume_ai.scope AND s.subject = subject_key;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION ai_limiter.resume_ai(text, text) IS
    'Ends a suspension; false when there was none. Raises 22023 for another scope or a subject that does not fit.';

CREATE FUNCTION ai_limiter.suspension_subject(scope text, subject text)
RETURNS text
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'suspension_subject_wrapper';
COMMENT ON FUNCTION ai_limiter.suspension_subject(text, text) IS
    'Private: checks a scope and its subject, and gives the subject as calls name it.';

CREATE FUNCTION ai_limiter.verify_ai_counters()
RETURNS TABLE (limit_name text, limit_id bigint, subject text, window_start timestamptz,
    used numeric, held numeric, ledger_used numeric, open_holds numeric, drift numeric)
LANGUAGE c VOLATILE ROWS 100 AS 'MODULE_PATHNAME', 'verify_ai_counters_wrapper';
COMMENT ON FUNCTION ai_limiter.verify_ai_counters() IS
    'A row per counter that is not empty: what admission would say (used, held), what raw ledger and open holds add up to, and the difference of the sums, which is 0 where nothing is open. Reads every row of the running windows.';

CREATE FUNCTION ai_limiter.refresh_ai_counters()
RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'refresh_ai_counters_wrapper';
COMMENT ON FUNCTION ai_limiter.refresh_ai_counters() IS
    'Marks expired holds, forgets what is older than ai_limiter.reservation_retention and ai_limiter.idempotency_retention, merges ai_denials by the minute, and brings the rollup of the ledger forward. The worker does that by itself; where there is none, run it now and then, for instance every minute. When it commits, all counters in shared memory are loaded anew, unless calls stay open that were admitted: then with a warning, and without that. Call it in a transaction of its own.';

CREATE FUNCTION ai_limiter.advance_ai_rollup(reset boolean DEFAULT false)
RETURNS boolean
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'advance_ai_rollup_wrapper';
COMMENT ON FUNCTION ai_limiter.advance_ai_rollup(boolean) IS
    'Private: one round of the rollup, bounded in its work; true when there is more to do at once. With reset everything is summed anew.';

CREATE FUNCTION ai_limiter.ensure_ai_partitions()
RETURNS integer
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'ensure_ai_partitions_wrapper';
COMMENT ON FUNCTION ai_limiter.ensure_ai_partitions() IS
    'Makes the ledger''s partitions of this month and the next three where they are missing, and says how many it made. reserve_ai_usage() and record_ai_usage() do so by themselves; an app that only inserts into ai_usage calls it.';

CREATE FUNCTION ai_limiter.ai_counters()
RETURNS TABLE (limit_name text, limit_id bigint, subject text, tenant_id uuid, user_id uuid, metric text,
    period text, action text, used numeric, held numeric, amount numeric, headroom numeric,
    window_start timestamptz, resets_at timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 AS 'MODULE_PATHNAME', 'ai_counters_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_counters() IS
    'Every counter that is not empty and that the caller may see; the view ai_limit_status shows it.';

CREATE FUNCTION ai_limiter.ai_worker_stat()
RETURNS TABLE (worker_state text, worker_pid integer, worker_rounds bigint, worker_started_at timestamptz,
    worker_finished_at timestamptz, worker_lag interval, last_error text, last_error_at timestamptz)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'ai_worker_stat_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_worker_stat() IS
    'Private: what the view ai_limiter_stat shows of the worker.';

CREATE FUNCTION ai_limiter.ai_counter_stat()
RETURNS TABLE (checks bigint, admitted bigint, denied_limit_exceeded bigint, denied_model_not_allowed bigint,
    denied_feature_not_allowed bigint, denied_unpriced_model bigint, denied_suspended bigint,
    denied_degraded bigint, loads bigint, evictions bigint, entries bigint, lock_waits bigint,
    table_path_calls bigint, bulk_episodes bigint)
LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'ai_counter_stat_wrapper';
COMMENT ON FUNCTION ai_limiter.ai_counter_stat() IS
    'Private: what the view ai_limiter_stat shows of the counters.';
