//! `pgbench` as the driver: prepared statements, one connection a client, no pauses.

use std::fs;
use std::time::Duration;

use ai_limiter_tests::Database;
use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::stage::Stage;

/// A script, and the clients that run it again and again.
#[derive(Debug)]
pub struct Load<'a> {
    stage: &'a Stage,
    database: String,
    script: NamedTempFile,
    clients: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// A second, without the time that connecting took.
    pub rate: f64,
    pub transactions: u64,
}

impl<'a> Load<'a> {
    pub fn new(stage: &'a Stage, database: &Database, clients: u32, script: &str) -> Result<Self> {
        let file = NamedTempFile::new().context("cannot make a file for a script")?;
        fs::write(file.path(), script).context("cannot write a script")?;
        Ok(Self { stage, database: database.name().to_owned(), script: file, clients })
    }

    /// Runs it for that long, or, where that is less than pgbench can time, some times a client.
    pub fn run(&self, time: Duration) -> Result<Outcome> {
        match time.as_secs() {
            0 => self.pgbench(&["--transactions", "20"]),
            seconds => self.pgbench(&["--time", &seconds.to_string()]),
        }
    }

    /// Runs it that many times in all; for one client.
    pub fn run_times(&self, transactions: u32) -> Result<Outcome> {
        let outcome = self.pgbench(&["--transactions", &transactions.to_string()])?;
        ensure!(outcome.transactions == u64::from(transactions), "pgbench stopped early");
        Ok(outcome)
    }

    fn pgbench(&self, length: &[&str]) -> Result<Outcome> {
        let clients = self.clients.to_string();
        let threads = self.clients.min(self.stage.cores()).to_string();
        let script = self.script.path().display().to_string();
        let mut arguments = vec!["--no-vacuum", "--protocol", "prepared", "--file", &script];
        arguments.extend(["--client", &clients, "--jobs", &threads]);
        arguments.extend(["--host", self.stage.host()]);
        arguments.extend(length);
        arguments.push(&self.database);
        let output = self.stage.cluster().run("pgbench", &arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        // pgbench goes on without a client that met an error, and succeeds when one is left.
        let complaint = String::from_utf8_lossy(&output.stderr);
        let unharmed = output.status.success() && !complaint.contains("aborted");
        ensure!(unharmed, "pgbench failed:\n{complaint}");
        let number = |before: &str| -> Result<f64> {
            let rest = text.split_once(before).map(|(_, rest)| rest);
            let word = rest.and_then(|rest| rest.split_whitespace().next());
            // "1234/2000" where the number was set.
            let word = word.and_then(|word| word.split('/').next());
            word.and_then(|word| word.parse().ok())
                .with_context(|| format!("pgbench does not say \"{before}\":\n{text}"))
        };
        ensure!(number("number of failed transactions: ")? == 0.0, "transactions failed:\n{text}");
        let transactions = number("number of transactions actually processed: ")?;
        Ok(Outcome { rate: number("tps = ")?, transactions: transactions as u64 })
    }
}
