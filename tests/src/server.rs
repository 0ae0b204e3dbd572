//! A data directory and the server process on it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::SUPERUSER;
use crate::installation::Postgres;

const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

/// The longest path that the kernel takes for a Unix socket, less the name of the socket.
const SOCKET_DIR_MAX: usize = 107 - "/.s.PGSQL.65535.lock".len();

#[derive(Debug)]
pub struct Server {
    postgres: Postgres,
    dir: PathBuf,
    port: AtomicU16,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// The server whose data directory is, or will be, `dir/data`.
    pub fn new(postgres: Postgres, dir: PathBuf) -> Self {
        Self { postgres, dir, port: AtomicU16::new(0), process: Mutex::new(None) }
    }

    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("server.log")).unwrap_or_default()
    }

    /// Creates the data directory; what is in `settings` wins over what is set here.
    pub fn init(&self, settings: &[(String, String)]) -> Result<()> {
        self.postgres.account().give(&self.dir)?;
        let mut initdb = self.postgres.server_program("initdb", &self.dir);
        initdb.args(["--pgdata", "data", "--username", SUPERUSER, "--auth", "trust"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]);
        succeed(&mut initdb)?;

        let mut lines = String::from(
            "\nlisten_addresses = '127.0.0.1'\nmax_connections = 200\ntimezone = 'UTC'\n\
             log_timezone = 'UTC'\nlc_messages = 'C'\nlog_line_prefix = '%m [%p] %q%u@%d '\n",
        );
        for (name, value) in settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        // A standby gets a copy of all but this file.
        lines.push_str("include 'place.conf'\n");
        let path = self.data().join("postgresql.conf");
        let sample = fs::read_to_string(&path).context("initdb left no postgresql.conf")?;
        self.write(&path, &(sample + &lines))
    }

    /// Creates the data directory as a copy of `primary`'s, which it will follow.
    pub fn init_standby_of(&self, primary: &Self) -> Result<()> {
        self.postgres.account().give(&self.dir)?;
        let mut backup = self.postgres.server_program("pg_basebackup", &self.dir);
        backup.args(["--pgdata", "data", "--host", "127.0.0.1", "--username", SUPERUSER]);
        backup.args(["--port", &primary.port().to_string(), "--checkpoint", "fast"]);
        backup.args(["--write-recovery-conf", "--no-sync"]);
        succeed(&mut backup)
    }

    /// Starts the server and waits until it answers, on the port of last time where there is one.
    pub fn launch(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(process.is_none(), "the server is running already");
        for _ in 0..5 {
            if self.port() == 0 {
                self.port.store(free_port()?, Ordering::Relaxed);
            }
            match self.launch_at(self.port())? {
                Some(child) => {
                    *process = Some(child);
                    return Ok(());
                }
                // Another process was faster to take the port.
                None => self.port.store(0, Ordering::Relaxed),
            }
        }
        bail!("found no free port: {}", self.log())
    }

    fn launch_at(&self, port: u16) -> Result<Option<Child>> {
        // A folder deep down has no socket; all connections of the harness are TCP.
        let socket_dir = match self.dir.to_str() {
            Some(dir) if dir.len() <= SOCKET_DIR_MAX => dir.replace('\'', "''"),
            _ => String::new(),
        };
        let place = format!("port = {port}\nunix_socket_directories = '{socket_dir}'\n");
        self.write(&self.data().join("place.conf"), &place)?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("server.log"))
            .context("cannot open server.log")?;
        let before = self.log().len();
        let mut command = self.postgres.server_program("postgres", &self.dir);
        command.arg("-D").arg(self.data()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C in a terminal stops the tests or the demo; servers are stopped in their own way.
        let mut child = command.process_group(0).spawn().context("cannot start postgres")?;

        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready(child.id()) {
            if child.try_wait()?.is_some() {
                let log = self.log().split_off(before);
                if log.contains("could not bind") {
                    return Ok(None);
                }
                bail!("the server did not start:\n{log}");
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the server was not ready in time:\n{}", self.log().split_off(before));
            }
            sleep(TICK);
        }
        Ok(Some(child))
    }

    /// A server notes its state in its lock file; one that was killed left a file that says ready.
    fn is_ready(&self, pid: u32) -> bool {
        let lock_file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = lock_file.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str())
            && matches!(lines.get(7), Some(&"ready" | &"standby"))
    }

    /// Stops the server as an administrator does: running statements end with an error.
    pub fn stop(&self) -> Result<()> {
        let mut pg_ctl = self.postgres.server_program("pg_ctl", &self.dir);
        succeed(pg_ctl.args(["stop", "--mode", "fast", "--wait", "--silent", "--pgdata", "data"]))?;
        self.reap();
        Ok(())
    }

    /// Kills the server and every process of it at once, as a power failure does; also one that was
    /// started by another process.
    pub fn kill_all(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let child = process.take();
        let pid = match &child {
            Some(child) => child.id().try_into()?,
            None => self.running().context("the server is not running")?.0,
        };
        let postmaster = Pid::from_raw(pid);
        // Stopped, it starts no further process while its children are counted.
        kill(postmaster, Signal::SIGSTOP)?;
        let children = children_of(postmaster)?;
        for &pid in children.iter().chain([&postmaster]) {
            // One that has ended meanwhile is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let is_ours = child.is_some();
        if let Some(mut child) = child {
            child.wait()?;
        }
        // The next server refuses to start while an old process holds the shared memory.
        let deadline = Instant::now() + PATIENCE;
        while children.iter().chain([&postmaster]).any(|&pid| is_alive(pid)) {
            ensure!(Instant::now() < deadline, "a killed process of the server stays");
            sleep(TICK);
        }
        if !is_ours {
            // Whoever inherited it may never wait for it, and the next server would take what is
            // left of it, a zombie, for one that runs.
            let socket_lock = self.dir.join(format!(".s.PGSQL.{}.lock", self.port()));
            for lock_file in [self.data().join("postmaster.pid"), socket_lock] {
                if lock_file.exists() {
                    fs::remove_file(&lock_file)
                        .with_context(|| format!("cannot remove {}", lock_file.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Takes note that the server has ended.
    pub fn reap(&self) {
        let child = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let _ = child.wait();
        }
    }

    /// For a server that was started by another process.
    pub fn port_of_running(&self) -> Option<u16> {
        let (_, port) = self.running()?;
        self.port.store(port, Ordering::Relaxed);
        Some(port)
    }

    /// The process and the port of the server that runs on this data directory.
    fn running(&self) -> Option<(i32, u16)> {
        let lock_file = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let mut lines = lock_file.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let place = format!("/proc/{pid}/cwd");
        // After a crash the file is stale, and the number may be another process's.
        if fs::read_link(place).ok()? != self.data() {
            return None;
        }
        Some((pid, lines.nth(2)?.trim().parse().ok()?))
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.postgres.account().give(path)
    }
}

/// Runs a program and makes what it said the error, should it fail.
pub fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{} failed:\n{}{}",
        command.get_program().to_string_lossy(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("found no free port")?;
    Ok(listener.local_addr()?.port())
}

/// The state and the parent of a process. The name before them may hold anything.
fn state_and_parent(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children_of(parent: Pid) -> Result<Vec<Pid>> {
    let pids = fs::read_dir("/proc").context("cannot list processes")?;
    Ok(pids
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| state_and_parent(pid).is_some_and(|(_, of)| of == parent.as_raw()))
        .map(Pid::from_raw)
        .collect())
}

fn is_alive(pid: Pid) -> bool {
    state_and_parent(pid.as_raw()).is_some_and(|(state, _)| state != 'Z')
}
