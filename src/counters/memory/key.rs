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

/// The label of the account that a call is of.
pub fn label_of(memory: &Shared, call: &Dimensions) -> Label {
    account_label(memory, call.tenant_id, call.user_id.unwrap_or_default())
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

/// Bytes on their way to a hasher, which takes them fastest in one piece.
struct Bytes {
    bytes: [u8; 128],
    filled: usize,
    hasher: SipHasher13,
}

impl Bytes {
    fn add(&mut self, bytes: &[u8]) {
        if self.filled + bytes.len() > self.bytes.len() {
            self.flush();
        }
        match self.bytes.get_mut(self.filled..self.filled + bytes.len()) {
            Some(free) => {
                free.copy_from_slice(bytes);
                self.filled += bytes.len();
            }
            None => self.hasher.write(bytes),
        }
    }

    /// With its length before it.
    fn add_text(&mut self, value: Option<&str>) {
        let value = value.unwrap_or_default();
        self.add(&value.len().to_ne_bytes());
        self.add(value.as_bytes());
    }

    fn flush(&mut self) {
        self.hasher.write(&self.bytes[..self.filled]);
        self.filled = 0;
    }

    fn finish(&mut self) -> u128 {
        self.flush();
        self.hasher.finish128().as_u128()
    }
}

impl Key {
    /// `account` is the label of the call's account.
    pub fn new(
        memory: &Shared,
        installation: &Installation,
        (limit, rule): (&Limit, Label),
        (call, account): (&Dimensions, Label),
        window: Window,
    ) -> Self {
        let mut bytes = Bytes { bytes: [0; 128], filled: 0, hasher: hasher(memory) };
        bytes.add(&installation.id().to_ne_bytes());
        bytes.add(&limit.id.to_ne_bytes());
        bytes.add(&window.start.map_or(i64::MIN, |Timestamp(at)| at).to_ne_bytes());
        // As `Limit::subject_key`, each part with its length or of a fixed one.
        for per in &limit.per {
            match per {
                Per::Tenant => bytes.add(call.tenant_id.as_bytes()),
                Per::User => {
                    bytes.add(call.tenant_id.as_bytes());
                    bytes.add(call.user_id.unwrap_or_default().as_bytes());
                }
                Per::Run => {
                    bytes.add(call.tenant_id.as_bytes());
                    bytes.add_text(call.run_id.as_deref());
                }
                Per::Attribute(key) => {
                    bytes.add_text(call.attributes.get(key).map(String::as_str));
                }
                other => bytes.add_text(other.column().and_then(|c| c.of(call))),
            }
        }
        let account = if limit.per.contains(&Per::User) { account } else { 0 };
        let labels = Labels { installation: installation.id(), rule, account };
        Key { hash: bytes.finish(), labels }
    }
}
