//! `make demo`: tells the story on the demo's own server.

use std::io::stdout;
use std::path::Path;
use std::process::ExitCode;

use ai_limiter_demo::{Trace, tell};
use ai_limiter_tests::{SUPERUSER, StandingServer};
use anyhow::{Result, bail};

const USAGE: &str = "usage: ai_limiter_demo [TRACE.csv]";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ai_limiter_demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    // First: a mistake in the file shall not cost the wait for the story.
    let trace = match arguments {
        [] => Trace::sample(),
        [path] if !path.starts_with('-') => Trace::read(Path::new(path))?,
        _ => bail!("{USAGE}"),
    };
    let server = StandingServer::start(&StandingServer::default_dir())?;
    let config = server.database().config(SUPERUSER);
    tell(&config, &|| server.crash(), &trace, &mut stdout())?;
    Ok(())
}
