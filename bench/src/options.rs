//! What to measure, and how long.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use crate::rows::{self, Row};

/// A median of fewer says little.
const FEWEST_ROUNDS: usize = 5;

/// Measures what ai_limiter costs, beside what it is compared with, on a server of its own.
#[derive(Debug, Parser)]
#[command(name = "ai_limiter_bench")]
pub struct Arguments {
    /// Only these rows, separated by commas; all without it
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub rows: Vec<String>,
    /// Names all rows and measures nothing
    #[arg(long)]
    pub list: bool,
    /// One short round over small tables: shows that all of it runs, and measures nothing of worth
    #[arg(long)]
    pub quick: bool,
    /// How many times each pair is measured, one side after the other
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How long each side of a pair runs in a round
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Ledger rows for the row "ledger", each compared with the least; the most are for "restart" too
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    pub ledger_rows: Vec<u64>,
    /// Ledger rows for the row "sums"
    #[arg(long, value_name = "ROWS")]
    pub sums_rows: Option<u64>,
    /// Ledger rows for the row "bulk"
    #[arg(long, value_name = "ROWS")]
    pub bulk_rows: Option<u64>,
    /// The page whose block of results is replaced; takes all rows, unabridged
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

impl Arguments {
    /// Refuses what would put numbers of little worth on the page of results.
    pub fn check(&self, chosen: &[&Row]) -> Result<()> {
        ensure!(self.rounds != Some(0), "--rounds must be 1 at least");
        ensure!(self.seconds != Some(0), "--seconds must be 1 at least");
        ensure!(self.ledger_rows.len() != 1, "--ledger-rows must name two sizes at least");
        ensure!(self.bulk_rows != Some(0), "--bulk-rows must be 1 at least");
        let few_rounds = self.rounds.is_some_and(|rounds| rounds < FEWEST_ROUNDS);
        let abridged = self.quick || few_rounds || chosen.len() < rows::ALL.len();
        ensure!(
            self.record.is_none() || !abridged,
            "--record takes all rows and {FEWEST_ROUNDS} rounds at least, and not --quick"
        );
        Ok(())
    }
}

/// The sizes and times of this run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub quick: bool,
    pub rounds: usize,
    pub time: Duration,
    pub warm_up: Duration,
    pub users: u32,
    pub tenants: u32,
    /// Ascending; the others are compared with the first.
    pub ledger_rows: Vec<u64>,
    pub sums_rows: u64,
    pub bulk_rows: u64,
    /// A load takes a minute, so fewer.
    pub bulk_rounds: usize,
    pub runs: u32,
    /// How many operations a measurement of WAL is the mean of.
    pub wal_operations: u32,
}

impl Plan {
    pub fn of(arguments: &Arguments) -> Self {
        let mut plan = if arguments.quick { Self::quick() } else { Self::full() };
        if let Some(rounds) = arguments.rounds {
            plan.rounds = rounds;
            plan.bulk_rounds = rounds.min(plan.bulk_rounds);
        }
        if let Some(seconds) = arguments.seconds {
            plan.time = Duration::from_secs(seconds);
        }
        if !arguments.ledger_rows.is_empty() {
            plan.ledger_rows.clone_from(&arguments.ledger_rows);
            plan.ledger_rows.sort_unstable();
        }
        plan.sums_rows = arguments.sums_rows.unwrap_or(plan.sums_rows);
        plan.bulk_rows = arguments.bulk_rows.unwrap_or(plan.bulk_rows);
        plan
    }

    fn full() -> Self {
        Self {
            quick: false,
            rounds: FEWEST_ROUNDS,
            time: Duration::from_secs(5),
            warm_up: Duration::from_secs(2),
            users: 10_000,
            tenants: 100,
            ledger_rows: vec![0, 1_000_000, 10_000_000],
            sums_rows: 2_000_000,
            bulk_rows: 5_000_000,
            bulk_rounds: 3,
            runs: 1000,
            wal_operations: 2000,
        }
    }

    fn quick() -> Self {
        Self {
            quick: true,
            rounds: 1,
            time: Duration::from_millis(100),
            warm_up: Duration::from_millis(100),
            users: 50,
            tenants: 5,
            ledger_rows: vec![0, 500, 2000],
            sums_rows: 2000,
            bulk_rows: 2000,
            bulk_rounds: 1,
            runs: 20,
            wal_operations: 50,
        }
    }
}
