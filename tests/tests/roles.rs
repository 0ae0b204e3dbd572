//! What each role may read, cell by cell: the reading part of the table of roles in the reference.

mod people;

use ai_limiter_tests::{Cluster, Database};
use people::{ask, become_one, become_owner, become_person, id, outcome, run};
use postgres::Client;

const ROLES: [&str; 7] =
    ["viewer", "member", "analyst", "manager", "billing_admin", "tenant_admin", "platform_admin"];

/// Two tenants: Ann (1) and Bob (2) of the tenant 1, Eve (3) of the tenant 2. They have spent 1, 2
/// and 4 dollars; each has a hold of 0.1, 0.2 or 0.4, and was refused once.
fn database_with_people() -> Database {
    let database = Cluster::shared().fresh_database();
    let mut owner = database.connect();
    run(&mut owner, "SELECT ai_limiter.ensure_ai_partitions()");
    for tenant in [1, 2] {
        let sql =
            format!("INSERT INTO ai_limiter.ai_tenants VALUES ('{}', 'T{tenant}')", id(tenant));
        run(&mut owner, &sql);
    }
    for (user, tenant, cost) in [(1, 1, 1), (2, 1, 2), (3, 2, 4)] {
        let (user, tenant) = (id(user), id(tenant));
        let sql = format!(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier)
                VALUES ('{tenant}', '{user}', 'enterprise');
             INSERT INTO ai_limiter.ai_usage (tenant_id, user_id, cost_usd, model, feature)
                VALUES ('{tenant}', '{user}', {cost}, 'gpt-4o', 'chat');
             SELECT ai_limiter.reserve_ai_usage('{user}', '{tenant}', cost_usd => 0.1 * {cost});
             SELECT ai_limiter.reserve_ai_usage('{user}', '{tenant}', cost_usd => 1000);"
        );
        run(&mut owner, &sql);
    }
    run(
        &mut owner,
        "INSERT INTO ai_limiter.ai_limits (name, per, period, amount)
            VALUES ('tenant_daily_cost', '{tenant}', 'day', 50),
                ('tenant_warning', '{tenant}', 'day', 2.5);
         UPDATE ai_limiter.ai_limits SET action = 'warn' WHERE name = 'tenant_warning';
         INSERT INTO ai_limiter.ai_prices (model, usd_per_request) VALUES ('m', 1)",
    );
    database
}

/// What is asked as Ann, and what she is answered in each role, in the order of [`ROLES`]; one
/// answer is everyone's. `#` is the refusal 42501, `-` an empty answer, `/` parts rows.
type Cell = (&'static str, &'static str);

const OWN: &[Cell] = &[
    ("sum(cost_usd) FROM ai_limiter.ai_usage WHERE user_id = :ann", "1"),
    ("sum(cost_usd) FROM ai_limiter.get_user_daily_ai_usage()", "1"),
    ("sum(cost_usd) FROM ai_limiter.get_user_daily_ai_usage(:ann)", "1"),
    ("sum(cost_usd) FROM ai_limiter.ai_reservations WHERE user_id = :ann", "0.1"),
    ("sum(denials) FROM ai_limiter.ai_denials WHERE user_id = :ann", "1"),
    ("count(*) FROM ai_limiter.ai_accounts WHERE user_id = :ann", "1"),
    ("used FROM ai_limiter.get_ai_limits() WHERE limit_name = 'user_daily_cost'", "1"),
    ("held FROM ai_limiter.get_ai_limits(:ann, :t1) WHERE limit_name = 'user_daily_cost'", "0.1"),
    ("allowed FROM ai_limiter.check_ai_limit(cost_usd => 1)", "t"),
    ("ai_limiter.within_ai_limit()", "t"),
    ("used FROM ai_limiter.ai_limit_status WHERE user_id = :ann", "1"),
];

const TENANT_TOTALS: &[Cell] = &[
    ("cost_usd FROM ai_limiter.get_ai_cost()", "3 1 3 3 3 3 7"),
    ("cost_usd FROM ai_limiter.get_ai_cost(group_by => '{feature}')", "3 1 3 3 3 3 7"),
    ("cost_usd FROM ai_limiter.get_ai_cost(group_by => '{model,day}')", "3 1 3 3 3 3 7"),
    (
        "used FROM ai_limiter.get_ai_limits() WHERE limit_name = 'tenant_daily_cost'",
        "3 - 3 3 3 3 3",
    ),
    (
        "sum(used) FROM ai_limiter.ai_limit_status WHERE limit_name = 'tenant_daily_cost'",
        "3 - 3 3 3 3 7",
    ),
    (
        "count(*) FROM ai_limiter.get_ai_cost_alerts() WHERE limit_name = 'tenant_warning'",
        "1 0 1 1 1 1 2",
    ),
];

