//! Two ways to add up the same: the sums that admission reads and the tally over raw rows agree for
//! random rules and calls. (What both agree on is checked against a plain computation elsewhere.)

mod people;

use std::thread::sleep;
use std::time::Duration;

use ai_limiter_tests::Cluster;
use people::{ask, drift, id, outcome, run};
use postgres::Client;

/// A generator with a seed, so that what failed fails again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// SQL of one of these, or null once in `n`.
    fn or_null(&mut self, n: u64, choices: &[&str]) -> String {
        if self.one_in(n) { "NULL".to_owned() } else { format!("'{}'", self.of(choices)) }
    }

    fn tenant(&mut self) -> String {
        let zero = "00000000-0000-0000-0000-000000000000".to_owned();
        format!("'{}'", [id(1), id(2), zero][self.below(3) as usize])
    }

    fn user(&mut self) -> String {
        format!("'{}'", id(1 + self.below(3) as u32))
    }
}

const ATTRIBUTES: [&str; 4] =
    ["{}", r#"{"team": "a"}"#, r#"{"team": "b", "env": "live"}"#, r#"{"env": "live"}"#];

/// The eight dimensions of a call, in the order of the functions.
fn random_call(random: &mut Random) -> [String; 8] {
    [
        if random.one_in(6) { "NULL".to_owned() } else { random.user() },
        random.tenant(),
        random.or_null(
            5,
            &["gpt-4o", "openai/gpt-4o-mini", "o3", "claude-sonnet-4-20250514", "GPT_4o", "x*y"],
        ),
        random.or_null(2, &["OpenAI", "anthropic"]),
        random.or_null(3, &["chat", "search"]),
        random.or_null(3, &["key-1", "key-2"]),
        random.or_null(3, &["r1", "r2", "r3"]),
        random.or_null(4, &ATTRIBUTES),
    ]
}

/// Its size: tokens and cost, a cost where nothing else tells one.
fn random_size(random: &mut Random, model: &str) -> String {
    let mut size = String::new();
    for tokens in ["input_tokens", "output_tokens"] {
        if !random.one_in(3) {
            size += &format!(", {tokens} => {}", random.below(2000));
        }
    }
    if model == "NULL" || random.one_in(2) {
        size +=
            &format!(", cost_usd => {}.{:012}", random.below(3), random.below(1_000_000_000_000));
    }
    size
}

/// A rule with every kind of filter, subject, metric and window; of few names, so that they override.
fn random_rule(random: &mut Random) -> String {
    let tenant = if random.one_in(3) { random.tenant() } else { "NULL".to_owned() };
    let own = tenant != "NULL" && random.one_in(2);
    let metric = random.of(&[
        "cost_usd",
        "requests",
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "concurrent",
    ]);
    let (period, rolling) = match metric {
        "concurrent" => ("'total'".to_owned(), "NULL".to_owned()),
        _ if random.one_in(3) => (
            "NULL".to_owned(),
            random.or_null(1000, &["1 hour", "3 days", "90 minutes", "30 days"]),
        ),
        _ => (random.or_null(1000, &["hour", "day", "week", "month", "total"]), "NULL".to_owned()),
    };
    let per: Vec<&str> =
        ["tenant", "user", "provider", "model", "feature", "api_key_id", "run", "attribute:team"]
            .into_iter()
            .filter(|_| random.one_in(5))
            .collect();
    format!(
        "INSERT INTO ai_limiter.ai_limits (name, tenant_id, managed_by, tier, user_id, provider, model,
            feature, api_key_id, attributes, per, metric, period, rolling, amount, action)
         VALUES ('{}', {tenant}, '{}', {}, {}, {}, {}, {}, {}, {}, '{{{}}}', '{metric}', {period},
            {rolling}, {}, '{}')",
        random.of(&["one", "two", "three", "four", "five"]),
        if own { "tenant" } else { "platform" },
        random.or_null(2, &["free", "pro"]).replace("NULL", "NULL::text"),
        if random.one_in(5) { random.user() } else { "NULL".to_owned() },
        if random.one_in(6) { "'OpenAI'" } else { "NULL" },
        if random.one_in(3) { random.or_null(9, &["gpt*", "*4*", "o3", "gpt_4o"]) } else { "NULL".to_owned() },
        if random.one_in(6) { "'chat'" } else { "NULL" },
        if random.one_in(6) { "'key-1'" } else { "NULL" },
        if random.one_in(4) { random.or_null(9, &ATTRIBUTES) } else { "NULL".to_owned() },
        per.join(","),
        random.of(&["3", "40", "20000", "1000000"]),
        random.of(&["deny", "warn", "warn"]),
    )
}

