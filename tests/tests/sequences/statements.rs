//! The statements of a sequence: SQL that stands for itself.

use ai_limiter_tests::Random;

use crate::people::id;

/// SQL of one of these, or null once in `n`.
fn or_null(random: &mut Random, n: u64, choices: &[&str]) -> String {
    if random.one_in(n) { "NULL".to_owned() } else { format!("'{}'", random.of(choices)) }
}

fn tenant(random: &mut Random) -> String {
    let zero = "00000000-0000-0000-0000-000000000000".to_owned();
    format!("'{}'::uuid", [id(1), id(2), zero][random.below(3) as usize])
}

fn user(random: &mut Random) -> String {
    format!("'{}'::uuid", id(1 + random.below(3) as u32))
}

const ATTRIBUTES: [&str; 3] = [r#"{"team": "a"}"#, r#"{"team": "b", "env": "live"}"#, "{}"];
const ZONES: [&str; 5] =
    ["Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati", "UTC", "Australia/Eucla"];

/// The eight dimensions of a call, in the order of the functions.
pub fn dimensions(random: &mut Random) -> [String; 8] {
    [
        if random.one_in(6) { "NULL::uuid".to_owned() } else { user(random) },
        tenant(random),
        or_null(random, 6, &["gpt-4o", "openai/gpt-4o-mini", "o3"]),
        or_null(random, 2, &["openai", "anthropic"]),
        or_null(random, 3, &["chat", "search"]),
        or_null(random, 3, &["key-1", "key-2"]),
        or_null(random, 3, &["r1", "r2"]),
        format!("{}::jsonb", or_null(random, 4, &ATTRIBUTES)),
    ]
}

fn size(random: &mut Random) -> String {
    format!(
        ", input_tokens => {}, output_tokens => {}, cost_usd => 0.{:06}",
        random.below(200),
        random.below(200),
        random.below(400_000)
    )
}

/// A rule of few names, so that they override. One that only warns says its numbers in every verdict.
pub fn rule(random: &mut Random) -> String {
    let tenant = if random.one_in(3) { tenant(random) } else { "NULL".to_owned() };
    let metric = random.of(&["cost_usd", "cost_usd", "requests", "total_tokens", "concurrent"]);
    let (period, rolling) = match metric {
        "concurrent" => ("'total'", "NULL"),
        _ if random.one_in(6) => ("NULL", "'1 hour'"),
        _ => {
            let periods =
                ["'minute'", "'minute'", "'hour'", "'day'", "'week'", "'month'", "'total'"];
            (random.of(&periods), "NULL")
        }
    };
    let (action, amount) = match random.below(3) {
        0 => ("deny", random.of(&["2", "8", "5000"])),
        _ => ("warn", "0"),
    };
    format!(
        "INSERT INTO ai_limiter.ai_limits (name, tenant_id, managed_by, tier, user_id, model,
            feature, attributes, per, metric, period, rolling, amount, action)
         VALUES ('{}', {tenant}, '{}', {}, {}, {}, {}, {}, '{{{}}}', '{metric}', {period},
            {rolling}, {amount}, '{action}')",
        random.of(&["one", "two", "three", "four"]),
        if tenant != "NULL" && random.one_in(3) { "tenant" } else { "platform" },
        if random.one_in(3) { or_null(random, 9, &["free", "pro"]) } else { "NULL".to_owned() },
        if random.one_in(5) { user(random) } else { "NULL".to_owned() },
        if random.one_in(4) { or_null(random, 9, &["gpt*", "o3"]) } else { "NULL".to_owned() },
        if random.one_in(6) { "'chat'" } else { "NULL" },
        if random.one_in(6) { or_null(random, 9, &ATTRIBUTES) } else { "NULL".to_owned() },
        per(random),
    )
}

fn per(random: &mut Random) -> String {
    let all = ["tenant", "user", "user", "model", "feature", "api_key_id", "run", "attribute:team"];
    let mut per: Vec<&str> = all.into_iter().filter(|_| random.one_in(5)).collect();
    per.dedup();
    per.join(",")
}

/// Somewhere among the oldest holds.
fn hold(random: &mut Random) -> String {
    format!(
        "(SELECT id FROM ai_limiter.ai_reservations ORDER BY created_at LIMIT 1 OFFSET {})",
        random.below(6)
    )
}

