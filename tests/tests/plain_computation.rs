//! Verdicts and standings against a plain computation: a list of charges and holds, summed anew for
//! each question by this test alone.

mod people;

use ai_limiter_tests::Cluster;
use people::{ask, drift, id, run};
use postgres::Client;

/// A cent, in the unit of the sums here.
type Cents = i64;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Released,
    Settled,
}

/// One call; of an earlier month when it is old.
struct Entry {
    reservation: String,
    tenant: u32,
    user: Option<u32>,
    cost: Cents,
    requests: i64,
    old: bool,
    state: State,
}

/// What counts which calls, and how much is allowed.
struct Cap {
    name: &'static str,
    per: &'static str,
    period: &'static str,
    metric: &'static str,
    amount: i64,
}

const CAPS: [Cap; 6] = [
    Cap { name: "all_cost", per: "", period: "month", metric: "cost_usd", amount: 3_000 },
    Cap { name: "tenant_cost", per: "tenant", period: "total", metric: "cost_usd", amount: 1_900 },
    Cap { name: "tenant_requests", per: "tenant", period: "month", metric: "requests", amount: 75 },
    Cap { name: "user_cost", per: "user", period: "month", metric: "cost_usd", amount: 700 },
    Cap { name: "user_requests", per: "user", period: "total", metric: "requests", amount: 40 },
    Cap { name: "at_once", per: "user", period: "total", metric: "concurrent", amount: 9 },
];

impl Cap {
    fn counts(&self, entry: &Entry, tenant: u32, user: Option<u32>) -> bool {
        let same = match self.per {
            "tenant" => entry.tenant == tenant,
            "user" => user.is_some() && (entry.tenant, entry.user) == (tenant, user),
            _ => true,
        };
        same && !(self.period == "month" && entry.old)
    }

    fn speaks_of(&self, user: Option<u32>) -> bool {
        self.per != "user" || user.is_some()
    }

    fn size(&self, entry: &Entry) -> i64 {
        if self.metric == "cost_usd" { entry.cost } else { entry.requests }
    }

    /// Settled and held, before a call of the account.
    fn standing(&self, entries: &[Entry], tenant: u32, user: Option<u32>) -> (i64, i64) {
        let sum = |state| {
            let counted = entries.iter().filter(|e| e.state == state);
            counted.filter(|e| self.counts(e, tenant, user)).map(|e| self.size(e)).sum::<i64>()
        };
        let used = if self.metric == "concurrent" { 0 } else { sum(State::Settled) };
        (used, sum(State::Open))
    }

    /// A number of this cap as SQL prints it.
    fn shown(&self, number: i64) -> String {
        if self.metric != "cost_usd" {
            return number.to_string();
        }
        let text = format!("{}.{:02}", number / 100, number % 100);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

struct Model {
    client: Client,
    entries: Vec<Entry>,
    random: u64,
    admitted: u32,
    denied: u32,
}

impl Model {
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % n
    }

    fn account(&mut self) -> (u32, Option<u32>) {
        let tenant = 1 + self.below(2) as u32;
        let user = 1 + self.below(4) as u32;
        (tenant, (user < 4).then_some(user))
    }

    /// Whether every cap has room for this in place of what `replaced` holds.
    fn fits(&self, call: &Entry, replaced: Option<usize>) -> bool {
        CAPS.iter().filter(|cap| cap.speaks_of(call.user)).all(|cap| {
            let (used, held) = cap.standing(&self.entries, call.tenant, call.user);
            let before = replaced.map_or(0, |i| cap.size(&self.entries[i]));
            let size = cap.size(call);
            size == 0 || used + held - before + size <= cap.amount
        })
    }

    fn reserve(&mut self) {
        let (tenant, user) = self.account();
        let (cost, requests) = (self.below(90) as i64, 1 + self.below(3) as i64);
        let mut call = Entry {
            reservation: String::new(),
            tenant,
            user,
            cost,
            requests,
            old: false,
            state: State::Open,
        };
        let fits = self.fits(&call, None);
        let sql = format!(
            "SELECT reservation_id FROM ai_limiter.reserve_ai_usage({}, cost_usd => {cost} * 0.01,
                requests => {requests})",
            account_sql(tenant, user)
        );
        call.reservation = ask(&mut self.client, &sql);
        assert_eq!(!call.reservation.is_empty(), fits, "{sql}");
        match fits {
            true => self.entries.push(call),
            false => self.denied += 1,
        }
        self.admitted += u32::from(fits);
    }

    fn record(&mut self) {
        let (tenant, user) = self.account();
        let (cost, requests, old) = (self.below(60) as i64, 1, self.below(4) == 0);
        let at = match old {
            true => "date_trunc('month', now(), 'UTC') - interval '1 day'",
            false => "now()",
        };
        let account = account_sql(tenant, user);
        let sql = match self.below(2) {
            0 => format!(
                "SELECT ai_limiter.record_ai_usage({account}, cost_usd => {cost} * 0.01, created_at => {at})"
            ),
            _ => format!(
                "INSERT INTO ai_limiter.ai_usage (user_id, tenant_id, cost_usd, created_at)
                 VALUES ({account}, {cost} * 0.01, {at})"
            ),
        };
        run(&mut self.client, &sql);
        let reservation = String::new();
        let state = State::Settled;
        self.entries.push(Entry { reservation, tenant, user, cost, requests, old, state });
    }

