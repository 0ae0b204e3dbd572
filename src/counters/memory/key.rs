//! What a counter is called in shared memory: a hash that stands for rule, subject and window.
//!
//! 128 bits of SipHash under a key that the server draws at its start: two counters never share one
//! by accident, and nobody can make them. The zone is in it through the window's start: an account
//! that moves finds other counters, and what is counted in them is loaded.

use super::installation::Installation;
use super::shared::Shared;
use ai_limiter_domain::counters::table::Labels;
use ai_limiter_domain::{Dimensions, Limit, Per, Timestamp, Window};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use uuid::Uuid;

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub hash: u128,
    pub labels: Labels,
}

/// The label of a rule's name, or of an account.
pub type Label = u64;

fn hasher(memory: &Shared) -> SipHasher13 {
    let [a, b] = memory.hash_key();
    SipHasher13::new_with_keys(a, b)
}

pub fn rule_label(memory: &Shared, name: &str) -> Label {
    let mut hasher = hasher(memory);
    hasher.write(name.as_bytes());
    label(&hasher)
}

pub fn account_label(memory: &Shared, tenant: Uuid, user: Uuid) -> Label {
    let mut hasher = hasher(memory);
    hasher.write(tenant.as_bytes());
    hasher.write(user.as_bytes());
    label(&hasher)
}

/// Zero is no label.
fn label(hasher: &SipHasher13) -> Label {
    hasher.finish128().h1 | 1
}

impl Key {
    pub fn new(
        memory: &Shared,
        installation: &Installation,
        (limit, rule): (&Limit, Label),
        call: &Dimensions,
        window: Window,
    ) -> Self {
        let mut hasher = hasher(memory);
        let mut account = 0;
        hasher.write_u64(installation.id());
        hasher.write_i64(limit.id);
        hasher.write_i64(window.start.map_or(i64::MIN, |Timestamp(at)| at));
        // As `Limit::subject_key`, each part with its length or of a fixed one.
        let text = |hasher: &mut SipHasher13, value: Option<&str>| {
            let value = value.unwrap_or_default();
            hasher.write_usize(value.len());
            hasher.write(value.as_bytes());
        };
        for per in &limit.per {
            match per {
                Per::Tenant => hasher.write(call.tenant_id.as_bytes()),
                Per::User => {
                    let user = call.user_id.unwrap_or_default();
                    hasher.write(call.tenant_id.as_bytes());
                    hasher.write(user.as_bytes());
                    account = account_label(memory, call.tenant_id, user);
                }
                Per::Run => {
                    hasher.write(call.tenant_id.as_bytes());
                    text(&mut hasher, call.run_id.as_deref());
                }
                Per::Attribute(key) => {
                    text(&mut hasher, call.attributes.get(key).map(String::as_str));
                }
                other => text(&mut hasher, other.column().and_then(|c| c.of(call))),
            }
        }
        let labels = Labels { installation: installation.id(), rule, account };
        Key { hash: hasher.finish128().as_u128(), labels }
    }
}
