//! The oracle: whatever is done, in whatever order, the counters in shared memory say what the tables
//! say.
//!
//! Random sequences of everything that changes a counter, or what a counter means, are run by three
//! sessions with savepoints, aborts and interleaved transactions, in windows that turn, and with room
//! for so few counters that they are evicted all the time. After each step a session asks twice: as
//! everybody does, and with `ai_limiter.counter_source = 'tables'`. Both answers must be the same in
//! every column. Whenever nothing is open, no counter may drift.
//!
//! A sequence that fails is made shorter before it is reported. `AI_LIMITER_ORACLE_SECONDS` (25) is how long
//! it runs; `AI_LIMITER_ORACLE_SEED` runs the sequence of one seed, with the steps printed.

mod people;
mod sequences;

use std::time::{Duration, Instant};

use ai_limiter_tests::Cluster;
use sequences::{Failure, Step, run, steps};

/// How many steps a sequence has.
const STEPS: usize = 120;

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Servers with room for so many counters: every transaction but the shortest is in bulk mode with 16,
/// some with 100, none with the default.
fn clusters() -> [(u64, Cluster); 3] {
    ["16", "100", "65536"].map(|counters| {
        let builder = Cluster::builder().supabase_roles().setting("fsync", "off");
        let cluster = builder.setting("ai_limiter.max_counters", counters).start();
        (counters.parse().expect("a number"), cluster)
    })
}

/// The shortest part of a failing sequence that was found to fail still.
fn shrunk(cluster: &Cluster, mut steps: Vec<Step>, mut failure: Failure) -> (Vec<Step>, Failure) {
    let deadline = Instant::now() + Duration::from_secs(60);
    steps.truncate(failure.at + 1);
    let mut chunk = steps.len() / 2;
    while chunk > 0 {
        let mut from = 0;
        while from < steps.len() && Instant::now() < deadline {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + chunk).min(steps.len()));
            match run(cluster, &fewer) {
                Err(still) => {
                    fewer.truncate(still.at + 1);
                    (steps, failure) = (fewer, still);
                }
                Ok(()) => from += chunk,
            }
        }
        chunk /= 2;
    }
    (steps, failure)
}

#[test]
fn shared_memory_says_what_the_tables_say_whatever_is_done() {
    let clusters = clusters();
    let first = environment("AI_LIMITER_ORACLE_SEED").unwrap_or(1);
    let seconds = environment("AI_LIMITER_ORACLE_SECONDS").unwrap_or(25);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut sequences = 0;
    for seed in first.. {
        let (counters, cluster) = &clusters[(seed % 3) as usize];
        let steps = steps(seed, STEPS);
        if let Err(failure) = run(cluster, &steps) {
            let (steps, failure) = shrunk(cluster, steps, failure);
            let listed: Vec<String> = steps.iter().map(ToString::to_string).collect();
            panic!(
                "seed {seed}, room for {counters} counters:\n{}\n{}",
                listed.join("\n"),
                failure.what
            );
        }
        sequences += 1;
        if Instant::now() > deadline {
            break;
        }
    }
    assert!(seconds == 0 || sequences >= 6, "only {sequences} sequences in {seconds} s");
}
