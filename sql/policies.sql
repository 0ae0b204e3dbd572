-- Row-level security on every table. A server role (ai_is_server()) sees and writes what its grants
-- allow; everyone else reads their own, and more by their role. Each test is a subselect, so that a
-- statement evaluates it once.

ALTER TABLE ai_limiter.ai_tiers ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_price_catalogs ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_suspensions ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_run_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_config_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_rollup_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_rollup_slices ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_usage_rollup ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_usage_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_idempotency ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_denials ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_output_estimates ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_output_estimate_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_barrier ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_usage_imports ENABLE ROW LEVEL SECURITY;
ALTER TABLE ai_limiter.ai_usage_import_refusals ENABLE ROW LEVEL SECURITY;

CREATE POLICY server ON ai_limiter.ai_tiers USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_tenants USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_accounts USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_limits USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_prices USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_price_catalogs USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_suspensions USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_run_limits USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_config_changes USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_reservations USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_usage USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_rollup_state USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_rollup_slices USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_usage_rollup USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_usage_totals USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_idempotency USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_denials USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_output_estimates USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_output_estimate_state USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_barrier USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_usage_imports USING ((SELECT ai_limiter.ai_is_server()));
CREATE POLICY server ON ai_limiter.ai_usage_import_refusals USING ((SELECT ai_limiter.ai_is_server()));

CREATE POLICY read_tiers ON ai_limiter.ai_tiers FOR SELECT USING (true);
-- The zero tenant's zone is everybody's default.
CREATE POLICY read_own ON ai_limiter.ai_tenants FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR tenant_id IN ((SELECT ai_limiter.ai_current_tenant()), '00000000-0000-0000-0000-000000000000'));
CREATE POLICY read_own ON ai_limiter.ai_accounts FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR (tenant_id = (SELECT ai_limiter.ai_current_tenant())
        AND ((SELECT ai_limiter.ai_sees_people()) OR user_id = (SELECT ai_limiter.ai_current_user()))));
-- The platform's own amounts tell what the company spends: what applies to the caller is in
-- get_ai_limits().
CREATE POLICY read_own ON ai_limiter.ai_limits FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR (managed_by = 'tenant' AND tenant_id = (SELECT ai_limiter.ai_current_tenant())
        AND ((SELECT ai_limiter.ai_sees_people()) OR user_id = (SELECT ai_limiter.ai_current_user()))));
CREATE POLICY read_platform ON ai_limiter.ai_prices FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform()));
CREATE POLICY read_platform ON ai_limiter.ai_price_catalogs FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform()));
CREATE POLICY read_platform ON ai_limiter.ai_output_estimates FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform()));
CREATE POLICY read_platform ON ai_limiter.ai_suspensions FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform()));
CREATE POLICY read_platform ON ai_limiter.ai_config_changes FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform()));
CREATE POLICY read_own ON ai_limiter.ai_reservations FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR (tenant_id = (SELECT ai_limiter.ai_current_tenant())
        AND ((SELECT ai_limiter.ai_sees_people()) OR user_id = (SELECT ai_limiter.ai_current_user()))));
CREATE POLICY read_own ON ai_limiter.ai_usage FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR (tenant_id = (SELECT ai_limiter.ai_current_tenant())
        AND ((SELECT ai_limiter.ai_sees_people()) OR user_id = (SELECT ai_limiter.ai_current_user()))));
CREATE POLICY read_own ON ai_limiter.ai_denials FOR SELECT USING ((SELECT ai_limiter.ai_sees_platform())
    OR (tenant_id = (SELECT ai_limiter.ai_current_tenant())
        AND ((SELECT ai_limiter.ai_sees_people()) OR user_id = (SELECT ai_limiter.ai_current_user()))));
