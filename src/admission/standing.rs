//! Questions beside a call: what has an account left, why does a rule apply, what is near its cap.
//! All only read, take no lock, and may be overtaken.

use super::caller::{Caller, View, not_permitted};
use super::configuration::Tables;
use super::estimate::{Purpose, estimate};
use super::expiry;
use crate::counters::exposure::{Exposed, exposed as exposed_counters};
use crate::counters::memory::{self, transaction};
use crate::counters::tally::{Tallied, tally};
use crate::counters::{self, Counter, Reading};
use crate::ledger::config;
use crate::pg::clock;
use crate::pg::lock;
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use ai_limiter_domain::{
    Amount, Call, Dimensions, Limit, Per, Timestamp, Window, error::Result, precedence,
};
use pgrx::pg_sys;

/// A rule that applies to an account, and what its counter says.
pub struct Standing {
    pub limit: Limit,
    pub reading: Reading,
    pub visible: bool,
}

/// The rules whose counter an account shares whatever it calls next.
pub fn standings(view: &View, account: &mut Dimensions) -> Result<Vec<Standing>> {
    as_owner(|spi| {
        lock::keep_months();
        let snapshot = Snapshot::latest();
        let now = clock::now();
        let of = config::account(spi, &snapshot, account.tenant_id, account.user_id)?;
        account.tier.clone_from(&of.tier);
        let limits = config::limits_of(spi, &snapshot, account.tenant_id, account.user_id)?;
        let applies = |limit: &&Limit| {
            limit.conditions().iter().all(|c| c.may_hold(account))
                && precedence::replaced_by(limit, &limits, account).is_none()
        };
        let counters: Vec<Counter> = limits
            .iter()
            .filter(applies)
            .map(|limit| Counter::of(limit, &limits, account, &of, now))
            .collect();
        let readings = match transaction::has_due_hold(now)? {
            true => counters::read(spi, &snapshot, &counters, now, None)?,
            false => counters::look(spi, &snapshot, &counters, now)?,
        };
        Ok(counters
            .iter()
            .zip(readings)
            .map(|(counter, reading)| Standing {
                limit: counter.limit.clone(),
                reading,
                visible: view.sees(counter.limit, account),
            })
            .collect())
    })
}

/// Why a rule does or does not apply to a call.
pub struct Explanation {
    pub limit_id: i64,
    pub limit_name: String,
    pub applies: bool,
    pub explanation: String,
    pub replaced_by: Option<i64>,
    pub counter: Option<String>,
    pub timezone: Option<String>,
    pub window: Window,
    pub price_source: Option<String>,
}

pub fn explain(caller: &Caller, call: &mut Call) -> Result<Vec<Explanation>> {
    if !caller.sees_platform()? {
        return Err(not_permitted("permission denied to explain limits"));
    }
    as_owner(|spi| {
        let snapshot = Snapshot::latest();
        let now = clock::now();
        let d = &mut call.dimensions;
        let account = config::account(spi, &snapshot, d.tenant_id, d.user_id)?;
        d.tier.clone_from(&account.tier);
        let limits = config::limits(spi, &snapshot)?;
        let estimate = estimate(&Tables { spi, snapshot: &snapshot }, call, Purpose::Hold, now)?;
        let price_source = match (estimate.source, estimate.price_id, &estimate.listed_name) {
            (Some(source), Some(id), _) => Some(format!("{} row {id}", source.name())),
            (Some(source), _, Some(name)) => Some(format!("{} {name}", source.name())),
            (source, ..) => source.map(|s| s.name().to_owned()),
        };
        Ok(limits
            .iter()
            .map(|limit| {
                let mut row = explain_one(limit, &limits, &call.dimensions);
                if row.applies {
                    let counter = Counter::of(limit, &limits, &call.dimensions, &account, now);
                    row.window = counter.window;
                    row.timezone = Some(counter.zone);
                    row.counter = Some(counter.subject);
                }
                row.price_source.clone_from(&price_source);
                row
            })
            .collect())
    })
}

fn explain_one(limit: &Limit, all: &[Limit], call: &Dimensions) -> Explanation {
    let mut row = Explanation {
        limit_id: limit.id,
        limit_name: limit.name.clone(),
        applies: false,
        explanation: String::new(),
        replaced_by: None,
        counter: None,
        timezone: None,
        window: Window::ALL_TIME,
        price_source: None,
    };
    let failing: Vec<String> =
        limit.conditions().iter().filter(|c| !c.holds(call)).map(ToString::to_string).collect();
    if !failing.is_empty() {
        row.explanation = format!("needs {}", failing.join(" and "));
    } else if let Some(other) = precedence::replaced_by(limit, all, call) {
        row.replaced_by = Some(other.id);
        row.explanation = "a more specific row of this name matches".to_owned();
    } else {
        row.applies = true;
        row.explanation = "matches".to_owned();
    }
    row
}

