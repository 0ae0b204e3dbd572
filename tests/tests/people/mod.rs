//! People who ask, and what they are answered, as text that a table can be compared with.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use ai_limiter_tests::sqlstate;
use postgres::{Client, SimpleQueryMessage};

/// The uuid of person or tenant number `n`.
pub fn id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// Runs what must succeed.
#[track_caller]
pub fn run(client: &mut Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql) {
        panic!("{sql}\n{}", describe(&error));
    }
}

/// The answer as `psql -At` prints it: columns parted by `|`, rows by line ends, null as nothing.
pub fn try_ask(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let mut lines = Vec::new();
    for message in client.simple_query(sql)? {
        if let SimpleQueryMessage::Row(row) = message {
            let columns: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("")).collect();
            lines.push(columns.join("|"));
        }
    }
    Ok(lines.join("\n"))
}

#[track_caller]
pub fn ask(client: &mut Client, sql: &str) -> String {
    try_ask(client, sql).unwrap_or_else(|error| panic!("{sql}\n{}", describe(&error)))
}

/// The answer, or the SQLSTATE of the error.
pub fn outcome(client: &mut Client, sql: &str) -> String {
    try_ask(client, sql).unwrap_or_else(|error| sqlstate(&error).to_owned())
}

/// SQLSTATE, message, detail and hint of what must fail.
#[track_caller]
pub fn refusal(client: &mut Client, sql: &str) -> String {
    match try_ask(client, sql) {
        Ok(answer) => panic!("{sql}\nanswered {answer:?} instead of an error"),
        Err(error) => describe(&error),
    }
}

pub fn describe(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(e) => {
            let more = [e.detail(), e.hint()].into_iter().flatten().collect::<Vec<_>>().join(" ");
            format!("{} {} {more}", e.code().code(), e.message()).trim_end().to_owned()
        }
        None => format!("{error:?}"),
    }
}

/// The claims of a token. Each part may be left out.
pub fn claims(user: Option<u32>, tenant: Option<u32>, role: Option<&str>) -> String {
    let mut app = serde_json::Map::new();
    if let Some(tenant) = tenant {
        app.insert("tenant_id".into(), id(tenant).into());
    }
    if let Some(role) = role {
        app.insert("role".into(), role.into());
    }
    let mut claims = serde_json::json!({ "role": "authenticated", "app_metadata": app });
    if let Some(user) = user {
        claims["sub"] = id(user).into();
    }
    claims.to_string()
}

/// Makes the superuser's session what a REST server makes of a token: claims, then the role.
#[track_caller]
pub fn become_one(client: &mut Client, database_role: &str, claims: &str) {
    run(
        client,
        &format!(
            "RESET ROLE; SELECT set_config('request.jwt.claims', '{claims}', false); \
             SET ROLE {database_role}"
        ),
    );
}

/// Becomes a person of a tenant, whose token may name a role.
#[track_caller]
pub fn become_person(client: &mut Client, user: u32, tenant: u32, role: Option<&str>) {
    become_one(client, "authenticated", &claims(Some(user), Some(tenant), role));
}

/// Becomes the superuser again, without claims.
#[track_caller]
pub fn become_owner(client: &mut Client) {
    run(client, "RESET ROLE; SELECT set_config('request.jwt.claims', '', false)");
}

/// Counters that do not say what ledger and holds say, one a line: none when all is well.
#[track_caller]
pub fn drift(client: &mut Client) -> String {
    ask(client, "SELECT * FROM ai_limiter.verify_ai_counters() WHERE drift <> 0")
}
