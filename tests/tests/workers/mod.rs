//! Servers with the library preloaded, and what their workers say of themselves.

#![allow(dead_code)] // each test file uses its part

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{Session, wait_until};
use postgres::Client;

/// A server whose worker serves `databases`, each of which exists and has the extension.
#[track_caller]
pub fn server_with_worker(databases: &[&str]) -> Cluster {
    let cluster = preloaded(&databases.join(", ")).start();
    for name in databases {
        cluster.create_database(name).connect().run("CREATE EXTENSION ai_limiter");
    }
    cluster
}

pub fn preloaded(databases: &str) -> ai_limiter_tests::Builder {
    Cluster::builder()
        .setting("shared_preload_libraries", "ai_limiter")
        .setting("ai_limiter.databases", databases)
        .setting("max_prepared_transactions", "2")
        .setting("fsync", "off")
}

/// A column of `ai_limiter_stat` as text; null is empty.
#[track_caller]
pub fn stat(client: &mut Client, column: &str) -> String {
    client.value(&format!("SELECT {column} FROM ai_limiter.ai_limiter_stat"))
}

/// Waits until the worker has finished so many rounds in this database since the server started.
#[track_caller]
pub fn wait_for_rounds(client: &mut Client, count: i64) {
    wait_until("the worker finishes its rounds", || {
        stat(client, "worker_rounds").parse::<i64>().is_ok_and(|rounds| rounds >= count)
    });
}

/// The processes of a kind, `launcher` or `worker`.
pub fn processes(client: &mut Client, kind: &str) -> Vec<i32> {
    client
        .rows(&format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ai_limiter {kind}'"))
        .unwrap()
        .iter()
        .map(|row| row.get(0).unwrap().parse().unwrap())
        .collect()
}
