-- A provider's own account of what it charged, held against the ledger. For servers: the functions read
-- as whoever calls them, and book with adjust_ai_usage().

CREATE FUNCTION ai_limiter.ai_invoice_lines(invoice jsonb)
RETURNS TABLE (day date, provider text, model text, cost_usd numeric)
LANGUAGE plpgsql STABLE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    line jsonb;
    number bigint := 0;
    -- What exports call them.
    day_key text; cost_key text;
    told jsonb; complaint text;
    lines_with_provider bigint := 0;
BEGIN
    IF invoice IS NULL THEN
        RAISE EXCEPTION 'invoice must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF jsonb_typeof(invoice) <> 'array' THEN
        RAISE EXCEPTION 'invoice must be an array' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Give an object for each line: [{"day": "2026-01-31", "model": "gpt-4o", "cost_usd": 1.5}].';
    END IF;
    FOR line IN SELECT jsonb_array_elements(invoice) LOOP
        number := number + 1;
        complaint := NULL;
        day_key := NULL;
        cost_key := NULL;
        IF jsonb_typeof(line) = 'object' THEN
            SELECT max(k) FILTER (WHERE k IN ('day', 'date')),
                max(k) FILTER (WHERE k IN ('cost_usd', 'amount_usd', 'cost', 'amount'))
            INTO day_key, cost_key FROM jsonb_object_keys(line) k;
        END IF;
        IF jsonb_typeof(line) <> 'object' THEN
            complaint := 'is no object';
        ELSIF day_key IS NULL THEN
            complaint := 'has no day';
        ELSIF cost_key IS NULL THEN
            complaint := 'has no cost_usd';
        ELSIF NOT line ? 'model' THEN
            complaint := 'has no model';
        ELSIF jsonb_typeof(line -> 'model') NOT IN ('string', 'null') THEN
            complaint := 'has a model that is no text';
        ELSIF jsonb_typeof(line -> 'provider') NOT IN ('string', 'null') THEN
            complaint := 'has a provider that is no text';
        ELSIF line ->> cost_key IS NULL OR line ->> cost_key !~ '^\s*[-+]?[0-9]{1,30}(\.[0-9]{0,60})?([eE][-+]?[0-9]{1,2})?\s*$' THEN
            complaint := format('has a %s that is no number', cost_key);
        ELSIF abs((line ->> cost_key)::numeric) >= 100000000 THEN
            complaint := format('has a %s that is not below 100,000,000', cost_key);
        ELSE
            cost_usd := (line ->> cost_key)::numeric;
            told := line -> day_key;
            BEGIN
                day := CASE WHEN jsonb_typeof(told) = 'number' THEN to_timestamp((told #>> '{}')::float8)::date
                    WHEN told #>> '{}' ~ '^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}' THEN (told #>> '{}')::timestamptz::date END;
            EXCEPTION WHEN data_exception THEN
                day := NULL;
            END;
            IF day IS NULL OR NOT isfinite(day) THEN
                complaint := format('has a %s that is no date', day_key);
            END IF;
        END IF;
        IF complaint IS NOT NULL THEN
            RAISE EXCEPTION 'line % of the invoice %', number, complaint USING
                ERRCODE = 'invalid_parameter_value', DETAIL = left(line::text, 200),
                HINT = 'A line has day (YYYY-MM-DD, or an instant), model (null for what is of none), cost_usd and perhaps provider.';
        END IF;
        model := ai_limiter.canonical_model_name(nullif(btrim(line ->> 'model'), ''));
        provider := lower(nullif(btrim(line ->> 'provider'), ''));
        lines_with_provider := lines_with_provider + (provider IS NOT NULL)::integer;
        RETURN NEXT;
    END LOOP;
    IF lines_with_provider NOT IN (0, number) THEN
        RAISE EXCEPTION '% of % lines of the invoice have a provider', lines_with_provider, number USING
            ERRCODE = 'invalid_parameter_value', HINT = 'Give it in every line, or in none.';
    END IF;
END
$$;
COMMENT ON FUNCTION ai_limiter.ai_invoice_lines(jsonb) IS
    'Private: the lines of an invoice, checked; names of models and providers as in the ledger.';

CREATE FUNCTION ai_limiter.ai_invoice_rows(first_day date, last_day date, providers text[])
RETURNS TABLE (usage_id uuid, tenant_id uuid, user_id uuid, day date, provider text, model text, cost_usd numeric)
LANGUAGE sql STABLE ROWS 10000 SET search_path = pg_catalog, pg_temp
AS $$
    -- Providers bill the model that answered. A call that named no provider is of the one that priced it,
    -- else of the invoice's only one.
    SELECT coalesce(u.correction_of, u.id), u.tenant_id, u.user_id, (u.created_at AT TIME ZONE 'UTC')::date,
        CASE WHEN providers IS NOT NULL THEN coalesce(known.provider, sole.provider) END,
        coalesce(ai_limiter.canonical_model_name(nullif(btrim(u.response_model), '')), u.model), u.cost_usd
    FROM ai_limiter.ai_usage u,
        LATERAL (SELECT coalesce(u.price_context ->> 'provider', u.provider, u.price_context ->> 'catalog_provider')
            AS provider) known,
        LATERAL (SELECT CASE WHEN cardinality(providers) = 1 THEN providers[1] END AS provider) sole
    WHERE u.created_at >= first_day::timestamp AT TIME ZONE 'UTC'
        AND u.created_at < (last_day + 1)::timestamp AT TIME ZONE 'UTC'
        AND (providers IS NULL OR coalesce(known.provider, sole.provider) = ANY (providers))
$$;
COMMENT ON FUNCTION ai_limiter.ai_invoice_rows(date, date, text[]) IS
    'Private: what the ledger has of some days in UTC and, unless null, of some providers; a correction under the id of what it corrects.';

CREATE FUNCTION ai_limiter.ai_invoice_parts(day date, provider text, model text, providers text[], difference_usd numeric)
RETURNS TABLE (usage_id uuid, delta_usd numeric)
LANGUAGE sql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp
AS $$
    -- In proportion to what each account has used, so that no tenant pays for another; within an account on
    -- its largest rows, as few as can take it, since none may fall below zero. Each account's part is what
    -- the parts up to it come to less those before it, so they add up whatever the rounding.
    WITH booked AS (
        SELECT r.usage_id, r.tenant_id, r.user_id, sum(r.cost_usd) AS usd
        FROM ai_limiter.ai_invoice_rows(day, day, providers) r
        WHERE r.provider IS NOT DISTINCT FROM ai_invoice_parts.provider
            AND r.model IS NOT DISTINCT FROM ai_invoice_parts.model
        GROUP BY 1, 2, 3
    ), accounts AS (
        SELECT b.tenant_id, b.user_id, sum(b.usd) AS usd,
            sum(sum(b.usd)) OVER (ORDER BY sum(b.usd) DESC, b.tenant_id, b.user_id) AS upto,
            sum(sum(b.usd)) OVER () AS total,
            row_number() OVER (ORDER BY sum(b.usd) DESC, b.tenant_id, b.user_id) AS place
        FROM booked b GROUP BY 1, 2
    ), dues AS (
        SELECT a.tenant_id, a.user_id, CASE WHEN a.total > 0 THEN
                round(d.usd * a.upto / a.total, 12) - round(d.usd * (a.upto - a.usd) / a.total, 12)
            WHEN a.place = 1 THEN d.usd ELSE 0 END AS usd
        FROM accounts a, LATERAL (SELECT greatest(difference_usd, - a.total) AS usd) d
    ), parts AS (
        SELECT b.usage_id, CASE WHEN d.usd < 0 THEN - least(b.usd, greatest(0, - d.usd - (sum(b.usd) OVER upto - b.usd)))
            WHEN row_number() OVER upto = 1 THEN d.usd ELSE 0 END AS usd
        FROM booked b JOIN dues d ON d.tenant_id = b.tenant_id AND d.user_id IS NOT DISTINCT FROM b.user_id
        WINDOW upto AS (PARTITION BY b.tenant_id, b.user_id ORDER BY b.usd DESC, b.usage_id)
    )
    SELECT p.usage_id, p.usd FROM parts p WHERE p.usd <> 0 ORDER BY abs(p.usd) DESC, p.usage_id
$$;
COMMENT ON FUNCTION ai_limiter.ai_invoice_parts(date, text, text, text[], numeric) IS
    'Private: which corrections make up a difference between an invoice and the ledger.';

CREATE FUNCTION ai_limiter.reconcile_ai_invoice(invoice jsonb, book boolean DEFAULT false)
RETURNS TABLE (day date, provider text, model text, invoiced_usd numeric, recorded_usd numeric,
    difference_usd numeric, capture_rate numeric, adjusted_usd numeric)
LANGUAGE plpgsql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
#variable_conflict use_column
DECLARE
    part record;
    first_day date; last_day date;
    providers text[];
    is_invoiced boolean;
BEGIN
    IF book AND current_setting('transaction_isolation') <> 'read committed' THEN
        -- What another session has booked meanwhile would not be seen, and be booked again.
        RAISE EXCEPTION 'an invoice can be booked at READ COMMITTED only' USING
            ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Begin the transaction without another isolation level.';
    END IF;
    IF book THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('ai_limiter.reconcile_ai_invoice', 0));
    END IF;
    SELECT min(l.day), max(l.day), array_agg(DISTINCT l.provider) FILTER (WHERE l.provider IS NOT NULL)
    INTO first_day, last_day, providers FROM ai_limiter.ai_invoice_lines(invoice) l;

    FOR day, provider, model, invoiced_usd, recorded_usd, is_invoiced IN
        WITH invoiced AS (
            SELECT l.day, l.provider, l.model, round(sum(l.cost_usd), 12) AS usd
            FROM ai_limiter.ai_invoice_lines(invoice) l GROUP BY 1, 2, 3
        ), recorded AS (
            SELECT r.day, r.provider, r.model, sum(r.cost_usd) AS usd
            FROM ai_limiter.ai_invoice_rows(first_day, last_day, providers) r GROUP BY 1, 2, 3
        )
        SELECT coalesce(i.day, r.day), coalesce(i.provider, r.provider), coalesce(i.model, r.model),
            coalesce(i.usd, 0), coalesce(r.usd, 0), i.usd IS NOT NULL
        FROM invoiced i FULL JOIN recorded r
            ON (i.day, coalesce(i.provider, ''), coalesce(i.model, '')) = (r.day, coalesce(r.provider, ''), coalesce(r.model, ''))
        ORDER BY 1, 2 NULLS FIRST, 3 NULLS FIRST
    LOOP
        difference_usd := trim_scale(invoiced_usd - recorded_usd);
        capture_rate := CASE WHEN invoiced_usd > 0 THEN round(recorded_usd / invoiced_usd, 4) END;
        adjusted_usd := CASE WHEN book THEN 0 END;
        -- What the invoice does not name may be on another: it is shown, and left alone.
        IF book AND is_invoiced AND difference_usd <> 0 THEN
            FOR part IN
                SELECT p.usage_id, p.delta_usd
                FROM ai_limiter.ai_invoice_parts(day, provider, model, providers, difference_usd) p
            LOOP
                PERFORM ai_limiter.adjust_ai_usage(part.usage_id, part.delta_usd, format('invoice of %s', day));
                adjusted_usd := adjusted_usd + part.delta_usd;
            END LOOP;
        END IF;
        invoiced_usd := trim_scale(invoiced_usd);
        recorded_usd := trim_scale(recorded_usd);
        adjusted_usd := trim_scale(adjusted_usd);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION ai_limiter.reconcile_ai_invoice(jsonb, boolean) IS
    'A provider''s costs by day and model against the ledger''s, with the difference and the capture rate (recorded by invoiced). With book, the difference of what the invoice names is booked as corrections, in proportion to what each account used. Raises 22023 for a malformed line and says which. For servers.';

CREATE FUNCTION ai_limiter.reconcile_ai_invoice(invoice_table regclass, mapping jsonb DEFAULT '{}', book boolean DEFAULT false)
RETURNS TABLE (day date, provider text, model text, invoiced_usd numeric, recorded_usd numeric,
    difference_usd numeric, capture_rate numeric, adjusted_usd numeric)
LANGUAGE plpgsql VOLATILE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    part text; column_name text;
    pairs text := '';
    lines jsonb;
BEGIN
    IF invoice_table IS NULL OR mapping IS NULL THEN
        RAISE EXCEPTION '% must not be null', CASE WHEN invoice_table IS NULL THEN 'invoice_table' ELSE 'mapping' END
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF jsonb_typeof(mapping) <> 'object' OR mapping - ARRAY['day', 'model', 'cost_usd', 'provider'] <> '{}' THEN
        RAISE EXCEPTION 'mapping must be an object of day, model, cost_usd and provider' USING
            ERRCODE = 'invalid_parameter_value', HINT = 'Each is the name of a column: {"cost_usd": "amount"}.';
    END IF;
    FOREACH part IN ARRAY ARRAY['day', 'model', 'cost_usd', 'provider'] LOOP
        column_name := coalesce(mapping ->> part, part);
        IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = invoice_table AND a.attname = column_name
                AND a.attnum > 0 AND NOT a.attisdropped) THEN
            pairs := pairs || format(', %L, t.%I', part, column_name);
        ELSIF part <> 'provider' OR mapping ? 'provider' THEN
            RAISE EXCEPTION 'column "%" of % does not exist', column_name, invoice_table USING
                ERRCODE = 'undefined_column', HINT = format('Say in mapping which column has it: {"%s": "..."}.', part);
        END IF;
    END LOOP;
    EXECUTE format('SELECT coalesce(jsonb_agg(jsonb_build_object(%s)), ''[]'') FROM %s t', substr(pairs, 3), invoice_table)
    INTO lines;
    RETURN QUERY SELECT * FROM ai_limiter.reconcile_ai_invoice(lines, book);
END
$$;
COMMENT ON FUNCTION ai_limiter.reconcile_ai_invoice(regclass, jsonb, boolean) IS
    'The same of an invoice in a table or view, whose columns mapping names: day, model, cost_usd and, where there is one, provider. For servers.';
