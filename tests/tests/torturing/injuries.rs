//! How processes of the server die.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use ai_limiter_tests::calls::{Session, wait_until};
use ai_limiter_tests::{Cluster, Database, Random, SUPERUSER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::{Client, NoTls};

/// Injures the server in one way, and waits until it answers again.
pub fn injure(cluster: &Cluster, database: &Database, random: &mut Random) {
    match random.below(8) {
        0 => {
            cluster.stop_immediately();
            cluster.start_again();
        }
        1 => kill_the_postmaster(cluster),
        2..=3 => {
            for pid in some_backends(database, random, 1) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        4 => {
            for pid in some_backends(database, random, 3) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        5..=6 => {
            for _ in 0..12 {
                for pid in some_backends(database, random, 2) {
                    // As pg_cancel_backend() does.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
                }
                sleep(Duration::from_millis(5));
            }
        }
        _ => {
            let signal = if random.one_in(2) { Signal::SIGKILL } else { Signal::SIGTERM };
            let workers = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE '%ai_limiter%'";
            let mut dying = pids(&mut patient_connection(database), workers);
            if dying.is_empty() {
                dying = some_backends(database, random, 2);
            }
            for pid in dying {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }
    // The postmaster takes a moment to notice.
    sleep(Duration::from_millis(40));
    patient_connection(database);
}

/// A connection, as soon as the server admits one.
pub fn patient_connection(database: &Database) -> Client {
    let mut connection = None;
    wait_until("the server answers again", || {
        connection = database.config(SUPERUSER).connect(NoTls).ok();
        connection.is_some()
    });
    connection.expect("connected")
}

fn pids(client: &mut Client, sql: &str) -> Vec<i32> {
    // The server may be going down at this moment.
    let rows = client.rows(sql).unwrap_or_default();
    rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect()
}

fn some_backends(database: &Database, random: &mut Random, count: usize) -> Vec<i32> {
    let mut pids = pids(
        &mut patient_connection(database),
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
         AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid",
    );
    while pids.len() > count {
        pids.remove(random.below(pids.len() as u64) as usize);
    }
    pids
}

/// Its backends notice by themselves, each when it next waits for something.
fn kill_the_postmaster(cluster: &Cluster) {
    let mut client = patient_connection(&cluster.database("postgres"));
    let file = client.value("SELECT pg_read_file('postmaster.pid')");
    let postmaster: i32 = file.lines().next().and_then(|pid| pid.parse().ok()).expect("a number");
    let children = pids(&mut client, "SELECT pid FROM pg_stat_activity");
    kill(Pid::from_raw(postmaster), Signal::SIGKILL).expect("the postmaster runs");
    wait_until("the orphans are gone", || {
        !children.iter().any(|pid| PathBuf::from(format!("/proc/{pid}/cwd")).exists())
    });
    // Takes note, and finds nobody left.
    cluster.stop_immediately();
    cluster.start_again();
}
