//! Telling the counters of what is written beside an admission: a settle, a release, a row of the
//! ledger, an expiry. Nothing is asked; what happened counts, whatever the limits say.

use super::cache::Cache;
use super::configuration::{Configuration, Decided};
use super::in_memory::holds_run;
use crate::counters::memory::load::{Loaded, load};
use crate::counters::memory::transaction;
use crate::counters::memory::{self, Installation, Key, shared_memory};
use crate::counters::{Counter, kept_window, zone};
use crate::pg::barrier;
use crate::pg::owner::as_owner;
use ai_limiter_domain::counters::Sums;
use ai_limiter_domain::limit::Size;
use ai_limiter_domain::{Dimensions, Limit, Metric, Period, Timestamp, error::Result};

/// A hold is gone, or no longer counts.
pub fn hold_ends(call: &Dimensions, created_at: Timestamp, size: &Size) -> Result<()> {
    adjust(call, created_at, |limit| {
        let held = limit.increment(size).unwrap_or_default().pico();
        Sums { used: 0, held: -held }
    })
}

/// A row of the ledger was written.
pub fn usage(call: &Dimensions, created_at: Timestamp, size: &Size) -> Result<()> {
    adjust(call, created_at, |limit| match limit.metric {
        Metric::Concurrent => Sums::ZERO,
        _ => Sums { used: limit.increment(size).unwrap_or_default().pico(), held: 0 },
    })
}

/// An open hold has become a row of the ledger, for the same call and the same instant.
pub fn hold_is_booked(
    call: &Dimensions,
    created_at: Timestamp,
    hold: &Size,
    booked: &Size,
) -> Result<()> {
    adjust(call, created_at, |limit| {
        let of = |size| limit.increment(size).unwrap_or_default().pico();
        Sums {
            used: if limit.metric == Metric::Concurrent { 0 } else { of(booked) },
            held: -of(hold),
        }
    })
}

fn adjust(call: &Dimensions, at: Timestamp, sums: impl Fn(&Limit) -> Sums) -> Result<()> {
    let Some(installation) = memory::current()? else { return Ok(()) };
    transaction::begin_bulk_if_large(installation);
    if transaction::is_untold() {
        transaction::begin_bulk(installation);
        return Ok(());
    }
    barrier::join()?;
    while !try_adjust(installation, call, at, &sums)? {
        pgrx::check_for_interrupts!();
    }
    Ok(())
}

/// False when it has to be done again: rules have changed meanwhile.
fn try_adjust(
    installation: &'static Installation,
    call: &Dimensions,
    at: Timestamp,
    sums: &impl Fn(&Limit) -> Sums,
) -> Decided<bool> {
    let epoch = installation.epoch();
    let (Some(cache), Some(shared)) = (Cache::new(installation, true), shared_memory()) else {
        return Ok(true);
    };
    let rules = cache.rules()?;
    let account = cache.account(call.tenant_id, call.user_id)?;
    let cap = match call.run_id.as_deref() {
        Some(run) => cache.run_limit(call.tenant_id, run)?,
        None => None,
    };
    if cap.is_none() && !holds_run(&cache, call, None)? {
        return Ok(false);
    }
    let run_limit = cap.map(|amount| Limit::of_run(call.tenant_id, amount));
    let governing = rules
        .governing(call, run_limit.as_ref())
        .filter(|(limit, _)| !matches!(limit.period, Period::Rolling(_)));
    let mut changes = Vec::new();
    for (limit, label) in governing {
        let change = sums(limit);
        if change == Sums::ZERO {
            continue;
        }
        let window = kept_window(limit, at, zone(limit, &account));
        let key = Key::new(shared, installation, (limit, label), call, window);
        if !transaction::is_locked(key.hash) {
            changes.push((key, change, limit));
        }
    }
    let told = |changes: &[(Key, Sums, &Limit)]| {
        let changes: Vec<_> = changes.iter().map(|(key, sums, _)| (*key, *sums)).collect();
        memory::add(installation, &changes)
    };
    if told(&changes) {
        return Ok(true);
    }
    let mut present = Vec::new();
    for (key, sums, limit) in changes {
        if !memory::is_present(installation, &key) {
            let counter = Counter::of(limit, rules.limits(), call, &account, at);
            let loaded = as_owner(|spi| load(spi, installation, epoch, (&key, &counter), true))?;
            match loaded {
                Loaded::Present => {}
                Loaded::NoRoom => continue,
                Loaded::Stale => return Ok(false),
            }
        }
        present.push((key, sums, limit));
    }
    Ok(told(&present))
}
