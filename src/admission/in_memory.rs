//! Deciding by counters in shared memory.
//!
//! First everything is tried with what this backend has kept and what is in shared memory: no SQL runs,
//! nothing waits but for a lightweight lock. Only where something is missing the same is done again in
//! a subtransaction that may read: an error of Postgres then becomes a degraded verdict, and who is
//! told no gives back what it took.
//!
//! Who admits joins the barrier, resolves the rules, and in one critical section takes the stamp,
//! asks all counters and adds to all of them or to none. The order in which things are read is what
//! makes a loaded counter right: epoch, then rules, then the counter's lock, then the snapshot.

use super::assess::{
    Assessed, Locking, Question, Resolved, by_tables, degraded, judge_by_tables, keeps, resolve,
    verdict_of,
};
use super::cache::{Cache, Rules};
use super::configuration::{Configuration, Decided, Undecided};
use super::expiry;
use crate::counters::memory::load::{Loaded, load};
use crate::counters::memory::transaction::{self, Change};
use crate::counters::memory::{self, Demand, Installation, Key, Outcome, shared_memory};
use crate::counters::{self, Counter, Reading, kept_window, zone};
use crate::pg::lock::{self, Class};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::{barrier, subtransaction};
use crate::settings;
use ai_limiter_domain::counters::Sums;
use ai_limiter_domain::verdict::{Mode, Verdict};
use ai_limiter_domain::{
    Amount, Call, Dimensions, Limit, Period, Timestamp, Window, error::Result,
};
use pgrx::pg_sys;

/// Judges the call, and adds it to its counters where it is admitted.
pub fn assess(
    installation: &'static Installation,
    call: &mut Call,
    question: &Question,
) -> Result<Assessed> {
    let admits = question.locking == Locking::Admission;
    let was_writer = admits && barrier::is_joined()?;
    if admits {
        barrier::join()?;
        if transaction::size() > memory::bulk_threshold() {
            transaction::begin_bulk(installation);
        }
    }
    if !admits && settings::COUNTER_SOURCE.get() == settings::Source::Tables {
        return by_tables(call, question);
    }
    // What this transaction has not told the counters only its own eyes can see in the tables.
    if transaction::has_changed(Change::Shape) || transaction::is_bulk() {
        return alone(installation, call, question);
    }
    let assessed = match decide(installation, call, question, false) {
        Ok(assessed) => assessed,
        Err(Undecided::Refused(error)) => return Err(error),
        Err(Undecided::NotKept) => decide_reading(installation, call, question)?,
    };
    if admits && !assessed.verdict.allowed && !was_writer {
        barrier::leave();
    }
    Ok(assessed)
}

fn decide_reading(
    installation: &'static Installation,
    call: &mut Call,
    question: &Question,
) -> Result<Assessed> {
    // SAFETY: reads a flag.
    if unsafe { pg_sys::IsInParallelMode() } {
        // No lock can be waited for and no new snapshot taken: the statement's own has to do.
        return as_owner(|spi| judge_by_tables(spi, call, question, false));
    }
    let read = || match decide(installation, call, question, true) {
        Ok(assessed) => Ok(assessed),
        Err(Undecided::Refused(error)) => Err(error),
        Err(Undecided::NotKept) => unreachable!("everything may be read"),
    };
    match subtransaction::catch(read, keeps)? {
        Ok(assessed) => Ok(assessed),
        Err(code) => {
            let assessed = degraded(call, code);
            if assessed.verdict.allowed && question.locking == Locking::Admission {
                // Its hold is in no counter: all are loaded anew when it commits.
                transaction::begin_bulk(installation);
            }
            Ok(assessed)
        }
    }
}

/// Judges by the tables, with all other writers kept out where a hold is about to be written.
fn alone(
    installation: &'static Installation,
    call: &mut Call,
    question: &Question,
) -> Result<Assessed> {
    if question.locking == Locking::Admission {
        barrier::exclude_writers("reserve in a transaction that changed limits or loaded usage")?;
        transaction::begin_bulk(installation);
    }
    let judge = || as_owner(|spi| judge_by_tables(spi, call, question, false));
    match subtransaction::catch(judge, keeps)? {
        Ok(assessed) => Ok(assessed),
        Err(code) => Ok(degraded(call, code)),
    }
}

/// Where a rule's counter was asked.
enum Source {
    /// In shared memory: the number of its demand.
    Memory(usize),
    /// In the tables.
    Tables(Reading),
}

