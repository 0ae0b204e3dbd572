-- What people configure: tenants, accounts, tiers, limits, prices, suspensions, and the audit of
-- all of it. All are dumped (see dump.sql). There are no foreign keys: from ledger and holds they
-- would lock the tenant's row on every call, and between these tables a parallel restore would break
-- them, since nothing orders the data of an extension's tables. rule_triggers.sql looks after tiers.

CREATE TABLE ai_limiter.ai_tiers (
    tier text PRIMARY KEY,
    allowed_models text[],
    allowed_features text[],
    description text,
    shipped boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE ai_limiter.ai_tiers IS 'What an account of a tier may call. Its limits are rows of ai_limits.';
COMMENT ON COLUMN ai_limiter.ai_tiers.tier IS 'The name.';
COMMENT ON COLUMN ai_limiter.ai_tiers.allowed_models IS 'Names or patterns with *; null allows every model, {} none. A call that names no model is not judged by it.';
COMMENT ON COLUMN ai_limiter.ai_tiers.allowed_features IS 'Names or patterns with *; null allows every feature, {} none. A call that names no feature is not judged by it.';
COMMENT ON COLUMN ai_limiter.ai_tiers.description IS 'For people.';
COMMENT ON COLUMN ai_limiter.ai_tiers.shipped IS 'Still as the extension shipped it; inserting a row of the same name edits it.';

CREATE TABLE ai_limiter.ai_tenants (
    tenant_id uuid PRIMARY KEY,
    name text,
    timezone text NOT NULL DEFAULT 'UTC',
    markup_factor numeric NOT NULL DEFAULT 1
        CONSTRAINT ai_tenants_markup_in_range CHECK (markup_factor BETWEEN 0 AND 1000),
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE ai_limiter.ai_tenants IS
    'Tenants. The row of the zero uuid stands for apps without tenants, and its zone is the default zone (UTC without it).';
COMMENT ON COLUMN ai_limiter.ai_tenants.tenant_id IS 'The tenant, as in the claim app_metadata.tenant_id.';
COMMENT ON COLUMN ai_limiter.ai_tenants.name IS 'For people.';
COMMENT ON COLUMN ai_limiter.ai_tenants.timezone IS 'The zone of the windows of the tenant''s limits, a name that Postgres knows.';
COMMENT ON COLUMN ai_limiter.ai_tenants.markup_factor IS 'What the tenant is charged is what is paid times this, unless a price row has a factor of its own. Limits count what is paid.';
COMMENT ON COLUMN ai_limiter.ai_tenants.created_at IS 'When the row was made.';

CREATE TABLE ai_limiter.ai_accounts (
    tenant_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    user_id uuid NOT NULL,
    tier text,
    timezone text,
    role text NOT NULL DEFAULT 'member' CONSTRAINT ai_accounts_role_exists CHECK (role IN
        ('viewer', 'member', 'analyst', 'manager', 'billing_admin', 'tenant_admin', 'platform_admin')),
    suspended boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id)
);
COMMENT ON TABLE ai_limiter.ai_accounts IS 'Users within a tenant. A user without a row has the default tier and the role member.';
COMMENT ON COLUMN ai_limiter.ai_accounts.tenant_id IS 'The tenant; the zero uuid in apps without tenants.';
COMMENT ON COLUMN ai_limiter.ai_accounts.user_id IS 'The user, as in the claim sub.';
COMMENT ON COLUMN ai_limiter.ai_accounts.tier IS 'Null is ai_limiter.default_tier. A call keeps the tier that the account had.';
COMMENT ON COLUMN ai_limiter.ai_accounts.timezone IS 'The zone of the windows of the user''s limits; null is the tenant''s.';
COMMENT ON COLUMN ai_limiter.ai_accounts.role IS 'What the user may see where the token''s claim app_metadata.role does not say.';
COMMENT ON COLUMN ai_limiter.ai_accounts.suspended IS 'True blocks every call of the user, free ones too.';
COMMENT ON COLUMN ai_limiter.ai_accounts.created_at IS 'When the row was made.';

CREATE SEQUENCE ai_limiter.ai_limits_id_seq;
CREATE TABLE ai_limiter.ai_limits (
    id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('ai_limiter.ai_limits_id_seq'),
    name text NOT NULL,
    tier text,
    tenant_id uuid,
    user_id uuid,
    provider text,
    model text,
    feature text,
    api_key_id text,
    attributes jsonb,
    per text[] NOT NULL DEFAULT '{}',
    metric text NOT NULL DEFAULT 'cost_usd',
    period text,
    rolling interval,
    amount numeric NOT NULL,
    action text NOT NULL DEFAULT 'deny',
    alert_at numeric[] NOT NULL DEFAULT '{0.5,0.8,1}',
    enabled boolean NOT NULL DEFAULT true,
    managed_by text NOT NULL DEFAULT 'platform',
    description text,
    shipped boolean NOT NULL DEFAULT false
);
ALTER SEQUENCE ai_limiter.ai_limits_id_seq OWNED BY ai_limiter.ai_limits.id;
COMMENT ON SEQUENCE ai_limiter.ai_limits_id_seq IS 'Ids of ai_limits.';
COMMENT ON TABLE ai_limiter.ai_limits IS
    'The rules. Rows of the platform with one name are one rule, of which the most specific that matches a call applies: user, then tenant, then tier, then any. Different names all apply. A tenant''s own rows apply in addition.';
COMMENT ON COLUMN ai_limiter.ai_limits.id IS 'Negative for the rules that ship with the extension, which can be disabled and not deleted.';
COMMENT ON COLUMN ai_limiter.ai_limits.name IS 'What verdicts call the rule.';
COMMENT ON COLUMN ai_limiter.ai_limits.tier IS 'Filter: calls made in this tier; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.tenant_id IS 'Filter: calls of this tenant; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.user_id IS 'Filter: calls of this user; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.provider IS 'Filter: calls to this provider; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.model IS 'Filter: calls that request this model, a name or a pattern with *; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.feature IS 'Filter: calls for this feature; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.api_key_id IS 'Filter: calls with this key, by its identifier; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.attributes IS 'Filter: calls whose attributes contain these; null matches all.';
COMMENT ON COLUMN ai_limiter.ai_limits.per IS
    'Which of tenant, user, provider, model, feature, api_key_id, run, attribute:<key> get a counter of their own; {} is one counter for all. A call that lacks one of them is not counted.';
COMMENT ON COLUMN ai_limiter.ai_limits.metric IS 'cost_usd, requests, input_tokens, output_tokens, total_tokens or concurrent (the requests of holds that are open now).';
COMMENT ON COLUMN ai_limiter.ai_limits.period IS
    'minute, hour, day, week (from Monday), month or total; null with rolling. In the zone of the subject: the account''s with user in per, the tenant''s with tenant in per, else the default.';
COMMENT ON COLUMN ai_limiter.ai_limits.rolling IS 'The last such interval instead of a period, in sixty buckets: it never admits more, and frees late by at most a sixtieth.';
COMMENT ON COLUMN ai_limiter.ai_limits.amount IS 'How much is allowed, in the metric''s unit; 0 blocks every call that adds to it.';
COMMENT ON COLUMN ai_limiter.ai_limits.action IS 'deny, or warn: then a verdict lists the violation and admits.';
COMMENT ON COLUMN ai_limiter.ai_limits.alert_at IS 'Parts of amount at which get_ai_cost_alerts() reports the counter.';
COMMENT ON COLUMN ai_limiter.ai_limits.enabled IS 'False takes the row out, as if it were not there.';
COMMENT ON COLUMN ai_limiter.ai_limits.managed_by IS 'platform, or tenant: a tenant''s own row, which only ever tightens.';
COMMENT ON COLUMN ai_limiter.ai_limits.description IS 'For people.';
COMMENT ON COLUMN ai_limiter.ai_limits.shipped IS 'Still as the extension shipped it; inserting a row of the same id edits it, as restoring a dump does.';

CREATE SEQUENCE ai_limiter.ai_prices_id_seq;
CREATE TABLE ai_limiter.ai_prices (
    id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('ai_limiter.ai_prices_id_seq'),
    tenant_id uuid,
    provider text,
    model text NOT NULL,
    input_usd_per_million_tokens numeric(20,12)
        CONSTRAINT ai_prices_input_not_negative CHECK (input_usd_per_million_tokens >= 0),
    output_usd_per_million_tokens numeric(20,12)
        CONSTRAINT ai_prices_output_not_negative CHECK (output_usd_per_million_tokens >= 0),
    usd_per_request numeric(20,12)
        CONSTRAINT ai_prices_request_not_negative CHECK (usd_per_request >= 0),
    unit_prices jsonb,
    discount_factor numeric CONSTRAINT ai_prices_discount_in_range CHECK (discount_factor BETWEEN 0 AND 10),
    markup_factor numeric CONSTRAINT ai_prices_markup_in_range CHECK (markup_factor BETWEEN 0 AND 1000),
    max_output_tokens bigint CONSTRAINT ai_prices_max_output_in_range
        CHECK (max_output_tokens BETWEEN 0 AND 1000000000000),
    source text NOT NULL DEFAULT 'manual' CONSTRAINT ai_prices_source_exists CHECK (source IN ('manual', 'litellm')),
    valid_during tstzrange NOT NULL DEFAULT '(,)'
        CONSTRAINT ai_prices_valid_sometime CHECK (NOT pg_catalog.isempty(valid_during)),
    recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- An import brings thousands of names; patterns are few.
CREATE INDEX ai_prices_model_idx ON ai_limiter.ai_prices (pg_catalog.lower(model));
CREATE INDEX ai_prices_pattern_idx ON ai_limiter.ai_prices (id) WHERE "position"(model, '*') > 0;
ALTER SEQUENCE ai_limiter.ai_prices_id_seq OWNED BY ai_limiter.ai_prices.id;
COMMENT ON SEQUENCE ai_limiter.ai_prices_id_seq IS 'Ids of ai_prices.';
COMMENT ON TABLE ai_limiter.ai_prices IS
    'Prices of one''s own, which win over the catalogue. Of the rows that match a call, the tenant''s own goes first, then a name before a pattern, then one with a provider, then the longest pattern. A row with any price says what the model costs; what it leaves out is free, and 0 is a free model. A row with none only changes by its factors what the next row, else the catalogue, says.';
COMMENT ON COLUMN ai_limiter.ai_prices.id IS 'The row, as explain_ai_limit() names it.';
COMMENT ON COLUMN ai_limiter.ai_prices.tenant_id IS 'The tenant that has this price; null is everyone.';
COMMENT ON COLUMN ai_limiter.ai_prices.provider IS 'The provider; null is any, and an empty text is none: calls that name no provider.';
COMMENT ON COLUMN ai_limiter.ai_prices.model IS 'A name, dated or not, or a pattern with *.';
COMMENT ON COLUMN ai_limiter.ai_prices.input_usd_per_million_tokens IS 'US dollars for a million input tokens; cached ones too, unless unit_prices prices them.';
COMMENT ON COLUMN ai_limiter.ai_prices.output_usd_per_million_tokens IS 'US dollars for a million output tokens, reasoning included.';
COMMENT ON COLUMN ai_limiter.ai_prices.usd_per_request IS 'US dollars for a request, whatever its tokens.';
COMMENT ON COLUMN ai_limiter.ai_prices.unit_prices IS 'Prices of other classes, by the catalogue''s keys and in its units, as {"cache_read_mtok": 0.3, "web_searches_kcount": 10}: a number, or {"base": 3, "tiers": [{"start": 200000, "price": 6}]} for calls with more input tokens than start.';
COMMENT ON COLUMN ai_limiter.ai_prices.discount_factor IS 'What is paid is the price times this: 0.8 is 20% off, 1.1 a surcharge of 10%; null is 1. The list price stays in list_cost_usd.';
COMMENT ON COLUMN ai_limiter.ai_prices.markup_factor IS 'What the tenant is charged is what is paid times this; null is the tenant''s markup_factor.';
COMMENT ON COLUMN ai_limiter.ai_prices.max_output_tokens IS 'The most output tokens that the model returns for a request: no call is held for more. Null when that is not known.';
COMMENT ON COLUMN ai_limiter.ai_prices.source IS 'manual, or litellm for a row of import_litellm_prices(), which a later import may replace.';
COMMENT ON COLUMN ai_limiter.ai_prices.valid_during IS 'When the price holds; rows that otherwise match alike must not overlap.';
COMMENT ON COLUMN ai_limiter.ai_prices.recorded_at IS 'When the row was written.';

CREATE SEQUENCE ai_limiter.ai_price_catalogs_id_seq;
CREATE TABLE ai_limiter.ai_price_catalogs (
    id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('ai_limiter.ai_price_catalogs_id_seq'),
    catalog jsonb NOT NULL,
    providers integer NOT NULL,
    models integer NOT NULL,
    unknown_price_keys text[] NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    loaded_by text NOT NULL
);
ALTER SEQUENCE ai_limiter.ai_price_catalogs_id_seq OWNED BY ai_limiter.ai_price_catalogs.id;
COMMENT ON SEQUENCE ai_limiter.ai_price_catalogs_id_seq IS 'Ids of ai_price_catalogs.';
COMMENT ON TABLE ai_limiter.ai_price_catalogs IS
    'Price catalogues that load_ai_price_catalog() took. The newest one prices what ai_prices does not; without a row, the one that came with the library does. Deleting the newest goes back to the one before.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.id IS 'The order in which they were taken.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.catalog IS 'The catalogue as the genai-prices project publishes it (v2): an array of providers.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.providers IS 'How many providers it has.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.models IS 'How many models it prices.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.unknown_price_keys IS 'Prices in it that this release cannot apply, as provider/model/key.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.loaded_at IS 'When it was taken.';
COMMENT ON COLUMN ai_limiter.ai_price_catalogs.loaded_by IS 'Who took it: session_user, the role that it had set, and the claim sub where claims count.';

CREATE TABLE ai_limiter.ai_suspensions (
    scope text NOT NULL CONSTRAINT ai_suspensions_scope_exists CHECK (scope IN
        ('all', 'tenant', 'user', 'model', 'feature', 'api_key_id', 'run')),
    subject text NOT NULL,
    reason text,
    suspended_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (scope, subject)
);
COMMENT ON TABLE ai_limiter.ai_suspensions IS 'What suspend_ai() blocks. A row takes effect when its transaction commits, and waits for nobody.';
COMMENT ON COLUMN ai_limiter.ai_suspensions.scope IS 'all, tenant, user, model, feature, api_key_id or run.';
COMMENT ON COLUMN ai_limiter.ai_suspensions.subject IS 'Which one; empty for the scope all. A model is its canonical name; a run of a tenant is tenant_id/run_id, without a tenant run_id.';
COMMENT ON COLUMN ai_limiter.ai_suspensions.reason IS 'Told to callers in the verdict''s details.';
COMMENT ON COLUMN ai_limiter.ai_suspensions.suspended_until IS 'When it ends by itself; null is never.';
COMMENT ON COLUMN ai_limiter.ai_suspensions.created_at IS 'When it was made.';

CREATE TABLE ai_limiter.ai_run_limits (
    tenant_id uuid NOT NULL,
    run_id text NOT NULL,
    amount_usd numeric(20,12) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (tenant_id, run_id)
);
COMMENT ON TABLE ai_limiter.ai_run_limits IS 'The caps that reserve_ai_usage(run_limit_usd => ...) fixed, one a run.';
COMMENT ON COLUMN ai_limiter.ai_run_limits.tenant_id IS 'The run''s tenant.';
COMMENT ON COLUMN ai_limiter.ai_run_limits.run_id IS 'The run.';
COMMENT ON COLUMN ai_limiter.ai_run_limits.amount_usd IS 'What the run may cost in all, in US dollars.';
COMMENT ON COLUMN ai_limiter.ai_run_limits.created_at IS 'When it was fixed.';

CREATE TABLE ai_limiter.ai_config_changes (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    table_name text NOT NULL,
    operation text NOT NULL,
    old_row jsonb,
    new_row jsonb,
    actor text NOT NULL,
    sub text
);
COMMENT ON TABLE ai_limiter.ai_config_changes IS
    'Who changed which configuration, and how. Restoring a dump is such a change too, and is recorded as the inserts that it is.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.id IS 'The entry.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.changed_at IS 'When the statement ran.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.table_name IS 'The table, without its schema.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.operation IS 'INSERT, UPDATE or DELETE.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.old_row IS 'The row before; null for an insert.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.new_row IS 'The row after; null for a delete.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.actor IS 'The database role: session_user, and the role that it had set.';
COMMENT ON COLUMN ai_limiter.ai_config_changes.sub IS 'The claim sub, where claims count; null otherwise.';
