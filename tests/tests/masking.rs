//! What the platform or a tenant spends is told to nobody who may not see it: not in a column, not
//! in a name, not in a message.

mod people;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, become_one, become_owner, become_person, id, outcome, refusal, run};
use postgres::Client;

/// Numbers that stand in no other place, and the names of what they belong to.
const SECRETS: [&str; 10] = [
    "987.65",
    "1234.5",
    "246.9",
    "0.654321",
    "777.77",
    "555.55",
    "222.22",
    "board",
    "budget",
    "threshold",
];

/// The platform's cap is 1234.56789, of which 987.654321 are used; the tenant's is 777.77.
fn database_with_secrets() -> Database {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    let (ann, bob, tenant) = (id(1), id(2), id(1));
    run(
        &mut owner,
        &format!(
            "SELECT ai_limiter.ensure_ai_partitions();
             UPDATE ai_limiter.ai_limits SET enabled = false WHERE id IN (-1, -2, -4);
             INSERT INTO ai_limiter.ai_limits (name, per, period, tenant_id, amount, action) VALUES
                ('board_cap', '{{}}', 'total', NULL, 1234.56789, 'deny'),
                ('board_warning', '{{model}}', 'month', NULL, 555.55, 'warn'),
                ('budget_of_tenant', '{{tenant}}', 'month', NULL, 777.77, 'deny'),
                ('threshold_of_tenant', '{{}}', 'day', '{tenant}', 222.22, 'warn');
             INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, cost_usd, model)
                VALUES ('{tenant}', '{bob}', 555, 'gpt-4o'), ('{tenant}', '{ann}', 0.5, 'gpt-4o'),
                    ('{}', '{bob}', 432.154321, 'gpt-4o');",
            id(2)
        ),
    );
    database
}

#[track_caller]
fn assert_tells_no_secret(answer: &str) {
    for secret in SECRETS {
        assert!(!answer.contains(secret), "{secret} in {answer}");
    }
}

const QUESTIONS: [&str; 14] = [
    "SELECT * FROM ai_limiter.check_ai_limit(model => 'gpt-4o', cost_usd => 0.1)",
    "SELECT * FROM ai_limiter.check_ai_limit(model => 'gpt-4o', cost_usd => 0)",
    "SELECT * FROM ai_limiter.check_ai_limit(model => 'gpt-4o', cost_usd => 223)",
    "SELECT * FROM ai_limiter.check_ai_limit(model => 'gpt-4o', cost_usd => 600)",
    "SELECT * FROM ai_limiter.check_ai_limit(cost_usd => 6000)",
    "SELECT * FROM ai_limiter.check_ai_limit()",
    "SELECT * FROM ai_limiter.get_ai_limits()",
    "SELECT * FROM ai_limiter.ai_limit_status",
    "SELECT * FROM ai_limiter.get_ai_cost_alerts()",
    "SELECT * FROM ai_limiter.ai_limits",
    "SELECT * FROM ai_limiter.ai_denials",
    "SELECT * FROM ai_limiter.get_ai_cost(group_by => '{tenant}')",
    "SELECT * FROM ai_limiter.ai_cost_by_tenant",
    "SELECT * FROM ai_limiter.ai_cost_by_model",
];

#[test]
fn a_member_is_told_no_number_of_the_platform_or_the_tenant() {
    let database = database_with_secrets();
    let mut client = database.connect();
    become_person(&mut client, 1, 1, Some("member"));
    for question in QUESTIONS {
        assert_tells_no_secret(&ask(&mut client, question));
        let json = question.replace("SELECT *", "SELECT to_jsonb(r)") + " r";
        assert_tells_no_secret(&ask(&mut client, &json));
    }
    let require = "SELECT ai_limiter.require_ai_limit(model => 'gpt-4o', cost_usd => 600)";
    let refused = refusal(&mut client, require);
    assert!(refused.starts_with("PT429"), "{refused}");
    assert_tells_no_secret(&refused);
}

