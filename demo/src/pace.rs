//! What a verdict costs: the same question answered from memory and from the tables.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use indicatif::HumanCount;

use crate::answer::Answer;
use crate::stage::Stage;
use crate::stat;

/// Today's calls of one user, which the tables have to be summed over.
const HISTORY: u64 = 20_000;
const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(150);

/// Answers a second on one connection, medians of the rounds.
#[derive(Debug)]
pub struct Pace {
    /// Of `SELECT 1`, which asks nothing.
    pub nothing: f64,
    pub memory: f64,
    pub tables: f64,
}

pub fn compare(stage: &mut Stage) -> Result<Pace> {
    stage.scene(
        "What a verdict costs",
        &format!(
            "Dan's agents have been busy: {} more calls of today are put into the ledger. May he \
             make another one? His limits and everybody's are looked at. The counters are in \
             shared memory, so the answer need not read the ledger. SET ai_limiter.counter_source \
             = 'tables' has it read the ledger all the same, to compare.",
            HumanCount(HISTORY)
        ),
    )?;
    stage.run(&format!(
        "INSERT INTO ai_limiter.ai_usage
         (tenant_id, user_id, model, input_tokens, output_tokens, cost_usd)
         SELECT :globex, :dan, 'gpt-5-mini', 400, 100, 0.0003 FROM generate_series(1, {HISTORY})"
    ))?;
    let check = "SELECT allowed, reason, limit_name, remaining
         FROM ai_limiter.check_ai_limit(tenant_id => :globex, user_id => :dan, cost_usd => 0.01);";
    source(stage, "memory")?;
    let from_memory = stage.ask(check)?;
    source(stage, "tables")?;
    ensure!(stage.run(check)? == from_memory, "memory and tables give different verdicts");

    let check = stage.client.prepare(&stage.bind(check)?)?;
    let nothing = stage.client.prepare("SELECT 1")?;
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rates[0].push(rate(stage, &nothing)?);
        source(stage, "memory")?;
        rates[1].push(rate(stage, &check)?);
        source(stage, "tables")?;
        rates[2].push(rate(stage, &check)?);
    }
    stage.run("RESET ai_limiter.counter_source")?;
    let [nothing, memory, tables] = rates.map(median);
    let pace = Pace { nothing, memory, tables };
    report(stage, &pace)?;
    ensure!(memory > tables, "an answer from memory was not faster than one from the tables");
    Ok(pace)
}

fn source(stage: &mut Stage, name: &str) -> Result<()> {
    stage.run(&format!("SET ai_limiter.counter_source = '{name}'"))?;
    Ok(())
}

/// How often a second the statement is answered.
fn rate(stage: &mut Stage, statement: &postgres::Statement) -> Result<f64> {
    // The first one after a change of source plans anew.
    stage.client.query_one(statement, &[])?;
    let started = Instant::now();
    let mut answers = 0_u32;
    while started.elapsed() < TURN {
        stage.client.query_one(statement, &[])?;
        answers += 1;
    }
    Ok(f64::from(answers) / started.elapsed().as_secs_f64())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn report(stage: &mut Stage, pace: &Pace) -> Result<()> {
    let row = |what: &str, rate: f64| {
        let times = rate / pace.tables;
        vec![
            what.to_owned(),
            HumanCount(rate.round() as u64).to_string(),
            HumanCount((1e6 / rate).round() as u64).to_string(),
            if times < 10.0 { format!("{times:.1}") } else { format!("{times:.0}") },
        ]
    };
    stage.table(&Answer::new(
        &["question", "answers a second", "microseconds each", "times the rate of the tables"],
        vec![
            row("check_ai_limit(), from memory", pace.memory),
            row("check_ai_limit(), from the tables", pace.tables),
            row("SELECT 1, for comparison", pace.nothing),
        ],
    ))?;
    let cores = available_parallelism()?;
    stage.say(&format!(
        "Both gave the same verdict. The rates are medians of {ROUNDS} rounds, in turn, on one \
         connection with its round trips, on this machine ({cores} cores) as busy as it is now. \
         The more calls Dan makes, the longer the tables take; from memory it is always the same \
         work. make bench measures with more care. What the limiter has seen since the crash:",
    ))?;
    stat::show(stage)?;
    Ok(())
}
