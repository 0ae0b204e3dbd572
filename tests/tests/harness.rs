//! The harness keeps what it promises: servers that start anywhere, also as root, recover, follow
//! each other, and never outlive the tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ai_limiter_tests::{Cluster, Postgres, sqlstate};
use postgres::Client;

fn show(client: &mut Client, setting: &str) -> String {
    client.query_one(&format!("SHOW {setting}"), &[]).unwrap().get(0)
}

fn data_directory(cluster: &Cluster) -> PathBuf {
    show(&mut cluster.connect(), "data_directory").into()
}

fn is_gone(data: &Path) -> bool {
    let stands_there = |entry: fs::DirEntry| {
        fs::read_link(entry.path().join("cwd")).is_ok_and(|place| place.starts_with(data))
    };
    let has_process = fs::read_dir("/proc").unwrap().flatten().any(stands_there);
    !data.parent().unwrap().exists() && !has_process
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not true in time: {what}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_has_its_settings_and_is_removed_at_the_end() {
    let cluster = Cluster::builder().setting("application_name", "it's").start();
    let mut client = cluster.connect();
    assert_eq!(show(&mut client, "application_name"), "it's");
    assert_eq!(show(&mut client, "max_connections"), "200");
    assert_eq!(show(&mut client, "fsync"), "on");
    assert!(
        show(&mut client, "server_version")
            .starts_with(&format!("{}.", cluster.postgres().version()))
    );

    let data = data_directory(&cluster);
    drop(cluster);
    assert!(is_gone(&data));
}

#[test]
fn a_server_runs_without_root() {
    let data = data_directory(Cluster::shared());
    let lock_file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let process = format!("/proc/{}", lock_file.lines().next().unwrap());
    assert_ne!(fs::metadata(process).unwrap().uid(), 0);
}

#[test]
fn a_crash_loses_nothing_that_was_committed() {
    let cluster = Cluster::start();
    let mut client = cluster.connect();
    client.batch_execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").unwrap();
    let mut open = client.transaction().unwrap();
    open.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    cluster.stop_immediately();
    assert!(open.batch_execute("SELECT 1").is_err());

    cluster.start_again();
    let row = cluster.connect().query_one("SELECT array_agg(i) FROM t", &[]).unwrap();
    assert_eq!(row.get::<_, Vec<i32>>(0), [1]);
    assert!(cluster.log().contains("was not properly shut down"));
}

#[test]
fn a_server_restarts_at_the_same_address() {
    let cluster = Cluster::start();
    let url = cluster.url();
    cluster.stop();
    cluster.start_again();
    assert_eq!(cluster.url(), url);
    cluster.connect().batch_execute("SELECT 1").unwrap();
}

#[test]
fn a_standby_follows_and_only_reads() {
    let primary = Cluster::start();
    let standby = primary.standby();
    primary.connect().batch_execute("CREATE TABLE t AS SELECT 1 AS i").unwrap();
    standby.catch_up_with(&primary);
    let mut client = standby.connect();
    assert_eq!(client.query_one("SELECT i FROM t", &[]).unwrap().get::<_, i32>(0), 1);
    let error = client.batch_execute("INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
}

#[test]
fn clients_run_at_once_and_answer_in_order() {
    let begun = AtomicUsize::new(0);
    let results = Cluster::shared().database("postgres").clients(20, |number, client| {
        begun.fetch_add(1, Ordering::SeqCst);
        wait_until("all clients run", || begun.load(Ordering::SeqCst) == 20);
        let row = client.query_one("SELECT $1::text", &[&number.to_string()]).unwrap();
        row.get::<_, String>(0)
    });
    assert_eq!(results, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn programs_of_postgres_find_the_server() {
    let cluster = Cluster::shared();
    assert_eq!(cluster.run_ok("psql", &["-XAtc", "SELECT 1 + 1", "postgres"]), "2\n");
    let output = cluster.run("psql", &["-Xc", "SELECT 1 / 0", "postgres"]);
    assert!(!output.status.success());
}

#[test]
fn fresh_databases_have_the_extension_and_nothing_of_each_other() {
    let cluster = Cluster::shared();
    let (one, other) = (cluster.fresh_database(), cluster.fresh_database());
    one.connect().batch_execute("CREATE TABLE only_here ()").unwrap();
    let mut client = other.connect();
    let query = "SELECT count(*) FROM pg_extension WHERE extname = 'ai_limiter'";
    assert_eq!(client.query_one(query, &[]).unwrap().get::<_, i64>(0), 1);
    let error = client.batch_execute("SELECT FROM only_here").unwrap_err();
    assert_eq!(sqlstate(&error), "42P01");

    let name = one.name().to_owned();
    drop(one);
    let query = "SELECT count(*) FROM pg_database WHERE datname = $1";
    assert_eq!(cluster.connect().query_one(query, &[&name]).unwrap().get::<_, i64>(0), 0);
}

/// Set for the process that the tests below start.
const CHILD: &str = "AI_LIMITER_TESTS_CHILD";

/// Not a test by itself: what that process does until it is ended.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let postgres = Cluster::shared().postgres().prefix().to_owned();
    println!("\n{}\n{}", data_directory(Cluster::shared()).display(), postgres.display());
    // Until the end of the input: either the test says so, or it is gone itself.
    std::io::stdin().lines().for_each(drop);
}

/// That process, the data directory of its server, and the Postgres that it runs.
fn start_child(environment: &[(&str, &Path)]) -> (Child, PathBuf, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let data = lines.find(|line| line.starts_with('/')).expect("the child starts a server");
    let postgres = lines.next().unwrap();
    (child, data.into(), postgres.into())
}

#[test]
fn a_shared_server_ends_with_its_process() {
    let (mut child, data, _) = start_child(&[]);
    assert!(data.exists());
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    wait_until("the server is gone", || is_gone(&data));
}

#[test]
fn no_server_outlives_tests_that_are_killed() {
    let (mut child, data, _) = start_child(&[]);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the server is gone", || is_gone(&data));
}

#[test]
fn a_clone_that_is_closed_to_the_servers_user_is_no_obstacle() {
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let prefix = closed.path().join("postgres");
    symlink(Postgres::installed().unwrap().prefix(), &prefix).unwrap();

    let (mut child, data, postgres) = start_child(&[("AI_LIMITER_POSTGRES_PREFIX", &prefix)]);
    // Only root starts the server as somebody else, to whom the folder is closed.
    if fs::metadata(closed.path()).unwrap().uid() == 0 {
        assert_ne!(postgres, prefix);
        assert!(postgres.join("bin/postgres").exists());
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    wait_until("the server is gone", || is_gone(&data));
    wait_until("the copy is gone", || postgres == prefix || !postgres.exists());
}
