//! Counters in shared memory: what each says is there before anybody asks, and all backends see it at
//! once.
//!
//! A counter is a cache of the sum of its ledger rows and open holds. It is there, or it is absent and
//! [`load`]ed from the tables; a transaction that adds to one pins it until its end. So, as long as
//! every writer *touches* (finds or loads, and pins) each counter that its rows count in before it
//! commits, **an absent counter has no uncommitted rows**, and a sum of what is committed is the whole of it.
//! Two kinds of writers do not touch, and are kept apart otherwise: one that found the table full
//! keeps the counter's heavyweight lock, behind which a loader queues; one in bulk mode has all
//! counters removed when it commits ([`transaction`]).
//!
//! Rolling limits are not here: they always take the table path.

mod installation;
mod key;
pub mod load;
mod shared;
pub mod statistics;
pub mod transaction;

use crate::pg::stamp;
use ai_limiter_domain::counters::Sums;
use ai_limiter_domain::error::Result;
use ai_limiter_domain::verdict::exceeds;
use ai_limiter_domain::{Amount, Timestamp, Window};
pub use installation::{Config, Installation, current, note_sweep};
pub use key::{Key, Label, account_label, label_of, rule_label};
pub use shared::{GENERATIONS, SEGMENT, Shared, get as shared_memory};
use transaction::{level, with_pending};

/// What a call asks of one counter.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    pub key: Key,
    /// What a limit that denies allows; `None` for one that only warns.
    pub cap: Option<Amount>,
    /// What the call is, `None` when it does not say.
    pub increment: Option<Amount>,
    /// What it replaces: the size of the hold that is extended.
    pub replaces: Amount,
}

impl Demand {
    fn adds(&self) -> Sums {
        let increment = self.increment.unwrap_or_default();
        Sums { used: 0, held: increment.pico() - self.replaces.pico() }
    }

    fn is_exceeded(&self, before: Sums) -> bool {
        let Some(cap) = self.cap else { return false };
        let held = before.held.wrapping_sub(self.replaces.pico());
        exceeds(cap, Amount::from_pico(before.used), Amount::from_pico(held), self.increment)
    }
}

/// How an attempt to admit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All were added to, at this moment.
    Admitted(Timestamp),
    /// At least one had no room; none was added to.
    Denied,
    /// At least one is absent.
    Absent,
    /// The clock has left the windows.
    Turned,
}

/// Tells the counters of this transaction nothing more, where there are any: see [`transaction`].
pub fn begin_bulk() -> Result<()> {
    if let Some(installation) = current()? {
        transaction::begin_bulk(installation);
    }
    Ok(())
}

/// Reads counters, all at one moment and as this transaction sees them; false when one is absent.
pub fn read<'a>(
    installation: &'static Installation,
    mut keys: impl ExactSizeIterator<Item = &'a Key>,
    sums: &mut Vec<Sums>,
) -> bool {
    sums.clear();
    sums.reserve(keys.len());
    with_pending(installation, |pending| {
        shared::shared(|view| {
            keys.all(|key| {
                let found = view.find(key.hash);
                sums.extend(found.map(|at| pending.seen(key.hash, view.sums(at))));
                found.is_some()
            })
        })
    })
    .unwrap_or(false)
}

/// Whether a counter is there.
pub fn is_present(installation: &'static Installation, key: &Key) -> bool {
    read(installation, [key].into_iter(), &mut Vec::new())
}

/// Removes a counter that nobody has told of everything: it is loaded anew.
pub fn forget(key: &Key) {
    shared::exclusive(|inside| inside.table.forget(key.hash));
}

/// Admits a call to all of its counters or to none, and says in `sums` what they said before.
/// `window` is what their keys were computed for. The transaction has its number already, so that whoever
/// sees its stamp can wait for it.
pub fn admit(
    installation: &'static Installation,
    demands: &[Demand],
    window: Window,
    enforced: bool,
    sums: &mut Vec<Sums>,
) -> Outcome {
    let level = level();
    sums.clear();
    sums.reserve(demands.len());
    let mut places = Vec::with_capacity(demands.len());
    with_pending(installation, |pending| {
        pending.reserve(demands.len());
        shared::exclusive(|inside| {
            let stamp = stamp::next();
            if !window.contains(stamp) {
                return Outcome::Turned;
            }
            for demand in demands {
                let Some(at) = inside.table.find(demand.key.hash) else { return Outcome::Absent };
                places.push(at);
                sums.push(pending.seen(demand.key.hash, inside.table.sums(at)));
            }
            let exceeded = |(demand, before): (&Demand, &Sums)| demand.is_exceeded(*before);
            if enforced && demands.iter().zip(&*sums).any(exceeded) {
                return Outcome::Denied;
            }
            for (demand, at) in demands.iter().zip(&places) {
                let hash = demand.key.hash;
                pending.touch(hash, *at, level, &mut inside.table);
                pending.add(hash, demand.adds(), level, &mut inside.table);
            }
            Outcome::Admitted(stamp)
        })
    })
    .unwrap_or(Outcome::Absent)
}

/// Adds to counters, whatever they allow; false, and nothing is added, when one is absent.
pub fn add(installation: &'static Installation, changes: &[(Key, Sums)]) -> bool {
    let level = level();
    let mut places = Vec::with_capacity(changes.len());
    with_pending(installation, |pending| {
        pending.reserve(changes.len());
        shared::exclusive(|inside| {
            for (key, _) in changes {
                let Some(at) = inside.table.find(key.hash) else { return false };
                places.push(at);
            }
            for ((key, sums), at) in changes.iter().zip(&places) {
                pending.touch(key.hash, *at, level, &mut inside.table);
                pending.add(key.hash, *sums, level, &mut inside.table);
            }
            true
        })
    })
    .unwrap_or(false)
}

/// How many counters there are, how many fit, and how many had to go.
pub fn occupancy() -> Option<(u32, usize, u64)> {
    let memory = shared_memory()?;
    shared::exclusive(|inside| (inside.table.len(), memory.capacity(), inside.table.evictions()))
}
