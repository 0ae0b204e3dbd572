-- What pg_dump carries. The ledger's partitions are ordinary tables and need no word here.

SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_tiers', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_tenants', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_accounts', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_limits', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_limits_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_prices', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_prices_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_price_catalogs', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_price_catalogs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_suspensions', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_run_limits', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_config_changes', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_reservations', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_idempotency', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_denials', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_usage_totals', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_usage_imports', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_usage_imports_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ai_limiter.ai_usage_import_refusals', '');