/// The counters of one call.
struct Asked<'a> {
    rules: Vec<(&'a Limit, Window, Source)>,
    demands: Vec<Demand>,
    keys: Vec<Key>,
    /// When the keys are right.
    window: Window,
}

impl Asked<'_> {
    fn readings(&self, sums: &[Sums]) -> impl Iterator<Item = (&Limit, Reading)> {
        self.rules.iter().map(|(limit, window, source)| {
            let reading = match source {
                Source::Tables(reading) => *reading,
                Source::Memory(number) => Reading {
                    used: Amount::from_pico(sums[*number].used),
                    held: Amount::from_pico(
                        sums[*number].held - self.demands[*number].replaces.pico(),
                    ),
                    resets_at: window.end,
                },
            };
            (*limit, reading)
        })
    }
}

/// One decision. With `reads`, runs within a subtransaction.
fn decide(
    installation: &'static Installation,
    call: &mut Call,
    question: &Question,
    reads: bool,
) -> Decided<Assessed> {
    let Some(cache) = Cache::new(installation, reads) else { return Err(Undecided::NotKept) };
    let admits = question.locking == Locking::Admission;
    // An extension keeps the tier that the call was made in.
    let tier = question.replaces.map(|_| call.dimensions.tier.clone());
    let mut sums = Vec::new();
    let mut has_expired = false;
    loop {
        if reads {
            pgrx::check_for_interrupts!();
        }
        let epoch = installation.epoch();
        let rules = cache.rules()?;
        let now = memory::now();
        let resolved = resolve(&cache, call, question, tier.clone(), now)?;
        if let Some(verdict) = &resolved.verdict
            && (!admits || !verdict.allowed)
        {
            let verdict = verdict.clone();
            return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
        }
        if admits && !holds_run(&cache, &call.dimensions, question.run_limit_usd, reads)? {
            continue;
        }
        // Without a worker nobody else takes out what has expired.
        let mut expires = !has_expired
            && transaction::may_expire(installation, now)
            && !expiry::is_swept(installation, now);
        let asked = ask(installation, &rules, &resolved, call, question, (epoch, now), reads)?;
        let Some(asked) = asked else { continue };
        if !memory::read(installation, &asked.keys, &mut sums) {
            if !reads {
                return Err(Undecided::NotKept);
            }
            continue;
        }
        let mut verdict = verdict_of(&resolved, question, call, asked.readings(&sums))?;
        let denied = |verdict: &Verdict| !verdict.allowed && resolved.verdict.is_none();
        if denied(&verdict) && !has_expired {
            expires |= transaction::may_expire(installation, now);
        }
        if expires {
            if !reads {
                return Err(Undecided::NotKept);
            }
            if !admits {
                return Ok(as_owner(|spi| judge_by_tables(spi, call, question, false))?);
            }
            let but = question.replaces.map(|hold| hold.id);
            // Who has the lock may be about to give room.
            let patience = if denied(&verdict) { expiry::PATIENCE_MILLISECONDS } else { 0 };
            expiry::expire_due(installation, but, patience)?;
            has_expired = true;
            continue;
        }
        if !admits || denied(&verdict) {
            return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
        }
        // SAFETY: inside a transaction that may write; else it raises, which unwinds.
        unsafe { pg_sys::GetTopTransactionId() };
        let enforced = resolved.mode == Mode::Enforce && resolved.verdict.is_none();
        match memory::admit(installation, &asked.demands, asked.window, enforced, &mut sums) {
            Outcome::Admitted(now) => {
                let verdict = match resolved.verdict.clone() {
                    Some(verdict) => verdict,
                    None => verdict_of(&resolved, question, call, asked.readings(&sums))?,
                };
                return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
            }
            Outcome::Denied => {
                verdict = verdict_of(&resolved, question, call, asked.readings(&sums))?;
                return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
            }
            Outcome::Absent if !reads => return Err(Undecided::NotKept),
            Outcome::Absent | Outcome::Turned => {}
        }
    }
}

/// Makes sure that no other call gives this run a cap of its own meanwhile, or that it has one. False
/// where it has got one while this waited.
pub fn holds_run(
    cache: &Cache,
    call: &Dimensions,
    proposed: Option<Amount>,
    reads: bool,
) -> Decided<bool> {
    let Some(run) = call.run_id.as_deref() else { return Ok(true) };
    if cache.run_limit(call.tenant_id, run)?.is_some() {
        return Ok(true);
    }
    if !reads {
        return Err(Undecided::NotKept);
    }
    let key = lock::Key::new(Class::Run, &format!("{}/{run}", call.tenant_id));
    match proposed {
        Some(_) => lock::acquire(&key),
        None => lock::acquire_shared(&key),
    }
    Ok(cache.run_limit(call.tenant_id, run)?.is_none())
}

