//! A server for tests, stopped and removed at the end.

use std::path::PathBuf;
use std::process::Output;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use postgres::Client;

use crate::database::{Database, only_row};
use crate::guardian::Guardian;
use crate::installation::{Postgres, Site};
use crate::server::Server;
use crate::{EXTENSION, SUPERUSER, expect};

/// A server with a data directory of its own.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    guardian: Option<Guardian>,
    /// How many databases were made so far, once there is the template to make them from.
    fresh: Mutex<Option<u32>>,
}

/// What a server is to be like before it starts.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Vec<(String, String)>,
    supabase_roles: bool,
    own_postgres: bool,
    preload: Preload,
}

/// Whether the library is in `shared_preload_libraries`, and so the counters in shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Preload {
    /// Unless `AI_LIMITER_TEST_TABLE_PATH` is in the environment.
    #[default]
    Usually,
    Always,
    Never,
}

/// The roles of a Supabase project, as its own start-up script makes them. They must be there before
/// the extension is created, which then grants to them.
const SUPABASE_ROLES: &str = "
    CREATE ROLE anon NOLOGIN;
    CREATE ROLE authenticated NOLOGIN;
    CREATE ROLE service_role NOLOGIN BYPASSRLS;
    CREATE ROLE authenticator LOGIN NOINHERIT;
    GRANT anon, authenticated, service_role TO authenticator;
    ALTER ROLE anon SET statement_timeout = '3s';
    ALTER ROLE authenticated SET statement_timeout = '8s'";

impl Builder {
    /// A line of `postgresql.conf`. The value is quoted here.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves the library out of `shared_preload_libraries`: all counters are summed from the tables.
    /// `AI_LIMITER_TEST_TABLE_PATH` in the environment does so for every server that does not ask
    /// for either.
    #[must_use]
    pub fn without_preload(mut self) -> Self {
        self.preload = Preload::Never;
        self
    }

    /// Keeps the counters in shared memory whatever the environment says.
    #[must_use]
    pub fn preloaded(mut self) -> Self {
        self.preload = Preload::Always;
        self
    }

    /// Makes `anon`, `authenticated`, `service_role` and `authenticator`, which may log in.
    #[must_use]
    pub fn supabase_roles(mut self) -> Self {
        self.supabase_roles = true;
        self
    }

    /// Runs the server from a copy of Postgres beside its data, whose files a test may replace.
    #[must_use]
    pub fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// Starts the server and waits until it answers.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Cluster {
        expect(self.try_start())
    }

    fn try_start(self) -> Result<Cluster> {
        let mut cluster = Cluster::in_new_dir()?;
        if self.own_postgres {
            let dir = cluster.server.dir().to_owned();
            cluster.server = Server::new(cluster.postgres().clone().copied_to(&dir)?, dir);
        }
        let mut settings = self.settings;
        let preloads = match self.preload {
            Preload::Usually => std::env::var_os("AI_LIMITER_TEST_TABLE_PATH").is_none(),
            preload => preload == Preload::Always,
        };
        if preloads {
            settings.push(("shared_preload_libraries".to_owned(), EXTENSION.to_owned()));
        }
        cluster.server.init(&settings)?;
        cluster.server.launch()?;
        if self.supabase_roles {
            execute_all(&mut cluster.database("postgres").try_connect(SUPERUSER)?, SUPABASE_ROLES)?;
        }
        Ok(cluster)
    }
}

