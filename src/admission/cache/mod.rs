//! What each backend keeps of the configuration: rules, accounts, prices, suspensions, caps of runs.
//!
//! Only committed rows are kept, each with the *generation* that stood in shared memory before the
//! snapshot that read it; it is used while that generation stands. Who commits a change raises the
//! generation when the change is visible ([`counters::memory::transaction`]), so that from the moment
//! its COMMIT returns nobody uses what was before. A transaction that has itself changed a table reads
//! that table at each call and keeps nothing of it.
//!
//! What calls have returned is another matter: it changes by itself all the time, and nobody waits for it.
//! It is used for [`LEARNED_FOR`].
//!
//! Lives in thread-local cells, to the end of the backend. Each map is emptied when it has
//! [`MOST`] entries: 16,384 accounts are 4 MB. Of accounts, of which there are too many for each
//! session to meet, the rows are shared as well: [`accounts`].
//!
//! [`counters::memory::transaction`]: crate::counters::memory::transaction

pub mod accounts;

use super::configuration::{Configuration, Decided, Tables, Undecided};
use crate::counters::memory::transaction::{Change, has_changed};
use crate::counters::memory::{
    self, Config, GENERATIONS, Installation, Label, Shared, account_label, rule_label,
    shared_memory,
};
use crate::ledger::config::{self, Account, AccountRow, Suspension, Suspensions, Tier};
use crate::ledger::estimates;
use crate::ledger::prices::{self, Prices};
use crate::pg::clock;
use crate::pg::owner::as_owner;
use crate::pg::spi::{Snapshot, Spi};
use crate::settings;
use accounts::Place;
use ai_limiter_domain::error::Result;
use ai_limiter_domain::estimates::output::Learned;
use ai_limiter_domain::limit::RUN_LIMIT_NAME;
use ai_limiter_domain::slots::Version;
use ai_limiter_domain::{Amount, Call, Dimensions, Limit, RuleSet, Timestamp, Window};
use foldhash::HashMap;
use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const MOST: usize = 16_384;
/// Microseconds after which what was learned is read anew.
const LEARNED_FOR: i64 = 30_000_000;

/// The rules, and the labels of their names.
pub struct Rules {
    set: RuleSet,
    labels: Vec<Label>,
    /// Of the caps of single runs, which are no rows.
    run_label: Label,
}

impl Rules {
    /// The enabled rows.
    pub fn limits(&self) -> &[Limit] {
        self.set.limits()
    }

    /// What applies to the call and counts it, with the labels of their names: rules, and the run's cap
    /// if it has one.
    pub fn governing<'a>(
        &'a self,
        call: &Dimensions,
        run_limit: Option<&'a Limit>,
    ) -> impl Iterator<Item = (&'a Limit, Label)> {
        let rules = self.set.governing(call).into_iter();
        rules
            .map(|index| (&self.limits()[index], self.labels[index]))
            .chain(run_limit.map(|limit| (limit, self.run_label)))
    }
}

/// Something with what it was read under.
struct Kept<G, T> {
    under: G,
    value: T,
}

/// Generations of the account, its tenant, the default zone's tenant and the tiers.
type OfAccount = (Version, Option<CString>);
/// Tenant, provider, the model as given and its canonical name.
type OfPrice = (Uuid, Option<String>, Option<String>, Option<String>);

/// The canonical model and the feature.
type OfLearned = (String, Option<String>);

#[derive(Default)]
struct Cells {
    installation: u64,
    rules: Option<Kept<u64, Rc<Rules>>>,
    accounts: HashMap<(Uuid, Option<Uuid>), Kept<OfAccount, Rc<Account>>>,
    tiers: HashMap<String, Kept<u64, Option<Rc<Tier>>>>,
    suspensions: Option<Kept<u64, Rc<Suspensions>>>,
    prices: HashMap<OfPrice, Kept<u64, (Window, Rc<Prices>)>>,
    run_limits: HashMap<(Uuid, String), Kept<[u64; 2], Option<Amount>>>,
    /// Under the stretch of time and the quantile.
    learned: HashMap<OfLearned, Kept<(i64, u64), Option<Learned>>>,
}

thread_local! {
    static CELLS: RefCell<Cells> = RefCell::default();
}

/// The configuration of this installation, as far as it is kept.
pub struct Cache {
    memory: &'static Shared,
    installation: &'static Installation,
    /// Whether what is not kept may be read now.
    reads: bool,
}

/// Where the generation of an account, or with the nil user of a tenant, stands.
pub fn account_slot(memory: &Shared, tenant: Uuid, user: Uuid) -> usize {
    account_label(memory, tenant, user) as usize >> 1 & (GENERATIONS - 1)
}

