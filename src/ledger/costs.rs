//! Sums over the ledger for reports. What the caller may see is decided above and comes in as
//! [`Scope`]; these run as the owner.

use crate::pg::owner::as_owner;
use crate::pg::spi::{Arg, Row, Snapshot};
use ai_limiter_domain::{Amount, Error, Per, Timestamp, Window, error::Result};
use serde_json::Value;
use uuid::Uuid;

/// Whose rows are summed.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    Everyone,
    Tenant(Uuid),
    /// One user; without a tenant, in all of them.
    User(Option<Uuid>, Uuid),
    Nobody,
}

impl Scope {
    fn sql(self, args: &mut Vec<Arg>) -> String {
        let mut bind = |id: Uuid| {
            args.push(id.into());
            format!("${}", args.len())
        };
        match self {
            Scope::Everyone => "true".to_owned(),
            Scope::Tenant(tenant) => format!("tenant_id = {}", bind(tenant)),
            Scope::User(None, user) => format!("user_id = {}", bind(user)),
            Scope::User(Some(tenant), user) => {
                format!("tenant_id = {} AND user_id = {}", bind(tenant), bind(user))
            }
            Scope::Nobody => "false".to_owned(),
        }
    }
}

pub struct Costs {
    pub dimensions: Value,
    pub requests: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cost_usd: Amount,
}

/// A dimension of `group_by`: a column, or a calendar unit of the zone.
pub struct Grouping {
    pub name: String,
    sql: String,
    /// Whether it tells people apart.
    pub personal: bool,
}

impl Grouping {
    pub fn parse(name: &str) -> Result<Self> {
        let local = "(created_at AT TIME ZONE $1)";
        let sql = match name {
            "tier" => "tier".to_owned(),
            "hour" => format!("date_trunc('hour', {local})"),
            "day" | "week" | "month" => format!("date_trunc('{name}', {local})::date"),
            _ => match Per::parse(name) {
                Ok(Per::Tenant) => "tenant_id".to_owned(),
                Ok(Per::User) => "user_id".to_owned(),
                Ok(Per::Attribute(key)) => {
                    format!("attributes ->> {}", pgrx::spi::quote_literal(key))
                }
                Ok(per) => per.column().map_or_else(String::new, |c| c.name().to_owned()),
                Err(_) => {
                    return Err(Error::invalid(format!("group_by names no dimension: \"{name}\"")).hint(
                        "Use any of tenant, user, tier, provider, model, feature, api_key_id, run, \
                         attribute:<key>, hour, day, week, month.",
                    ));
                }
            },
        };
        let personal =
            matches!(name, "user" | "api_key_id" | "run") || name.starts_with("attribute:");
        Ok(Self { name: name.to_owned(), sql, personal })
    }
}

/// Cost by dimensions; `as_of` leaves out what was booked later.
pub fn by(
    scope: Scope,
    window: Window,
    group_by: &[Grouping],
    timezone: &str,
    as_of: Option<Timestamp>,
) -> Result<Vec<Costs>> {
    let mut args = vec![
        Arg::from(timezone),
        Arg::Timestamp(window.start),
        Arg::Timestamp(window.end),
        Arg::Timestamp(as_of),
    ];
    let scope = scope.sql(&mut args);
    let columns: Vec<&str> = group_by.iter().map(|g| g.sql.as_str()).collect();
    let pairs: Vec<String> = group_by
        .iter()
        .map(|g| format!("{}, {}", pgrx::spi::quote_literal(&g.name), g.sql))
        .collect();
    let group = match columns.is_empty() {
        true => String::new(),
        false => format!(" GROUP BY {} ORDER BY {}", columns.join(", "), columns.join(", ")),
    };
    let sql = format!(
        "SELECT jsonb_build_object({}), coalesce(sum(requests), 0)::bigint, \
         coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(output_tokens), 0)::bigint, \
         coalesce(sum(cost_usd), 0) FROM ai_limiter.ai_usage \
         WHERE created_at >= $2 AND ($3::timestamptz IS NULL OR created_at < $3) \
         AND ($4::timestamptz IS NULL OR recorded_at <= $4) AND $1::text IS NOT NULL AND {scope}{group}",
        pairs.join(", ")
    );
    as_owner(|spi| spi.read_once(&Snapshot::latest(), &sql, &args, costs))
}

/// Settled by model in a window.
pub fn by_model(scope: Scope, window: Window) -> Result<Vec<Costs>> {
    by(scope, window, &[Grouping::parse("model")?], "UTC", None)
}

/// Cost of the open holds that were made in the window.
pub fn held(window: Window, now: Timestamp) -> Result<Amount> {
    const SQL: &str = "SELECT sum(cost_usd) FROM ai_limiter.ai_reservations \
        WHERE state = 'open' AND expires_at > $1 AND created_at >= $2 AND created_at < $3";
    let args = [now.into(), Arg::Timestamp(window.start), Arg::Timestamp(window.end)];
    let rows = as_owner(|spi| spi.read(SQL, &args, |row| row.amount(1)))?;
    Ok(rows.into_iter().next().flatten().unwrap_or_default())
}

fn costs(row: &Row) -> Result<Costs> {
    Ok(Costs {
        dimensions: row.json(1).unwrap_or_default(),
        requests: row.int(2),
        input_tokens: row.int(3),
        output_tokens: row.int(4),
        cost_usd: row.amount(5)?.unwrap_or_default(),
    })
}
