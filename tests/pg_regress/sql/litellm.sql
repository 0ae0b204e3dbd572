-- import_litellm_prices: the list of LiteLLM as rows of ai_prices.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- What a thousand input and a thousand output tokens cost.
CREATE FUNCTION public.cost(model text, provider text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(trim_scale(estimate_ai_cost($1, input_tokens => 1000, output_tokens => 1000, provider => $2))::text, 'no price')
$$;

-- A few entries as the list has them: US dollars for one token, one search, one second.
SELECT $json${
    "sample_spec": {"input_cost_per_token": 0.0, "litellm_provider": "one of the providers"},
    "aurora-1": {"litellm_provider": "aurora", "mode": "chat", "max_tokens": 8192,
        "input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06, "cache_read_input_token_cost": 2e-07,
        "input_cost_per_token_above_200k_tokens": 4e-06, "input_cost_per_token_batches": 1e-06,
        "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.01}},
    "azure/eu/aurora-1": {"litellm_provider": "azure", "input_cost_per_token": 3e-06, "output_cost_per_token": 9e-06},
    "azure/aurora-1": {"litellm_provider": "azure", "input_cost_per_token": 2.5e-06, "output_cost_per_token": 8e-06},
    "azure/aurora-latest": {"alias_of": "azure/aurora-1"},
    "gemini/aurora-g": {"litellm_provider": "gemini", "input_cost_per_token": 1e-06, "output_cost_per_token": 0},
    "aurora-ear": {"litellm_provider": "aurora", "mode": "audio_transcription", "input_cost_per_second": 0.0001},
    "aurora-paint": {"litellm_provider": "aurora", "mode": "image_generation", "input_cost_per_token": 1e-06,
        "output_cost_per_image": 0.04}
}$json$ AS prices \gset
SELECT imported, updated, unchanged, kept_manual, gone FROM import_litellm_prices(:'prices');
SELECT provider, model, unit_prices FROM ai_prices WHERE source = 'litellm' ORDER BY model, provider;

-- What could not be taken, by entry and key.
SELECT r.entry, r.imported, k.key, k.value AS why
FROM import_litellm_prices(:'prices') i, jsonb_to_recordset(i.not_represented) r(entry text, imported boolean, keys jsonb),
    jsonb_each_text(r.keys) k ORDER BY r.entry, k.key;

-- A call finds its row by the names that apps and tracing give to providers. A name without a provider is for
-- calls that name none and for its own provider, not for others who serve a model of this name.
SELECT cost('aurora-1') AS bare, cost('aurora-1', 'aurora') AS own, cost('aurora/aurora-1') AS prefix,
    cost('aurora-1', 'acme') AS acme, cost('aurora-1', 'vllm') AS self_hosted;
SELECT cost('azure/aurora-1') AS prefix, cost('aurora-1', 'azure.ai.openai') AS otel, cost('aurora-1-2026-05-01', 'azure') AS dated,
    cost('azure/eu/aurora-1') AS region, cost('eu/aurora-1', 'azure') AS region_named, cost('aurora-latest', 'azure') AS alias;
SELECT cost('aurora-g', 'google') AS google, cost('aurora-g', 'gcp.gemini') AS otel, cost('gemini/aurora-g') AS litellm,
    cost('aurora-g') AS bare;

-- Once more changes nothing. A new price ends the old one and holds from now on; an entry that is gone keeps
-- its row.
SELECT imported, updated, unchanged, kept_manual, gone FROM import_litellm_prices(:'prices');
SELECT replace(:'prices', '2e-06', '1e-06')::jsonb - 'azure/eu/aurora-1' AS cheaper \gset
SELECT imported, updated, unchanged, kept_manual, gone FROM import_litellm_prices(:'cheaper');
SELECT provider, model, unit_prices -> 'input_mtok' ->> 'base' AS input_mtok, upper_inf(valid_during) AS holds,
    valid_during -|- lag(valid_during) OVER (PARTITION BY provider ORDER BY valid_during) AS follows
FROM ai_prices WHERE model = 'aurora-1' AND provider IN ('', 'aurora') ORDER BY provider, valid_during;
SELECT cost('aurora-1') AS bare, cost('azure/eu/aurora-1') AS gone;

-- A row that is written by hand goes first, whatever it is of: here a price of one provider, and 10% off
-- everything. Where it is of the very provider and model, the entry is left out.
INSERT INTO ai_prices (model, discount_factor) VALUES ('*', 0.9);
DELETE FROM ai_prices WHERE provider = 'gemini';
INSERT INTO ai_prices (provider, model, input_usd_per_million_tokens, output_usd_per_million_tokens) VALUES ('Gemini', 'Aurora-G', 7, 7);
SELECT imported, updated, unchanged, kept_manual, gone FROM import_litellm_prices(:'prices');
SELECT cost('aurora-1') AS "0.9 x (2 + 8)", cost('gemini/aurora-g') AS by_hand;
SELECT model, source FROM ai_prices WHERE lower(provider) = 'gemini';

-- One that holds later bounds the import.
DELETE FROM ai_prices;
INSERT INTO ai_prices (provider, model, usd_per_request, valid_during) VALUES ('gemini', 'aurora-g', 1, '[2100-01-01 00:00+00,)');
SELECT imported, kept_manual FROM import_litellm_prices(:'prices');
SELECT source, upper(valid_during) AS until FROM ai_prices WHERE provider = 'gemini' ORDER BY valid_during;

-- All or nothing.
SELECT refused($$ SELECT import_litellm_prices('[]') $$);
SELECT refused($$ SELECT import_litellm_prices('{}') $$);
SELECT refused($$ SELECT import_litellm_prices('{"m": 7}') $$);
SELECT refused($$ SELECT import_litellm_prices(NULL) $$);
SELECT imported, not_represented FROM import_litellm_prices('{"odd": {"input_cost_per_token": -1}}');
