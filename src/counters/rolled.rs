//! The ledger's part of a counter, from the rollup where it can be and from the ledger where not.
//!
//! Watermark, slices, their sums and the rows that are not in them are read under one snapshot; see
//! [`rollup`](crate::ledger::rollup). The counter's window is cut into stretches of time. Where a slice
//! covers one, its quarter-hours count, and of the ledger only the rows from the watermark on; elsewhere
//! the whole ledger does. So what is not summed yet, or no longer, costs time and no exactness.
//!
//! Counters of one user or one run go to the ledger, which has indexes by them, and so do windows
//! with an edge within a quarter-hour, as minutes have and rolling limits.

use super::Counter;
use super::table::{Bound, within_sql};
use crate::ledger::rollup::{cell, identity};
use crate::pg::spi::{Arg, Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::filter::Condition;
use ai_limiter_domain::grain::{self, Grain};
use ai_limiter_domain::window::QUARTER;
use ai_limiter_domain::{Timestamp, Window, error::Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What is summed, as one snapshot sees it.
pub struct Rollup {
    watermark: Timestamp,
    slices: Vec<Slice>,
}

struct Slice {
    id: i64,
    starts_at: Timestamp,
    ends_at: Timestamp,
    grain: Grain,
}

/// A stretch of a window, and whether slices cover it.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    window: Window,
    covered: bool,
}

impl Rollup {
    /// `None` when it would serve none of these counters.
    pub fn read(spi: &Spi, snapshot: &Snapshot, counters: &[Counter]) -> Result<Option<Self>> {
        const SQL: &str = concat!(
            "SELECT s.slice_id, s.starts_at, s.ends_at, to_jsonb(s.dimensions), w.watermark \
            FROM ai_limiter.ai_rollup_state w, ai_limiter.ai_rollup_slices s \
            JOIN pg_class c ON c.oid = s.partition JOIN pg_inherits i ON i.inhrelid = c.oid \
            WHERE NOT s.stale AND s.watermark IS NULL AND w.watermark IS NOT NULL \
                AND s.ends_at > $1 AND s.starts_at < $2 \
                AND i.inhparent = 'ai_limiter.ai_usage'::regclass AND s.identity = ",
            identity!(),
            " ORDER BY s.starts_at, s.slice_id"
        );
        let windows = || counters.iter().filter(|c| needs(c).is_some()).map(|c| c.window);
        let Some(start) = windows().map(|w| w.start.unwrap_or(Timestamp(i64::MIN))).min() else {
            return Ok(None);
        };
        let end = windows().map(|w| w.end.unwrap_or(Timestamp(i64::MAX))).max().unwrap_or(start);
        let mut watermark = None;
        let slices = spi.read_at(snapshot, SQL, &[start.into(), end.into()], |row| {
            watermark = row.timestamp(5);
            let names: Vec<String> =
                row.json(4).and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default();
            Ok(Slice {
                id: required(row.int(1), "slice_id")?,
                starts_at: required(row.timestamp(2), "starts_at")?,
                ends_at: required(row.timestamp(3), "ends_at")?,
                grain: Grain::from_names(names),
            })
        })?;
        Ok(watermark.map(|watermark| Self { watermark, slices }))
    }

    /// Rows of (created_at, used, held) that add up to what the ledger has of the counter: SELECTs
    /// with a UNION ALL after each. `counted` and `value` are the counter's condition and metric.
    pub fn ledger_sql(
        &self,
        counter: &Counter,
        counted: &str,
        value: &str,
        args: &mut Vec<Arg>,
    ) -> Option<String> {
        let chosen = self.choose(counter)?;
        let mut sql = String::new();
        for (grain, ids) in by_grain(&chosen) {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let quarters = within_sql("quarter", counter.window, Bound::Exact, args);
            let subject = subject_sql(counter, grain, args);
            sql += &format!(
                "SELECT NULL::timestamptz AS created_at, {value} AS used, NULL::numeric AS held \
                 FROM ai_limiter.ai_usage_rollup WHERE slice_id IN ({}) AND {counted}{quarters}\
                 {subject} UNION ALL ",
                ids.join(", ")
            );
        }
        for stretch in stretches(counter.window, &chosen) {
            let within = within_sql("created_at", stretch.window, Bound::ByDay, args);
            let tail = match stretch.covered {
                true => {
                    args.push(self.watermark.into());
                    format!(" AND recorded_at >= ${}", args.len())
                }
                false => String::new(),
            };
            sql += &format!(
                "SELECT NULL::timestamptz AS created_at, {value} AS used, NULL::numeric AS held \
                 FROM ai_limiter.ai_usage WHERE {counted}{within}{tail} UNION ALL "
            );
        }
        Some(sql)
    }

    /// Of each partition in the window the coarsest slice that serves the counter, in order of time.
    fn choose(&self, counter: &Counter) -> Option<Vec<&Slice>> {
        let needed = needs(counter)?;
        let window = counter.window;
        let mut chosen: BTreeMap<Timestamp, &Slice> = BTreeMap::new();
        for slice in &self.slices {
            let overlaps = window.start.is_none_or(|start| slice.ends_at > start)
                && window.end.is_none_or(|end| slice.starts_at < end);
            let better = chosen
                .get(&slice.starts_at)
                .is_none_or(|other| slice.grain.len() < other.grain.len());
            if overlaps && better && slice.grain.covers(&needed) {
                chosen.insert(slice.starts_at, slice);
            }
        }
        (!chosen.is_empty()).then(|| chosen.into_values().collect())
    }
}

/// The dimensions that the counter looks at, if quarter-hours by them are kept.
fn needs(counter: &Counter) -> Option<Grain> {
    let on_a_quarter = |edge: Option<Timestamp>| edge.is_none_or(|at| at.0 % QUARTER == 0);
    let by_quarters = grain::is_by_quarters(counter.limit)
        && on_a_quarter(counter.window.start)
        && on_a_quarter(counter.window.end);
    let conditions = counter.conditions.iter().chain(counter.overriding.iter().flatten());
    by_quarters.then(|| Grain::of(conditions)).filter(Grain::is_rolled_up)
}

fn by_grain<'a>(slices: &[&'a Slice]) -> BTreeMap<&'a Grain, Vec<i64>> {
    let mut grains: BTreeMap<&Grain, Vec<i64>> = BTreeMap::new();
    for slice in slices {
        grains.entry(&slice.grain).or_default().push(slice.id);
    }
    grains
}

