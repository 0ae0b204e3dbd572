//! What calls have returned: `ai_output_estimates`, learned from the ledger piece by piece.
//!
//! Who learns holds [`Class::Estimates`] to the end of the transaction; readers hold nothing. A row of a
//! transaction that commits after its instant was passed is not learned from: of statistics a
//! few rows may be missing, and nobody has to wait. Nothing here has to run for an answer to be right.
//!
//! Not learned from: corrections; rows whose tokens are those that had been held (settled without usage,
//! or with a cost alone), or the estimates would confirm themselves; rows without any token. Everybody's
//! calls are one: what a model returns for a feature depends on the prompt, not on who pays.

use crate::pg::lock::{self, Class, Key};
use crate::pg::spi::{Arg, Snapshot, Spi};
use crate::settings;
use ai_limiter_domain::call::required;
use ai_limiter_domain::estimates::histogram::Histogram;
use ai_limiter_domain::estimates::output::Learned;
use ai_limiter_domain::window::{DAY, MINUTE};
use ai_limiter_domain::{Error, Timestamp, error::Result};

/// How far back the first round begins.
const BEGINS: i64 = 7 * DAY;
/// How much of the ledger one round learns from.
const PIECE: i64 = 15 * MINUTE;
/// A row is recorded at most so long after its `created_at`, but for backdated ones: the longest life
/// of a hold. It spares a look into older partitions.
const OLDEST_CALL: i64 = 8 * DAY;
/// Features are the app's own words. With so many rows only models are learned anew.
const MOST_ROWS: i64 = 10_000;
const FORGOTTEN: i64 = 30 * DAY;

/// What is known of such calls; of the feature, if that has enough of them, else of the model.
pub fn learned(
    spi: &Spi,
    snapshot: &Snapshot,
    model: &str,
    feature: Option<&str>,
) -> Result<Option<Learned>> {
    const SQL: &str = "SELECT feature IS NOT NULL, histogram FROM ai_limiter.ai_output_estimates \
        WHERE model = $1 AND (feature = $2 OR feature IS NULL) ORDER BY feature NULLS LAST";
    let part = settings::OUTPUT_QUANTILE.get();
    if part >= 1.0 {
        return Ok(None);
    }
    let known = spi.read_at(snapshot, SQL, &[model.into(), feature.into()], |row| {
        // One that cannot be read says nothing, and the maximum is held.
        let histogram = row.json(2).and_then(|json| serde_json::from_value::<Histogram>(json).ok());
        let is_of_feature = row.boolean(1).unwrap_or(false);
        Ok(histogram.and_then(|histogram| {
            let (output_tokens, calls) = (histogram.quantile(part)?, histogram.total());
            Some(Learned { output_tokens, calls, is_of_feature })
        }))
    })?;
    Ok(known.into_iter().flatten().next())
}

/// A piece of learning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Ledger rows that were learned from.
    pub calls: i64,
    /// Whether there is more already.
    pub more: bool,
}

/// Learns from the next piece of the ledger, up to an instant; nothing where somebody else is learning.
pub fn learn(spi: &Spi, until: Timestamp) -> Result<Progress> {
    if !lock::try_acquire(&Key::new(Class::Estimates, "ai_output_estimates")) {
        return Ok(Progress::default());
    }
    let from = learned_until(spi)?.unwrap_or(Timestamp(until.0 - BEGINS));
    if from >= until {
        return Ok(Progress::default());
    }
    let piece = Timestamp(from.0.saturating_add(PIECE)).min(until);
    let (mut calls, mut room) = (0, None);
    for returned in returned(spi, from, piece)? {
        calls += if returned.feature.is_none() { returned.calls } else { 0 };
        add(spi, &returned, until, &mut room)?;
    }
    set_learned_until(spi, piece)?;
    Ok(Progress { calls, more: piece < until })
}

/// What the calls of a model and feature have returned in a piece of the ledger.
struct Returned {
    model: String,
    feature: Option<String>,
    calls: i64,
    /// How many calls returned how many tokens.
    counts: Vec<(i64, u64)>,
}

