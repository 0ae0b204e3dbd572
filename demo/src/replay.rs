//! A trace of model calls, replayed by several connections as fast as they get their answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::HumanCount;
use postgres::Client;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::answer::{Answer, money};
use crate::cast::{MODELS, TENANTS};
use crate::progress::Progress;
use crate::stage::Stage;
use crate::trace::{ModelCall, Trace};

/// What the app allows a model to answer; calls reserve this, as their length is not known yet.
const MAX_OUTPUT_TOKENS: i64 = 1_000;
const CONNECTIONS: usize = 8;

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Replay {
    pub admitted: u64,
    /// By reason and limit.
    pub denied: BTreeMap<(String, String), u64>,
    pub settled_usd: Decimal,
    pub reserved_usd: Decimal,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub took: Duration,
}

/// A call of the trace, and who makes it.
struct Call {
    size: ModelCall,
    tenant: Uuid,
    user: Uuid,
    model: &'static str,
    feature: &'static str,
}

pub fn replay(stage: &mut Stage, trace: &Trace) -> Result<Replay> {
    let calls = spread(stage, trace)?;
    stage.scene(
        "A trace of model calls",
        &format!(
            "{} calls ({}) are replayed by {CONNECTIONS} connections, as fast as they get their \
             answers: each reserves {} output tokens and settles what the model generated. They \
             are spread over users of the three tenants and both models. These rules are added, so that there is something to refuse:",
            HumanCount(calls.len() as u64),
            trace.source,
            HumanCount(MAX_OUTPUT_TOKENS as u64),
        ),
    )?;
    let rules = format!(
        "UPDATE ai_limiter.ai_tiers SET allowed_models = '{{gpt-5-mini}}' WHERE tier = 'free';
         INSERT INTO ai_limiter.ai_limits (name, tenant_id, feature, per, metric, period, amount) VALUES
         ('tenant_daily_cost', :studio, NULL, '{{tenant}}', 'cost_usd', 'day', {}),
         ('batch_daily_tokens', :globex, 'batch', '{{}}', 'total_tokens', 'day', {});",
        money(Decimal::ONE + Decimal::new(8 * calls.len() as i64, 4).round_dp(2)),
        60 * calls.len(),
    );
    stage.show(&rules)?;
    stage.run(&rules)?;

    let (rows, settled) = ledger(stage)?;
    let replay = run(stage, &calls)?;
    let (rows_after, settled_after) = ledger(stage)?;
    report(stage, &replay)?;
    let answered = replay.admitted + replay.denied.values().sum::<u64>();
    ensure!(answered == calls.len() as u64, "{answered} of {} calls were answered", calls.len());
    ensure!(rows_after - rows == Decimal::from(replay.admitted), "the ledger misses calls");
    ensure!(settled_after - settled == replay.settled_usd, "the ledger has another sum");
    Ok(replay)
}

/// Gives each call a caller, the same every time.
fn spread(stage: &mut Stage, trace: &Trace) -> Result<Vec<Call>> {
    let count = trace.calls.len();
    // So few that the free ones meet their fifty requests a day.
    let users = [(count / 500).max(1), 3 + count / 1_000, 3 + count / 1_000];
    let tiers = ["free", "pro", "enterprise"];
    let mut crowd: Vec<(Uuid, Vec<Uuid>)> = Vec::new();
    for (number, (_, tenant)) in TENANTS.iter().enumerate() {
        let tenant: Uuid = tenant.parse().context("a tenant's uuid")?;
        let user = |user: usize| Uuid::from_u128(tenant.as_u128() + 0x1000 + user as u128);
        let users: Vec<Uuid> = (0..users[number]).map(user).collect();
        stage.client.execute(
            "INSERT INTO ai_limiter.ai_accounts (tenant_id, user_id, tier)
             SELECT $1, unnest($2::uuid[]), $3",
            &[&tenant, &users, &tiers[number]],
        )?;
        crowd.push((tenant, users));
    }
    let mut random = fastrand::Rng::with_seed(2026);
    let call = |&size: &ModelCall| {
        let (tenant, users) = &crowd[random.usize(..crowd.len())];
        Call {
            size,
            tenant: *tenant,
            user: users[random.usize(..users.len())],
            model: MODELS[random.usize(..MODELS.len())],
            feature: ["chat", "chat", "chat", "batch"][random.usize(..4)],
        }
    };
    Ok(trace.calls.iter().map(call).collect())
}

