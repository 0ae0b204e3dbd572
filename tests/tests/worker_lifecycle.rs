//! The worker's processes: they come and go with databases, extensions, servers and signals, and are in
//! nobody's way.

mod workers;

use std::thread::sleep;
use std::time::{Duration, Instant};

use ai_limiter_tests::Cluster;
use ai_limiter_tests::calls::{Session, reserve, wait_until};
use postgres::Client;
use workers::{preloaded, processes, server_with_worker, stat, wait_for_rounds};

/// A hold that expires at once, by which one sees whether the worker comes by.
fn bait(client: &mut Client) {
    reserve(client, "cost_usd => 0.01, ttl => '1 millisecond'");
}

const OPEN: &str = "SELECT count(*) FROM ai_limiter.ai_reservations WHERE state = 'open'";

/// Waits until a bait is taken, and so the worker has come by.
#[track_caller]
fn wait_for_the_worker(client: &mut Client) {
    bait(client);
    wait_until("the worker comes by", || client.value(OPEN) == "0");
}

/// Waits until a duty waits for a lock of somebody else.
#[track_caller]
fn wait_for_a_waiting_worker(observer: &mut Client) {
    let waiting = "SELECT count(*) FROM pg_stat_activity \
        WHERE backend_type = 'ai_limiter worker' AND wait_event_type = 'Lock'";
    wait_until("the worker waits for a lock", || observer.value(waiting) == "1");
}

/// Makes one round in this database last until somebody ends it.
fn make_a_round_linger(client: &mut Client) {
    let function = |body: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION public.linger() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN {body} RETURN new; END $$"
        )
    };
    client.run(&function("PERFORM pg_sleep(600);"));
    client.run(
        "CREATE TRIGGER linger BEFORE UPDATE ON ai_limiter.ai_reservations \
         FOR EACH ROW EXECUTE FUNCTION public.linger()",
    );
    bait(client);
    wait_until("a round lingers", || {
        client.value(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ai_limiter worker' \
             AND wait_event = 'PgSleep'",
        ) == "1"
    });
    // That one goes on; the next will not.
    client.run(&function(""));
}

#[test]
fn each_named_database_is_served_and_no_other() {
    let cluster = server_with_worker(&["app", "other"]);
    cluster.create_database("third").connect().run("CREATE EXTENSION ai_limiter");
    for name in ["app", "other"] {
        wait_for_the_worker(&mut cluster.database(name).connect());
    }
    let mut third = cluster.database("third").connect();
    bait(&mut third);
    assert_eq!(stat(&mut third, "worker_state"), "not named");
    wait_for_rounds(&mut cluster.database("app").connect(), 3);
    assert_eq!(third.value(OPEN), "1");
    // Naming it takes a reload.
    let mut admin = cluster.connect();
    admin.run("ALTER SYSTEM SET ai_limiter.databases = 'third, app'");
    admin.run("SELECT pg_reload_conf()");
    wait_until("the third is served", || third.value(OPEN) == "0");
    let mut other = cluster.database("other").connect();
    bait(&mut other);
    wait_for_rounds(&mut third, 3);
    assert_eq!(other.value(OPEN), "1", "the one that is named no more");
}

#[test]
fn a_database_and_an_extension_that_come_later_are_found() {
    let cluster = preloaded("app").start();
    let launcher = |c: &mut Client| processes(c, "launcher").len() == 1;
    let mut admin = cluster.connect();
    wait_until("the launcher runs", || launcher(&mut admin));
    sleep(Duration::from_millis(1500));
    let mut app = cluster.create_database("app").connect();
    sleep(Duration::from_millis(1500));
    app.run("CREATE EXTENSION ai_limiter");
    wait_for_the_worker(&mut app);
    assert!(!cluster.log().contains("FATAL"), "{}", cluster.log());
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn a_database_can_be_dropped_copied_and_renamed_while_it_is_served() {
    let cluster = server_with_worker(&["app", "copy"]);
    let mut admin = cluster.connect();
    for _ in 0..5 {
        let mut app = cluster.database("app").connect();
        bait(&mut app);
        drop(app);
        wait_until("nobody but the worker is connected", || {
            admin.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' \
                AND backend_type = 'client backend'",
            ) == "0"
        });
        admin.run("DROP DATABASE copy");
        admin.run("CREATE DATABASE copy TEMPLATE app");
        admin.run("ALTER DATABASE app RENAME TO moved");
        admin.run("ALTER DATABASE moved RENAME TO app");
        wait_for_the_worker(&mut cluster.database("copy").connect());
        wait_until("nobody but the worker is connected", || {
            admin.value(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy' \
                AND backend_type = 'client backend'",
            ) == "0"
        });
    }
    wait_for_the_worker(&mut cluster.database("app").connect());
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn dropping_a_database_waits_for_a_duty_under_way_and_no_longer() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    make_a_round_linger(&mut app);
    drop(app);
    let mut admin = cluster.connect();
    // Twice as long as DROP DATABASE would wait for those who are connected.
    let mut dropping = cluster.connect();
    let thread = std::thread::spawn(move || dropping.rows("DROP DATABASE app").map(drop));
    sleep(Duration::from_secs(6));
    assert!(!thread.is_finished());
    let pid = processes(&mut admin, "worker")[0];
    admin.run(&format!("SELECT pg_cancel_backend({pid})"));
    thread.join().unwrap().unwrap();
    assert_eq!(admin.value("SELECT count(*) FROM pg_database WHERE datname = 'app'"), "0");
}

