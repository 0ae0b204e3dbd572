//! A counter summed from the ledger and the open holds: at each call on the table path ([`read`]), and
//! once when it is loaded into shared memory ([`load`]).
//!
//! Exact under the counter's lock ([`Counter::lock_key`]) and a snapshot taken after it; its cost
//! grows with the rows of the window. One statement sums ledger and holds, and all counters of a
//! call share one snapshot: a settle moves a row from the one to the other, and two snapshots could
//! miss it in both. The window's days stand in the text of the statement, so that its kept plan
//! names only the partitions of those days. Where the rollup serves, it takes the place of the ledger's
//! history ([`rolled`](super::rolled)).

use super::rolled::Rollup;
use super::{Counter, Reading};
use crate::ledger::rollup::index_scans;
use crate::pg::spi::{Arg, Planning, Snapshot, Spi};
use ai_limiter_domain::filter::{Condition, Param};
use ai_limiter_domain::rolling::{self, Bucket, Interval};
use ai_limiter_domain::window::DAY;
use ai_limiter_domain::{Amount, Metric, Period, Timestamp, Window, error::Result};
use jiff::ToSpan;
use jiff::civil::Date;
use uuid::Uuid;

/// Which holds count.
#[derive(Clone, Copy)]
enum Holds {
    /// Those that are open at this instant, but one (the one that is being extended).
    OpenAt(Timestamp, Option<Uuid>),
    /// Those that nobody has marked yet, whatever the clock says.
    Unmarked,
}

/// Reads the counters at `now`, leaving out one hold if asked (the one that is being extended). Call
/// [`keep_months`](crate::pg::lock::keep_months) before the snapshot is taken.
pub fn read(
    spi: &Spi,
    snapshot: &Snapshot,
    counters: &[Counter],
    now: Timestamp,
    without_hold: Option<Uuid>,
) -> Result<Vec<Reading>> {
    let rollup = Rollup::read(spi, snapshot, counters)?;
    let holds = Holds::OpenAt(now, without_hold);
    counters
        .iter()
        .map(|counter| {
            let buckets = buckets(spi, snapshot, counter, rollup.as_ref(), holds)?;
            reading(counter, buckets, now)
        })
        .collect()
}

/// What a stored counter begins with: all that is settled, and every hold that nobody has marked
/// expired, since whoever marks one takes it out of the counter. Under a
/// [`Snapshot::of_others`] that was taken after [`keep_months`](crate::pg::lock::keep_months). Not for rolling limits.
pub fn load(spi: &Spi, snapshot: &Snapshot, counter: &Counter) -> Result<Reading> {
    let rollup = Rollup::read(spi, snapshot, std::slice::from_ref(counter))?;
    let buckets = buckets(spi, snapshot, counter, rollup.as_ref(), Holds::Unmarked)?;
    reading(counter, buckets, Timestamp(0))
}

fn buckets(
    spi: &Spi,
    snapshot: &Snapshot,
    counter: &Counter,
    rollup: Option<&Rollup>,
    holds: Holds,
) -> Result<Vec<Bucket>> {
    let mut args = Vec::new();
    let counted = counted_sql(counter, &mut args);
    let value = metric_sql(counter.limit.metric);
    let rolled = rollup.and_then(|r| r.ledger_sql(counter, &counted, value, &mut args));
    let _settings = rolled.is_some().then(index_scans);
    let ledger = rolled.or_else(|| ledger_sql(counter, &counted, value, &mut args));
    let sql = sum_sql(counter, &counted, value, &ledger.unwrap_or_default(), holds, &mut args);
    let planning = if counter.is_of_one() { Planning::ByKey } else { Planning::Usual };
    spi.read_shaped(snapshot, (sql, planning), &args, |row| {
        Ok(Bucket {
            newest: row.timestamp(1).unwrap_or(Timestamp(0)),
            used: row.amount(2)?.unwrap_or_default(),
            held: row.amount(3)?.unwrap_or_default(),
        })
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

/// The counter's rows of the ledger, in the form of [`Rollup::ledger_sql`].
fn ledger_sql(
    counter: &Counter,
    counted: &str,
    value: &str,
    args: &mut Vec<Arg>,
) -> Option<String> {
    if counter.is_concurrent() {
        return None;
    }
    let within = within_sql("created_at", counter.window, Bound::ByDay, args);
    Some(format!(
        "SELECT created_at, {value} AS used, NULL::numeric AS held \
         FROM ai_limiter.ai_usage WHERE {counted}{within} UNION ALL "
    ))
}

/// One counter as a SELECT of (newest created_at, used, held), a row a bucket.
fn sum_sql(
    counter: &Counter,
    counted: &str,
    value: &str,
    ledger: &str,
    holds: Holds,
    args: &mut Vec<Arg>,
) -> String {
    let within = within_sql("created_at", counter.window, Bound::Exact, args);
    let mut bind = |arg: Arg| {
        args.push(arg);
        format!("${}", args.len())
    };
    let mut open = "state = 'open'".to_owned();
    if let Holds::OpenAt(now, without_hold) = holds {
        open += &format!(" AND expires_at > {}", bind(now.into()));
        if let Some(id) = without_hold {
            open += &format!(" AND id <> {}", bind(id.into()));
        }
    }
    let group = match counter.limit.period {
        Period::Rolling(interval) => format!(" GROUP BY {}", bucket_sql(interval)),
        _ => String::new(),
    };
    // Totals know no runs: a rule of single runs finds none there.
    let dropped = match counter.counts_dropped_months() {
        true => format!(
            "SELECT NULL::timestamptz AS created_at, {value} AS used, NULL::numeric AS held \
             FROM (SELECT *, NULL::text AS run_id FROM ai_limiter.ai_usage_totals) t \
             WHERE {counted} UNION ALL "
        ),
        false => String::new(),
    };
    format!(
        "SELECT max(created_at), coalesce(sum(used), 0), coalesce(sum(held), 0) \
         FROM ({ledger}{dropped}SELECT created_at, NULL::numeric AS used, {value} AS held \
         FROM ai_limiter.ai_reservations WHERE {counted}{within} AND {open}) c{group}"
    )
}

/// How a bound of time stands in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Exact,
    /// With its day as a constant beside it, by which partitions are left out of a kept plan.
    ByDay,
}

/// Conditions that a column of time lies in the window, each with AND before it.
pub fn within_sql(column: &str, window: Window, bound: Bound, args: &mut Vec<Arg>) -> String {
    let mut within = String::new();
    for (edge, operator, up) in [(window.start, ">=", 0), (window.end, "<", 1)] {
        let Some(edge) = edge else { continue };
        if bound == Bound::ByDay {
            let day = day_sql(edge.0.div_euclid(DAY) + up);
            within += &format!(" AND {column} {operator} {day}");
        }
        args.push(edge.into());
        within += &format!(" AND {column} {operator} ${}", args.len());
    }
    within
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
