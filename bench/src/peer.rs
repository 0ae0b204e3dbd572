//! What we are compared with and is not Postgres: where it lies, and how it is driven.
//!
//! `scripts/bench.sh` installs peers under `target/bench-peers`. One that is absent has a line that
//! says so.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ai_limiter_tests::{Database, SUPERUSER, project_root, target_dir};
use anyhow::{Context, Result, ensure};

use crate::stage::Stage;

pub fn installed(path: &str) -> Option<PathBuf> {
    let path = target_dir().join("bench-peers").join(path);
    path.exists().then_some(path)
}

/// Connections of a peer in all, as many as clients of ours.
const CONNECTIONS: u32 = 8;

/// Processes that run a script of `bench/peers`.
///
/// They speak of themselves on standard output: `ready` when connected; then, for each line of
/// input with a number of seconds, the calls that were admitted and the seconds that they took.
pub struct Driver {
    processes: Vec<Process>,
    /// All calls that were admitted so far.
    admitted: u64,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} processes, {} admitted", self.processes.len(), self.admitted)
    }
}

impl Driver {
    /// Starts so many processes, which share the connections.
    pub fn start(
        stage: &Stage,
        database: &Database,
        interpreter: &PathBuf,
        script: &str,
        processes: u32,
    ) -> Result<Self> {
        let start = || {
            let mut command = Command::new(interpreter);
            command.arg(project_root().join("bench/peers").join(script));
            command.env("NODE_PATH", target_dir().join("bench-peers/node/node_modules"));
            command.env("PGHOST", stage.host()).env("PGPORT", stage.cluster().port().to_string());
            command.env("PGUSER", SUPERUSER).env("PGDATABASE", database.name());
            command.env("CONNECTIONS", (CONNECTIONS / processes).max(1).to_string());
            Process::start(&mut command)
        };
        let ready = |process: &mut Process| -> Result<()> {
            ensure!(process.line()? == "ready", "{script} does not get ready");
            Ok(())
        };
        // The first makes the tables.
        let mut started = vec![start()?];
        ready(&mut started[0])?;
        for _ in 1..processes {
            started.push(start()?);
        }
        for process in &mut started[1..] {
            ready(process)?;
        }
        Ok(Self { processes: started, admitted: 0 })
    }

    /// Lets all run for that long; calls admitted a second.
    pub fn run(&mut self, time: Duration) -> Result<f64> {
        for process in &mut self.processes {
            let input = process.input.as_mut().context("standard input is piped")?;
            writeln!(input, "{}", time.as_secs_f64()).context("a peer has ended")?;
        }
        let mut rate = 0.0;
        for process in &mut self.processes {
            let line = process.line()?;
            let (calls, seconds) = line.split_once(' ').context("a peer gives two numbers")?;
            let (calls, seconds): (u64, f64) = (calls.parse()?, seconds.parse()?);
            self.admitted += calls;
            rate += calls as f64 / seconds;
        }
        Ok(rate)
    }

    /// Lets the processes close their connections; all calls that were admitted.
    pub fn finish(self) -> Result<u64> {
        for mut process in self.processes {
            process.input = None;
            process.child.wait().context("a peer does not end")?;
        }
        Ok(self.admitted)
    }
}

struct Process {
    child: Child,
    /// The end of its input is the end of the process.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("standard output is piped")?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).context("cannot read from a peer")?;
        ensure!(read > 0, "a peer ended early; its complaint stands above");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
