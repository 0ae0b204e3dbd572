//! An upgrade of the library's file without a restart: the server goes on with the library that it was
//! started with, and with the shared memory that this one has laid out.
//!
//! There is one version so far. What stands for the file of another is, in turn, a file that is no
//! library at all, so that whoever read it would fail, and a library of Postgres's own that has a
//! function which the running one lacks.

mod workers;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ai_limiter_tests::calls::{
    Session, agreed, assert_no_drift, assert_sound, backend_pid, disable_shipped_limits, explained,
    reserve, try_extend, wait_until,
};
use ai_limiter_tests::{Cluster, Database, sqlstate};
use postgres::Client;
use workers::{preloaded, stat};

/// A server of its own Postgres, and a database in which everybody together may spend one dollar.
fn server() -> (Cluster, Database) {
    let cluster = preloaded("app").own_postgres().start();
    let app = cluster.create_database("app");
    let mut admin = app.connect();
    admin.run("CREATE EXTENSION ai_limiter");
    disable_shipped_limits(&mut admin);
    admin.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'total', 1)",
    );
    (cluster, app)
}

/// Puts a new file in the library's place, as packages and `cargo pgrx install` do.
fn install(cluster: &Cluster, file: &[u8]) {
    let library = cluster.postgres().library();
    let new = library.with_extension("new");
    fs::write(&new, file).unwrap();
    fs::rename(&new, &library).unwrap();
}

/// A library that Postgres can load, with the C function `citext_hash`, which ours has not.
fn another_library(cluster: &Cluster) -> Vec<u8> {
    fs::read(cluster.postgres().library().with_file_name("citext.so")).unwrap()
}

fn number(client: &mut Client, column: &str) -> i64 {
    stat(client, column).parse().unwrap()
}

/// A session from before and a new one call all there is, and the worker keeps house. `spent` is
/// what the ledger has, in cents, and in the end what it has then.
#[track_caller]
fn assert_goes_on(app: &Database, before: &mut Client, spent: &mut i32) {
    let mut new = app.connect();
    let (admitted, by_tables) =
        (number(&mut new, "admitted"), number(&mut new, "table_path_calls"));
    for client in [before, &mut new] {
        let left = 100 - *spent;
        let all = reserve(client, &format!("cost_usd => {left} / 100.0")).id().to_owned();
        assert!(!reserve(client, "cost_usd => 0.000001").allowed);
        client.run(&format!("SELECT ai_limiter.release_ai_usage('{all}')"));
        let hold = reserve(client, "cost_usd => 0.01").id().to_owned();
        assert!(try_extend(client, &hold, "cost_usd => 0.03").unwrap().allowed);
        client.run(&format!("SELECT ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.02)"));
        *spent += 2;
        let fits =
            |cents: i32| format!("SELECT ai_limiter.within_ai_limit(cost_usd => {cents} / 100.0)");
        assert_eq!(client.value(&fits(100 - *spent)), "t");
        assert_eq!(client.value(&fits(101 - *spent)), "f");
    }
    // Counted in shared memory, in the layout of whoever began it.
    assert_eq!(number(&mut new, "admitted"), admitted + 2 * 3);
    assert_eq!(number(&mut new, "table_path_calls"), by_tables);
    agreed(&mut new, "cost_usd => 0.01");
    assert_sound(&mut new);

    // Each round is a process of its own, which looks for the library by its name.
    let short = reserve(&mut new, "cost_usd => 0.01, ttl => '100 milliseconds'").id().to_owned();
    let state = format!("SELECT state FROM ai_limiter.ai_reservations WHERE id = '{short}'");
    wait_until("the worker marks the hold", || new.value(&state) == "expired");
    assert_sound(&mut new);
}

/// Kills a backend, after which the postmaster makes shared memory anew.
fn crash(app: &Database) {
    let mut client = app.connect();
    let started = "SELECT min(backend_start)::text FROM pg_stat_activity \
                   WHERE backend_type = 'checkpointer'";
    let before = client.value(started);
    let pid = nix::unistd::Pid::from_raw(backend_pid(&mut client));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the server has restarted its processes", || {
        // Any connection may still end with the others.
        let client = app.config("postgres").connect(postgres::NoTls);
        let rows = client.and_then(|mut client| client.rows(started));
        rows.is_ok_and(|rows| rows[0].get(0).is_some_and(|since| since != before))
    });
}

