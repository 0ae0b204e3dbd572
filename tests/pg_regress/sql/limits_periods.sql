-- ai_limits and ai_window(): over which time a rule counts.
\getenv dir PG_ABS_SRCDIR
\set ECHO none
\i :dir/setup.psql
\set ECHO all

UPDATE ai_limits SET enabled = false;

-- Windows of a zone, each from its first instant to that of the next. Weeks begin on Monday.
SELECT unit, ai_window(unit, '2025-11-26 15:42:17+00', 'Asia/Kolkata') AS "in India (UTC+5:30)"
FROM unnest('{minute,hour,day,week,month,total}'::text[]) unit;

-- UTC, when no zone is named; now, when no instant is.
SELECT ai_window('day', '2025-11-26 15:42:17+00') AS day, ai_window('total') AS total;
SELECT ai_window('minute') @> clock_timestamp() OR ai_window('minute') @> clock_timestamp() AS now;

-- Daylight saving: days of 23, 25 and 24 hours; a clock that skips midnight (Beirut, 2023: that day
-- begins at one); one that repeats it (Havana: the day begins once); one that moves by half an hour
-- (Lord Howe).
SELECT zone, day, lower(w) AS from_utc, upper(w) - lower(w) AS long
FROM (VALUES ('Europe/Berlin', '2025-03-30'), ('Europe/Berlin', '2025-10-26'), ('Europe/Berlin', '2025-10-27'),
             ('America/New_York', '2025-11-02'), ('Asia/Beirut', '2023-03-26'),
             ('America/Havana', '2025-11-02'), ('Australia/Lord_Howe', '2025-04-06')) d (zone, day),
     ai_window('day', (day || ' 12:00')::timestamp AT TIME ZONE zone, zone) w;

-- The hour that Berlin repeats is two windows, and Lord Howe's change cuts one in two.
SELECT at, ai_window('hour', at::timestamptz, 'Europe/Berlin') AS berlin
FROM unnest('{2025-10-26 00:30+00, 2025-10-26 01:30+00}'::text[]) at;
SELECT at, ai_window('hour', at::timestamptz, 'Australia/Lord_Howe') AS lord_howe
FROM unnest('{2025-04-05 14:45+00, 2025-04-05 15:15+00}'::text[]) at;

-- Samoa had no 30 December 2011.
SELECT ai_window('day', '2011-12-30 09:59:59+00', 'Pacific/Apia') AS "29 December",
       ai_window('day', '2011-12-30 10:00:00+00', 'Pacific/Apia') AS "31 December";

-- Where no clock changes, windows are those of date_trunc(): 12 zones, every five hours and a bit of a
-- year, without the days at which a clock changes.
SELECT unit, count(*) > 10000 AS many, count(*) FILTER (WHERE lower(w) <> date_trunc(unit, at, zone)
    OR upper(w) <> date_trunc(unit, upper(w), zone) OR NOT w @> at) AS differ
FROM unnest('{minute,hour,day,week,month}'::text[]) unit,
     unnest('{UTC,Europe/Berlin,Europe/London,America/New_York,America/St_Johns,America/Sao_Paulo,Asia/Kolkata,
              Asia/Kathmandu,Asia/Tokyo,Australia/Adelaide,Pacific/Chatham,Pacific/Kiritimati}'::text[]) zone,
     generate_series('2025-01-01 00:00:07.000001+00', '2025-12-31 23:00+00', interval '5 hours 7 minutes 13 seconds') at,
     ai_window(unit, at, zone) w
WHERE (at AT TIME ZONE zone) - (at AT TIME ZONE 'UTC')
    = ((at - interval '1 day') AT TIME ZONE zone) - ((at - interval '1 day') AT TIME ZONE 'UTC')
  AND (at AT TIME ZONE zone) - (at AT TIME ZONE 'UTC')
    = ((at + interval '1 day') AT TIME ZONE zone) - ((at + interval '1 day') AT TIME ZONE 'UTC')
GROUP BY unit ORDER BY unit;

-- The windows of one unit follow each other without a gap, over all changes.
SELECT unit, zone, count(*) > 10 AS many, count(*) FILTER (WHERE lower(w) <> previous) AS gaps
FROM (SELECT unit, zone, w, lag(upper(w)) OVER (PARTITION BY unit, zone ORDER BY w) AS previous
      FROM (SELECT DISTINCT unit, zone, ai_window(unit, at, zone) AS w
            FROM unnest('{hour,day,month}'::text[]) unit,
                 unnest('{Europe/Berlin,America/Havana,Australia/Lord_Howe}'::text[]) zone,
                 generate_series('2025-01-01 00:00+00', '2025-12-31 23:30+00', interval '30 minutes') at) windows) rows
GROUP BY unit, zone ORDER BY unit, zone;

