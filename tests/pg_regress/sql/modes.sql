-- ai_limiter.mode: trying limits out, and switching them off.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

-- enforce, as it ships.
SHOW ai_limiter.mode;
CALL spend(user_id => :'alice', cost_usd => 0.95);
SELECT allowed, reason, limit_name FROM reserve_ai_usage(user_id => :'alice', cost_usd => 0.10);

-- shadow admits and says what it would have done. The hold is written and counts.
SET ai_limiter.mode = 'shadow';
SELECT allowed, reason, limit_name, used, held, remaining, details, reservation_id IS NOT NULL AS reserved
FROM reserve_ai_usage(user_id => :'alice', cost_usd => 0.10);
SELECT allowed, reason, details FROM check_ai_limit(user_id => :'bob', cost_usd => 0.10);
SELECT allowed, reason, held, remaining, details FROM check_ai_limit(user_id => :'alice', cost_usd => 0.01);
SELECT allowed, reason, details FROM check_ai_limit(user_id => :'bob', model => 'unheard-of');
SELECT suspend_ai('user', :'bob');
SELECT allowed, reason, details FROM check_ai_limit(user_id => :'bob', cost_usd => 0.10);
SELECT resume_ai('user', :'bob') AS resumed;
SELECT require_ai_limit(user_id => :'alice', cost_usd => 9);

-- off admits, reads no counter, and still counts.
SET ai_limiter.mode = 'off';
SELECT allowed, reason, limit_name, used, details FROM check_ai_limit(user_id => :'alice', cost_usd => 9);
SELECT reservation_id AS hold FROM reserve_ai_usage(user_id => :'alice', cost_usd => 2) \gset
SELECT cost_usd FROM settle_ai_usage(:'hold', cost_usd => 3);
CALL spend(user_id => :'alice', cost_usd => 1);

-- Enforced again, all of it is there.
RESET ai_limiter.mode;
SELECT allowed, used, held, remaining FROM check_ai_limit(user_id => :'alice', cost_usd => 0.10);
SELECT * FROM books;
