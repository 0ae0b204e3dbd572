//! The story of `make demo`, told to the end, and the facts that it claims.

use std::fs;
use std::path::Path;
use std::process::Command;

use ai_limiter_demo::{Facts, ModelCall, Race, Trace, tell};
use ai_limiter_tests::{Cluster, SUPERUSER, StandingServer};
use rust_decimal::Decimal;

/// A server like the demo's own.
fn stage() -> Cluster {
    let cluster = Cluster::builder().preloaded().setting("ai_limiter.databases", "demo").start();
    cluster.create_database("demo");
    cluster
}

fn told(cluster: &Cluster, trace: &Trace) -> (Facts, String) {
    let mut out = Vec::new();
    let crash = || {
        cluster.stop_immediately();
        cluster.start_again();
        Ok(())
    };
    let config = cluster.database("demo").config(SUPERUSER);
    let facts = tell(&config, &crash, trace, &mut out).unwrap();
    (facts, String::from_utf8(out).unwrap())
}

/// A dollar in cents among 64 clients, across a crash.
fn assert_fair(race: &Race) {
    assert_eq!((race.admitted, race.denied), (100, 64));
    assert_eq!(race.settled + race.held, Decimal::ONE);
    assert!(race.settled > Decimal::ZERO && race.held > Decimal::ZERO, "{race:?}");

    assert_eq!(race.kept, race.known);
    assert!((24..=64).contains(&race.known.admitted), "{race:?}");
    assert!((8..=32).contains(&race.known.settled), "{race:?}");

    let (before, after) = (&race.stat_before, &race.stat_after);
    assert!(before.worker_rounds >= Decimal::ONE && after.worker_rounds >= Decimal::ONE);
    // The server began anew: all that was admitted before the crash is only in the tables.
    assert_eq!(after.denied, Decimal::from(64));
    let since_crash = Decimal::from(100 - race.known.admitted);
    assert!(after.admitted > Decimal::ZERO && after.admitted <= since_crash, "{race:?}");
    assert!(after.loads >= Decimal::ONE && after.entries >= Decimal::ONE, "{race:?}");
}

fn usd(text: &str) -> Decimal {
    text.parse().unwrap()
}

#[test]
fn the_demo_shows_what_it_says_and_begins_anew_each_time() {
    let cluster = stage();
    for _ in 0..2 {
        let (facts, text) = told(&cluster, &Trace::sample());

        assert_eq!(facts.user_stopped_by, "user_daily_cost");
        assert_eq!(facts.run_spent, usd("1.80"));
        assert_eq!(facts.stream_held, (usd("0.75"), usd("0.75")));
        assert_fair(&facts.race);
        assert_eq!(facts.around_rollback.0, facts.around_rollback.1);
        assert_eq!(facts.drift, Decimal::ZERO);

        let replay = &facts.replay;
        assert_eq!(replay.admitted + replay.denied.values().sum::<u64>(), 400);
        let reasons: Vec<(&str, &str)> =
            replay.denied.keys().map(|(reason, limit)| (reason.as_str(), limit.as_str())).collect();
        assert_eq!(
            reasons,
            [
                ("limit_exceeded", "batch_daily_tokens"),
                ("limit_exceeded", "tenant_daily_cost"),
                ("limit_exceeded", "user_daily_requests"),
                ("model_not_allowed", ""),
            ]
        );
        assert!(facts.pace.memory > facts.pace.tables, "{:?}", facts.pace);
        assert!(replay.settled_usd > Decimal::ZERO && replay.settled_usd < replay.reserved_usd);

        for line in [
            "    false   | user_daily_cost |      1 |",
            "Exactly one dollar, crash or no crash (checked).",
        ] {
            assert!(text.contains(line), "the text lacks \"{line}\":\n{text}");
        }
        let wide = text.lines().find(|line| line.chars().count() > 130);
        assert_eq!(wide, None, "a line is too long for a terminal");
        assert!(!text.contains('\r'), "standard output is a terminal's");
    }
}

#[test]
fn the_demo_ends_when_the_server_does_not_come_back() {
    let cluster = stage();
    let crash = || {
        cluster.stop_immediately();
        anyhow::bail!("it stays down")
    };
    let config = cluster.database("demo").config(SUPERUSER);
    let error = tell(&config, &crash, &Trace::sample(), &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("it stays down"), "{error:#}");
}

#[test]
fn calls_of_a_file_are_replayed_as_they_are() {
    let trace = trace(
        "calls.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    )
    .unwrap();
    let call = |input_tokens, output_tokens| ModelCall { input_tokens, output_tokens };
    assert_eq!(trace.calls, [call(374, 44), call(396, 109)]);

    let (facts, text) = told(&stage(), &trace);
    assert_eq!(facts.replay.admitted + facts.replay.denied.values().sum::<u64>(), 2);
    assert!(text.contains("calls.csv"), "{text}");
}

#[test]
fn another_file_is_refused_with_the_line_that_is_wrong() {
    for (name, text, complaint) in [
        ("column.csv", "a,b\n1,2\n", "ContextTokens"),
        ("number.csv", "ContextTokens,GeneratedTokens\n1,2\n3,-4\n", "line: 3"),
        ("empty.csv", "ContextTokens,GeneratedTokens\n", "has no calls"),
    ] {
        let error = format!("{:#}", trace(name, text).unwrap_err());
        assert!(error.contains(complaint), "{error}");
    }
    let error = format!("{:#}", Trace::read(Path::new("/nowhere/trace.csv")).unwrap_err());
    assert!(error.contains("cannot read /nowhere/trace.csv"), "{error}");
}

#[test]
fn the_demos_server_is_killed_by_another_process_than_started_it_and_stays_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("server");
    let server = env!("CARGO_BIN_EXE_ai_limiter_server");
    let run = |command: &str| {
        let output = Command::new(server).args([command, "--dir"]).arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let url = run("start");
    let standing = StandingServer::running(&dir).unwrap();
    let mut client = standing.database().connect();
    let show = "SELECT current_setting('shared_preload_libraries'),
        current_setting('ai_limiter.databases')";
    let row = client.query_one(show, &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), ("ai_limiter", "demo"));

    standing.crash().unwrap();
    assert!(client.execute("SELECT 1", &[]).is_err());
    standing.database().connect().batch_execute("SELECT 1").unwrap();
    standing.crash().unwrap();
    standing.database().connect().batch_execute("SELECT 1").unwrap();
    // As make psql finds it.
    assert_eq!(run("url"), url);
    assert_eq!(run("start"), url);
    run("stop");
    assert!(!dir.exists());
}

fn trace(name: &str, text: &str) -> anyhow::Result<Trace> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    Trace::read(&path)
}