-- A rule counts what was made in its window. A dollar at its first instant counts, one a
-- microsecond earlier does not. (These tests run at half past noon.)
INSERT INTO ai_limits (name, period, amount, feature)
SELECT unit, unit, 100, unit FROM unnest('{minute,hour,day,week,month,total}'::text[]) unit;
SELECT record_ai_usage(feature => unit, cost_usd => 1, created_at => lower(w)) IS NOT NULL AS first_instant,
       record_ai_usage(feature => unit, cost_usd => 10, created_at => lower(w) - interval '1 microsecond') IS NOT NULL AS earlier
FROM unnest('{minute,hour,day,week,month}'::text[]) unit, ai_window(unit, now(), :'noon') w;
SELECT record_ai_usage(feature => 'total', cost_usd => 10, created_at => '2020-01-01') IS NOT NULL AS long_ago;
SELECT limit_name, used, window_start = lower(w) AS starts_there, resets_at = upper(w) AS resets_at_its_end
FROM ai_limit_status, ai_window(period, now(), :'noon') w ORDER BY limit_id;
SELECT period, used, remaining FROM unnest('{minute,hour,day,week,month,total}'::text[]) unit, check_ai_limit(feature => unit, cost_usd => 1);

-- Whose zone? The account's with user in per, the tenant's with tenant in per, else the default
-- zone, the zero tenant's.
DELETE FROM ai_limits WHERE id > 0;
INSERT INTO ai_tenants (tenant_id, timezone) VALUES (:'acme', 'Pacific/Kiritimati');
INSERT INTO ai_accounts (tenant_id, user_id, timezone)
VALUES (:'acme', :'alice', 'Pacific/Pago_Pago'), (:'acme', :'bob', NULL);
INSERT INTO ai_limits (name, period, amount, per)
VALUES ('user', 'day', 1, '{user}'), ('tenant', 'day', 1, '{tenant}'), ('both', 'day', 1, '{tenant,user}'), ('neither', 'day', 1, '{model}');
SELECT named(u) AS "user", limit_name, CASE timezone WHEN :'noon' THEN 'the default' ELSE timezone END AS timezone
FROM unnest(ARRAY[:'alice', :'bob']::uuid[]) u, explain_ai_limit(tenant_id => :'acme', user_id => u, model => 'any')
WHERE limit_id > 0 ORDER BY 1, limit_id;

-- A zone that changes moves the window and resets nothing. What was spent fifteen hours ago was
-- yesterday where it is noon, and is today where it is half past six in the evening.
DELETE FROM ai_limits WHERE id > 0;
INSERT INTO ai_limits (name, period, amount, per) VALUES ('daily', 'day', 100, '{user}');
UPDATE ai_accounts SET timezone = :'noon' WHERE user_id = :'alice';
CALL spend(tenant_id => :'acme', user_id => :'alice', cost_usd => 1, created_at => now() - interval '10 hours');
CALL spend(tenant_id => :'acme', user_id => :'alice', cost_usd => 2, created_at => now() - interval '15 hours');
SELECT used FROM get_ai_limits(:'alice', :'acme');
UPDATE ai_accounts SET timezone = :'evening' WHERE user_id = :'alice';
SELECT used, resets_at = upper(ai_window('day', now(), :'evening')) AS resets_at_midnight_there FROM get_ai_limits(:'alice', :'acme');
UPDATE ai_accounts SET timezone = :'noon' WHERE user_id = :'alice';
SELECT used FROM get_ai_limits(:'alice', :'acme');

-- Rolling: the last interval, in sixty buckets. A dollar just over an hour old has left an hour's
-- rule, one that is younger by more than a minute is still there.
INSERT INTO ai_limits (name, rolling, amount, feature) VALUES ('last hour', '1 hour', 100, 'chat');
CALL spend(feature => 'chat', cost_usd => 1, created_at => now() - interval '63 minutes');
CALL spend(feature => 'chat', cost_usd => 10, created_at => now() - interval '58 minutes');
CALL spend(feature => 'chat', cost_usd => 20, created_at => now() - interval '5 minutes');
SELECT limit_name, period, used, remaining, resets_at - now() BETWEEN '1 minute' AND '3 minutes' AS the_ten_leave_soon
FROM check_ai_limit(feature => 'chat', cost_usd => 1);
SELECT allowed, retry_after BETWEEN '1 minute' AND '3 minutes' AS soon FROM check_ai_limit(feature => 'chat', cost_usd => 75);
INSERT INTO ai_limits (name, rolling, amount, feature) VALUES ('last 30 days', '30 days', 100, 'mail');
CALL spend(feature => 'mail', cost_usd => 1, created_at => now() - interval '31 days');
CALL spend(feature => 'mail', cost_usd => 2, created_at => now() - interval '29 days');
SELECT limit_name, period, used FROM check_ai_limit(feature => 'mail', cost_usd => 1);
SELECT count(*) AS counters, sum(abs(drift)) AS drift FROM verify_ai_counters();
