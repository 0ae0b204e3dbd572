//! The server of a run, and its databases.
//!
//! One server for all rows, as durable as a new one is; a database for each row, dropped when the
//! row has ended, so that no row carries another's tables along.

use std::cell::RefCell;
use std::path::Path;

use ai_limiter_tests::calls::Session;
use ai_limiter_tests::{Cluster, Database, EXTENSION, SUPERUSER};
use anyhow::{Context, Result};
use postgres::NoTls;

use crate::options::Plan;
use crate::schema;

/// How many databases there may be at once: three ledgers, and one of a row that failed to drop its
/// own. They are named before the server starts, because the extension's worker is told of its
/// databases by a setting.
const DATABASES: u32 = 4;

#[derive(Debug)]
pub struct Stage {
    cluster: Cluster,
    plan: Plan,
    cores: u32,
    /// A folder with a Unix socket, or an address.
    host: String,
    /// Names of databases that are not there.
    free_names: RefCell<Vec<String>>,
    /// The database with the largest ledger, for the rows that share it.
    large: RefCell<Option<Database>>,
}

impl Stage {
    pub fn open(plan: Plan) -> Result<Self> {
        let cores = std::thread::available_parallelism().context("cannot count the cores")?;
        let names: Vec<String> = (1..=DATABASES).map(|number| format!("bench_{number}")).collect();
        let cluster = Cluster::builder()
            .setting("shared_preload_libraries", EXTENSION)
            .setting("ai_limiter.databases", &names.join(", "))
            // The holds of a row stay until its database is dropped: to expire half a million of
            // them is not to disturb the next row.
            .setting("ai_limiter.reservation_ttl", "1d")
            .setting("max_worker_processes", "16")
            .setting("fsync", "on")
            .setting("synchronous_commit", "on")
            .setting("full_page_writes", "on")
            .setting("shared_buffers", "1GB")
            // A checkpoint that falls into one side of a pair would be that side's loss.
            .setting("max_wal_size", "16GB")
            .setting("checkpoint_timeout", "1h")
            .start();
        let folder = cluster.connect().value("SHOW unix_socket_directories");
        let host = if folder.is_empty() { "127.0.0.1".to_owned() } else { folder };
        let cores = u32::try_from(cores.get())?;
        let (free_names, large) = (RefCell::new(names), RefCell::new(None));
        Ok(Self { cluster, plan, cores, host, free_names, large })
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn cores(&self) -> u32 {
        self.cores
    }

    /// What libpq calls the host.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn transport(&self) -> &'static str {
        if Path::new(&self.host).is_absolute() { "Unix socket" } else { "TCP on the loopback" }
    }

    /// Whether the counters are in shared memory, or each call sums the tables.
    pub fn has_shared_counters(&self) -> bool {
        let sql = "SELECT count(*) FROM pg_settings WHERE name = 'ai_limiter.max_counters'";
        // A setting that the library does not know is not shown once it is loaded.
        self.cluster.connect().value(&format!("LOAD '{EXTENSION}'; {sql}")) != "0"
    }

    /// A database with the extension, the six limits, the users and the bare tables, and with so
    /// many rows in the ledger.
    pub fn database(&self, ledger_rows: u64) -> Result<Scratch<'_>> {
        Ok(Scratch { stage: self, database: self.make_database(ledger_rows)? })
    }

    fn make_database(&self, ledger_rows: u64) -> Result<Database> {
        let name = self.free_names.borrow_mut().pop();
        let name = name.with_context(|| format!("there are {DATABASES} databases already"))?;
        let database = self.cluster.create_database(&name);
        let mut client = database.connect();
        schema::create(&mut client, &self.plan)?;
        schema::fill_ledger(&mut client, &self.plan, ledger_rows)?;
        Ok(database)
    }

    /// Calls `work` with the database of the largest ledger, which takes minutes to make.
    pub fn with_large_ledger<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut large = self.large.borrow_mut();
        let database = match large.take() {
            Some(database) => database,
            None => self.make_database(self.plan.ledger_rows.last().copied().unwrap_or(0))?,
        };
        work(large.insert(database))
    }

    /// Calls `work` on the server with room for the counters of several databases at once: at the
    /// default, those of three would push each other out. Restarts it before and after.
    pub fn with_room_for_databases<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.has_shared_counters() {
            return work();
        }
        let restart_with = |setting: &str| {
            self.cluster.connect().run(&format!("ALTER SYSTEM {setting}"));
            self.cluster.stop();
            self.cluster.start_again();
        };
        restart_with("SET ai_limiter.max_counters = 262144");
        let result = work();
        restart_with("RESET ai_limiter.max_counters");
        result
    }

    /// When a row fails, the server may be gone, and that failure is what matters.
    fn try_drop(&self, database: &Database) {
        let sql = format!("DROP DATABASE \"{}\" WITH (FORCE)", database.name());
        let server = self.cluster.database("postgres").config(SUPERUSER).connect(NoTls);
        if server.and_then(|mut client| client.batch_execute(&sql)).is_ok() {
            self.free_names.borrow_mut().push(database.name().to_owned());
        }
    }
}

/// A database that is dropped at the end.
#[derive(Debug)]
pub struct Scratch<'a> {
    stage: &'a Stage,
    database: Database,
}

impl std::ops::Deref for Scratch<'_> {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.stage.try_drop(&self.database);
    }
}
