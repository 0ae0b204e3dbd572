//! Who plays: three tenants, their users, and two models with a price.

use anyhow::Result;

use crate::stage::Stage;

/// The tenants' names in the story, and their uuids.
pub const TENANTS: [(&str, &str); 3] = [
    ("hobby", "10000000-0000-4000-8000-000000000001"),
    ("studio", "20000000-0000-4000-8000-000000000002"),
    ("globex", "30000000-0000-4000-8000-000000000003"),
];

const USERS: [(&str, &str); 4] = [
    ("ada", "ada00000-0000-4000-8000-00000000000a"),
    ("ben", "be000000-0000-4000-8000-00000000000b"),
    ("cleo", "c1e00000-0000-4000-8000-00000000000c"),
    ("dan", "da000000-0000-4000-8000-00000000000d"),
];

pub const MODELS: [&str; 2] = ["claude-sonnet-4-5", "gpt-5-mini"];

pub fn introduce(stage: &mut Stage) -> Result<()> {
    for (name, id) in TENANTS.iter().chain(&USERS) {
        stage.name(name, id);
    }
    stage.scene(
        "Three tenants, three tiers",
        "A tenant has a time zone, a user a tier, a model a price in dollars for a million tokens. \
         The three tiers and their limits come with the extension.",
    )?;
    let setup = "INSERT INTO ai_limiter.ai_tenants (tenant_id, name, timezone) VALUES
        (:hobby, 'Hobby Club', 'Asia/Tokyo'),
        (:studio, 'Studio North', 'Europe/Berlin'),
        (:globex, 'Globex', 'America/New_York');
        INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier) VALUES
        (:hobby, :ada, 'free'), (:hobby, :ben, 'free'),
        (:studio, :cleo, 'pro'), (:globex, :dan, 'enterprise');
        INSERT INTO ai_limiter.ai_prices
        (model, input_usd_per_million_tokens, output_usd_per_million_tokens) VALUES
        ('claude-sonnet-4-5', 3.00, 15.00), ('gpt-5-mini', 0.25, 2.00);";
    stage.show(setup)?;
    stage.run(setup)?;
    let answer = stage.run(
        "SELECT t.name AS tenant, t.timezone,
            string_agg(a.user_id::text, ', ' ORDER BY a.user_id) AS users, a.tier,
            i.description AS limits
         FROM ai_limiter.ai_tenants t
         JOIN ai_limiter.ai_accounts a USING (tenant_id)
         JOIN ai_limiter.ai_tiers i USING (tier)
         GROUP BY t.tenant_id, a.tier, i.description ORDER BY t.tenant_id",
    )?;
    stage.table(&answer)
}