/// Where the generations of a tenant and of the default stand: those that were asked for last are kept,
/// since each takes two hashes.
fn tenant_slots(memory: &Shared, tenant: Uuid) -> [usize; 2] {
    thread_local! {
        static LAST: Cell<Option<(Uuid, [usize; 2])>> = const { Cell::new(None) };
    }
    if let Some((_, slots)) = LAST.get().filter(|(last, _)| *last == tenant) {
        return slots;
    }
    let slots = [tenant, Uuid::nil()].map(|of| account_slot(memory, of, Uuid::nil()));
    LAST.set(Some((tenant, slots)));
    slots
}

/// Where the generation of a run stands.
pub fn run_slot(memory: &Shared, tenant: Uuid, run: &str) -> usize {
    let mixed = rule_label(memory, run) ^ account_label(memory, tenant, Uuid::nil());
    mixed as usize >> 1 & (GENERATIONS - 1)
}

impl Cache {
    /// `None` where there is no shared memory to say what still stands.
    pub fn new(installation: &'static Installation, reads: bool) -> Option<Self> {
        let memory = shared_memory()?;
        CELLS.with_borrow_mut(|cells| {
            if cells.installation != installation.id() {
                *cells = Cells { installation: installation.id(), ..Cells::default() };
            }
        });
        Some(Self { memory, installation, reads })
    }

    fn slot(&self, slot: usize) -> u64 {
        self.memory.generations[slot].load(Ordering::Acquire)
    }

    /// What is kept under `under`.
    fn kept<G: PartialEq, T: Clone>(
        &self,
        under: Option<&G>,
        find: impl FnOnce(&Cells) -> Option<&Kept<G, T>>,
    ) -> Option<T> {
        CELLS.with_borrow(|cells| {
            let kept = find(cells).filter(|kept| Some(&kept.under) == under)?;
            Some(kept.value.clone())
        })
    }

    /// Reads from the tables, if it may.
    fn read<T>(&self, read: impl FnOnce(&Spi, &Snapshot) -> Result<T>) -> Decided<T> {
        if !self.reads {
            return Err(Undecided::NotKept);
        }
        Ok(as_owner(|spi| read(spi, &Snapshot::latest()))?)
    }

    /// What is kept under `under`, else what is read, which is kept from then on. Without `under` this
    /// transaction has changed what is asked for: it reads, and keeps nothing.
    fn kept_or_read<G: PartialEq, T: Clone>(
        &self,
        under: Option<G>,
        find: impl FnOnce(&Cells) -> Option<&Kept<G, T>>,
        read: impl FnOnce(&Spi, &Snapshot) -> Result<T>,
        keep: impl FnOnce(&mut Cells, Kept<G, T>),
    ) -> Decided<T> {
        if let Some(kept) = self.kept(under.as_ref(), find) {
            return Ok(kept);
        }
        let value = self.read(read)?;
        if let Some(under) = under {
            let kept = Kept { under, value: value.clone() };
            CELLS.with_borrow_mut(|cells| keep(cells, kept));
        }
        Ok(value)
    }

    /// Under what the rows of a table stand; `None` when this transaction has changed any of them.
    fn of_config(&self, config: Config) -> Option<u64> {
        (!has_changed(Change::Config(config))).then(|| self.installation.generation(config))
    }

    pub fn rules(&self) -> Decided<Rc<Rules>> {
        self.kept_or_read(
            self.of_config(Config::Rules),
            |cells| cells.rules.as_ref(),
            |spi, snapshot| {
                let limits = config::limits(spi, snapshot)?;
                let label = |limit: &Limit| rule_label(self.memory, &limit.name);
                Ok(Rc::new(Rules {
                    labels: limits.iter().map(label).collect(),
                    set: RuleSet::new(limits),
                    run_label: rule_label(self.memory, RUN_LIMIT_NAME),
                }))
            },
            |cells, kept| cells.rules = Some(kept),
        )
    }

    fn suspensions(&self) -> Decided<Rc<Suspensions>> {
        self.kept_or_read(
            self.of_config(Config::Suspensions),
            |cells| cells.suspensions.as_ref(),
            |spi, snapshot| Ok(Rc::new(config::suspensions(spi, snapshot)?)),
            |cells, kept| cells.suspensions = Some(kept),
        )
    }

    /// Under what an account stands; `None` when this transaction has changed any of it.
    fn of_account(&self, tenant: Uuid, user: Option<Uuid>) -> Option<OfAccount> {
        let account = account_slot(self.memory, tenant, user.unwrap_or_default());
        let [of_tenant, of_default] = tenant_slots(self.memory, tenant);
        let slots = [account, of_tenant, of_default];
        let tiers = self.of_config(Config::Tiers)?;
        if slots.iter().any(|slot| has_changed(Change::Generation(*slot))) {
            return None;
        }
        let [account, of_tenant, of_default] = slots.map(|slot| self.slot(slot));
        Some(([account, of_tenant, of_default, tiers], settings::DEFAULT_TIER.get()))
    }