/// All connections take calls from one queue.
fn run(stage: &Stage, calls: &[Call]) -> Result<Replay> {
    let clients = (0..CONNECTIONS).map(|_| stage.connect()).collect::<Result<Vec<Client>>>()?;
    let progress = Progress::new(calls.len() as u64);
    let next = AtomicUsize::new(0);
    let (progress, next) = (&progress, &next);
    let started = Instant::now();
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || work(client, calls, next, progress)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Replay>>| {
            thread.join().map_err(|_| anyhow!("a connection of the replay panicked"))?
        };
        threads.into_iter().map(join).collect::<Vec<Result<Replay>>>()
    });
    let took = started.elapsed();
    progress.finish();
    let mut all = Replay { took, ..Replay::default() };
    for part in parts {
        all.add(part?);
    }
    Ok(all)
}

fn work(
    mut client: Client,
    calls: &[Call],
    next: &AtomicUsize,
    progress: &Progress,
) -> Result<Replay> {
    let reserve = client.prepare(
        "SELECT reservation_id, reason, limit_name, estimated_cost_usd
         FROM ai_limiter.reserve_ai_usage(tenant_id => $1, user_id => $2, model => $3,
             feature => $4, input_tokens => $5, output_tokens => $6)",
    )?;
    let settle = client.prepare(
        "SELECT cost_usd FROM ai_limiter.settle_ai_usage($1, input_tokens => $2, output_tokens => $3)",
    )?;
    let mut done = Replay::default();
    while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
        let (input, output) =
            (i64::from(call.size.input_tokens), i64::from(call.size.output_tokens));
        let verdict = client.query_one(
            &reserve,
            &[&call.tenant, &call.user, &call.model, &call.feature, &input, &MAX_OUTPUT_TOKENS],
        );
        let verdict = verdict.inspect_err(|_| next.store(calls.len(), Ordering::Relaxed))?;
        if let Some(hold) = verdict.get::<_, Option<Uuid>>(0) {
            let settled = client.query_one(&settle, &[&hold, &input, &output]);
            let settled = settled.inspect_err(|_| next.store(calls.len(), Ordering::Relaxed))?;
            done.admitted += 1;
            done.settled_usd += settled.get::<_, Decimal>(0);
            done.reserved_usd += verdict.get::<_, Decimal>(3);
            done.input_tokens += input;
            done.output_tokens += output;
        } else {
            let limit: Option<String> = verdict.get(2);
            *done.denied.entry((verdict.get(1), limit.unwrap_or_default())).or_default() += 1;
        }
        progress.one_more();
    }
    Ok(done)
}

impl Replay {
    fn add(&mut self, part: Self) {
        self.admitted += part.admitted;
        for (why, calls) in part.denied {
            *self.denied.entry(why).or_default() += calls;
        }
        self.settled_usd += part.settled_usd;
        self.reserved_usd += part.reserved_usd;
        self.input_tokens += part.input_tokens;
        self.output_tokens += part.output_tokens;
    }
}

/// How many rows the ledger has, and what they cost.
fn ledger(stage: &mut Stage) -> Result<(Decimal, Decimal)> {
    let sql =
        "SELECT count(*) AS calls, coalesce(sum(cost_usd), 0) AS cost FROM ai_limiter.ai_usage";
    let answer = stage.run(sql)?;
    Ok((answer.number("calls")?, answer.number("cost")?))
}

fn report(stage: &mut Stage, replay: &Replay) -> Result<()> {
    let count = |calls: u64| HumanCount(calls).to_string();
    let total = replay.admitted + replay.denied.values().sum::<u64>();
    let mut rows = vec![vec!["admitted".to_owned(), String::new(), count(replay.admitted)]];
    for ((reason, limit), calls) in &replay.denied {
        rows.push(vec![format!("denied: {reason}"), limit.clone(), count(*calls)]);
    }
    stage.table(&Answer::new(&["outcome", "limit", "calls"], rows))?;
    let seconds = replay.took.as_secs_f64();
    stage.table(&Answer::new(
        &[
            "settled USD",
            "reserved USD",
            "input tokens",
            "output tokens",
            "seconds",
            "calls a second",
        ],
        vec![vec![
            money(replay.settled_usd),
            money(replay.reserved_usd),
            count(replay.input_tokens.unsigned_abs()),
            count(replay.output_tokens.unsigned_abs()),
            format!("{seconds:.1}"),
            count((total as f64 / seconds).round() as u64),
        ]],
    ))
}
