//! The rows of the benchmark, each a comparison, or a few that belong together.

mod bulk;
mod history;
mod memory;
mod peers;
mod prices;
mod redis;
mod verdicts;
mod writes;

use anyhow::{Context, Result};

use crate::report::Line;
use crate::stage::Stage;

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub run: fn(&Stage) -> Result<Vec<Line>>,
}

/// In the order in which they run; docs/benchmarks.md says what each does.
pub const ALL: &[Row] = &[
    Row { name: "within", run: verdicts::within },
    Row { name: "check", run: verdicts::check },
    Row { name: "ledger", run: verdicts::ledger },
    Row { name: "reserve", run: writes::reserve },
    Row { name: "settle", run: writes::settle },
    Row { name: "wal", run: writes::wal },
    Row { name: "hot", run: writes::hot },
    Row { name: "sums", run: history::sums },
    Row { name: "peers", run: peers::peers },
    Row { name: "redis", run: redis::redis },
    Row { name: "restart", run: history::restart },
    Row { name: "runs", run: writes::runs },
    Row { name: "prices", run: prices::prices },
    Row { name: "memory", run: memory::memory },
    Row { name: "bulk", run: bulk::bulk },
];

/// The rows of these names, or all.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let known = || ALL.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| {
            let row = ALL.iter().find(|row| row.name == name);
            row.with_context(|| format!("there is no row \"{name}\"; there are {}", known()))
        })
        .collect()
}