const BY_PERSON: &[Cell] = &[
    ("sum(cost_usd) FROM ai_limiter.ai_usage WHERE user_id = :bob", "- - 2 2 2 2 2"),
    ("cost_usd FROM ai_limiter.ai_cost_by_user WHERE user_id = :bob", "- - 2 2 2 2 2"),
    (
        "cost_usd FROM ai_limiter.get_ai_cost(group_by => '{user}') ORDER BY 1",
        "# 1 1/2 1/2 1/2 1/2 1/2/4",
    ),
    ("count(*) FROM ai_limiter.get_ai_cost(group_by => '{api_key_id}')", "# 1 1 1 1 1 1"),
    ("count(*) FROM ai_limiter.get_ai_cost(group_by => '{feature,run}')", "# 1 1 1 1 1 1"),
    ("cost_usd FROM ai_limiter.get_user_daily_ai_usage(:bob)", "# # 2 2 2 2 2"),
    ("allowed FROM ai_limiter.check_ai_limit(:bob)", "# # t t t t t"),
    ("allowed FROM ai_limiter.check_ai_limit(:bob, :t1)", "# # t t t t t"),
    (
        "used FROM ai_limiter.get_ai_limits(:bob) WHERE limit_name = 'user_daily_cost'",
        "# # 2 2 2 2 2",
    ),
    ("count(*) FROM ai_limiter.ai_reservations WHERE user_id = :bob", "0 0 1 1 1 1 1"),
    ("count(*) FROM ai_limiter.ai_denials WHERE user_id = :bob", "0 0 1 1 1 1 1"),
    ("count(*) FROM ai_limiter.ai_accounts WHERE user_id = :bob", "0 0 1 1 1 1 1"),
    ("count(*) FROM ai_limiter.ai_limit_status WHERE user_id = :bob", "0 0 1 1 1 1 1"),
];

const OTHER_TENANTS: &[Cell] = &[
    ("sum(cost_usd) FROM ai_limiter.ai_usage WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_cost_by_tenant WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_cost_by_user WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_cost_by_day WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_cost_by_model WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_cost_by_feature WHERE tenant_id = :t2", "- - - - - - 4"),
    ("sum(cost_usd) FROM ai_limiter.ai_usage_line_items WHERE tenant_id = :t2", "- - - - - - 4"),
    (
        "sum(\"BilledCost\") FROM ai_limiter.ai_cost_focus WHERE \"SubAccountName\" = 'T2'",
        "- - - - - - 4",
    ),
    ("count(*) FROM ai_limiter.get_ai_cost(group_by => '{tenant}')", "1 1 1 1 1 1 2"),
    ("count(*) FROM ai_limiter.ai_reservations WHERE tenant_id = :t2", "0 0 0 0 0 0 1"),
    ("count(*) FROM ai_limiter.ai_denials WHERE tenant_id = :t2", "0 0 0 0 0 0 1"),
    ("count(*) FROM ai_limiter.ai_tenants WHERE tenant_id = :t2", "0 0 0 0 0 0 1"),
    ("count(*) FROM ai_limiter.ai_accounts WHERE tenant_id = :t2", "0 0 0 0 0 0 1"),
    ("count(*) FROM ai_limiter.ai_limits WHERE managed_by = 'platform'", "0 0 0 0 0 0 9"),
    ("count(*) FROM ai_limiter.ai_limit_status WHERE tenant_id = :t2", "0 0 0 0 0 0 3"),
    ("allowed FROM ai_limiter.check_ai_limit(:eve, :t2)", "# # # # # # t"),
    ("allowed FROM ai_limiter.check_ai_limit(:ann, :t2)", "# # # # # # t"),
    ("allowed FROM ai_limiter.check_ai_limit(tenant_id => :t2)", "# # # # # # t"),
    (
        "used FROM ai_limiter.get_ai_limits(:eve, :t2) WHERE limit_name = 'user_daily_cost'",
        "# # # # # # 4",
    ),
    (
        "used FROM ai_limiter.get_ai_limits() WHERE limit_name = 'global_daily_cost'",
        "- - - - - - 7",
    ),
    (
        "settled_usd, held_usd, cap_usd FROM ai_limiter.get_global_ai_cost()",
        "# # # # # # 7|0.7|1000",
    ),
    ("count(*) > 0 FROM ai_limiter.explain_ai_limit()", "# # # # # # t"),
];

