//! A throwaway server that stays up after the process that started it: the demo's.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::database::Database;
use crate::guardian::private_dir;
use crate::installation::Postgres;
use crate::server::Server;
use crate::{EXTENSION, SUPERUSER, target_dir};

/// The database that has the extension.
const DATABASE: &str = "demo";

/// A server in a folder of the user's, with the extension in its database `demo`: the library is
/// preloaded, and the worker keeps house there.
#[derive(Debug)]
pub struct StandingServer {
    dir: PathBuf,
    server: Server,
}

impl StandingServer {
    /// Where the demo's server is, unless one says otherwise.
    #[must_use]
    pub fn default_dir() -> PathBuf {
        target_dir().join("demo-server")
    }

    /// Starts the server, or finds it running. Its data is kept until another build of the
    /// extension is installed, or another version of Postgres asked for.
    pub fn start(dir: &Path) -> Result<Self> {
        let installed = Postgres::installed()?;
        let settings = [
            ("shared_preload_libraries".to_owned(), EXTENSION.to_owned()),
            (format!("{EXTENSION}.databases"), DATABASE.to_owned()),
        ];
        // One that was set up otherwise is made anew as well.
        let build = format!("{} {settings:?}", installed.extension_build()?);
        if fs::read_to_string(dir.join("build")).is_ok_and(|of| of == build) {
            let standing = Self::find(dir)?;
            if standing.server.port_of_running().is_none() {
                standing.server.launch()?;
            }
            return Ok(standing);
        }
        Self::remove(dir)?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        if !installed.can_run_in(&dir) {
            // Noted first, so that whatever happens next, it will be found and removed.
            let elsewhere = private_dir(&std::env::temp_dir(), "ai_limiter-server-")?;
            fs::write(dir.join("elsewhere"), elsewhere.as_os_str().as_encoded_bytes())?;
            installed.copied_to(&elsewhere)?;
        }
        let standing = Self::find(&dir)?;
        standing.server.init(&settings)?;
        standing.server.launch()?;
        let mut client = standing.database_named("postgres").try_connect(SUPERUSER)?;
        client.batch_execute(&format!("CREATE DATABASE {DATABASE}"))?;
        let mut client = standing.database().try_connect(SUPERUSER)?;
        client.batch_execute(&format!("CREATE EXTENSION {EXTENSION}"))?;
        // Last: a server without this file is not whole, and is made anew.
        fs::write(dir.join("build"), build)?;
        Ok(standing)
    }

    /// The server of a folder, if it is running.
    pub fn running(dir: &Path) -> Result<Self> {
        let standing = Self::find(dir)?;
        standing
            .server
            .port_of_running()
            .with_context(|| format!("no server is running in {}", dir.display()))?;
        Ok(standing)
    }

    /// Kills every process of the server at once, and starts it again at the same address.
    pub fn crash(&self) -> Result<()> {
        self.server.kill_all()?;
        self.server.launch()
    }

    /// Stops the server of a folder, if it is running, and removes it.
    pub fn remove(dir: &Path) -> Result<()> {
        if !dir.exists() {
            return Ok(());
        }
        let standing = Self::find(dir)?;
        if standing.server.port_of_running().is_some() {
            standing.server.stop()?;
        }
        for dir in [standing.server.dir(), &standing.dir] {
            if dir.exists() {
                fs::remove_dir_all(dir)
                    .with_context(|| format!("cannot remove {}", dir.display()))?;
            }
        }
        Ok(())
    }

    fn find(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("there is no {}", dir.display()))?;
        let postgres = Postgres::installed()?;
        let server = match fs::read_to_string(dir.join("elsewhere")) {
            Ok(elsewhere) => {
                let elsewhere = PathBuf::from(elsewhere);
                Server::new(postgres.already_copied_to(&elsewhere), elsewhere)
            }
            Err(_) => Server::new(postgres, dir.clone()),
        };
        Ok(Self { dir, server })
    }

    /// The database that has the extension.
    #[must_use]
    pub fn database(&self) -> Database {
        self.database_named(DATABASE)
    }

    fn database_named(&self, name: &str) -> Database {
        Database::new(self.server.port(), name)
    }

    /// Becomes `psql` in that database. Returns only if that fails.
    pub fn exec_psql(&self, arguments: &[String]) -> std::io::Error {
        let postgres = self.server.postgres();
        let mut command = postgres.client_program(postgres.bin("psql"));
        command.stdin(std::process::Stdio::inherit());
        command.env("LC_ALL", std::env::var_os("LC_ALL").unwrap_or_else(|| "C.UTF-8".into()));
        command.arg(self.database().url()).args(arguments).exec()
    }
}
