//! Many clients at once, and one dollar.

use std::sync::Barrier;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use postgres::Client;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::answer::Answer;
use crate::stage::Stage;

const CLIENTS: usize = 64;

#[derive(Debug)]
pub struct Race {
    pub admitted: usize,
    pub denied: usize,
    /// Of the dollar, what is spent and what is held, as the database says.
    pub settled: Decimal,
    pub held: Decimal,
}

pub fn race(stage: &mut Stage) -> Result<Race> {
    stage.scene(
        "64 clients race for one dollar",
        "Studio North lets its guests try a new feature, for one dollar altogether. 64 clients \
         ask for 5 cents at the same moment, each on a connection of its own. A dollar's worth is \
         20 calls. Every other one that is admitted settles at once, the rest are still running.",
    )?;
    let rule = "INSERT INTO ai_limiter.ai_limits (name, tenant_id, feature, metric, period, amount)
         VALUES ('guest_dollar', :studio, 'guest', 'cost_usd', 'total', 1);";
    let reserve = "SELECT reservation_id
         FROM ai_limiter.reserve_ai_usage(tenant_id => :studio, feature => 'guest', cost_usd => 0.05);";
    stage.run(rule)?;
    stage.show(&format!("{rule}\n{reserve}"))?;

    let admitted = run(stage, &stage.bind(reserve)?)?;
    let counter = stage.run(
        "SELECT used, held FROM ai_limiter.ai_limit_status WHERE limit_name = 'guest_dollar'",
    )?;
    let race = Race {
        admitted,
        denied: CLIENTS - admitted,
        settled: counter.number("used")?,
        held: counter.number("held")?,
    };
    let sum = race.settled + race.held;
    stage.table(&Answer::new(
        &["clients", "admitted", "denied", "settled", "held", "settled + held"],
        vec![vec![
            CLIENTS.to_string(),
            race.admitted.to_string(),
            race.denied.to_string(),
            crate::answer::money(race.settled),
            crate::answer::money(race.held),
            crate::answer::money(sum),
        ]],
    ))?;
    ensure!(sum == Decimal::ONE, "the race did not end at one dollar: {sum} is settled and held");
    ensure!(race.admitted == 20, "a dollar's worth is 20 calls, not {}", race.admitted);
    stage.say("Exactly one dollar (checked).")?;
    Ok(race)
}

/// How many of the clients were admitted.
fn run(stage: &Stage, reserve: &str) -> Result<usize> {
    // All are connected before any begins.
    let clients = (0..CLIENTS).map(|_| stage.connect()).collect::<Result<Vec<Client>>>()?;
    let start = Barrier::new(CLIENTS);
    let start = &start;
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| scope.spawn(move || one(client, number, start, reserve)))
            .collect();
        let mut admitted = 0;
        for thread in threads {
            admitted += thread.join().map_err(|_| anyhow!("a client panicked"))?? as usize;
        }
        Ok(admitted)
    })
}

fn one(mut client: Client, number: usize, start: &Barrier, reserve: &str) -> Result<bool> {
    start.wait();
    let hold: Option<Uuid> = client.query_one(reserve, &[])?.get(0);
    if let Some(hold) = hold
        && number.is_multiple_of(2)
    {
        client.execute("SELECT ai_limiter.settle_ai_usage($1)", &[&hold])?;
    }
    Ok(hold.is_some())
}
