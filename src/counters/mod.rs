//! What a counter says: settled and held of a rule's subject in its window.
//!
//! Three that answer. [`memory`] has the counters in shared memory, where admission asks and adds to
//! them. [`table`] sums them from the tables, and of those from the rollup where it serves ([`rolled`]):
//! what memory is loaded from, and what serves where there is none. [`tally`] reads every raw row, and
//! is the oracle that both are checked against. [`look`] asks memory first.

pub mod exposure;
pub mod memory;
mod rolled;
pub mod table;
pub mod tally;

use crate::ledger::config::Account;
use crate::pg::clock::PgZone;
use crate::pg::lock::{Class, Key};
use crate::pg::spi::{Snapshot, Spi};
use ai_limiter_domain::error::Result;
use ai_limiter_domain::filter::{Column, Condition};
use ai_limiter_domain::window::{Unit, calendar_window};
use ai_limiter_domain::{
    Amount, Dimensions, Limit, Metric, Per, Period, Timestamp, Window, precedence,
};
use std::cell::RefCell;

pub use table::read;

/// One counter: a rule, a subject, a window.
pub struct Counter<'a> {
    pub limit: &'a Limit,
    call: &'a Dimensions,
    pub subject: String,
    pub window: Window,
    pub zone: String,
    /// The rule's conditions and the subject's: all must hold.
    conditions: Vec<Condition>,
    /// Rows of the same name that take precedence: where one matches, its counter counts instead.
    overriding: Vec<Vec<Condition>>,
}

/// What it says now.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub used: Amount,
    pub held: Amount,
    pub resets_at: Option<Timestamp>,
}

/// The zone in which the rule's windows are counted for this call's subject.
pub fn zone<'a>(limit: &Limit, account: &'a Account) -> &'a str {
    if limit.per.contains(&Per::User) {
        &account.account_timezone
    } else if limit.per.contains(&Per::Tenant) {
        &account.tenant_timezone
    } else {
        &account.default_timezone
    }
}

/// The window of a rule that `at` falls into, in a zone. Of a rolling rule: what may still count
/// at `at`, and everything after it.
pub fn window(limit: &Limit, at: Timestamp, zone: &str) -> Window {
    match limit.period {
        Period::Total => Window::ALL_TIME,
        Period::Calendar(unit) => calendar_window(unit, at, &PgZone(zone.to_owned())),
        Period::Rolling(interval) => Window { start: Some(interval.earliest(at)), end: None },
    }
}

/// What the counters say, to those who only look: those in shared memory as this transaction sees them,
/// others from the tables. Nothing is loaded.
pub fn look(
    spi: &Spi,
    snapshot: &Snapshot,
    counters: &[Counter],
    now: Timestamp,
) -> Result<Vec<Reading>> {
    let told = memory::current()?
        .zip(memory::shared_memory())
        .filter(|_| !memory::transaction::is_untold());
    let Some((installation, shared)) = told else {
        return read(spi, snapshot, counters, now, None);
    };
    let mut sums = Vec::new();
    let mut look = |counter: &Counter| {
        let labelled = (counter.limit, memory::rule_label(shared, &counter.limit.name));
        let call = (counter.call, memory::label_of(shared, counter.call));
        let key = memory::Key::new(shared, installation, labelled, call, counter.window);
        let rolls = matches!(counter.limit.period, Period::Rolling(_));
        if rolls || !memory::read(installation, [&key].into_iter(), &mut sums) {
            let read = read(spi, snapshot, std::slice::from_ref(counter), now, None)?;
            return Ok(read[0]);
        }
        Ok(Reading {
            used: Amount::from_pico(sums[0].used),
            held: Amount::from_pico(sums[0].held),
            resets_at: counter.window.end,
        })
    };
    counters.iter().map(&mut look).collect()
}

/// How many windows a backend keeps before it forgets them all.
const KEPT: usize = 64;

thread_local! {
    /// Windows that were computed last: a zone's rules do not change while the server runs.
    static WINDOWS: RefCell<Vec<(Unit, String, Window)>> = const { RefCell::new(Vec::new()) };
}

/// [`window`], from those that this backend has computed before where it can be: a day's takes 5 µs.
pub fn kept_window(limit: &Limit, at: Timestamp, zone: &str) -> Window {
    let Period::Calendar(unit) = limit.period else { return window(limit, at, zone) };
    let kept = WINDOWS.with_borrow(|kept| {
        let right = |k: &&(Unit, String, Window)| k.0 == unit && k.2.contains(at) && k.1 == zone;
        kept.iter().find(right).map(|k| k.2)
    });
    kept.unwrap_or_else(|| {
        let window = window(limit, at, zone);
        WINDOWS.with_borrow_mut(|kept| {
            if kept.len() >= KEPT {
                kept.clear();
            }
            kept.push((unit, zone.to_owned(), window));
        });
        window
    })
}

impl<'a> Counter<'a> {
    /// The counter of `limit` that the call falls into when it is made at `at`.
    pub fn of(
        limit: &'a Limit,
        all: &'a [Limit],
        call: &'a Dimensions,
        account: &Account,
        at: Timestamp,
    ) -> Self {
        let zone = zone(limit, account).to_owned();
        let mut conditions = limit.conditions();
        conditions.extend(limit.subject(call));
        Self {
            limit,
            call,
            subject: limit.subject_name(call),
            window: window(limit, at, &zone),
            zone,
            conditions,
            // Thousands of rows may override one rule for one user each: only those that can match a
            // call of this subject matter to its sum.
            overriding: precedence::overriding(limit, all)
                .filter(|other| !other.filter.disjoint(&limit.subject_filter(call)))
                .map(Limit::conditions)
                .collect(),
        }
    }

    /// The lock that admission into this counter holds. Without the window: two calls that see
    /// different windows of one subject, because a zone was just edited, still wait for each other.
    pub fn lock_key(limit: &Limit, call: &Dimensions) -> Key {
        Key::new(Class::Counter, &format!("{} {:?}", limit.id, limit.subject_key(call)))
    }

    /// The lock under which this counter is loaded, and summed for admission where it is not in shared memory.
    pub fn own_lock_key(&self) -> Key {
        Self::lock_key(self.limit, self.call)
    }

    /// Whether months that were dropped from the ledger count.
    fn counts_dropped_months(&self) -> bool {
        self.limit.period == Period::Total && !self.is_concurrent()
    }

    /// Whether it is of one account or one run, by which ledger and holds have an index.
    fn is_of_one(&self) -> bool {
        let has = |wanted: fn(&Condition) -> bool| self.conditions.iter().any(wanted);
        has(|c| matches!(c, Condition::Tenant(_)))
            && has(|c| matches!(c, Condition::User(_) | Condition::Is(Column::RunId, _)))
    }

    /// Whether only holds count.
    fn is_concurrent(&self) -> bool {
        self.limit.metric == Metric::Concurrent
    }
}
