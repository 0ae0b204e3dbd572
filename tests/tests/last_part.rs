//! In the last part of a limit calls are held for the most that they may cost, so that it is not overrun.
//! On both paths, and whoever else reserves at the same instant.

mod taught;

use std::sync::Barrier;

use ai_limiter_tests::calls::{Session, assert_sound, reserve};
use ai_limiter_tests::waiting::Path;
use taught::{admit, newest_hold, taught};

#[test]
fn the_last_part_of_a_limit_is_held_at_the_maximum() {
    for path in Path::BOTH {
        let database = taught(path);
        let mut client = database.connect();
        // 8.3 dollars and a likely one reach into the last of ten.
        let call = "model => 'm', output_tokens => 15";
        admit(&mut client, "cost_usd => 0.3");
        for _ in 0..8 {
            admit(&mut client, call);
            assert_eq!(newest_hold(&mut client), "10 1 of 15 1.5", "{path:?}");
        }
        let asked = "SELECT estimated_cost_usd FROM ai_limiter.check_ai_limit(model => 'm', output_tokens => 15)";
        assert_eq!(client.value(asked), "1.5", "who asks is told what would be held");
        admit(&mut client, call);
        assert_eq!(newest_hold(&mut client), "15 1.5 of 15 1.5", "{path:?}");
        assert!(!reserve(&mut client, call).allowed, "{path:?}");
        assert_sound(&mut client);
        // What is given back is there again.
        client.run("SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations");
        admit(&mut client, call);
        assert_eq!(newest_hold(&mut client), "10 1 of 15 1.5", "{path:?}");
    }
}

#[test]
fn a_maximum_above_the_limit_is_no_obstacle_until_its_last_part() {
    for path in Path::BOTH {
        let database = taught(path);
        let mut client = database.connect();
        let call = "model => 'm', output_tokens => 2000";
        admit(&mut client, call);
        assert_eq!(newest_hold(&mut client), "10 1 of 2000 200", "{path:?}");
        // What is likely would fit beside this, and the maximum does not.
        admit(&mut client, "cost_usd => 7.5");
        assert!(!reserve(&mut client, call).allowed, "{path:?}");
        assert_sound(&mut client);
    }
}

#[test]
fn clients_at_once_hold_the_maximum_from_the_same_point_on() {
    for path in Path::BOTH {
        let database = taught(path);
        let mut client = database.connect();
        admit(&mut client, "cost_usd => 0.3");
        let admitted = database.clients(8, |_, client| {
            (0..6).filter(|_| reserve(client, "model => 'm', output_tokens => 15").allowed).count()
        });
        assert_eq!(admitted.iter().sum::<usize>(), 9, "{path:?}");
        let holds = "SELECT string_agg(trim_scale(cost_usd)::text, ' ' ORDER BY cost_usd) FROM ai_limiter.ai_reservations";
        assert_eq!(client.value(holds), "0.3 1 1 1 1 1 1 1 1 1.5", "{path:?}");
        assert_sound(&mut client);
    }
}

#[test]
fn of_two_clients_at_the_same_instant_one_holds_the_maximum() {
    const CLIENTS: usize = 8;
    let database = taught(Path::Memory);
    let mut admin = database.connect();
    admit(&mut admin, "cost_usd => 7.3");
    let turn = Barrier::new(CLIENTS);
    let rounds = database.clients(CLIENTS, |number, client| {
        let mut rounds = Vec::new();
        for _ in 0..300 {
            turn.wait();
            reserve(client, "model => 'm', output_tokens => 15");
            turn.wait();
            if number == 0 {
                rounds.push(client.value(
                    "SELECT string_agg(trim_scale(cost_usd)::text, ' ' ORDER BY created_at) \
                     FROM ai_limiter.ai_reservations WHERE state = 'open' AND model IS NOT NULL",
                ));
                client.run(
                    "SELECT ai_limiter.release_ai_usage(id) FROM ai_limiter.ai_reservations \
                     WHERE state = 'open' AND model IS NOT NULL",
                );
            }
            turn.wait();
        }
        rounds
    });
    let mut seen: Vec<String> = rounds.into_iter().flatten().collect();
    seen.sort_unstable();
    seen.dedup();
    // Nine dollars are where the last part begins: 7.3 and 1, and then 1.5.
    assert_eq!(seen, ["1 1.5"]);
    assert_sound(&mut admin);
}

#[test]
fn shadow_mode_and_warnings_admit_at_what_is_likely_or_the_maximum() {
    let database = taught(Path::Memory);
    let mut client = database.connect();
    client.run("SET ai_limiter.mode = 'off'");
    admit(&mut client, "model => 'm', output_tokens => 2000");
    assert_eq!(newest_hold(&mut client), "10 1 of 2000 200");
    admit(&mut client, "cost_usd => 8");
    client.run("SET ai_limiter.mode = 'shadow'");
    admit(&mut client, "model => 'm', output_tokens => 2000");
    assert_eq!(newest_hold(&mut client), "2000 200 of 2000 200");
    client.run("RESET ai_limiter.mode");
    client.run("UPDATE ai_limiter.ai_limits SET action = 'warn' WHERE name = 'cost'");
    admit(&mut client, "model => 'm', output_tokens => 2000");
    assert_eq!(newest_hold(&mut client), "10 1 of 2000 200");
}