    /// Settles, releases or extends one of the holds, in whatever state it is.
    fn touch(&mut self) {
        let holds = self.entries.iter().enumerate().filter(|(_, e)| !e.reservation.is_empty());
        let holds: Vec<usize> = holds.map(|(i, _)| i).collect();
        let Some(&i) = holds.get(self.below(holds.len().max(1) as u64) as usize) else { return };
        let (reservation, state) = (self.entries[i].reservation.clone(), self.entries[i].state);
        let cost = self.below(150) as i64;
        match self.below(4) {
            0 | 1 => {
                let sql = format!(
                    "SELECT already_settled, round(cost_usd * 100)::int
                     FROM ai_limiter.settle_ai_usage('{reservation}', cost_usd => {cost} * 0.01)"
                );
                let before = self.entries[i].cost;
                let expected = match state {
                    State::Settled => format!("t|{before}"),
                    _ => format!("f|{cost}"),
                };
                assert_eq!(ask(&mut self.client, &sql), expected, "the first settle stands");
                if state != State::Settled {
                    (self.entries[i].cost, self.entries[i].state) = (cost, State::Settled);
                }
            }
            2 => {
                let sql = format!("SELECT ai_limiter.release_ai_usage('{reservation}')");
                let expected = if state == State::Open { "t" } else { "f" };
                assert_eq!(ask(&mut self.client, &sql), expected);
                if state == State::Open {
                    self.entries[i].state = State::Released;
                }
            }
            _ if state == State::Open => {
                let cost = cost.max(self.entries[i].cost);
                let raised = Entry { reservation: String::new(), cost, ..self.entries[i] };
                let fits = self.fits(&raised, Some(i));
                let sql = format!(
                    "SELECT allowed FROM ai_limiter.extend_ai_reservation('{reservation}',
                        cost_usd => {cost} * 0.01)"
                );
                assert_eq!(ask(&mut self.client, &sql), if fits { "t" } else { "f" }, "{sql}");
                if fits {
                    self.entries[i].cost = cost;
                }
            }
            _ => {}
        }
    }

    /// Every cap of an account says what the plain sums say.
    fn compare(&mut self) {
        let (tenant, user) = self.account();
        let expected: Vec<String> = CAPS
            .iter()
            .filter(|cap| cap.speaks_of(user))
            .map(|cap| {
                let (used, held) = cap.standing(&self.entries, tenant, user);
                format!("{}|{}|{}", cap.name, cap.shown(used), cap.shown(held))
            })
            .collect();
        let sql = format!(
            "SELECT limit_name, used, held FROM ai_limiter.get_ai_limits({})
             ORDER BY array_position('{{{}}}', limit_name)",
            account_sql(tenant, user),
            CAPS.map(|cap| cap.name).join(",")
        );
        assert_eq!(ask(&mut self.client, &sql), expected.join("\n"));
    }
}

fn account_sql(tenant: u32, user: Option<u32>) -> String {
    let user = user.map_or("NULL::uuid".to_owned(), |user| format!("'{}'", id(user)));
    format!("{user}, '{}'::uuid", id(tenant))
}

#[test]
fn verdicts_and_standings_are_what_a_plain_sum_says() {
    for seed in [7, 81_818_181] {
        let database = Cluster::shared().fresh_database();
        let mut client = database.connect();
        run(&mut client, "UPDATE ai_limiter.ai_limits SET enabled = false");
        run(&mut client, "SELECT ai_limiter.ensure_ai_partitions()");
        run(
            &mut client,
            "SELECT ai_limiter.record_ai_usage(cost_usd => 0, created_at => now() - interval '40 days')",
        );
        for Cap { name, per, period, metric, amount } in CAPS {
            let amount =
                if metric == "cost_usd" { format!("{amount} * 0.01") } else { amount.to_string() };
            let sql = format!(
                "INSERT INTO ai_limiter.ai_limits (name, per, period, metric, amount)
                 VALUES ('{name}', '{{{per}}}', '{period}', '{metric}', {amount})"
            );
            run(&mut client, &sql);
        }
        let mut model = Model { client, entries: vec![], random: seed, admitted: 0, denied: 0 };
        for _ in 0..350 {
            match model.below(10) {
                0..=3 => model.reserve(),
                4 => model.record(),
                5..=8 => model.touch(),
                _ => model.compare(),
            }
        }
        assert!(model.admitted > 40 && model.denied > 20, "{} {}", model.admitted, model.denied);
        assert_eq!(drift(&mut model.client), "", "seed {seed}");
    }
}
