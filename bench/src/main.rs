//! `make bench`: what the extension costs, beside what it is compared with, on a server of its own.
//!
//! It is a benchmark, not a test: no timing makes it fail. What does is a row whose operations did
//! not do what they claim: a reserve that was denied, a charge that is missing, a counter that
//! drifts. Progress goes to standard error, the table to standard output.

mod measure;
mod options;
mod peer;
mod pgbench;
mod report;
mod rows;
mod schema;
mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Parser;

use crate::options::{Arguments, Plan};
use crate::report::{Line, Report};
use crate::rows::Row;
use crate::stage::Stage;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ai_limiter_bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all rows did what they claim.
fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        for row in rows::ALL {
            println!("{}", row.name);
        }
        return Ok(true);
    }
    let rows = rows::chosen(&arguments.rows)?;
    arguments.check(&rows)?;

    let begun = Instant::now();
    let stage = Stage::open(Plan::of(arguments))?;
    let mut report = Report::new(&stage)?;
    for row in &rows {
        let begun = Instant::now();
        eprintln!("{}", row.name);
        report.add(attempt(row, &stage));
        eprintln!("  took {} s", begun.elapsed().as_secs());
    }
    drop(stage);
    let text = report.render(begun.elapsed());
    print!("{text}");
    if let Some(page) = &arguments.record {
        report::record(page, &text)?;
    }
    Ok(!report.has_failures())
}

/// The lines of a row; one that fails says so, and the others still run.
fn attempt(row: &Row, stage: &Stage) -> Vec<Line> {
    // The harness panics with what went wrong.
    let outcome = catch_unwind(AssertUnwindSafe(|| (row.run)(stage))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("{}", message.unwrap_or("panicked")))
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("  FAILED: {error:#}");
        vec![Line::failed(row, &error)]
    })
}