/// Somewhere among the newest rows of the ledger, seldom a correction.
fn usage(random: &mut Random) -> String {
    let which = if random.one_in(8) { "NOT NULL" } else { "NULL" };
    format!(
        "(SELECT id FROM ai_limiter.ai_usage WHERE correction_of IS {which} \
            ORDER BY recorded_at DESC LIMIT 1 OFFSET {})",
        random.below(6)
    )
}

/// By hand: often all that a row comes to, or more.
fn adjustment(random: &mut Random) -> String {
    let usage = usage(random);
    let delta = match random.below(4) {
        0 => format!("0.{:06}", random.below(400_000)),
        1 => format!(
            "-(SELECT sum(cost_usd) FROM ai_limiter.ai_usage WHERE {usage} IN (id, correction_of))"
        ),
        _ => format!("-0.{:06}", random.below(200_000)),
    };
    format!(
        "SELECT ai_limiter.adjust_ai_usage({usage}, {delta}, 'random') WHERE {usage} IS NOT NULL"
    )
}

fn ago(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("clock_timestamp() - interval '{} seconds'", random.below(150)),
        1 => format!("clock_timestamp() - interval '{} hours'", random.below(200)),
        _ => "clock_timestamp()".to_owned(),
    }
}

/// What an app does.
pub fn call(random: &mut Random) -> String {
    let of = dimensions(random);
    let (dimensions, size, hold) = (of.join(", "), size(random), hold(random));
    let requests = 1 + random.below(3);
    match random.below(24) {
        0..=4 => {
            let run_limit = match of[6] != "NULL" && random.one_in(4) {
                true => ", run_limit_usd => 4",
                false => "",
            };
            let key = match random.one_in(6) {
                true => format!(", idempotency_key => 'k{}'", random.below(3)),
                false => String::new(),
            };
            let ttl = random.of(&["1 hour", "1 hour", "1 hour", "1 hour", "20 milliseconds"]);
            format!(
                "SELECT ai_limiter.reserve_ai_usage({dimensions}{size}{run_limit}{key},
                    requests => {requests}, ttl => '{ttl}'){}",
                if random.one_in(5) { " FROM generate_series(1, 3)" } else { "" }
            )
        }
        5 => format!("SELECT ai_limiter.settle_ai_usage({hold}) WHERE {hold} IS NOT NULL"),
        6 => format!(
            "SELECT ai_limiter.settle_ai_usage({hold}, cost_usd => {}.5) WHERE {hold} IS NOT NULL",
            random.below(2)
        ),
        7 => format!("SELECT ai_limiter.release_ai_usage({hold}) WHERE {hold} IS NOT NULL"),
        8 | 9 => format!(
            "SELECT ai_limiter.extend_ai_reservation({hold}, output_tokens => {}, cost_usd => 0.{}, \
                ttl => '2 hours') WHERE {hold} IS NOT NULL",
            random.below(400),
            random.below(90)
        ),
        10 | 11 => format!(
            "SELECT ai_limiter.record_ai_usage({dimensions}{size}, requests => {requests}, \
                created_at => {})",
            ago(random)
        ),
        12 => format!(
            "DO $$ BEGIN PERFORM ai_limiter.reserve_ai_usage({dimensions}{size});
                PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN
                PERFORM ai_limiter.record_ai_usage({dimensions}{size}); END $$"
        ),
        13 => format!("SELECT ai_limiter.reserve_ai_usage({dimensions}{size}), 1 / 0"),
        15 => format!(
            "DO $$ BEGIN EXECUTE format('INSERT INTO ai_limiter.ai_usage_%s (user_id, tenant_id, \
                run_id, cost_usd) VALUES (%L, %L, ''r1'', 0.3)', \
                to_char(timezone('UTC', now()), 'YYYY_MM'), {}, {}); END $$",
            of[0], of[1]
        ),
        16..=19 => adjustment(random),
        20 => format!(
            "DO $$ BEGIN PERFORM ai_limiter.record_ai_usage({dimensions}{size});
                BEGIN {}; PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END; {}; END $$",
            adjustment(random).replacen("SELECT", "PERFORM", 1),
            adjustment(random).replacen("SELECT", "PERFORM", 1)
        ),
        // A call that is priced, so that there is something to price again.
        21 | 22 => format!(
            "SELECT ai_limiter.record_ai_usage({}, {}, coalesce({}, 'o3'), requests => {requests}, input_tokens => 9, \
                created_at => {}); \
             SELECT ai_limiter.reprice_ai_usage(clock_timestamp() - interval '{}', clock_timestamp(), \
                dry_run => false)",
            of[0],
            of[1],
            of[2],
            ago(random),
            random.of(&["1 minute", "10 days", "100 days"])
        ),
        // Without BEGIN, one transaction all the same.
        14 => format!("{}; {}", call(random), call(random)),
        _ => format!(
            "INSERT INTO ai_limiter.ai_usage (user_id, tenant_id, model, provider, feature,
                api_key_id, run_id, attributes, requests, input_tokens, output_tokens, cost_usd,
                created_at)
             SELECT {dimensions_}, {requests}, 20, 9, 0.25, {} FROM generate_series(1, {})",
            ago(random),
            random.of(&["1", "2", "12"]),
            dimensions_ = [
                &of[0],
                &of[1],
                &of[2],
                &of[3],
                &of[4],
                &of[5],
                &of[6],
                &format!("coalesce({}, '{{}}')", of[7]),
            ]
            .map(String::as_str)
            .join(", "),
        ),
    }
}