#[test]
fn a_forced_drop_ends_a_duty_under_way() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    make_a_round_linger(&mut app);
    drop(app);
    let mut admin = cluster.connect();
    let pid = processes(&mut admin, "worker")[0];
    let mut dropping = cluster.connect();
    let thread =
        std::thread::spawn(move || dropping.rows("DROP DATABASE app WITH (FORCE)").map(drop));
    sleep(Duration::from_millis(500));
    admin.run(&format!("SELECT pg_terminate_backend({pid})"));
    thread.join().unwrap().unwrap();
    // A new one of the name is another database.
    let mut app = cluster.create_database("app").connect();
    app.run("CREATE EXTENSION ai_limiter");
    wait_for_the_worker(&mut app);
}

#[test]
fn an_extension_that_is_dropped_and_created_again_under_the_worker_is_no_error() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    for round in 0..10 {
        bait(&mut app);
        sleep(Duration::from_millis(100 * round));
        app.run("DROP EXTENSION ai_limiter");
        app.run("CREATE EXTENSION ai_limiter");
    }
    wait_for_the_worker(&mut app);
    assert_eq!(stat(&mut app, "last_error"), "");
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn an_extension_that_is_dropped_beneath_a_duty_is_no_error() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    let mut other = cluster.database("app").connect();
    bait(&mut app);
    // A duty that waits for a lock of the DROP finds nothing when it gets it.
    for _ in 0..5 {
        app.run("BEGIN");
        app.run("DROP EXTENSION ai_limiter");
        wait_for_a_waiting_worker(&mut other);
        app.run("COMMIT");
        app.run("CREATE EXTENSION ai_limiter");
    }
    wait_for_the_worker(&mut app);
    let log = cluster.log();
    assert!(!log.contains("does not exist"), "{log}");
}

#[test]
fn altering_the_extension_is_waited_for() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    app.run("BEGIN");
    app.run("ALTER EXTENSION ai_limiter UPDATE");
    app.run("ALTER EXTENSION ai_limiter DROP TABLE ai_limiter.ai_barrier");
    app.run("ALTER EXTENSION ai_limiter ADD TABLE ai_limiter.ai_barrier");
    sleep(Duration::from_secs(2));
    app.run("COMMIT");
    wait_for_the_worker(&mut app);
}

#[test]
fn launcher_and_worker_that_are_terminated_come_back() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    for _ in 0..3 {
        wait_for_the_worker(&mut app);
        let launcher = processes(&mut app, "launcher");
        assert_eq!(launcher.len(), 1);
        app.run(&format!("SELECT pg_terminate_backend({})", launcher[0]));
        wait_until("another launcher", || {
            let now = processes(&mut app, "launcher");
            now.len() == 1 && now != launcher
        });
    }
    make_a_round_linger(&mut app);
    let worker = processes(&mut app, "worker");
    app.run(&format!("SELECT pg_terminate_backend({})", worker[0]));
    wait_until("the worker comes back", || app.value(OPEN) == "0");
}

#[test]
fn a_launcher_that_comes_back_leaves_the_round_under_way_alone() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    make_a_round_linger(&mut app);
    let (launcher, worker) = (processes(&mut app, "launcher"), processes(&mut app, "worker"));
    app.run(&format!("SELECT pg_terminate_backend({})", launcher[0]));
    wait_until("another launcher", || {
        let now = processes(&mut app, "launcher");
        now.len() == 1 && now != launcher
    });
    sleep(Duration::from_millis(2500));
    assert_eq!(processes(&mut app, "worker"), worker, "one round at a time");
    app.run(&format!("SELECT pg_terminate_backend({})", worker[0]));
    wait_until("the new launcher starts a round", || app.value(OPEN) == "0");
}

#[test]
fn a_worker_that_is_killed_restarts_the_server_and_comes_back() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    app.run(
        "CREATE FUNCTION public.once() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_sleep(600); RETURN new; END $$",
    );
    make_a_round_linger(&mut app);
    let worker = processes(&mut app, "worker")[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    wait_until("the server goes down", || app.rows("SELECT 1").is_err());
    let mut app = None;
    wait_until("the server is back", || {
        let tried = cluster.database("app").config("postgres").connect(postgres::NoTls);
        app = tried.ok();
        app.is_some()
    });
    let mut app = app.unwrap();
    wait_until("the worker comes by", || app.value(OPEN) == "0");
}