/// Makes the keys of a call's counters, and with `reads` makes sure that each is present or is read
/// from the tables; `None` when rules have changed meanwhile.
fn ask<'a>(
    installation: &'static Installation,
    rules: &'a Rules,
    resolved: &'a Resolved,
    call: &Call,
    question: &Question,
    (epoch, now): (u64, Timestamp),
    reads: bool,
) -> Decided<Option<Asked<'a>>> {
    let Some(shared) = shared_memory() else { return Err(Undecided::NotKept) };
    let admits = question.locking == Locking::Admission;
    let d = &call.dimensions;
    let at = question.created_at.unwrap_or(now);
    let governing = rules.set.governing(d);
    let mut asked = Asked {
        rules: Vec::with_capacity(governing.len() + 1),
        demands: Vec::with_capacity(governing.len() + 1),
        keys: Vec::with_capacity(governing.len() + 1),
        window: Window::ALL_TIME,
    };
    let limits = rules.set.limits();
    let run_label = resolved.run_limit.as_ref().map(|l| memory::rule_label(shared, &l.name));
    let governing = governing
        .into_iter()
        .map(|index| (&limits[index], rules.labels[index]))
        .chain(resolved.run_limit.as_ref().zip(run_label));
    let mut by_tables = Vec::new();
    for (limit, label) in governing {
        let counter = || Counter::of(limit, limits, d, &resolved.account, at);
        let window = kept_window(limit, at, zone(limit, &resolved.account));
        let key = Key::new(shared, installation, (limit, label), d, window);
        let is_of_run = resolved.run_limit.as_ref().is_some_and(|of| std::ptr::eq(of, limit));
        if is_of_run && resolved.caps_run && !transaction::is_locked(key.hash) {
            if !reads {
                return Err(Undecided::NotKept);
            }
            // Rows of a run without a cap are told to no counter: there must be none before the cap is
            // committed, and the transaction that fixes it decides by the tables.
            lock::acquire(&counter().own_lock_key());
            transaction::keep_locked(installation, key.hash);
        }
        let of_tables = if matches!(limit.period, Period::Rolling(_)) {
            true
        } else if transaction::is_locked(key.hash) {
            true
        } else if reads && !memory::is_present(installation, &key) {
            let loaded =
                as_owner(|spi| load(spi, installation, epoch, (&key, &counter()), now, admits))?;
            match loaded {
                Loaded::Present(_) => false,
                Loaded::NoRoom => true,
                Loaded::Stale => return Ok(None),
            }
        } else {
            false
        };
        if of_tables {
            if !reads {
                return Err(Undecided::NotKept);
            }
            by_tables.push((asked.rules.len(), counter()));
            let nothing = Reading { used: Amount::ZERO, held: Amount::ZERO, resets_at: None };
            asked.rules.push((limit, window, Source::Tables(nothing)));
            continue;
        }
        let replaced = question.replaces.filter(|hold| hold.is_open);
        asked.rules.push((limit, window, Source::Memory(asked.demands.len())));
        asked.keys.push(key);
        asked.demands.push(Demand {
            key,
            cap: (limit.action == ai_limiter_domain::Action::Deny).then_some(limit.amount),
            increment: limit.increment(&resolved.estimate.size),
            replaces: replaced.and_then(|hold| limit.increment(&hold.size)).unwrap_or_default(),
        });
        if question.created_at.is_none() {
            asked.window = asked.window.intersection(window);
        }
    }
    if !by_tables.is_empty() {
        read_by_tables(by_tables, &mut asked, question, now)?;
    }
    Ok(Some(asked))
}

/// Asks the tables, under the locks of these counters where a hold is about to be written.
fn read_by_tables(
    counters: Vec<(usize, Counter)>,
    asked: &mut Asked,
    question: &Question,
    now: Timestamp,
) -> Result<()> {
    if question.locking == Locking::Admission {
        lock::acquire_all(counters.iter().map(|(_, counter)| counter.own_lock_key()).collect());
    }
    let without = question.replaces.map(|hold| hold.id);
    let (numbers, counters): (Vec<usize>, Vec<Counter>) = counters.into_iter().unzip();
    let readings =
        as_owner(|spi| counters::table::read(spi, &Snapshot::latest(), &counters, now, without))?;
    for (number, reading) in numbers.into_iter().zip(readings) {
        asked.rules[number].2 = Source::Tables(reading);
    }
    Ok(())
}