/// The window, in stretches that the slices cover and the others between them.
fn stretches(window: Window, slices: &[&Slice]) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut at = window.start;
    for slice in slices {
        let from = at.map_or(slice.starts_at, |at| at.max(slice.starts_at));
        let to = window.end.map_or(slice.ends_at, |end| end.min(slice.ends_at));
        if at.is_none_or(|at| at < from) {
            let window = Window { start: at, end: Some(from) };
            stretches.push(Stretch { window, covered: false });
        }
        match stretches.last_mut() {
            Some(last) if last.covered => last.window.end = Some(to),
            _ => {
                let window = Window { start: Some(from), end: Some(to) };
                stretches.push(Stretch { window, covered: true });
            }
        }
        at = Some(to);
    }
    if window.end.is_none_or(|end| at.is_none_or(|at| at < end)) {
        stretches.push(Stretch { window: Window { start: at, end: window.end }, covered: false });
    }
    stretches
}

/// What finds the subject's cells by the index; `counted` says the same of the columns.
fn subject_sql(counter: &Counter, grain: &Grain, args: &mut Vec<Arg>) -> String {
    let has = |name: &str| grain.names().any(|n| n == name);
    let tenant = if has("tenant") { "" } else { " AND tenant_id IS NULL" };
    let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
    let mut attributes = Map::new();
    for condition in &counter.conditions {
        match condition {
            Condition::Is(column, value) => {
                texts.insert(column.name(), value);
            }
            Condition::Attributes(wanted) => {
                let pairs = wanted.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
                attributes.extend(pairs);
            }
            _ => {}
        }
    }
    let is_known = |name: &str| match name.strip_prefix("attribute:") {
        Some(key) => attributes.contains_key(key),
        None => name == "tenant" || texts.contains_key(name),
    };
    if !grain.names().all(is_known) {
        return tenant.to_owned();
    }
    // The columns in the order in which the hash has them.
    let first = args.len() + 1;
    for name in ["tier", "provider", "model", "feature", "api_key_id"] {
        args.push(texts.get(name).filter(|_| has(name)).copied().into());
    }
    let keys: Vec<&str> = grain.attribute_keys().collect();
    attributes.retain(|key, _| keys.contains(&key.as_str()));
    args.push(match keys.is_empty() {
        true => Arg::NullJsonb,
        false => Arg::Jsonb(Value::Object(attributes).to_string()),
    });
    const CELL: &str = cell!("<0>", "<1>", "<2>", "<3>", "<4>", "<5>");
    let bind = |sql: String, i: usize| sql.replace(&format!("<{i}>"), &format!("${}", first + i));
    format!("{tenant} AND cell = {}", (0..6).fold(CELL.to_owned(), bind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(starts_at: i64, ends_at: i64) -> Slice {
        let (starts_at, ends_at) = (Timestamp(starts_at), Timestamp(ends_at));
        Slice { id: 1, starts_at, ends_at, grain: Grain::default() }
    }

    /// The stretches of a window as text: `[a,b)` where slices cover it, `(a,b)` elsewhere.
    fn cut(start: Option<i64>, end: Option<i64>, slices: &[Slice]) -> String {
        let window = Window { start: start.map(Timestamp), end: end.map(Timestamp) };
        let edge = |at: Option<Timestamp>| at.map_or(String::new(), |at| at.0.to_string());
        stretches(window, &slices.iter().collect::<Vec<_>>())
            .iter()
            .map(|s| {
                let open = if s.covered { '[' } else { '(' };
                format!("{open}{},{})", edge(s.window.start), edge(s.window.end))
            })
            .collect()
    }

    #[test]
    fn a_window_is_cut_where_slices_begin_and_end() {
        let two = [slice(10, 20), slice(20, 30)];
        assert_eq!(cut(Some(12), Some(25), &two), "[12,25)");
        assert_eq!(cut(Some(5), Some(25), &two), "(5,10)[10,25)");
        assert_eq!(cut(Some(12), Some(35), &two), "[12,30)(30,35)");
        assert_eq!(cut(None, None, &two), "(,10)[10,30)(30,)");
        assert_eq!(
            cut(None, None, &[slice(10, 20), slice(30, 40)]),
            "(,10)[10,20)(20,30)[30,40)(40,)"
        );
    }
}