#[test]
fn a_server_goes_on_with_the_library_and_the_memory_that_it_was_started_with() {
    let (cluster, app) = server();
    let good = fs::read(cluster.postgres().library()).unwrap();
    let mut before = app.connect();
    let mut spent = 0;
    assert_goes_on(&app, &mut before, &mut spent);

    for file in [b"no library at all".to_vec(), another_library(&cluster)] {
        // Held across the change of the file, and across the crash.
        let hold = reserve(&mut before, "cost_usd => 0.2").id().to_owned();
        install(&cluster, &file);
        let mut new = app.connect();
        assert!(!reserve(&mut new, &format!("cost_usd => {} / 100.0", 81 - spent)).allowed);
        new.run(&format!("SELECT ai_limiter.settle_ai_usage('{hold}', cost_usd => 0.1)"));
        spent += 10;
        assert_goes_on(&app, &mut before, &mut spent);

        let hold = reserve(&mut before, "cost_usd => 0.2").id().to_owned();
        crash(&app);
        before = app.connect();
        // Begun empty, and loaded from the tables.
        assert_eq!(number(&mut before, "admitted"), 0);
        assert!(!reserve(&mut before, &format!("cost_usd => {} / 100.0", 81 - spent)).allowed);
        before.run(&format!("SELECT ai_limiter.release_ai_usage('{hold}')"));
        assert_goes_on(&app, &mut before, &mut spent);
    }

    // A restart is what reads the file, and so the proof that nobody did before.
    install(&cluster, b"no library at all");
    cluster.stop();
    assert!(catch_unwind(AssertUnwindSafe(|| cluster.start_again())).is_err());
    assert!(cluster.log().contains("could not load library"), "{}", cluster.log());
    install(&cluster, &good);
    cluster.start_again();
    assert_goes_on(&app, &mut app.connect(), &mut spent);
}

#[test]
fn while_the_library_is_missing_only_the_first_call_of_a_session_fails() {
    let (cluster, app) = server();
    let library = cluster.postgres().library();
    let good = fs::read(&library).unwrap();
    let (mut before, mut new) = (app.connect(), app.connect());
    let mut spent = 0;
    assert_goes_on(&app, &mut before, &mut spent);
    fs::remove_file(&library).unwrap();
    let hold = reserve(&mut before, "cost_usd => 0.1").id().to_owned();
    let settle = format!("SELECT ai_limiter.settle_ai_usage('{hold}')");
    let error = new.rows(&settle).unwrap_err();
    assert_eq!(sqlstate(&error), "58P01", "{}", explained(&error));
    assert!(!reserve(&mut before, &format!("cost_usd => {} / 100.0", 91 - spent)).allowed);
    install(&cluster, &good);
    new.run(&settle);
    spent += 10;
    assert_goes_on(&app, &mut before, &mut spent);
}

/// Makes a version `next` of the extension: a table more, and a function of the new library.
fn install_next(cluster: &Cluster, running: &str) {
    let script = format!("share/extension/ai_limiter--{running}--next.sql");
    fs::write(
        cluster.postgres().prefix().join(script),
        "CREATE TABLE ai_limiter.of_next (n int);
         CREATE FUNCTION ai_limiter.of_next(text) RETURNS integer
         LANGUAGE c AS 'MODULE_PATHNAME', 'citext_hash';",
    )
    .unwrap();
    install(cluster, &another_library(cluster));
}

#[test]
fn sql_that_needs_a_newer_library_than_the_running_one_is_refused_and_changes_nothing() {
    let (cluster, app) = server();
    let mut before = app.connect();
    let mut spent = 0;
    assert_goes_on(&app, &mut before, &mut spent);
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'ai_limiter'";
    let running = before.value(version);
    install_next(&cluster, &running);

    let update = "ALTER EXTENSION ai_limiter UPDATE TO 'next'";
    for session in [&mut before, &mut app.connect()] {
        let error = session.rows(update).unwrap_err();
        assert_eq!(sqlstate(&error), "42883", "{}", explained(&error));
        assert!(explained(&error).contains("could not find function \"citext_hash\""));
        assert_eq!(session.value(version), running);
        assert_eq!(session.value("SELECT to_regclass('ai_limiter.of_next')"), "");
    }
    assert_goes_on(&app, &mut before, &mut spent);

    let other = cluster.create_database("other");
    let mut client = other.connect();
    let error = client.rows("CREATE EXTENSION ai_limiter VERSION 'next'").unwrap_err();
    assert_eq!(sqlstate(&error), "42883", "{}", explained(&error));
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'ai_limiter'";
    assert_eq!(client.value(left), "0");
    // The version that is running can be created: its script still fits.
    client.run("CREATE EXTENSION ai_limiter");
    disable_shipped_limits(&mut client);
    client.run(
        "INSERT INTO ai_limiter.ai_limits (name, metric, period, amount) \
         VALUES ('cost', 'cost_usd', 'total', 0.5)",
    );
    assert!(reserve(&mut client, "cost_usd => 0.5").allowed);
    assert!(!reserve(&mut client, "cost_usd => 0.1").allowed);
    assert_no_drift(&mut client);
    assert_goes_on(&app, &mut before, &mut spent);
}