impl Cluster {
    /// A server with the settings of `initdb`, besides 200 connections and UTC.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The one server of this process for all tests that only need databases, with Supabase's roles.
    #[track_caller]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
        Self::shared_in(&SHARED, Preload::Usually)
    }

    /// Like [`shared`](Self::shared), and always with the counters in shared memory.
    #[track_caller]
    pub fn shared_preloaded() -> &'static Self {
        static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
        Self::shared_in(&SHARED, Preload::Always)
    }

    /// Like [`shared`](Self::shared), and always with the counters summed from the tables.
    #[track_caller]
    pub fn shared_without_preload() -> &'static Self {
        static SHARED: OnceLock<Result<Cluster>> = OnceLock::new();
        Self::shared_in(&SHARED, Preload::Never)
    }

    #[track_caller]
    fn shared_in(server: &'static OnceLock<Result<Cluster>>, preload: Preload) -> &'static Self {
        let started = server.get_or_init(|| {
            // Whoever crashes a server has one of their own, so this one need not survive it.
            let builder = Self::builder().supabase_roles().setting("fsync", "off");
            Builder { preload, ..builder }.try_start()
        });
        match started {
            Ok(cluster) => cluster,
            Err(error) => panic!("{error:#}"),
        }
    }

    fn in_new_dir() -> Result<Self> {
        let site = Site::of_this_process()?;
        let (guardian, dir) = Guardian::for_new_dir(&site.run_dir, "server-")?;
        let server = Server::new(site.postgres.clone(), dir);
        Ok(Self { server, guardian: Some(guardian), fresh: Mutex::new(None) })
    }

    /// Another server that follows this one, and only reads until it is promoted.
    #[must_use]
    #[track_caller]
    pub fn standby(&self) -> Self {
        expect(self.try_standby())
    }

    fn try_standby(&self) -> Result<Self> {
        let standby = Self::in_new_dir()?;
        standby.server.init_standby_of(&self.server)?;
        standby.server.launch()?;
        Ok(standby)
    }

    /// Waits until this standby shows all that `primary` has committed so far.
    #[track_caller]
    pub fn catch_up_with(&self, primary: &Self) {
        let now = "SELECT pg_current_wal_flush_lsn()::text";
        let lsn: String = expect(only_row(&mut primary.connect(), now)).get(0);
        let reached = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
        let mut client = self.connect();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !expect(only_row(&mut client, &reached)).get::<_, bool>(0) {
            assert!(Instant::now() < deadline, "the standby does not get to {lsn}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server as an administrator does.
    #[track_caller]
    pub fn stop(&self) {
        expect(self.server.stop());
    }

    /// Kills every process of the server at once.
    #[track_caller]
    pub fn stop_immediately(&self) {
        expect(self.server.kill_all());
    }

    /// Starts the server again after `stop` or `stop_immediately`, and waits for its recovery.
    #[track_caller]
    pub fn start_again(&self) {
        expect(self.server.launch());
    }

    /// A database of this server, which may be there or not.
    #[must_use]
    pub fn database(&self, name: &str) -> Database {
        Database::new(self.server.port(), name)
    }

    /// Makes an empty database, without the extension. It stays as long as the server.
    #[track_caller]
    pub fn create_database(&self, name: &str) -> Database {
        expect(execute_all(&mut self.connect(), &format!("CREATE DATABASE \"{name}\"")));
        self.database(name)
    }

    /// Makes a database with the extension, which is dropped at the end.
    ///
    /// It is copied from a template, and so as it is right after `CREATE EXTENSION`.
    #[must_use]
    #[track_caller]
    pub fn fresh_database(&self) -> Database {
        expect(self.try_fresh_database())
    }

    fn try_fresh_database(&self) -> Result<Database> {
        let template = format!("{EXTENSION}_template");
        let number = {
            let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            if fresh.is_none() {
                let mut client = self.database("postgres").try_connect(SUPERUSER)?;
                execute_all(&mut client, &format!("CREATE DATABASE {template}"))?;
                let mut client = self.database(&template).try_connect(SUPERUSER)?;
                let created = execute_all(&mut client, &format!("CREATE EXTENSION {EXTENSION}"));
                drop(client);
                if created.is_err() {
                    // The next test shall fail for the same reason, not for what is left of this.
                    let mut client = self.database("postgres").try_connect(SUPERUSER)?;
                    execute_all(&mut client, &format!("DROP DATABASE {template} WITH (FORCE)"))?;
                }
                created?;
            }
            let number = fresh.unwrap_or(0) + 1;
            *fresh = Some(number);
            number
        };
        let name = format!("test_{number}");
        let mut client = self.database("postgres").try_connect(SUPERUSER)?;
        execute_all(&mut client, &format!("CREATE DATABASE {name} TEMPLATE {template}"))?;
        Ok(self.database(&name).dropped_at_end())
    }

    /// A connection to the database `postgres` as its superuser.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.connect_as(SUPERUSER, "postgres")
    }

    #[track_caller]
    pub fn connect_as(&self, role: &str, database: &str) -> Client {
        self.database(database).connect_as(role)
    }

    /// Where the database `postgres` is, for programs that take an address.
    #[must_use]
    pub fn url(&self) -> String {
        self.database("postgres").url()
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// What the server has logged since it was first started.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }

    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        self.server.postgres()
    }

    /// The path of a program of the same Postgres, as `pg_dump`.
    #[must_use]
    pub fn bin(&self, name: &str) -> PathBuf {
        self.postgres().bin(name)
    }

    /// Runs a program of the same Postgres, which finds this server by itself.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.postgres().client_program(self.bin(program));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port().to_string());
        command.env("PGUSER", SUPERUSER).args(arguments);
        expect(command.output().with_context(|| format!("cannot run {program}")))
    }

    /// Like [`run`](Self::run), for what must succeed: its standard output.
    #[track_caller]
    pub fn run_ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?} failed:\n{complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The guardian stops the server; its process is a child of this one all the same.
        drop(self.guardian.take());
        self.server.reap();
    }
}

fn execute_all(client: &mut Client, sql: &str) -> Result<()> {
    client.batch_execute(sql).with_context(|| format!("failed: {sql}"))
}
