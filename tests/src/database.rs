//! One database of a server.

use anyhow::{Context, Result};
use postgres::{Client, Config, NoTls, Row};

use crate::{SUPERUSER, expect};

/// A handle to connect by; a fresh one drops its database when it is dropped.
#[derive(Debug)]
pub struct Database {
    port: u16,
    name: String,
    dropped_at_end: bool,
}

impl Database {
    pub(crate) fn new(port: u16, name: &str) -> Self {
        Self { port, name: name.to_owned(), dropped_at_end: false }
    }

    pub(crate) fn dropped_at_end(mut self) -> Self {
        self.dropped_at_end = true;
        self
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For programs that take an address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgresql://{SUPERUSER}@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// To connect with options of one's own.
    #[must_use]
    pub fn config(&self, role: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(role).dbname(&self.name);
        config
    }

    /// A connection as the superuser.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.connect_as(SUPERUSER)
    }

    /// A connection of a role that may log in.
    #[track_caller]
    pub fn connect_as(&self, role: &str) -> Client {
        expect(self.try_connect(role))
    }

    pub(crate) fn try_connect(&self, role: &str) -> Result<Client> {
        self.config(role)
            .connect(NoTls)
            .with_context(|| format!("cannot connect to {} as {role}", self.url()))
    }

    /// Runs `work` in `count` threads, each with a connection of its own as the superuser.
    /// See [`clients`](crate::clients()).
    #[track_caller]
    pub fn clients<T: Send>(
        &self,
        count: usize,
        work: impl Fn(usize, &mut Client) -> T + Sync,
    ) -> Vec<T> {
        crate::clients(count, |_| self.connect(), work)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.dropped_at_end {
            // The server may have been stopped, and what is left goes with it.
            let _ = Self::new(self.port, "postgres").try_connect(SUPERUSER).map(|mut client| {
                client.batch_execute(&format!("DROP DATABASE \"{}\" WITH (FORCE)", self.name))
            });
        }
    }
}

/// The only row of a query.
pub fn only_row(client: &mut Client, sql: &str) -> Result<Row> {
    client.query_one(sql, &[]).with_context(|| format!("failed: {sql}"))
}
