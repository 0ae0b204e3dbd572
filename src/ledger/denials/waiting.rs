//! Denials that wait in shared memory until the worker writes them: a call that was denied writes
//! nothing, and is not forgotten when its transaction rolls back.
//!
//! One region of [`PLACES`] records, guarded by [`Lock::Denials`], each for one minute, subject and reason.
//! Writing takes two steps: [`take`] copies what is there, and [`written`] takes it off when the rows
//! are committed; what came meanwhile stays. One process writes at a time, under a heavyweight lock. What
//! waits is lost when the server crashes. Where there is no place left, or a text is too long for one,
//! the caller writes the row itself.

use super::Denial;
use crate::pg::shmem::{Lock, Region, Segment};
use ai_limiter_domain::{Amount, Timestamp};
use std::cell::RefCell;
use uuid::Uuid;

/// A second of denials of so many different subjects, in 1.6 MB.
const PLACES: usize = 2048;
/// Bytes of a name: 256 characters of ASCII.
const NAME: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Name {
    /// Bytes in use, and one; 0 is null.
    length: u16,
    bytes: [u8; NAME],
}

impl Name {
    fn new(text: Option<&str>) -> Option<Self> {
        let mut name = Self { length: 0, bytes: [0; NAME] };
        if let Some(text) = text {
            name.bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
            name.length = text.len() as u16 + 1;
        }
        Some(name)
    }

    fn text(&self) -> Option<String> {
        let length = usize::from(self.length).checked_sub(1)?;
        Some(String::from_utf8_lossy(&self.bytes[..length]).into_owned())
    }
}

/// What tells one record from another.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Subject {
    installation: u64,
    minute: i64,
    limit_id: Option<i64>,
    tenant_id: [u8; 16],
    user_id: Option<[u8; 16]>,
    reason: Name,
    limit_name: Name,
    model: Name,
    feature: Name,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Record {
    estimated_cost_usd: i128,
    denials: u64,
    /// Of these, so many are about to be committed as rows.
    taken: u64,
    taken_cost_usd: i128,
    subject: Subject,
}

#[repr(C)]
pub struct Records {
    /// Those in front are in use.
    used: usize,
    records: [Record; PLACES],
}

// SAFETY: used under `Lock::Denials` only; zero is an empty table.
static REGION: Region<Records> = unsafe { Region::zeroed(c"ai_limiter denials") };

pub static SEGMENT: &dyn Segment = &REGION;

fn with<R>(work: impl FnOnce(&mut Records) -> R) -> Option<R> {
    REGION.exclusive(Lock::Denials, work)
}

/// Counts a denial; false where the caller has to write it.
pub fn add(installation: u64, denial: &Denial) -> bool {
    let subject = || {
        Some(Subject {
            installation,
            minute: denial.minute.0,
            limit_id: denial.limit_id,
            tenant_id: denial.tenant_id.into_bytes(),
            user_id: denial.user_id.map(Uuid::into_bytes),
            reason: Name::new(Some(&denial.reason))?,
            limit_name: Name::new(denial.limit_name.as_deref())?,
            model: Name::new(denial.model.as_deref())?,
            feature: Name::new(denial.feature.as_deref())?,
        })
    };
    let Some(subject) = subject() else { return false };
    let cost = denial.estimated_cost_usd.pico();
    with(|all| {
        let used = all.used;
        if let Some(record) = all.records[..used].iter_mut().find(|r| r.subject == subject) {
            record.denials += 1;
            record.estimated_cost_usd = record.estimated_cost_usd.wrapping_add(cost);
            return true;
        }
        let Some(place) = all.records.get_mut(used) else { return false };
        *place =
            Record { estimated_cost_usd: cost, denials: 1, taken: 0, taken_cost_usd: 0, subject };
        all.used += 1;
        true
    })
    .unwrap_or(false)
}

thread_local! {
    /// Where [`take`] copies to: made before the lock is taken.
    static COPY: RefCell<Vec<Record>> = const { RefCell::new(Vec::new()) };
}

/// Copies what waits for the installation, and remembers how much that was.
pub fn take(installation: u64) -> Vec<Denial> {
    COPY.with_borrow_mut(|copy| {
        copy.clear();
        copy.reserve(PLACES);
        with(|all| {
            let used = all.used;
            for record in &mut all.records[..used] {
                if record.subject.installation == installation {
                    record.taken = record.denials;
                    record.taken_cost_usd = record.estimated_cost_usd;
                    copy.push(*record);
                }
            }
        });
        copy.drain(..).map(|record| denial(&record)).collect()
    })
}

/// What was taken is committed as rows, or is not and waits on.
pub fn written(installation: u64, committed: bool) {
    with(|all| {
        let mut place = 0;
        while place < all.used {
            let record = &mut all.records[place];
            if record.subject.installation == installation && record.taken > 0 {
                if committed {
                    record.denials -= record.taken;
                    record.estimated_cost_usd =
                        record.estimated_cost_usd.wrapping_sub(record.taken_cost_usd);
                }
                (record.taken, record.taken_cost_usd) = (0, 0);
                if record.denials == 0 {
                    all.used -= 1;
                    all.records[place] = all.records[all.used];
                    continue;
                }
            }
            place += 1;
        }
    });
}

fn denial(record: &Record) -> Denial {
    let subject = &record.subject;
    Denial {
        minute: Timestamp(subject.minute),
        limit_name: subject.limit_name.text(),
        limit_id: subject.limit_id,
        tenant_id: Uuid::from_bytes(subject.tenant_id),
        user_id: subject.user_id.map(Uuid::from_bytes),
        model: subject.model.text(),
        feature: subject.feature.text(),
        reason: subject.reason.text().unwrap_or_default().into(),
        denials: record.denials as i64,
        estimated_cost_usd: Amount::from_pico(record.estimated_cost_usd),
    }
}
