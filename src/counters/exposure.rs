//! How far open holds could exceed what is held: a hold is for what is likely, and the call may come to
//! more, up to its maximum. One pass over the open holds, each given to the rules that govern it.
//!
//! What admission promises is about what is held. This says what could become of it: were every open call
//! to return the most that it may, a counter would grow by the sum of the differences. A hold whose maximum
//! nobody knows is counted apart, since it has no bound. Nothing is locked; a reader may be overtaken.

use super::tally::{Zones, dimensions, size};
use crate::pg::spi::{Arg, Row, Snapshot, Spi};
use ai_limiter_domain::call::required;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{
    Amount, Dimensions, Limit, Metric, Timestamp, Window, error::Result, precedence,
};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// A counter with open holds.
pub struct Exposed {
    pub limit: Limit,
    /// A call of the subject: only its dimensions in `per` mean anything.
    pub call: Dimensions,
    pub subject: String,
    pub window: Window,
    pub holds: i64,
    /// Of them, those that nothing bounds; they are held as they are in `at_most`.
    pub unbounded: i64,
    pub held: Amount,
    pub at_most: Amount,
    /// What `at_most` is more than `held`.
    pub excess: Amount,
}

impl Exposed {
    fn new(limit: &Limit, call: &Dimensions, window: Window) -> Self {
        Self {
            limit: limit.clone(),
            call: call.clone(),
            subject: limit.subject_name(call),
            window,
            holds: 0,
            unbounded: 0,
            held: Amount::ZERO,
            at_most: Amount::ZERO,
            excess: Amount::ZERO,
        }
    }

    fn add(&mut self, hold: &OpenHold) -> Result<()> {
        let most = Size {
            output_tokens: hold.most.output_tokens.or(hold.size.output_tokens),
            cost_usd: hold.most.cost_usd.or(hold.size.cost_usd),
            ..hold.size
        };
        let is_bounded = match self.limit.metric {
            Metric::CostUsd => hold.most.cost_usd.is_some(),
            Metric::OutputTokens | Metric::TotalTokens => hold.most.output_tokens.is_some(),
            Metric::Requests | Metric::InputTokens | Metric::Concurrent => true,
        };
        let held = self.limit.increment(&hold.size).unwrap_or_default();
        // An extension may have raised a hold beyond what was its maximum.
        let most = self.limit.increment(&most).unwrap_or_default().max(held);
        self.holds += 1;
        self.unbounded += i64::from(!is_bounded);
        self.held = self.held.checked_add(held)?;
        self.at_most = self.at_most.checked_add(most)?;
        self.excess = self.at_most.checked_sub(self.held)?;
        Ok(())
    }
}

/// What a hold is for, and the most that it may come to.
struct OpenHold {
    call: Dimensions,
    size: Size,
    most: Size,
    created_at: Timestamp,
}

fn open_hold(row: &Row) -> Result<OpenHold> {
    let size = size(row)?;
    Ok(OpenHold {
        call: dimensions(row)?,
        size,
        most: Size { output_tokens: row.int(14), cost_usd: row.amount(15)?, ..size },
        created_at: required(row.timestamp(16), "created_at")?,
    })
}

/// All counters with open holds, caps of single runs among them, or those that the holds of one tenant
/// and user add to.
pub fn exposed(
    spi: &Spi,
    snapshot: &Snapshot,
    limits: &[Limit],
    now: Timestamp,
    rows_of: Option<(Uuid, Option<Uuid>)>,
) -> Result<Vec<Exposed>> {
    const SQL: &str = "SELECT tenant_id, user_id, tier, provider, model, feature, api_key_id, run_id, \
            attributes, requests, input_tokens, output_tokens, cost_usd, max_output_tokens, \
            max_cost_usd, created_at \
        FROM ai_limiter.ai_reservations WHERE state = 'open' AND expires_at > $1 \
            AND ($2 IS NULL OR tenant_id = $2 OR user_id = $3)";
    let args = [now.into(), Arg::Uuid(rows_of.map(|r| r.0)), Arg::Uuid(rows_of.and_then(|r| r.1))];
    let mut zones = Zones::read(spi, snapshot)?;
    let runs = run_limits(spi, snapshot)?;
    let mut found: BTreeMap<(String, i64, Vec<String>), Exposed> = BTreeMap::new();
    let mut add = |limit: &Limit, window: Window, hold: &OpenHold| {
        let key = (limit.name.clone(), limit.id, limit.subject_key(&hold.call));
        found.entry(key).or_insert_with(|| Exposed::new(limit, &hold.call, window)).add(hold)
    };
    spi.stream(snapshot, SQL, &args, |row| {
        let hold = open_hold(row)?;
        for limit in precedence::governing(limits, &hold.call) {
            let window = zones.window(limit, &hold.call, now);
            if window.contains(hold.created_at) {
                add(limit, window, &hold)?;
            }
        }
        let run = hold.call.run_id.as_ref().map(|run| (hold.call.tenant_id, run.clone()));
        if let Some(limit) = run.and_then(|run| runs.get(&run)) {
            add(limit, Window::ALL_TIME, &hold)?;
        }
        Ok(())
    })?;
    Ok(found.into_values().collect())
}

/// The caps of single runs that have open holds.
fn run_limits(spi: &Spi, snapshot: &Snapshot) -> Result<HashMap<(Uuid, String), Limit>> {
    const SQL: &str = "SELECT r.tenant_id, r.run_id, r.amount_usd FROM ai_limiter.ai_run_limits r \
        WHERE (r.tenant_id, r.run_id) IN (SELECT h.tenant_id, h.run_id \
            FROM ai_limiter.ai_reservations h WHERE h.state = 'open')";
    let rows = spi.read_at(snapshot, SQL, &[], |row| {
        let tenant = required(row.uuid(1), "tenant_id")?;
        let amount = required(row.amount(3)?, "amount_usd")?;
        Ok(((tenant, row.text(2).unwrap_or_default()), Limit::of_run(tenant, amount)))
    })?;
    Ok(rows.into_iter().collect())
}
