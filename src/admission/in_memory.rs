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
    Assessed, Locking, Question, Resolved, by_tables, judge_by_tables, or_degraded, resolve,
    verdict_of,
};
use super::cache::{Cache, Rules};
use super::configuration::{Configuration, Decided, Undecided};
use super::expiry;
use crate::counters::memory::load::{Loaded, load};
use crate::counters::memory::transaction;
use crate::counters::memory::{self, Demand, Installation, Key, Outcome, shared_memory};
use crate::counters::{self, Counter, Reading, kept_window, zone};
use crate::pg::lock::{self, Class};
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::{barrier, stamp};
use crate::settings;
use ai_limiter_domain::counters::Sums;
use ai_limiter_domain::limit::RUN_LIMIT_ID;
use ai_limiter_domain::verdict::{Mode, Verdict};
use ai_limiter_domain::{
    Amount, Call, Dimensions, Limit, Period, Timestamp, Window, error::Result,
};
use pgrx::pg_sys;
use uuid::Uuid;

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
        transaction::begin_bulk_if_large(installation);
    }
    if !admits && settings::COUNTER_SOURCE.get() == settings::Source::Tables {
        return by_tables(call, question);
    }
    if transaction::is_untold() {
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
    or_degraded(call, question, |call| Ok(decide(installation, call, question, true)?))
}

/// Judges by the tables, with all other writers kept out where a hold is about to be written.
fn alone(
    installation: &'static Installation,
    call: &mut Call,
    question: &Question,
) -> Result<Assessed> {
    // Within the subtransaction: who is told no lets the others in again.
    or_degraded(call, question, |call| {
        if question.locking == Locking::Admission {
            barrier::exclude_writers(
                "reserve in a transaction that changed limits or loaded usage",
            )?;
            transaction::begin_bulk(installation);
        }
        as_owner(|spi| judge_by_tables(spi, call, question, false))
    })
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
    /// When their keys are right.
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

/// How often a check finds a counter gone again that it has just loaded, before it asks the tables.
const MOST_ABSENCES: u32 = 2;

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
    // Whether a limit is so nearly used up that the call is held for the most it may cost.
    let mut is_last_part = false;
    let mut absences = 0;
    let mut waited = Waited::default();
    // Whatever this waits for, it starts over afterwards: an amount or a suspension that was written
    // meanwhile counts. What was waited for stays, so that this ends.
    loop {
        if reads {
            pgrx::check_for_interrupts!();
        }
        let epoch = installation.epoch();
        let rules = cache.rules()?;
        let now = stamp::now();
        let mut resolved = resolve(&cache, call, question, tier.clone(), now)?;
        if is_last_part {
            resolved.estimate = resolved.estimate.at_most();
        }
        if let Some(verdict) = &resolved.verdict
            && (!admits || !verdict.allowed)
        {
            let verdict = verdict.clone();
            return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
        }
        let has_cap = resolved.run_limit.is_some() && !resolved.is_new_run_limit;
        if admits && !has_cap && call.dimensions.run_id.is_some() {
            if !reads {
                return Err(Undecided::NotKept);
            }
            let is_held = holds_run(&cache, &call.dimensions, question.run_limit_usd)?;
            if !is_held || !std::mem::replace(&mut waited.for_run, true) {
                continue;
            }
        }
        // What is due leaves the run before that is summed: afterwards nothing may leave it that its
        // counter is not told of.
        let fixes_cap = admits && resolved.is_new_run_limit;
        let may_expire = fixes_cap && !std::mem::replace(&mut has_expired, true);
        if may_expire
            && transaction::may_expire(installation, now)
            && !expiry::is_swept(installation, now)
        {
            expiry::expire_due(installation, question.replaces.map(|hold| hold.id))?;
            continue;
        }
        let reading = reads.then_some(&mut waited);
        let asked = ask(installation, &rules, &resolved, call, question, (epoch, now), reading)?;
        let Some(asked) = asked else { continue };
        if !memory::read(installation, asked.demands.iter().map(|d| &d.key), &mut sums) {
            if !reads {
                return Err(Undecided::NotKept);
            }
            // Who only asks has pinned nothing: what one counter's load evicted may be another of its own.
            absences += 1;
            if !admits && absences > MOST_ABSENCES {
                return Ok(as_owner(|spi| judge_by_tables(spi, call, question, false))?);
            }
            continue;
        }
        let is_decided = resolved.verdict.is_some();
        if !is_decided && resolved.estimate.is_too_little(asked.readings(&sums))? {
            is_last_part = true;
            continue;
        }
        let mut verdict = verdict_of(&resolved, question, call, asked.readings(&sums))?;
        let denied = |verdict: &Verdict| !verdict.allowed && resolved.verdict.is_none();
        // Without a worker nobody else takes out what has expired.
        if !has_expired
            && (!admits || denied(&verdict))
            && transaction::may_expire(installation, now)
            && !expiry::is_swept(installation, now)
        {
            if !reads {
                return Err(Undecided::NotKept);
            }
            if !admits && expiry::is_due(installation, now)? {
                return Ok(as_owner(|spi| judge_by_tables(spi, call, question, false))?);
            }
            if admits {
                expiry::expire_due(installation, question.replaces.map(|hold| hold.id))?;
            }
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
            // Others have used up the limit meanwhile, or all but its last part.
            Outcome::Denied if !is_last_part => is_last_part = true,
            Outcome::Denied => {
                verdict = verdict_of(&resolved, question, call, asked.readings(&sums))?;
                return Ok(Assessed { verdict, estimate: Some(resolved.estimate), now });
            }
            Outcome::Absent if !reads => return Err(Undecided::NotKept),
            Outcome::Absent | Outcome::Turned => {}
        }
    }
}

