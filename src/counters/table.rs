//! The table path: a counter is summed from the ledger and the open holds at each call.
//!
//! Exact under the counter's lock ([`Counter::lock_key`]) and a snapshot taken after it; its cost
//! grows with the rows of the window. One statement sums ledger and holds, and all counters of a
//! call share one snapshot: a settle moves a row from the one to the other, and two snapshots could
//! miss it in both. The window's days stand in the text of the statement, so that its kept plan
//! names only the partitions of those days.

use super::{Counter, Reading};
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::filter::{Condition, Param};
use ai_limiter_domain::rolling::{self, Bucket, Interval};
use ai_limiter_domain::window::DAY;
use ai_limiter_domain::{Amount, Metric, Period, Timestamp, error::Result};
use jiff::ToSpan;
use jiff::civil::Date;
use uuid::Uuid;

/// Reads the counters at `now`, leaving out one hold if asked (the one that is being extended).
pub fn read(
    spi: &Spi,
    snapshot: &Snapshot,
    counters: &[Counter],
    now: Timestamp,
    without_hold: Option<Uuid>,
) -> Result<Vec<Reading>> {
    counters
        .iter()
        .map(|counter| {
            let mut args = Vec::new();
            let open = Open { at: Some(now), without: without_hold };
            let sql = sum_sql(counter, open, &mut args);
            let buckets = spi.read_shaped(snapshot, sql, &args, |row| bucket(row, now))?;
            reading(counter, buckets, now)
        })
        .collect()
}

/// Sums a counter for shared memory: every hold that is marked open counts, until it is marked
/// otherwise. Not for rolling limits.
pub fn load(spi: &Spi, snapshot: &Snapshot, counter: &Counter, now: Timestamp) -> Result<Reading> {
    let mut args = Vec::new();
    let sql = sum_sql(counter, Open { at: None, without: None }, &mut args);
    let buckets = spi.read_shaped(snapshot, sql, &args, |row| bucket(row, now))?;
    reading(counter, buckets, now)
}

fn bucket(row: &Row, now: Timestamp) -> Result<Bucket> {
    Ok(Bucket {
        newest: row.timestamp(1).unwrap_or(now),
        used: row.amount(2)?.unwrap_or_default(),
        held: row.amount(3)?.unwrap_or_default(),
    })
}

fn reading(counter: &Counter, buckets: Vec<Bucket>, now: Timestamp) -> Result<Reading> {
    if let Period::Rolling(interval) = counter.limit.period {
        let sum = rolling::sum(interval, now, buckets)?;
        return Ok(Reading { used: sum.used, held: sum.held, resets_at: sum.frees_at });
    }
    let bucket = buckets.first();
    Ok(Reading {
        used: bucket.map_or(Amount::ZERO, |b| b.used),
        held: bucket.map_or(Amount::ZERO, |b| b.held),
        resets_at: counter.window.end,
    })
}

/// The expression that a metric sums; both tables have the columns.
pub fn metric_sql(metric: Metric) -> &'static str {
    match metric {
        Metric::CostUsd => "cost_usd",
        Metric::Requests | Metric::Concurrent => "requests::numeric",
        Metric::InputTokens => "input_tokens::numeric",
        Metric::OutputTokens => "output_tokens::numeric",
        Metric::TotalTokens => {
            "(coalesce(input_tokens, 0)::numeric + coalesce(output_tokens, 0)::numeric)"
        }
    }
}

/// Which holds count.
struct Open {
    /// Those that have not expired at this moment; `None` for all that are marked open.
    at: Option<Timestamp>,
    without: Option<Uuid>,
}

/// One counter as a SELECT of (newest created_at, used, held), a row a bucket.
fn sum_sql(counter: &Counter, open: Open, args: &mut Vec<Arg>) -> String {
    let counted = counted_sql(counter, args);
    let mut bind = |arg: Arg| {
        args.push(arg);
        format!("${}", args.len())
    };
    let mut within = String::new();
    if let Some(start) = counter.window.start {
        let day = day_sql(start.0.div_euclid(DAY));
        within += &format!(" AND created_at >= {day} AND created_at >= {}", bind(start.into()));
    }
    if let Some(end) = counter.window.end {
        let day = day_sql(end.0.div_euclid(DAY) + 1);
        within += &format!(" AND created_at < {day} AND created_at < {}", bind(end.into()));
    }
    let mut is_open = "state = 'open'".to_owned();
    if let Some(at) = open.at {
        is_open += &format!(" AND expires_at > {}", bind(at.into()));
    }
    if let Some(id) = open.without {
        is_open += &format!(" AND id <> {}", bind(id.into()));
    }
    let value = metric_sql(counter.limit.metric);
    let ledger = match counter.is_concurrent() {
        true => String::new(),
        false => format!(
            "SELECT created_at, {value} AS used, NULL::numeric AS held \
             FROM ai_limiter.ai_usage WHERE {counted}{within} UNION ALL "
        ),
    };
    let group = match counter.limit.period {
        Period::Rolling(interval) => format!(" GROUP BY {}", bucket_sql(interval)),
        _ => String::new(),
    };
    format!(
        "SELECT max(created_at), coalesce(sum(used), 0), coalesce(sum(held), 0) \
         FROM ({ledger}SELECT created_at, NULL::numeric AS used, {value} AS held \
         FROM ai_limiter.ai_reservations WHERE {counted}{within} AND {is_open}) c{group}"
    )
}

/// The beginning of a day, counted from 2000-01-01 UTC, as a constant.
fn day_sql(day: i64) -> String {
    let date = Date::constant(2000, 1, 1).saturating_add(day.days());
    format!("timestamptz '{date} 00:00:00+00'")
}

/// The bucket of a rolling limit, as [`Interval::bucket_of`] numbers it.
fn bucket_sql(interval: Interval) -> String {
    format!(
        "date_bin(interval '{} microseconds', created_at, timestamptz '2000-01-01 00:00:00+00')",
        interval.bucket_width()
    )
}

/// Which rows the counter counts.
fn counted_sql(counter: &Counter, args: &mut Vec<Arg>) -> String {
    let mut sql = all_of(&counter.conditions, args);
    for overriding in &counter.overriding {
        sql += &format!(" AND ({}) IS NOT TRUE", all_of(overriding, args));
    }
    sql
}

fn all_of(conditions: &[Condition], args: &mut Vec<Arg>) -> String {
    let mut bind = |param| {
        args.push(match param {
            Param::Uuid(v) => v.into(),
            Param::Text(v) => v.as_str().into(),
            Param::Jsonb(v) => Arg::Jsonb(v),
        });
        format!("${}", args.len())
    };
    let rendered: Vec<String> = conditions.iter().map(|c| c.to_sql(&mut bind)).collect();
    if rendered.is_empty() { "true".to_owned() } else { rendered.join(" AND ") }
}
