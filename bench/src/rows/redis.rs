//! Redis, which checks and increments two keys by a script, against `within_ai_limit()`.
//!
//! Redis writes nothing to disk here, and `redis-benchmark` drives it: the fastest that it does.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::measure::{Side, alternate};
use crate::peer::installed;
use crate::pgbench::Load;
use crate::report::{Line, Reach};
use crate::rows::verdicts::{asking, ensure_all_within, rate};
use crate::stage::Stage;

const AGAINST: &str = "Redis, a two-key check-and-increment Lua script, 8 connections";
const SCRIPT: &str = "
    local amount, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
    for _, key in ipairs(KEYS) do
        if tonumber(redis.call('GET', key) or '0') + amount > cap then return 0 end
    end
    for _, key in ipairs(KEYS) do redis.call('INCRBY', key, amount) end
    return 1";

pub fn redis(stage: &Stage) -> Result<Vec<Line>> {
    let plan = stage.plan();
    let Some(server) = installed("redis/redis-server") else {
        return Ok(vec![Line::absent("redis", AGAINST, "not measured: not installed")]);
    };
    let redis = Redis::start(&server)?;
    let database = stage.database(0)?;
    ensure_all_within(&database, plan)?;
    let query = "SELECT ai_limiter.within_ai_limit(user_id => USER)";
    let load = Load::new(stage, &database, 8, &asking(plan, query))?;

    let sha = redis.cli(&["SCRIPT", "LOAD", SCRIPT])?;
    let calls = std::cell::Cell::new(0);
    let call = |requests: u64| {
        calls.set(calls.get() + requests);
        redis.benchmark(&sha, plan.users, requests)
    };
    let first = call(20_000)?;
    let requests = (first * plan.time.as_secs_f64()) as u64;
    let theirs: Side = Box::new(|| call(requests));
    let rounds = alternate(plan.rounds, vec![rate(stage, &load)?, theirs])?;

    ensure_all_within(&database, plan)?;
    let counted: u64 = redis.cli(&["GET", "everybody"])?.parse().context("no count")?;
    ensure!(counted == calls.get(), "{} calls of Redis counted {counted}", calls.get());
    let measured = ("`within_ai_limit()`, 8 clients", 0);
    let line = Line::of_rounds("redis", measured, (AGAINST, 1), &rounds, "/s", Reach::AtLeast(1.0));
    Ok(vec![line])
}

/// A server that keeps nothing, at a Unix socket.
struct Redis {
    child: Child,
    folder: TempDir,
}

impl Redis {
    fn start(server: &std::path::Path) -> Result<Self> {
        let folder = TempDir::new()?;
        // So that it ends with this process, in whatever way that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(server);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(folder.path().join("socket")).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("cannot start Redis")?;
        let redis = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(10);
        while redis.cli(&["PING"]).is_err() {
            ensure!(Instant::now() < deadline, "Redis does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.arg("-s").arg(self.folder.path().join("socket")).args(arguments);
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || text.contains("ERR") {
            bail!("{program} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    fn cli(&self, arguments: &[&str]) -> Result<String> {
        self.output("redis-cli", arguments)
    }

    /// So many calls for random users, one round trip each; calls a second.
    fn benchmark(&self, sha: &str, users: u32, requests: u64) -> Result<f64> {
        let (users, requests) = (users.to_string(), requests.to_string());
        let csv = self.output(
            "redis-benchmark",
            &[
                "--csv",
                "-c",
                "8",
                "-n",
                &requests,
                "-r",
                &users,
                "EVALSHA",
                sha,
                "2",
                "user:__rand_int__",
                "everybody",
                "1",
                "1000000000000",
            ],
        )?;
        let rate = csv.lines().last().and_then(|line| line.split("\",\"").nth(1));
        rate.context("redis-benchmark gives no rate")?.parse().context("not a rate")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
