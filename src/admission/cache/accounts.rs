//! Rows of accounts that all backends share, so that a session that has met a user never has to have
//! been this one: a pool has many, and a read of the tables costs 30 µs where this costs one.
//!
//! Lives in shared memory, beside the counters, as [`slots`]: no lock, and any row may be gone at any
//! time. A row lies there under the generations of its account, its tenant, the default and the tiers, and is
//! found by the same alone: what makes it right is said in the module above. There are a quarter as
//! many slots as counters, since an account has about that many. A row of more than
//! [`RECORD_BYTES`](slots::RECORD_BYTES) is not kept.

use crate::ledger::config::AccountRow;
use crate::pg::shmem::{Region, Segment};
use crate::settings;
use ai_limiter_domain::slots::{self, Record, Slot, Version};
use uuid::Uuid;

#[repr(C, align(64))]
struct Accounts {
    count: u64,
}

// SAFETY: `size` is the struct and the slots behind it, by a setting that is fixed at the start;
// slots are atomics.
static REGION: Region<Accounts> = unsafe { Region::new(c"ai_limiter accounts", size, init) };

pub static SEGMENT: &dyn Segment = &REGION;

fn count() -> usize {
    slots::slots(settings::MAX_COUNTERS.get() as usize / 4)
}

fn size() -> usize {
    size_of::<Accounts>() + count() * size_of::<Slot>()
}

/// # Safety
/// `memory` is zeroed and of [`size`] bytes.
unsafe fn init(memory: *mut Accounts) {
    // SAFETY: as promised; nobody else has the address yet.
    unsafe { (*memory).count = count() as u64 };
}

fn all() -> Option<&'static [Slot]> {
    let memory = REGION.get()?;
    // SAFETY: mapped for the life of the process; the slots lie behind the struct, `size` counted them,
    // and zeroed memory is an empty slot.
    Some(unsafe { std::slice::from_raw_parts(memory.add(1).cast(), (*memory).count as usize) })
}

/// An account of an installation, and the label that it is found by.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub installation: u64,
    pub tenant: Uuid,
    pub user: Option<Uuid>,
    pub label: u64,
}

impl Place {
    fn key(&self) -> slots::Key {
        let (a, b) = self.tenant.as_u64_pair();
        let (c, d) = self.user.unwrap_or_default().as_u64_pair();
        [self.installation, a, b, u64::from(self.user.is_some()), c, d]
    }
}

pub fn find(place: &Place, under: &Version) -> Option<AccountRow> {
    let record = slots::find(all()?, place.label >> 1, &place.key(), under)?;
    let mut bytes = [0; slots::RECORD_BYTES];
    for (to, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(record) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    postcard::from_bytes(&bytes).ok()
}

pub fn keep(place: &Place, under: &Version, row: &AccountRow) {
    let mut bytes = [0; slots::RECORD_BYTES];
    let (Some(all), Ok(_)) = (all(), postcard::to_slice(row, &mut bytes)) else { return };
    let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[i * 8 + byte]));
    let record: Record = std::array::from_fn(word);
    slots::keep(all, place.label >> 1, &place.key(), under, &record);
}
