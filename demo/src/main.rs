//! `make demo`: tells the story on the database that DATABASE_URL names.

use std::io::stdout;
use std::path::Path;
use std::process::ExitCode;

use ai_limiter_demo::{Trace, tell};
use anyhow::{Context, Result, bail, ensure};
use postgres::Config;

const USAGE: &str = "usage: DATABASE_URL=postgresql://... ai_limiter_demo [TRACE.csv]";

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
    let url = std::env::var("DATABASE_URL").ok().context(USAGE)?;
    let config: Config = url.parse().context("DATABASE_URL is not an address of a database")?;
    // The demo begins by dropping the extension with all its data.
    ensure!(
        config.get_dbname() == Some("demo"),
        "the demo only runs in a database named demo, because it drops the limiter's data there"
    );
    tell(&config, &trace, &mut stdout())?;
    Ok(())
}