    /// The rows of an account, from what all share or from the tables. Without `under`
    /// this transaction has changed one of them.
    fn account_row(
        &self,
        tenant: Uuid,
        user: Option<Uuid>,
        under: Option<&Version>,
    ) -> Decided<AccountRow> {
        let read =
            |spi: &Spi, snapshot: &Snapshot| config::account_row(spi, snapshot, tenant, user);
        let Some(under) = under else { return self.read(read) };
        let label = account_label(self.memory, tenant, user.unwrap_or_default());
        let place = Place { installation: self.installation.id(), tenant, user, label };
        if let Some(row) = accounts::find(&place, under) {
            return Ok(row);
        }
        let row = self.read(read)?;
        accounts::keep(&place, under, &row);
        Ok(row)
    }

    fn tier(&self, name: &str) -> Decided<Option<Rc<Tier>>> {
        self.kept_or_read(
            self.of_config(Config::Tiers),
            |cells| cells.tiers.get(name),
            |spi, snapshot| Ok(config::tier(spi, snapshot, name)?.map(Rc::new)),
            |cells, kept| {
                bounded(&mut cells.tiers).insert(name.to_owned(), kept);
            },
        )
    }
}

/// Reads the configuration as it is now: from what is kept, where that can be told to stand, else from
/// the tables.
pub fn current<T>(read: impl FnOnce(&dyn Configuration) -> Decided<T>) -> Result<T> {
    match memory::current()?.and_then(|installation| Cache::new(installation, true)) {
        Some(cache) => Ok(read(&cache)?),
        None => as_owner(|spi| Ok(read(&Tables { spi, snapshot: &Snapshot::latest() })?)),
    }
}

/// Empties a map that has grown too far, so that a backend's memory has a bound.
fn bounded<K, V>(map: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if map.len() >= MOST {
        map.clear();
    }
    map
}

impl Configuration for Cache {
    fn account(&self, tenant: Uuid, user: Option<Uuid>) -> Decided<Rc<Account>> {
        let under = self.of_account(tenant, user);
        let kept = self.kept(under.as_ref(), |cells| cells.accounts.get(&(tenant, user)));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let row = self.account_row(tenant, user, under.as_ref().map(|(version, _)| version))?;
        let account = Rc::new(Account::of(row, |name| self.tier(name))?);
        if let Some(under) = under {
            let kept = Kept { under, value: Rc::clone(&account) };
            CELLS.with_borrow_mut(|cells| {
                bounded(&mut cells.accounts).insert((tenant, user), kept);
            });
        }
        Ok(account)
    }

    fn suspension(&self, call: &Dimensions) -> Decided<Option<Suspension>> {
        let suspensions = self.suspensions()?;
        Ok(if suspensions.is_empty() {
            None
        } else {
            config::longest_suspension(&suspensions, call, clock::now())
        })
    }

    fn prices(&self, call: &Call, at: Timestamp) -> Decided<Rc<Prices>> {
        let d = &call.dimensions;
        let key = (d.tenant_id, d.provider.clone(), call.requested_model.clone(), d.model.clone());
        let (_, prices) = self.kept_or_read(
            self.of_config(Config::Prices),
            |cells| cells.prices.get(&key).filter(|kept| kept.value.0.contains(at)),
            |spi, snapshot| {
                let prices = prices::read(spi, snapshot, call, at)?;
                Ok((prices::stands(spi, snapshot, call, at)?, Rc::new(prices)))
            },
            |cells, kept| {
                bounded(&mut cells.prices).insert(key.clone(), kept);
            },
        )?;
        Ok(prices)
    }

    fn learned(&self, model: &str, feature: Option<&str>) -> Decided<Option<Learned>> {
        let key = (model.to_owned(), feature.map(str::to_owned));
        let under = (clock::now().0 / LEARNED_FOR, settings::OUTPUT_QUANTILE.get().to_bits());
        self.kept_or_read(
            Some(under),
            |cells| cells.learned.get(&key),
            |spi, snapshot| estimates::learned(spi, snapshot, model, feature),
            |cells, kept| {
                bounded(&mut cells.learned).insert(key.clone(), kept);
            },
        )
    }

    fn run_limit(&self, tenant: Uuid, run: &str) -> Decided<Option<Amount>> {
        let slot = run_slot(self.memory, tenant, run);
        let key = (tenant, run.to_owned());
        self.kept_or_read(
            self.of_config(Config::Tiers)
                .filter(|_| !has_changed(Change::Generation(slot)))
                .map(|tiers| [self.slot(slot), tiers]),
            |cells| cells.run_limits.get(&key),
            |spi, snapshot| config::run_limit(spi, snapshot, tenant, run),
            |cells, kept| {
                bounded(&mut cells.run_limits).insert(key.clone(), kept);
            },
        )
    }
}