/// Every counter that is not empty and that the caller may see.
pub fn counters(view: &View) -> Result<Vec<Tallied>> {
    as_owner(|spi| {
        lock::keep_months();
        let snapshot = Snapshot::latest();
        let limits = config::limits(spi, &snapshot)?;
        let mut tallied = tally(spi, &snapshot, &limits, clock::now(), view.rows())?;
        tallied.retain(|counter| view.sees(&counter.limit, &counter.call));
        Ok(tallied)
    })
}

/// How far the open holds of each counter that the caller may see could exceed what is held.
pub fn exposed(view: &View) -> Result<Vec<Exposed>> {
    as_owner(|spi| {
        let snapshot = Snapshot::latest();
        let limits = config::limits(spi, &snapshot)?;
        let mut exposed = exposed_counters(spi, &snapshot, &limits, clock::now(), view.rows())?;
        exposed.retain(|counter| view.sees(&counter.limit, &counter.call));
        Ok(exposed)
    })
}

/// A counter, what admission says of it and what the raw rows add up to.
pub struct Verified {
    pub limit_name: String,
    pub limit_id: i64,
    pub subject: String,
    pub window: Window,
    pub read: Reading,
    pub raw_used: Amount,
    pub raw_held: Amount,
    pub drift: Amount,
}

/// Holds what admission says against the tally. Holds that are due are marked first, where that can be
/// written. What others have not committed is in shared memory and not in the tables.
pub fn verify() -> Result<Vec<Verified>> {
    let now = clock::now();
    // SAFETY: reads a flag.
    match memory::current()?.filter(|_| !unsafe { pg_sys::XactReadOnly }) {
        Some(_) => expiry::with_all_marked(now, || compare(now)),
        None => compare(now),
    }
}

fn compare(now: Timestamp) -> Result<Vec<Verified>> {
    as_owner(|spi| {
        lock::keep_months();
        let snapshot = Snapshot::latest();
        let limits = config::limits(spi, &snapshot)?;
        let mut verified = Vec::new();
        for tallied in tally(spi, &snapshot, &limits, now, None)? {
            let d = &tallied.call;
            let account = config::account(spi, &snapshot, d.tenant_id, d.user_id)?;
            let counter = [Counter::of(&tallied.limit, &limits, d, &account, now)];
            let read = counters::look(spi, &snapshot, &counter, now)?[0];
            let says = read.used.checked_add(read.held)?;
            let drift = says.checked_sub(tallied.used)?.checked_sub(tallied.held)?;
            verified.push(Verified {
                limit_id: tallied.limit.id,
                limit_name: tallied.limit.name,
                subject: tallied.subject,
                window: tallied.window,
                read,
                raw_used: tallied.used,
                raw_held: tallied.held,
                drift,
            });
        }
        Ok(verified)
    })
}

/// A counter that has crossed a threshold.
pub struct Alert {
    pub severity: &'static str,
    pub scope: String,
    pub subject: String,
    pub limit: Limit,
    pub used: Amount,
    pub ratio: f64,
    pub resets_at: Option<Timestamp>,
}

/// The counters whose settled use has crossed a threshold now, worst first; one entry each.
pub fn alerts(view: &View) -> Result<Vec<Alert>> {
    let mut all: Vec<Alert> = counters(view)?.into_iter().filter_map(alert).collect();
    all.sort_by(|a, b| b.ratio.total_cmp(&a.ratio).then_with(|| a.limit.name.cmp(&b.limit.name)));
    Ok(all)
}

fn alert(counter: Tallied) -> Option<Alert> {
    let limit = counter.limit;
    // A cap of nothing is crossed by the first thing that counts.
    let ratio = counter.used.ratio(limit.amount).unwrap_or(match counter.used > Amount::ZERO {
        true => f64::INFINITY,
        false => 0.0,
    });
    let crossed =
        |threshold: &&Amount| threshold.ratio(Amount::from_units(1)).is_some_and(|t| ratio >= t);
    let threshold = limit.alert_at.iter().rev().find(crossed)?;
    let severity = match threshold.ratio(Amount::from_units(1)) {
        Some(t) if t >= 1.0 => "critical",
        Some(t) if t >= 0.8 => "warning",
        _ => "info",
    };
    Some(Alert {
        severity,
        scope: scope(&limit),
        subject: counter.subject,
        limit,
        used: counter.used,
        ratio,
        resets_at: counter.resets_at,
    })
}

/// What a counter is of, in one word.
fn scope(limit: &Limit) -> String {
    if limit.per.contains(&Per::User) || limit.filter.user_id.is_some() {
        "user".to_owned()
    } else if let Some(per) = limit.per.iter().find(|per| **per != Per::Tenant) {
        per.to_string()
    } else if limit.per.contains(&Per::Tenant) || limit.filter.tenant_id.is_some() {
        "tenant".to_owned()
    } else {
        "platform".to_owned()
    }
}