/// One thing that an app does.
fn random_act(random: &mut Random) -> String {
    let call = random_call(random);
    let dimensions = call.join(", ");
    let size = random_size(random, &call[2]);
    let hold = "(SELECT id FROM ai_limiter.ai_reservations ORDER BY md5(id::text) LIMIT 1)";
    let requests = 1 + random.below(3);
    let ago = match random.below(4) {
        0 => format!("now() - interval '{} minutes'", random.below(200)),
        1 => format!("now() - interval '{} hours'", random.below(1000)),
        _ => "now()".to_owned(),
    };
    // Booked now, or with a time that came along.
    let recorded = random.of(&["NULL", "now()", "now() - interval '1 day'"]);
    match random.below(12) {
        0..=3 => {
            let run_limit = match call[6] != "NULL" && random.one_in(4) {
                true => ", run_limit_usd => 4",
                false => "",
            };
            let ttl = random.of(&["1 hour", "1 hour", "1 hour", "20 milliseconds"]);
            format!(
                "SELECT ai_limiter.reserve_ai_usage({dimensions}{size}{run_limit},
                    requests => {requests}, ttl => '{ttl}')"
            )
        }
        4 => format!("SELECT ai_limiter.settle_ai_usage({hold}) WHERE {hold} IS NOT NULL"),
        5 => format!(
            "SELECT ai_limiter.settle_ai_usage({hold}, input_tokens => {}, output_tokens => 7,
                model => 'o3') WHERE {hold} IS NOT NULL",
            random.below(5000)
        ),
        6 => format!(
            "SELECT ai_limiter.settle_ai_usage({hold}, cost_usd => {}.5) WHERE {hold} IS NOT NULL",
            random.below(4)
        ),
        7 => format!("SELECT ai_limiter.release_ai_usage({hold}) WHERE {hold} IS NOT NULL"),
        8 => format!(
            "SELECT ai_limiter.extend_ai_reservation({hold}, output_tokens => {}) FROM
                ai_limiter.ai_reservations WHERE id = {hold} AND state <> 'released'",
            random.below(4000)
        ),
        9 | 10 => format!(
            "SELECT ai_limiter.record_ai_usage({dimensions}{size}, usage => '{{\"output_tokens\": 3}}',
                requests => {requests}, created_at => {ago})"
        ),
        _ => format!(
            "INSERT INTO ai_limiter.ai_usage (user_id, tenant_id, model, provider, feature, api_key_id,
                run_id, attributes, requests, input_tokens, output_tokens, cost_usd, created_at,
                recorded_at)
             SELECT {}, {}, {}, {}, {}, {}, {}, coalesce({}::jsonb, '{{}}'), {requests}, {}, 9, {}.25, {ago},
                {recorded}
             FROM generate_series(1, 2)",
            call[0].replace("NULL", "NULL::uuid"), format_args!("{}::uuid", call[1]), call[2],
            call[3], call[4], call[5], call[6], call[7], random.below(900), random.below(2)
        ),
    }
}

fn random_edit(random: &mut Random) -> String {
    let rule = format!(
        "id = (SELECT id FROM ai_limiter.ai_limits WHERE id > 0 ORDER BY md5(id::text || {}) LIMIT 1)",
        random.below(1000)
    );
    match random.below(6) {
        0 => format!("UPDATE ai_limiter.ai_limits SET enabled = NOT enabled WHERE {rule}"),
        1 => format!("UPDATE ai_limiter.ai_limits SET per = '{{user}}' WHERE {rule}"),
        2 => format!("DELETE FROM ai_limiter.ai_limits WHERE {rule}"),
        3 => format!(
            "UPDATE ai_limiter.ai_tenants SET timezone = '{}' WHERE tenant_id = {}",
            random.of(&["Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati", "UTC"]),
            random.tenant()
        ),
        4 => "SELECT ai_limiter.refresh_ai_counters()".to_owned(),
        _ => random_rule(random),
    }
}

