//! An edit that changes which calls a rule counts, ordered against admission.
//!
//! A call that resolved the old rules and is still open would never be seen by the new counter. So
//! such an edit waits, when it commits, until every open writer has ended, and keeps new ones out until
//! its own commit makes the rule visible: an instant, under short transactions. See [`barrier`]. The
//! counters of the rule's name go when it has committed: which calls the other rows of that name
//! count has changed as well.

use crate::counters::memory::transaction::{self as told, Change};
use crate::counters::memory::{self, rule_label};
use crate::ledger::config;
use crate::pg::owner::as_owner;
use crate::pg::spi::Snapshot;
use crate::pg::{barrier, transaction};
use ai_limiter_domain::{error::Result, precedence};

/// Waits for the writers that are open, then refuses two rows that could govern one call. Called for
/// each row that was edited, with its names before and after, and waits once.
pub fn begin(names: &[String]) -> Result<()> {
    if !(barrier::excludes_writers()? && transaction::rules_are_unchanged()) {
        barrier::exclude_writers("change limits")?;
        as_owner(|spi| precedence::refuse_ties(&config::limits(spi, &Snapshot::latest())?))?;
        transaction::rules_are_checked();
    }
    if let Some((installation, shared)) = memory::current()?.zip(memory::shared_memory()) {
        for name in names {
            told::changed(installation, Change::Rule(rule_label(shared, name)));
        }
    }
    Ok(())
}