/// Asks everything as Ann, whose role `give` gives her.
fn check_cells(cells: &[Cell], give: impl Fn(&mut Client, &'static str)) {
    let database = database_with_people();
    let mut client = database.connect();
    let mut wrong = Vec::new();
    for (column, role) in ROLES.into_iter().enumerate() {
        give(&mut client, role);
        for (question, answers) in cells {
            let answers: Vec<&str> = answers.split(' ').collect();
            let expected = answers[column.min(answers.len() - 1)];
            let mut sql = format!("SELECT {question}");
            for (name, number) in [(":ann", 1), (":bob", 2), (":eve", 3), (":t1", 1), (":t2", 2)] {
                sql = sql.replace(name, &format!("'{}'", id(number)));
            }
            let answer = match outcome(&mut client, &sql).as_str() {
                "42501" => "#".to_owned(),
                "" => "-".to_owned(),
                answer => answer.lines().map(plain).collect::<Vec<_>>().join("/"),
            };
            if answer != expected {
                wrong.push(format!("{role}: {question}: {answer}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Numbers without the zeros at their end.
fn plain(line: &str) -> String {
    let column = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    line.split('|').map(column).collect::<Vec<_>>().join("|")
}

fn by_claim(client: &mut Client, role: &'static str) {
    become_person(client, 1, 1, Some(role));
}

fn by_account(client: &mut Client, role: &'static str) {
    become_owner(client);
    run(
        client,
        &format!("UPDATE ai_limiter.ai_accounts SET role = '{role}' WHERE user_id = '{}'", id(1)),
    );
    become_person(client, 1, 1, None);
}

#[test]
fn everyone_sees_their_own() {
    check_cells(OWN, by_claim);
    check_cells(OWN, by_account);
}

#[test]
fn all_but_a_member_see_their_tenants_totals() {
    check_cells(TENANT_TOTALS, by_claim);
    check_cells(TENANT_TOTALS, by_account);
}

#[test]
fn analysts_and_those_who_manage_see_use_by_person() {
    check_cells(BY_PERSON, by_claim);
    check_cells(BY_PERSON, by_account);
}

#[test]
fn only_the_platforms_administrator_sees_other_tenants() {
    check_cells(OTHER_TENANTS, by_claim);
    check_cells(OTHER_TENANTS, by_account);
}

#[test]
fn the_platforms_administrator_reads_prices_and_the_audit() {
    let database = database_with_people();
    let mut client = database.connect();
    for role in ROLES {
        become_person(&mut client, 1, 1, Some(role));
        for (table, sees) in [("ai_prices", "1"), ("ai_suspensions", "0")] {
            let answer = outcome(&mut client, &format!("SELECT count(*) FROM ai_limiter.{table}"));
            match role {
                "platform_admin" => assert_eq!(answer, sees, "{role} {table}"),
                _ => assert!(["42501", "0"].contains(&answer.as_str()), "{role} {table}: {answer}"),
            }
        }
        let audit = outcome(&mut client, "SELECT count(*) > 0 FROM ai_limiter.ai_config_changes");
        match role {
            "platform_admin" => assert_eq!(audit, "t"),
            _ => assert!(["42501", "f"].contains(&audit.as_str()), "{role}: {audit}"),
        }
    }
}

#[test]
fn the_tokens_role_goes_before_the_accounts() {
    let database = database_with_people();
    let mut client = database.connect();
    by_account(&mut client, "platform_admin");
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_current_role()"), "platform_admin");
    become_person(&mut client, 1, 1, Some("member"));
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_current_role()"), "member");
    assert_eq!(ask(&mut client, "SELECT count(*) FROM ai_limiter.ai_tenants"), "1");
    // The account of another tenant is not this person's.
    become_person(&mut client, 1, 2, None);
    assert_eq!(ask(&mut client, "SELECT ai_limiter.ai_current_role()"), "member");
}

#[test]
fn service_role_sees_and_asks_for_everyone() {
    let database = database_with_people();
    let mut client = database.connect();
    become_one(&mut client, "service_role", r#"{"role": "service_role"}"#);
    let mut answer =
        |sql: &str| plain(&ask(&mut client, &sql.replace(":eve", &format!("'{}'", id(3)))));
    assert_eq!(answer("SELECT sum(cost_usd) FROM ai_limiter.ai_usage"), "7");
    assert_eq!(answer("SELECT cost_usd FROM ai_limiter.get_ai_cost()"), "7");
    assert_eq!(answer("SELECT cost_usd FROM ai_limiter.get_user_daily_ai_usage(:eve)"), "4");
    assert_eq!(answer("SELECT settled_usd FROM ai_limiter.get_global_ai_cost()"), "7");
    assert_eq!(answer("SELECT count(*) FROM ai_limiter.ai_accounts"), "3");
    assert_eq!(answer("SELECT count(*) FROM ai_limiter.ai_prices"), "1");
}
