//! Ids that carry their instant: version 7 uuids (RFC 9562) of a row's `created_at`, so that a
//! look-up by id reads one partition.

use ai_limiter_domain::{Timestamp, Window};
use siphasher::sip128::SipHasher13;
use uuid::{Builder, NoContext, Uuid};

/// 1970-01-01 in Postgres's microseconds.
const UNIX_EPOCH_MICROSECONDS: i64 = -946_684_800_000_000;

pub fn at(created_at: Timestamp) -> Uuid {
    let unix = created_at.0 - UNIX_EPOCH_MICROSECONDS;
    let (seconds, micros) = (unix.div_euclid(1_000_000), unix.rem_euclid(1_000_000));
    let stamp = uuid::Timestamp::from_unix(NoContext, seconds.max(0) as u64, micros as u32 * 1_000);
    Uuid::new_v7(stamp)
}

/// The id that something which happened elsewhere has here, always the same: `of` says what it is.
pub fn derived(created_at: Timestamp, of: &str) -> Uuid {
    // A hash with fixed keys: every build gives the same ids.
    let hash = SipHasher13::new().hash(of.as_bytes()).as_u128();
    let millis = (created_at.0 - UNIX_EPOCH_MICROSECONDS).div_euclid(1_000).max(0) as u64;
    let mut random = [0; 10];
    random.copy_from_slice(&hash.to_le_bytes()[..10]);
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// The millisecond that the id was made in; `None` for an id that is not of this kind.
pub fn instant(id: Uuid) -> Option<Window> {
    let (seconds, nanos) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    let millis = i64::try_from(seconds).ok()?.checked_mul(1_000)? + i64::from(nanos / 1_000_000);
    let start = millis.checked_mul(1_000)?.checked_add(UNIX_EPOCH_MICROSECONDS)?;
    Some(Window { start: Some(Timestamp(start)), end: Some(Timestamp(start + 1_000)) })
}