#[test]
fn a_dump_restores_into_a_database_that_is_served() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    app.run(
        "SELECT ai_limiter.record_ai_usage(cost_usd => 0.01, \
         created_at => now() - make_interval(days => 30 * n)) FROM generate_series(0, 3) n",
    );
    reserve(&mut app, "cost_usd => 0.01, ttl => '1 hour'");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), cluster.run_ok("pg_dump", &["app"])).unwrap();
    let sums = "SELECT (SELECT sum(cost_usd) FROM ai_limiter.ai_usage) + \
        (SELECT sum(cost_usd) FROM ai_limiter.ai_reservations)";
    let before = app.value(sums);
    drop(app);
    for _ in 0..3 {
        let mut admin = cluster.connect();
        admin.run("DROP DATABASE app WITH (FORCE)");
        admin.run("CREATE DATABASE app");
        // Slowly, so that rounds come between its statements.
        let restore =
            format!("sed 's/^CREATE TABLE/SELECT pg_sleep(0.4);\\n&/' {}", file.path().display());
        let psql = format!(
            "{restore} | {} -X -q -o /dev/null -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {} -U postgres app 2>&1",
            cluster.bin("psql").display(),
            cluster.port()
        );
        let output = std::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", &psql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let mut app = cluster.database("app").connect();
        assert_eq!(app.value(sums), before);
        bait(&mut app);
        let expired = "SELECT count(*) FROM ai_limiter.ai_reservations WHERE state = 'expired'";
        wait_until("the worker comes by", || app.value(expired) == "1");
        assert_eq!(stat(&mut app, "last_error"), "");
    }
}

/// A fast shutdown with a duty under way.
#[track_caller]
fn assert_stops_fast(cluster: &Cluster) {
    let started = Instant::now();
    cluster.stop();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "a fast shutdown took {took:?}");
    assert!(cluster.log().contains("database system is shut down"));
}

#[test]
fn a_fast_shutdown_ends_a_long_statement() {
    let cluster = server_with_worker(&["app"]);
    make_a_round_linger(&mut cluster.database("app").connect());
    assert_stops_fast(&cluster);
}

#[test]
fn a_fast_shutdown_ends_a_wait_for_a_lock() {
    let cluster = server_with_worker(&["app"]);
    let mut app = cluster.database("app").connect();
    reserve(&mut app, "cost_usd => 0.01, ttl => '2 seconds'");
    app.run("BEGIN; LOCK TABLE ai_limiter.ai_reservations IN ACCESS EXCLUSIVE MODE");
    wait_for_a_waiting_worker(&mut cluster.connect());
    assert_stops_fast(&cluster);
}

#[test]
fn a_fast_shutdown_ends_an_idle_launcher() {
    let cluster = preloaded("nowhere").start();
    let mut admin = cluster.connect();
    wait_until("the launcher runs", || processes(&mut admin, "launcher").len() == 1);
    assert_stops_fast(&cluster);
}

#[test]
fn a_standby_has_no_worker_until_it_is_promoted() {
    let primary = server_with_worker(&["app"]);
    let mut app = primary.database("app").connect();
    wait_for_the_worker(&mut app);
    let standby = primary.standby();
    standby.catch_up_with(&primary);
    let mut reader = standby.database("app").connect();
    sleep(Duration::from_secs(2));
    assert_eq!(stat(&mut reader, "worker_state"), "standby");
    for kind in ["launcher", "worker"] {
        assert_eq!(processes(&mut reader, kind), [0; 0]);
    }
    drop(app);
    primary.stop();
    reader.run("SELECT pg_promote()");
    wait_for_the_worker(&mut reader);
    assert!(!standby.log().contains("cannot execute"), "{}", standby.log());
}

#[test]
fn without_a_free_process_slot_the_launcher_says_so_and_goes_on() {
    let cluster = Cluster::builder()
        .setting("shared_preload_libraries", "ai_limiter")
        .setting("ai_limiter.databases", "app")
        // The launcher and Postgres's own logical replication launcher take both.
        .setting("max_worker_processes", "2")
        .start();
    let mut app = cluster.create_database("app").connect();
    app.run("CREATE EXTENSION ai_limiter");
    let told = "could not start a round: every slot of max_worker_processes is taken";
    wait_until("the error is told", || stat(&mut app, "last_error") == told);
    bait(&mut app);
    app.run("SELECT pg_sleep(0.01), ai_limiter.refresh_ai_counters()");
    assert_eq!(app.value(OPEN), "0");
}