#[test]
fn a_denial_by_a_hidden_limit_still_says_what_and_when() {
    let database = database_with_secrets();
    let mut client = database.connect();
    run(&mut client, "UPDATE ai_limiter.ai_limits SET enabled = false WHERE id = -3");
    become_person(&mut client, 1, 1, Some("member"));
    let denied =
        "SELECT allowed, reason, limit_name, metric, period, used, held, amount, remaining,
            resets_at = date_trunc('month', now(), 'UTC') + interval '1 month',
            retry_after > interval '0', violations ->> 0 IS NOT NULL
        FROM ai_limiter.check_ai_limit(cost_usd => 223)";
    // Not the warning of the day, which binds nobody, but the tenant's month.
    assert_eq!(ask(&mut client, denied), "f|limit_exceeded|platform|cost_usd|month|||||t|t|t");
    let never = "SELECT limit_name, period, resets_at, retry_after, used, remaining
        FROM ai_limiter.check_ai_limit(cost_usd => 600)";
    let answer = ask(&mut client, never);
    assert!(answer.starts_with("platform|"), "{answer}");
    assert_tells_no_secret(&answer);
    // The keys of a violation say as much as the columns.
    let keys = "SELECT DISTINCT string_agg(key, ' ' ORDER BY key)
        FROM ai_limiter.check_ai_limit(model => 'gpt-4o', cost_usd => 600) v,
            jsonb_array_elements(v.violations) WITH ORDINALITY AS x (violation, n),
            jsonb_object_keys(violation) AS key GROUP BY n";
    assert_eq!(ask(&mut client, keys), "action limit_name metric period");
}

#[test]
fn a_viewer_sees_the_tenants_limits_and_none_of_the_platforms() {
    let database = database_with_secrets();
    let mut client = database.connect();
    become_person(&mut client, 1, 1, Some("viewer"));
    let limits = "SELECT limit_name, used, amount FROM ai_limiter.get_ai_limits() ORDER BY 1, 3";
    assert_eq!(
        ask(&mut client, limits),
        "budget_of_tenant|555.5|777.77\nplatform||\n\
         threshold_of_tenant|555.5|222.22\nuser_daily_cost|0.5|1"
    );
    let alerts = "SELECT limit_name FROM ai_limiter.get_ai_cost_alerts() ORDER BY 1";
    assert_eq!(ask(&mut client, alerts), "budget_of_tenant\nthreshold_of_tenant\nuser_daily_cost");
    let status = "SELECT DISTINCT limit_name FROM ai_limiter.ai_limit_status ORDER BY 1";
    assert_eq!(ask(&mut client, status), "budget_of_tenant\nthreshold_of_tenant\nuser_daily_cost");
}

#[test]
fn a_limit_of_one_colleague_is_theirs_alone() {
    let database = database_with_secrets();
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "INSERT INTO ai_limiter.ai_limits (name, tenant_id, user_id, period, amount, managed_by)
             VALUES ('of_bob', '{}', '{}', 'day', 900, 'tenant')",
            id(1),
            id(2)
        ),
    );
    let named = "SELECT count(*) FROM ai_limiter.ai_limit_status WHERE limit_name = 'of_bob'";
    let row = "SELECT count(*) FROM ai_limiter.ai_limits WHERE name = 'of_bob'";
    for (user, tenant, role, sees) in [
        (1, 1, "member", "0"),
        (1, 1, "viewer", "0"),
        (1, 1, "manager", "1"),
        (2, 1, "member", "1"),
        (2, 2, "tenant_admin", "0"),
    ] {
        become_person(&mut client, user, tenant, Some(role));
        assert_eq!(ask(&mut client, named), sees, "{role} {user} of tenant {tenant}");
        assert_eq!(ask(&mut client, row), sees, "{role} {user} of tenant {tenant}");
    }
}

fn assert_sees_nothing(client: &mut Client) {
    for question in QUESTIONS {
        assert_tells_no_secret(&outcome(client, question));
    }
    for table in [
        "ai_usage",
        "ai_reservations",
        "ai_denials",
        "ai_limits",
        "ai_tiers",
        "ai_tenants",
        "ai_accounts",
        "ai_prices",
        "ai_suspensions",
        "ai_config_changes",
        "ai_idempotency",
        "ai_run_limits",
        "ai_usage_imports",
        "ai_usage_import_refusals",
        "ai_barrier",
        "ai_limit_status",
        "ai_cost_by_user",
        "ai_cost_by_tenant",
    ] {
        let sql = format!("SELECT count(*) FROM ai_limiter.{table}");
        assert_eq!(outcome(client, &sql), "42501", "{table}");
    }
}

