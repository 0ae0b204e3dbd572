//! The demo's throwaway server: starts it, stops it, opens a shell on it.

use std::path::PathBuf;
use std::process::ExitCode;

use ai_limiter_tests::StandingServer;
use anyhow::{Result, bail};

const USAGE: &str = "usage: ai_limiter_server COMMAND [--dir DIRECTORY]

  start             start the server, or find it running, and print its address
  stop              stop it and remove its data
  url               print its address
  psql [-- ARG...]  open psql on it, with further arguments for psql

The directory is target/demo-server unless given.";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ai_limiter_server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: Vec<String>) -> Result<()> {
    let mut further = Vec::new();
    if let Some(position) = arguments.iter().position(|argument| argument == "--") {
        further = arguments.split_off(position).split_off(1);
    }
    let (command, dir) = match arguments.as_slice() {
        [command] => (command.as_str(), StandingServer::default_dir()),
        [command, option, dir] if option == "--dir" => (command.as_str(), PathBuf::from(dir)),
        _ => bail!("{USAGE}"),
    };
    match command {
        "start" => println!("{}", StandingServer::start(&dir)?.database().url()),
        "url" => println!("{}", StandingServer::running(&dir)?.database().url()),
        "stop" => StandingServer::remove(&dir)?,
        "psql" => return Err(StandingServer::running(&dir)?.exec_psql(&further).into()),
        _ => bail!("{USAGE}"),
    }
    Ok(())
}