/// What must have a counter: every ledger row in the window of every rule that applies to it.
const MISSING: &str = "
    WITH verified AS MATERIALIZED (SELECT limit_id, subject FROM ai_limiter.verify_ai_counters())
    SELECT DISTINCT e.limit_id, e.limit_name, e.counter, u.id
    FROM ai_limiter.ai_usage u, LATERAL ai_limiter.explain_ai_limit(u.user_id, u.tenant_id, u.model,
        u.provider, u.feature, u.api_key_id, u.run_id, u.attributes) e, ai_limiter.ai_limits l
    WHERE e.applies AND l.id = e.limit_id AND l.metric <> 'concurrent'
      AND (e.window_start IS NULL OR u.created_at >= e.window_start)
      AND (l.rolling IS NULL OR u.created_at > now() - l.rolling + interval '1 minute')
      AND NOT EXISTS (SELECT FROM verified v WHERE (v.limit_id, v.subject) = (e.limit_id, e.counter))";

/// What a verdict says of its binding limit, beside what the raw rows of that counter add up to.
fn verdict_agrees(client: &mut Client, random: &mut Random) {
    let call = random_call(random).join(", ");
    let sql = format!(
        "SELECT v.limit_name IS NULL OR EXISTS (
            SELECT FROM ai_limiter.explain_ai_limit({call}) e
            LEFT JOIN ai_limiter.verify_ai_counters() c
                ON (c.limit_id, c.subject) = (e.limit_id, e.counter)
            WHERE e.applies AND e.limit_name = v.limit_name
              AND (v.used, v.held) = (coalesce(c.ledger_used, 0), coalesce(c.open_holds, 0))), v
         FROM ai_limiter.check_ai_limit({call}, cost_usd => 0.1) v WHERE v.limit_name <> 'run_limit'"
    );
    let answer = ask(client, &sql);
    assert!(answer.is_empty() || answer.starts_with("t|"), "{call}: {answer}");
}

#[test]
fn sums_and_tally_agree_for_random_rules_and_calls() {
    for seed in [11, 4_242, 990_017] {
        let database = Cluster::shared().fresh_database();
        let mut client = database.connect();
        let mut random = Random(seed);
        run(
            &mut client,
            "INSERT INTO ai_limiter.ai_prices (model, input_usd_per_million_tokens,
                output_usd_per_million_tokens, usd_per_request) VALUES ('*', 3.3, 12.7, 0.0001);
             UPDATE ai_limiter.ai_limits SET amount = 1000 WHERE id < 0;
             SELECT ai_limiter.record_ai_usage(cost_usd => 1, created_at => now() - interval '42 days')",
        );
        for (user, tenant, tier) in [(1, 1, "pro"), (2, 1, "free"), (3, 2, "pro")] {
            let sql = format!(
                "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier, timezone)
                    VALUES ('{0}', '{1}', '{tier}', 'Asia/Tokyo');
                 INSERT INTO ai_limiter.ai_tenants VALUES ('{0}') ON CONFLICT DO NOTHING",
                id(tenant),
                id(user)
            );
            run(&mut client, &sql);
        }
        let mut rules = 0;
        while rules < 25 {
            match outcome(&mut client, &random_rule(&mut random)).as_str() {
                "" => rules += 1,
                refused => assert_eq!(refused, "23514", "only ties are refused"),
            }
        }
        for batch in 0..6 {
            for _ in 0..50 {
                if random.one_in(8) {
                    run(&mut client, "SELECT ai_limiter.advance_ai_rollup()");
                }
                let act = random_act(&mut random);
                match random.below(10) {
                    0 => run(&mut client, &format!("BEGIN; {act}; ROLLBACK")),
                    1 => run(
                        &mut client,
                        &format!("BEGIN; SAVEPOINT s; {act}; ROLLBACK TO s; {act}; COMMIT"),
                    ),
                    _ => run(&mut client, &act),
                }
            }
            for _ in 0..4 {
                let edited = outcome(&mut client, &random_edit(&mut random));
                assert!(["", "23514"].contains(&edited.as_str()), "seed {seed}: {edited}");
            }
            // Until the shortest holds have expired: not between two of these questions.
            sleep(Duration::from_millis(30));
            assert_eq!(drift(&mut client), "", "seed {seed}, batch {batch}");
            // All that can be rolled up, in every second batch.
            for _ in 0..batch % 2 * 50 {
                run(&mut client, "SELECT ai_limiter.advance_ai_rollup()");
            }
            assert_eq!(drift(&mut client), "", "seed {seed}, batch {batch}, rolled up");
            assert_eq!(ask(&mut client, MISSING), "", "seed {seed}, batch {batch}");
            (0..12).for_each(|_| verdict_agrees(&mut client, &mut random));
        }
        let counters = ask(&mut client, "SELECT count(*) FROM ai_limiter.verify_ai_counters()");
        assert!(counters.parse::<u32>().unwrap() > 40, "seed {seed}: {counters} counters");
    }
}