/// What changes a verdict and no counter: it waits for nobody.
pub fn light_edit(random: &mut Random) -> String {
    let (tenant, user) = (tenant(random), user(random));
    match random.below(7) {
        0 => format!(
            "UPDATE ai_limiter.ai_limits SET amount = {} WHERE {}",
            random.of(&["1", "6", "0"]),
            some_rule(random)
        ),
        1 | 2 => format!(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier) VALUES ({tenant}, {user}, \
                '{tier}') ON CONFLICT (tenant_id, user_id) DO UPDATE SET tier = '{tier}'",
            tier = random.of(&["free", "pro"])
        ),
        3 => format!("SELECT ai_limiter.suspend_ai('user', {user}::text)"),
        4 | 5 => format!("SELECT ai_limiter.resume_ai('user', {user}::text)"),
        _ => format!(
            "UPDATE ai_limiter.ai_prices SET usd_per_request = 0.00{} WHERE model = '*'",
            random.below(10)
        ),
    }
}

fn some_rule(random: &mut Random) -> String {
    format!(
        "id = (SELECT id FROM ai_limiter.ai_limits WHERE id > 0 ORDER BY id LIMIT 1 OFFSET {})",
        random.below(9)
    )
}

/// What changes what counters mean, or rebuilds them.
pub fn heavy_edit(random: &mut Random) -> String {
    let (tenant, user, rule_) = (tenant(random), user(random), some_rule(random));
    match random.below(14) {
        0 => format!("UPDATE ai_limiter.ai_limits SET enabled = NOT enabled WHERE {rule_}"),
        1 => format!("UPDATE ai_limiter.ai_limits SET per = '{{{}}}' WHERE {rule_}", per(random)),
        2 => format!("DELETE FROM ai_limiter.ai_limits WHERE {rule_}"),
        3 => format!(
            "UPDATE ai_limiter.ai_limits SET name = '{}' WHERE {rule_}",
            random.of(&["one", "two", "five"])
        ),
        4 => format!(
            "UPDATE ai_limiter.ai_limits SET period = '{}', rolling = NULL
                WHERE metric <> 'concurrent' AND {rule_}",
            random.of(&["minute", "hour", "day"])
        ),
        5 => format!(
            "INSERT INTO ai_limiter.ai_tenants (tenant_id, timezone) VALUES ({tenant}, '{zone}') \
                ON CONFLICT (tenant_id) DO UPDATE SET timezone = '{zone}'",
            zone = random.of(&ZONES)
        ),
        6 => format!("DELETE FROM ai_limiter.ai_tenants WHERE tenant_id = {tenant}"),
        7 => format!(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, timezone) \
                VALUES ({tenant}, {user}, '{zone}') ON CONFLICT (tenant_id, user_id) \
                DO UPDATE SET timezone = '{zone}'",
            zone = random.of(&ZONES)
        ),
        8 => format!(
            "DELETE FROM ai_limiter.ai_accounts WHERE (tenant_id, user_id) = ({tenant}, {user})"
        ),
        9 => "SELECT ai_limiter.refresh_ai_counters()".to_owned(),
        10 => format!("DELETE FROM ai_limiter.ai_reservations WHERE id = {}", hold(random)),
        11 => "DELETE FROM ai_limiter.ai_run_limits WHERE run_id = 'r1'".to_owned(),
        12 => "UPDATE ai_limiter.ai_run_limits SET amount_usd = amount_usd + 1".to_owned(),
        _ => rule(random),
    }
}
