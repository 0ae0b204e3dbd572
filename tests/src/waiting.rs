//! Making calls wait for a counter, on either path.
//!
//! Where counters are summed from the tables, a call waits for every open transaction that has added to
//! its counter. Where they are in shared memory it waits for nobody, but for a counter that has to
//! be loaded: its loader waits for the tables, and all who want the same counter for the loader.

use crate::Cluster;
use crate::calls::{Session, reserve};

/// Where the counters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Tables,
    Memory,
}

impl Path {
    pub const BOTH: [Path; 2] = [Path::Tables, Path::Memory];

    /// The server of this process on which calls take this path.
    #[track_caller]
    pub fn cluster(self) -> &'static Cluster {
        match self {
            Path::Tables => Cluster::shared_without_preload(),
            Path::Memory => Cluster::shared_preloaded(),
        }
    }

    /// Holds `arguments` and leaves the session in a transaction that everybody waits for who wants
    /// to hold something in the same counters. Once it is committed the hold is there.
    #[track_caller]
    pub fn hold_up(self, session: &mut impl Session, arguments: &str) {
        match self {
            Path::Tables => {
                session.run("BEGIN");
                assert!(reserve(session, arguments).allowed);
            }
            Path::Memory => {
                assert!(reserve(session, arguments).allowed);
                forget_counters(session);
                session.run("BEGIN; LOCK TABLE ai_limiter.ai_usage IN ACCESS EXCLUSIVE MODE");
            }
        }
    }
}

/// Has all counters of the database loaded anew, by a statement that could have changed any hold.
#[track_caller]
pub fn forget_counters(session: &mut impl Session) {
    session.run("UPDATE ai_limiter.ai_reservations SET state = state WHERE false");
}

/// Has every session read accounts anew, by an edit of the tiers that all of them are in.
#[track_caller]
pub fn forget_accounts(session: &mut impl Session) {
    session.run("UPDATE ai_limiter.ai_tiers SET tier = tier");
}