#[test]
fn anon_is_told_whether_and_nothing_else() {
    let database = database_with_secrets();
    let mut client = database.connect();
    become_one(&mut client, "anon", r#"{"role": "anon"}"#);
    assert_sees_nothing(&mut client);
    let ask_whether = "SELECT allowed, limit_name FROM ai_limiter.check_ai_limit(cost_usd => 1)";
    assert_eq!(ask(&mut client, ask_whether), "t|platform");
    assert_eq!(ask(&mut client, "SELECT ai_limiter.within_ai_limit(cost_usd => 300)"), "f");
    for question in [
        format!("SELECT ai_limiter.within_ai_limit('{}')", id(1)),
        format!("SELECT ai_limiter.within_ai_limit(tenant_id => '{}')", id(1)),
        format!("SELECT * FROM ai_limiter.get_ai_limits('{}')", id(99)),
        "SELECT ai_limiter.reserve_ai_usage(cost_usd => 1)".to_owned(),
        "SELECT ai_limiter.get_ai_cost()".to_owned(),
        "SELECT ai_limiter.get_ai_cost_alerts()".to_owned(),
        "SELECT ai_limiter.get_user_daily_ai_usage()".to_owned(),
    ] {
        assert_eq!(outcome(&mut client, &question), "42501", "{question}");
    }
}

#[test]
fn a_session_without_claims_is_nobody_in_no_tenant() {
    let database = database_with_secrets();
    let mut client = database.connect();
    become_owner(&mut client);
    run(&mut client, "SET ROLE authenticated");
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_current_user()"), "");
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_current_role()"), "member");
    for question in QUESTIONS {
        assert_tells_no_secret(&ask(&mut client, question));
    }
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_usage"), "0");
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.get_user_daily_ai_usage()"), "0");
    let reserve = "SELECT ai_limiter.reserve_ai_usage(cost_usd => 1)";
    assert_eq!(outcome(&mut client, reserve), "42501");
}

#[test]
fn a_denial_on_record_does_not_name_the_platforms_limit() {
    let database = database_with_secrets();
    let mut client = database.connect();
    let refused = format!(
        "UPDATE ai_limiter.ai_limits SET enabled = false WHERE id = -3 OR name LIKE '%tenant';
         SELECT ai_limiter.reserve_ai_usage('{}', '{}', cost_usd => 600)",
        id(1),
        id(1)
    );
    run(&mut client, &refused);
    become_person(&mut client, 1, 1, Some("member"));
    let denials =
        "SELECT limit_name, reason, sum(denials) FROM ai_limiter.ai_denials GROUP BY 1, 2";
    assert_eq!(ask(&mut client, denials), "platform|limit_exceeded|1");
    assert_tells_no_secret(&ask(&mut client, "SELECT * FROM ai_limiter.ai_denials"));
}

/// A function that notes what it is shown, so cheap that the planner would like to run it first.
#[test]
fn a_leaky_condition_is_shown_only_rows_that_the_caller_may_see() {
    let database = database_with_secrets();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE TABLE public.shown (what text); GRANT INSERT ON public.shown TO PUBLIC;
         CREATE FUNCTION public.leak(what text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
            $$ BEGIN INSERT INTO public.shown VALUES (what); RETURN true; END $$;
         UPDATE ai_limiter.ai_tenants SET name = 'board';
         INSERT INTO ai_limiter.ai_tenants VALUES (gen_random_uuid(), 'board')",
    );
    become_person(&mut client, 1, 1, Some("member"));
    for relation in [
        "ai_usage",
        "ai_limits",
        "ai_tenants",
        "ai_accounts",
        "ai_reservations",
        "ai_denials",
        "ai_cost_by_user",
        "ai_cost_by_tenant",
        "ai_cost_by_day",
        "ai_limit_status",
        "get_ai_cost_alerts()",
        "get_ai_limits()",
    ] {
        let sql = format!("SELECT * FROM ai_limiter.{relation} r WHERE public.leak(r::text)");
        assert_tells_no_secret(&ask(&mut client, &sql));
    }
    become_owner(&mut client);
    let shown = ask(&mut client, "SELECT what FROM public.shown");
    assert!(shown.contains("0.5"), "the trap works: {shown}");
    assert_tells_no_secret(&shown);
    assert!(!shown.contains(&id(2)), "{shown}");
}
