//! The story of `make demo`, told to the end, and the facts that it claims.

use std::fs;
use std::path::Path;

use ai_limiter_demo::{Facts, ModelCall, Trace, tell};
use ai_limiter_tests::{Cluster, Database, SUPERUSER};
use rust_decimal::Decimal;

fn told(database: &Database, trace: &Trace) -> (Facts, String) {
    let mut out = Vec::new();
    let facts = tell(&database.config(SUPERUSER), trace, &mut out).unwrap();
    (facts, String::from_utf8(out).unwrap())
}

fn usd(text: &str) -> Decimal {
    text.parse().unwrap()
}

#[test]
fn the_demo_shows_what_it_says_and_begins_anew_each_time() {
    let database = Cluster::shared().fresh_database();
    for _ in 0..2 {
        let (facts, text) = told(&database, &Trace::sample());

        assert_eq!(facts.user_stopped_by, "user_daily_cost");
        assert_eq!(facts.run_spent, usd("1.80"));
        assert_eq!(facts.stream_held, (usd("0.75"), usd("0.75")));
        assert_eq!((facts.race.admitted, facts.race.denied), (20, 44));
        assert_eq!(facts.race.settled + facts.race.held, Decimal::ONE);
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
        assert!(replay.settled_usd > Decimal::ZERO && replay.settled_usd < replay.reserved_usd);

        for line in ["    false   | user_daily_cost |      1 |", "Exactly one dollar (checked)."] {
            assert!(text.contains(line), "the text lacks \"{line}\":\n{text}");
        }
        let wide = text.lines().find(|line| line.chars().count() > 130);
        assert_eq!(wide, None, "a line is too long for a terminal");
        assert!(!text.contains('\r'), "standard output is a terminal's");
    }
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

    let (facts, text) = told(&Cluster::shared().fresh_database(), &trace);
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

fn trace(name: &str, text: &str) -> anyhow::Result<Trace> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    Trace::read(&path)
}
