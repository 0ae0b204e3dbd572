//! Real Postgres servers for the tests and the demo of `ai_limiter`.
//!
//! A [`Cluster`] is a server with a data directory of its own on a free loopback port. It is
//! stopped and removed when it is dropped, and also when the process that started it dies in
//! whatever way. Tests that only need a database share one server:
//!
//! ```no_run
//! use ai_limiter_tests::Cluster;
//!
//! let database = Cluster::shared().fresh_database();
//! let mut client = database.connect();
//! client.batch_execute("SELECT 1").unwrap();
//! ```
//!
//! Postgres refuses to run as root. Where the tests run as root, its programs run as the user
//! `postgres` if there is one, else as `nobody`; see the module `account`.
//!
//! Functions that tests call panic with what went wrong, so that a test reads as what it checks.

mod account;
pub mod calls;
mod clients;
mod cluster;
mod database;
mod guardian;
mod installation;
mod random;
pub mod regress;
mod server;
mod standing;
pub mod waiting;

pub use clients::{clients, sqlstate};
pub use cluster::{Builder, Cluster};
pub use database::Database;
pub use installation::Postgres;
pub use random::Random;
pub use standing::StandingServer;

use std::path::{Path, PathBuf};

/// The name of the extension, of its SQL script and of its shared library.
pub const EXTENSION: &str = "ai_limiter";

/// The superuser of every server that is started here.
pub const SUPERUSER: &str = "postgres";

/// The top folder of the project.
pub fn project_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in a folder of the project")
}

/// The folder of everything that is built, downloaded or run.
pub fn target_dir() -> PathBuf {
    project_root().join("target")
}

/// What every panic of the harness looks like: the whole chain of causes on one line.
#[track_caller]
fn expect<T>(result: anyhow::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}
