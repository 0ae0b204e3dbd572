-- What was imported from tables of elsewhere, and how far.

CREATE SEQUENCE ai_limiter.ai_usage_imports_id_seq;
CREATE TABLE ai_limiter.ai_usage_imports (
    id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('ai_limiter.ai_usage_imports_id_seq'),
    source text NOT NULL CONSTRAINT ai_usage_imports_source_once UNIQUE,
    mapping jsonb NOT NULL,
    last_key text,
    imported bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    is_complete boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at timestamptz,
    started_by text NOT NULL
);
ALTER SEQUENCE ai_limiter.ai_usage_imports_id_seq OWNED BY ai_limiter.ai_usage_imports.id;
COMMENT ON SEQUENCE ai_limiter.ai_usage_imports_id_seq IS 'Ids of ai_usage_imports.';
COMMENT ON TABLE ai_limiter.ai_usage_imports IS
    'How far import_ai_usage() has come, a row per source. Deleting a row lets its import begin anew: rows that are in the ledger already are recognised and not booked again.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.id IS 'The import.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.source IS 'The table or view, with its schema; under another name it is another source.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.mapping IS 'The mapping that it was begun with; it stays the same.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.last_key IS 'The key of the last row that was looked at; the next call goes on behind it. Null before the first.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.imported IS 'How many rows of the source are in the ledger.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.refused IS 'How many rows were refused; ai_usage_import_refusals says which and why.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.is_complete IS 'Whether the last call reached the end of the source.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.started_at IS 'When it was begun.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.finished_at IS 'When the last call reached the end of the source; null while there is more.';
COMMENT ON COLUMN ai_limiter.ai_usage_imports.started_by IS 'The database role that began it: session_user, and the role that it had set.';

CREATE TABLE ai_limiter.ai_usage_import_refusals (
    import_id bigint NOT NULL,
    source_key text NOT NULL,
    reason text NOT NULL,
    sqlstate text NOT NULL,
    refused_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (import_id, source_key)
);
COMMENT ON TABLE ai_limiter.ai_usage_import_refusals IS 'Rows that import_ai_usage() did not book, and why. Those of an import that was deleted go when the next one begins.';
COMMENT ON COLUMN ai_limiter.ai_usage_import_refusals.import_id IS 'The import, a row of ai_usage_imports.';
COMMENT ON COLUMN ai_limiter.ai_usage_import_refusals.source_key IS 'The key of the row in the source, as text; of more than 512 bytes its beginning and SHA-256.';
COMMENT ON COLUMN ai_limiter.ai_usage_import_refusals.reason IS 'What is wrong with it.';
COMMENT ON COLUMN ai_limiter.ai_usage_import_refusals.sqlstate IS 'The same as an error code of Postgres.';
COMMENT ON COLUMN ai_limiter.ai_usage_import_refusals.refused_at IS 'When it was refused.';
