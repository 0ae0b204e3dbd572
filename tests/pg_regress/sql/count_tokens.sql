-- How many tokens a text is: counted for models whose tokenizer is public, else estimated.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

SELECT m AS model, (count_tokens(m, 'antidisestablishmentarianism')).*
FROM unnest(ARRAY['gpt-4o', 'azure/gpt-5-mini', 'o1', 'gpt-4.1', 'gpt-4-0613', 'text-embedding-3-small',
    'claude-sonnet-4', 'gemini-2.5-pro', 'llama-3.3-70b', '']) m;

-- What the public documentation counts, by both tokenizers and by estimate.
SELECT t AS text, (count_tokens('gpt-4', t)).tokens AS cl100k, (count_tokens('gpt-4o', t)).tokens AS o200k,
       (count_tokens('claude-opus-4', t)).tokens AS estimate
FROM unnest(ARRAY['tiktoken is great!', '2 + 2 = 4', 'お誕生日おめでとう', 'Привет, мир', '']) t;

-- Special tokens in a text are text.
SELECT (count_tokens('gpt-4o', '<|endoftext|>')).tokens > 1 AS is_text;

-- Null in, null out.
SELECT count_tokens(NULL, 'x') IS NULL AS no_model, count_tokens('gpt-4o', NULL) IS NULL AS no_text;

-- It can fill a generated column.
CREATE TABLE public.prompts (prompt text, tokens bigint GENERATED ALWAYS AS ((count_tokens('gpt-4o', prompt)).tokens) STORED);
INSERT INTO public.prompts VALUES ('tiktoken is great!');
SELECT * FROM public.prompts;

-- Ten megabytes of what is slowest to merge are counted, and counting them is cancelled.
SELECT (count_tokens('gpt-4o', repeat('a', 10000000))).tokens;
SET statement_timeout = '20ms';
SELECT refused($$SELECT count_tokens('gpt-4o', repeat('many words ', 1000000))$$);
RESET statement_timeout;

-- Whoever is logged in may ask, a guest may not.
SET ROLE authenticated;
SELECT (count_tokens('gpt-4o', 'tiktoken is great!')).tokens;
SET ROLE anon;
SELECT count_tokens('gpt-4o', 'tiktoken is great!');
RESET ROLE;
