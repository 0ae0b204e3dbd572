-- The tiers and rules that ship. Negative ids: they can be edited and disabled, not deleted, and a
-- dump carries them. Before the triggers, so that installing is not an entry in the audit.

INSERT INTO ai_limiter.ai_tiers (tier, description, shipped) VALUES
    ('free', 'One dollar and fifty requests a user and day.', true),
    ('pro', 'Twenty dollars and two thousand requests a user and day.', true),
    ('enterprise', 'Five hundred dollars a user and day.', true);

INSERT INTO ai_limiter.ai_limits (id, name, tier, per, metric, period, amount, description, shipped) VALUES
    (-1, 'global_daily_cost', NULL, '{}', 'cost_usd', 'day', 1000, 'Everybody together, a day.', true),
    (-2, 'global_monthly_cost', NULL, '{}', 'cost_usd', 'month', 25000, 'Everybody together, a month.', true),
    (-3, 'user_daily_cost', 'free', '{user}', 'cost_usd', 'day', 1, 'A user of the tier free, a day.', true),
    (-4, 'user_daily_requests', 'free', '{user}', 'requests', 'day', 50, 'A user of the tier free, a day.', true),
    (-5, 'user_daily_cost', 'pro', '{user}', 'cost_usd', 'day', 20, 'A user of the tier pro, a day.', true),
    (-6, 'user_daily_requests', 'pro', '{user}', 'requests', 'day', 2000, 'A user of the tier pro, a day.', true),
    (-7, 'user_daily_cost', 'enterprise', '{user}', 'cost_usd', 'day', 500, 'A user of the tier enterprise, a day.', true);
