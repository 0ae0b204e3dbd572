//! Many clients at once, one dollar, and a server that is killed in the middle.

use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rust_decimal::Decimal;

use crate::answer::{Answer, money};
use crate::books;
use crate::guest::{Course, Guest, Known};
use crate::stage::Stage;
use crate::stat::{self, Stat};

const CLIENTS: usize = 64;
/// With so many answers out the server is killed. All others are waited for.
const BEFORE_CRASH: Tally = Tally { admitted: 24, settled: 8 };
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Race {
    /// What the clients had been told before the crash, and what of it was there after it.
    pub known: Tally,
    pub kept: Tally,
    pub admitted: usize,
    pub denied: usize,
    /// Of the dollar, what is spent and what is held, as the database says.
    pub settled: Decimal,
    pub held: Decimal,
    pub stat_before: Stat,
    pub stat_after: Stat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub admitted: usize,
    pub settled: usize,
}

pub fn race(stage: &mut Stage, crash: &dyn Fn() -> Result<()>) -> Result<Race> {
    stage.scene(
        "64 clients race for one dollar, and the server is killed",
        "Studio North lets its guests try a new feature, for one dollar altogether. 64 clients \
         ask for a cent at the same moment, each on a connection of its own, and again until they \
         are told no. A dollar's worth is 100 calls. Every other client settles at once, the calls \
         of the rest are still running. Before anybody asks a second time the server is killed. \
         ($1 is a key that the client makes up for each call.)",
    )?;
    let rule = "INSERT INTO ai_limiter.ai_limits (name, tenant_id, feature, metric, period, amount)
         VALUES ('guest_dollar', :studio, 'guest', 'cost_usd', 'total', 1);";
    let reserve = "SELECT reservation_id FROM ai_limiter.reserve_ai_usage(tenant_id => :studio,
         feature => 'guest', cost_usd => 0.01, idempotency_key => $1);";
    stage.run(rule)?;
    stage.show(&format!("{rule}\n{reserve}"))?;
    stage.say("What the limiter has seen since the server started, before the race:")?;
    let stat_before = stat::show(stage)?;

    let (known, kept, admitted) = run(stage, &stage.bind(reserve)?, crash)?;
    stage.say("After the race. These counts are in memory too, so they began anew:")?;
    let stat_after = stat::show(stage)?;
    let (settled, held) = dollar(stage)?;
    let sum = settled + held;
    stage.table(&Answer::new(
        &["clients", "admitted", "denied", "settled", "held", "settled + held"],
        vec![vec![
            CLIENTS.to_string(),
            admitted.to_string(),
            // Each went on until it was told no.
            CLIENTS.to_string(),
            money(settled),
            money(held),
            money(sum),
        ]],
    ))?;
    ensure!(sum == Decimal::ONE, "the race did not end at one dollar: {sum} is settled and held");
    ensure!(admitted == 100, "a dollar's worth is 100 calls, not {admitted}");
    books::drift(stage)?;
    stage.say("Exactly one dollar, crash or no crash (checked).")?;
    let denied = CLIENTS;
    Ok(Race { known, kept, admitted, denied, settled, held, stat_before, stat_after })
}

/// What was known at the crash, what of it was kept, and how many calls were admitted in all.
fn run(
    stage: &mut Stage,
    reserve: &str,
    crash: &dyn Fn() -> Result<()>,
) -> Result<(Tally, Tally, usize)> {
    // All are connected before any begins.
    let clients = (0..CLIENTS).map(|_| stage.connect()).collect::<Result<Vec<_>>>()?;
    let config = stage.config().clone();
    let course = Course::default();
    let start = Barrier::new(CLIENTS);
    let (config, course, start) = (&config, &course, &start);
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                let guest = Guest { number, client, config, course, reserve };
                scope.spawn(move || {
                    start.wait();
                    guest.race()
                })
            })
            .collect();
        let outcome = await_answers(course, &threads).and_then(|()| fall(stage, course, crash));
        // Whatever happened: nobody may wait for ever.
        course.is_open.get_or_init(|| ());
        let ends: Vec<_> = threads.into_iter().map(ScopedJoinHandle::join).collect();
        // First: what went wrong here is why the clients did not get on.
        let (known, kept) = outcome?;
        let mut admitted = 0;
        for end in ends {
            admitted += end.map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok((known, kept, admitted))
    })
}

fn await_answers(course: &Course, threads: &[ScopedJoinHandle<'_, Result<usize>>]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let known = course.known();
        if known.admitted.len() >= BEFORE_CRASH.admitted
            && known.settled.len() >= BEFORE_CRASH.settled
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the clients get no answers");
        ensure!(!threads.iter().any(ScopedJoinHandle::is_finished), "a client gave up");
        sleep(Duration::from_micros(100));
    }
}

/// Kills the server, and looks what is there when it is back, before any client goes on.
fn fall(
    stage: &mut Stage,
    course: &Course,
    crash: &dyn Fn() -> Result<()>,
) -> Result<(Tally, Tally)> {
    let killed = Instant::now();
    crash().context("cannot kill the server and start it again")?;
    let away = killed.elapsed().as_secs_f64();
    stage.reconnect()?;
    let known = course.known();
    stage.say(&format!(
        "In the middle of it every process of the server was killed (SIGKILL). It was back after \
         {away:.1} seconds. What the clients had been told until then, and what of it is there \
         before any of them goes on:",
    ))?;
    let (told, kept) = (
        Tally { admitted: known.admitted.len(), settled: known.settled.len() },
        kept(stage, &known)?,
    );
    let (settled, held) = dollar(stage)?;
    let row = |what: &str, told: usize, kept: usize| {
        vec![what.to_owned(), told.to_string(), kept.to_string()]
    };
    stage.table(&Answer::new(
        &["calls", "told before the crash", "there after it"],
        vec![
            row("admitted", told.admitted, kept.admitted),
            row("settled", told.settled, kept.settled),
        ],
    ))?;
    stage.say(&format!(
        "With those whose answer was on its way, {} dollars are settled and {} held. Memory was \
         lost, so the counters are loaded from the tables. The clients connect again and go on; \
         one that had no answer sends its call again with the same key, which counts once.",
        money(settled),
        money(held),
    ))?;
    ensure!(kept == told, "what was told before the crash is not there after it");
    ensure!(settled + held <= Decimal::ONE, "more than the dollar was admitted");
    Ok((told, kept))
}

/// How many of these calls are in the tables, each counted as often as it is there.
fn kept(stage: &mut Stage, known: &Known) -> Result<Tally> {
    let row = stage.client.query_one(
        "SELECT (SELECT count(*) FROM (SELECT id FROM ai_limiter.ai_usage UNION ALL
                 SELECT id FROM ai_limiter.ai_reservations WHERE state = 'open') AS calls
                 WHERE id = ANY ($1)),
                (SELECT count(*) FROM ai_limiter.ai_usage WHERE id = ANY ($2))",
        &[&known.admitted, &known.settled],
    )?;
    let count = |column| usize::try_from(row.get::<_, i64>(column));
    Ok(Tally { admitted: count(0)?, settled: count(1)? })
}

/// What of the dollar is settled, and what is held.
fn dollar(stage: &mut Stage) -> Result<(Decimal, Decimal)> {
    let counter = stage.run(
        "SELECT used, held FROM ai_limiter.ai_limit_status WHERE limit_name = 'guest_dollar'",
    )?;
    Ok((counter.number("used")?, counter.number("held")?))
}
