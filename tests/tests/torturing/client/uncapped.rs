//! What is done where no cap is at stake: usage that is booked in every way, short holds, checks, and edits
//! of rules, accounts and zones.

use ai_limiter_tests::sqlstate;

use super::Client;
use crate::people::id;
use crate::torturing::{FREE, USERS};

impl Client {
    /// What is booked whatever the limits say.
    pub fn book(&mut self) {
        let user = id(1 + self.random.below(u64::from(USERS)) as u32);
        let sql = match self.random.below(5) {
            0..=1 => format!(
                "SELECT ai_limiter.record_ai_usage(tenant_id => '{}', user_id => '{user}', \
                 cost_usd => 0.001, run_id => 'run-{}')",
                id(FREE),
                self.random.below(300)
            ),
            2 => format!(
                "BEGIN; SELECT ai_limiter.record_ai_usage(tenant_id => '{}', user_id => '{user}', \
                 cost_usd => 0.001); SELECT 1 / (random() < 0.5)::int; COMMIT",
                id(FREE)
            ),
            _ => format!(
                "INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, input_tokens, cost_usd) \
                 SELECT '{}', '{user}', 10, 0.002 FROM generate_series(1, {})",
                id(FREE),
                1 + self.random.below(20)
            ),
        };
        let done = self.done(&sql, |client| match client.batch_execute(&sql) {
            Err(error) if sqlstate(&error) == "22012" => client.batch_execute("ROLLBACK"),
            done => done,
        });
        if let Ok(None) = done {
            self.run("ROLLBACK");
        }
    }

    /// A hold of the tenant without caps, most often one that expires at once.
    pub fn reserve_freely(&mut self) {
        let sql = format!(
            "SELECT ai_limiter.reserve_ai_usage(tenant_id => '{}', user_id => '{}', \
             cost_usd => 0.003, ttl => '{} milliseconds')",
            id(FREE),
            id(1 + self.random.below(u64::from(USERS)) as u32),
            [3, 20, 60_000][self.random.below(3) as usize]
        );
        self.run(&sql);
    }

    pub fn check(&mut self) {
        let sql = format!(
            "SELECT ai_limiter.check_ai_limit(tenant_id => '{}', user_id => '{}', cost_usd => 0.01)",
            id(1 + self.random.below(3) as u32),
            id(1 + self.random.below(u64::from(USERS)) as u32)
        );
        self.run(&sql);
    }

    /// Rules, accounts and zones of those whose caps are not at stake.
    pub fn edit(&mut self) {
        let (tenant, user) = (id(FREE), id(1 + self.random.below(u64::from(USERS)) as u32));
        let sql = match self.random.below(7) {
            0 => "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount, action) \
                  VALUES ('extra', 'requests', 'day', 100000, 'warn') ON CONFLICT DO NOTHING"
                .to_owned(),
            1 => "DELETE FROM ai_limiter.ai_limits WHERE name = 'extra'".to_owned(),
            2 => format!(
                "UPDATE ai_limiter.ai_limits SET per = '{}' WHERE name = 'by_user'",
                if self.random.one_in(2) { "{user}" } else { "{user,tenant}" }
            ),
            3 => "UPDATE ai_limiter.ai_limits SET amount = amount + 1 WHERE name = 'everybody'"
                .to_owned(),
            4 => format!(
                "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, timezone) \
                 VALUES ('{tenant}', '{user}', 'Asia/Kathmandu') ON CONFLICT (tenant_id, user_id) \
                 DO UPDATE SET timezone = 'Asia/Tokyo'"
            ),
            5 => format!(
                "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier) \
                 VALUES ('{tenant}', '{user}', 'pro') ON CONFLICT (tenant_id, user_id) \
                 DO UPDATE SET tier = 'free'"
            ),
            _ => "SELECT ai_limiter.refresh_ai_counters()".to_owned(),
        };
        self.run(&sql);
    }
}
