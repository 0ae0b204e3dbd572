-- Who may do what. Nothing is PUBLIC but what policies call; Supabase's roles get their part where
-- they exist. Elsewhere the owner grants: see "Roles" in docs/reference.md.

REVOKE ALL ON ALL TABLES IN SCHEMA ai_limiter FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ai_limiter FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ai_limiter FROM PUBLIC;

-- Default privileges of whoever creates the extension may have granted more than that: a role that
-- can insert into ai_reservations would act for anyone.
DO $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT pg_catalog.quote_ident(r.rolname)
        FROM (SELECT c.relacl AS acl, c.relowner AS owner FROM pg_catalog.pg_class c
              WHERE c.relnamespace = 'ai_limiter'::pg_catalog.regnamespace
              UNION ALL
              SELECT p.proacl, p.proowner FROM pg_catalog.pg_proc p
              WHERE p.pronamespace = 'ai_limiter'::pg_catalog.regnamespace
              UNION ALL
              SELECT n.nspacl, n.nspowner FROM pg_catalog.pg_namespace n
              WHERE n.nspname = 'ai_limiter') o,
            LATERAL pg_catalog.aclexplode(o.acl) a
            JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA ai_limiter FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA ai_limiter FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ai_limiter FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA ai_limiter FROM %s', grantee);
    END LOOP;
END
$$;

-- Row-level security evaluates these as whoever queries; the schema's USAGE is the gate.
GRANT EXECUTE ON FUNCTION ai_limiter.ai_current_user(), ai_limiter.ai_current_tenant(),
    ai_limiter.ai_current_role(), ai_limiter.ai_is_server(), ai_limiter.ai_sees_platform(),
    ai_limiter.ai_sees_people() TO PUBLIC;

DO $$
DECLARE
    asking constant text := 'check_ai_limit, within_ai_limit, require_ai_limit, get_ai_limits, '
        'explain_ai_limit, get_user_daily_ai_usage, get_ai_cost_alerts, get_global_ai_cost, '
        'get_ai_cost, estimate_ai_cost, count_tokens, explain_ai_cost_estimate, ai_catalog_prices, ai_counters, ai_hold_exposure, canonical_model_name, ai_window';
    acting constant text := 'reserve_ai_usage, extend_ai_reservation, settle_ai_usage, '
        'release_ai_usage, record_ai_usage, adjust_ai_usage, reprice_ai_usage, suspend_ai, resume_ai, suspension_subject, '
        'verify_ai_counters, refresh_ai_counters, refresh_ai_estimates, advance_ai_rollup, ensure_ai_partitions, '
        'import_ai_usage, checked_limit, load_ai_price_catalog, checked_price_catalog, checked_price, '
        'import_litellm_prices, litellm_prices, overlapping_price, require_tier, ai_invoice_lines, ai_invoice_rows, ai_invoice_parts';
    reading constant text := 'ai_limiter.ai_usage, ai_limiter.ai_reservations, ai_limiter.ai_denials, '
        'ai_limiter.ai_limits, ai_limiter.ai_tiers, ai_limiter.ai_tenants, ai_limiter.ai_accounts, '
        'ai_limiter.ai_cost_by_day, ai_limiter.ai_cost_by_model, ai_limiter.ai_cost_by_tenant, '
        'ai_limiter.ai_cost_by_user, ai_limiter.ai_cost_by_feature, ai_limiter.ai_limit_status, '
        'ai_limiter.ai_usage_line_items, ai_limiter.ai_model_prices, ai_limiter.ai_cost_focus, '
        'ai_limiter.ai_overspend_bound';
BEGIN
    IF pg_catalog.to_regrole('anon') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA ai_limiter TO anon;
        GRANT EXECUTE ON FUNCTION ai_limiter.check_ai_limit, ai_limiter.within_ai_limit,
            ai_limiter.require_ai_limit, ai_limiter.get_ai_limits TO anon;
    END IF;
    IF pg_catalog.to_regrole('authenticated') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA ai_limiter TO authenticated;
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION ai_limiter.%s TO authenticated',
            pg_catalog.replace(asking, ', ', ', ai_limiter.'));
        EXECUTE pg_catalog.format('GRANT SELECT ON %s TO authenticated', reading);
        -- Row-level security lets only platform_admin through.
        GRANT SELECT ON ai_limiter.ai_prices, ai_limiter.ai_price_catalogs, ai_limiter.ai_suspensions,
            ai_limiter.ai_config_changes, ai_limiter.ai_output_estimates TO authenticated;
    END IF;
    IF pg_catalog.to_regrole('service_role') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA ai_limiter TO service_role;
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION ai_limiter.%s TO service_role',
            pg_catalog.replace(asking || ', ' || acting, ', ', ', ai_limiter.'));
        -- Two of one name.
        GRANT EXECUTE ON FUNCTION ai_limiter.reconcile_ai_invoice(jsonb, boolean),
            ai_limiter.reconcile_ai_invoice(regclass, jsonb, boolean) TO service_role;
        EXECUTE pg_catalog.format('GRANT SELECT ON %s TO service_role', reading);
        GRANT SELECT ON ai_limiter.ai_prices, ai_limiter.ai_price_catalogs, ai_limiter.ai_suspensions, ai_limiter.ai_run_limits,
            ai_limiter.ai_config_changes, ai_limiter.ai_idempotency, ai_limiter.ai_rollup_state,
            ai_limiter.ai_rollup_slices, ai_limiter.ai_usage_rollup, ai_limiter.ai_usage_totals,
            ai_limiter.ai_output_estimates, ai_limiter.ai_output_estimate_state TO service_role;
        GRANT INSERT, UPDATE, DELETE ON ai_limiter.ai_tiers, ai_limiter.ai_tenants, ai_limiter.ai_accounts,
            ai_limiter.ai_limits, ai_limiter.ai_prices, ai_limiter.ai_price_catalogs,
            ai_limiter.ai_suspensions TO service_role;
        GRANT USAGE ON SEQUENCE ai_limiter.ai_limits_id_seq, ai_limiter.ai_prices_id_seq,
            ai_limiter.ai_price_catalogs_id_seq TO service_role;
        -- Deleting an import lets it begin anew.
        GRANT SELECT, DELETE ON ai_limiter.ai_usage_imports TO service_role;
        GRANT SELECT ON ai_limiter.ai_usage_import_refusals TO service_role;
        -- What makes a role a server: it may act for anyone.
        GRANT INSERT ON ai_limiter.ai_reservations, ai_limiter.ai_usage TO service_role;
    END IF;
    GRANT USAGE ON SCHEMA ai_limiter TO pg_monitor;
    EXECUTE pg_catalog.format('GRANT SELECT ON %s TO pg_monitor', reading);
    GRANT SELECT ON ai_limiter.ai_limiter_stat TO pg_monitor;
    GRANT EXECUTE ON FUNCTION ai_limiter.ai_counters, ai_limiter.ai_hold_exposure, ai_limiter.ai_counter_stat,
        ai_limiter.ai_worker_stat TO pg_monitor;
END
$$;