/// Makes sure that no other call gives this run, which has no cap of its own, one meanwhile. False where
/// it has got one while this waited.
pub fn holds_run(cache: &Cache, call: &Dimensions, proposed: Option<Amount>) -> Decided<bool> {
    let Some(run) = call.run_id.as_deref() else { return Ok(true) };
    let key = run_lock(call.tenant_id, run);
    match proposed {
        Some(_) => lock::acquire(&key),
        None => lock::acquire_shared(&key),
    }
    Ok(cache.run_limit(call.tenant_id, run)?.is_none())
}

fn run_lock(tenant: Uuid, run: &str) -> lock::Key {
    lock::Key::new(Class::Run, &format!("{tenant}/{run}"))
}

/// Whether this transaction has written for the run while that had no cap: then it shares its lock.
fn has_written_for_run(call: &Dimensions) -> bool {
    let run = call.run_id.as_deref();
    run.is_some_and(|run| lock::is_shared_by_me(&run_lock(call.tenant_id, run)))
}

/// What one decision has waited for.
#[derive(Default)]
struct Waited {
    for_run: bool,
    /// The locks of the counters that are read from the tables.
    locks: Vec<lock::Key>,
}

/// Makes the keys of a call's counters, and with `reading` makes sure that each is present or is read
/// from the tables; `None` when rules may have changed meanwhile.
fn ask<'a>(
    installation: &'static Installation,
    rules: &'a Rules,
    resolved: &'a Resolved,
    call: &Call,
    question: &Question,
    (epoch, now): (u64, Timestamp),
    reading: Option<&mut Waited>,
) -> Decided<Option<Asked<'a>>> {
    let Some(shared) = shared_memory() else { return Err(Undecided::NotKept) };
    let admits = question.locking == Locking::Admission;
    let d = &call.dimensions;
    let at = question.created_at.unwrap_or(now);
    let account = memory::label_of(shared, d);
    let governing = rules.governing(d, resolved.run_limit.as_deref());
    let (most, _) = governing.size_hint();
    let mut asked = Asked {
        rules: Vec::with_capacity(most),
        demands: Vec::with_capacity(most),
        window: Window::ALL_TIME,
    };
    let mut by_tables = Vec::new();
    let mut has_waited = false;
    for (limit, label) in governing {
        let is_new = resolved.is_new_run_limit && limit.id == RUN_LIMIT_ID;
        let counter = || Counter::of(limit, rules.limits(), d, &resolved.account, at);
        let window = kept_window(limit, at, zone(limit, &resolved.account));
        let key = Key::new(shared, installation, (limit, label), (d, account), window);
        if question.created_at.is_none() {
            asked.window = asked.window.intersection(window);
        }
        // What a run did before it had a cap was told to no counter, and nobody asks one until the cap
        // is there. So who gives it one loads its counter, whatever an attempt that was undone has left.
        // What this transaction itself did before would be left out: then it sums, and keeps the
        // counter to itself until others see the cap.
        let is_told = || transaction::is_locked(key.hash) || transaction::is_pinned(key.hash);
        if is_new && admits && reading.is_some() && !is_told() {
            memory::forget(&key);
            if has_written_for_run(d) {
                transaction::keep_locked(installation, key.hash);
            }
        }
        let of_tables = if matches!(limit.period, Period::Rolling(_))
            || (is_new && !admits)
            || transaction::is_locked(key.hash)
        {
            true
        } else if reading.is_some() && !memory::is_present(installation, &key) {
            let loaded =
                as_owner(|spi| load(spi, installation, epoch, (&key, &counter()), admits))?;
            has_waited = admits;
            match loaded {
                Loaded::Present => false,
                Loaded::NoRoom => true,
                Loaded::Stale => return Ok(None),
            }
        } else {
            false
        };
        if of_tables {
            by_tables.push((asked.rules.len(), counter()));
            let nothing = Reading { used: Amount::ZERO, held: Amount::ZERO, resets_at: None };
            asked.rules.push((limit, window, Source::Tables(nothing)));
            continue;
        }
        let replaced = question.replaces.filter(|hold| hold.is_open);
        asked.rules.push((limit, window, Source::Memory(asked.demands.len())));
        asked.demands.push(Demand {
            key,
            cap: (limit.action == ai_limiter_domain::Action::Deny)
                .then(|| resolved.estimate.cap(limit)),
            increment: limit.increment(&resolved.estimate.size),
            replaces: replaced.and_then(|hold| limit.increment(&hold.size)).unwrap_or_default(),
        });
    }
    if !by_tables.is_empty() {
        let Some(waited) = reading else { return Err(Undecided::NotKept) };
        let keys = by_tables.iter().map(|(_, counter)| counter.own_lock_key());
        let new: Vec<_> = keys.filter(|key| !waited.locks.contains(key)).collect();
        if admits && !new.is_empty() {
            waited.locks.extend_from_slice(&new);
            lock::acquire_all(new);
            has_waited = true;
        }
        if !has_waited {
            read_by_tables(by_tables, &mut asked, question, now)?;
        }
    }
    Ok((!has_waited).then_some(asked))
}

/// Asks the tables; where a hold is about to be written, under the locks of these counters.
fn read_by_tables(
    counters: Vec<(usize, Counter)>,
    asked: &mut Asked,
    question: &Question,
    now: Timestamp,
) -> Result<()> {
    lock::keep_months();
    let without = question.replaces.map(|hold| hold.id);
    let (numbers, counters): (Vec<usize>, Vec<Counter>) = counters.into_iter().unzip();
    let readings =
        as_owner(|spi| counters::table::read(spi, &Snapshot::latest(), &counters, now, without))?;
    for (number, reading) in numbers.into_iter().zip(readings) {
        asked.rules[number].2 = Source::Tables(reading);
    }
    Ok(())
}