fn returned(spi: &Spi, from: Timestamp, to: Timestamp) -> Result<Vec<Returned>> {
    // Of each model all calls, and those of each feature.
    const SQL: &str = "SELECT u.model, u.feature, \
            u.output_tokens / u.requests + (u.output_tokens % u.requests > 0)::int AS each, count(*) \
        FROM ai_limiter.ai_usage u \
        WHERE u.recorded_at >= $1 AND u.recorded_at < $2 AND u.created_at >= $3 \
            AND u.model IS NOT NULL AND u.correction_of IS NULL AND u.requests > 0 \
            AND u.input_tokens + u.output_tokens > 0 AND (u.price_source IN ('ai_prices', 'catalog') \
                OR (u.price_source = 'caller' AND u.estimated_cost_usd IS NULL)) \
        GROUP BY GROUPING SETS ((1, 2, 3), (1, 3)) \
        HAVING GROUPING(u.feature) = 1 OR u.feature IS NOT NULL \
        ORDER BY 1, 2";
    let args = [from.into(), to.into(), Timestamp(from.0.saturating_sub(OLDEST_CALL)).into()];
    let mut all: Vec<Returned> = Vec::new();
    spi.stream(&Snapshot::latest(), SQL, &args, |row| {
        let (model, feature) = (required(row.text(1), "model")?, row.text(2));
        let (tokens, calls) = (row.int(3).unwrap_or(0), row.int(4).unwrap_or(0));
        let same = |last: &&mut Returned| last.model == model && last.feature == feature;
        let count = (tokens, calls.unsigned_abs());
        match all.last_mut().filter(same) {
            Some(last) => {
                last.calls += calls;
                last.counts.push(count);
            }
            None => all.push(Returned { model, feature, calls, counts: vec![count] }),
        }
        Ok(())
    })?;
    Ok(all)
}

/// Adds to what is known of a model and feature. `room` is how many more features there may be, once it
/// was asked for.
fn add(spi: &Spi, returned: &Returned, now: Timestamp, room: &mut Option<i64>) -> Result<()> {
    const FIND: &str = "SELECT histogram FROM ai_limiter.ai_output_estimates \
        WHERE model = $1 AND feature IS NOT DISTINCT FROM $2";
    const KEEP: &str = "INSERT INTO ai_limiter.ai_output_estimates AS e \
            (model, feature, calls, histogram, updated_at) VALUES ($1, $2, $3, $4, $5) \
        ON CONFLICT ON CONSTRAINT ai_output_estimates_are_one_each DO UPDATE SET \
            calls = excluded.calls, histogram = excluded.histogram, updated_at = excluded.updated_at";
    let key = [returned.model.as_str().into(), returned.feature.as_deref().into()];
    let known = spi.read(FIND, &key, |row| Ok(row.json(1)))?.into_iter().next();
    if known.is_none() && returned.feature.is_some() {
        let left = match *room {
            Some(left) => left,
            None => make_room(spi, now)?,
        };
        *room = Some(left - 1);
        if left <= 0 {
            return Ok(());
        }
    }
    let known = known.flatten().and_then(|json| serde_json::from_value(json).ok());
    let mut histogram: Histogram = known.unwrap_or_default();
    returned.counts.iter().for_each(|(tokens, calls)| histogram.add(*tokens, *calls));
    let text = serde_json::to_string(&histogram)
        .map_err(|e| Error::invalid("histogram could not be written").detail(format!("{e}.")))?;
    let [model, feature] = key;
    let calls = Arg::Int(i64::try_from(histogram.total()).ok());
    spi.write(KEEP, &[model, feature, calls, Arg::Jsonb(text), now.into()], |_| Ok(()))?;
    Ok(())
}

/// How many more features may be learned; forgets what nobody has called for long, if none.
fn make_room(spi: &Spi, now: Timestamp) -> Result<i64> {
    const COUNT: &str = "SELECT count(*) FROM ai_limiter.ai_output_estimates";
    const FORGET: &str = "DELETE FROM ai_limiter.ai_output_estimates WHERE updated_at < $1";
    let room = || -> Result<i64> {
        let rows = spi.read(COUNT, &[], |row| Ok(row.int(1)))?;
        Ok(MOST_ROWS - rows.into_iter().flatten().next().unwrap_or(0))
    };
    match room()? {
        room if room > 0 => Ok(room),
        _ => {
            let before = Timestamp(now.0.saturating_sub(FORGOTTEN));
            spi.write(FORGET, &[before.into()], |_| Ok(()))?;
            room()
        }
    }
}

fn learned_until(spi: &Spi) -> Result<Option<Timestamp>> {
    const SQL: &str = "SELECT learned_until FROM ai_limiter.ai_output_estimate_state";
    Ok(spi.read(SQL, &[], |row| Ok(row.timestamp(1)))?.into_iter().next().flatten())
}

fn set_learned_until(spi: &Spi, until: Timestamp) -> Result<()> {
    const SQL: &str = "UPDATE ai_limiter.ai_output_estimate_state SET learned_until = $1";
    spi.write(SQL, &[until.into()], |_| Ok(()))?;
    Ok(())
}
